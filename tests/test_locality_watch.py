"""The locality watch in real runs: it changes nothing, survives a kill anywhere, and its numbers are what they say."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import tiny
from stateshape.analysis.probe_values import VALUES
from stateshape.core.files import read_json, read_jsonl
from stateshape.core.method import Draw
from stateshape.core.records import LocalityRecord, SupervisionMap
from stateshape.locality.budget import probe_work
from stateshape.locality.compared import Compared, hidden_at
from stateshape.locality.probe import begin_probe, end_probe
from stateshape.locality.settings import LocalitySettings
from stateshape.locality.states import Places
from stateshape.locality.watch import LocalityWatch
from stateshape.policy.policy import Policy
from stateshape.recipes.recipe import recipe_class
from stateshape.sampling.local import LocalSampler
from stateshape.train.loop import train
from stateshape.train.settings import TrainSettings

SETTINGS = TrainSettings(steps=5, batch_prompts=4, lr=1e-2, lora=tiny.LORA)
CLOSE = LocalitySettings(every=2, prompts=4, max_new_tokens=6, retention_tokens=3, positions=64)
CONTINUATION = {"recipe": "opd_continuation", "teacher": "t", "max_new_tokens": 4, "rollout_tokens": 6}


class Killed(Exception):
    pass


def compared(shared, settings=CLOSE, retention=("which a b?", "is it so?", "why so #?")):
    base = Policy(shared, None)
    return Compared(
        base=base,
        new_task=[base.encode_prompt(f"{'b' * k}{k}+2=") for k in range(5)],
        retention=[base.encode_prompt(text) for text in retention],
        sampler=LocalSampler(),
        stops=("\n",),
        settings=settings,
        seed=0,
    )


def grader(item_id, text):
    return None if item_id == "item5" else "a" in text


def run(folder, *, recipe="sft", settings=SETTINGS, looks=True, watching=CLOSE, kill_after=None, **choices):
    """One run on the tiny model; a folder with a checkpoint is resumed. Returns its shared weights."""
    shared = tiny.weights()
    learner, teacher = tiny.learner(shared, lora=settings.lora), tiny.teacher(shared)
    parts = tiny.parts(teacher)
    watches = []
    if looks:
        watches = [LocalityWatch(compared(shared, watching), grader=grader, folder=folder, seed=3)]

    def on_step(done, total, record):
        if done == kill_after:
            raise Killed

    ids = tuple(item.item_id for item in parts.task.train)
    folder.mkdir(exist_ok=True)
    method = recipe_class(recipe)(**choices).build(parts)
    train(method, learner, ids, settings, seed=3, folder=folder, on_step=on_step, watches=watches)
    return shared


def records(folder):
    return read_jsonl(folder / "locality.jsonl", LocalityRecord)


@pytest.mark.parametrize(
    "choices", [{"recipe": "sft"}, CONTINUATION, {"recipe": "grpo", "group": 3, "rollout_tokens": 6}]
)
def test_a_run_is_the_same_to_the_last_bit_with_and_without_the_watch(tmp_path, choices):
    seen, unseen = (run(tmp_path / name, looks=looks, **choices) for name, looks in (("a", True), ("b", False)))
    assert tiny.is_same(tiny.snapshot(seen, "learner"), tiny.snapshot(unseen, "learner"))
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in "ab"
    ]
    assert losses[0] == losses[1]
    assert (tmp_path / "a" / "states.jsonl").read_bytes() == (tmp_path / "b" / "states.jsonl").read_bytes()
    assert [record.step for record in records(tmp_path / "a")] == [0, 2, 4]
    assert all(record.values.keys() == set(VALUES) for record in records(tmp_path / "a"))


def test_a_probe_says_how_many_prompts_were_told_apart(tmp_path):
    """The smaller side: the four prompts of the first step, or three fresh rollouts."""
    for name, prompts, least in (("many", 5, 4), ("few", 3, 3)):
        watching = dataclasses.replace(CLOSE, prompts=prompts)
        run(tmp_path / name, watching=watching)
        assert records(tmp_path / name)[0].num_prompts == least


@pytest.mark.parametrize(("checkpoint_every", "kill_after"), [(1, 1), (1, 3), (3, 4), (1, 5)])
@pytest.mark.parametrize("every", [2, None])
def test_trap_irreproducible_a_killed_run_looks_on_where_it_was(tmp_path, checkpoint_every, kill_after, every):
    settings = dataclasses.replace(SETTINGS, checkpoint_every=checkpoint_every)
    watching = dataclasses.replace(CLOSE, every=every, share=1.0)
    run(tmp_path / "whole", settings=settings, watching=watching, **CONTINUATION)
    with pytest.raises(Killed):
        run(tmp_path / "cut", settings=settings, watching=watching, kill_after=kill_after, **CONTINUATION)
    for name in ("locality.jsonl", "supervision.jsonl"):
        with (tmp_path / "cut" / name).open("a") as file:
            file.write('{"step": 77, "val')  # a write that was cut off
    run(tmp_path / "cut", settings=settings, watching=watching, **CONTINUATION)
    for name in ("locality.jsonl", "supervision.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name
    assert not (tmp_path / "cut" / "supervision.jsonl").exists()


def test_a_run_that_can_afford_no_probe_still_counts_its_supervision(tmp_path):
    run(tmp_path, watching=dataclasses.replace(CLOSE, every=None, share=0.0))
    assert not (tmp_path / "locality.jsonl").exists()
    assert read_json(tmp_path / "supervision.json", SupervisionMap).cells


@pytest.mark.parametrize("recipe", ["sft", "grpo"])
def test_what_a_probe_costs_is_foreseen_within_a_factor_of_two(tmp_path, monkeypatch, recipe):
    foreseen, spent = [], []
    monkeypatch.setattr(
        "stateshape.locality.watch.probe_work", lambda *a, **kw: foreseen.append(probe_work(*a, **kw)) or foreseen[-1]
    )

    def begin(learner, signals, compared, *rest, **named):
        _ = compared.by_base  # made once for all probes
        before = learner.weights.meter.num_tokens
        pending = begin_probe(learner, signals, compared, *rest, **named)
        spent.append(learner.weights.meter.num_tokens - before)
        return pending

    def end(learner, pending):
        before = learner.weights.meter.num_tokens
        values = end_probe(learner, pending)
        spent[-1] += learner.weights.meter.num_tokens - before
        return values

    monkeypatch.setattr("stateshape.locality.watch.begin_probe", begin)
    monkeypatch.setattr("stateshape.locality.watch.end_probe", end)
    choices = {"group": 3, "rollout_tokens": 6} if recipe == "grpo" else {}
    run(tmp_path, recipe=recipe, watching=dataclasses.replace(CLOSE, every=None, share=10.0), **choices)
    assert len(foreseen) == 1
    assert spent
    assert all(0.5 < foreseen[0] / one < 2 for one in spent)


def test_a_finished_run_keeps_its_files(tmp_path):
    run(tmp_path)
    before = [(tmp_path / name).read_bytes() for name in ("locality.jsonl", "supervision.json")]
    run(tmp_path)
    assert [(tmp_path / name).read_bytes() for name in ("locality.jsonl", "supervision.json")] == before


def test_the_map_counts_every_supervised_token_of_the_run(tmp_path):
    run(tmp_path, **CONTINUATION)
    made = read_json(tmp_path / "supervision.json", SupervisionMap)
    steps = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sum(cell.num_tokens for cell in made.cells) == sum(step["num_supervised"] for step in steps)
    assert {cell.origin for cell in made.cells} == {"teacher"}
    # cross-entropy moves 1 - p, which the bin of -log p bounds from below
    for cell in made.cells:
        assert cell.mass >= cell.num_tokens * (1 - np.exp(-made.surprisal_edges_nats[cell.surprisal])) - 1e-6
    last = records(tmp_path)[-1]
    assert sum(last.by_depth["mass"]) == pytest.approx(1)


def test_what_cannot_be_said_is_missing(tmp_path):
    run(tmp_path / "sft")
    values = records(tmp_path / "sft")[0].values
    missing = {name for name, value in values.items() if value is None}
    assert missing == {
        "ess_share",
        "teacher_recoverability",
        "topk_overlap",
        "topk_mass",
        "stable_rank",
        "effective_rank",
    }
    run(tmp_path / "opd", **CONTINUATION)
    last = records(tmp_path / "opd")[-1]
    assert {name for name, value in last.values.items() if value is None} == {"topk_overlap", "topk_mass"}
    assert len(last.by_depth["teacher_recoverability"]) == 4


def test_before_the_first_step_the_learner_is_the_base(tmp_path):
    """KL 0 both ways, on both kinds of prompts; on-policy states are fresh; a teacher that is the base agrees wholly."""
    run(tmp_path, recipe="grpo", group=3, rollout_tokens=6)
    first, later = records(tmp_path)[0].values, records(tmp_path)[-1].values
    kls = [name for name in VALUES if "_kl_" in name]
    assert len(kls) == 4
    for name in kls:
        assert abs(first[name]) < 1e-9  # fp32 logits that differ by 1e-5 at most, squared
        assert later[name] > 1e-6
    assert first["ess_share"] == pytest.approx(1, abs=1e-6)
    assert (first["update_frobenius"], first["update_spectral"]) == (0, 0)
    assert later["update_frobenius"] >= later["update_spectral"] > 0


# One probe, number by number


class Seen:
    """A step of a recipe on a moved learner, with what a probe finds before and after a move."""

    def __init__(self, recipe="opd_continuation", **choices):
        self.shared = tiny.weights(dtype=torch.float64)
        self.learner, teacher = tiny.learner(self.shared, size=0.3), tiny.teacher(self.shared)
        method = recipe_class(recipe)(**choices).build(tiny.parts(teacher))
        draw = Draw(item_ids=("item0", "item1", "item2"), step=0, seed=5)
        with torch.no_grad():
            states = method.states.draw(self.learner, draw)
            self.signal = method.signal.read(self.learner, states, draw)
        self.compared = compared(self.shared)
        self.pending = begin_probe(self.learner, {"": self.signal}, self.compared, grader, seed=5, step=0)

    def logp(self, policy, at: Places):
        """Log-probs [N, V] in fp64 at each place, one whole row at a time."""
        made = []
        for ids, where in zip(at.rows, at.at):
            hidden = tiny.hidden(policy, torch.tensor([ids]), torch.tensor([len(ids)]))[0]
            made.append(torch.log_softmax((hidden[where.tolist()] @ policy.head.weight_VD.T).double(), -1))
        return torch.cat(made)


@torch.no_grad()
def test_kl_to_the_base_is_the_mean_over_states_of_whoever_wrote_them():
    seen = Seen(teacher="t", max_new_tokens=4, rollout_tokens=6)
    base = seen.compared.base
    for name, at, forward in (
        ("forward_kl_new_task_nats", seen.compared.by_base["new task"].states, True),
        ("forward_kl_retention_nats", seen.compared.by_base["retention"].states, True),
        ("reverse_kl_new_task_nats", seen.pending.at["own"], False),
        ("reverse_kl_retention_nats", seen.pending.at["neutral"], False),
    ):
        p, q = seen.logp(base, at), seen.logp(seen.learner, at)
        p, q = (p, q) if forward else (q, p)
        assert seen.pending.values[name] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-4), name


@torch.no_grad()
def test_the_locality_ratio_by_hand():
    seen = Seen(teacher="t", max_new_tokens=4, rollout_tokens=6)
    before = {name: seen.logp(seen.learner, at) for name, at in seen.pending.at.items()}
    for parameter in seen.learner.parameters():
        parameter.mul_(1.02)
    values = end_probe(seen.learner, seen.pending)
    moved = {}
    for name, at in seen.pending.at.items():
        p, q = before[name], seen.logp(seen.learner, at)
        moved[name] = float((p.exp() * (p - q)).sum(-1).mean())
    assert values["locality_ratio"] == pytest.approx(moved["own"] / moved["training"], rel=1e-3)
    assert values["neutral_ratio"] == pytest.approx(moved["neutral"] / moved["training"], rel=1e-3)
    still = Seen(teacher="t", max_new_tokens=4, rollout_tokens=6)
    values = end_probe(still.learner, still.pending)  # no update: rounding alone
    assert values["locality_ratio"] is None


@torch.no_grad()
def test_the_training_places_are_the_supervised_states():
    seen = Seen(teacher="t", max_new_tokens=4, rollout_tokens=6)
    found = sorted((tuple(row[: t + 1]) for row, at in zip(*seen.pending.at["training"]) for t in at), key=str)
    states = seen.signal.states
    expected = [
        tuple(states.ids_BT[b, : t + 1].tolist())
        for b in range(len(states))
        for t in range(states.ids_BT.shape[1] - 1)
        if seen.signal.supervise_BT[b, t + 1]
    ]
    assert found == sorted(expected, key=str)


def test_hidden_states_of_several_sets_are_those_of_each_alone():
    shared = tiny.weights()
    policy = tiny.adapter(shared, "one", seed=1, size=0.3)
    sets = [
        Places([[5, 6, 7], [5, 6, 8, 9]], [np.array([0, 2]), np.array([3])]),
        Places([], []),
        Places([[5, 6, 7]], [np.array([1, 2])]),
    ]
    together = hidden_at(policy, sets)
    assert [len(one) for one in together] == [3, 0, 2]
    for one, found in zip(sets, together):
        assert torch.allclose(hidden_at(policy, [one])[0], found, atol=1e-5)


@torch.no_grad()
def test_reachability_and_freshness_against_a_loop():
    seen = Seen(teacher="t", max_new_tokens=4, rollout_tokens=6)
    surprisals, ratios = [], []
    for row, supervised in zip(seen.signal.states.trajectories(), seen.signal.supervise_BT.tolist()):
        last = max(t for t, is_supervised in enumerate(supervised) if is_supervised)
        for t in range(row.prompt_length, last):
            logp = seen.logp(seen.learner, Places([row.ids[:t]], [np.array([t - 1])]))[0, row.ids[t]]
            surprisals.append(-float(logp))
            ratios.append(float(logp) - row.logps[t])
    own = []
    for ids, at in zip(*seen.pending.at["own"]):
        whole = [*ids, None]  # the last token is written behind the last place
        logps = seen.logp(seen.learner, Places([ids], [at]))
        own += [-float(logps[i, whole[t + 1]]) for i, t in enumerate(at[:-1])]
    values = seen.pending.values
    assert values["reachability_gap_nats"] == pytest.approx(np.mean(surprisals) - np.mean(own), abs=1e-4)
    p90 = np.percentile(surprisals, 90) - np.percentile(own, 90)
    assert values["reachability_gap_p90_nats"] == pytest.approx(p90, abs=1e-4)
    weights = np.exp(ratios)
    assert values["ess_share"] == pytest.approx(weights.sum() ** 2 / (len(weights) * (weights**2).sum()), rel=1e-4)
    assert values["ess_share"] < 0.999  # the teacher's tokens are not the learner's


@torch.no_grad()
def test_overlap_pairs_each_state_with_the_teacher_at_that_state():
    """By state from both heads; states are thinned first, so a slip by one state would show."""
    for positions in (64, 5):
        seen = Seen("opd", teacher="t", positions="all", rollout_tokens=6)
        settings = dataclasses.replace(CLOSE, positions=positions)
        pending = begin_probe(seen.learner, {"": seen.signal}, compared(seen.shared, settings), grader, seed=5, step=0)
        at = pending.at["training"]
        assert len(at) == min(positions, int(seen.signal.supervise_BT.sum()))
        teacher = seen.logp(Policy(seen.shared, "teacher"), at)
        learner_top, teacher_top = (one.topk(16).indices.tolist() for one in (seen.logp(seen.learner, at), teacher))
        shares = [len(set(a) & set(b)) / 16 for a, b in zip(learner_top, teacher_top)]
        mass = [float(row[top].exp().sum()) for row, top in zip(teacher, learner_top)]
        assert pending.values["topk_overlap"] == pytest.approx(np.mean(shares), abs=1e-6)
        assert pending.values["topk_mass"] == pytest.approx(np.mean(mass), rel=1e-4)


def test_the_learner_goes_on_from_the_prefixes_the_teacher_was_given(monkeypatch):
    asked, graded = [], []
    sample = LocalSampler.sample_calls

    def spy(self, policy, calls, settings, progress=None):
        asked.append([tuple(ids) for call in calls for ids in call.prompts])
        return sample(self, policy, calls, settings, progress)

    monkeypatch.setattr(LocalSampler, "sample_calls", spy)
    seen = Seen(teacher="t", max_new_tokens=4, rollout_tokens=6)
    prefixes = asked[1]  # the teacher's call follows the learner's rollouts
    new = [tuple(ids) for ids in seen.compared.new_task[: CLOSE.prompts]]
    continued = next(call for call in asked[2:] if call[: len(new)] == new and len(call) > len(new))
    assert sorted(continued[len(new) :]) == sorted(prefixes)

    def grade(item_id, text):
        graded.append((item_id, text))
        return item_id == "item0"

    found = begin_probe(seen.learner, {"": seen.signal}, seen.compared, grade, seed=5, step=0)
    assert len(graded) == 3
    assert found.values["learner_recoverability"] == pytest.approx(1 / 3)
    for item_id, text in graded:
        row = next(row for row in seen.signal.states.trajectories() if row.item_id == item_id)
        prefix = next(ids for ids in prefixes if list(ids) == row.ids[: len(ids)])
        assert text.startswith(seen.learner.decode(list(prefix[row.prompt_length :])))
    assert sum(found.learner_grades.num) == 3
