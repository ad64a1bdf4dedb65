"""Finished files that were changed afterwards are named, by every command that reads them; accepted changes are on record."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import tiny
from stateshape.cli import main
from stateshape.core.files import BadInput, read_json
from stateshape.core.manifest import Manifest, changes, check_unchanged, read_manifest, rewriting, seal

TEXT = tiny.study_text(
    "student: {recipe: opd_continuation, teacher: tutor, with: {max_new_tokens: 8, rollout_tokens: 8}}",
    "tutor: {recipe: sft}",
)
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*args: str) -> tuple[int, str]:
        code = main(list(args))
        return code, capsys.readouterr().err

    return call


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    (folder / "tiny.yaml").write_text(TEXT, encoding="utf-8")
    assert main(["study", str(folder / "tiny.yaml"), "--out", str(folder / "out"), "--quiet"]) == 0
    return folder


@pytest.fixture
def study(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "copy") / "out"


def flip(path: Path) -> None:
    """The last digit, so that the size stays, and no id changes."""
    data = path.read_bytes()
    at = max(i for i, byte in enumerate(data) if chr(byte).isdigit())
    path.write_bytes(data[:at] + (b"7" if data[at : at + 1] != b"7" else b"8") + data[at + 1 :])


def test_what_is_listed_and_checked(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    seal(tmp_path, ["a", "b", "none"])
    assert set(read_manifest(tmp_path).files) == {"a", "b"}
    assert changes(tmp_path) == []
    (tmp_path / "c").write_text("of nobody's business")
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").unlink()
    assert [(change.file, change.how) for change in changes(tmp_path)] == [("a", "changed"), ("b", "gone")]
    assert [change.file for change in changes(tmp_path, may_lack=["a", "b"])] == ["a"]
    with pytest.raises(BadInput, match=r"/a: was changed after it was finished \(and 1 more file\)"):
        check_unchanged([tmp_path])
    check_unchanged([tmp_path], accept=True)
    assert changes(tmp_path) == []
    accepted = read_manifest(tmp_path).accepted
    assert [(one.file, one.before.size, one.now and one.now.size) for one in accepted] == [("a", 1, 1), ("b", 1, None)]
    seal(tmp_path, ["c"])
    assert read_manifest(tmp_path).accepted == accepted


def test_of_many_accepted_changes_the_first_are_named_and_the_rest_are_counted(tmp_path: Path) -> None:
    names = [f"file{i}" for i in range(9)]
    for name in names:
        (tmp_path / name).write_text("1")
    seal(tmp_path, names)
    for name in names:
        (tmp_path / name).unlink()
    said: list[str] = []
    check_unchanged([tmp_path], accept=True, say=said.append)
    assert len(said) == 6
    assert said[-1] == "and 4 more, accepted; the folders' manifest.json list them"
    assert len(read_manifest(tmp_path).accepted) == 9


def test_a_kill_while_a_listed_file_is_rewritten_trips_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    seal(tmp_path, ["a"])

    def killed() -> None:
        with rewriting(tmp_path, ["a"]):
            (tmp_path / "a").write_text("2")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert changes(tmp_path) == []
    with rewriting(tmp_path, ["a"]):
        (tmp_path / "a").write_text("3")
    assert set(read_manifest(tmp_path).files) == {"a"}


def test_a_manifest_that_can_t_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"files": [1]}')
    with pytest.raises(BadInput, match=r"manifest\.json: files: got \[1\]; expected a mapping"):
        changes(tmp_path)


def test_everything_a_finished_study_leaves_is_listed(study: Path) -> None:
    listed = {"plan.json", "comparison.json", "verdicts.json", "findings.json", "looks.json", "state_map.json"}
    assert set(read_manifest(study).files) == listed
    for folder in study.glob("runs/*/seed0"):
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert set(read_manifest(folder).files) == files - {"manifest.json"}


def test_reading_reporting_and_running_again_trip_nothing(study: Path, run: Run) -> None:
    yaml = study.parent / "tiny.yaml"
    for _ in range(2):
        assert run("report", str(study)) == (0, "")
    for name in ("comparison.json", "verdicts.json", "report.html"):
        (study / name).unlink()
    left = [
        study / name for name in (".report.html.9.tmp", ".table1.csv.9.tmp", "tables/.x.md.9.tmp", "plots/.x.png.9.tmp")
    ]
    for path in left:  # by a report that was killed
        path.touch()
    assert run("report", str(study)) == (0, "")
    assert not any(path.exists() for path in left)
    yaml.write_text(TEXT + "roles: {sft_mild: tutor}\nnotes: other\n", encoding="utf-8")
    (study / "state_map.json").unlink()
    assert run("study", str(yaml), "--out", str(study), "--quiet")[0] == 0
    student = str(study / "runs" / "student" / "seed0")
    assert run("eval", student, "--task", "exam", "--limit", "2", "--out", student, "--quiet")[0] == 0
    assert run("study", str(yaml), "--out", str(study), "--quiet", "--seeds", "0,1")[0] == 0
    assert run("report", str(study)) == (0, "")


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("runs/student/seed0/evals/facts.jsonl", "was changed"),
        ("runs/base/seed0/evals/summary.json", "was changed"),
        ("runs/tutor/seed0/adapter/adapter_model.safetensors", "was changed"),
        ("state_map.json", "was changed"),
        ("plan.json", "was changed"),
        ("comparison.json", "was changed"),
        ("runs/student/seed0/run.json", "is gone"),
        ("runs/base/seed0/run.json", "is gone"),
        ("runs/student/seed0/drift.json", "is gone"),
    ],
)
def test_a_changed_file_is_named_by_report_and_study(name: str, how: str, study: Path, run: Run) -> None:
    if how == "is gone":
        (study / name).unlink()
    elif name == "plan.json":  # a digit of the plan's own checksum would be another plan
        (study / name).write_text((study / name).read_text().replace('"notes": ""', '"notes": "x"'))
    else:
        flip(study / name)
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    yaml = str(study.parent / "tiny.yaml")
    for command in (["report", str(study)], ["study", yaml, "--out", str(study), "--quiet"]):
        code, told = run(*command)
        assert (code, told.count("\n")) == (2, 1)
        assert f"{study / name}: {how} after it was finished" in told
    assert {path: path.read_bytes() for path in study.rglob("*") if path.is_file()} == before


def test_an_accepted_change_is_on_record_and_in_the_report(study: Path, run: Run) -> None:
    flip(study / "state_map.json")
    flip(study / "runs/student/seed0/evals/facts.jsonl")
    code, told = run("report", str(study), "--accept-changes")
    assert (code, told.count("\n")) == (0, 2)
    page = (study / "report.html").read_text(encoding="utf-8")
    assert "Files were changed after they were finished." in page
    assert "runs/student/seed0/evals/facts.jsonl: changed after it was finished, accepted on 20" in page
    assert "state_map.json: changed" in page
    assert read_json(study / "manifest.json", Manifest).accepted[0].file == "state_map.json"
    assert run("report", str(study)) == (0, "")
    assert "Files were changed" in (study / "report.html").read_text(encoding="utf-8")


def test_a_finished_run_without_its_record_is_not_begun_again_on_old_files(study: Path, run: Run) -> None:
    (study / "runs/student/seed0/run.json").unlink()
    assert run("report", str(study), "--accept-changes")[0] == 0
    code, told = run("study", str(study.parent / "tiny.yaml"), "--out", str(study), "--quiet")
    assert (code, told.count("\n")) == (2, 1)
    assert "student/seed0/run.json: is gone after the run was finished" in told
    shutil.rmtree(study / "runs/student/seed0")
    assert run("study", str(study.parent / "tiny.yaml"), "--out", str(study), "--quiet")[0] == 0


def test_a_study_of_before_is_read_with_a_word(study: Path, run: Run) -> None:
    for path in study.rglob("manifest.json"):
        path.unlink()
    code, told = run("report", str(study))
    assert code == 0
    assert told.startswith("3 finished runs have no manifest.json")
    assert "No manifest.json" in (study / "report.html").read_text(encoding="utf-8")
    (study / "runs/student/seed0/manifest.json").unlink(missing_ok=True)
    assert run("study", str(study.parent / "tiny.yaml"), "--out", str(study), "--quiet")[0] == 0
    assert changes(study / "runs/student/seed0") == [] and read_manifest(study / "runs/student/seed0").files
    assert run("report", str(study)) == (0, "")
