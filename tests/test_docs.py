"""The documentation holds: commands and flags exist, blocks of docs/ run at a small size, links and named files are there."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import warnings
from pathlib import Path

import pytest
import yaml

import stateshape
from stateshape.cli import parser
from stateshape.locality.settings import LocalitySettings

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs" / "tools"))

from blocks import Block, blocks_of, commands_of  # noqa: E402
from check_commands import commands_to_parse, pages, problem_of  # noqa: E402

PAGES = {str(page.relative_to(ROOT)): page for page in pages()}
EXECUTED = [name for name in PAGES if name.startswith("docs/") or name == "README.md"]
LONG = (
    "docs/get-started.md",
    "docs/guides/cluster.md",
    "docs/guides/finetune.md",
    "docs/guides/own-method.md",
    "docs/states.md",
    "docs/guides/audit.md",
    "docs/guides/distil.md",
    "docs/drift.md",
    "docs/studies.md",
    "docs/guides/notebook.md",
    "docs/guides/other-trainers.md",
)  # of which each takes a quarter of a minute or more
LINKED = [*PAGES, "CHANGELOG.md"]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
NAMED_FILE = re.compile(r"`((?:src|tests|benchmarks|examples|scripts|results|docs)/[\w./-]+)`")
# A later flag overrides an earlier one, so these make the commands of the pages small.
SMALL = {
    "train": ["--steps", "2", "--batch-prompts", "2", "--lora.rank", "2", "--quiet"],
    "eval": ["--limit", "3", "--quiet"],
    "audit": ["--limit", "3", "--prompts", "10", "--max-new-tokens", "8", "--no-hidden", "--quiet"],
    "drift": ["--prompts", "10", "--max-new-tokens", "8", "--no-hidden", "--quiet"],
    "study": ["--jobs", "1", "--seeds", "0", "--quiet"],
}
SMALL_FIELDS = {"--rollout-tokens": "8", "--max-new-tokens": "8"}  # where the recipe has them


@pytest.mark.parametrize("name", PAGES)
def test_every_command_and_flag_of_a_page_is_known(name):
    assert [found for command in commands_to_parse(PAGES[name]) if (found := problem_of(command))] == []


@pytest.mark.parametrize("name", PAGES)
def test_python_of_a_page_compiles_and_imports_public_names(name):
    for block in blocks_of(PAGES[name]):
        if block.language == "python":
            for node in ast.walk(ast.parse(block.text, filename=block.where)):
                if isinstance(node, ast.ImportFrom) and node.module == "stateshape":
                    assert {alias.name for alias in node.names} <= set(stateshape.__all__), block.where


@pytest.mark.parametrize("name", LINKED)
def test_links_and_named_files_of_a_page_exist(name):
    page = ROOT / name
    text = page.read_text(encoding="utf-8")
    links = [link for link in LINK.findall(text) if "://" not in link and not link.startswith("mailto:")]
    assert [link for link in links if not (page.parent / link).exists() and "generated/" not in link] == []
    assert [file for file in NAMED_FILE.findall(text) if not (ROOT / file).exists()] == []


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in EXECUTED]
)
def test_blocks_of_a_page_run_from_top_to_bottom(name, tmp_path, monkeypatch, capfd):
    blocks = [block for block in blocks_of(PAGES[name]) if is_executed(block) or block.note("file")]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    probe = LocalitySettings.__init__.__kwdefaults__ | {"prompts": 1, "max_new_tokens": 2, "positions": 2}
    monkeypatch.setattr(LocalitySettings.__init__, "__kwdefaults__", probe)
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        if file := block.note("file"):
            Path(file).write_text(small_study(block) if is_study(block) else block.executed_text, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.executed_text, block.where, "exec", dont_inherit=True), names)
        else:
            commands = commands_of(block, text=block.executed_text)
            for command in [command for command in commands if command.program == "stateshape"]:
                run_small(command.words[1:], where=command.where)


def is_executed(block: Block) -> bool:
    return (
        block.language in ("sh", "python")
        and not block.note("parse:")
        and not block.note("skip:")
        and not block.note("same as")
        and is_possible(block)
    )


def is_possible(block: Block) -> bool:
    """Whether the package that a block needs is installed."""
    needed = block.note("needs")
    if needed is None or importlib.util.find_spec(needed) is not None:
        return True
    warnings.warn(f"{block.where}: not executed, since {needed} is not installed", stacklevel=2)
    return False


def run_small(words: list[str], *, where: str) -> None:
    """One command of a page, small. A command that fails, fails with the place it is from."""
    if words[-1] == "--help" or "--dry-run" in words:
        small: list[str] = []
    else:
        small = list(SMALL.get(words[0], []))
        small += [part for flag, value in SMALL_FIELDS.items() if flag in words for part in (flag, value)]
    try:
        parser.run([*words, *small])
    except (Exception, SystemExit) as error:
        if not isinstance(error, SystemExit) or error.code:
            error.add_note(f"{where}: stateshape {' '.join([*words, *small])}")
            raise


def is_study(block: Block) -> bool:
    return (block.note("file") or "").endswith(".yaml") and "study" in yaml.safe_load(block.executed_text)


def small_study(block: Block) -> str:
    """A study file of the documentation at a size for a test: few items, two steps, eight short rollouts."""
    study = yaml.safe_load(block.executed_text)
    for task in [study["target"], *study["retention"]]:
        task["limit"] = 10
    study["drift"] = study.get("drift", {}) | {"prompts": 8, "max_new_tokens": 8, "hidden": False}
    study["train"] = study.get("train", {}) | {"steps": 2, "batch_prompts": 2, "lora": {"rank": 2, "alpha": 4}}
    for run in study["runs"].values():
        kept = run.get("train", {})
        run["train"] = {name: value for name, value in kept.items() if name not in ("epochs", "steps", "lora")}
        run["with"] = {
            name: 8 if name in ("max_new_tokens", "rollout_tokens") else value
            for name, value in run.get("with", {}).items()
        }
    return yaml.safe_dump(study, sort_keys=False)


def test_blocks_that_equal_a_file_equal_it():
    found = [block for page in PAGES.values() for block in blocks_of(page) if block.note("same as")]
    assert found
    for block in found:
        assert block.text.strip() == (ROOT / block.note("same as")).read_text(encoding="utf-8").strip(), block.where


# The checks themselves


def page_with(tmp_path: Path, text: str) -> Path:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("stateshape evaluate embedded --task facts --out x", "did you mean eval?"),
        ("stateshape eval embedded --task facts --out x --no-such-flag", "--no-such-flag"),
        ("stateshape eval embedded --out x", "--task"),
        ("stateshape train no_such_recipe ...", "no_such_recipe"),
        ("stateshape train sft --learning-rate 1 ...", "--learning-rate"),
        ("make no-such-target", "no target no-such-target"),
        ("python -m benchmarks.no_such", "no module benchmarks.no_such"),
        ("pip install stateshape", "unknown program"),
    ],
)
def test_a_wrong_command_is_found(tmp_path, line, reason):
    page = page_with(tmp_path, f"text\n\n```sh\n# a comment\n{line}   # why\n```\n")
    problems = [problem_of(command) for command in commands_to_parse(page)]
    assert len(problems) == 1
    assert problems[0].startswith(f"{page}:5: ")
    assert reason in problems[0]


def test_commands_are_joined_over_quotes_and_backslashes_and_read_in_indented_blocks(tmp_path):
    text = (
        '    stateshape states runs/a --sql "SELECT 1\n      FROM states" \\\n        --json\n    out/ and other text\n'
    )
    [command] = commands_to_parse(page_with(tmp_path, f"text\n\n{text}\nmore text\n"))
    assert command.words == ["stateshape", "states", "runs/a", "--sql", "SELECT 1\n  FROM states", "--json"]


@pytest.mark.parametrize(
    ("comment", "reason"),
    [
        ("<!-- test: skip: -->", "no reason"),
        ("<!-- test: ignore -->", "expected one of"),
        ("<!-- test: skip: it is slow -->", "is skipped; use 'parse:'"),
    ],
)
def test_a_block_is_never_left_out_without_a_reason(tmp_path, comment, reason):
    page = page_with(tmp_path, f"{comment}\n\n```sh\nstateshape methods\n```\n")
    with pytest.raises(ValueError, match=reason):
        commands_to_parse(page)


def test_a_replacement_that_finds_nothing_is_an_error(tmp_path):
    [block] = blocks_of(page_with(tmp_path, "<!-- test: replace steps=50 -> steps=2 -->\n```python\nsteps = 50\n```\n"))
    with pytest.raises(ValueError, match="nothing to replace"):
        _ = block.executed_text
