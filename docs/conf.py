"""Sphinx configuration. The pages are the Markdown files next to this one; `tools/` makes the two generated references.

`make docs` builds the site into build/docs, without a network, and stops at the first broken link.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "tools"))

project = "stateshape"
copyright = "the stateshape authors"
author = "the stateshape authors"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "repository_links",
    "reference_pages",
]
exclude_patterns = ["tools"]
myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]

# Warnings are errors (make docs); links between pages count, types in signatures that are not documented here do not.
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
autodoc_default_options = {"members": True, "undoc-members": True}
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = "stateshape"
html_copy_source = False
html_show_sphinx = False
copybutton_exclude = ".linenos, .gp, .go"

# Where links to files outside docs/ lead: the clone that the site was built in, or a published copy of the repository,
# for example DOCS_REPOSITORY_URL=https://example.org/stateshape/blob/main.
repository_url = os.environ.get("DOCS_REPOSITORY_URL", "")
