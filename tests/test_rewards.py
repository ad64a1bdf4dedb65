"""Rewards of one's own: what is refused before a model loads, what a function may return, and what it may not do."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

import tiny
from stateshape.cli import main
from stateshape.core.chat import Chat
from stateshape.core.files import BadInput, parse, plain
from stateshape.recipes.grpo import GRPO
from stateshape.recipes.grpo_opd import GRPOPlusOPD
from stateshape.recipes.online_dpo import OnlineDPO
from stateshape.recipes.rewards import GIVEN, reward_of
from stateshape.signals.reward import advantages
from stateshape.tasks import gsm8k
from stateshape.tasks.items import GenerationItem

OWN = """
import math, numpy, torch

def two(item, text): return 1.0
def lists(prompts, completions, **kwargs): return [1.0 for _ in completions]
def three_lists(prompts, completions, completion_ids, **kwargs): return [1.0 for _ in completions]
def four(item, text, finish, more): return 1.0
def must_be_named(item, text, finish, *, more): return 1.0
async def waits(item, text, finish): return 1.0
def yields(item, text, finish): yield 1.0
class Waits:
    async def __call__(self, item, text, finish): return 1.0
class Takes:
    def __call__(self, item, text): return 1.0
class Counts:
    def __call__(self, item, text, finish): return len(text)
waits_too, takes_two, counts = Waits(), Takes(), Counts()
anything = lambda *given: 1.0
more = lambda item, text, finish, scale=2.0: scale

def cut(item, text, finish): return float(text.split("####")[1])
def leaves(item, text, finish): raise SystemExit(3)
def changes(item, text, finish): item.gold = text
def asks(item, text, finish): return item.answer == text
def asks_the_text(item, text, finish): return text.answer
def silent(item, text, finish): raise KeyError
def gives(value): return lambda item, text, finish: value
"""


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "own.py"

    def made(name: str, extra: str = ""):
        file.write_text(OWN + extra)
        return reward_of(f"{file}:{name}", tiny.parts(None))

    return made


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("two", r"which takes \(item, text\) \(too many positional arguments when given three\)"),
        ("four", "missing a required argument: 'more'"),
        ("must_be_named", "missing a required.* argument: 'more'"),
        ("waits", "async or a generator"),
        ("yields", "async or a generator"),
        ("waits_too", "async or a generator"),
        ("takes_two", r"which takes \(item, text\)"),
    ],
)
def test_a_function_of_another_kind_is_refused_when_it_is_named(name, said, own):
    with pytest.raises(BadInput, match=f"reward: got '.*own.py:{name}', .*{said}") as error:
        own(name)
    assert "expected a function (item, text, finish) -> number or None" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "value"), [("anything", 1.0), ("more", 2.0), ("counts", 4.0)])
def test_what_can_be_called_with_three_is_taken(name, value, own):
    assert own(name)("item0", "text", "eos") == value


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cut", r"raised IndexError: list index out of range \(own.py:\d+\)"),
        ("leaves", "raised SystemExit: 3"),
        ("changes", "raised FrozenInstanceError: cannot assign to field 'gold'"),
        ("silent", r"raised KeyError \(own.py:\d+\)"),
    ],
)
def test_a_function_that_raises_is_one_line_with_the_item_and_the_texts_end(name, said, own):
    reward = own(name)
    with pytest.raises(
        BadInput, match=f"own.py:{name}' {said}.* for item0, whose text ends in '.*no\\\\nmark'"
    ) as error:
        reward("item0", "x" * 500 + " no\nmark", "length")
    assert len(str(error.value)) < 500
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("True", 1.0),
        ("0", 0.0),
        ("-3.4e38", -3.4e38),
        ("numpy.float64(0.5)", 0.5),
        ("numpy.array([0.5])", 0.5),
        ("numpy.bool_(True)", 1.0),
        ("torch.tensor(0.5)", 0.5),
        ("torch.tensor([0.5], requires_grad=True)", 0.5),
        ("None", None),
    ],
)
def test_what_counts_as_a_number(value, number, own):
    assert own("given", f"given = gives({value})")("item0", "text", "eos") == number


def test_a_function_that_asks_an_item_for_what_it_has_not_is_told_what_it_has(own):
    with pytest.raises(
        BadInput, match=r"no attribute 'answer'.*an item has item_id, prompt, gold, .*item\.columns"
    ) as error:
        own("asks")("item0", "text", "eos")
    assert "\n" not in str(error.value)
    for name in GIVEN:
        assert name in {field.name for field in fields(GenerationItem)}
    with pytest.raises(BadInput, match="no attribute 'answer'") as error:
        own("asks_the_text")("item0", "text", "eos")
    assert "an item has" not in str(error.value)


def test_nan_is_a_missing_reward_as_none_is(own):
    assert math.isnan(own("given", "given = gives(math.nan)")("item0", "text", "eos"))


@pytest.mark.parametrize(
    "value",
    [
        "'1.0'", "b'1'", "[1.0]", "(1.0, 'why')", "{}", "1j", "1e308", "-1e308", "1e39", "10**400", "math.inf", "-math.inf",
        "numpy.array([1.0, 2.0])", "torch.ones(2)", "torch.tensor(float('inf'))", "object()",
    ],
)  # fmt: skip
def test_what_is_no_number_is_refused(value, own):
    reward = own("given", f"given = gives({value})")
    with pytest.raises(BadInput, match=r"gave .* for item0; expected a finite number, or None for no grade") as error:
        reward("item0", "text", "eos")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("fault", ["1 / 0", "undefined", "raise SystemExit(1)", "raise KeyError('a')", "def ("])
def test_a_file_that_can_not_be_imported_is_one_line(fault, tmp_path):
    (tmp_path / "own.py").write_text(fault)
    with pytest.raises(BadInput, match=r"reward: got '.*own.py:reward', which can't be imported \(\w+") as error:
        reward_of(f"{tmp_path / 'own.py'}:reward", tiny.parts(None))
    assert "\n" not in str(error.value)


def test_large_rewards_are_compared_as_small_ones_are():
    """Their squares are no fp32 numbers: the standard deviation was infinite, and every credit 0."""
    small = torch.tensor([1.0, 2.0, 3.0, 6.0])
    group_B = torch.zeros(4, dtype=torch.int64)
    for baseline in ("group-mean", "leave-one-out", "batch-mean"):
        expected = advantages(small, group_B, baseline=baseline, scale="std")
        torch.testing.assert_close(
            advantages(small * 5e37, group_B, baseline=baseline, scale="std"), expected, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("fields", [{"group": 1}, {"group": 1, "baseline": "leave-one-out", "scale": "none"}])
def test_a_group_of_one_has_nothing_to_be_compared_with(fields):
    with pytest.raises(BadInput, match=r"group: got 1 with baseline .*; expected 2 or more"):
        GRPO(**fields)
    with pytest.raises(BadInput, match=r"runs\.rl\.with: group: got 1"):
        parse(fields, GRPO, where="runs.rl.with")
    GRPO(group=1, baseline="none", scale="none")
    GRPO(group=1, baseline="batch-mean")


@pytest.mark.parametrize("made", [OnlineDPO, lambda samples: GRPOPlusOPD(teacher="t", samples=samples)])
def test_samples_that_are_compared_are_at_least_two(made):
    with pytest.raises(BadInput, match="samples: got 1; expected 2 or more"):
        made(samples=1)
    assert plain(made(samples=2))["samples"] == 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--group", "1"], "group: got 1"),
        (["--reward", "OWN:two"], "reward: got"),
        (["--reward", "OWN:three_lists"], "which takes completion_ids"),
        (["--reward", "exact-answer,0*OWN:counts"], "got weight '0'"),
    ],
)
def test_the_command_line_refuses_before_a_model_loads(more, said, tmp_path, capsys, monkeypatch):
    def load(*given):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("stateshape.study.single.open_weights", load)
    (tmp_path / "own.py").write_text(OWN)
    more = [part.replace("OWN", str(tmp_path / "own.py")) for part in more]
    out = tmp_path / "run"
    assert main(["train", "grpo", "--model", "embedded", "--task", "arithmetic", "--out", str(out), *more]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


LISTS = """
def shape(prompts, completions, **kwargs): return [float(len(prompts) == len(completions) == 1)]
def columns(completions, answer, level, unknown=7, **kwargs): return [float(answer[0] == "1") + level[0] + unknown]
def all_columns(**kwargs): return [1.0]
def said(prompts, completions): return [len(prompts[0]) + 10.0 * (completions[0][0]["role"] == "assistant")]
def lacks(completions, level, nowhere): return [0.0]
def wants_ids(prompts, completions, completion_ids): return [0.0]
def gives_one(completions): return 1.0
def gives_two(completions): return [1.0, 2.0]
def unknown(completions): return [None]
def two(item, text, finish): return 2.0
"""


@pytest.fixture
def listed(tmp_path):
    """Rewards of an item with a column, or of a chat."""
    file = tmp_path / "lists.py"
    file.write_text(LISTS)
    asked = Chat(messages=({"role": "system", "content": "short"}, {"role": "user", "content": "1?"}))
    made = tiny.parts(None)
    plain_item, chat = (
        GenerationItem(item_id=name, prompt="p", gold="1", completion=" 1", columns={"level": 3}, chat=one)
        for name, one in (("plain", None), ("chat", asked))
    )
    parts = replace(made, task=replace(made.task, train=(plain_item, chat)), item_ids=("plain", "chat"))
    return lambda names: reward_of(names.replace("LISTS", str(file)), parts)


@pytest.mark.parametrize(
    ("name", "item_id", "value"),
    [("shape", "plain", 1.0), ("columns", "plain", 11.0), ("said", "chat", 12.0), ("unknown", "plain", None)],
)
def test_a_function_of_lists_is_called_with_lists_of_one_and_the_rows_columns(name, item_id, value, listed):
    assert listed(f"LISTS:{name}")(item_id, "text", "eos") == value


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "lacks",
            "takes nowhere; expected arguments among answer, completions, level, prompts, solution; add the column",
        ),
        ("wants_ids", "takes completion_ids; .*; rewards here are not given tokens; add"),
    ],
)
def test_a_function_of_lists_that_asks_for_more_is_refused_when_it_is_named(name, wanted, listed):
    with pytest.raises(BadInput, match=wanted):
        listed(f"LISTS:{name}")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("exact-answer", "#### 1", 1.0),
        ("flexible-answer", "#### 1", 1.0),
        ("exact-answer", "it is 1.", 0.0),
        ("flexible-answer", "it is 1.", 1.0),
        ("flexible-answer", "it is 1, or 2", 0.0),
    ],
)
def test_an_answer_is_read_as_the_task_asks_for_it_or_wherever_it_stands(name, text, value):
    items = (GenerationItem(item_id="plain", prompt="?", gold="1"),)
    parts = tiny.parts(None)
    task = replace(parts.task, train=items, grade=gsm8k.grade)
    assert reward_of(name, replace(parts, task=task))("plain", text, "eos") == value


@pytest.mark.parametrize("name", ["gives_one", "gives_two"])
def test_a_function_of_lists_gives_a_list_of_one(name, listed):
    with pytest.raises(BadInput, match="expected a list of one number"):
        listed(f"LISTS:{name}")("plain", "text", "eos")


@pytest.mark.parametrize(
    ("names", "value"),
    [
        ("exact-answer,0.5*LISTS:two", 2.0),
        ("-1e1*LISTS:two", -20.0),
        ("exact-answer , 2 * LISTS:unknown", 1.0),
        ("LISTS:unknown,3*LISTS:unknown", None),
    ],
)
def test_several_rewards_are_a_weighted_sum_of_what_is_known(names, value, listed):
    assert listed(names)("plain", "#### 1", "eos").total == value


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        ("exact-answer,0.5*LISTS:two", {"exact-answer": 1.0, "two": 2.0}),
        ("0.5*LISTS:two", {"two": 2.0}),
        ("exact-answer,LISTS:unknown", {"exact-answer": 1.0, "unknown": None}),
        ("LISTS:two,OTHER:two", {"LISTS:two": 2.0, "OTHER:two": 6.0}),
    ],
)
def test_each_part_of_a_sum_has_its_functions_name_and_is_without_its_weight(names, parts, listed, tmp_path):
    """Two functions of one name keep the names of their files."""
    (tmp_path / "other.py").write_text("def two(item, text, finish): return float(len(text))")
    files = {"LISTS": str(tmp_path / "lists.py"), "OTHER": str(tmp_path / "other.py")}
    told = listed(names.replace("OTHER", files["OTHER"]))("plain", "#### 1", "eos")
    assert told.parts == {
        name.replace("LISTS", files["LISTS"]).replace("OTHER", files["OTHER"]): v for name, v in parts.items()
    }


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ("x*exact-answer", "got weight 'x' in 'x\\*exact-answer'"),
        ("nan*exact-answer", "got weight 'nan'"),
        ("exact-answer,", "got ''"),
        ("exact-answer,3e38*LISTS:two", "gave 6e\\+38 for plain"),
    ],
)
def test_weights_that_make_no_sense_are_refused(names, wanted, listed):
    with pytest.raises(BadInput, match=wanted):
        listed(names)("plain", "", "eos")


def test_the_documentation_names_every_field_of_an_item():
    text = (Path(__file__).parents[1] / "docs/recipes.md").read_text(encoding="utf-8")
    assert all(f"`item.{field.name}`" in text for field in fields(GenerationItem))
