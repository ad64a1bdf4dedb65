"""Preflight: problems of a model, or of a teacher for it, reported before any time is spent. Trains nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from stateshape.policy.open import Resolved, open_weights, policy_on, resolve, shares_base, token_difference
from stateshape.policy.policy import Policy
from stateshape.policy.settings import ModelSettings
from stateshape.policy.targets import fused_experts, linear_layers
from stateshape.policy.weights import SharedWeights

ADAM_BYTES = 16  # per adapted parameter in fp32: weight, gradient, two moments


def examine(model: str, teacher: str | None, *, settings: ModelSettings, rank: int) -> Iterator[str]:
    """Lines to print. Raises BadInput at the first thing that cannot work."""
    resolved = resolve(model)
    weights = open_weights(resolved.model, settings)
    policy = policy_on(weights, resolved, "model")
    if resolved.adapter is not None:
        yield about_adapter(weights, resolved)
    yield from about_model(model, weights, policy)
    yield from about_memory(weights, rank)
    if teacher is not None:
        yield from about_teacher(weights, policy, teacher, settings)
    yield "ok"


def about_adapter(weights: SharedWeights, resolved: Resolved) -> str:
    """The heading of the lines that follow."""
    (config,) = weights.adapters.values()
    targets = config.target_modules
    names = targets if isinstance(targets, str) else ", ".join(sorted(targets or ()))
    return f"adapter      {resolved.adapter}: LoRA r {config.r} on {names} of the base {resolved.model}"


def about_model(source: str, weights: SharedWeights, policy: Policy) -> Iterator[str]:
    tokenizer = weights.tokenizer
    if Path(source).is_dir():
        names = sorted(path.name for path in Path(source).iterdir() if path.is_file())
        yield f"files        {', '.join(names)}"
    num_parameters = sum(parameter.numel() for parameter in base_parameters(weights))
    yield f"model        {type(weights.model).__name__}, {num_parameters / 1e6:.1f} M parameters"
    yield f"device       {weights.device}, {str(weights.dtype).removeprefix('torch.')}"
    yield from about_pass(weights)
    pieces, rows = len(tokenizer), policy.head.num_tokens
    padded = f" ({rows - pieces} rows are padding)" if rows > pieces else ""
    yield f"vocabulary   {pieces:,} tokens, head of {rows:,} rows{padded}"
    if weights.row_limit is not None:
        yield (
            f"positions    rows of up to {weights.row_limit:,} tokens, of {policy.max_positions:,}: beyond, its rotary angles "
            "(longrope or dynamic) depend on the longest row of a pass"
        )
    ends = ", ".join(f"{token} {tokenizer.convert_ids_to_tokens(token)!r}" for token in policy.eos_ids)
    yield f"end ids      {ends or 'none (warning): rows end at stop texts or at their length, and supervised texts get none'}"
    same = (
        " (same as an end id: masks here come from lengths, so that is fine)" if policy.pad_id in policy.eos_ids else ""
    )
    yield f"pad id       {policy.pad_id}{same}"
    begins = tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id and tokenizer.bos_token_id is not None
    yield f"begin id     {'added to prompts: ' + repr(tokenizer.bos_token) if begins else 'none is added'}"
    template = "has one; chats are written by it, texts are read as they are" if tokenizer.chat_template else "none"
    yield f"template     {template}"


PASSES = {
    "decoder": "our decoder",
    "bridge": "transformers, with our attention (slower)",
    "general": "transformers' own, row by row (slowest: nothing that rows share is computed once)",
}
HABITS = {
    "batches": "rows side by side change each other, so that each is run alone",
    "pads_right": "padding changes its numbers, so that only rows of one length are scored together",
    "caches_batches": "its cache holds one row at a time",
    "caches": "its cache gives other numbers, so that every new token costs its whole row",
    "pads_left": "only prompts of one length are sampled together",
    "selects": "its cache can't be copied, so that a prompt is computed for each of its samples",
}


def about_pass(weights: SharedWeights) -> Iterator[str]:
    yield f"forward pass {PASSES[weights.passes.kind]}"
    if weights.passes.habits is not None:
        odd = [text for name, text in HABITS.items() if not getattr(weights.passes.habits, name)]
        yield f"             {'; '.join(odd) or 'rows are padded, and sampled in its own cache'}"
    head, parts = weights.head, []
    if head.bias_V is not None:
        parts.append("a bias")
    if head.scale != 1.0:
        parts.append(f"a scale of {head.scale:.4g}")
    if head.cap is not None:
        parts.append(f"a soft cap of {head.cap:g}")
    if parts:
        yield f"head         a matrix with {', '.join(parts)}"


def base_parameters(weights: SharedWeights) -> list[torch.nn.Parameter]:
    return [parameter for name, parameter in weights.model.named_parameters() if ".lora_" not in name]


def about_memory(weights: SharedWeights, rank: int) -> Iterator[str]:
    weights_gb = sum(parameter.numel() * parameter.element_size() for parameter in base_parameters(weights)) / 1e9
    layers = linear_layers(weights)
    chosen = [one.layer for one in layers if one.is_chosen]
    adapted = sum(rank * sum(layer.weight.shape) for layer in chosen)
    yield (
        f"memory       weights {weights_gb:.2f} GB; LoRA r {rank} on {len(chosen)} layers: {adapted / 1e6:.1f} M parameters, "
        f"{adapted * ADAM_BYTES / 1e9:.2f} GB with gradients and AdamW; activations come on top"
    )
    if left := sorted({one.last for one in layers if not one.is_chosen}):
        yield f"left alone   by lora.targets all-linear: {', '.join(left)} (name them to adapt them)"
    if experts := fused_experts(weights):
        yield f"experts      {experts / 1e6:.1f} M parameters in fused tensors, which no adapter reaches"


def about_teacher(weights: SharedWeights, learner: Policy, teacher: str, settings: ModelSettings) -> Iterator[str]:
    resolved = resolve(teacher)
    if shares_base(resolved.model, weights.source):
        policy_on(weights, resolved, "teacher")
        yield "teacher      shares the base: an adapter on the same weights"
        return
    other = policy_on(open_weights(resolved.model, settings), resolved, "teacher")
    if (words := token_difference(weights, other.weights)) is not None:
        yield (
            f"teacher      another base, loaded separately, with another tokenizer ({words}): its continuations and its "
            "distributions at the learner's own states can be used, nothing else"
        )
        return
    yield "teacher      another base, loaded separately; the vocabularies match"
    if set(other.eos_ids) != set(learner.eos_ids):
        yield (
            f"warning      end ids differ (learner {learner.eos_ids}, teacher {other.eos_ids}): the learner may not stop "
            "where the teacher does, and lengths can run away; max_new_tokens bounds them"
        )
