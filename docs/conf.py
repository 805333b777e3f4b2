"""The site that ``make site`` builds from these pages, by Sphinx."""

from __future__ import annotations

from importlib import metadata

project = "seamless-dask"
author = "seamless-dask developers"
release = metadata.version(project)
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_external_toc",
]
html_theme = "furo"
html_title = f"{project} {release}"

# headings are linked to as on GitHub
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_google_docstring = False
