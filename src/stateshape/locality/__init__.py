"""Where supervision is applied, measured during training: reachability, KL both ways, recoverability, update geometry.

watch: the observer of a run. probe: all numbers at one step. compared: the base's states, that each probe is compared
with. told_apart, reachability, divergence, geometry, recoverability: one measure each. supervision, counts: the
supervision map. Imported by study.
"""
