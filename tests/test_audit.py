"""Checkpoints made anywhere: loaded, measured beside the base, told in words; or refused in one line before a model loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import tiny
from stateshape.analysis.audit import audits
from stateshape.analysis.compare import compare_scores
from stateshape.analysis.scores import StudyScores
from stateshape.cli import main
from stateshape.core.files import BadInput, read_json, read_jsonl
from stateshape.core.records import EvalRow, FlippedItem, KlRecord, RunRecord
from stateshape.core.study_records import Audit, PlannedRun, PlanRecord, TaskRecord
from stateshape.embedded import base_folder
from stateshape.locality.apart import kl_at, mean_over_prompts, own_states
from stateshape.policy.open import open_weights
from stateshape.policy.policy import Policy
from stateshape.policy.settings import LoraSettings, ModelSettings
from stateshape.policy.source import resolve
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import SamplingSettings
from stateshape.study.audit import audit_file, label_of, names_of

CPU = ModelSettings(device="cpu")
SMALL = [
    "--limit",
    "12",
    "--prompts",
    "12",
    "--cuts",
    "1",
    "--max-new-tokens",
    "8",
    "--no-hidden",
    "--device",
    "cpu",
    "--quiet",
]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter on the embedded base that says something else than the base; never trained."""
    folder = tmp_path_factory.mktemp("adapters") / "theirs"
    weights = open_weights("embedded", CPU)
    tiny.adapter(weights, "theirs", seed=3, size=0.05, lora=LoraSettings(rank=2, alpha=4))
    weights.save_adapter("theirs", folder)
    return folder


@pytest.fixture(scope="module")
def merged(adapter: Path) -> Path:
    """The same as a whole model."""
    folder = adapter.parent / "whole"
    base = transformers.AutoModelForCausalLM.from_pretrained(base_folder())
    peft.PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(base_folder()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with another tokenizer: a BPE of 200 tokens."""
    folder = tmp_path_factory.mktemp("models") / "stranger"
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["Ann has three pens and buys four more, so she has seven."] * 4, trainer)
    tokens = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>")
    tokens.save_pretrained(folder)
    tiny.random_model(5, vocab_size=len(tokens), max_position_embeddings=512, eos_token_id=0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def done(adapter: Path, merged: Path, stranger: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("audit") / "out"
    tuned = [str(adapter), str(merged), str(stranger)]
    assert (
        main(["audit", "embedded", *tuned, "--task", "arithmetic", "--retention", "facts", "--out", str(out), *SMALL])
        == 0
    )
    return out


def run_of(out: Path, name: str) -> Path:
    return out / "runs" / name / "seed0"


def test_an_adapter_and_the_model_it_is_merged_into_have_the_same_audit(done: Path) -> None:
    theirs, whole = (run_of(done, name) for name in ("theirs", "whole"))
    for task in ("arithmetic", "facts"):
        rows = [read_jsonl(folder / "evals" / f"{task}.jsonl", EvalRow) for folder in (theirs, whole)]
        assert [row.prompt_sha256 for row in rows[0]] == [row.prompt_sha256 for row in rows[1]]
    options = [read_jsonl(folder / "evals" / "facts.jsonl", EvalRow) for folder in (theirs, whole)]
    for one, other in zip(*options, strict=True):
        assert one.option_logps == pytest.approx(other.option_logps, abs=1e-3)
    kl = [read_json(folder / "kl.json", KlRecord) for folder in (theirs, whole)]
    assert kl[0].forward["facts"].value == pytest.approx(kl[1].forward["facts"].value, rel=1e-3)
    assert kl[0].forward["facts"].value > 1e-3


def test_what_an_audit_says_of_each_checkpoint(done: Path) -> None:
    told = read_json(done / "audit.json", list[Audit])
    assert [one.run for one in told] == ["theirs", "whole", "stranger"]
    assert all(len(one.findings) == 2 for one in told)
    assert all("one checkpoint" in one.notes[0] for one in told)
    page = (done / "report.html").read_text(encoding="utf-8")
    assert "Checkpoints" in page
    assert "Learning curves" not in page
    for one in told:
        assert one.findings[0].sentence in page.replace("&#39;", "'")


def test_a_flip_is_an_item_right_on_one_side_only(done: Path) -> None:
    base = {row.item_id: row for row in read_jsonl(run_of(done, "base") / "evals" / "facts.jsonl", EvalRow)}
    mine = {row.item_id: row for row in read_jsonl(run_of(done, "theirs") / "evals" / "facts.jsonl", EvalRow)}
    flips = [flip for flip in read_jsonl(run_of(done, "theirs") / "flips.jsonl", FlippedItem) if flip.task == "facts"]
    assert {flip.item_id for flip in flips} == {name for name in base if base[name].is_correct != mine[name].is_correct}
    for flip in flips:
        assert flip.is_gained == mine[flip.item_id].is_correct
        assert (flip.before, flip.after) == (base[flip.item_id].prediction, mine[flip.item_id].prediction)
        assert flip.prompt.startswith("Q:")


def test_a_model_with_another_tokenizer_has_scores_and_drift_and_says_why_there_is_no_kl(done: Path) -> None:
    (told,) = [one for one in read_json(done / "audit.json", list[Audit]) if one.run == "stranger"]
    folder = run_of(done, told.run)
    assert {path.name for path in (folder / "evals").glob("*.jsonl")} == {"arithmetic.jsonl", "facts.jsonl"}
    assert json.loads((folder / "drift.json").read_text())["num_prompts"] > 0
    kl = read_json(folder / "kl.json", KlRecord)
    assert kl.forward["facts"].value is None
    assert "tokens differ" in (kl.forward["facts"].note or "")
    assert any("tokens differ" in line for line in told.changes)
    assert "tokens differ" in read_json(folder / "run.json", RunRecord).warnings[0]


@pytest.mark.slow
def test_a_checkpoint_that_changed_is_noticed(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = shutil.copytree(adapter, tmp_path / "mine")
    command = ["audit", "embedded", str(mine), "--task", "arithmetic", "--out", str(tmp_path / "out"), *SMALL]
    assert main(command) == 0
    record = (tmp_path / "out/runs/mine/seed0/run.json").read_bytes()
    assert main(command) == 0
    assert (tmp_path / "out/runs/mine/seed0/run.json").read_bytes() == record
    state = load_file(mine / "adapter_model.safetensors")
    save_file({key: 2 * value for key, value in state.items()}, mine / "adapter_model.safetensors")
    capsys.readouterr()
    assert main(command) == 2
    assert "different weights for checkpoint" in capsys.readouterr().err


@pytest.mark.slow
def test_an_audit_killed_anywhere_goes_on_to_the_same(
    adapter: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    command = [
        "audit",
        "embedded",
        str(adapter),
        "--task",
        "arithmetic",
        "--retention",
        "facts",
        "--out",
        str(tmp_path),
        *SMALL,
    ]
    for place in ("write_flips", "measure_kl", "measure_drift", "complete_run"):
        monkeypatch.setattr(f"stateshape.study.loaded.{place}", stop)
        assert main(command) == 130
        monkeypatch.undo()
    assert main(command) == 0
    for name in ("kl.json", "flips.jsonl", "rollouts.jsonl", "evals/facts.jsonl", "drift.json"):
        assert (run_of(tmp_path, "theirs") / name).read_bytes() == (run_of(done, "theirs") / name).read_bytes()


def test_a_checkpoint_stands_beside_trained_runs_and_teaches_one(adapter: Path, tmp_path: Path) -> None:
    text = tiny.study_text(
        f"theirs: {{checkpoint: {adapter}}}",
        "student: {recipe: opd, teacher: theirs, with: {rollout_tokens: 4}}",
    )
    (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
    command = ["study", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "out"), "--jobs", "1", "--quiet"]
    assert main([*command, "--seeds", "0,1"]) == 0
    assert [path.name for path in (tmp_path / "out/runs/theirs").iterdir()] == ["seed0"]
    comparison = json.loads((tmp_path / "out/comparison.json").read_text())
    assert comparison["missing"] == []
    (theirs,) = [row for row in comparison["rows"] if row["run"] == "theirs"]
    assert theirs["scores"]["facts"]["n_seeds"] == 1
    (student,) = [row for row in comparison["rows"] if row["run"] == "student"]
    assert student["versus_teacher"]["facts"]["difference"]["n_seeds"] == 2
    assert resolve(str(tmp_path / "out/runs/theirs/seed0")).adapter == adapter


def test_an_adapter_s_base_is_known_by_content(adapter: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(base_folder(), tmp_path / "base")
    assert main(["audit", str(copy), str(adapter), "--task", "arithmetic", "--out", str(tmp_path / "out"), *SMALL]) == 0
    assert read_json(run_of(tmp_path / "out", "theirs") / "kl.json", KlRecord).forward["arithmetic"].value is not None


# Refusals


def test_checkpoints_that_are_refused_before_a_model_loads(
    adapter: Path, merged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stateshape.study.execute.open_weights", None)  # would fail if it was called

    def copy(name: str, of: Path = merged) -> Path:
        return shutil.copytree(of, tmp_path / name)

    pickled = copy("pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    empty = copy("empty")
    (empty / "model.safetensors").unlink()
    remote = copy("remote")
    config = json.loads((remote / "config.json").read_text())
    (remote / "config.json").write_text(
        json.dumps(config | {"model_type": "theirs", "auto_map": {"AutoModelForCausalLM": "model.Model"}})
    )
    parted = copy("parted")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model.safetensors"}}
    (parted / "model.safetensors.index.json").write_text(json.dumps(index))
    moved = copy("moved", adapter)
    config = json.loads((moved / "adapter_config.json").read_text())
    (moved / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": "/home/them/base model"})
    )
    for folder, wanted in (
        (pickled, "pytorch_model.bin and no safetensors"),
        (empty, "holds no weights"),
        (remote, "brings its own Python code"),
        (parted, "without model-00001-of-00002.safetensors (1 of 2 parts are missing)"),
        (moved, "an adapter on '/home/them/base model', which can't be read here"),
        (tmp_path / "nowhere", "does not exist"),
    ):
        out = tmp_path / "out"
        assert main(["audit", "embedded", str(folder), "--task", "arithmetic", "--out", str(out), *SMALL]) == 2
        line = capsys.readouterr().err
        assert wanted in line
        assert line.count("\n") == 1
        assert not (out / "plan.json").exists()


@pytest.mark.parametrize(
    ("run", "wanted"),
    [
        ("mine: {checkpoint: some/folder, recipe: sft}", "runs.mine.recipe: got 'sft' beside a checkpoint"),
        ("mine: {checkpoint: some/folder, train: {lr: 1.0}}", "runs.mine.train: got"),
        ("mine: {label: nothing}", "runs.mine.recipe: is missing"),
        ("mine: {checkpoint: other}\n  other: {recipe: sft}", "a run of this study"),
        ("mine: {recipe: sft, start: base}", "runs.mine.start: got base"),
    ],
)
def test_entries_of_a_study_file_that_are_refused(
    run: str, wanted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.yaml").write_text(tiny.study_text(run), encoding="utf-8")
    assert main(["study", str(tmp_path / "s.yaml"), "--dry-run"]) == 2
    assert wanted in capsys.readouterr().err


def test_checkpoints_have_names_of_their_own() -> None:
    assert label_of("runs/sft/adapter") == "sft/adapter"
    assert label_of("owner/model-7b") == "model-7b"
    assert names_of(["a/model", "b/model", "x y", "z/x y", "base"]) == ["a_model", "b_model", "x_y", "x_y_2", "tuned"]
    with pytest.raises(BadInput, match="twice"):
        audit_file("embedded", ["a", "a"], task="arithmetic")


# Numbers


def test_a_mean_over_prompts_weighs_every_state_alike() -> None:
    found = mean_over_prompts(np.array([1.0, 2.0, 6.0]), np.array([0, 0, 1]), seed=0)
    assert (found.value, found.num_states, found.num_prompts) == (3.0, 3, 2)
    assert found.lo is None
    same = mean_over_prompts(np.full(40, 0.5), np.repeat(np.arange(20), 2), seed=0)
    assert (same.value, same.lo, same.hi) == (0.5, 0.5, 0.5)


def test_the_interval_over_prompts_covers_as_promised() -> None:
    """Prompts whose states share a level: 300 samples, so the covered share is known to .013."""
    rng = np.random.default_rng(0)
    prompt_N, covered = np.repeat(np.arange(40), 5), 0
    for sample in range(300):
        value_N = 1 + np.repeat(rng.normal(size=40), 5) + rng.normal(size=200)
        found = mean_over_prompts(value_N, prompt_N, seed=sample)
        assert found.lo is not None
        assert found.hi is not None
        covered += found.lo <= 1 <= found.hi
    assert 0.89 < covered / 300 < 0.98


def test_a_kl_between_policies_equals_one_by_hand() -> None:
    weights = tiny.weights(0, dtype=torch.float64)
    base, other = Policy(weights, None), tiny.teacher(weights)
    prompts = [base.encode_prompt(text) for text in ("abc", "12+3=")]
    settings = SamplingSettings(max_new_tokens=5)
    own = own_states(base, prompts, LocalSampler(), settings, limit=100, seed=0)
    found = kl_at(own, base, other, seed=0)
    total, count = 0.0, 0
    for row, places in zip(own.states.rows, own.states.at, strict=True):
        logps = []
        for policy in (base, other):
            policy.activate()
            with torch.no_grad():
                logps.append(weights.model(torch.tensor([row])).logits[0].log_softmax(-1))
        for place in places:
            total += float((logps[0][place].exp() * (logps[0][place] - logps[1][place])).sum())
            count += 1
    assert found.num_states == count
    assert found.value == pytest.approx(total / count, rel=1e-6)
    assert kl_at(own, base, base, seed=0).value == 0.0


def scores(base: list[float], tuned: dict[str, list[float]]) -> StudyScores:
    """One task, and a checkpoint for each entry."""
    task = TaskRecord(name="task", label="Task", metric="strict", chance=0.0, num_items=len(base))
    kept = TaskRecord(name="kept", label="Kept", metric="acc", chance=0.0, num_items=len(base))
    runs = [PlannedRun(name="base", label="base", method=None, teacher=None, settings={})]
    runs += [PlannedRun(name=n, label=n, method=None, teacher=None, settings={}, checkpoint=f"at/{n}") for n in tuned]
    plan = PlanRecord(
        study="s", model="m", seeds=[0], target=task, retention=[kept], runs=runs, plan_sha256="", provenance={}
    )
    found = {
        name: {one: {0: np.array(values)} for one in ("task", "kept")}
        for name, values in {"base": base, **tuned}.items()
    }
    return StudyScores(plan=plan, scores=found, drift={}, missing=[])


def test_an_audit_in_words() -> None:
    """Of 100 items: 30 better and none worse is a gain; 12 and 9 decide nothing; 8 and 0 would alone."""
    base = [1.0] * 50 + [0.0] * 50
    better = [1.0] * 80 + [0.0] * 20
    mixed = [0.0] * 9 + [1.0] * 53 + [0.0] * 38
    worse = [0.0] * 30 + [1.0] * 20 + [0.0] * 50
    study = scores(base, {"better": better, "mixed": mixed, "worse": worse})
    told = {one.run: one for one in audits(study, compare_scores(study))}
    gained, open_, lost = (told[name].findings[0] for name in ("better", "mixed", "worse"))
    assert (gained.outcome, gained.num_gained, gained.num_lost) == ("gained", 30, 0)
    assert gained.sentence.startswith("Task: gained 0.300 [")
    assert "from 0.500 to 0.800 (100 items, of which 30 got better and 0 worse)" in gained.sentence
    assert (open_.outcome, open_.num_gained, open_.num_lost) == ("cannot tell", 12, 9)
    assert "are both possible" in open_.sentence
    assert lost.outcome == "lost"
    assert lost.sentence.startswith("Task: lost 0.300 [")
    assert told["better"].headline == "gained on Task, Kept."
    assert told["better"].num_tests == 6


def test_what_does_not_hold_after_the_correction_is_not_called_a_gain() -> None:
    """6 items better and none worse: p = 1/32 alone, 6 times that over two tasks of three checkpoints."""
    base = [0.0] * 100
    one = [1.0] * 6 + [0.0] * 94
    alone, among = scores(base, {"one": one}), scores(base, {"one": one, "two": base, "three": base})
    (single,) = audits(alone, compare_scores(alone))
    assert single.findings[0].p == pytest.approx(2 / 2**6)
    assert single.findings[0].outcome == "cannot tell"  # p = 1/16 over two tasks
    several = audits(among, compare_scores(among))[0]
    assert several.findings[0].outcome == "cannot tell"
    assert "after Holm's correction for 6 comparisons" in several.findings[0].sentence
