"""Reads run folders: scores, contrasts, verdicts. Torch-free, from record files alone; makes no run.

reading, scores: a study folder to scores. estimates, statistics, drift_excess: contrasts with intervals and tests. dose: runs
at equal distance. line: a run's way as one number. effects, enough, claims, planned_claims, planned_effects, rule, looks,
verdicts: what is claimed, and what follows. compare: the one table. power, resolution: what a size can show. predictors,
probe_values: what forgetting follows. dose_report, sampled. Imported by evals (statistics), api and the command line.
"""
