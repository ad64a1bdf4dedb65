"""States on record: every column against the step it came from, whole files only, kills at every moment, the budget."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest
import torch

import tiny
from stateshape.core.files import BadInput
from stateshape.core.method import Combination, Draw, Method, Term
from stateshape.core.signals import Credit, Imitate
from stateshape.core.states import Origin, pack
from stateshape.core.watch import StepRead, StepUpdate
from stateshape.losses.cross_entropy import CrossEntropy
from stateshape.record import parts
from stateshape.record.parts import parts_of, read_part
from stateshape.record.reading import Recording
from stateshape.record.schema import ORIGINS, PER_TOKEN, SCHEMA, source_of, vocabulary_sha256
from stateshape.record.writer import StateWriter

NAN = float("nan")


@dataclass(frozen=True)
class Source:
    """Stands for a state source: only its kind and what it tells of its writer are asked for."""

    kind: ClassVar[Any] = "learner"

    def policy_version(self, draw: Draw) -> int:
        return draw.step


@dataclass(frozen=True)
class Says:
    kind: ClassVar[Any] = "teacher continuation"


METHOD = Method(states=Source(), signal=Says(), loss=CrossEntropy())


@pytest.fixture(scope="module")
def learner():
    return tiny.learner(tiny.weights())


def batch(step: int, *, num_rows: int = 2):
    """Rows of a prompt of two tokens and `step % 3 + 1` more, which a teacher writes on by two: known numbers everywhere."""
    rows = [
        tiny.row([2, 3], [4 + step % 5] * (step % 3 + 1), Origin.LEARNER, group=b, item_id=f"item{step}.{b}",
                 logps=[-0.1 * (b + 1)] * (step % 3 + 1))
        for b in range(num_rows)
    ]  # fmt: skip
    longer = [row.extended([30 + step % 4, 1], Origin.TEACHER, logps=[-0.25, None], finish="eos") for row in rows]
    return pack(rows, device="cpu"), pack(longer, device="cpu")


def watch(writer, learner, step, *, num_rows=2):
    drawn, states = batch(step, num_rows=num_rows)
    signal = Imitate(states=states, supervise_BT=states.written_by(Origin.TEACHER))
    num = int(signal.supervise_BT.sum())
    per_token = {"mass": torch.arange(num) / 10, "learner_logp": -torch.arange(num).float() - step}
    if num_rows > 2:  # what no compression makes smaller
        per_token["ratio"] = torch.rand(num, generator=torch.Generator().manual_seed(step))
    read = StepRead(step, 12, Draw((), step, 0), {"": drawn}, {"": signal})
    writer.before_update(learner, read)
    writer.after_update(learner, read, StepUpdate({"": per_token}))


def recorded(folder: Path) -> list[dict]:
    """Every row that counts, in order of steps, by Parquet alone."""
    return [row for part in parts_of(folder / "states") for row in pq.read_table(part.path).to_pylist()]


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "states").glob("*.parquet"))


def write_run(folder: Path, learner, num_steps: int, *, budget_mb: float = 10.0, num_rows: int = 2) -> StateWriter:
    writer = StateWriter(folder, METHOD, budget_mb=budget_mb)
    writer.resume(0)
    for step in range(num_steps):
        watch(writer, learner, step, num_rows=num_rows)
    writer.finish(learner)
    return writer


# What a row says


def test_origins_are_numbered_as_in_the_states():
    assert tuple(origin.name.lower() for origin in Origin) == ORIGINS


def test_every_column_of_a_continuation(tmp_path, learner):
    writer = StateWriter(tmp_path, METHOD, budget_mb=1, teachers={"": "runs/teacher"})
    writer.resume(0)
    watch(writer, learner, 0)
    first, second = recorded(tmp_path)
    logps = second.pop("behaviour_logp")
    assert logps[:2] == [None, None] and logps[4] is None
    assert logps[2:4] == pytest.approx([-0.2, -0.25])
    assert second.pop("mass") == pytest.approx([0.2, 0.3])
    assert second == {
        "step": 0, "term": "", "row": 1, "item_id": "item0.1", "group": 1,
        "ids": [2, 3, 4, 30, 1], "origins": [0, 0, 2, 3, 3], "supervised": [False, False, False, True, True],
        "prompt_length": 2, "cut": 3, "finish": "eos", "policy_version": 0, "teacher": "runs/teacher", "reward": None,
        "target": [30, 1], "learner_logp": [-2.0, -3.0],
        "divergence": None, "teacher_entropy": None, "advantage": None, "ratio": None,
    }  # fmt: skip
    assert first["learner_logp"] == [0.0, -1.0] and first["cut"] == 3


def test_every_column_of_credit(tmp_path, learner):
    rows = [tiny.row([2], [5, 6], Origin.LEARNER, logps=[-1.0, -2.0]), tiny.row([2], [7], Origin.LEARNER, logps=[-3.0])]
    states = pack(rows, device="cpu")
    supervise_BT = states.written_by(Origin.LEARNER) & torch.tensor([[True], [False]])
    credit = Credit(
        states=states, supervise_BT=supervise_BT, advantage_BT=torch.ones(2, 3), reward_B=torch.tensor([0.5, NAN])
    )
    writer = StateWriter(tmp_path, METHOD, budget_mb=1)
    writer.resume(0)
    per_token = {"advantage": torch.tensor([1.5, -1.5]), "ratio": torch.tensor([1.0, 0.5]), "unknown": torch.ones(2)}
    read = StepRead(0, 12, Draw((), 0, 0), {"": states}, {"": credit})
    writer.after_update(learner, read, StepUpdate({"": per_token}))
    graded, ungraded = recorded(tmp_path)
    assert (graded["reward"], ungraded["reward"]) == (0.5, None)
    assert (graded["advantage"], graded["ratio"], ungraded["advantage"]) == ([1.5, -1.5], [1.0, 0.5], [])
    assert graded["cut"] is None and graded["target"] is None  # nobody wrote on; credit has no target
    assert ungraded["supervised"] == [False, False]


def test_a_writer_whose_version_is_not_known_has_none(tmp_path, learner):
    class Older:
        kind: ClassVar[Any] = "learner"

    writer = StateWriter(tmp_path, Method(states=Older(), signal=Says(), loss=CrossEntropy()), budget_mb=1)
    writer.resume(0)
    watch(writer, learner, 0)
    assert [row["policy_version"] for row in recorded(tmp_path)] == [None, None]


def test_only_the_learners_rows_have_a_policy_version(tmp_path, learner):
    states = pack([tiny.row([2], [5], Origin.DATASET), tiny.row([2], [5], Origin.LEARNER)], device="cpu")
    signal = Imitate(states=states, supervise_BT=states.written_by(Origin.LEARNER))
    writer = StateWriter(tmp_path, METHOD, budget_mb=1)
    writer.resume(0)
    for step in range(2):
        writer.after_update(learner, StepRead(step, 12, Draw((), step, 0), {}, {"": signal}), StepUpdate({}))
    assert [row["policy_version"] for row in recorded(tmp_path)] == [None, 0, None, 1]


def test_terms_of_a_combination_are_told_apart(tmp_path, learner):
    method = Combination(terms={"a": Term(method=METHOD), "b": Term(method=METHOD)})
    writer = StateWriter(tmp_path, method, budget_mb=1, teachers={"b": "t"})
    writer.resume(0)
    _, states = batch(0)
    signal = Imitate(states=states, supervise_BT=states.written_by(Origin.TEACHER))
    values = {"a": {"mass": torch.full((4,), 1.0)}, "b": {"mass": torch.full((4,), 2.0)}}
    writer.after_update(learner, StepRead(0, 12, Draw((), 0, 0), {}, {"a": signal, "b": signal}), StepUpdate(values))
    told = [(row["term"], row["row"], row["teacher"], row["mass"]) for row in recorded(tmp_path)]
    assert told == [("a", 0, None, [1, 1]), ("a", 1, None, [1, 1]), ("b", 0, "t", [2, 2]), ("b", 1, "t", [2, 2])]


def test_a_step_without_any_states_is_recorded_as_such(tmp_path, learner):
    writer = StateWriter(tmp_path, METHOD, budget_mb=1)
    writer.resume(0)
    writer.after_update(learner, StepRead(0, 12, Draw((), 0, 0), {}, {}), StepUpdate({}))
    watch(writer, learner, 1)
    writer.finish(learner)
    assert [row["step"] for row in recorded(tmp_path)] == [1, 1]
    assert Recording(tmp_path).num_steps == 2


def test_values_that_do_not_fit_the_supervised_tokens_are_a_bug(tmp_path, learner):
    _, states = batch(0)
    signal = Imitate(states=states, supervise_BT=states.written_by(Origin.TEACHER))
    writer = StateWriter(tmp_path, METHOD, budget_mb=1)
    writer.resume(0)
    with pytest.raises(AssertionError, match="mass: 3 values for 4 tokens"):
        writer.after_update(
            learner, StepRead(0, 12, Draw((), 0, 0), {}, {"": signal}), StepUpdate({"": {"mass": torch.ones(3)}})
        )
    assert not recorded(tmp_path)


def test_a_part_tells_whose_ids_it_holds(tmp_path, learner):
    write_run(tmp_path, learner, 2)
    schema = pq.read_schema(parts_of(tmp_path / "states")[0].path)
    assert source_of(schema) == ("tiny", vocabulary_sha256(tiny.tokenizer().get_vocab()))
    assert schema.names == SCHEMA.names and set(PER_TOKEN) <= set(schema.names)


# Parts


def test_steps_are_merged_by_blocks(tmp_path, learner, monkeypatch):
    monkeypatch.setattr(parts, "BLOCK_STEPS", 4)
    monkeypatch.setattr("stateshape.record.writer.BLOCK_STEPS", 4)
    writer = StateWriter(tmp_path, METHOD, budget_mb=1)
    writer.resume(0)
    for step in range(6):
        watch(writer, learner, step)
    assert [(part.first, part.last) for part in parts_of(tmp_path / "states")] == [(0, 3), (4, 4), (5, 5)]
    writer.finish(learner)
    assert [(part.first, part.last) for part in parts_of(tmp_path / "states")] == [(0, 3), (4, 5)]
    assert [row["step"] for row in recorded(tmp_path)] == [step for step in range(6) for _ in range(2)]


def test_row_groups_hold_a_bounded_number_of_tokens(tmp_path, learner, monkeypatch):
    monkeypatch.setattr(parts, "ROW_GROUP_TOKENS", 20)
    write_run(tmp_path, learner, 6)
    groups = pq.ParquetFile(parts_of(tmp_path / "states")[0].path)
    sizes = [groups.read_row_group(k).num_rows for k in range(groups.num_row_groups)]
    assert sizes == [4, 4, 4]  # a step has 10, 12, 14, 10, 12, 14 tokens: two steps reach 20 each time


class Killed(BaseException):
    pass


def kill_at(monkeypatch, moment: int) -> None:
    """The `moment`-th change of a folder does not happen: the process is dead by then."""
    left = [moment]

    def counted(real):
        def call(*args, **kwargs):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr(Path, "replace", counted(Path.replace))
    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))


def test_a_kill_at_any_moment_loses_nothing_and_repeats_nothing(tmp_path, learner, monkeypatch):
    """Killed before the m-th rename or removal for every m, resumed as from a checkpoint, killed again, resumed again."""
    monkeypatch.setattr(parts, "BLOCK_STEPS", 2)
    monkeypatch.setattr("stateshape.record.writer.BLOCK_STEPS", 2)
    num_steps = 5
    write_run(tmp_path / "whole", learner, num_steps)
    whole = recorded(tmp_path / "whole")

    def attempt(folder: Path, num_done: int, behind: int) -> tuple[int, bool]:
        """Goes on from a checkpoint. Returns the steps that the next one knows, at most `behind` fewer than done, and
        whether it came to the end."""
        done = num_done
        writer = StateWriter(folder, METHOD, budget_mb=1)
        try:
            writer.resume(num_done)
            for step in range(num_done, num_steps):
                watch(writer, learner, step)
                done = step + 1
            writer.finish(learner)
        except Killed:
            return max(num_done, done - behind), False
        return num_steps, True

    moments = 0
    for behind in (0, 1):  # checkpoints every step, or every few
        for moment in range(100):
            folder = tmp_path / f"{behind}-{moment}"
            done, is_finished = 0, False
            for again in (moment, moment // 2, 1000):
                with monkeypatch.context() as patch:
                    kill_at(patch, again)
                    done, is_finished = attempt(folder, done, behind)
                steps = [row["step"] for row in recorded(folder)]
                assert steps == sorted(steps) and all(steps.count(step) == 2 for step in steps)
                assert set(range(done)) <= set(steps), "what a checkpoint knows is on record"
                if is_finished:
                    break
            assert is_finished and recorded(folder) == whole
            assert not list((folder / "states").glob(".*"))
            assert len(list((folder / "states").glob("*.parquet"))) == 3
            moments += 1
            if again == moment:
                break
        else:
            pytest.fail("never came through without a kill")
    assert moments > 20


def test_resuming_drops_later_steps(tmp_path, learner):
    write_run(tmp_path, learner, 5)
    writer = StateWriter(tmp_path, METHOD, budget_mb=1)
    writer.resume(3)
    assert [row["step"] for row in recorded(tmp_path)] == [0, 0, 1, 1, 2, 2]
    assert not (tmp_path / "states" / "summary.json").exists()
    writer.resume(0)
    assert not list((tmp_path / "states").iterdir())


# Budget


def test_recording_stops_when_the_budget_is_spent(tmp_path, learner):
    write_run(tmp_path / "free", learner, 4, num_rows=500)
    budget = bytes_of(tmp_path / "free")
    writer = write_run(tmp_path / "run", learner, 12, num_rows=500, budget_mb=budget / 1e6)
    told = json.loads((tmp_path / "run" / "states" / "summary.json").read_text())
    rows = recorded(tmp_path / "run")
    tokens = sum(len(row["ids"]) for row in rows)
    assert told["stopped_at_step"] == writer.stopped_at == 4
    assert [row["step"] for row in rows] == [step for step in range(4) for _ in range(500)]
    assert (told["num_bytes"], told["num_rows"], told["num_tokens"]) == (bytes_of(tmp_path / "run"), len(rows), tokens)
    assert told["num_bytes"] <= budget and math.isclose(told["bytes_per_token"], told["num_bytes"] / tokens)


def test_merging_makes_room_before_recording_stops(tmp_path, learner):
    """Steps that do not fit as files of their own fit together."""
    write_run(tmp_path / "free", learner, 12)
    write_run(tmp_path / "one", learner, 1)
    budget = bytes_of(tmp_path / "free")
    assert 12 * bytes_of(tmp_path / "one") > 4 * budget
    assert write_run(tmp_path / "run", learner, 12, budget_mb=budget / 1e6).stopped_at is None


def test_what_stopped_stays_stopped(tmp_path, learner):
    """A resumed run does not record on behind a hole; one resumed from before it does."""
    write_run(tmp_path, learner, 1)
    assert write_run(tmp_path, learner, 4, budget_mb=bytes_of(tmp_path) / 1e6).stopped_at == 1
    writer = StateWriter(tmp_path, METHOD, budget_mb=10)
    writer.resume(3)
    watch(writer, learner, 3)
    assert writer.stopped_at == 1 and {row["step"] for row in recorded(tmp_path)} == {0}
    writer.resume(1)
    watch(writer, learner, 1)
    assert writer.stopped_at is None and {row["step"] for row in recorded(tmp_path)} == {0, 1}


def test_a_budget_is_above_nothing(tmp_path):
    with pytest.raises(BadInput, match=r"states_mb: got 0; expected megabytes above 0"):
        StateWriter(tmp_path, METHOD, budget_mb=0)


def test_no_half_file_is_left_by_an_error(tmp_path, learner, monkeypatch):
    write_run(tmp_path, learner, 1)

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    writer = StateWriter(tmp_path, METHOD, budget_mb=1)
    writer.resume(1)
    with pytest.raises(OSError, match="No space"):
        watch(writer, learner, 1)
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["steps-000000-000000.parquet"]


def test_a_broken_part_is_one_line(tmp_path, learner):
    write_run(tmp_path, learner, 1)
    path = parts_of(tmp_path / "states")[0].path
    path.write_bytes(b"PAR1 no")
    with pytest.raises(BadInput, match="not a readable Parquet file"):
        read_part(path)
