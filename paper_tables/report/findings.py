"""The findings that the report begins with: sentences in a data file, every number of them from a cell.

A finding names the cells that it rests on. It is left out where one of them is not there, has no number, or has not the
verdict that its sentences speak of, so that no sentence outlives the number that it states.
"""

from __future__ import annotations

import re
import string
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from paper_tables import render
from paper_tables.cells import Cell
from paper_tables.tables import Table
from reference import daq, daq_theory

FILE = Path(__file__).with_name("findings.toml")
PARTS = ("printed", "found", "strength", "answer")


@dataclass(frozen=True)
class Finding:
    """A finding with its numbers.

    Attributes
    ----------
    id, title : str
    printed : str
        What the paper prints.
    found : str
        What comes out.
    strength : str
        How strong that is.
    answer : str
        What the authors could answer.
    verdict : str
        As which it is marked.
    sure : str
        How sure that is, in two or three words.
    cells : tuple of Cell
        What it rests on.
    """

    id: str
    title: str
    printed: str
    found: str
    strength: str
    answer: str
    verdict: str
    sure: str
    cells: tuple[Cell, ...]


class MissingError(LookupError):
    """A finding speaks of a number that there is not."""


@cache
def facts() -> Mapping[str, float]:
    """Return what the reference computes without measuring; the cells that a finding names check it."""
    low, high = daq_theory.slope_range(sigma=daq.SIGMA["weight"])
    low_activation, high_activation = daq_theory.slope_range(sigma=daq.SIGMA["activation"])
    return {
        "combined_ste_ratio": daq_theory.combine_ste_ratio(daq.GAMMA),
        "least_slope": low,
        "greatest_slope": high,
        "least_slope_activation": low_activation,
        "greatest_slope_activation": high_activation,
        "mean_slope": daq_theory.mean_slope(sigma=daq.SIGMA["weight"]),
        "mean_slope_activation": daq_theory.mean_slope(sigma=daq.SIGMA["activation"]),
    }


def entries() -> list[dict[str, Any]]:
    """Return the findings as the data file has them."""
    found: list[dict[str, Any]] = tomllib.loads(FILE.read_text(encoding="utf-8"))["findings"]
    return found


def findings(tables: Sequence[Table]) -> list[Finding]:
    """Fill in every finding whose cells are there and say what it says."""
    everything = [cell for table in tables for cell in table.cells]
    found = []
    for entry in entries():
        try:
            found.append(_filled(entry, everything))
        except MissingError:
            continue
    return found


def _filled(entry: Mapping[str, Any], everything: Iterable[Cell]) -> Finding:
    everything = list(everything)
    named = {name: _find(selector, everything) for name, selector in entry.get("cells", {}).items()}
    for name, admitted in entry.get("when", {}).items():
        if render.verdict(named[name]) not in admitted:
            raise MissingError(f"{entry['id']}: {name} is {render.verdict(named[name])!r}")
    words: dict[str, Any] = {name: Shown(cell) for name, cell in named.items()}
    words |= {name: _count(selector, everything) for name, selector in entry.get("counts", {}).items()}
    words |= facts()
    texts = {part: _Formatter().format(entry[part], **words) for part in PARTS}
    marked = entry.get("marked", "")
    verdict = render.verdict(named[marked]) if marked in named else marked
    return Finding(
        entry["id"], entry["title"], **texts, verdict=verdict, sure=entry["sure"], cells=tuple(named.values())
    )


class Shown:
    """A cell as sentences speak of it: ``{name.measured:.2f}``, ``{name.reported}``, ``{name.low:+.2f}``."""

    def __init__(self, cell: Cell) -> None:
        self.measured = cell.measured
        self.text = render.measured_text(cell)
        self.reported = cell.reported
        self.low = cell.ci95[0] if cell.ci95 else None
        self.high = cell.ci95[1] if cell.ci95 else None
        self.verdict = render.verdict(cell) or None
        self.reason = cell.reason.rstrip(".")
        self.images = cell.images
        self.runs = cell.runs


class _Formatter(string.Formatter):
    """Formats text; raises MissingError where there is no such number."""

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        value, used = super().get_field(field_name, args, kwargs)
        if value is None or value == "":
            raise MissingError(field_name)
        return value, used


def _find(selector: Mapping[str, str], everything: Iterable[Cell]) -> Cell:
    """Return the one cell whose fields are what the selector says."""
    found = [cell for cell in everything if all(getattr(cell, name) == value for name, value in selector.items())]
    if len(found) != 1 or found[0].value_verdict in ("stale", "not run"):
        raise MissingError(f"{len(found)} cells for {selector}")
    return found[0]


def _count(selector: Mapping[str, str], everything: Iterable[Cell]) -> int:
    """Count the cells whose fields match the selector's patterns; "sign" is that of the measured number."""
    patterns = {name: re.compile(value) for name, value in selector.items()}
    count = seen = 0
    for cell in everything:
        texts = {name: _text(cell, name) for name in patterns}
        seen += bool(patterns["table"].search(cell.table))
        count += all(pattern.search(texts[name]) for name, pattern in patterns.items())
    if not seen:
        raise MissingError(f"no cell of table {selector['table']}")
    return count


def _text(cell: Cell, name: str) -> str:
    if name == "verdict":
        return render.verdict(cell)
    if name == "sign":
        return "+" if (cell.measured or 0) > 0 else "-" if (cell.measured or 0) < 0 else "0"
    if name == "alone":  # what the interval of this comparison alone says
        low, high = cell.ci95 or (0.0, 0.0)
        return "holds" if low > 0 else "fails" if high < 0 else "undecided"
    return str(getattr(cell, name))
