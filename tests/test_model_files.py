"""Base models as people have them: whole and described by their configuration, or refused in one line."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from stateshape.core.files import BadInput
from stateshape.embedded import base_folder
from stateshape.policy.doctor import examine
from stateshape.policy.open import load_weights
from stateshape.policy.settings import LoraSettings, ModelSettings

SETTINGS = ModelSettings(device="cpu")


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(base_folder(), tmp_path / "base")


def with_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def with_tensors(folder, alter):
    path = folder / "model.safetensors"
    state = load_file(path)
    alter(state)
    save_file(state, path, metadata={"format": "pt"})


def cut(folder, size):
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(size)


def layers(number):
    return {"num_hidden_layers": number, "layer_types": ["full_attention"] * number}


WRONG = {
    "cut off": (lambda f: cut(f, 500_000), r"model\.safetensors of 500,000 bytes, while its header describes"),
    "cut in its header": (lambda f: cut(f, 5), r"broken one \(5 bytes\)"),
    "more layers": (lambda f: with_config(f, **layers(6)), r"no tensor model\.layers\.4\..*\(22 such\)"),
    "fewer layers": (lambda f: with_config(f, **layers(2)), r"model\.layers\.2\..* no place .*\(22 such\)"),
    "another width": (lambda f: with_config(f, intermediate_size=64), r"shape \(192, 576\) and by config.json \(192, 64\)"),
    "a tensor is missing": (
        lambda f: with_tensors(f, lambda state: state.pop("model.layers.1.mlp.up_proj.weight")),
        r"no tensor model\.layers\.1\.mlp\.up_proj\.weight \(1 such\)",
    ),
    "a bias that config.json denies": (
        lambda f: with_tensors(
            f, lambda state: state.update({"model.layers.0.self_attn.q_proj.bias": state["model.norm.weight"].clone()})
        ),
        r"model\.layers\.0\.self_attn\.q_proj\.bias has no place",
    ),
    "a field of another type": (lambda f: with_config(f, hidden_size="many"), "could not be loaded .*hidden_size"),
    "an unknown kind": (lambda f: with_config(f, model_type="nonesuch"), "could not be loaded .*nonesuch"),
    "no tokenizer": (
        lambda f: [path.unlink() for path in f.glob("tokenizer*")], "whose tokenizer returns no tokens|could not be loaded"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_model_that_is_not_whole_or_not_what_its_configuration_says_is_refused(name, folder, caplog):
    alter, message = WRONG[name]
    alter(folder)
    with pytest.raises(BadInput, match=message) as caught:
        load_weights(str(folder), SETTINGS)
    assert len(str(caught.value).splitlines()) == 1 and str(folder) in str(caught.value)
    assert not caplog.records


def test_computed_buffers_of_older_files_are_no_reason(folder):
    def add(state):
        state["model.layers.0.self_attn.rotary_emb.inv_freq"] = state["model.norm.weight"].clone()

    with_tensors(folder, add)
    assert load_weights(str(folder), SETTINGS).is_plain(None)


def test_doctor_says_that_a_folder_is_an_adapter_and_counts_layers_below_it(tmp_path):
    weights = load_weights(str(base_folder()), SETTINGS)
    weights.add_adapter("one", LoraSettings(rank=2, targets=("q_proj",)), seed=0)
    weights.save_adapter("one", tmp_path / "adapter")
    plain, adapted = (
        list(examine(source, None, settings=SETTINGS, rank=8))
        for source in (str(base_folder()), str(tmp_path / "adapter"))
    )
    assert adapted[0] == f"adapter      {tmp_path / 'adapter'}: LoRA r 2 on q_proj of the base embedded"
    for begin in ("memory", "model"):
        (line,) = (line for line in plain if line.startswith(begin))
        assert line in adapted
    assert any("LoRA       r 8 on 28 layers: 0.1 M parameters" in line for line in adapted)
