"""The documentation: ``pip install -e ".[docs]" && sphinx-build -W docs build/docs``."""

import importlib.metadata

from softbench.interface.declarations import Declarations

project = "softbench"
author = "The softbench developers"
copyright = "The softbench developers"
release = version = importlib.metadata.version("softbench")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "numpydoc"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
default_role = "py:obj"

html_theme = "pydata_sphinx_theme"
html_title = "softbench"
html_theme_options = {"show_prev_next": False, "secondary_sidebar_items": ["page-toc"]}
html_sourcelink_suffix = ""

autodoc_typehints = "none"  # numpydoc's sections have the types
autodoc_member_order = "bysource"

autosummary_generate = False  # numpydoc brings autosummary, which has nothing to do here
numpydoc_show_class_members = False
numpydoc_validation_checks = {"GL03", "GL07", "GL08", "PR01", "PR02", "PR03", "PR04", "PR07", "RT01", "RT03", "EX01"}
"""A public function documents all its parameters, in order and with types, what it returns, and shows an example."""
numpydoc_validation_exclude = {rf"\.RowBackend\.{name}$" for name in Declarations.__annotations__}
"""Attributes, which need no example of their own."""

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
