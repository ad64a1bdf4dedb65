"""Reads run folders: scores, contrasts, verdicts. Torch-free, from record files alone; makes no run.

reading: a study folder to scores. estimates, statistics: contrasts with intervals and tests. claims, verdicts: what is
claimed, and the verdicts. compare: the one table. power, resolution: what a size can show. predictors: what
forgetting follows. Imported by evals (statistics), api and the command line.
"""
