"""Evaluation while a run trains: when, of what, which adapter is the best, and that a run is the same with and without."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file

import tiny
from stateshape.cli import main
from stateshape.core import layout
from stateshape.core.files import BadInput, read_json, read_jsonl
from stateshape.core.records import BestStep, EvalStep
from stateshape.embedded import base_folder
from stateshape.evals.evaluate import evaluate
from stateshape.evals.neutral import neutral_nats, neutral_texts
from stateshape.evals.settings import EvalSettings
from stateshape.policy.open import open_policy
from stateshape.policy.settings import ModelSettings
from stateshape.study.eval_watch import EvalWatch, Reference
from stateshape.tasks.load import load_task

FLAGS = ["--model", "embedded", "--task", "arithmetic", "--train-items", "8", "--batch-prompts", "4", "--device", "cpu"]
EVERY = ["--eval.every", "2", "--eval.limit", "4", "--eval.tasks", "arithmetic", "facts", "--eval.best", "facts"]
TENSORS = "adapter_model.safetensors"


def run(folder: Path, *more: str) -> int:
    return main(["train", "sft", *FLAGS, "--out", str(folder), "--steps", "3", "--lr", "1e-3", "--quiet", *more])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval") / "run"
    assert run(folder, *EVERY) == 0
    return folder


def test_steps_are_counted_or_are_a_share_of_the_run_and_hold_the_first_and_the_last():
    assert EvalSettings(every=20).steps(50) == [0, 20, 40, 50]
    assert EvalSettings(every=0.25).steps(60) == [0, 15, 30, 45, 60]
    assert EvalSettings(every=0.001).steps(3) == [0, 1, 2, 3]
    assert EvalSettings(every=100).steps(3) == [0, 3]
    assert EvalSettings().steps(3) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"every": 0}, "eval.every: got 0; expected steps, such as 50, or a share below 1"),
        ({"every": 2.5}, "eval.every: got 2.5; expected whole steps"),
        ({"every": float("nan")}, "eval.every: got nan"),
        ({"every": 5, "limit": 0}, "eval.limit: got 0"),
        ({"every": 5, "tasks": ["facts", "facts"]}, "eval.tasks: got 'facts' twice"),
        ({"best": "facts"}, "eval.every: got none beside best"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(BadInput, match=said):
        EvalSettings(**settings)


def test_a_best_task_that_is_not_evaluated_is_refused_before_the_model_loads(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("stateshape.study.single.open_weights", None)
    assert run(tmp_path / "run", "--eval.every", "2", "--eval.best", "fact", "--eval.tasks", "facts") == 2
    assert (
        "eval.best: got 'fact'; expected one of facts, which are evaluated; did you mean facts?"
        in capsys.readouterr().err
    )


def test_each_line_holds_scores_distances_and_the_neutral_loss(done: Path):
    lines = read_jsonl(done / layout.EVAL_STEPS, EvalStep)
    assert [line.step for line in lines] == [0, 2, 3]
    first, *_, last = lines
    assert first.num_items == {"arithmetic": 4, "facts": 4}
    assert first.neutral_change == 0  # a fresh adapter is the base
    assert first.distances["forward_kl_new_task_nats"] == pytest.approx(0, abs=1e-6)
    assert last.neutral_change == last.neutral_nats - first.neutral_nats != 0
    assert last.distances["k3_distance"] > 0


def test_the_last_line_is_what_an_evaluation_of_the_finished_run_gives(done: Path):
    policy = open_policy(str(done), ModelSettings(device="cpu"))
    task = load_task("facts", limit=4)
    last = read_jsonl(done / layout.EVAL_STEPS, EvalStep)[-1]
    rows = evaluate(policy, task)
    for metric, score in last.scores["facts"].items():
        assert score == pytest.approx(sum(row.scores[metric] for row in rows) / 4, abs=1e-5)
    assert last.neutral_nats == pytest.approx(neutral_nats(policy, neutral_texts(is_embedded=True)), abs=1e-5)


def test_the_best_adapter_is_kept_and_peft_loads_it(done: Path):
    best = read_json(done / layout.BEST, BestStep)
    assert list(layout.kept_checkpoints(done)) == [best.step]
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base_folder())
    loaded = peft.PeftModel.from_pretrained(model, layout.kept_checkpoint(done, best.step))
    assert loaded.peft_config["default"].r == 32


def test_a_run_is_the_same_with_and_without(done: Path, tmp_path: Path):
    assert run(tmp_path / "run") == 0
    ours, bare = (load_file(folder / layout.ADAPTER / TENSORS) for folder in (done, tmp_path / "run"))
    assert ours.keys() == bare.keys()
    assert all(torch.equal(ours[name], bare[name]) for name in ours)
    assert not (tmp_path / "run" / layout.EVAL_STEPS).exists()


def test_stopped_while_it_evaluates_it_goes_on_to_the_same_lines(done: Path, tmp_path: Path, monkeypatch):
    calls = []

    def stopping(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args)

    from stateshape.study import eval_watch

    original = eval_watch.eval_step
    monkeypatch.setattr(eval_watch, "eval_step", stopping)
    assert run(tmp_path / "run", *EVERY) == 130
    monkeypatch.undo()
    assert run(tmp_path / "run", *EVERY) == 0
    for name in (layout.EVAL_STEPS, layout.BEST):
        assert (tmp_path / "run" / name).read_bytes() == (done / name).read_bytes()


def watch_with(scores: list[float | None], folder: Path, monkeypatch: pytest.MonkeyPatch) -> EvalWatch:
    """A watch whose evaluations give these scores, one per step."""
    task = load_task("facts", limit=4)

    def eval_step(policy, step, tasks, reference):
        score = {task.name: {task.metric: scores[step]}}
        return EvalStep(
            step=step, scores=score, num_items={}, distances={}, num_states=0, neutral_nats=0.0, neutral_change=0.0
        )

    monkeypatch.setattr("stateshape.study.eval_watch.eval_step", eval_step)
    return EvalWatch([task], Reference(None, [], 0.0), steps=range(len(scores)), folder=folder, best=task, kept=[2])


def test_the_best_is_the_highest_score_the_earliest_of_equals_and_not_the_start(tmp_path: Path, monkeypatch):
    watch = watch_with([0.9, 0.2, 0.5, None, 0.5, 0.7, 0.6], tmp_path, monkeypatch)
    learner = tiny.learner(tiny.weights())
    kept = []
    for step in range(7):
        watch._evaluate(learner, step)
        kept.append(list(layout.kept_checkpoints(tmp_path)))
    assert kept == [[], [1], [2], [2], [2], [2, 5], [2, 5]]  # step 2 is kept in any case
    assert read_json(tmp_path / layout.BEST, BestStep).step == 5
    watch.resume(4)  # what came after the last checkpoint is done again
    assert read_json(tmp_path / layout.BEST, BestStep).step == 2
    assert [line.step for line in read_jsonl(tmp_path / layout.EVAL_STEPS, EvalStep)] == [0, 1, 2, 3, 4]


def test_the_neutral_loss_is_transformers_mean_cross_entropy():
    policy = tiny.learner(tiny.weights())
    texts = ["abc def", "x" * 30, "one two three"]
    total, num = 0.0, 0
    for text in texts:
        ids = torch.tensor([policy.encode_prompt(text)])
        with torch.no_grad():
            logp = policy.weights.model(ids).logits[0, :-1].double().log_softmax(-1)
        total -= float(logp.gather(1, ids[0, 1:, None]).sum())
        num += ids.shape[1] - 1
    assert neutral_nats(policy, texts) == pytest.approx(total / num, rel=1e-5)


def test_the_neutral_text_is_enough_english_for_a_mean():
    texts = neutral_texts(is_embedded=False)
    assert len(texts) == 10
    assert 700 < sum(len(text.split()) for text in texts) < 1000
    assert len(neutral_texts(is_embedded=True)) == 32
