"""Recorded states read back: bit for bit as a real step drew them, refused where they are another's; browsing and SQL."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tiny
from stateshape.cli import main
from stateshape.cli.states import print_down, visible
from stateshape.core.files import BadInput
from stateshape.core.method import Combination, Draw, Method, Term, terms_of
from stateshape.core.records import Span
from stateshape.core.watch import StepRead, StepUpdate
from stateshape.losses.cross_entropy import CrossEntropy
from stateshape.policy.open import open_policy
from stateshape.policy.policy import Policy
from stateshape.policy.settings import LoraSettings, ModelSettings
from stateshape.recipes.replay import Replay
from stateshape.record.query import Answer, StatesView
from stateshape.record.reading import Recording, item_ids_by_step
from stateshape.record.schema import Source, vocabulary_sha256
from stateshape.record.text import open_decoder, spans_of
from stateshape.record.writer import StateWriter
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import SamplingSettings
from stateshape.signals.continuation import TeacherContinuation
from stateshape.signals.gold import GoldTokens
from stateshape.states.cuts import Cut
from stateshape.states.dataset import DatasetStates
from stateshape.states.recorded import RecordedStates, steps_of_share
from stateshape.states.sampled import LearnerStates
from stateshape.study.single import as_long_as_recorded, single_plan
from stateshape.train.loop import train
from stateshape.train.settings import TrainSettings

ITEMS = {item.item_id: item for item in tiny.task().train}
DRAWN = [("item0", "item3"), ("item1", "item2"), ("item3", "item3")]  # one item twice in a step
SETTINGS = SamplingSettings(max_new_tokens=10, num_samples=2)


def gold() -> Method:
    return Method(states=DatasetStates(items=ITEMS), signal=GoldTokens(), loss=CrossEntropy())


def continued(teacher: Policy) -> Method:
    return Method(
        states=LearnerStates(items=ITEMS, sampler=LocalSampler(), settings=SETTINGS, cut=Cut()),
        signal=TeacherContinuation(
            teacher=teacher, sampler=LocalSampler(), settings=SamplingSettings(max_new_tokens=10)
        ),
        loss=CrossEntropy(),
    )


def record(folder: Path, method, learner: Policy, item_ids=DRAWN):
    """Records steps as training takes them. Returns what was drawn and what was trained on, by step and term."""
    writer = StateWriter(folder, method, budget_mb=10)
    writer.resume(0)
    kept = []
    for step, ids in enumerate(item_ids):
        draw = Draw(ids, step, 7)
        terms = terms_of(method)
        with torch.no_grad():
            drawn = {name: term.method.states.draw(learner, draw) for name, term in terms.items()}
            read = {name: term.method.signal.read(learner, drawn[name], draw) for name, term in terms.items()}
        values = {name: dict(term.method.loss.total(learner, read[name]).per_token) for name, term in terms.items()}
        writer.after_update(learner, StepRead(step, len(item_ids), draw, drawn, read), StepUpdate(values))
        kept.append((drawn, {name: signal.states for name, signal in read.items()}, values))
    writer.finish(learner)
    return kept


@pytest.fixture(scope="module")
def learner():
    return tiny.learner(tiny.weights(), size=0.2)


@pytest.fixture(scope="module")
def run(learner, tmp_path_factory):
    """A folder with three recorded steps of teacher continuation, and these steps' states."""
    folder = tmp_path_factory.mktemp("run")
    return folder, record(folder, continued(tiny.teacher(learner.weights)), learner)


def same(a, b) -> bool:
    """Bit for bit; a log-prob that is missing equals a missing one."""
    return (
        torch.equal(a.ids_BT, b.ids_BT)
        and torch.equal(a.lengths_B, b.lengths_B)
        and torch.equal(a.origin_BT, b.origin_BT)
        and torch.equal(a.group_B, b.group_B)
        and torch.equal(a.behaviour_logp_BT.nan_to_num(9.0), b.behaviour_logp_BT.nan_to_num(9.0))
        and a.item_ids == b.item_ids
        and a.finishes == b.finishes
    )


# Replay


def test_a_replay_has_the_rows_that_were_trained_on(run, learner):
    folder, kept = run
    source = RecordedStates(folder)
    for step in (1, 0, 2):
        assert same(source.draw(learner, Draw(("whatever",), step, 0)), kept[step][1][""])


def test_a_share_of_a_record_is_its_first_steps_or_random_ones_in_order(run, learner):
    folder, kept = run
    first = RecordedStates(folder, share=0.67)
    assert first.num_steps == 2  # of three, rounded down
    assert all(same(first.draw(learner, Draw((), step, 0)), kept[step][1][""]) for step in range(2))
    random = RecordedStates(folder, share=0.67, chosen="random")
    by_seed = [tuple(random.step_of(Draw((), step, seed)) for step in range(2)) for seed in range(20)]
    assert set(by_seed) == {(0, 1), (0, 2), (1, 2)}
    assert by_seed[4] == tuple(
        RecordedStates(folder, share=0.67, chosen="random").step_of(Draw((), k, 4)) for k in (0, 1)
    )
    assert same(random.draw(learner, Draw((), 1, 4)), kept[by_seed[4][1]][1][""])
    for source in (first, random):
        with pytest.raises(BadInput, match=r"got step 2, but share 0\.67 of .* is 2 steps; .*; use --steps 2 or fewer"):
            source.draw(learner, Draw((), 2, 0))


@pytest.mark.parametrize(
    ("num_steps", "share", "wanted"), [(100, 0.29, 29), (3, 1 / 3, 1), (3, 0.01, 1), (7, 0.5, 3), (7, 1.0, 7)]
)
def test_how_many_steps_a_share_is(num_steps, share, wanted):
    assert steps_of_share(num_steps, share) == wanted


def test_until_the_cut_a_replay_has_the_rows_that_were_drawn(run, learner):
    folder, kept = run
    assert any(not same(drawn[""], trained[""]) for drawn, trained, _ in kept)
    source = RecordedStates(folder, until="cut")
    for step in range(3):
        assert same(source.draw(learner, Draw((), step, 0)), kept[step][0][""])


def test_per_token_values_come_back_as_they_were(run):
    folder, kept = run
    rows = Recording(folder).rows(1, "").to_pylist()
    values = kept[1][2][""]
    assert set(values) >= {"mass", "learner_logp"}
    for name, value_N in values.items():
        assert [value for row in rows for value in row[name]] == value_N.tolist()


@pytest.mark.parametrize(("share", "asked", "steps"), [(1.0, None, 3), (0.7, None, 2), (1.0, 1, 1), (1.0, 4, 4)])
def test_a_replay_without_a_length_is_one_epoch_or_all_that_is_recorded(share, asked, steps, run):
    settings = TrainSettings(batch_prompts=1, steps=asked)
    recipe = Replay(states=str(run[0]), signal="gold-tokens", share=share)
    plan = single_plan("replay", recipe, "embedded", "arithmetic", settings, ModelSettings())
    assert as_long_as_recorded(plan, tiny.task()).trained[0].train.steps == steps


def test_a_replay_says_which_prompts_each_step_has(run):
    assert item_ids_by_step(run[0]) == DRAWN
    assert RecordedStates(run[0]).num_steps == 3


def test_a_step_beyond_the_record_is_refused(run, learner):
    with pytest.raises(BadInput, match=r"got step 3, but .* recorded steps 0 to 2; .* use --steps 3 or fewer"):
        RecordedStates(run[0]).draw(learner, Draw((), 3, 0))


def test_a_folder_without_states_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no recorded states; expected a run's folder"):
        RecordedStates(tmp_path)


def test_another_vocabulary_is_refused(run, learner):
    class Other:
        weights = learner.weights
        device = learner.device

        class tokenizer:
            @staticmethod
            def get_vocab():
                return {**learner.tokenizer.get_vocab(), "zz": 999}

    with pytest.raises(BadInput, match=r"recorded with the vocabulary of 'tiny', which is not that of"):
        RecordedStates(run[0]).draw(Other(), Draw((), 0, 0))


def test_one_of_several_terms_is_chosen(tmp_path, learner):
    method = Combination(
        terms={
            "gold": Term(method=gold()),
            "taught": Term(method=continued(tiny.adapter(learner.weights, "t", seed=3))),
        }
    )
    kept = record(tmp_path, method, learner, DRAWN[:1])
    with pytest.raises(BadInput, match=r"term: got none, but .* recorded several; expected one of gold, taught"):
        RecordedStates(tmp_path)
    with pytest.raises(BadInput, match=r"term: got 'sft', .*; expected one of gold, taught"):
        RecordedStates(tmp_path, term="sft")
    for term in ("gold", "taught"):
        assert same(RecordedStates(tmp_path, term=term).draw(learner, Draw((), 0, 0)), kept[0][1][term])


def test_a_run_of_one_method_has_no_terms_to_choose(run):
    with pytest.raises(BadInput, match=r"term: got 'gold', .*; expected none: the run had one method alone"):
        RecordedStates(run[0], term="gold")


def test_a_run_and_its_replay_are_the_same_run(tmp_path):
    """Gold tokens of a recorded run, taught from the record: the same adapter, and a record that says the same."""
    settings = TrainSettings(steps=3, batch_prompts=2, lr=1e-2, lora=tiny.LORA)
    trained = []
    for name in ("run", "replay"):
        learner = tiny.learner(tiny.weights())
        method = gold() if name == "run" else Method(
            states=RecordedStates(tmp_path / "run"), signal=GoldTokens(), loss=CrossEntropy()
        )  # fmt: skip
        watches = [StateWriter(tmp_path / name, method, budget_mb=1)]
        train(method, learner, tuple(ITEMS), settings, seed=3, folder=tmp_path / name, watches=watches)
        trained.append(tiny.snapshot(learner.weights, "learner"))
    assert tiny.is_same(*trained)
    first, second = (Recording(tmp_path / name).rows(2, "").to_pylist() for name in ("run", "replay"))
    assert first == second and first[0]["mass"]


# Text


def test_the_light_tokenizer_decodes_as_the_loaded_one():
    """Both for the packaged base; the fingerprint decides that it is the same one."""
    policy = open_policy("embedded", ModelSettings(device="cpu"))
    source = Source("embedded", vocabulary_sha256(policy.tokenizer.get_vocab()))
    light = open_decoder(source)
    ids = [*policy.encode("Sum: 12+30=42 – dollars.\n#### 42"), policy.eos_ids[0]]
    assert light.decode(ids, skip_special_tokens=False) == policy.tokenizer.decode(ids, skip_special_tokens=False)
    with pytest.raises(BadInput, match="another vocabulary than the states were recorded with"):
        open_decoder(source._replace(vocabulary_sha256="0"))


def test_a_tokenizer_that_is_gone_is_one_line(tmp_path):
    with pytest.raises(BadInput, match=r"could not be loaded .*--sql and --summary need no tokenizer"):
        open_decoder(Source(str(tmp_path), "0"))


class Glued:
    """Decodes as SentencePiece does: a text's leading space is dropped, and bytes make a character only together."""

    def get_vocab(self):
        return {}

    def decode(self, ids, skip_special_tokens=True):
        text = "".join({0: " a", 1: " b", 2: "<c3>", 3: "<a9>"}[i] for i in ids)
        return text.replace("<c3><a9>", "é").replace("<c3>", "�").lstrip(" ")


def test_a_spans_text_is_what_it_adds():
    assert spans_of([0, 1], [0, 2], [False, True], Glued()) == [
        Span(origin="prompt", text="a"),
        Span(origin="learner", text=" b", is_supervised=True),
    ]
    # A character in two halves stands with the second
    assert [span.text for span in spans_of([0, 2, 3], [0, 2, 3], [False] * 3, Glued())] == ["a", "", "é"]


def test_control_characters_are_shown_not_sent():
    assert visible("a\x1b[2Jb\n\tc\x9b\x7f") == "a\\x1b[2Jb\n\tc\\x9b\\x7f"


# SQL


def test_sql_sees_the_states_and_nothing_else(run, tmp_path):
    outside = tmp_path / "outside.csv"
    outside.write_text("a\n1\n")
    with StatesView(run[0]) as view:
        assert view.select("SELECT count(*), max(step) FROM states").rows == [(12, 2)]
        for sql, reason in (
            (f"SELECT * FROM '{outside}'", "file system operations are disabled"),
            (f"SELECT * FROM read_csv('{outside}')", "file system operations are disabled"),
            (f"COPY states TO '{outside}'", "got COPY; expected one SELECT"),
            ("SELECT 1; DROP VIEW states", "got SELECT, DROP; expected one SELECT"),
            ("SET enable_external_access = true", "got SET; expected one SELECT"),
            ("", "got nothing; expected one SELECT"),
            ("SELECT stepp FROM states", r'Referenced column "stepp" not found'),
        ):
            with pytest.raises(BadInput, match=reason):
                view.select(sql)
    assert outside.read_text() == "a\n1\n"


def test_the_summary_by_hand(run):
    with StatesView(run[0]) as view:
        columns, rows = view.summary()
    (row,) = [dict(zip(columns, values, strict=True)) for values in rows]
    trained = [states[""] for _, states, _ in run[1]]
    tokens = sum(int(states.lengths_B.sum()) for states in trained)
    response = tokens - sum(int(states.prompt_lengths_B.sum()) for states in trained)
    teachers = sum(int((states.origin_BT == 3).sum()) for states in trained)
    size = sum(path.stat().st_size for path in (run[0] / "states").glob("*.parquet"))
    assert (row["rows"], row["tokens"], row["supervised"], row["first_step"], row["last_step"]) == (
        12, tokens, teachers, 0, 2,
    )  # fmt: skip
    assert row["teacher"] == pytest.approx(teachers / response) and row["dataset"] == 0
    assert row["learner"] == pytest.approx(1 - teachers / response)
    assert row["bytes_per_token"] == pytest.approx(size / tokens)


# The command


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """Gold states of the embedded base in a study's folder: two runs of a seed."""
    learner = open_policy("embedded", ModelSettings(device="cpu"))
    learner.weights.add_adapter("learner", LoraSettings(rank=2), seed=0)
    learner = Policy(learner.weights, "learner", is_trainable=True)
    study = tmp_path_factory.mktemp("study")
    for name in ("sft", "other"):
        record(study / "runs" / name / "seed4", gold(), learner, DRAWN[:2])
    return study


def call(capsys, *args: object) -> tuple[int, str, str]:
    code = main(["states", *map(str, args)])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_browsing_without_colour_names_each_writer(embedded, capsys):
    code, out, err = call(capsys, embedded / "runs/sft/seed4", "--step", 1, "--item", "item2")
    assert code == 0 and err == ""
    prompt, completion = ITEMS["item2"].prompt, ITEMS["item2"].completion
    assert out.splitlines()[0].startswith("step 1 | row 1 | item item2 | finish dataset | tokens ")
    assert out.splitlines()[1:3] == [f"[prompt] {prompt}", f"[dataset, supervised] {completion}<|endoftext|>"]


def test_filters_choose_rows(embedded, capsys):
    folder = embedded / "runs/sft/seed4"
    for flags, num_rows in (
        ([], 4), (["--step", 1], 2), (["--item", "item3"], 1), (["--origin", "dataset"], 4), (["--origin", "learner"], 0),
        (["--finish", "dataset"], 4), (["--finish", "eos"], 0), (["--min-reward", 0], 0), (["--limit", 3], 3),
    ):  # fmt: skip
        code, out, err = call(capsys, folder, "--json", *flags)
        assert code == 0 and len(out.splitlines()) == num_rows, flags
        assert ("no recorded row" in err) == (num_rows == 0)
    row = json.loads(call(capsys, folder, "--json", "--limit", 1)[1])
    assert row["item_id"] == "item0" and row["spans"][0]["text"] == ITEMS["item0"].prompt
    assert "1 of 4 rows; --limit 4 shows all" in call(capsys, folder, "--limit", 1)[2]


def test_a_study_has_columns_run_and_seed(embedded, capsys):
    sql = (
        "SELECT run, seed, count(*) AS n, text_of(any_value(ids[:prompt_length])) IS NULL AS x FROM states GROUP BY ALL"
    )
    _, out, _ = call(capsys, embedded, "--sql", f"{sql} ORDER BY run", "--csv")
    assert list(csv.reader(io.StringIO(out))) == [
        ["run", "seed", "n", "x"], ["other", "4", "4", "False"], ["sft", "4", "4", "False"],
    ]  # fmt: skip
    rows = json.loads(call(capsys, embedded, "--summary", "--json")[1])
    assert [(row["run"], row["seed"], row["rows"], row["dataset"]) for row in rows] == [
        ("other", 4, 4, 1),
        ("sft", 4, 4, 1),
    ]
    _, out, _ = call(capsys, embedded, "--limit", 1)
    assert out.startswith("run other | seed 4 | step 0 | ")


def test_a_table_is_aligned_and_a_missing_value_is_a_dash(embedded, capsys):
    sql = "SELECT item_id, length(ids) * 1000 AS n, reward FROM states WHERE run = 'sft' ORDER BY step, row LIMIT 2"
    _, out, _ = call(capsys, embedded, "--sql", sql)
    head, rule, *rows = out.splitlines()
    assert head.split() == ["item_id", "n", "reward"] and set(rule.strip()) == {"─"}
    assert [row.split()[0] for row in rows] == ["item0", "item3"] and all(row.endswith("–") for row in rows)
    assert len({row.rindex("000") for row in rows}) == 1


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--origin", "me"], "origin: got 'me'; expected one of prompt, dataset, learner, teacher"),
        (["--csv"], "csv: got it without --sql or --summary"),
        (["--sql", "SELECT 1", "--summary"], "sql, summary: got both"),
        (["--sql", "SELECT 1", "--step", "1"], "step: got it together with --sql"),
        (["--limit", "0"], "limit: got 0; expected a number above 0"),
        (["--sql", "SELEC 1"], "sql: Parser Error"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(embedded, capsys, flags, reason):
    code, out, err = call(capsys, embedded, *flags)
    assert code == 2 and out == "" and len(err.splitlines()) == 1 and reason in err


def test_no_states_is_one_line_and_code_2(tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    for folder in (tmp_path / "nowhere", tmp_path):
        code, _, err = call(capsys, folder)
        assert code == 2 and len(err.splitlines()) == 1


def test_browsing_needs_no_torch(embedded):
    program = (
        "import sys; from stateshape.cli import main; "
        f"code = main(['states', {str(embedded / 'runs/sft/seed4')!r}, '--limit', '1']); "
        "assert code == 0; assert 'torch' not in sys.modules"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert "[dataset, supervised]" in told.stdout


def test_a_table_that_is_too_wide_goes_down(capsys):
    print_down(Answer(["a", "mass"], [(1, None), ("x\ny", 0.25)]))
    assert capsys.readouterr().out.splitlines() == [
        "─ 1 ────────────────────", "a     1", "mass  –", "─ 2 ────────────────────", "a     x\\ny", "mass  0.25",
    ]  # fmt: skip
