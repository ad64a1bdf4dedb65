"""A model is known by its content, whatever its folder is called."""

from __future__ import annotations

import json
import shutil

import torch
from safetensors.torch import load_file, save_file

from stateshape.embedded import base_folder
from stateshape.policy import fingerprint
from stateshape.policy.fingerprint import weights_sha256


def copied(folder):
    shutil.copytree(base_folder(), folder)
    return folder


def change(path, at=(0, 0)):
    state = load_file(path)
    first = sorted(state)[0]
    state[first][at] += 1
    save_file(state, path, metadata={"format": "pt"})


def test_a_copy_has_the_same_value_and_another_weight_or_tokenizer_another(tmp_path):
    value = weights_sha256("embedded")
    assert value is not None and len(value) == 64
    one = copied(tmp_path / "one")
    assert weights_sha256(str(one)) == weights_sha256(f"{one}/") == value
    change(one / "model.safetensors")
    other_weights = weights_sha256(str(one))
    two = copied(tmp_path / "two")
    (two / "tokenizer.json").write_text((two / "tokenizer.json").read_text() + " ")
    assert len({value, other_weights, weights_sha256(str(two))}) == 3


def test_the_configuration_counts_and_the_version_that_wrote_it_does_not(tmp_path):
    value = weights_sha256("embedded")
    config = copied(tmp_path / "base") / "config.json"
    fields = json.loads(config.read_text())
    config.write_text(json.dumps(fields | {"transformers_version": "0.0"}))
    assert weights_sha256(str(tmp_path / "base")) == value
    config.write_text(json.dumps(fields | {"rms_norm_eps": 0.5}))
    assert weights_sha256(str(tmp_path / "base")) != value


def test_of_a_large_file_pages_and_both_ends_are_read(tmp_path, monkeypatch):
    for name, number in (("WHOLE_BYTES", 2**10), ("EDGE_BYTES", 2**12), ("STRIDE_BYTES", 2**13), ("PAGE_BYTES", 2**8)):
        monkeypatch.setattr(fingerprint, name, number)
    path = copied(tmp_path / "base") / "model.safetensors"
    values = [weights_sha256(str(tmp_path / "base"))]
    for scale in (1.125, 0.5):
        state = {key: value * scale for key, value in load_file(path).items()}
        save_file(state, path, metadata={"format": "pt"})
        values.append(weights_sha256(str(tmp_path / "base")))
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    values.append(weights_sha256(str(tmp_path / "base")))
    assert len(set(values)) == 4


def test_an_adapter_and_a_run_are_known_by_the_adapter_whatever_their_base_is_called(tmp_path):
    adapter = tmp_path / "run" / "adapter"
    adapter.mkdir(parents=True)
    save_file({"a": torch.ones(2, 2)}, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text('{"r": 4, "base_model_name_or_path": "M/base"}')
    (tmp_path / "run" / "run.json").write_text('{"method": "sft", "model": "embedded"}')
    value = weights_sha256(str(adapter))
    assert value is not None and weights_sha256(str(tmp_path / "run")) == value
    (adapter / "adapter_config.json").write_text('{"r": 4, "base_model_name_or_path": "elsewhere"}')
    assert weights_sha256(str(adapter)) == value
    (adapter / "adapter_config.json").write_text('{"r": 8}')
    assert weights_sha256(str(adapter)) != value


def test_a_gguf_folder_has_a_value_and_what_is_not_there_has_none(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF1")
    assert weights_sha256(str(tmp_path)) is not None
    (tmp_path / "empty").mkdir()
    for source in (str(tmp_path / "empty"), str(tmp_path / "nowhere" / "at" / "all"), "nobody/nothing-like-this", ""):
        assert weights_sha256(source) is None


def test_a_base_run_has_its_bases_value(tmp_path):
    (tmp_path / "run.json").write_text('{"method": null, "model": "embedded"}')
    assert weights_sha256(str(tmp_path)) == weights_sha256("embedded")
