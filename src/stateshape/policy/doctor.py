"""Preflight: problems of a model, or of a teacher for it, reported before any time is spent. Trains nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from stateshape.policy.agreement import ends_by_file, ends_disagree, template_variables, thinking_switches
from stateshape.policy.memory import (
    TrainingMemory,
    activations_per_thousand,
    cache_bytes,
    full_memory,
    gb,
    lora_memory,
    millions,
)
from stateshape.policy.open import open_weights, policy_on, token_difference
from stateshape.policy.policy import Policy
from stateshape.policy.settings import ModelSettings, check_quantize
from stateshape.policy.source import Resolved, resolve, shares_base
from stateshape.policy.targets import fused_experts, linear_layers
from stateshape.policy.weights import SharedWeights

Timed = Callable[[Policy], Iterator[str]]  # lines on how fast the model is here


def examine(
    model: str,
    teacher: str | None,
    *,
    settings: ModelSettings,
    rank: int,
    is_full: bool = False,
    timed: Timed | None = None,
) -> Iterator[str]:
    """Lines to print. Raises BadInput at the first thing that cannot work. is_full: all parameters are to be trained."""
    check_quantize(settings, is_full=is_full)
    resolved = resolve(model)
    weights = open_weights(resolved.model, settings)
    policy = policy_on(weights, resolved, "model")
    if resolved.adapter is not None:
        yield about_adapter(weights, resolved)
    yield from about_model(model, weights, policy)
    yield from about_memory(weights, rank, is_full=is_full)
    if timed is not None:
        yield from timed(policy)
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
    yield f"model        {type(weights.model).__name__}, {millions(num_parameters)} parameters"
    yield f"device       {weights.device}, {str(weights.dtype).removeprefix('torch.')}"
    yield from about_pass(weights)
    yield about_vocabulary(weights, policy)
    if weights.row_limit is not None:
        yield (
            f"positions    rows of up to {weights.row_limit:,} tokens, of {policy.max_positions:,}: beyond, its rotary angles "
            "(longrope or dynamic) depend on the longest row of a pass"
        )
    yield from about_ends(policy)
    same = (
        " (same as an end id: masks here come from lengths, so that is fine)" if policy.pad_id in policy.eos_ids else ""
    )
    yield f"pad id       {policy.pad_id}{same}"
    begins = tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id and tokenizer.bos_token_id is not None
    yield f"begin id     {'added to prompts: ' + repr(tokenizer.bos_token) if begins else 'none is added'}"
    yield from about_template(tokenizer)


def about_vocabulary(weights: SharedWeights, policy: Policy) -> str:
    pieces, rows = len(weights.tokenizer), policy.head.num_tokens
    embedding = weights.model.get_input_embeddings().weight
    padded = f" ({rows - pieces} rows are padding)" if rows > pieces else ""
    is_tied = embedding is weights.model.get_output_embeddings().weight
    rest = "tied to the embedding" if is_tied else f"embedding of {len(embedding):,} rows"
    return f"vocabulary   {pieces:,} tokens, head of {rows:,} rows{padded}, {rest}"


def about_ends(policy: Policy) -> Iterator[str]:
    yield (
        f"end ids      {tokens(policy, policy.eos_ids)}"
        if policy.eos_ids
        else "end ids      none (warning): rows end at stop texts or at their length, and supervised texts get none"
    )
    by_file = ends_by_file(policy)
    if ends_disagree(by_file):
        said = "; ".join(f"{who}: {tokens(policy, ids)}" for who, ids in by_file.items())
        yield f"             they disagree: {said}"
        yield "             plain texts end at those of tokenizer and generation config, chats at their template's too"
    elif len(by_file) > 1:
        yield f"             {', '.join(by_file)} agree"


def tokens(policy: Policy, ids: tuple[int, ...]) -> str:
    return ", ".join(f"{token} {policy.tokenizer.convert_ids_to_tokens(token)!r}" for token in ids)


def about_template(tokenizer: Any) -> Iterator[str]:
    if not tokenizer.chat_template:
        yield "template     none: chats need --chat-template FILE, plain prompts nothing"
        return
    yield "template     has one; chats are written by it, texts are read as they are"
    variables = template_variables(tokenizer)
    if variables is None:
        yield "             it can't be parsed (warning): chats will be refused"
        return
    switches = thinking_switches(variables)
    others = [name for name in variables if name not in switches]
    yield f"thinking     {'switched by ' + ', '.join(switches) if switches else 'no switch in the template'}"
    if others:
        yield f"             the template also reads {', '.join(others)}"


PASSES = {
    "decoder": "our decoder: what rows share is computed once",
    "bridge": "transformers, with our attention (slower): what rows share is computed once",
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


def about_memory(weights: SharedWeights, rank: int, *, is_full: bool = False) -> Iterator[str]:
    layers = linear_layers(weights)
    num_chosen = sum(one.is_chosen for one in layers)
    memory = lora_memory(weights, rank)
    yield f"memory       weights {gb(memory.base)}"
    yield (
        f"  LoRA       r {rank} on {num_chosen} layers: {millions(memory.num_trained)} parameters, "
        f"{gb(memory.total - memory.base)} ({shares(memory)})"
    )
    if is_full:
        yield about_full(weights)
    yield f"  training   {gb(activations_per_thousand(weights))} of activations per 1,000 tokens of a chunk, about"
    per_token = cache_bytes(weights)
    told = (
        "in its own cache, whose size is not known here"
        if per_token is None
        else f"{per_token:,} bytes of cache per token of a row"
    )
    yield f"  sampling   {told}"
    if left := sorted({one.last for one in layers if not one.is_chosen}):
        yield f"left alone   by lora.targets all-linear: {', '.join(left)} (name them to adapt them)"
    if experts := fused_experts(weights):
        yield f"experts      {millions(experts)} parameters in fused tensors, which no adapter reaches"


def shares(memory: TrainingMemory) -> str:
    return f"weights {gb(memory.own + memory.cast)}, gradients {gb(memory.gradients)}, AdamW {gb(memory.moments)}"


def about_full(weights: SharedWeights) -> str:
    memory = full_memory(weights)
    return (
        f"  full       all {millions(memory.num_trained)} parameters of a copy, in fp32 beside the base: "
        f"{gb(memory.total - memory.base)} ({shares(memory)}), {gb(memory.total)} with the base; a checkpoint holds "
        f"{gb(memory.own + memory.moments)} and is written every step unless checkpoint_every says otherwise"
    )


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
