"""Tasks: prompts, answers and pure grading. gsm8k, truthfulqa, mmlu, the embedded world, and your own JSONL (own_*,
jsonl).

load: from a name to a task. items, task: what a task is. equations, steps: arithmetic, for first errors. Knows no model
or tokenizer. Imported by recipes, evals, study and everything above them.
"""
