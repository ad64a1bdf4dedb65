"""Makes run folders: a study from its plan to its last measured run. Reads none of them for conclusions (analysis,
report do).

plan, yaml_file: the study file. preflight, folders, origin: may it start here? execute, run_queue, single: runs in order.
executor, execute_choice, parallel, slurm_jobs, ray_workers: who does them. training, measuring, drift_rollouts,
evaluation, state_map: one run's parts. protection: the term that keeps a run close to the base elsewhere. publish: what
others get of a run or a study. context, describe, provenance: their common parts and records. Imported by api and the
command line.
"""
