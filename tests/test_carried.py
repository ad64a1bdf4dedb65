"""A saved adapter carries what others need to open it: its base, its tokenizer, and a card."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
import transformers

import stateshape
from stateshape import LoraSettings, TrainSettings
from stateshape.embedded import base_folder
from stateshape.locality.settings import LocalitySettings
from stateshape.policy.settings import ModelSettings
from stateshape.policy.source import base_read, base_written, resolve

SETTINGS = TrainSettings(steps=2, batch_prompts=2, lr=1e-2, lora=LoraSettings(rank=2, alpha=4))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("carried") / "run"
    stateshape.train_run(
        stateshape.SFT(),
        model="embedded",
        task="arithmetic",
        out=out,
        settings=SETTINGS,
        locality=LocalitySettings(share=0),
    )
    return out


def test_peft_and_transformers_open_the_folder_alone_and_compute_what_we_do(run):
    model = peft.AutoPeftModelForCausalLM.from_pretrained(str(run / "adapter"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(run / "adapter"))
    policy = stateshape.open_policy(str(run), ModelSettings(device="cpu"))
    ids = policy.encode_prompt("Question: What is 3 + 4?\nAnswer:")
    assert tokenizer("Question: What is 3 + 4?\nAnswer:")["input_ids"] == ids
    assert tokenizer.get_vocab() == policy.tokenizer.get_vocab()
    ids_BT = torch.tensor([ids])
    at_BT = torch.ones_like(ids_BT, dtype=torch.bool)
    with torch.no_grad():
        theirs_NV = model(ids_BT).logits[0]
        ours_NV = policy.hidden(ids_BT, torch.tensor([len(ids)]), at_BT) @ policy.head.weight_VD.T
        with model.disable_adapter():
            base_NV = model(ids_BT).logits[0]
    assert (theirs_NV - base_NV).abs().max() > 0.01  # the adapter does something
    torch.testing.assert_close(ours_NV, theirs_NV, rtol=1e-3, atol=1e-3)


def test_the_adapters_folder_is_still_on_the_embedded_base(run):
    assert resolve(str(run / "adapter")).model == "embedded"
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base_folder())
    assert base_read("/another/place/site-packages/stateshape/embedded/base") == "embedded"


def test_a_base_is_written_so_that_it_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert base_written("mine") == str(tmp_path / "mine")
    assert base_written("owner/name") == base_read("owner/name") == "owner/name"
    assert base_read("embedded") == "embedded"
    assert base_read(base_written("mine")) == str(tmp_path / "mine")


def test_the_card_says_how_it_was_made_and_what_is_not_known_yet(run):
    card = (run / "adapter" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nbase_model: embedded\nlibrary_name: peft\n")
    for said in ("2 steps", "written when training ended", "AutoPeftModelForCausalLM", "`../run.json`", "`arithmetic`"):
        assert said in card, said


def test_all_of_it_is_sealed_with_the_run(run):
    listed = (run / "manifest.json").read_text(encoding="utf-8")
    for name in ("README.md", "tokenizer.json", "tokenizer_config.json", "adapter_config.json"):
        assert f"adapter/{name}" in listed


def test_a_published_run_takes_the_tokenizer_it_carries_and_gets_a_card_of_its_own(run, tmp_path, monkeypatch):
    def loaded(*given: object, **options: object) -> None:
        raise AssertionError("the tokenizer is in the run's folder")

    monkeypatch.setattr("stateshape.study.publish.tokenizer_of", loaded)
    stateshape.publish(run, to=tmp_path / "published", base_model="owner/base")
    assert (tmp_path / "published" / "tokenizer.json").read_bytes() == (run / "adapter" / "tokenizer.json").read_bytes()
    card = (tmp_path / "published" / "README.md").read_text(encoding="utf-8")
    assert "owner/base" in card
    assert "written when training ended" not in card
