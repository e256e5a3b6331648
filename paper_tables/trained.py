"""What training runs say: accuracies with intervals beside the printed ones, and orderings that may be chance or not.

Runs of one protocol and bit-width share one standard deviation, pooled over a table's contenders: three runs alone say
little of theirs. Those that ended early, hardly learned or are below the floor of their profile scatter otherwise, and
stay out of it; so do those that are lost by rounding, and what rounding costs: of them runs have the deviation of their
own. A single run has an interval only where the scatter of several other contenders is known. An ordering compares two
contenders seed by seed, since a seed gives both the same first weights and the same images in the same order. The
orderings of a table are a family, named in its script before anything was measured; Holm's procedure keeps the chance
of one false verdict among all of them at 5 %, counting those not run and those of a contender that ended early, hardly
learned, is below the floor of its profile, or has rates from an edge of what was tried: of it nothing is concluded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

import numpy as np

from paper_tables import reported, runs, verdicts
from paper_tables.cells import Cell
from paper_tables.reported import Printed, ReportedTable, printed_decimals
from paper_tables.runs import Contender
from paper_tables.scatter import (
    FEWEST,
    LEVEL,
    MOST_SEEDS,
    POWER,
    Pooled,
    chance,
    half_width,
    pooled,
    seeds_to_tell,
    spread_of_differences,
)
from paper_tables.tables import Measured, Options, printed_text

LEARNED = 20.0  # percent, twice what ten classes give by chance: what is below says nothing of the others' scatter
PRECISE = 0.5  # points: half an interval that is wider than this cannot reproduce a printed number
DEGREES = 10  # of freedom that a pooled deviation must have
FULL = "cifar10"  # the papers' protocol
SEEDS = 3  # fewest runs a verdict on a number takes
FLOORS = {  # accuracies; below, training went wrong
    "embedded": {"FP": 95.0, "1/32": 95.0, "2/2": 95.0, "1/1": 90.0},
    "cifar10-short": dict.fromkeys(("FP", "1/32", "2/2", "1/1"), 50.0),
}
LABELS = {
    "smoke": "digits, 1 epoch",
    "embedded": "digits, 10 epochs",
    "cifar10-short": "CIFAR-10, 6 epochs",
    "cifar10": "CIFAR-10, 400 epochs",
}


class Entry(NamedTuple):
    """A number of a table that runs give.

    Attributes
    ----------
    contender : Contender
    width : str
    column : str
        Of the table.
    measure : {"last", "as in training", "drop"}
        Accuracy after the last epoch; the same with the training function at test time; the difference of the two.
    printed_row : str
        Row of the table that prints it; empty if none does.
    """

    contender: Contender
    width: str
    column: str
    measure: str = "last"
    printed_row: str = ""

    def runs(self, measured: Measured, profile: str, seeds: int) -> Runs:
        """Return what there is of its runs."""
        by_seed = {seed: runs.found(measured, self.contender, self.width, profile, [seed]) for seed in range(seeds)}
        return Runs(self, profile, {seed: cell for seed, cells in by_seed.items() for cell in cells})


@dataclass(frozen=True)
class Runs:
    """An entry's runs of a profile, by seed."""

    entry: Entry
    profile: str
    cells: Mapping[int, Cell]

    @property
    def values(self) -> dict[int, float]:
        """What each run gives, by seed."""
        return {seed: _value(cell, self.entry.measure) for seed, cell in self.cells.items()}

    @property
    def diverged(self) -> bool:
        """Whether a run ended before its last epoch, since its loss was not finite."""
        return any(cell.detail["diverged"] for cell in self.cells.values())

    @property
    def learned(self) -> bool:
        """Whether all runs went to their end, and have learned something, as tested or as in training."""
        best = [max(_value(cell, measure) for measure in ("last", "as in training")) for cell in self.cells.values()]
        return min(best, default=0.0) >= LEARNED and not self.diverged

    @property
    def alike(self) -> bool:
        """Whether they scatter as others do: they are accuracies, of runs that learned, as they are measured here.

        A network that rounding brings back to chance scatters otherwise, and so does what rounding costs.
        """
        learned = self.learned and not self.below and min(self.values.values(), default=0.0) >= LEARNED
        return learned and self.entry.measure != "drop"

    @property
    def below(self) -> float | None:
        """The floor that the mean accuracy is below; None if it is below none, or there is none."""
        floor = FLOORS.get(self.profile, {}).get(self.entry.width) if self.entry.contender in runs.MAIN else None
        accuracies = [_value(cell, "last") for cell in self.cells.values()]
        return floor if floor and accuracies and float(np.mean(accuracies)) < floor else None

    @property
    def why_not(self) -> str:
        """Why nothing is to be concluded of the contender; empty where it trained as it should."""
        name = self.entry.contender.name
        if self.below:
            return f"{name} is below the floor of {self.below:g} %"
        if self.diverged:
            return f"{name} ended early"
        if not self.learned:
            return f"{name} hardly learned"
        sought = runs.tuned(self.entry.contender.rates or name, self.profile)
        edge = runs.at_an_edge(sought) if sought else ""
        return f"{name} may have better rates ({edge})" if edge else ""


def _value(cell: Cell, measure: str) -> float:
    last, trained = float(cell.measured or 0.0), float(cell.detail["as in training"])  # type: ignore[arg-type]
    return {"last": last, "as in training": trained, "drop": trained - last}[measure]


@dataclass(frozen=True)
class Ordering:
    """A comparison that a paper's sentence makes: one entry has more of its measure than another.

    Attributes
    ----------
    row : str
        In a few words, for the table.
    more, less : Entry
    claims : tuple of str
        Of the sentences, in `paper_tables.reported`.
    """

    row: str
    more: Entry
    less: Entry
    claims: tuple[str, ...] = ()


def judge(last: Sequence[float], best: Sequence[float], spread: Pooled, printed: Decimal) -> tuple[str | None, str]:
    """Judge a printed accuracy by runs of the full protocol: would one more run give it?

    Returns
    -------
    verdict : {"reproduced", "contradicted", "undecided"} or None
    reason : str

    >>> judge([85.7, 85.9, 85.8], [85.9, 86.0, 85.9], Pooled(0.1, 12), Decimal("85.8"))[0]
    'reproduced'
    """
    count = len(last)
    if count < SEEDS or spread.degrees < DEGREES or not spread.known:
        seeds = SEEDS if count == 1 else max(SEEDS, 1 + math.ceil(DEGREES * (count - 1) / max(spread.degrees, 1)))
        return None, (
            f"no verdict with {count} runs and {spread.degrees} degrees of freedom of the deviation: it takes {SEEDS} "
            f"and {DEGREES} (--seeds {seeds} for all contenders), and runs that do not all agree"
        )
    half_unit = float(Decimal(1).scaleb(-printed_decimals(printed)) / 2)
    half = half_width(spread, count, of_one_run=True) + half_unit
    off = {name: abs(float(np.mean(some)) - float(printed)) for name, some in (("last", last), ("best", best))}
    said = f"one more run would give {np.mean(last):.2f} ± {half:.2f} % (95 %, pooled deviation {spread.deviation:.2f})"
    if min(off.values()) > half:
        return "contradicted", f"{said}, and neither this nor the best epoch on test images includes {printed}"
    if off["last"] <= half <= PRECISE:
        return "reproduced", said
    if half <= PRECISE:
        return "undecided", f"{said}, which does not include {printed}; the best epoch on test images would"
    for seeds in range(count + 1, MOST_SEEDS):
        grown = spread._replace(degrees=spread.degrees * (seeds - 1) // (count - 1))  # with as many runs of the others
        if half_width(grown, seeds, of_one_run=True) + half_unit <= PRECISE:
            return (
                "undecided",
                f"{said}; it would take about {seeds} seeds of each contender, did they scatter like this",
            )
    return "undecided", f"{said}; not even {MOST_SEEDS} seeds would make it precise enough, did they scatter like this"


class Compared(NamedTuple):
    """An ordering as found: the mean difference in points, its interval, its p-value and the verdict."""

    ordering: Ordering
    difference: float
    interval: tuple[float, float] | None
    verdict: str
    reason: str
    seeds: tuple[int, ...]


class _Pairs(NamedTuple):
    """An ordering's runs: of both sides by seed, their differences, and how those scatter.

    `entries` is how many contenders the deviation is of; `why_not` says why nothing is to be concluded; `elsewhere`
    whose rates of learning were sought at other bit-widths.
    """

    ordering: Ordering
    by_seed: dict[int, tuple[Cell, Cell]]
    differences: list[float]
    spread: Pooled
    entries: int
    why_not: str
    elsewhere: str

    def chance(self) -> float:
        return 1.0 if self.why_not else chance(self.differences, self.spread)


def compare(family: Sequence[Ordering], measured: Measured, profile: str, seeds: int) -> list[Compared]:
    """Judge a family of orderings by the runs of a profile; those without runs of both sides are left out."""
    entries = dict.fromkeys(entry for one in family for entry in (one.more, one.less))
    of = {entry: entry.runs(measured, profile, seeds) for entry in entries}
    alike: dict[tuple[str, str], dict[Entry, dict[int, float]]] = {}
    for entry, there in of.items():
        if there.alike:
            alike.setdefault((entry.width, entry.measure), {})[entry] = there.values
    found = {}
    for one in family:
        more, less = of[one.more], of[one.less]
        if shared := sorted(more.cells.keys() & less.cells.keys()):
            values = alike.get((one.more.width, one.more.measure), {})
            if not {one.more, one.less} <= values.keys():
                values = {one.more: more.values, one.less: less.values}
            found[one] = _Pairs(
                one,
                {seed: (more.cells[seed], less.cells[seed]) for seed in shared},
                [more.values[seed] - less.values[seed] for seed in shared],
                spread_of_differences(list(values.values())),
                len(values),
                "; ".join(filter(None, (more.why_not, less.why_not))),
                _tuned_elsewhere((one.more, one.less), profile),
            )
    adjusted = verdicts.holm([found[one].chance() if one in found else 1.0 for one in family])
    return [_compared(found[one], p, len(family)) for one, p in zip(family, adjusted, strict=True) if one in found]


def _tuned_elsewhere(entries: Iterable[Entry], profile: str) -> str:
    """Say whose rates were sought at other bit-widths than they are compared at; empty if nobody's."""
    widths = {one.name: one.widths[0] for one in runs.MAIN}  # where rates are sought
    sought: dict[str, list[str]] = {}
    for entry in entries:
        name = entry.contender.rates or entry.contender.name
        if runs.tuned(name, profile) and widths[name] != entry.width:
            sought.setdefault(widths[name], []).append(entry.contender.name)
    return "; ".join(f"the rates of {' and '.join(names)} were sought at {width}" for width, names in sought.items())


def _compared(pairs: _Pairs, adjusted: float, count: int) -> Compared:
    spread, runs_made = pairs.spread, len(pairs.differences)
    mean, half = float(np.mean(pairs.differences)), half_width(spread, runs_made)
    reason = f"{runs_made} pairs of runs" if runs_made != 1 else "one pair of runs"
    if spread.known:
        reason += f", deviation of a difference {spread.deviation:.2f} points ({spread.degrees} degrees of freedom)"
    else:
        why = "they differ alike" if spread.degrees >= FEWEST else f"{spread.degrees} degrees of freedom"
        reason += f": no deviation is known ({why})"
    verdict = "undecided"
    if pairs.why_not:
        reason += f"; {pairs.why_not}, of which nothing else is to be concluded"
    elif spread.known:
        reason += f", p = {pairs.chance():.2g}, among {count} comparisons {adjusted:.2g}"
        if adjusted <= LEVEL:
            verdict = "holds" if mean > 0 else "fails"
        elif mean:
            takes = seeds_to_tell(mean, spread.deviation, pairs.entries, count, more_than=runs_made)
            reason += f"; {takes} seeds would tell, were these the true ones ({100 * POWER:.0f} % power)"
    if pairs.elsewhere:
        reason += f"; {pairs.elsewhere}"
    for seed, both in pairs.by_seed.items():
        if differing := unlike(both):
            reason += f"; the two of seed {seed} differ in {differing}"
    interval = (mean - half, mean + half) if spread.known else None
    return Compared(pairs.ordering, mean, interval, verdict, reason, tuple(pairs.by_seed))


def unlike(found: Iterable[Cell]) -> str:
    """Say in what runs differ that is of their machine and may change their bits; empty where in nothing."""
    there = [
        {
            "processor": str(cell.hardware.get("processor")),
            "device": str(cell.detail.get("device", "cpu")),
            "threads": f"{cell.detail.get('threads', 1.0):g}",
            "torch": str(cell.versions.get("torch")),
        }
        for cell in found
    ]
    values = {name: sorted({one[name] for one in there}) for name in there[0]}
    return "; ".join(f"{name} ({', '.join(some)})" for name, some in values.items() if len(some) > 1)


def cells(
    table: ReportedTable, entries: Sequence[Entry], family: Sequence[Ordering], options: Options, measured: Measured
) -> list[Cell]:
    """Return a table's rows that come of training: accuracies of each contender, and its orderings, by profile."""
    found: list[Cell] = []
    for profile in dict.fromkeys([options.profile, *runs.LONG]):
        found += _accuracies(table, entries, profile, options, measured)
        found += [_ordering_cell(table, one, profile) for one in compare(family, measured, profile, options.seeds)]
    return found


def _accuracies(
    table: ReportedTable, entries: Sequence[Entry], profile: str, options: Options, measured: Measured
) -> list[Cell]:
    of = {entry: entry.runs(measured, profile, options.seeds) for entry in entries}
    alike: dict[tuple[str, str], list[list[float]]] = {}
    for entry, there in of.items():
        if there.alike:
            alike.setdefault((entry.width, entry.measure), []).append(list(there.values.values()))
    found = []
    for entry, there in of.items():
        if there.cells:
            groups: list[list[float]] = []  # of who hardly learned there is no deviation at all
            if there.alike:
                groups = [values for values in alike[entry.width, entry.measure] if len(values) > 1]
                if len(there.cells) == 1 and len(groups) < 2:
                    groups = []  # one other's scatter says little of its own
            elif there.learned:
                groups = [list(there.values.values())]
            found.append(_accuracy_cell(table, there, pooled(groups)))
    return found


def _accuracy_cell(table: ReportedTable, there: Runs, spread: Pooled) -> Cell:
    entry, profile, found = there.entry, there.profile, list(there.cells.values())
    values = list(there.values.values())
    mean, half = float(np.mean(values)), half_width(spread, len(values))
    printed = _printed(table, entry) if profile in runs.LONG else None
    verdict: str | None = None
    reason = f"{len(values)} run{'s' * (len(values) != 1)}"
    if spread.known:
        reason += f", deviation {spread.deviation:.2f} points ({spread.degrees} degrees of freedom)"
    if printed is not None and isinstance(printed.value, Decimal):
        if profile == FULL:
            best = values  # the best epoch is known of what is tested by rounding
            if entry.measure == "last":
                best = [float(cell.detail["best on test"]) for cell in found]  # type: ignore[arg-type]
            verdict, reason = judge(values, best, spread, printed.value)
        else:
            reason += f"; {LABELS[profile]} are not the paper's protocol, hence no verdict on its number"
    stopped = {str(cell.detail["diverged"]) for cell in found if cell.detail["diverged"]}
    if stopped:
        reason += f"; ended early: {'; '.join(sorted(stopped))}"
    reason += runs.vouched(found)
    if differing := unlike(found):
        reason += f"; runs differ in {differing}"
    first = found[0]
    return Cell(
        paper=table.paper,
        table=table.table,
        row=f"{entry.contender.name} ({LABELS[profile]})",
        column=entry.column,
        unit=table.unit_of(entry.column),
        reported=printed_text(printed) if printed else None,
        measured=round(mean, 4),
        ci95=_within(mean - half, mean + half, entry.measure) if math.isfinite(half) else None,
        runs=len(values),
        seeds=tuple(seed for cell in found for seed in cell.seeds or ()),
        images=first.images,
        selection=first.selection,
        protocol=first.protocol,
        recorded=all(cell.recorded for cell in found),
        value_verdict=verdict,
        reason=reason,
        command=first.command,
        seconds=round(sum(cell.seconds or 0.0 for cell in found), 3),
        hardware=first.hardware,
        versions=first.versions,
    )


def _within(low: float, high: float, measure: str) -> tuple[float, float]:
    """Cut an interval at what the measure can be: accuracies are shares."""
    return (low, high) if measure == "drop" else (max(low, 0.0), min(high, 100.0))


def _printed(table: ReportedTable, entry: Entry) -> Printed | None:
    if not entry.printed_row:
        return None
    return table.row(entry.printed_row).values.get(entry.column)


def _ordering_cell(table: ReportedTable, one: Compared, profile: str) -> Cell:
    return Cell(
        paper=table.paper,
        table=table.table,
        row=f"{one.ordering.row} ({LABELS[profile]})",
        column=one.ordering.more.column,
        unit="points",
        measured=round(one.difference, 4),
        ci95=one.interval,
        runs=len(one.seeds),
        seeds=one.seeds,
        claim_verdict=one.verdict,
        reason="; ".join([one.reason, *_claimed(one.ordering)]),
        protocol=LABELS[profile],
    )


def _claimed(ordering: Ordering) -> list[str]:
    """Say where the paper claims an ordering."""
    found = {claim.id: claim for claim in reported.claims()}
    claims = [found[id] for id in ordering.claims]
    return [f"claimed in {claim.source}" + (f" ({claim.part})" if claim.part else "") for claim in claims]


def findings(entries: Sequence[Entry], options: Options, measured: Measured) -> tuple[str, ...]:
    """Say what seeds vary, how much the choice of test images moves a difference, and what was not run."""
    said, missing, said_of_floors = [], [], []
    for profile in dict.fromkeys([options.profile, *runs.LONG]):
        cells_found = [
            cell for e in entries for cell in runs.found(measured, e.contender, e.width, profile, range(options.seeds))
        ]
        if cells_found:
            share = float(np.median([cell.measured or 0.0 for cell in cells_found])) / 100
            images = cells_found[0].images or 1
            noise = 100 * 1.96 * math.sqrt(2 * share * (1 - share) / images)
            said.append(f"{noise:.1f} points for {LABELS[profile]} ({images:,} images)")
        said_of_floors += _floors(entries, profile, options, measured)
        wanted = len({(e.contender, e.width) for e in entries}) * options.seeds
        have = len({cell.place for cell in cells_found})
        if have < wanted:
            command = runs.command(profile, options)
            missing.append(f"{LABELS[profile]}: {have} of {wanted} runs are there; the others: {command}")
    noise_of_images = (
        "Verdicts on orderings are on these test images; seeds vary first weights, order and crops. Other images of "
        f"the same kind would move a difference of two independent networks, in 95 of 100 cases by less than "
        f"{', '.join(said)}."
    )
    return (*([noise_of_images] if said else []), *said_of_floors, *missing)


def _floors(entries: Sequence[Entry], profile: str, options: Options, measured: Measured) -> list[str]:
    """Say which of the methods, not of their variations, are below what a profile's training is to reach."""
    below, some = [], False
    for width in FLOORS.get(profile, {}):
        for entry in dict.fromkeys(e._replace(column="", measure="last", printed_row="") for e in entries):
            there = entry.runs(measured, profile, options.seeds)
            if entry.width == width and there.cells and entry.contender in runs.MAIN:
                some = True
                if there.below:
                    below.append(f"{entry.contender.name}, {width} ({np.mean(list(there.values.values())):.1f})")
    floors = ", ".join(f"{width} {floor:g} %" for width, floor in FLOORS.get(profile, {}).items())
    found = f"below are {', '.join(below)}, of which nothing else is to be concluded" if below else "none is below"
    asked = dict.fromkeys(entry.contender.name for entry in entries if entry.contender in runs.MAIN)
    of_whom = "" if len(asked) == len({entry.contender for entry in entries}) else f" (asked of {', '.join(asked)})"
    return [f"What training on {LABELS[profile]} is to reach: {floors}{of_whom}; {found}."] if some else []
