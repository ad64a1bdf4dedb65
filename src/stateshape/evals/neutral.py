"""Forgetting seen from no task: the cross-entropy of a fixed neutral text, before and after training.

The measure of PEFT's method comparison (github.com/huggingface/peft, method_comparison, "forgetting"): mean negative
log-likelihood per token of a text that training is not about, the tuned model's less the base's. Needs no labels, and has far
less noise than an accuracy. The text is neutral.txt, written for this package, so that no model has it by heart; the embedded
base, which knows no such English, reads documents of its own corpus. Knows no run.
"""

from __future__ import annotations

from importlib.resources import files
from itertools import islice

import numpy as np
import torch

from stateshape.core.tensors import token_logp
from stateshape.embedded.corpus import documents
from stateshape.policy.policy import Policy

EMBEDDED_SEED = 20_260_001  # of documents that the embedded base was not trained on
EMBEDDED_DOCUMENTS = 32
MAX_TOKENS = 512  # of a paragraph
BATCH_TOKENS = 4096


def neutral_texts(*, is_embedded: bool) -> list[str]:
    """Paragraphs of ordinary English, or documents of the embedded corpus."""
    if is_embedded:
        return [document.text for document in islice(documents(EMBEDDED_SEED), EMBEDDED_DOCUMENTS)]
    text = (files("stateshape.evals") / "neutral.txt").read_text(encoding="utf-8")
    return [paragraph.strip() for paragraph in text.split("\n\n") if paragraph.strip()]


@torch.no_grad()
def neutral_nats(policy: Policy, texts: list[str]) -> float:
    """Mean over tokens of -log p, natural; the first token of each text is given."""
    rows = [ids for text in texts if len(ids := policy.encode_prompt(text)[:MAX_TOKENS]) > 1]
    total, num = 0.0, 0
    for batch in batches(rows):
        at = [np.arange(len(row) - 1) for row in batch]
        targets_N = torch.tensor([token for row in batch for token in row[1:]], device=policy.device)
        hidden_ND = policy.hidden_at([row[:-1] for row in batch], at)
        total -= float(token_logp(hidden_ND, policy.head, targets_N).double().sum())
        num += len(targets_N)
    return total / num


def batches(rows: list[list[int]]) -> list[list[list[int]]]:
    """Rows of at most BATCH_TOKENS together, unless one alone has more."""
    found: list[list[list[int]]] = []
    for row in rows:
        if not found or sum(map(len, found[-1])) + len(row) > BATCH_TOKENS:
            found.append([])
        found[-1].append(row)
    return found
