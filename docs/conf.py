"""The documentation as a site: Sphinx over the same Markdown files that GitHub shows.

tools/ci/docs.sh builds it.
"""

from __future__ import annotations

import os
import re

import fused_ssim

os.environ["MPLBACKEND"] = "Agg"

project = "fused_ssim"
author = "fused_ssim developers"
version = release = fused_ssim.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["gallery/*.ipynb", "gallery/*.py", "gallery/*.json"]
nitpicky = True
# Names of packages whose own documentation the build does not fetch.
nitpick_ignore_regex = [("py:.*", r"(collections|torch|numpy|torchmetrics|Tensor|_\w+).*")]

html_theme = "furo"
html_title = f"fused_ssim {version}"
html_copy_source = False
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]

myst_heading_anchors = 4  # as GitHub gives them

autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
napoleon_custom_sections = [("Shape", "params_style")]
default_role = "code"  # docstrings have Markdown's backticks

sphinx_gallery_conf = {
    "examples_dirs": "../examples/python",
    "gallery_dirs": "gallery",
    "within_subsection_order": "ExampleTitleSortKey",
    "filename_pattern": r"\.py$",
    "abort_on_example_error": True,
    "matplotlib_animations": True,
    "download_all_examples": False,
    "write_computation_times": False,
}


def _read(app: object, name: str, text: list[str]) -> None:
    """What is written for GitHub, for the site."""
    # A link to an example leads to the page that it made, one to a file elsewhere to a copy of it.
    text[0] = re.sub(r"\]\(\.\./examples/python/(\w+)\.py\)", r"](gallery/\1.rst)", text[0])
    text[0] = re.sub(r"\]\((\.\./(?:conda|docker)/)", r"](path:\1", text[0])
    if name == "decisions/README":
        text[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n0*\n```\n"


def _read_docstring(
    app: object, what: str, name: str, subject: object, options: object, lines: list[str]
) -> None:
    """In |x| and [B, *sizes] docstrings mean bars and stars, no substitution and no emphasis."""
    lines[:] = [re.sub(r"(?<![*\w])([|*])(?=\w)", r"\\\1", line) for line in lines]


def setup(app: object) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _read)
    app.connect("autodoc-process-docstring", _read_docstring, priority=400)  # before napoleon
