"""The term that keeps a run close to the base on another task: its value by hand, its states, what leaves it out, refusals."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

import tiny
from stateshape.cli import main
from stateshape.core.files import BadInput, parse, plain, read_json
from stateshape.core.method import Draw, terms_of
from stateshape.core.records import SupervisionMap
from stateshape.core.states import Origin
from stateshape.locality.counts import StepCounts, step_counts
from stateshape.locality.recoverability import GradeCounts
from stateshape.locality.supervision import Tally, tally_of
from stateshape.policy.policy import Policy
from stateshape.recipes.recipe import recipe_class
from stateshape.sampling.local import LocalSampler
from stateshape.study.plan import make_plan
from stateshape.study.protection import PROTECT, protect_term, protected
from stateshape.study.study_file import read_study_file
from stateshape.tasks.embedded import facts_task
from stateshape.tasks.items import GenerationItem
from stateshape.train.band import in_band
from stateshape.train.settings import Band, Protect, TrainSettings
from stateshape.train.step import accumulate, draw_states, read_signals, train_step

DRAW = Draw(item_ids=("item0", "item1", "item2", "item3"), step=0, seed=5)
SETTINGS = TrainSettings(steps=2, batch_prompts=4, lr=1e-2, lora=tiny.LORA)
CHOICE = Protect(task="other", weight=0.5, share=0.5, rollout_tokens=4)


def other_task():
    items = tuple(GenerationItem(item_id=f"other{k}", prompt=f"is {k} so?", gold=None) for k in range(5))
    return dataclasses.replace(tiny.task(), name="other", train=items, test=())


def world(recipe="sft", **choices):
    shared = tiny.weights(dtype=torch.float64)
    learner, teacher = tiny.learner(shared, size=0.1), tiny.teacher(shared)
    own = recipe_class(recipe)(**choices).build(tiny.parts(teacher))
    term = protect_term(CHOICE, other_task(), base=Policy(shared, None), sampler=LocalSampler(), batch_prompts=4)
    return learner, own, protected(own, term)


def drawn(learner, method, draw=DRAW):
    states = draw_states(terms_of(method), learner, draw)
    return states, read_signals(terms_of(method), learner, states)


def probabilities(policy, states, b, t):
    """Of the token at t in row b, over the vocabulary, from a forward pass of the row alone."""
    row = states.rows(torch.tensor([b]))
    at_BT = torch.zeros_like(row.ids_BT, dtype=torch.bool)
    at_BT[0, t - 1] = True
    with torch.no_grad():
        return (policy.hidden(row.ids_BT, row.lengths_B, at_BT) @ policy.head.weight_VD.T).softmax(-1)[0].tolist()


def test_the_loss_is_the_mean_forward_kl_at_what_the_base_wrote():
    learner, _, method = world()
    _, signals = drawn(learner, method)
    term, signal = method.terms[PROTECT], signals[PROTECT]
    base = Policy(learner.weights, None)
    values = []
    for b, t in signal.supervise_BT.nonzero().tolist():
        of_base, of_learner = (probabilities(policy, signal.states, b, t) for policy in (base, learner))
        values.append(sum(p * math.log(p / q) for p, q in zip(of_base, of_learner, strict=True)))
    assert accumulate(term, learner, signal, 10**6).loss == pytest.approx(sum(values) / len(values), rel=1e-9)
    assert min(values) > 0


def test_states_are_the_bases_from_the_other_tasks_prompts():
    learner, _, method = world()
    states = drawn(learner, method)[0][PROTECT].states
    assert len(states) == 2  # half of four prompts
    assert set(states.item_ids) <= {f"other{k}" for k in range(5)} and len(set(states.item_ids)) == 2
    assert set(states.origin_BT.unique().tolist()) <= {Origin.PROMPT, Origin.TEACHER, 255}
    base = Policy(learner.weights, None)
    for b, t in states.written_by(Origin.TEACHER).nonzero().tolist():
        p = probabilities(base, states, b, t)[states.ids_BT[b, t]]
        assert float(states.behaviour_logp_BT[b, t]) == pytest.approx(math.log(p), abs=1e-5)


def test_other_prompts_differ_between_steps_and_not_between_two_draws_of_one():
    learner, _, method = world()
    names = [drawn(learner, method, DRAW._replace(step=k))[0][PROTECT].states.item_ids for k in range(8)]
    assert len(set(map(tuple, names))) > 1
    assert names[3] == drawn(learner, method, DRAW._replace(step=3))[0][PROTECT].states.item_ids


@pytest.mark.parametrize(("recipe", "choices"), [("sft", {}), ("opd", {"teacher": "t", "rollout_tokens": 6})])
def test_the_runs_own_states_are_those_of_the_run_without_it(recipe, choices):
    learner, own, method = world(recipe, **choices)
    alone, beside = drawn(learner, own)[1][""], drawn(learner, method)[1]["method"]
    assert torch.equal(alone.states.ids_BT, beside.states.ids_BT)
    assert torch.equal(alone.supervise_BT, beside.supervise_BT)


def test_budget_band_and_count_are_those_of_the_own_term():
    learner, _, method = world()
    signals = drawn(learner, method)[1]
    optimiser = torch.optim.AdamW(learner.parameters(), lr=1e-3)
    settings = dataclasses.replace(SETTINGS, supervised_per_step=3, band=Band(high=0.02))
    in_it = in_band({"": signals["method"]}, learner, settings.band)[""].supervise_BT
    result = train_step(method, learner, optimiser, DRAW, settings)
    assert result.num_supervised == int(result.signals["method"].supervise_BT.sum()) == 3
    assert not bool((result.signals["method"].supervise_BT & ~in_it).any())
    assert torch.equal(result.signals[PROTECT].supervise_BT, signals[PROTECT].supervise_BT)
    assert result.stats["protect/num_supervised"] == int(signals[PROTECT].supervise_BT.sum())
    assert result.loss == pytest.approx(result.stats["method/loss"] + 0.5 * result.stats["protect/loss"])


def test_a_combination_keeps_its_names_and_a_term_of_that_name_is_refused():
    choices = {"teacher": "t", "rollout_tokens": 6, "samples": 2}
    method = world("grpo_opd", **choices)[2]
    assert list(method.terms) == ["reward", "opd", PROTECT]
    with pytest.raises(BadInput, match="protect: got a method with a term 'protect' of its own"):
        protected(method, method.terms[PROTECT])


def test_a_term_pulls_the_learner_back_to_the_base():
    """Without another term: the gradient of the protecting one alone lowers the KL that it is the mean of."""
    learner, _, method = world()
    signal = drawn(learner, method)[1][PROTECT]
    optimiser = torch.optim.SGD(learner.parameters(), lr=0.05)
    losses = []
    for _ in range(4):
        optimiser.zero_grad()
        losses.append(accumulate(method.terms[PROTECT], learner, signal, 10**6).loss)
        optimiser.step()
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]


def test_counts_apart_outlive_a_killed_run():
    """Each step's counts are a line on the disk; what they add up to is what was counted."""
    learner, _, method = world()
    signals = drawn(learner, method)[1]
    own, apart = (
        tally_of(signals[name], accumulate(method.terms[name], learner, signals[name], 10**6).per_token)
        for name in ("method", PROTECT)
    )
    for tally in (apart, Tally()):
        counts = step_counts(0, 1, own, tally, GradeCounts())
        read = parse(json.loads(json.dumps(plain(counts))), StepCounts, where="line")
        assert read.tally().cells() == own.cells()
        assert read.apart_tally().cells() == tally.cells()


# In a study


def study_file(folder: Path, protect: str, *, retention: str = "{task: facts, limit: 8}") -> Path:
    text = tiny.study_text(
        f"run: {{recipe: grpo, with: {{group: 2, rollout_tokens: 6}}, train: {{protect: {protect}}}}}"
    )
    path = folder / "study.yaml"
    path.write_text(text.replace("{task: facts, limit: 8}", retention), encoding="utf-8")
    return path


def test_a_study_has_the_term_on_record_and_apart(tmp_path, capsys):
    file = study_file(tmp_path, "{task: facts_validation, share: 1, rollout_tokens: 3, weight: 2}")
    assert main(["study", str(file), "--dry-run"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "run protects facts_validation: 2 of its 160 prompts per step, 3 tokens each, weight 2" in said
    assert main(["study", str(file), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    folder = tmp_path / "out/runs/run/seed0"
    record = json.loads((folder / "run.json").read_text())
    assert record["settings"]["train"]["protect"]["task"] == "facts_validation"
    assert {"arithmetic", "facts", "facts_validation"} == set(record["provenance"]["data_sha256"])
    assert record["method"]["state_source"] == "learner + base on facts_validation"
    assert record["method"]["is_on_policy"]

    rows = [row for path in folder.glob("states/*.parquet") for row in pq.read_table(path).to_pylist()]
    known, tested = ({item.item_id for item in facts_task(split=split).items} for split in ("validation", "test"))
    protects = [row for row in rows if row["term"] == PROTECT]
    assert len(protects) == 4 and {(row["term"], row["teacher"]) for row in rows} == {
        ("method", None),
        (PROTECT, "base"),
    }
    assert {row["item_id"] for row in protects} <= known - tested
    assert {one for row in rows if row["term"] == "method" for one in row["origins"]} == {0, 2}

    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(set(step["origin_shares"]) == {"learner"} for step in steps)
    made = read_json(folder / "supervision.json", SupervisionMap)
    assert sum(cell.num_tokens for cell in made.cells) == sum(step["num_supervised"] for step in steps)
    assert {cell.origin for cell in made.apart} == {"teacher"}
    assert sum(cell.num_tokens for cell in made.apart) == sum(sum(row["supervised"]) for row in protects)


@pytest.mark.parametrize(
    ("protect", "wanted"),
    [
        (
            "{task: facts}",
            "runs.run.train.protect.task: got 'facts', all of whose items are for testing; expected a task with",
        ),
        ("{task: exam_validation}", "exam_validation, 120 of whose prompts are evaluated as exam_validation"),
        ("{task: factz}", "task: got 'factz'; expected one of"),
        ("{task: bare.jsonl}", "runs.run.train.protect.task: got 'bare.jsonl' without training rows; expected some"),
        ("{task: facts_validation, weight: 0}", "protect.weight: got 0"),
        ("{task: facts_validation, share: 1.5}", "protect.share: got 1.5; expected a number above 0, up to 1"),
        ("{task: facts_validation, rollout_tokens: 0}", "protect.rollout_tokens: got 0; expected 1 or more"),
        ("{weight: 0.5}", "protect.task: got none, but other fields of protect"),
    ],
)
def test_what_cannot_be_protected_is_one_line(protect, wanted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    row = {"prompt": "1+1=", "answer": "2", "split": "test"}
    Path("bare.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    file = study_file(tmp_path, protect, retention="{task: exam_validation, limit: 120}")
    for command in (["--dry-run"], ["--out", "out", "--quiet"]):
        assert main(["study", str(file), *command]) == 2
        error = capsys.readouterr().err
        assert wanted in error and len(error.strip().splitlines()) == 1
    assert not Path("out/plan.json").exists()


def test_a_plan_without_it_keeps_its_checksum_and_a_plan_with_it_is_another(tmp_path):
    shas = []
    for said in ("{}", "{task: facts_validation}", "{task: facts_validation, weight: 0.2}"):
        shas.append(make_plan(read_study_file(str(study_file(tmp_path, said)))).sha256)
    text = study_file(tmp_path, "{}").read_text().replace(", train: {protect: {}}", "")
    (tmp_path / "study.yaml").write_text(text)
    assert make_plan(read_study_file(str(tmp_path / "study.yaml"))).sha256 == shas[0]
    assert len(set(shas)) == 3
