"""A very small study from its file: what it leaves, and that stopping it anywhere changes nothing."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tiny
from stateshape.cli import main
from stateshape.core import layout
from stateshape.core.files import BadInput, read_json, read_jsonl
from stateshape.core.records import DriftRecord, EvalRow, FlippedItem
from stateshape.policy.settings import ModelSettings
from stateshape.study.claim_names import measured_names
from stateshape.study.study_file import AlongChoice, StudyFile, read_study_file
from stateshape.train.checkpoint import newest_checkpoint

TEXT = tiny.study_text(
    "student: {recipe: opd_continuation, teacher: tutor, with: {max_new_tokens: 8, rollout_tokens: 8}}",
    "tutor: {recipe: sft}",
)
Study = tuple[Path, Path]  # the YAML file, the folder


def study(file: Path, folder: Path, *more: str) -> int:
    return main(["study", str(file), "--out", str(folder), "--quiet", *more])


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("study")
    file = folder / "tiny.yaml"
    file.write_text(TEXT, encoding="utf-8")
    assert study(file, folder / "out") == 0
    return file, folder / "out"


def results(folder: Path) -> dict[str, Any]:
    """Everything a study found out, without dates, seconds and commands."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "metrics.jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
        elif path.name == "run.json":
            dated = ("provenance", "seconds", "peak_memory_gb", "costs")
            found[name] = {key: value for key, value in json.loads(path.read_text()).items() if key not in dated}
        elif path.name == "summary.json" and path.parent.name == "evals":
            entries = json.loads(path.read_text())
            found[name] = {
                task: {k: v for k, v in entry.items() if k != "evaluation"} for task, entry in entries.items()
            }
        elif path.name == layout.CARD:  # ends in the command, the date and versions
            found[name] = path.read_text().split("```\nstateshape")[0]
        elif path.stem in ("cost", "phases", "manifest"):  # seconds, and checksums of what holds some
            continue
        elif path.is_file() and path.name not in ("plan.json", "report.html") and path.parent.name != "plots":
            found[name] = path.read_bytes()
    return found


def test_what_a_study_leaves(done: Study) -> None:
    _, out = done
    for name in ("plan.json", "comparison.json", "verdicts.json", "table1.md", "table2.md", "report.html"):
        assert (out / name).stat().st_size > 0
    for run in ("base", "tutor", "student"):
        folder = out / "runs" / run / "seed0"
        assert set(json.loads((folder / "evals" / "summary.json").read_text())) == {"arithmetic", "facts"}
        assert json.loads((folder / "run.json").read_text())["is_complete"]
        assert newest_checkpoint(folder) is None
    assert json.loads((out / "comparison.json").read_text())["missing"] == []
    assert [path for path in out.rglob("*") if path.suffix == ".tmp"] == []


@pytest.mark.parametrize(
    ("place", "call"),
    [
        ("stateshape.study.measuring.write_evaluation", 2),
        pytest.param("stateshape.train.loop.save_checkpoint", 2, marks=pytest.mark.numerics),
        ("stateshape.train.loop.append_jsonl", 6),
        pytest.param("stateshape.study.measuring.write_json", 5, marks=pytest.mark.slow),
        ("stateshape.study.folders.finish", 1),
    ],
)
def test_stopped_anywhere_it_goes_on_to_the_same_results(
    place: str, call: int, done: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The `call`-th call of a writing function is interrupted before it writes."""
    file, whole = done
    out = tmp_path / "out"
    tiny.stop_at(place, call, monkeypatch)
    assert study(file, out) == 130
    monkeypatch.undo()
    assert study(file, out) == 0
    assert results(out) == results(whole)


def test_a_cut_off_line_and_leftovers_are_mended(done: Study, tmp_path: Path) -> None:
    """What SIGKILL leaves: half a line of metrics, temporary files, rows without their summary."""
    file, whole = done
    out = shutil.copytree(whole, tmp_path / "out")
    for manifest in out.glob("runs/*/seed0/manifest.json"):
        manifest.unlink()
    run = out / "runs" / "student" / "seed0"
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"is_complete": False, "num_steps": 0, "num_sampled_tokens": 0}))
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 2, "lo')
    (run / ".drift.json.123.tmp").touch()
    (run / "evals" / ".facts.jsonl.123.tmp").touch()
    (run / "evals" / "summary.json").unlink()
    base = out / "runs" / "base" / "seed0"
    (base / "run.json").unlink()
    (base / "evals" / "summary.json").write_text("{}")
    assert study(file, out) == 0
    assert results(out) == results(whole)


def test_seeds_added_later_extend_the_study(done: Study, tmp_path: Path) -> None:
    file, whole = done
    out = shutil.copytree(whole, tmp_path / "out")
    assert study(file, out, "--seeds", "1") == 0
    comparison = json.loads((out / "comparison.json").read_text())
    assert comparison["seeds"] == [0, 1]
    assert comparison["missing"] == []
    assert [path.name for path in (out / "runs" / "base").iterdir()] == ["seed0"]
    unchanged = {name: value for name, value in results(whole).items() if name.startswith("runs")}
    assert {name: results(out)[name] for name in unchanged} == unchanged
    assert study(file, out, "--seeds", "0") == 0
    assert json.loads((out / "comparison.json").read_text())["seeds"] == [0, 1]


def test_another_plan_or_other_data_is_refused(done: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, whole = done
    other = tmp_path / "other.yaml"
    other.write_text(TEXT.replace("steps: 2", "steps: 3"), encoding="utf-8")
    assert study(other, whole) == 2
    assert "holds study 'tiny' with different settings" in capsys.readouterr().err
    out = shutil.copytree(whole, tmp_path / "out")
    plan = json.loads((out / "plan.json").read_text())
    plan["provenance"]["data_sha256"]["facts"] = "0"
    (out / "plan.json").write_text(json.dumps(plan))
    (out / "manifest.json").unlink()
    assert study(done[0], out) == 2
    assert "was started with different data for facts" in capsys.readouterr().err


def test_a_chosen_device_is_the_one_that_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(model: str, settings: ModelSettings) -> None:
        asked.append(settings.device)
        raise BadInput("device: asked")

    monkeypatch.setattr("stateshape.study.execute.open_weights", load)
    file = tmp_path / "tiny.yaml"
    file.write_text(TEXT, encoding="utf-8")
    assert study(file, tmp_path / "out") == study(file, tmp_path / "out", "--device", "auto") == 2
    assert asked == ["cpu", "auto"]


def test_a_study_begun_on_one_device_continues_on_another(done: Study, tmp_path: Path) -> None:
    """The flag is not part of the plan; the study file's own device is."""
    file, whole = done
    out = shutil.copytree(whole, tmp_path / "out")
    assert study(file, out, "--device", "auto") == 0
    assert study(file, out) == 0
    assert results(out) == results(whole)
    other = tmp_path / "other.yaml"
    other.write_text(TEXT.replace("device: cpu", "device: auto"), encoding="utf-8")
    assert study(other, out) == 2


def test_a_device_that_is_none_is_one_line_and_leaves_nothing(
    done: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study(done[0], tmp_path / "out", "--device", "gpu") == 2
    assert capsys.readouterr().err == "stateshape: device: got 'gpu'; expected auto, cpu, cuda or cuda:N\n"
    assert list(tmp_path.iterdir()) == []


def test_claims_may_name_every_number_that_a_run_has(done: Study) -> None:
    file = read_study_file(str(done[0]))
    known = measured_names(replace(file, along=AlongChoice()))
    folder = layout.run_folders(done[1])[-1]
    drift = read_json(folder / "drift.json", DriftRecord)
    assert {f"drift.{name}" for name in drift.distances} == {name for name in known if name.startswith("drift.")}
    assert {"along.peak", "along.line_r2"} <= set(known)
    assert not any(
        name.startswith(("along.", "drift.encoder", "drift.hidden")) for name in measured_names(plainer(file))
    )


def plainer(file: StudyFile) -> StudyFile:
    return replace(file, along=None, drift=replace(file.drift, hidden=False, encoder=None))


def test_dry_run_prints_the_plan_and_writes_nothing(
    done: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", str(done[0]), "--dry-run", "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "opd_continuation" in told
    assert "facts" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        ("os", "torch.save"),
        ("torch", "torch.save"),
        ("tokenizers", "transformers.tokenization_utils_tokenizers.TokenizersBackend.save_pretrained"),
    ],
)
def test_a_full_disk_is_one_line_and_can_be_resumed(
    kind: str,
    call: str,
    done: Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, whole = done

    def full(*_: Any, **__: Any) -> None:
        if kind == "os":
            raise OSError(errno.ENOSPC, "No space left on device", "checkpoint.pt")
        if kind == "tokenizers":
            raise Exception("No space left on device (os error 28)")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0\nand more")

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(call, full)
        assert study(file, out) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "run the same command again" in told
    assert study(file, out) == 0
    assert results(out) == results(whole)


def test_report_is_rebuilt_without_a_tensor_library(done: Study, tmp_path: Path) -> None:
    out = shutil.copytree(done[1], tmp_path / "out")
    for name in ("report.html", "comparison.json", "verdicts.json", "table2.md"):
        (out / name).unlink()
    program = (
        "import sys\nfrom stateshape.cli import main\n"
        f"code = main(['report', {str(out)!r}])\n"
        "sys.exit(code or int(bool({'torch', 'transformers', 'peft'} & set(sys.modules))))\n"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert results(out) == results(done[1])


def test_json_events_are_json(done: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shutil.copytree(done[1], tmp_path / "out")
    shutil.rmtree(out / "runs" / "student")
    assert main(["study", str(done[0]), "--out", str(out), "--json-events"]) == 0
    events = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert set(events) == {"say", "step", "done", "run", "pace"}


def test_the_report_shows_items_that_a_trained_run_lost_or_won(done: Study) -> None:
    _, out = done
    flips = read_jsonl(out / "runs" / "student" / "seed0" / "flips.jsonl", FlippedItem)
    rows = {
        run: {
            row.item_id: row.is_correct
            for row in read_jsonl(out / "runs" / run / "seed0" / "evals" / "arithmetic.jsonl", EvalRow)
        }
        for run in ("base", "student")
    }
    differ = {item for item, right in rows["student"].items() if right != rows["base"][item]}
    assert {flip.item_id for flip in flips if flip.task == "arithmetic"} == differ
    assert ('id="items"' in (out / "report.html").read_text(encoding="utf-8")) == any(
        read_jsonl(path, FlippedItem) for path in out.glob("runs/*/seed0/flips.jsonl")
    )
