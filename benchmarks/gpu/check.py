"""Does it work here? Half a minute on a GPU, on the embedded base and on a real model where one is at hand.

    packages    what the project needs is here, in a version that it was made for
    passes      our forward pass agrees with the model's own code, in bf16 and fp32 (policy/checks.py refuses it if not)
    doctor      what `stateshape doctor` says of the model
    equal       teacher == learner: KL 0, and no gradient beyond rounding
    recorded    a recorded step (a CUDA graph; on a CPU its stand-in) gives the tokens of the same step run plainly
    ratio       log-probs of the sampler are those of the trainer's pass: on-policy ratio 1 within the dtype's rounding
    attention   which kernels run a masked block, and what a new shape costs
    resumed     a run that is killed and started again ends as one that was not (check_resume.py)

A row has `passed`; one that did not fails the stage once all are written. On a CPU the weights stay in fp32.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial

import torch
import torch.nn.functional as F
from packaging.requirements import Requirement
from torch import Tensor

from benchmarks.common import DEVICE, LORA, ROOT, Row, make_learner, model_label, now, train_task
from benchmarks.gpu.causes import floors, profiled, rates
from benchmarks.gpu.check_resume import Resumed
from benchmarks.gpu.record import SEED, Job
from benchmarks.gpu.standin import Again
from benchmarks.limits import shape_of
from stateshape.core.method import Draw
from stateshape.core.states import Origin, States, pack
from stateshape.losses.divergence import Divergence
from stateshape.policy.doctor import about_memory, about_model
from stateshape.policy.open import open_policy
from stateshape.policy.policy import Policy
from stateshape.policy.probe import exact, make_probe, rounding, run_ours, run_own
from stateshape.policy.settings import ModelSettings
from stateshape.policy.tree_attention import by_query_head
from stateshape.sampling import decode, local
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import Completion, SamplingSettings
from stateshape.signals.distribution import TeacherDistribution
from stateshape.signals.reference import score
from stateshape.states.sampled import rollout
from stateshape.study.provenance import package_version

DTYPES = ("bfloat16", "float32")
# nats. Two passes over differently cut batches round differently: KL grows with the square of the dtype's rounding
KL_MOST = {"bfloat16": 1e-2, "float32": 1e-6}
RATIO_MOST = {"bfloat16": 1e-1, "float32": 1e-3}  # mean |log ratio| per token, in nats; 3e-2 was seen on a CPU in bf16
LOGP_MOST = {"bfloat16": 0.25, "float32": 1e-2}  # of one token, before the first that differs
Check = Callable[[Job, Policy, str], Row]


def run(job: Job) -> None:
    job.record.add(row := packages())
    failed = [] if row["passed"] else ["packages"]
    resumed = Resumed(job)  # three processes beside this one: most of their time is spent on starting
    try:
        for model in job.models:
            for dtype in DTYPES:
                failed += [name for name, passed in checked(job, model, dtype) if not passed]
        row = resumed.row()
        job.record.add(row)
    finally:
        resumed.stop()
    failed += [] if row["passed"] else ["resumed"]
    if failed:
        raise RuntimeError(f"not passed: {', '.join(failed)}")


def checked(job: Job, model: str, dtype: str) -> Iterator[tuple[str, bool]]:
    """Writes a row for each check of one model in one dtype."""
    began = now()
    settings = ModelSettings(device=str(DEVICE), dtype=dtype)  # type: ignore[arg-type]
    try:
        policy = open_policy(model, settings)
        row = passes(policy)
    except Exception as error:
        job.record.add(named("passes", model, dtype, began) | {"passed": False, "error": str(error)[:600]})
        yield f"passes of {model_label(model)} in {dtype}", False
        return
    job.record.add(named("passes", model, dtype, began) | row | floor_row(job, policy, now() - began))
    checks: dict[str, Check] = {"equal": equal, "recorded": recorded, "ratio": ratio}
    if dtype == DTYPES[0]:
        checks["attention"] = attention
        job.record.add(named("doctor", model, dtype, now()) | {"passed": True, "says": says(policy)})
    for name, check in checks.items():
        began = now()
        try:
            row = check(job, policy, dtype)
        except Exception as error:
            row = {"passed": False, "error": f"{type(error).__name__}: {str(error)[:600]}"}
        job.record.add(named(name, model, dtype, began) | row | floor_row(job, policy, now() - began))
        yield f"{name} of {model_label(model)} in {dtype}", bool(row["passed"])


def packages() -> Row:
    texts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    found = {one.name: package_version(one.name) for one in map(Requirement, texts)}
    unmet = [text for text in texts if not is_met(Requirement(text), found[Requirement(text).name])]
    return {"check": "packages", "passed": not unmet, "unmet": unmet, "found": found}


def is_met(requirement: Requirement, version: str | None) -> bool:
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def named(check: str, model: str, dtype: str, began: float) -> Row:
    return {"check": check, "model": model_label(model), "dtype": dtype, "seconds": now() - began}


def floor_row(job: Job, policy: Policy, seconds: float) -> Row:
    """What is computed here takes next to nothing: a check's time is loading, starting kernels and recording."""
    meter, shape = policy.weights.meter, shape_of(policy)
    tokens, meter.num_tokens = meter.num_tokens, 0
    flops = 2.0 * (shape.body + shape.head) * tokens
    found = rates(job.scale.copy_bytes, job.scale.matmul_width)
    return floors(found, num_bytes=(shape.body + shape.head) * shape.bytes_each, flops=flops) | {"seconds": seconds}


def says(policy: Policy) -> list[str]:
    """As the command, of the model at hand."""
    weights = policy.weights
    return [*about_model(weights.source, weights, policy), *about_memory(weights, LORA.rank)]


@torch.no_grad()
def passes(policy: Policy) -> Row:
    """That the policy was opened says that the passes agree; by how much they round is worth knowing."""
    weights = policy.weights
    probe = make_probe(weights)
    with exact(weights):
        truth = run_own(weights, probe)
    own = rounding(run_own(weights, probe), truth)
    ours = rounding(run_ours(weights, probe, weights.forward_pass()), truth)
    return {
        "passed": True,
        "is_own_decoder": weights.is_plain(None),
        "rounding_of_its_own_code": own,
        "rounding_of_our_pass": ours,
    }


def learner_of(policy: Policy) -> Policy:
    """An adapter that says something else than the base: random B."""
    if not policy.weights.has_adapter("learner"):
        learner = make_learner(policy, seed=SEED)
        generator = torch.Generator().manual_seed(SEED)
        state = policy.weights.adapter_state("learner")
        moved = {
            key: 0.01 * torch.randn(value.shape, generator=generator).to(value) if "lora_B" in key else value
            for key, value in state.items()
        }
        policy.weights.set_adapter_state("learner", moved)
        return learner
    return Policy(policy.weights, "learner", is_trainable=True)


def prompts_of(job: Job, policy: Policy) -> list[list[int]]:
    """GSM8K's where there is data: its lengths are mixed. Else, and for the embedded base, arithmetic."""
    texts = texts_of(policy.weights.source if job.data is not None else "embedded", job.scale.check_prompts)
    return [policy.encode_prompt(text) for text in texts]


@cache
def texts_of(model: str, num: int) -> list[str]:
    return [item.prompt for item in train_task(model).train[:num]]


def written(job: Job, policy: Policy, learner: Policy) -> tuple[list[list[int]], list[Completion]]:
    prompts = prompts_of(job, policy)
    settings = SamplingSettings(max_new_tokens=job.scale.check_tokens, num_samples=2)
    return prompts, LocalSampler().sample(learner, prompts, settings, seed=SEED + 1)


def states_of(prompts: list[list[int]], completions: list[Completion]) -> States:
    copies = len(completions) // len(prompts)
    rows = [rollout(str(k), prompts[k // copies], one, k // copies) for k, one in enumerate(completions)]
    return pack(rows, device=DEVICE)


def equal(job: Job, policy: Policy, dtype: str) -> Row:
    learner = learner_of(policy)
    states = states_of(*written(job, policy, learner))
    signal = TeacherDistribution(teacher=Policy(policy.weights, "learner"), positions="all").read(
        learner, states, Draw(item_ids=("0",), step=0, seed=SEED)
    )
    value = Divergence(direction="forward").total(learner, signal)
    count = int(signal.supervise_BT.sum())
    (value.total / count).backward()
    norm = float(torch.nn.utils.get_total_norm([p.grad for p in learner.parameters() if p.grad is not None]))
    for parameter in learner.parameters():
        parameter.grad = None
    kl = float(value.total.detach()) / count
    return {"passed": abs(kl) < KL_MOST[dtype], "kl_nats": kl, "grad_norm": norm, "tokens": count}


def recorded(job: Job, policy: Policy, dtype: str) -> Row:
    """The same shapes twice: once recorded, once run plainly each time. Then plain steps at exact shapes, to compare with."""
    learner = learner_of(policy)
    prompts = prompts_of(job, policy)
    settings = SamplingSettings(max_new_tokens=job.scale.check_tokens, num_samples=2)
    sample = partial(LocalSampler.sample, policy=learner, prompts=prompts, settings=settings, seed=SEED + 2)
    with steps_as("recorded"):
        began = now()
        found = sample(LocalSampler())
        seconds = now() - began
    with steps_as("again"):
        again = sample(LocalSampler())
    with steps_as("plain"):
        plain = sample(LocalSampler())
    same, worst = compared(found, again)
    return {
        "passed": same == len(found) or (worst < LOGP_MOST[dtype] and same >= 0.9 * len(found)),
        "rows": len(found),
        "rows_equal": same,
        "largest_logp_gap_nats": worst,
        "rows_equal_to_exact_shapes": compared(found, plain)[0],
        "recorded_seconds": seconds,
        "is_cuda_graph": decode.is_recorded(policy.device),
    }


@contextmanager
def steps_as(kind: str) -> Iterator[None]:
    """How the sampler's steps are run: recorded (on a CPU by the stand-in), again (as recorded, but each run), plain."""
    before = decode.is_recorded, decode.Recorder
    is_recorded = kind != "plain"
    decode.is_recorded = local.is_recorded = lambda device: is_recorded
    if kind == "again" or (is_recorded and DEVICE.type == "cpu"):
        decode.Recorder = Again  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        decode.is_recorded = local.is_recorded = before[0]
        decode.Recorder = before[1]  # type: ignore[misc]


def compared(one: list[Completion], other: list[Completion]) -> tuple[int, float]:
    """Rows with the same tokens; and the largest gap of a token's log-prob up to the first that differs."""
    same, worst = 0, 0.0
    for a, b in zip(one, other, strict=True):
        same += a.ids == b.ids
        for left, right, logp, other_logp in zip(a.ids, b.ids, a.logps, b.logps):
            if left != right:
                break
            worst = max(worst, abs(logp - other_logp))
    return same, worst


def ratio(job: Job, policy: Policy, dtype: str) -> Row:
    learner = learner_of(policy)
    states = states_of(*written(job, policy, learner))
    supervise_BT = states.written_by(Origin.LEARNER)
    gap_N = score(learner, states, supervise_BT).logp_N - states.behaviour_logp_BT[supervise_BT]
    mean, most = float(gap_N.abs().mean()), float(gap_N.abs().max())
    return {
        "passed": mean < RATIO_MOST[dtype],
        "mean_ratio": float(gap_N.exp().mean()),
        "mean_abs_log_ratio_nats": mean,
        "largest_abs_log_ratio_nats": most,
        "tokens": len(gap_N),
    }


@torch.no_grad()
def attention(job: Job, policy: Policy, dtype: str) -> Row:
    """A masked block, with grouped heads and with repeated ones, which is what is used on a GPU (policy/tree_attention.py).

    At shapes that were not seen before: training meets new ones in every step.
    """
    row: Row = {"passed": True}
    for name, is_grouped in (("repeated", False), ("grouped", True)):
        seconds, kernels = masked_block(job, policy, is_grouped=is_grouped)
        row[f"{name}_heads"] = {
            "first_call_s": seconds[0],
            "new_shape_s": seconds[1:3],
            "same_shape_s": seconds[3],
            "kernels": kernels,
        }
    return row


def masked_block(job: Job, policy: Policy, *, is_grouped: bool) -> tuple[list[float], list[str]]:
    """Seconds of four calls, of which the last two have one shape; and the most expensive kernels."""
    config, width = policy.weights.config, policy.weights.cache_shapes.keys[2]
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    size, seconds = 4 if job.is_toy else 64, []
    for extra in (0, 1, 2, 2):
        queries, keys = size + extra, 2 * size + extra
        query, key = (
            torch.randn(size, n, length, width, device=DEVICE, dtype=policy.weights.dtype)
            for n, length in ((heads, queries), (groups, keys))
        )
        mask = torch.ones(size, 1, queries, keys, dtype=torch.bool, device=DEVICE).tril(keys - queries)
        attend = partial(attend_block, query, key, mask, is_grouped=is_grouped)
        began = now()
        attend()
        seconds.append(now() - began)
    return seconds, [one.operator[:160] for one in profiled(attend)[:4]]


def attend_block(query: Tensor, key: Tensor, mask: Tensor, *, is_grouped: bool) -> Tensor:
    given = key if is_grouped else by_query_head(key, query.shape[1])
    return F.scaled_dot_product_attention(query, given, given, attn_mask=mask, enable_gqa=is_grouped)
