"""How the update follows: cross_entropy, divergence, policy_gradient, preference. Pure maths that returns sums.

Never imports a policy or transformers. Imported by recipes.
"""
