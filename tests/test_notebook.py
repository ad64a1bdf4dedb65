"""notebooks/quickstart.ipynb holds: stripped, made of public names, and executed from top to bottom."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

import stateshape

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"
LINK = re.compile(r"\]\(([^)#\s]+)\)")


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def code_of(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def test_the_notebook_is_stored_without_outputs(notebook):
    nbformat.validate(notebook)
    assert [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")] == []
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


def test_only_the_first_cell_installs_and_only_in_colab(notebook):
    first, *others = code_of(notebook)
    assert "%pip install" in first
    assert first.index('if "google.colab" in sys.modules:') < first.index("    %pip")
    assert [cell for cell in others if "%" in cell.replace("% 4", "")] == []


def test_its_names_are_public_and_its_links_lead_somewhere(notebook):
    trees = [ast.parse(cell) for cell in code_of(notebook)[1:]]
    imported = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours = [alias.name for node in imported if node.module == "stateshape" for alias in node.names]
    assert ours and set(ours) <= set(stateshape.__all__)
    links = [link for cell in notebook.cells if cell.cell_type == "markdown" for link in LINK.findall(cell.source)]
    assert links and [link for link in links if not (NOTEBOOK.parent / link).exists()] == []


def test_the_cells_before_the_study_run(notebook, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    cells = code_of(notebook)[1:]
    study = next(k for k, cell in enumerate(cells) if "run_study(str" in cell)
    for cell in cells[:study]:
        exec(compile(cell, "quickstart.ipynb", "exec"), names)
    assert "Question: " in capsys.readouterr().out
    assert len(names["rows"]) == len(names["task"].test)


@pytest.mark.slow
def test_the_whole_notebook_runs_in_a_kernel_and_shows_what_it_says(notebook, tmp_path, monkeypatch):
    source = str(Path(stateshape.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", ":".join([source, *(path for path in sys.path if path)]))
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = {cell.source.splitlines()[-1]: [out for out in cell.outputs if "data" in out] for cell in cells}
    for last in ("base", "task", "rows", "study", "study.table2()", "study.findings()", "run", "mine", "found"):
        assert "text/html" in shown[last][-1]["data"], last
    assert "image/svg+xml" in shown['study.figure("gain_retention")'][-1]["data"]
    assert "fine-tuned" in shown["study.table2()"][-1]["data"]["text/html"]
    lines = [out for cell in cells for out in cell.outputs if out.output_type == "display_data"]
    assert lines and {out["data"]["text/html"] for out in lines} == {""}  # progress is gone once the work is done
    assert (tmp_path / "stateshape-notebook" / "study" / "report.html").exists()
    assert (tmp_path / "stateshape-notebook" / "audit" / "audit.json").exists()
