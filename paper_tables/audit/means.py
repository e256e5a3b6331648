"""Two means over training runs, with deviations: do they differ by more than runs do?

Where both sides print a deviation over two runs or more, Welch's t-test: each side keeps its own deviation. Where one
side does, its deviation stands for both (the *pooled* t-test, with its degrees of freedom), and the other side may be a
single run. Half a unit of the last digit is added to each deviation, and on either side to each mean.

The other noise, of which images are tested on, is that of `paper_tables.audit.significance`; the two are not added up,
as runs that share their test images share that noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from scipy.stats import t

from paper_tables import verdicts
from paper_tables.audit import significance
from paper_tables.cells import Cell
from paper_tables.reported import Printed, ReportedTable
from paper_tables.tables import Table

TITLE = "Spread of training runs"
INTRO = (
    "Means over training runs, where a deviation is printed: the difference in points, its 95 % interval for other "
    "runs on the same images, with half a unit of the last printed digit on either side, and the verdict after Holm's "
    "correction. Welch's t where both sides print a deviation, else the pooled t with the one that is printed."
)


@dataclass(frozen=True)
class Mean:
    """A mean accuracy in percent over `runs` runs, with their standard deviation if it is printed."""

    value: Decimal
    deviation: Decimal | None = None
    runs: int = 1

    @property
    def spread(self) -> float | None:
        """The deviation, half a printed unit up; None where it is not printed, or of a single run."""
        if self.deviation is None or self.runs < 2:
            return None
        return float(self.deviation) + significance.half_unit(self.deviation)


@dataclass(frozen=True)
class Compared:
    """A comparison of two means.

    Attributes
    ----------
    test : str
        Which one.
    difference : Decimal
        First less second, in points.
    error : float
        Standard error of the difference.
    degrees : float
        Of freedom.
    rounding : float
        How much of the difference rounding could have made.
    """

    test: str
    difference: Decimal
    error: float
    degrees: float
    rounding: float

    def interval(self, comparisons: int = 1) -> tuple[float, float]:
        """95 % interval of the difference, for `comparisons` together (Bonferroni)."""
        half = float(t.isf(significance.LEVEL / comparisons / 2, self.degrees)) * self.error + self.rounding
        return float(self.difference) - half, float(self.difference) + half

    @property
    def chance(self) -> float:
        """The level at which the interval just reaches 0: a two-sided p-value."""
        apart = abs(float(self.difference)) - self.rounding
        return min(1.0, 2 * float(t.sf(apart / self.error, self.degrees))) if apart > 1e-9 else 1.0


def compare(first: Mean, second: Mean) -> Compared | None:
    """Compare two means; None where neither side prints a deviation over two runs or more.

    >>> found = compare(Mean(Decimal("91.0"), Decimal("0.2"), 5), Mean(Decimal("90.5"), Decimal("0.3"), 5))
    >>> found.test, round(found.degrees, 1), [round(end, 2) for end in found.interval()]
    ("Welch's t", 7.2, [-0.05, 1.05])
    >>> compare(Mean(Decimal("91.0"), Decimal("0.2"), 5), Mean(Decimal("90.5"))).test
    'pooled t, with the one deviation that is printed'
    """
    a, b = first.spread, second.spread
    rounding = significance.half_unit(first.value) + significance.half_unit(second.value)
    difference = first.value - second.value
    if a is not None and b is not None:
        parts = a * a / first.runs, b * b / second.runs
        degrees = sum(parts) ** 2 / sum(
            part**2 / (mean.runs - 1) for part, mean in zip(parts, (first, second), strict=True)
        )
        return Compared("Welch's t", difference, math.sqrt(sum(parts)), degrees, rounding)
    for spread, runs in ((a, first.runs), (b, second.runs)):
        if spread is not None:
            error = spread * math.sqrt(1 / first.runs + 1 / second.runs)
            named = "pooled t, with the one deviation that is printed"
            return Compared(named, difference, error, runs - 1, rounding)
    return None


def mean_of(printed: Printed) -> Mean:
    """The mean that a printed number is."""
    assert isinstance(printed.value, Decimal)
    return Mean(printed.value, printed.deviation, printed.runs or 1)


def audit(tables: Iterable[ReportedTable]) -> Table:
    """Judge every comparison of `tables` with a printed deviation on one side at least."""
    made = [
        (one, found)
        for table in tables
        for one in significance.comparisons(table)
        if (found := compare(mean_of(one.ours), mean_of(one.theirs))) is not None
    ]
    cells = []
    chances = [found.chance for _, found in made]
    for (one, found), alone, adjusted in zip(made, chances, verdicts.holm(chances), strict=True):
        low, high = found.interval()
        cells.append(
            Cell(
                paper=one.table.paper,
                table="means",
                row=f"{one.table.ours} against {one.rival}",
                column=f"Table {one.table.table}, {one.column}",
                unit="points",
                reported=f"{said(mean_of(one.ours))} against {said(mean_of(one.theirs))}",
                measured=float(found.difference),
                ci95=(low, high),
                protocol=found.test,
                claim_verdict=significance.verdict_of(found.difference, adjusted),
                reason=(
                    f"{found.difference:+} points, 95 % interval {low:+.2f} to {high:+.2f} ({found.test}, "
                    f"{found.degrees:.1f} degrees of freedom); p = {alone:.2g} alone, {adjusted:.2g} as one of "
                    f"{len(made)}"
                ),
            )
        )
    wrong = tuple(f"{cell.column}: {cell.row}, {cell.reason}." for cell in cells if cell.claim_verdict == "fails")
    return Table("means", TITLE, INTRO, tuple(cells), wrong=wrong, layout="list")


def said(mean: Mean) -> str:
    """Return a mean as text.

    >>> said(Mean(Decimal("91.0"), Decimal("0.2"), 5)), said(Mean(Decimal("90.5")))
    ('91.0 ± 0.2 (5 runs)', '90.5')
    """
    spread = "" if mean.deviation is None else f" ± {mean.deviation}"
    return f"{mean.value}{spread}" + (f" ({mean.runs} runs)" if mean.runs > 1 else "")
