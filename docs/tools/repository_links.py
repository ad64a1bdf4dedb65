"""Sphinx extension: links to files and folders of the repository that are no pages of the site, such as ../LOG.md.

On GitHub such a link works by itself. In the site it leads to the clone the site was built in, or, with the setting
`repository_url`, to a published copy. A link to a file that does not exist is a warning, which `make docs` turns into an
error. Does not look at links between pages: MyST checks those.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
# Pages that include a file of the repository's root: their links are relative to the root.
INCLUDED = {"changelog", "contributing"}
LOGGER = logging.getLogger(__name__)


def rewrite_links(app: Sphinx, doctree: nodes.document) -> None:
    docname = app.env.docname
    base = ROOT if docname in INCLUDED else (DOCS / docname).parent
    for node in [*doctree.findall(addnodes.pending_xref), *doctree.findall(addnodes.download_reference)]:
        if node.get("reftype") != "myst" or str(node["reftarget"]).startswith("#"):
            continue
        path, anchor = _target(node, docname=docname, base=base)
        if not (path.exists() and path.is_relative_to(ROOT)):
            LOGGER.warning(
                "link to a file that is not in the repository: %s", path, location=node, type="repository_links"
            )
        elif path.suffix == ".md" and path.is_relative_to(DOCS):
            node.attributes |= {"refdomain": "doc", "reftarget": str(path.relative_to(DOCS).with_suffix(""))}
            node.attributes.setdefault("reftargetid", anchor)
        else:
            link = nodes.reference("", "", *node.children, refuri=_url(app, docname, path), internal=False)
            node.replace_self(link)


def _target(node: nodes.Element, *, docname: str, base: Path) -> tuple[Path, str | None]:
    """The file a link means, and the heading in it."""
    text, _, anchor = str(node["reftarget"]).partition("#")
    if node.get("refdomain") == "doc":  # MyST has made the path relative to docs/, without its suffix
        text, anchor = f"{text}.md", node.get("reftargetid") or ""
        base_of_path = DOCS
        if docname in INCLUDED:
            text = os.path.relpath(DOCS / text, DOCS / Path(docname).parent)
            base_of_path = base
        return Path(os.path.normpath(base_of_path / text)), anchor or None
    return Path(os.path.normpath(base / text)), anchor or None


def _url(app: Sphinx, docname: str, path: Path) -> str:
    inside = path.relative_to(ROOT)
    if app.config.repository_url:
        return f"{app.config.repository_url.rstrip('/')}/{inside.as_posix()}"
    page = Path(app.outdir) / f"{docname}.html"
    return Path(os.path.relpath(path, page.parent)).as_posix()


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_config_value("repository_url", "", "html", [str])
    app.connect("doctree-read", rewrite_links, priority=100)  # before Sphinx collects files to download
    return {"parallel_read_safe": True, "parallel_write_safe": True}
