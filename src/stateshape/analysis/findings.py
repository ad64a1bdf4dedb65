"""What each trained run gained, lost and drifted, and how the requested pairs of runs differ: for any study. Torch-free.

Every run is compared with the base, and every pair of `contrasts` with each other, on the target and on the mean of the
retention tasks; every run's drift with base against base. All of it is decided by the rule of the verdicts (rule.py), with
Holm's correction over all comparisons. In words: what was compared, what changed, what cannot be told. Loaded checkpoints are
audit.py's.
"""

from __future__ import annotations

from collections.abc import Sequence

from stateshape.analysis.claims import DRIFT_LABEL, DRIFT_NAME, above_base
from stateshape.analysis.drift_excess import drift_excess
from stateshape.analysis.effects import Claim, Effect, equivalence_margin, item_effect, secondary_study
from stateshape.analysis.power import ALPHA, MIN_SEEDS
from stateshape.analysis.rule import State
from stateshape.analysis.sampled import of_samples
from stateshape.analysis.scores import StudyScores
from stateshape.analysis.verdicts import adjusted_over, evidence_of
from stateshape.core.measure_words import score_name
from stateshape.core.study_records import BASE, Estimate, Evidence, Finding, FindingOutcome, Findings, FindingSubject

FAMILY = "findings"
MOST_NAMED = 4  # comparisons of a subject in a sentence; the table has all
OF_SCORES: dict[State, FindingOutcome] = {
    "holds": "gained", "fails": "lost", "equivalent": "no difference", "open": "cannot tell",
}  # fmt: skip
OF_DRIFT: dict[State, FindingOutcome] = {
    "holds": "drifted", "fails": "cannot tell", "equivalent": "cannot tell", "open": "cannot tell",
}  # fmt: skip


def findings_of(study: StudyScores, *, level: float = ALPHA) -> Findings:
    """level: of all comparisons together; see looks.py. A study without trained runs has none."""
    asked = _asked(study)
    family = [Claim(claim_id=effect.key, text="", effects=[effect], family=FAMILY) for _, _, _, effect in asked]
    adjusted = adjusted_over(family, level)
    found = []
    for run, versus, subject, effect in asked:
        state = adjusted.state(effect)
        outcomes = OF_DRIFT if subject == "drift" else OF_SCORES
        outcome = "not measured" if effect.estimate.value is None else outcomes[state]
        evidence = evidence_of(effect, adjusted, state)
        found.append(Finding(run=run, versus=versus, subject=subject, outcome=outcome, evidence=evidence))
    return Findings(headline=_headline(study, found), findings=found)


def _asked(study: StudyScores) -> list[tuple[str, str, FindingSubject, Effect]]:
    """Every run against the base, then the requested pairs: (run, the other, what of them, the effect)."""
    trained = [run.name for run in study.plan.runs if run.method is not None]
    pairs = [(run, BASE) for run in trained]
    pairs += [(a, b) for a, b in study.plan.contrasts if BASE not in (a, b)]
    kept = [task.name for task in study.plan.retention]
    subjects: dict[FindingSubject, list[str]] = {"target": [study.plan.target.name], "retention": kept}
    asked: list[tuple[str, str, FindingSubject, Effect]] = []
    for run, versus in pairs:
        for subject, tasks in subjects.items():
            if tasks:
                label = f"{subject}, {study.label(run)} minus {study.label(versus)}"
                margin = equivalence_margin(study, tasks)
                effect = item_effect(study, label, {run: 1.0, versus: -1.0}, tasks, margin=margin, with_bootstrap=False)
                asked.append((run, versus, subject, effect))
        if versus == BASE:
            excess = drift_excess(study.drift.get(run, {}), DRIFT_NAME)
            asked.append((run, versus, "drift", above_base(f"drift ({DRIFT_LABEL}) of {study.label(run)}", excess)))
    return asked


# In words


def _headline(study: StudyScores, found: Sequence[Finding]) -> list[str]:
    """What was compared; what changed; what cannot be told. Empty without findings."""
    if not found:
        return []
    return [_compared(study), *_changed(study, found), *_sampled(study), *_open(study, found)]


def _compared(study: StudyScores) -> str:
    plan = study.plan
    num_runs = sum(run.method is not None for run in plan.runs)
    seeds = f"{len(plan.seeds)} training seed{'' if len(plan.seeds) == 1 else 's'}"
    runs = f"1 run with {seeds} was" if num_runs == 1 else f"{num_runs} runs with {seeds} each were"
    labels = [task.label for task in plan.retention]
    named = " and ".join([", ".join(labels[:-1]), labels[-1]] if len(labels) > 1 else labels)
    kept = f", and on {named} (retention)" if labels else ""
    return f"{runs} compared with the base on {plan.target.label} (target){kept}."


def _changed(study: StudyScores, found: Sequence[Finding]) -> list[str]:
    if (num_seeds := len(study.plan.seeds)) < MIN_SEEDS:
        few = f"{num_seeds} training seed{'' if num_seeds == 1 else 's'}"
        return [f"With {few} no change can be put down to a method: that takes at least {MIN_SEEDS}."]
    versus_base = [one for one in found if one.versus == BASE]
    told = []
    for subject, outcome, words in (
        ("target", "gained", "Gained on the target"),
        ("target", "lost", "Lost on the target"),
        ("retention", "gained", "Gained on retention"),
        ("retention", "lost", "Forgot"),
    ):
        chosen = [one for one in versus_base if one.subject == subject and one.outcome == outcome]
        if chosen:
            told.append(f"{words}: {_listed([f'{study.label(one.run)} {_value(one.evidence)}' for one in chosen])}.")
    drifted = [study.label(one.run) for one in versus_base if one.outcome == "drifted"]
    if drifted:
        runs = "every run" if len(drifted) == len({one.run for one in versus_base}) > 1 else _listed(drifted)
        told.append(f"Drifted from the base: {runs}.")
    told += [_pair_sentence(study, one) for one in found if one.versus != BASE and one.outcome in ("gained", "lost")]
    return told or ["No change was found."]


def _sampled(study: StudyScores) -> list[str]:
    """The target in sampled answers, read strictly, where there are some: greedy answers hide part of what is learned."""
    target = study.plan.target.name
    held = of_samples(study.secondary.get(BASE, {}).get(target, {}))
    if not held or len(study.plan.seeds) < MIN_SEEDS:
        return []
    scores, told = secondary_study(study, held[0]), []
    for run in (run for run in study.plan.runs if run.method is not None):
        effect = item_effect(scores, "", {run.name: 1.0, BASE: -1.0}, [target], with_bootstrap=False)
        if effect.estimate.value is not None:
            told.append(f"{run.label} {_size(effect.estimate)}")
    if not told:
        return []
    return [f"In sampled answers to the target ({score_name(held[0])}), minus base, not corrected: {_listed(told)}."]


def _pair_sentence(study: StudyScores, one: Finding) -> str:
    subject = "the target" if one.subject == "target" else one.subject
    more = "better" if one.outcome == "gained" else "worse"
    pair = f"{study.label(one.run)} is {more} than {study.label(one.versus)}"
    return f"On {subject}, {pair}: {_value(one.evidence)}."


def _open(study: StudyScores, found: Sequence[Finding]) -> list[str]:
    told = []
    for outcome, words in (
        ("no difference", "No difference beyond the margin"), ("cannot tell", "Cannot tell"), ("not measured", "Not measured"),
    ):  # fmt: skip
        chosen = [one for one in found if one.outcome == outcome and one.subject != "drift"]
        if chosen:
            sizes = _size_words(chosen) if outcome == "cannot tell" else ""
            told.append(f"{words}: {', '.join(_subjects(study, chosen, found))}{sizes}.")
    return told


def _subjects(study: StudyScores, chosen: Sequence[Finding], found: Sequence[Finding]) -> list[str]:
    """'target (A; B minus C)', a subject once; many pairs as their number."""
    told = []
    for subject in dict.fromkeys(one.subject for one in chosen):
        own = [one for one in chosen if one.subject == subject]
        num = sum(one.subject == subject for one in found)
        if len(own) > MOST_NAMED:
            pairs = f"all {num} comparisons" if len(own) == num else f"{len(own)} of {num} comparisons"
        else:
            pairs = "; ".join(_pair_words(study, one) for one in own)
        told.append(f"{subject} ({pairs})")
    return told


def _pair_words(study: StudyScores, one: Finding) -> str:
    label = study.label(one.run)
    return label if one.versus == BASE else f"{label} minus {study.label(one.versus)}"


def _size_words(found: Sequence[Finding]) -> str:
    """The effects that this study would have found with 80% power."""
    sizes = [one.evidence.minimal_effect for one in found if one.evidence.minimal_effect is not None]
    possible = [size for size in sizes if size < 1]  # scores are shares
    too_few = f"none at all in {len(sizes) - len(possible)} of {len(sizes)} comparisons (too few seeds)"
    if not possible:
        return f". With 80% power this study finds {too_few}" if sizes else ""
    low, high = f"{min(possible):.3f}", f"{max(possible):.3f}"
    ends = low if low == high else f"{low} to {high}"
    others = f", and {too_few}" if len(possible) < len(sizes) else ""
    return f". With 80% power this study finds differences of {ends} and more{others}"


def _value(evidence: Evidence) -> str:
    return _size(evidence.effect)


def _size(found: Estimate) -> str:
    ends = "" if found.lo is None or found.hi is None else f" [{found.lo:+.3f}, {found.hi:+.3f}]"
    return f"{found.value:+.3f}{ends}"


def _listed(words: Sequence[str]) -> str:
    """Labels may have commas of their own."""
    return "; ".join(words)
