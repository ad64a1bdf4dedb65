"""The wheel and the sdist: every file of the package is in both, and a wheel that is installed elsewhere works there.

`make test-package` runs these. The libraries that the package needs are those of this environment; only the
package is installed.
"""

import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

pytestmark = pytest.mark.slow
pytest.importorskip("hatchling", reason="builds wheels; make test-package installs it")


def build(source: Path, kind: str, folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", folder], cwd=source, check=True)
    [made] = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The folder of an unpacked sdist."""
    sdist = build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return folder / sdist.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The commands of an environment of its own with the wheel in it."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel], check=True
    )
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return folder / "bin"


def run(command, *args, folder):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([command, *args], cwd=folder, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def of_the_package():
    files = (path for path in (SOURCE / "stateshape").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(SOURCE)) for path in files}


def packaged(wheel: Path):
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel):
    assert packaged(wheel) == of_the_package()
    assert "stateshape/embedded/base/model.safetensors" in packaged(wheel)


def test_the_sdist_builds_the_same_wheel(unpacked, wheel, tmp_path):
    assert packaged(build(unpacked, "wheel", tmp_path)) == packaged(wheel)


def test_an_installed_wheel_runs_away_from_the_checkout(installed, tmp_path):
    where = run(installed / "python", "-c", "import stateshape; print(stateshape.__file__)", folder=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)
    stateshape = installed / "stateshape"
    assert run(stateshape, "--version", folder=tmp_path) == f"stateshape {PROJECT['version']}\n"
    run(stateshape, "new", "study", "mine", folder=tmp_path)
    assert "mine" in run(stateshape, "study", "mine.yaml", "--dry-run", folder=tmp_path)
    run(stateshape, "study", "smoke", "--dry-run", folder=tmp_path)
    assert run(stateshape, "doctor", "--model", "embedded", folder=tmp_path).endswith("ok\n")


def test_neutral_text_and_templates_are_read_from_the_installed_package(installed, tmp_path):
    read = "from importlib.resources import files; print(len((files('stateshape') / {!r}).read_text('utf-8')))"
    for name in ("evals/neutral.txt", "report/templates/report.html.j2", "cli/starters/task.jsonl", "py.typed"):
        size = (SOURCE / "stateshape" / name).read_text(encoding="utf-8")
        assert run(installed / "python", "-c", read.format(name), folder=tmp_path) == f"{len(size)}\n"
