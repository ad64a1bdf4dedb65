"""Forgetting seen from no task: the cross-entropy of a fixed neutral text, before and after training.

The measure of PEFT's method comparison (github.com/huggingface/peft, method_comparison, "forgetting"): mean negative
log-likelihood per token of a text that training is not about, the tuned model's less the base's. Needs no labels, and has far
less noise than an accuracy. The text is neutral.txt, written for this package, so that no model has it by heart; the embedded
base, which knows no such English, reads documents of its own corpus. Knows no run.
"""

from __future__ import annotations

from importlib.resources import files
from itertools import islice

from stateshape.embedded.corpus import documents
from stateshape.evals.scoring import score_rows, scored_row
from stateshape.policy.policy import Policy

EMBEDDED_SEED = 20_260_001  # of documents that the embedded base was not trained on
EMBEDDED_DOCUMENTS = 32
MAX_TOKENS = 512  # of a paragraph


def neutral_texts(*, is_embedded: bool) -> list[str]:
    """Paragraphs of ordinary English, or documents of the embedded corpus."""
    if is_embedded:
        return [document.text for document in islice(documents(EMBEDDED_SEED), EMBEDDED_DOCUMENTS)]
    text = (files("stateshape.evals") / "neutral.txt").read_text(encoding="utf-8")
    return [paragraph.strip() for paragraph in text.split("\n\n") if paragraph.strip()]


def neutral_nats(policy: Policy, texts: list[str]) -> float:
    """Mean over tokens of -log p, natural; the first token of each text is given, and long texts are cut."""
    longest = min(MAX_TOKENS, policy.longest_row or MAX_TOKENS)
    ids = [policy.encode_prompt(text)[:longest] for text in texts]
    rows = [scored_row(row[:1], row[1:], max_positions=policy.max_positions) for row in ids if len(row) > 1]
    return -sum(one.logp for one in score_rows(policy, rows)) / sum(len(row.targets) for row in rows)
