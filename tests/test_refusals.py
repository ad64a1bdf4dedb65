"""Values and parts of a user's own that can't be meant: each is one line that names the field, before anything is trained."""

import math
import pickle
import random
from functools import partial

import pytest

import tiny
from stateshape.core.files import BadInput
from stateshape.core.states import Origin
from stateshape.policy.source import is_same_model
from stateshape.recipes.opd import OPD
from stateshape.recipes.opd_sft import OPDPlusSFT
from stateshape.recipes.recipe import recipe_class
from stateshape.recipes.rewards import reward_of
from stateshape.recipes.sdft import SDFT
from stateshape.sampling.settings import SamplingSettings
from stateshape.states.cuts import Cut
from stateshape.states.schedules import Schedule
from stateshape.study.plan import make_plan
from stateshape.study.preflight import check_build
from stateshape.study.study_file import read_study_file
from stateshape.train.settings import TrainSettings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens: got 0; expected 1 or more"),
        ({"max_new_tokens": 4, "num_samples": -1}, "num_samples: got -1"),
        ({"max_new_tokens": 4, "temperature": -1.0}, r"temperature: got -1\.0; expected 0 \(greedy\) or more"),
        ({"max_new_tokens": 4, "temperature": math.nan}, "temperature: got nan"),
        ({"max_new_tokens": 4, "stops": ("Q:", "")}, "stops: got an empty text"),
    ],
)
def test_sampling_that_is_none(fields, message):
    with pytest.raises(BadInput, match=message):
        SamplingSettings(**fields)


@pytest.mark.parametrize("field", ["rollout_tokens", "samples"])
@pytest.mark.parametrize("make", [partial(OPD, teacher="t"), partial(OPDPlusSFT, teacher="t"), SDFT])
def test_a_recipe_names_its_own_field(make, field):
    with pytest.raises(BadInput, match=f"{field}: got 0; expected 1 or more"):
        make(**{field: 0})


def test_training_that_is_none():
    with pytest.raises(BadInput, match=r"weight_decay: got -1"):
        TrainSettings(weight_decay=-1)
    with pytest.raises(BadInput, match=r"epochs: got 1e\+308"):
        TrainSettings(epochs=1e308)


@pytest.mark.parametrize("template", ["{prompt}{solution}{}", "{prompt}{solution}{x}", "{prompt}{solution}}"])
def test_a_template_with_other_braces(template):
    with pytest.raises(BadInput, match="template: got"):
        SDFT(template=template)


@pytest.mark.parametrize("keep", ["-2", "99", "0.5", "None"])
def test_a_cut_of_ones_own_outside_the_response(keep, tmp_path):
    (tmp_path / "own.py").write_text(f"def cut(policy, rows, items, rng): return [{keep}] * len(rows)\n")
    rows = [tiny.row([3], [5] * 4, Origin.LEARNER)]
    with pytest.raises(BadInput, match=rf"kept {keep} of 4 tokens of .*; expected a whole number from 0 to 3"):
        Cut(at=f"{tmp_path / 'own.py'}:cut").applied(None, rows, {}, random.Random(0))


def test_a_cut_of_no_rows_is_no_rows():
    assert Cut(at="entropy").applied(None, [], {}, random.Random(0)) == []


@pytest.mark.parametrize("value", ["'text'", "[1]", "float('inf')"])
def test_a_reward_that_is_no_number(value, tmp_path):
    (tmp_path / "own.py").write_text(f"def reward(item, text, finish): return {value}\nnumber = 1\n")
    reward = reward_of(f"{tmp_path / 'own.py'}:reward", tiny.parts(None))
    with pytest.raises(BadInput, match="for item0; expected a finite number, or None for no grade"):
        reward("item0", "text", "eos")
    with pytest.raises(BadInput, match="which is not a function"):
        reward_of(f"{tmp_path / 'own.py'}:number", tiny.parts(None))
    with pytest.raises(BadInput, match=r"reward: got '\.:x', which can't be imported"):
        reward_of(".:x", tiny.parts(None))


def test_numbers_of_numpy_and_torch_are_numbers(tmp_path):
    own = "import numpy, torch\ndef reward(item, text, finish): return {}(0.5)\n"
    for name in ("numpy.float32", "torch.tensor"):
        file = tmp_path / f"{name.replace('.', '_')}.py"
        file.write_text(own.format(name))
        assert reward_of(f"{file}:reward", tiny.parts(None))("item0", "text", "eos") == 0.5
    (tmp_path / "cut.py").write_text("import numpy\ndef cut(policy, rows, items, rng): return numpy.array([2])\n")
    row = tiny.row([3], [5] * 4, Origin.LEARNER)
    (made,) = Cut(at=f"{tmp_path / 'cut.py'}:cut").applied(None, [row], {}, random.Random(0))
    assert made.response == [5, 5]


def test_a_schedule_that_gives_nothing(tmp_path):
    (tmp_path / "own.py").write_text("def none(step, num_steps): pass\n")
    with pytest.raises(BadInput, match="gave None at step 1"):
        Schedule(kind=f"{tmp_path / 'own.py'}:none").at(1, 6)


OWN = """
from stateshape.recipes.sft import SFT
class Bare:
    compositions = SFT.compositions
    def build(self, parts): ...
class Mine(SFT):
    pass
"""


def test_a_recipe_of_ones_own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    with pytest.raises(BadInput, match="which is not a dataclass"):
        recipe_class(f"{tmp_path / 'own.py'}:Bare")
    text = tiny.study_text(f"mine: {{recipe: '{tmp_path / 'own.py'}:Mine'}}")
    (tmp_path / "study.yaml").write_text(text)
    (spec,) = make_plan(read_study_file(str(tmp_path / "study.yaml"))).runs
    assert b"stateshape_user" not in pickle.dumps(spec), "another process has not imported the file"
    assert pickle.loads(pickle.dumps(spec)).recipe() == spec.recipe()


def test_several_teachers_where_one_is_taken(tmp_path):
    (tmp_path / "study.yaml").write_text(tiny.study_text("two: {recipe: grpo_opd, teacher: 'a=embedded,b=embedded'}"))
    (spec,) = make_plan(read_study_file(str(tmp_path / "study.yaml"))).runs
    with pytest.raises(BadInput, match=r"got several teachers or references, .*; recipe grpo_opd takes one"):
        check_build(spec, tiny.task())


def test_a_replay_is_built_before_its_states_are_there(tmp_path):
    run = "again: {recipe: replay, states: first, with: {signal: reward, reward: 'nowhere.py:length'}}"
    (tmp_path / "study.yaml").write_text(tiny.study_text("first: {recipe: sft}", run))
    spec = make_plan(read_study_file(str(tmp_path / "study.yaml"))).runs[1]
    with pytest.raises(BadInput, match="reward: got 'nowhere"):
        check_build(spec, tiny.task())


def test_two_spellings_of_one_folder_are_one_model(tmp_path):
    (tmp_path / "m").mkdir()
    assert is_same_model(str(tmp_path / "m"), f"{tmp_path}/m/")
    assert not is_same_model(str(tmp_path / "m"), str(tmp_path))
    assert not is_same_model("owner/name", "owner/other")
