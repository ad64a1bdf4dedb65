"""Evaluation of a policy: generation (sample and grade), multiple_choice (score options), evaluate (rows, summary and
files), scoring (log-probs of ids), harness and harness_lm (tasks of lm-evaluation-harness; both import it).

Definitions follow lm-evaluation-harness. Does not know what a run or a comparison is. Imported by study.
"""
