"""Can a printed accuracy arise at all? Of n images a whole number is right.

The granularity test (GRIM: Brown and Heathers 2017, Social Psychological and Personality Science 8), for accuracies:
of 1,797 images 1,749 are 97.33 % and 1,750 are 97.38 %, so that no network has 97.35 %. A mean over runs counts the
images of all of them. Rounding in either direction is admitted, as half a unit rounds up in some programs and to even
in others. The test says nothing where the images are so many that every number of so few decimals can arise.

For psychology R's `scrutiny` does the same for means and percentages (``grim``, ``grim_map``; numbers are given as
text there too, since trailing zeros count, and ties go up or down by default), and goes on to deviations (GRIMMER,
DEBIT). `statcheck` reads test statistics in APA style out of articles and computes their p-values again. Neither knows
of test images, rivals or runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import NamedTuple

from paper_tables.cells import Cell
from paper_tables.reported import ReportedTable, printed_decimals
from paper_tables.tables import Table

TITLE = "Granularity: can the printed accuracies arise?"
INTRO = (
    "Of n images a whole number is right, so that not every accuracy can arise (the granularity test, GRIM). Rounding "
    "in either direction is admitted, and a mean over runs counts the images of all. *Fails*: no whole number of right "
    "answers gives it."
)


class Nearest(NamedTuple):
    """The numbers of right answers on either side of an accuracy."""

    possible: bool
    below: int
    above: int
    answers: int

    def __str__(self) -> str:
        sides = " and ".join(
            f"{right} of {self.answers} are {100 * Decimal(right) / self.answers:.4f} %"
            for right in dict.fromkeys((self.below, self.above))
        )
        return f"{'can' if self.possible else 'cannot'} arise: {sides}"


def nearest(printed: Decimal, images: int, runs: int = 1) -> Nearest:
    """Find the numbers of right answers next to a printed accuracy, and whether one of them rounds to it.

    Parameters
    ----------
    printed : Decimal
        In percent, with its printed decimals.
    images : int
        Test images.
    runs : int
        That the accuracy is the mean of.

    >>> print(nearest(Decimal("97.35"), 1797))
    cannot arise: 1749 of 1797 are 97.3289 % and 1750 of 1797 are 97.3845 %
    >>> nearest(Decimal("97.35"), 1797, runs=3).possible
    True
    """
    answers = images * runs
    exact = printed * answers / 100
    below, above = math.floor(exact), min(math.ceil(exact), answers)
    half = Decimal(1).scaleb(-printed_decimals(printed)) / 2
    # |100 k / answers - printed| <= half, without a division
    possible = any(abs(100 * right - printed * answers) <= half * answers for right in (below, above))
    return Nearest(possible, below, above, answers)


def says_something(decimals: int, images: int, runs: int = 1) -> bool:
    """Whether there are accuracies of so many decimals that cannot arise.

    >>> says_something(2, 1797), says_something(1, 10_000)
    (True, False)
    """
    return Decimal(100) / (images * runs) > Decimal(1).scaleb(-decimals)


def check(table: ReportedTable) -> Iterator[Cell]:
    """Test every accuracy of a table that the test says something of."""
    if table.images is None:
        return
    for row in table.rows:
        for column, printed in row.values.items():
            value, runs = printed.value, printed.runs or 1
            if table.unit_of(column) != "percent" or not isinstance(value, Decimal):
                continue
            if not says_something(printed_decimals(value), table.images, runs):
                continue
            found = nearest(value, table.images, runs)
            yield Cell(
                paper=table.paper,
                table="granularity",
                row=row.method,
                column=f"Table {table.table}, {column}",
                unit="percent",
                reported=f"{value}",
                images=table.images,
                runs=runs,
                protocol="exact decimals",
                claim_verdict="holds" if found.possible else "fails",
                reason=f"{value} % {found}",
            )


def audit(tables: Iterable[ReportedTable]) -> Table:
    """Test the accuracies of `tables`."""
    found = tuple(cell for table in tables for cell in check(table))
    wrong = tuple(f"{cell.column}, {cell.row}: {cell.reason}." for cell in found if cell.claim_verdict == "fails")
    count = f"{len(found) - len(wrong)} of {len(found)} printed accuracies that the test says something of can arise."
    return Table("granularity", TITLE, INTRO, found, wrong=wrong, findings=(count,), layout="list")
