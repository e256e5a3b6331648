"""Is "ours" better than "theirs" by more than the choice of test images explains?

For two accuracies on n images each, the interval of their difference is Newcombe's (1998, method 10): the two Wilson
intervals, combined. A printed accuracy may be half a unit of its last digit off, which widens the interval on either
side. A comparison's p-value is the level at which that interval just reaches 0; all of them are one family, and Holm's
step-down procedure, used once, keeps the chance of calling any of them falsely below 5 %.

What is printed allows no better, and the two things that it hides err in opposite ways:

- the networks were tested on the *same* images. Their errors tend to coincide, and a paired test would then find
  smaller differences: the intervals here are too wide. The *tipping disagreement* says how much that could matter: on
  how many images exactly one of the two networks must be right for a win of that size to be chance in a paired test
  (McNemar's). Beside it stands what was measured between released networks;
- each number is of one run (or of one chosen from several). Another seed gives another network, which the intervals do
  not know: they are too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from scipy.optimize import brentq
from scipy.stats import binom, norm

from paper_tables import reported, verdicts
from paper_tables.cells import Cell
from paper_tables.jobs import Job
from paper_tables.reported import Printed, ReportedTable, printed_decimals
from paper_tables.tables import Measured, Options, Table

TITLE = "Significance of the printed comparisons"
NEEDS = "nothing; the disagreement of released networks needs --checkpoints and --data, as for Table 5"
TABLES = ("2", "3", "4", "5")
LEVEL = 0.05
INTRO = (
    "Each printed accuracy of the paper's own method against each rival's in the same column: the difference in "
    "points, its 95 % interval for the choice of test images, with half a unit of the last printed digit on either "
    "side, and the verdict after Holm's correction for all comparisons made, as one family. Two assumptions, which err "
    "in opposite ways: the intervals treat the two networks' errors as independent, though both saw the same images "
    "(too wide); and they know nothing of the spread between training runs (too narrow). Tipping disagreement: on so "
    "many images exactly one of the two networks must be right for the win to be chance in a paired test, one "
    "comparison alone; none where the two cannot disagree on as many."
)
BEST = " (best rival)"
NEAR, FAR = 1e-9, 40.0  # standard errors; beyond, the probability is 1 or 0 in floating point


def wilson(p: float, images: int, z: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion: where ``(x - p)^2 = z^2 x (1 - x) / images``.

    Its ends are exactly 0 and 1 at p = 0 and p = 1: each is written as a quotient without a difference of nearly equal
    numbers, and the upper one is the lower one of the images that are wrong.

    >>> [round(end, 4) for end in wilson(0.858, 10_000, 1.96)]
    [0.851, 0.8647]
    >>> wilson(0.0, 100, 1.96)[0], wilson(1.0, 100, 1.96)[1]
    (0.0, 1.0)
    """
    ratio = z * z / images
    half = z * math.sqrt(p * (1 - p) / images + ratio / (4 * images))
    return p * p / (p + ratio / 2 + half), 1 - (1 - p) ** 2 / (1 - p + ratio / 2 + half)


def difference_interval(
    ours: Decimal, theirs: Decimal, images: int, comparisons: float = 1, *, their_images: int | None = None
) -> tuple[float, float]:
    """Interval of ``ours - theirs``, in percentage points, at 95 % for all `comparisons` together.

    Parameters
    ----------
    ours, theirs : Decimal
        Accuracies in percent.
    images : int
        Test images of each; `their_images` if theirs differ.
    comparisons : float
        How many are made (Bonferroni); in general, 5 % over the level.

    >>> [round(end, 2) for end in difference_interval(Decimal("85.8"), Decimal("85.4"), 10_000)]
    [-0.57, 1.37]
    """
    z = float(norm.isf(LEVEL / comparisons / 2))
    p, q = float(ours) / 100, float(theirs) / 100
    low_p, high_p = wilson(p, images, z)
    low_q, high_q = wilson(q, their_images or images, z)
    low = p - q - math.hypot(p - low_p, high_q - q)
    high = p - q + math.hypot(high_p - p, q - low_q)
    return 100 * low, 100 * high


def half_unit(printed: Decimal) -> float:
    """Half a unit of the last digit of a printed number: how far it may be from what was rounded.

    >>> half_unit(Decimal("85.8")), half_unit(Decimal("85.80"))
    (0.05, 0.005)
    """
    return float(Decimal(1).scaleb(-printed_decimals(printed)) / 2)


def printed_interval(ours: Decimal, theirs: Decimal, images: int, comparisons: float = 1) -> tuple[float, float]:
    """Widen `difference_interval` by half a unit of the last digit of either number.

    >>> [round(end, 2) for end in printed_interval(Decimal("85.8"), Decimal("85.4"), 10_000)]
    [-0.67, 1.47]
    """
    low, high = difference_interval(ours, theirs, images, comparisons)
    off = half_unit(ours) + half_unit(theirs)
    return max(low - off, -100.0), min(high + off, 100.0)


def chance(ours: Decimal, theirs: Decimal, images: int) -> float:
    """The level at which the interval of two printed numbers just reaches 0: a two-sided p-value.

    1 where rounding alone could have made the difference.

    >>> round(chance(Decimal("86.9"), Decimal("85.8"), 10_000), 3), chance(Decimal("85.8"), Decimal("85.7"), 10_000)
    (0.039, 1.0)
    """
    higher, lower = max(ours, theirs), min(ours, theirs)
    off = half_unit(ours) + half_unit(theirs)
    if float(higher - lower) <= off + 1e-9:  # equal decimals are not equal in binary
        return 1.0
    p, q = float(higher) / 100, float(lower) / 100

    def low(z: float) -> float:
        return p - q - off / 100 - math.hypot(p - wilson(p, images, z)[0], wilson(q, images, z)[1] - q)

    return float(2 * norm.sf(brentq(low, NEAR, FAR))) if low(FAR) < 0 else 0.0


def tipping(ours: Decimal, theirs: Decimal, images: int) -> int | None:
    """On how many images exactly one of the two must be right for the difference to be chance.

    That is in McNemar's exact test, two-sided at 5 %, of one comparison; half a unit of rounding counts against the
    difference.

    Returns
    -------
    int or None
        None if no number makes it a finding: where rounding explains the difference, or it is too few images to count
        even if all else agreed. More than `images`: none makes it chance that the two can disagree on, as the worse
        may be right, where the better is not, on no more images than that is wrong on, or itself is right on.

    >>> tipping(Decimal("86.9"), Decimal("85.8"), 10_000), tipping(Decimal("85.8"), Decimal("85.8"), 10_000)
    (2552, None)
    >>> tipping(Decimal("85.8"), Decimal("84.1"), 10_000)
    10001
    """
    off = half_unit(ours) + half_unit(theirs)
    apart = math.ceil((abs(float(ours - theirs)) - off) * images / 100 - 1e-6)

    def is_chance(worse: int) -> bool:
        """Whether it is with so many images that only the worse network has right; the better has `apart` more."""
        return bool(2 * binom.cdf(worse, apart + 2 * worse, 0.5) > LEVEL)

    if apart <= 0 or is_chance(0):
        return None
    better, worse = max(ours, theirs), min(ours, theirs)
    free = min(100 - float(better) + half_unit(better), float(worse) + half_unit(worse))
    low, high = 0, min(math.floor(free * images / 100 + 1e-6), (images - apart) // 2)
    if not is_chance(high):
        return images + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_chance(middle) else (middle, high)
    return apart + 2 * high


def takes(against: Decimal, images: int, *, decimals: int, better: bool, comparisons: int = 1) -> Decimal | None:
    """The smallest difference, as printed, that the interval of `printed_interval` does not reach 0 at.

    Parameters
    ----------
    against : Decimal
        Accuracy in percent of one network.
    images, comparisons : int
    decimals : int
        With which the other one is printed.
    better : bool
        Whether the other one is above or below it.

    Returns
    -------
    Decimal or None
        In points, at least one unit of the last digit; None where 0 or 100 % would not be enough.

    >>> takes(Decimal("85.4"), 10_000, decimals=1, better=True), takes(Decimal("78.5"), 200, decimals=0, better=True)
    (Decimal('1.1'), Decimal('8.5'))
    """
    unit = Decimal(1).scaleb(-decimals)
    least = math.floor(against / unit) if better else -math.ceil(against / unit)
    most = int((100 if better else 0) / unit) * (1 if better else -1)

    def counts(steps: int) -> bool:
        other = abs(steps) * unit
        low, high = printed_interval(other, against, images, comparisons)
        return low > 0 if better else high < 0

    if not counts(most):
        return None
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if counts(middle) else (middle, most)
    return abs(abs(most) * unit - against)


@dataclass(frozen=True)
class Comparison:
    """One printed accuracy of the table's own method against one of a rival."""

    table: ReportedTable
    column: str
    rival: str
    ours: Printed
    theirs: Printed
    best: bool

    @property
    def difference(self) -> Decimal:
        """Ours less theirs, in points."""
        assert isinstance(self.ours.value, Decimal)
        assert isinstance(self.theirs.value, Decimal)
        return self.ours.value - self.theirs.value

    @property
    def accuracies(self) -> tuple[Decimal, Decimal]:
        """Ours and theirs, in percent."""
        assert isinstance(self.ours.value, Decimal)
        assert isinstance(self.theirs.value, Decimal)
        return self.ours.value, self.theirs.value

    @property
    def images(self) -> int:
        """Test images behind each."""
        assert self.table.images is not None
        return self.table.images


def comparisons(table: ReportedTable) -> Iterator[Comparison]:
    """Every comparison that a table of accuracies makes; its baseline column is not one.

    The best rival of a column is the one with the highest accuracy (the first of several).
    """
    ours = table.row(table.ours).values
    for column in table.columns:
        if column == table.baseline or column not in ours or table.unit_of(column) != "percent":
            continue
        rivals = {
            row.method: row.values[column] for row in table.rows if row.method != table.ours and column in row.values
        }
        best = max(rivals, key=lambda method: rivals[method].value, default=None)
        for method, theirs in rivals.items():
            yield Comparison(table, column, method, ours[column], theirs, method == best)


def judge(interval: tuple[float, float]) -> str:
    """Return "holds" if ours is better beyond the interval, "fails" if worse beyond it, else "undecided"."""
    low, high = interval
    if low > 0:
        return "holds"
    return "fails" if high < 0 else "undecided"


def verdict_of(difference: Decimal, adjusted: float) -> str:
    """Return the verdict on "ours is better", by the p-value that Holm's procedure has adjusted."""
    if adjusted > LEVEL:
        return "undecided"
    return "holds" if difference > 0 else "fails"


def family(tables: Sequence[ReportedTable]) -> list[tuple[Comparison, float, float]]:
    """Every comparison of tables that say how many images they are on, with its p-value, alone and adjusted."""
    made = [one for table in tables if table.images is not None for one in comparisons(table)]
    alone = [chance(*one.accuracies, one.images) for one in made]
    return list(zip(made, alone, verdicts.holm(alone), strict=True))


def check(tables: Sequence[ReportedTable]) -> list[Cell]:
    """Judge every comparison of `tables`, together."""
    found = []
    judged = family(tables)
    for one, alone, adjusted in judged:
        ours, theirs = one.accuracies
        single = printed_interval(ours, theirs, one.images)
        verdict = verdict_of(one.difference, adjusted)
        tips = tipping(ours, theirs, one.images)
        found.append(
            Cell(
                paper=one.table.paper,
                table="significance",
                row=f"{one.table.ours} against {one.rival}" + (BEST if one.best else ""),
                column=f"Table {one.table.table}, {one.column}",
                unit="points",
                reported=f"{ours} against {theirs}",
                measured=float(one.difference),
                ci95=single,
                images=one.images,
                protocol=f"Newcombe's interval and half a printed unit, unpaired, one of {len(judged)} comparisons",
                detail={"p alone": alone, "p adjusted": adjusted} | ({} if tips is None else {"tipping": float(tips)}),
                claim_verdict=verdict,
                reason=_reason(one, single, alone, adjusted, len(judged), tips),
            )
        )
    return found


def _reason(
    one: Comparison, single: tuple[float, float], alone: float, adjusted: float, count: int, tips: int | None
) -> str:
    said = (
        f"{one.difference:+} points, 95 % interval {single[0]:+.2f} to {single[1]:+.2f}; p = {alone:.2g} alone, "
        f"{adjusted:.2g} as one of {count}"
    )
    if (alone <= LEVEL) != (adjusted <= LEVEL):
        said += "; alone it would count, not as one of many"
    if tips is not None and tips <= one.images:
        share = 100 * tips / one.images
        said += f"; in a paired test it is chance if exactly one of the two is right on {tips} images ({share:.1f} %) "
        said += "or more"
    if one.ours.fully_quantized != one.theirs.fully_quantized:
        which = "ours" if one.ours.fully_quantized else "theirs"
        said += f"; not like for like, as only {which} quantizes every layer"
    return said


def summary(found: Sequence[Cell]) -> tuple[str, ...]:
    """Count, for the best rivals and for all: wins beyond chance, wins within it, ties, losses."""
    best = [cell for cell in found if cell.row.endswith(BEST)]
    sentences = []
    for name, more, some in (("best-rival comparison", "", best), ("comparison", " in all", list(found))):
        if not some:
            continue
        differences = [cell.measured or 0.0 for cell in some]
        alone = [cell for cell in some if cell.ci95 and cell.ci95[0] > 0]
        sure = [cell for cell in some if cell.claim_verdict == "holds"]
        won = sum(difference > 0 for difference in differences)
        lost = [cell for cell in some if (cell.measured or 0.0) < 0]
        beaten = [cell for cell in lost if cell.claim_verdict == "fails"]
        which = f" ({'; '.join(f'{cell.column}, {_rival(cell)}' for cell in beaten)})" if beaten else ""
        ties = differences.count(0.0)
        sentences.append(
            f"Of {len(some)} {name}{'s' * (len(some) != 1)}{more}: {won} win{'s' * (won != 1)}, {len(alone)} by more "
            f"than the choice of test images explains ({len(sure)} after Holm's correction for {len(found)}); {ties} "
            f"tie{'s' * (ties != 1)}; {len(lost)} loss{'es' * (len(lost) != 1)}, {len(beaten)} by more than chance"
            f"{which}."
        )
    return tuple(sentences)


def _rival(cell: Cell) -> str:
    return cell.row.partition(" against ")[2].removesuffix(BEST)


def audit(tables: Sequence[ReportedTable], measured: Sequence[Cell] = ()) -> Table:
    """Judge the comparisons that `tables` make, together; `measured` is the disagreement of released networks."""
    found = check(tables)
    wrong = tuple(f"{cell.column}: {cell.row}, {cell.reason}." for cell in found if cell.claim_verdict == "fails")
    return Table(
        "significance",
        TITLE,
        INTRO,
        (*found, *measured),
        wrong=wrong,
        findings=(*summary(found), *_paired(found, measured)),
        layout="list",
        shown=("fails", "undecided"),
    )


def _paired(found: Sequence[Cell], measured: Sequence[Cell]) -> tuple[str, ...]:
    """Say how many wins would stand in a paired test of networks that disagree as the released ones do."""
    shares = [
        cell.measured / cell.images
        for cell in measured
        if cell.measured is not None and cell.images and cell.value_verdict is None
    ]
    wins = [cell for cell in found if (cell.measured or 0.0) > 0]
    if not shares or not wins:
        return ()
    counts = [
        sum(float(cell.detail.get("tipping", 0.0)) > share * (cell.images or 0) for cell in wins)  # type: ignore[arg-type]
        for share in (min(shares), max(shares))
    ]
    return (
        f"The released networks disagree on {100 * min(shares):.1f} to {100 * max(shares):.1f} % of CIFAR-10's test "
        f"images (one is right where the other is wrong). If each two networks compared did so, {counts[1]} to "
        f"{counts[0]} of the {len(wins)} wins would be more than chance in a paired test, each alone.",
    )


def jobs(options: Options) -> list[Job]:
    """Return a job for each pair of released networks."""
    from paper_tables.audit import discordance  # and torch, for which `quantgap claim` need not wait

    return discordance.jobs(options)


def run(options: Options, measured: Measured) -> Table:
    """Judge every comparison of Tables 2 to 5."""
    from paper_tables.audit import discordance

    tables = reported.tables()
    return audit([tables[name] for name in TABLES], discordance.measured_cells(options, measured))


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("significance"))
