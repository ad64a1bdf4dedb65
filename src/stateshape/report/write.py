"""Writes a study's report: table1.*, table2.*, tables/, plots/ and report.html, from the record files next to them.

Every file is replaced atomically; the same records give the same bytes. Does not know how numbers were computed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from stateshape.core import layout
from stateshape.core.files import write_bytes, write_text
from stateshape.core.locks import remove_leftovers
from stateshape.report.contents import all_plots, all_tables
from stateshape.report.drawing.table import render_csv
from stateshape.report.fonts import missing_characters, note_on
from stateshape.report.page import render_page
from stateshape.report.parts.tables import write_table, write_tables
from stateshape.report.study_files import read_study_folder

# Files of the study's own folder that a report writes: a study that runs there may be writing others.
OWN = (
    *(
        layout.REPORT,
        layout.COMPARISON,
        layout.VERDICTS,
        layout.FINDINGS,
        layout.PREDICTORS,
        layout.DOSES,
        layout.MANIFEST,
    ),
    *(f"table{number}.{suffix}" for number in (1, 2) for suffix in ("csv", "md", "tex")),
)


def write_report(study_dir: Path) -> Path:
    """Returns the path of report.html. The report of a partial study lists what is missing.

    Tables and plots that an earlier report left in tables/ and plots/, and this one does not make, are removed; so are
    temporary files of a report that was killed.

    Raises: BadInput if plan.json is missing or unreadable.
    """
    study = read_study_folder(study_dir)
    remove_leftovers(study_dir / layout.TABLES, study_dir / layout.PLOTS)
    remove_leftovers(study_dir, names=OWN)
    write_tables(study_dir, study.plan, study.comparison)
    with missing_characters() as characters:
        tables, plots = all_tables(study), all_plots(study)
    study = replace(study, missing=[*study.missing, *note_on(characters)])
    for table in tables.for_files():
        write_table(study_dir / layout.TABLES, table)
    for table in tables.raw:
        write_text(study_dir / layout.TABLES / f"{table.name}.csv", render_csv(table))
    _forget_others(
        study_dir / layout.TABLES, (".csv", ".md", ".tex"), [t.name for t in (*tables.for_files(), *tables.raw)]
    )
    for plot in plots.all():
        write_text(study_dir / layout.PLOTS / f"{plot.name}.svg", plot.svg)
        write_bytes(study_dir / layout.PLOTS / f"{plot.name}.png", plot.png)
    _forget_others(study_dir / layout.PLOTS, (".svg", ".png"), [plot.name for plot in plots.all()])
    path = study_dir / layout.REPORT
    write_text(path, render_page(study, plots=plots, all_tables=tables))
    return path


def _forget_others(folder: Path, suffixes: tuple[str, ...], names: list[str]) -> None:
    """Removes tables or plots of an earlier report that this one has not; files of other kinds stay."""
    for path in folder.glob("*"):
        if path.suffix in suffixes and path.stem not in names:
            path.unlink()
