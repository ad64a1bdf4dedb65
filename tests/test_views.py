"""What a notebook shows: short, escaped, self-contained, and read from files alone."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest

import stateshape
import tiny
from stateshape.core import html
from stateshape.core.files import BadInput, read_json, write_json
from stateshape.core.records import EvalRow, RunRecord
from stateshape.core.study_records import Audit, PlanRecord
from stateshape.locality.settings import LocalitySettings
from stateshape.policy.policy import Policy
from stateshape.report.drawing.table import Cell, Column, Table
from stateshape.report.write import write_report
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.text_policy import TextPolicy
from stateshape.study.study_file import DriftChoice
from stateshape.views import progress
from stateshape.views.evaluation import Evaluation
from stateshape.views.frame import Frame
from stateshape.views.states import States
from synthetic_study import RATES, write_synthetic_study
from test_report import compared, verdicts

HOSTILE = "<script>alert(1)</script>"
FEW = {run: RATES[run] for run in ("base", "sft_mild")}
NO_PROBES = LocalitySettings(share=0)
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.role == 'assistant' %}<eos>{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compared study whose name is markup."""
    folder = tmp_path_factory.mktemp("views") / "study"
    write_synthetic_study(folder, seeds=(0, 1), num_items=4, rates=FEW)
    plan = dataclasses.replace(read_json(folder / "plan.json", PlanRecord), study=HOSTILE)
    write_json(folder / "plan.json", plan)
    write_json(folder / "comparison.json", compared(plan))
    write_json(folder / "verdicts.json", verdicts(claim=HOSTILE))
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run of two steps."""
    folder = tmp_path_factory.mktemp("run") / "sft"
    settings = stateshape.TrainSettings(steps=2, batch_prompts=2, lora=stateshape.LoraSettings(rank=2, alpha=4))
    stateshape.train_run(
        stateshape.SFT(), model="embedded", task="arithmetic", out=folder, settings=settings, locality=NO_PROBES
    )
    return folder


def files_in(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


# A study


def test_a_study_is_opened_by_its_plan_alone_and_nothing_is_written(folder, tmp_path):
    before = files_in(folder)
    study = stateshape.open_study(folder)
    for shown in (
        study.table1(),
        study.table2(),
        study.verdicts(),
        study.findings(),
        study.runs(),
        study.table("cost"),
    ):
        assert shown._repr_html_()
        assert len(shown) > 0 or shown.name == "findings"
    assert files_in(folder) == before
    (tmp_path / "plan.json").write_bytes((folder / "plan.json").read_bytes())
    bare = stateshape.open_study(tmp_path)
    assert bare.headline == bare.figures() == []
    assert bare.table2().to_arrow()["run"].to_pylist() == ["base", "sft_mild"]
    assert bare.comparison.rows[1].scores == {}


def test_a_folder_without_a_plan_or_a_name_that_is_not_there_is_one_line(folder, tmp_path):
    with pytest.raises(BadInput, match=r"contains no plan\.json; expected the folder of a study"):
        stateshape.open_study(tmp_path)
    study = stateshape.open_study(folder)
    with pytest.raises(BadInput, match=r"figure: got 'none'; expected one of .*gain_retention"):
        study.figure("none")
    with pytest.raises(BadInput, match="table: got 'none'; expected one of table1, table2"):
        study.table("none")
    with pytest.raises(BadInput, match="run: got 'none'; expected one of base, sft_mild"):
        study.run_folder("none")
    with pytest.raises(BadInput, match="which has not begun"):
        study.run_folder("sft_mild", seed=7)
    with pytest.raises(BadInput, match="has recorded states"):
        study.states()


def test_a_run_is_found_by_its_name_and_seed(folder):
    study = stateshape.open_study(folder)
    assert study.run_folder("sft_mild") == str(folder / "runs" / "sft_mild" / "seed0")
    assert study.run_folder("sft_mild", seed=1) == str(folder / "runs" / "sft_mild" / "seed1")
    assert study.runs().to_arrow()["steps"].to_pylist()[0] == 0
    assert study.runs().to_arrow()["seed"].to_pylist() == [0, 0, 1]


def test_everything_shown_is_short_and_its_texts_are_escaped(folder):
    study = stateshape.open_study(folder)
    shown = [study, study.table1(), study.table2(), study.verdicts(), study.runs()]
    assert max(len(repr(one)) for one in [*shown, study.comparison]) < 200
    for one in shown:
        assert "<script" not in one._repr_html_()
        assert "http" not in one._repr_html_()
        ElementTree.fromstring(one._repr_html_().replace("<br>", "<br/>"))
    assert "&lt;script&gt;" in study._repr_html_()
    assert "&lt;script&gt;" in study.verdicts()._repr_html_()


def test_a_frame_holds_the_numbers_with_full_precision(folder):
    study = stateshape.open_study(folder)
    frame = study.table2().to_pandas()
    arithmetic = study.comparison.target.name
    scores = [row.scores[arithmetic] for row in study.comparison.rows]
    assert frame[arithmetic].tolist() == [one.value for one in scores]
    assert frame[f"{arithmetic}_lo"].tolist() == [one.lo for one in scores]
    assert frame["n_items"].tolist() == [one.n_items for one in scores]
    assert frame["n_items"].dtype == np.int64
    assert study.table("per_seed").to_pandas()["seed"].tolist()[:2] == [0, 1]
    assert str(study.table2()).startswith("**Table 2.")
    assert study.verdicts().to_pandas()["outcome"].tolist() == ["supported", "cannot tell"]


def test_a_figure_is_the_reports_own_and_can_stand_in_a_page(folder):
    figure = stateshape.open_study(folder).figure("gain_retention")
    assert figure._repr_svg_() == (folder / "plots" / "gain_retention.svg").read_text(encoding="utf-8")
    page = figure._repr_html_()
    assert "<svg" in page and "var(--rule)" in page and "--rule:#" in page
    assert "<style" not in page  # matplotlib's is for every element of the page
    assert repr(figure).startswith("<Figure gain_retention: ")


# Frames


def test_a_missing_library_is_one_line_with_the_command(monkeypatch):
    frame = Frame("one", pa.table({"a": [1]}))
    for name in ("pandas", "polars"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(
            BadInput, match=rf"{name}: is not installed; expected it for to_{name}\(\); pip install {name}"
        ):
            getattr(frame, f"to_{name}")()


def test_a_frame_becomes_a_polars_frame():
    polars = pytest.importorskip("polars")
    frame = Frame("one", pa.table({"a": [1, None], "b": ["x", "y"]})).to_polars()
    assert frame.schema == {"a": polars.Int64, "b": polars.String}
    assert frame.rows() == [(1, "x"), (None, "y")]


def test_a_table_without_rows_is_a_frame_without_rows():
    columns = [Column(key="a", heading="A"), Column(key="b", heading="B", kind="estimate")]
    frame = Frame.of(Table(name="none", caption="none", columns=columns, rows=[]))
    assert frame.columns == ["a", "b", "b_lo", "b_hi"]
    assert len(frame) == 0
    assert frame.to_pandas().shape == (0, 4)


def test_a_missing_number_is_missing_in_a_frame_and_a_dash_on_the_page():
    columns = [Column(key="a", heading="A"), Column(key="b", heading="B", kind="number")]
    frame = Frame.of(Table(name="t", caption="t", columns=columns, rows=[[Cell(text="x"), Cell()]]))
    assert frame.to_arrow().to_pylist() == [{"a": "x", "b": None}]
    assert "–" in frame._repr_html_()


def test_long_tables_and_cells_are_cut_in_the_notebook_alone():
    frame = Frame("long", pa.table({"a": ["y" * 1000] * 200}))
    assert len(frame._repr_html_()) < 60 * 400
    assert "200 rows" in frame._repr_html_()
    assert len(frame.to_arrow()["a"][0].as_py()) == 1000
    assert html.text("a\n<b>") == "a<br>&lt;b&gt;"


# Records, tasks, evaluations, states


def test_records_and_tasks_show_themselves_briefly(run):
    record = read_json(run / "run.json", RunRecord)
    drift = stateshape.measure_drift(
        "embedded", "embedded", task="arithmetic", choice=DriftChoice(prompts=10, max_new_tokens=4, hidden=False)
    )
    tasks = [stateshape.load_task("arithmetic", limit=3), stateshape.load_task("facts", limit=3)]
    audit = Audit(run="a", label="A", checkpoint="x", headline=HOSTILE, findings=[], changes=[], notes=[], num_tests=0)
    for one in (record, drift, *tasks, audit):
        assert len(repr(one)) < 200, repr(one)
        assert "\n" not in repr(one)
        assert "<script" not in one._repr_html_()
    assert repr(record).startswith("<Run sft, seed 0: 2 steps, ")
    assert "4,000 training and 3 test items" in repr(tasks[0])
    assert "mmd2_unbiased" in drift._repr_html_()


def test_an_evaluation_is_a_list_of_its_rows_and_a_frame():
    row = EvalRow(
        item_id="a",
        prompt_sha256="0",
        prediction="1",
        gold="1",
        is_correct=True,
        scores={"strict": 1.0},
        completion=HOSTILE,
    )
    rows = Evaluation([row] * 7, task="own")
    assert rows == [row] * 7
    assert repr(rows) == "<Evaluation of own: 7 items, 7 right; to_pandas(), to_polars(), to_arrow()>"
    assert rows.to_pandas()["score_strict"].tolist() == [1.0] * 7
    assert "<script" not in rows._repr_html_() and "the first 5 of 7 items" in rows._repr_html_()
    assert stateshape.summarise(rows, ["strict"])["strict"].value == 1.0


def test_states_are_read_as_a_frame_and_asked_in_sql(run):
    states = States(run)
    assert len(states.to_pandas()) == 4
    answer = states.select("SELECT step, count(*) AS n FROM states GROUP BY step ORDER BY step")
    assert answer.to_arrow().to_pylist() == [{"step": 0, "n": 2}, {"step": 1, "n": 2}]
    assert states.summary().to_arrow()["rows"].to_pylist() == [4]
    assert "supervised" in states._repr_html_()
    with pytest.raises(BadInput, match="sql: "):
        states.select("DROP TABLE states")


# Text


def test_a_policy_writes_what_an_evaluation_of_it_writes():
    policy, task = stateshape.open_policy("embedded"), stateshape.load_task("arithmetic", limit=3)
    rows = stateshape.evaluate(policy, task)
    prompts = [item.prompt for item in task.test]
    assert policy.generate(prompts, max_new_tokens=task.max_new_tokens, stops=task.stops) == [
        row.completion.split(task.stops[0])[0] if task.stops else row.completion for row in rows
    ]
    assert policy.generate(prompts[0], max_new_tokens=4) == policy.generate([prompts[0]], max_new_tokens=4)[0]
    assert repr(policy) == "<Policy embedded: 2.1 M parameters, float32 on cpu, no chat template>"


def test_a_stop_ends_the_text_and_is_no_part_of_it():
    policy, task = stateshape.open_policy("embedded"), stateshape.load_task("arithmetic", limit=1)
    whole = policy.generate(task.test[0].prompt, max_new_tokens=30)
    stop = whole[3:5]
    assert policy.generate(task.test[0].prompt, max_new_tokens=30, stops=[stop]) == whole[: whole.index(stop)]


def test_a_text_is_a_users_message_where_the_model_has_a_chat_template():
    weights = tiny.weights(0)
    asked: list[list[int]] = []
    policy = TextPolicy(Policy(weights, None), "tiny")
    plain = policy.encode_prompt("3+4?")
    weights.tokenizer.chat_template = TEMPLATE
    said = policy.tokenizer("user: 3+4?\nassistant:", add_special_tokens=False)["input_ids"]

    class Noting(LocalSampler):
        def sample(self, policy, prompts, settings, **options):
            asked.extend(list(prompt) for prompt in prompts)
            return super().sample(policy, prompts, settings, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stateshape.sampling.text_policy.LocalSampler", Noting)
        policy.generate("3+4?", max_new_tokens=2)
        policy.generate([{"role": "user", "content": "3+4?"}], max_new_tokens=2)
        policy.generate("3+4?", max_new_tokens=2, as_chat=False)
    assert asked == [said, said, plain]
    assert "chat template" in repr(policy) and "no chat template" not in repr(policy)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "prompt 1: got an empty text; expected a prompt"),
        (["a", 3], "prompt 2: got 3; expected a text, or messages"),
        ([{"role": "user"}], "prompt 1: got .*; expected messages with role and content"),
        ([{"role": "user", "content": "x"}], "which has no chat template, for the chat of prompt 1"),
    ],
)
def test_a_prompt_that_is_none_is_one_line(prompt, message):
    policy = TextPolicy(Policy(tiny.weights(0), None), "tiny")
    with pytest.raises(BadInput, match=message):
        policy.generate(prompt, max_new_tokens=2)


# Progress


class Display:
    """Stands in for IPython: keeps what is displayed."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def display(self, what: object, display_id: bool) -> Display:
        self.update(what)
        return self

    def update(self, what) -> None:
        self.shown.append(what._repr_html_())


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Display:
    display = Display()
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell, display=display))
    monkeypatch.setattr(progress, "EVERY_S", -1.0)
    monkeypatch.setattr(progress, "SHOW_AFTER_S", -1.0)
    return display


def test_a_notebook_shows_a_line_that_updates_and_goes(display):
    assert progress.in_notebook()
    tick = progress.default_reporter().track("train <b>", "steps")
    tick(1, 3, {"loss": 0.51})
    tick(2, 3, {"loss": 0.42})
    tick(3, 3)
    assert len(display.shown) == 3
    assert "train &lt;b&gt;: 1 of 3 steps, loss 0.51, about" in display.shown[0]
    assert '<progress value="2" max="3">' in display.shown[1]
    assert display.shown[2] == ""


def test_a_line_that_was_left_behind_is_taken_away(display):
    reporter = progress.default_reporter()
    reporter.track("train", "steps")(1, 3)
    reporter.stop()
    assert display.shown[-1] == ""


def test_long_calls_report_to_the_notebook_they_run_in(display, tmp_path):
    settings = stateshape.TrainSettings(steps=2, batch_prompts=2, lora=stateshape.LoraSettings(rank=2, alpha=4))
    stateshape.train_run(
        stateshape.SFT(),
        model="embedded",
        task="arithmetic",
        out=tmp_path / "run",
        settings=settings,
        locality=NO_PROBES,
    )
    assert any("train sft: 1 of 2 steps" in one for one in display.shown)
    stateshape.evaluate(stateshape.open_policy("embedded"), stateshape.load_task("facts", limit=20))
    assert display.shown[-1] == ""


def test_a_plain_script_reports_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not progress.in_notebook()
    monkeypatch.delitem(sys.modules, "IPython")
    assert not progress.in_notebook()
    assert type(progress.default_reporter()).__name__ == "Silent"
