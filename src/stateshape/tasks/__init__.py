"""Tasks: prompts, answers and pure grading. gsm8k, truthfulqa, mmlu, the embedded world, rows of your own (own_*,
sources, reading), and tasks of lm-evaluation-harness (harness, without importing it; harness_*, with it).

load: from a name to a task. items, task: what a task is. graders, numeric: how answers are compared. equations, steps:
arithmetic, for first errors. Knows no model or tokenizer. Imported by recipes, evals, study and everything above them.
"""
