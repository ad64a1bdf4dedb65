"""Writes a study's report: table1.*, table2.*, tables/, plots/ and report.html, from the record files beside them.

Every file is replaced atomically; the same records give the same bytes. Does not know how numbers were computed.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from stateshape.core.files import write_text
from stateshape.report.contents import all_plots, all_tables
from stateshape.report.folder import read_study
from stateshape.report.fonts import missing_characters, note_on
from stateshape.report.grid import render_csv
from stateshape.report.html import render_page
from stateshape.report.tables import write_table, write_tables


def write_report(study_dir: Path) -> Path:
    """Returns the path of report.html. A partial study gives a report that says what is missing.

    Tables and plots that an earlier report left in tables/ and plots/, and this one does not make, are removed.

    Raises: BadInput if plan.json is missing or unreadable.
    """
    study = read_study(study_dir)
    write_tables(study_dir, study.plan, study.comparison)
    with missing_characters() as characters:
        tables, plots = all_tables(study), all_plots(study)
    study = replace(study, missing=[*study.missing, *note_on(characters)])
    for table in tables.for_files():
        write_table(study_dir / "tables", table)
    for table in tables.raw:
        write_text(study_dir / "tables" / f"{table.name}.csv", render_csv(table))
    _forget_others(study_dir / "tables", (".csv", ".md", ".tex"), [t.name for t in (*tables.for_files(), *tables.raw)])
    for plot in plots.all():
        write_text(study_dir / "plots" / f"{plot.name}.svg", plot.svg)
        _write_bytes(study_dir / "plots" / f"{plot.name}.png", plot.png)
    _forget_others(study_dir / "plots", (".svg", ".png"), [plot.name for plot in plots.all()])
    path = study_dir / "report.html"
    write_text(path, render_page(study, plots=plots, all_tables=tables))
    return path


def _forget_others(folder: Path, suffixes: tuple[str, ...], names: list[str]) -> None:
    """Removes tables or plots of an earlier report that this one has not; files of other kinds stay."""
    for path in folder.glob("*"):
        if path.suffix in suffixes and path.stem not in names:
            path.unlink()


def _write_bytes(path: Path, data: bytes) -> None:
    """As core.files.write_text, for images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
