"""Models: one set of base weights, on which learner, teacher and reference are adapters. Knows no method and no task.

open: from a name to a policy. weights, policy: adapters switched on shared weights. decoder, bridge, tree_attention:
the forward passes. chat: messages as ids. checks, exact, probe, rotary: is a pass right for this model? *_files,
fingerprint: files on disk. sharding: a base split over several processes. doctor: preflight. Imported by sampling and
everything above it.
"""
