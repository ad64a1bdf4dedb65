"""The callback inside Axolotl and Unsloth, on a CPU. Each training is a process of its own: both libraries patch transformers.

Runs where they are installed. Axolotl pins other versions than ours, so that each needs an environment of its own:
pip install axolotl pytest -e . && pytest -m slow tests/test_axolotl_unsloth.py
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import trainer_rows as of
from stateshape.core import layout
from stateshape.core.files import read_jsonl
from stateshape.core.records import EvalStep, LocalityRecord
from stateshape.embedded import base_folder

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


def run(*words: str, at: Path) -> None:
    found = subprocess.run(
        [sys.executable, *words],
        cwd=at,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "examples"), os.environ.get("PYTHONPATH", "")]),
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "AXOLOTL_DO_NOT_TRACK": "1",
        },
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr[-3000:]


def check_measured(watched: Path, losses: list[float], *, steps: list[int]) -> None:
    """Evaluations are there, and supervision is where the trainer's own loss says."""
    assert [line.step for line in read_jsonl(watched / layout.EVAL_STEPS, EvalStep)] == steps
    seen = read_jsonl(watched / layout.LOCALITY, LocalityRecord)
    assert [line.step for line in seen] == steps[:-1]
    for line in seen:
        assert line.values["surprisal_nats"] == pytest.approx(losses[line.step], rel=1e-4)


AXOLOTL = {
    "base_model": str(base_folder()),
    "datasets": [{"path": "rows.jsonl", "ds_type": "json", "type": "input_output", "split": "train"}],
    "sequence_len": 256,
    "micro_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "num_epochs": 1,
    "max_steps": 4,
    "logging_steps": 1,
    "learning_rate": 1e-3,
    "optimizer": "adamw_torch",
    "lr_scheduler": "constant",
    "bf16": False,
    "fp16": False,
}
LORA = {
    "adapter": "lora",
    "lora_r": 2,
    "lora_alpha": 4,
    "lora_target_linear": True,
    "lora_mlp_kernel": False,
    "lora_qkv_kernel": False,
    "lora_o_kernel": False,
}


def axolotl(at: Path, name: str, **more: object) -> tuple[Path, list[float]]:
    """The folder of a training, and its losses."""
    rows = [
        {"segments": [{"label": False, "text": item.prompt}, {"label": True, "text": item.completion}]}
        for item in of.ITEMS
    ]
    (at / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = at / f"{name}.yaml"
    config.write_text(yaml.safe_dump({**AXOLOTL, "output_dir": name, **more}), encoding="utf-8")
    run("-m", "axolotl.cli.train", config.name, at=at)
    state = json.loads((at / name / "checkpoint-4" / "trainer_state.json").read_text(encoding="utf-8"))
    return at / name, [line["loss"] for line in state["log_history"] if "loss" in line]


@needs("axolotl")
def test_axolotl_trains_all_parameters_to_the_same_bits_with_and_without_the_plugin(tmp_path):
    alone, losses = axolotl(tmp_path, "alone")
    watched, seen = axolotl(tmp_path, "seen", plugins=["watch_axolotl.Watched"])
    assert seen == losses
    assert (watched / "model.safetensors").read_bytes() == (alone / "model.safetensors").read_bytes()
    check_measured(watched / "watched", losses, steps=[0, 2, 4])


@needs("axolotl")
def test_axolotls_adapter_begins_at_its_base(tmp_path):
    """Axolotl does not seed an adapter's first weights, so that two trainings are never the same."""
    folder, losses = axolotl(tmp_path, "seen", plugins=["watch_axolotl.Watched"], **LORA)
    check_measured(folder / "watched", losses, steps=[0, 2, 4])
    first, *_, last = read_jsonl(folder / "watched" / layout.EVAL_STEPS, EvalStep)
    assert first.distances["reverse_kl_new_task_nats"] == 0
    assert last.distances["reverse_kl_new_task_nats"] > 0


@needs("unsloth")
@pytest.mark.parametrize(("kind", "weights"), [("lora", "adapter_model.safetensors"), ("whole", "model.safetensors")])
def test_unsloth_trains_to_the_same_bits_with_and_without_the_callback(kind, weights, tmp_path):
    script = str(Path(__file__).with_name("unsloth_training.py"))
    run(script, "alone", "", kind, at=tmp_path)
    run(script, "seen", "watched", kind, at=tmp_path)
    assert (tmp_path / "seen" / weights).read_bytes() == (tmp_path / "alone" / weights).read_bytes()
    losses = [loss for loss, _ in json.loads((tmp_path / "seen" / "steps.json").read_text(encoding="utf-8"))]
    check_measured(tmp_path / "watched", losses, steps=[0, 2, 3])
