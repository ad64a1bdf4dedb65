"""Whether a run learned anything, from the records of its steps: sentences with the reason and its share. Torch-free.

A run without a gradient looks like any other: it has steps, a time and an adapter. Knows kinds of signals, and no
method by name; does not know whether what was learned is any good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stateshape.core.method import SignalKind
from stateshape.core.records import StepRecord

Kinds = Mapping[str, SignalKind]  # by term; a method alone is one term named ""
EARLY_STEPS = 3  # after so many without a gradient it is worth a word while the run can still be stopped
MOSTLY = 0.5  # share of steps without a gradient, or of rewards missing, that is worth a word at the end
ALL = 0.995  # share of samples cut off that is as good as all
EQUAL_NATS = 1e-6  # a divergence below this is rounding
NOT_BACK = "the learner's tokenizer does not give the text back"
REWARDED: tuple[SignalKind, ...] = ("reward", "reward filter", "preference")


def warnings_of(steps: Sequence[StepRecord], kinds: Kinds) -> list[str]:
    """What is wrong with a finished run, if anything: one sentence each."""
    nothing = learned_nothing(steps, kinds)
    if not steps or nothing is not None:
        return [nothing] if nothing is not None else []
    warnings = []
    idle = [step for step in steps if is_idle(step, kinds)]
    if len(idle) >= MOSTLY * len(steps):
        warnings.append(
            f"learned little: {len(idle)} of {len(steps)} steps had nothing to learn from; {reasons(idle, kinds)}"
        )
    if len(kinds) > 1:
        warnings += [
            f"term {name} taught nothing in {len(steps)} steps: {reason(steps, name, kind)}"
            for name, kind in kinds.items()
            if all(is_silent(step, name) for step in steps)
        ]
    for name, kind in kinds.items():
        missing = mean_stat(steps, name, "share_rewards_missing") or 0.0
        cut = mean_stat(steps, name, "share_truncated") or 0.0
        dropped, aligned = mean_stat(steps, name, "share_dropped") or 0.0, mean_stat(steps, name, "share_aligned")
        if dropped >= MOSTLY:
            warnings.append(f"{dropped:.0%} of the teacher's continuations were dropped: {NOT_BACK}")
        if aligned is not None and aligned <= 1 - MOSTLY:
            warnings.append(
                f"only {aligned:.0%} of the tokens are one token for the teacher too; the others have no signal"
            )
        if missing >= MOSTLY:
            warnings.append(f"{missing:.0%} of the rewards were missing (None or NaN)")
        if kind in REWARDED and cut >= ALL:
            warnings.append(f"{cut:.0%} of the samples were cut off at the token limit; raise rollout_tokens")
    return warnings


def learned_nothing(steps: Sequence[StepRecord], kinds: Kinds) -> str | None:
    """The sentence for steps none of which had anything to learn from; None where one had."""
    if not steps:
        return None
    if all(is_idle(step, kinds) for step in steps):
        return f"learned nothing: none of {len(steps)} steps had anything to learn from; {reasons(steps, kinds)}"
    if set(kinds.values()) == {"teacher distribution"} and all(abs(step.loss or 0.0) < EQUAL_NATS for step in steps):
        return f"learned nothing: in {len(steps)} steps the teacher's distributions were the same as the learner's"
    return None


def reasons(steps: Sequence[StepRecord], kinds: Kinds) -> str:
    """Each term's, in one line."""
    return "; ".join(
        f"{name}: {reason(steps, name, kind)}" if name else reason(steps, name, kind) for name, kind in kinds.items()
    )


def reason(steps: Sequence[StepRecord], name: str, kind: SignalKind) -> str:
    """Why a term gave these steps no gradient, with its shares."""
    missing = mean_stat(steps, name, "share_rewards_missing") or 0.0
    cut = mean_stat(steps, name, "share_truncated") or 0.0
    parts = []
    if missing == 1:
        parts.append("all rewards were missing (None or NaN)")
    elif kind == "reward filter":
        parts.append("no sample's reward reached the threshold")
    elif kind == "preference":
        parts.append("no prompt had two samples with different rewards")
    elif mean_stat(steps, name, "share_dropped") == 1:
        parts.append(f"all of the teacher's continuations were dropped: {NOT_BACK}")
    elif mean_stat(steps, name, "share_aligned") == 0:
        parts.append("no token of the learner's is one token for the teacher too")
    elif not any(supervised(step, name) for step in steps):
        parts.append("no token was supervised")
    elif (flat := mean_stat(steps, name, "share_zero_variance_groups")) is not None:
        rewards = mean_stat(steps, name, "reward")
        mean = "" if rewards is None else f" (mean reward {rewards:.3g})"
        parts.append(f"rewards were equal within {flat:.0%} of the groups{mean}")
    else:
        parts.append("the loss had no gradient at the supervised tokens")
    if 0 < missing < 1:
        parts.append(f"{missing:.0%} of the rewards were missing")
    if cut and kind in REWARDED:
        parts.append(f"{cut:.0%} of the samples were cut off at the token limit")
    return ", ".join(parts)


def is_idle(step: StepRecord, kinds: Kinds) -> bool:
    """No gradient; or no more than rounding of a KL to a reference that the learner has not left."""
    return not step.grad_norm or all(is_silent(step, name) for name in kinds)


def is_silent(step: StepRecord, name: str) -> bool:
    """Whether a term had no loss, or no credit, in this step."""
    loss = stat(step, name, "loss") if name else step.loss
    return loss is None or stat(step, name, "share_zero_variance_groups") == 1


def supervised(step: StepRecord, name: str) -> float:
    return (stat(step, name, "num_supervised") or 0.0) if name else step.num_supervised


def stat(step: StepRecord, name: str, key: str) -> float | None:
    return step.stats.get(f"{name}/{key}" if name else key)


def mean_stat(steps: Sequence[StepRecord], name: str, key: str) -> float | None:
    known = [value for step in steps if (value := stat(step, name, key)) is not None]
    return sum(known) / len(known) if known else None
