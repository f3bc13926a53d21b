"""Sphinx: Markdown pages, and those of the environments made from their docstrings.

    sphinx-build -W -b html docs docs/_build/html
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import environment_pages  # noqa: E402

import ptenv  # noqa: E402

project, author, copyright = "ptenv", "the ptenv authors", "the ptenv authors"
version = release = ptenv.__version__

extensions = ["myst_parser"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "ptenv"


def setup(app):
    app.connect("builder-inited", lambda _: environment_pages.write_pages())
    app.connect("source-read", _without_empty_patterns)


def _without_empty_patterns(app, page: str, source: list[str]) -> None:
    """The index without toctree patterns that no page matches yet: Sphinx would warn of them."""
    if page == "index":
        lines = source[0].splitlines(keepends=True)
        source[0] = "".join(line for line in lines if not _is_empty_pattern(line.strip()))


def _is_empty_pattern(line: str) -> bool:
    return line.endswith("*") and " " not in line and not any(HERE.glob(f"{line}.md"))
