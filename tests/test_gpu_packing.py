"""What travels to a GPU machine: every package is there or in the list of wheels, and every call keeps within its limits."""

import importlib.util
import json
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
DEVICE = {
    "python_version": "3.12",
    "python_full_version": "3.12.3",
    "sys_platform": "linux",
    "platform_system": "Linux",
}


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pack, weights = script("gpu_pack"), script("gpu_weights")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def needed(texts):
    """Names of what the texts require on the device, extras aside."""
    parsed = [Requirement(text) for text in texts or ()]
    return {
        pack.normal(one.name) for one in parsed if one.marker is None or one.marker.evaluate(DEVICE | {"extra": ""})
    }


@pytest.mark.parametrize("extra", [None, "gguf"])
def test_every_dependency_is_on_the_machine_or_travels(extra):
    texts = PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]
    assert needed(texts) <= pack.THERE | set(pack.WHEELS)


@pytest.mark.parametrize("name", [*pack.WHEELS, *pack.PEER_WHEELS])
def test_what_a_wheel_needs_is_on_the_machine_or_travels(name):
    try:
        found = needed(requires(name))
    except PackageNotFoundError:
        assert name in pack.PEER_WHEELS  # these are not installed for tests
        pytest.skip("not installed here")
    assert found <= pack.THERE | set(pack.WHEELS) | set(pack.PEER_WHEELS)


def test_no_package_is_on_both_lists_and_each_wheel_has_a_tested_version():
    pins = {pack.normal(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().split() if "==" in line}
    wheels = {*pack.WHEELS, *pack.PEER_WHEELS}
    assert not wheels & pack.THERE
    assert wheels <= pins


def test_a_file_comes_back_from_its_parts_and_a_wrong_part_is_refused(tmp_path):
    whole = bytes(range(256)) * 10
    (tmp_path / "m.gguf").write_bytes(whole)
    about = pack.split(tmp_path / "m.gguf", "m", tmp_path / "parts", 1000)
    assert about["parts"] == 3
    weights.join(tmp_path / "parts", "m", about, tmp_path / "model")
    assert (tmp_path / "model" / weights.GGUF).read_bytes() == whole
    (tmp_path / "parts" / "m.gguf.1").write_bytes(b"other")
    with pytest.raises(ValueError, match="send its parts again"):
        weights.join(tmp_path / "parts", "m", about, tmp_path / "model")
    (tmp_path / "parts" / "m.gguf.2").unlink()
    with pytest.raises(FileNotFoundError):
        weights.join(tmp_path / "parts", "m", about, tmp_path / "model")


def test_a_model_that_did_not_arrive_whole_is_left_out_with_a_word(tmp_path):
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"models": {"half": {"bytes": 5, "sha256": "0", "parts": 2}}}))
    command = [sys.executable, "scripts/gpu_weights.py", "--manifest", manifest, "--keep", tmp_path]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "embedded"
    assert told.stderr.startswith("half: left out")


def test_every_part_has_a_call_of_its_own_and_the_last_call_measures():
    calls = pack.calls_of(".gpu", "/keep", {"big": {"parts": 9}, "small": {"parts": 2}}, None, ["b.whl"])
    assert [call["carry"] for call in calls[:12]] == [
        *[[f".gpu/parts/big.gguf.{n}"] for n in range(9)],
        *[[f".gpu/parts/small.gguf.{n}"] for n in range(2)],
        [".gpu/parts/b.whl"],
    ]
    assert len(calls) == 13
    assert calls[-1]["command"] == 'KEEP=/keep scripts/gpu.sh "$OUT"'
    assert calls[-1]["timeout_s"] == 600


def test_a_call_over_the_limit_is_refused_with_its_size(monkeypatch):
    monkeypatch.setattr(pack, "tree_bytes", lambda: 9 * pack.MIB)
    monkeypatch.setattr(pack, "bytes_of", lambda path: 55 * pack.MIB)
    call = {"command": "true", "carry": [".gpu/parts/a.gguf.0"], "timeout_s": 60}
    pack.check_sizes([call], 64)
    with pytest.raises(ValueError, match=r"would carry 64\.0 MiB .* smaller --part-mib"):
        pack.check_sizes([call], 63.9)
    with pytest.raises(ValueError, match="9 paths"):
        pack.check_sizes([call | {"carry": ["x"] * 9}], 1e9)


def test_the_tests_start_in_the_first_call_and_their_file_comes_back_with_the_last():
    first, part, last = pack.calls_of(".gpu", "/keep", {"m": {"parts": 1}}, "paper", with_tests=True)
    assert "--stages tests" in first["command"] and first["command"].startswith("mkdir -p /keep ")
    assert part["carry"] == [".gpu/parts/m.gguf.0"]
    assert last["command"] == 'KEEP=/keep scripts/gpu.sh "$OUT" --stages paper; cp /keep/tests/tests.json "$OUT"/'


def test_what_is_packed_is_ignored_by_git():
    pack.check_ignored(ROOT / ".gpu")
    with pytest.raises(ValueError, match="does not ignore"):
        pack.check_ignored(ROOT / "docs")
