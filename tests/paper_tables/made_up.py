"""Training runs made up for tests of what is said of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from paper_tables import runs
from paper_tables.cells import Cell, Place
from paper_tables.runs import Contender


def run(contender: Contender, width: str, profile: str, seed: int, last: float, **more: Any) -> Cell:
    """One run, which ends at `last` percent."""
    detail = {
        "as in training": last,
        "best on test": last,
        "diverged": "",
        "accuracy": (last / 2, last),
        **more.pop("detail", {}),
    }
    given = {"measured": last, "seeds": (seed,), "images": 10_000, "selection": "last", "seconds": 1.0, **more}
    return Cell(**runs.place(contender, width, profile, seed)._asdict(), unit="percent", detail=detail, **given)


def by_place(cells: Iterable[Cell]) -> dict[Place, Cell]:
    """As tables are given them."""
    return {cell.place: cell for cell in cells}
