"""How far a study is, and about how long it still takes."""

import pytest
from rich.console import Console

from stateshape.cli.terminal import StudyLine, Terminal
from stateshape.study.pace import Pace


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_time_is_not_told_before_a_run_is_over():
    pace = Pace({("a", 0): 100.0, ("b", 0): 300.0}, num_over=1, num_slots=1)
    pace.begin("a", 0)
    assert pace.told() == {"running": ["a seed 0"], "number": 2, "of": 3, "seconds_left": None}
    assert str(StudyLine(pace.told())) == "run 2 of 3"


def test_the_work_that_is_left_takes_as_long_as_that_of_the_runs_done(clock):
    pace = Pace({("a", 0): 100.0, ("b", 0): 300.0, ("c", 0): 50.0}, num_over=0, num_slots=1, clock=clock)
    pace.begin("a", 0)
    clock.now = 200.0
    pace.end("a", 0)
    pace.begin("b", 0)
    assert pace.seconds_left() == 700.0
    clock.now = 300.0
    assert pace.seconds_left() == 600.0
    clock.now = 1000.0  # b takes longer than was thought: c is still to come
    assert pace.seconds_left() == 100.0


def test_workers_share_what_is_left_and_the_longest_run_has_its_time(clock):
    work = {("a", 0): 10.0, ("b", 0): 100.0, ("c", 0): 20.0, ("d", 0): 20.0}
    pace = Pace(work, num_over=0, num_slots=2, clock=clock)
    pace.begin("a", 0)
    pace.begin("b", 0)
    clock.now = 10.0
    pace.end("a", 0)
    pace.begin("c", 0)
    told = pace.told()
    assert told == {"running": ["b seed 0", "c seed 0"], "number": 3, "of": 4, "seconds_left": 90.0}


def test_a_run_that_was_finished_before_does_not_count(clock):
    pace = Pace({("b", 0): 10.0}, num_over=1, num_slots=1, clock=clock)
    pace.begin("a", 0)
    clock.now = 0.1
    pace.end("a", 0)
    pace.begin("b", 0)
    assert pace.told() == {"running": ["b seed 0"], "number": 2, "of": 2, "seconds_left": None}


def test_the_line_is_below_the_bar():
    terminal = Terminal()
    terminal.console = Console(force_terminal=True, width=80, record=True)
    terminal.event("pace", {"running": ["sft seed 0"], "number": 3, "of": 7, "seconds_left": 1080.0})
    tick = terminal.track("train sft", "steps")
    tick(0, 10)
    assert terminal.progress is not None
    terminal.console.print(terminal.progress.get_renderable())
    terminal.stop()
    shown = terminal.console.export_text()
    assert "train sft" in shown
    assert "  run 3 of 7; study: about 18 min left" in shown


def test_runs_side_by_side_are_named():
    line = StudyLine({"running": ["sft seed 0", "rl seed 1"], "number": 3, "of": 7, "seconds_left": 30.0})
    assert str(line) == "now sft seed 0, rl seed 1; study: less than a minute left"
