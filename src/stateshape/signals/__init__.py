"""The signal at a state: one class per kind of signal, one file each.

Runs frozen models and graders without gradients, and never alters what was sampled. Knows no loss. Imported by recipes.
"""
