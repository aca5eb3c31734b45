"""Sphinx: the pages of this folder as HTML, with every link and every name of a module checked.

`tox -e docs` builds them. Warnings are errors.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "rtprov"
author = "the rtprov maintainers"
extensions = ["myst_parser", "sphinxcontrib.mermaid", "references"]
exclude_patterns = ["_extensions"]
source_suffix = {".md": "markdown"}
nitpicky = True

myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]

html_theme = "furo"
html_title = "rtprov"
html_show_sourcelink = False
html_copy_source = False
