"""Writes a study's report: table1.*, table2.*, plots/ and report.html, from the record files beside them.

Every file is replaced atomically; the same records give the same bytes. Does not know how numbers were computed.
"""

from __future__ import annotations

import os
from pathlib import Path

from stateshape.core.files import write_text
from stateshape.report.folder import read_study
from stateshape.report.html import render_page
from stateshape.report.plots import all_plots
from stateshape.report.tables import write_tables


def write_report(study_dir: Path) -> Path:
    """Returns the path of report.html. A partial study gives a report that says what is missing.

    Raises: BadInput if plan.json is missing or unreadable.
    """
    study = read_study(study_dir)
    write_tables(study_dir, study.plan, study.comparison)
    plots = all_plots(study)
    for plot in [plot for group in plots for plot in group]:
        write_text(study_dir / "plots" / f"{plot.name}.svg", plot.svg)
        _write_bytes(study_dir / "plots" / f"{plot.name}.png", plot.png)
    path = study_dir / "report.html"
    write_text(path, render_page(study, plots=plots))
    return path


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
