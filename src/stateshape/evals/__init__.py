"""Evaluation of a policy: generation (sample and grade), multiple_choice (score options), evaluate (rows, summary and
files).

Definitions follow lm-evaluation-harness. Does not know what a run or a comparison is. Imported by study.
"""
