"""What trackers are told, that TensorBoard and the others keep it, and that one that fails stops nothing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from stateshape.cli import main
from stateshape.core import layout
from stateshape.core.files import BadInput, append_jsonl, read_jsonl
from stateshape.core.records import EvalStep, LocalityRecord, Span, StateSample, StepRecord
from stateshape.trackers.follow import Follower
from stateshape.trackers.names import check_trackers
from stateshape.trackers.report import flat, reporting

STEP = StepRecord(
    step=0, loss=0.5, grad_norm=None, lr=1e-3, num_supervised=7, num_rows=2, seconds={"training": 1.5},
    origin_shares={"learner": 0.75}, stats={"reward": 0.25, "rewards/short/mean": 0.5, "kl_nats": None},
)  # fmt: skip
EVAL = EvalStep(
    step=0, scores={"facts": {"mc1": 0.5, "mc2": None}}, num_items={"facts": 4}, distances={"k3_distance": 0.1},
    num_states=9, neutral_nats=2.0, neutral_change=0.125,
)  # fmt: skip
SAMPLE = StateSample(
    item_id="a", step=0, finish="eos", reward=1.0,
    spans=[Span(origin="prompt", text="1+1="), Span(origin="learner", text="2", is_supervised=True)],
)  # fmt: skip
FLAGS = ["--model", "embedded", "--task", "arithmetic", "--train-items", "8", "--batch-prompts", "4", "--device", "cpu"]


class Fake:
    """Keeps what it is told; fails at the given call."""

    def __init__(self, fails_at: str = "") -> None:
        self.fails_at, self.told = fails_at, []

    def start(self):
        self._say("start")

    def store_init_configuration(self, values):
        self._say("settings", values)

    def log(self, values, step):
        self._say("log", values, step)

    def log_table(self, name, columns, data, step):
        self._say("table", columns, data, step)

    def finish(self):
        self._say("finish")

    def _say(self, *what):
        if what[0] == self.fails_at:
            raise RuntimeError("no route to host\nand more")
        self.told.append(what)


def report_to(fake: Fake, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A step, an evaluation and a sample reported to a tracker; what was said to the user."""
    said: list[str] = []
    monkeypatch.setattr("stateshape.trackers.report.new_tracker", lambda *_, **__: fake)
    with reporting(
        ["wandb"], folder, project="p", run="r", settings={"lora": {"rank": 4}}, say=said.append
    ) as trackers:
        append_jsonl(folder / layout.EVAL_STEPS, [EVAL])
        append_jsonl(folder / layout.METRICS, [STEP])
        append_jsonl(folder / layout.SAMPLES, [SAMPLE])
        trackers.update()
        trackers.update()  # nothing is new
    return said


def test_a_tracker_is_told_numbers_by_their_usual_names_and_a_table_of_states(tmp_path, monkeypatch):
    fake = Fake()
    assert report_to(fake, tmp_path, monkeypatch) == []
    assert fake.told == [
        ("start",),
        ("settings", {"lora.rank": 4}),
        ("log", {"eval/facts/mc1": 0.5, "eval/k3_distance": 0.1, "eval/neutral_nats": 2.0, "eval/neutral_change": 0.125}, 0),
        (
            "log",
            {
                "train/loss": 0.5, "train/learning_rate": 1e-3, "train/num_supervised": 7, "train/num_rows": 2,
                "train/reward": 0.25, "train/rewards/short/mean": 0.5, "train/origin/learner": 0.75,
                "train/seconds/training": 1.5,
            },
            1,
        ),
        ("table", ["step", "reward", "state"], [[1, 1.0, "[prompt]1+1=[learner*]2"]], 1),
        ("finish",),
    ]  # fmt: skip


@pytest.mark.parametrize("place", ["start", "settings", "log", "table", "finish"])
def test_a_tracker_that_fails_is_named_once_and_dropped(place, tmp_path, monkeypatch):
    said = report_to(Fake(fails_at=place), tmp_path, monkeypatch)
    assert said == ["wandb: reporting has stopped (no route to host); the run goes on, and its files hold everything"]


def test_a_follower_begins_at_the_end_of_what_is_there_and_waits_for_whole_lines(tmp_path):
    path = tmp_path / layout.LOCALITY
    append_jsonl(path, [LocalityRecord(step=3, values={"a": 1.0})])
    follower = Follower(tmp_path)
    assert follower.news() == []
    with path.open("a") as file:
        file.write(json.dumps({"step": 7, "values": {"a": 2.0, "b": None}, "by_depth": {}})[:20])
    assert follower.news() == []
    with path.open("a") as file:
        file.write(json.dumps({"step": 7, "values": {"a": 2.0, "b": None}, "by_depth": {}})[20:] + "\n")
    assert [(told.step, told.values) for told in follower.news()] == [(7, {"locality/a": 2.0})]


def test_settings_are_flat_numbers_and_texts():
    assert flat({"lr": 0.1, "lora": {"rank": 4, "targets": ["q", "v"]}, "x": None}) == {
        "lr": 0.1, "lora.rank": 4, "lora.targets": "['q', 'v']", "x": "None",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["tensorbord"], "report_to: got 'tensorbord'; expected .* did you mean tensorboard?"),
        (["none", "wandb"], "report_to: got none among 2"),
    ],
)
def test_names_that_are_none_are_refused(names, said):
    with pytest.raises(BadInput, match=said):
        check_trackers(names)
    assert check_trackers(["none"]) == []


def test_a_tracker_that_is_not_installed_is_refused_before_the_model_loads(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("stateshape.study.single.open_weights", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["train", "sft", *FLAGS, "--out", str(tmp_path / "run"), "--report-to", "mlflow"]) == 2
    assert capsys.readouterr().err == (
        "stateshape: report_to: got mlflow, which is not installed; expected an installed tracker; pip install mlflow\n"
    )


def trained(folder: Path, tracker: str) -> list[StepRecord]:
    """A run of two steps, with an evaluation before and after."""
    flags = ["--steps", "2", "--eval.every", "2", "--eval.limit", "2", "--quiet", "--report-to", tracker]
    assert main(["train", "sft", *FLAGS, *flags, "--out", str(folder)]) == 0
    return read_jsonl(folder / layout.METRICS, StepRecord)


def test_tensorboard_reads_back_what_a_run_wrote(tmp_path):
    steps = trained(tmp_path / "run", "tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [
        (step.step + 1, pytest.approx(step.loss, rel=1e-6)) for step in steps
    ]
    assert [e.step for e in events.Scalars("eval/arithmetic/strict")] == [0, 2]
    assert "states/text_summary" in events.Tags()["tensors"]


@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed: make test-trackers")
def test_trackio_keeps_what_a_run_wrote(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    steps = trained(tmp_path / "run", "trackio")
    import sqlite3

    (store,) = (tmp_path / "store").glob("*.db")
    rows = [
        (step, json.loads(values))
        for step, values in sqlite3.connect(store).execute("SELECT step, metrics FROM metrics")
    ]
    losses = {step: values["train/loss"] for step, values in rows if "train/loss" in values}
    assert losses == {step.step + 1: pytest.approx(step.loss) for step in steps}


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed: make test-trackers")
def test_mlflow_keeps_what_a_run_wrote(tmp_path, monkeypatch):
    store = f"file:{tmp_path}/store"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    steps = trained(tmp_path / "run", "mlflow")
    import mlflow

    mlflow.set_tracking_uri(store)
    client = mlflow.MlflowClient()
    (experiment,) = client.search_experiments(filter_string="name = 'stateshape'")
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert {m.step: m.value for m in history} == {step.step + 1: pytest.approx(step.loss) for step in steps}
