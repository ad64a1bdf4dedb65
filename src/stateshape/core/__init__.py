"""Vocabulary that everything else shares: states, signals, methods, records, file names. Imports no other room.

states, chat, signals, method: the three choices of a method, and which fit together. tensors, prefix_tree, meter: maths and
counting. records, study_records, layout: what runs and studies write, and under which names. files, decoding, wording,
limits: reading and writing, and BadInput. locks, manifest, sealed, spreadsheet: folders that cannot be corrupted in
silence. watch, progress: observers. ranks, dealt, in_step: several processes that train one run.
"""
