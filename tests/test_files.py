"""Record files: what is refused, in which words, and that a failed write leaves what was there."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from stateshape.core.files import BadInput, check_output, iter_jsonl, parse, whole, write_text
from stateshape.core.locks import LEFTOVER
from stateshape.core.records import Json


@dataclass(frozen=True, kw_only=True)
class Inner:
    rank: int = 1
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outer:
    lr: float
    steps: int | None = None
    kind: Literal["a", "b"] = "a"
    pair: tuple[float, float] | None = None
    inner: Inner = field(default_factory=Inner)
    by_name: dict[str, Inner] = field(default_factory=dict)
    free: dict[str, Json] = field(default_factory=dict)
    title: str = ""


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ({"lr": "abc"}, "lr: got 'abc'; expected a number"),
        ({"lr": True}, "lr: got True; expected a number"),
        ({"lr": float("nan")}, "lr: got nan; expected a number"),
        ({"lr": 1, "steps": 2.5}, "steps: got 2.5; expected a whole number"),
        ({"lr": 1, "kind": "c"}, "kind: got 'c'; expected one of a, b"),
        ({"lr": 1, "pair": [1]}, "pair: got [1]; expected a list of 2"),
        ({"lr": 1, "inner": 3}, "inner: got 3; expected a mapping with rank, names"),
        ({"lr": 1, "inner": {"names": "q_proj"}}, "inner.names: got 'q_proj'; expected a list"),
        ({"lr": 1, "inner": {"rannk": 3}}, "inner: unknown field rannk; expected rank, names; did you mean rank?"),
        ({"lr": 1, "by_name": [1]}, "by_name: got [1]; expected a mapping"),
        ({"lr": 1, "free": 3}, "free: got 3; expected a mapping"),
        ({"lr": 1, "title": [1]}, "title: got [1]; expected a text"),
        ({}, "lr: is missing"),
        ([1], "got [1]; expected a mapping with lr, steps"),
        (None, "got None; expected a mapping"),
    ],
)
def test_a_wrong_field_is_named_with_what_it_got(value: Any, wanted: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse(value, Outer, where="file.yaml")
    message = str(caught.value)
    assert message.startswith("file.yaml: ")
    assert wanted in message
    assert "\n" not in message


def test_numbers_may_come_as_text() -> None:
    """YAML 1.1 reads 5e-4 as a string, and 1.0e+3 as a float where a whole number is wanted."""
    made = parse({"lr": "5e-4", "steps": 1e3, "pair": [0, 1], "free": {"any": [1]}}, Outer, where="x")
    assert made.lr == 5e-4
    assert made.steps == 1000
    assert isinstance(made.steps, int)
    assert made.pair == (0.0, 1.0)
    assert made.free == {"any": [1]}


def test_malformed_row_is_named_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n{"a": \n', encoding="utf-8")
    with pytest.raises(BadInput, match=r"rows\.jsonl:3: not valid JSON"):
        list(iter_jsonl(path))
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(BadInput, match="not UTF-8"):
        list(iter_jsonl(path))


def test_a_full_disk_leaves_the_old_file_and_no_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    write_text(path, "old")

    def full(self: Path, *_: object, **__: object) -> None:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]


def test_a_file_appears_when_its_block_ends_and_not_at_all_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "part.bin"
    with whole(path) as temporary:
        temporary.write_bytes(b"first")
        assert not path.exists()
        assert LEFTOVER.fullmatch(temporary.name), "a killed process's file must be known as such"
    assert path.read_bytes() == b"first"

    def stopped_half_way() -> None:
        with whole(path) as temporary:
            temporary.write_bytes(b"sec")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped_half_way()
    assert path.read_bytes() == b"first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["part.bin"]


def test_output_is_checked_without_being_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for bad in (tmp_path / "file", tmp_path / "file" / "below" / "it"):
        with pytest.raises(BadInput, match="is a file; expected a folder"):
            check_output(bad)
    check_output(tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("a" * 256, "a name of 256 bytes in it; expected at most 255"),
        ("é" * 128, "a name of 256 bytes"),
        ("/".join(["a" * 200] * 20), "a path of "),
        ("a\udcffb", "is not UTF-8"),
        ("a\nb", "control characters"),
        ("a\x1b[31m", "control characters"),
        ("a\x00b", "control characters"),
        ("a\u2028b", "control characters"),
    ],
)
def test_a_name_that_no_folder_can_or_should_have_is_one_line(name: str, wanted: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        check_output(tmp_path / name / "below")
    assert wanted in str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_a_folder_that_can_t_be_written_to_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # the tests may run as root
    with pytest.raises(BadInput, match="can't be written to; give another folder"):
        check_output(tmp_path / "new")
