"""The report: what was found, for people. It is made of cells, and knows no table by its name.

``report.html`` is one file that loads nothing; ``report.md`` is one page. What is said first (`findings.toml`), in
which order (`layout.toml`), and the equations (`mechanism.toml`) are data beside this file.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from paper_tables import cells
from paper_tables.report.html import html
from paper_tables.report.markdown import markdown
from paper_tables.report.views import About, Figure
from paper_tables.tables import Table
from torchimpl import files

__all__ = ["About", "Figure", "about", "html", "markdown", "write"]


def about(**more: str) -> About:
    """Say when and from what a report is made; `more` are facts in words, under their names."""
    facts = {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "sources": commit(),
        "versions": ", ".join(f"{name} {version}" for name, version in cells.versions().items()),
        "hardware": ", ".join(cells.hardware().values()) + " cores",
    }
    return About(facts | more)


def commit() -> str:
    """Return the commit of the sources, and whether they were changed since."""
    if not (cells.ROOT / ".git").exists():  # installed, perhaps below somebody else's checkout
        return "installed, not a checkout"
    try:
        found, changed = (_git(*words) for words in (("rev-parse", "HEAD"), ("status", "--porcelain")))
    except (OSError, subprocess.SubprocessError):
        return "a checkout, of unknown commit"
    return f"commit {found[:12]}" + (", with changes" if changed else "")


def _git(*words: str) -> str:
    command = ["git", "-C", str(cells.ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def write(folder: Path, tables: Sequence[Table], figures: Sequence[Figure], made: About) -> Path:
    """Write both reports into `folder`, and return the path of ``report.html``."""
    page = folder / "report.html"
    files.write_atomic(page, html(tables, figures, made))
    files.write_atomic(folder / "report.md", markdown(tables, figures, made))
    return page
