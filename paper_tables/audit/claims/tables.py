"""Claims on accuracy, judged by the numbers that Tables 2 to 5 print. Each function judges the claims named above it.

A claim of better accuracy *holds* where every comparison it makes is a win by more than the choice of test images
explains (95 %, see `paper_tables.audit.significance`), *fails* where one is a loss by more than that, is *undecided*
where a win or a loss is within that noise, and *vacuous* where no rival prints a number. Each comparison is corrected
once, in one of two families, by Holm's procedure: the 52 of Tables 2 to 5 with rivals, as in the table of significance,
and all others that a sentence makes (ablations, full precision, changes from it, DSQ's). A claim on the mean margin of
some settings over that of others is a single comparison, and by itself. Models with and without quantized first and
last layers are not compared with each other.

One rule for all sentences that claim the *state of the art*: it is the best rival that prints a number and is like for
like, in every setting of the tables that the sentence is on, and the claim is one of better accuracy. Where it says
"various" bit-widths, architectures or benchmarks, or names none, a loss beyond noise leaves it undecided as long as the
best rival is beaten, as printed, in at least two bit-widths of at least two benchmarks or architectures.

One rule for *slightly better* and *the same*: the difference lies between 0 and half a point, or within half a point.
It holds where the whole interval does, fails where none of it does, and is undecided else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import TypeAlias

from scipy.optimize import brentq

from paper_tables import reported, verdicts
from paper_tables.audit import arithmetic, significance
from paper_tables.audit.claims.judging import Evidence, Judged, Judgements, Verdict, decide
from paper_tables.reported import Printed
from torchimpl.data import cifar10

judges = Judgements()

BENCHMARKS = {"ImageNet": ("2", "3", "4"), "CIFAR-10": ("5",)}
ARCHITECTURES = {"ResNet-18": ("2",), "ResNet-34": ("3",), "MobileNet-V2": ("4",), "ResNet-20": ("5",)}
TABLES = ("2", "3", "4", "5")
SHOWN = 4  # comparisons that a reason lists
SLIGHT = 0.5  # points


@dataclass(frozen=True)
class Pair:
    """Two printed accuracies of which a claim says that the first is better.

    Attributes
    ----------
    what : str
        Whose they are, and where.
    column : str
    first, second : Decimal
    images : int
        Test images behind each.
    baselines : tuple of Decimal, optional
        Full-precision accuracies to subtract from each.
    """

    what: str
    column: str
    first: Decimal
    second: Decimal
    images: int
    baselines: tuple[Decimal, Decimal] = (Decimal(0), Decimal(0))

    @property
    def difference(self) -> Decimal:
        """First less second, in points."""
        return (self.first - self.baselines[0]) - (self.second - self.baselines[1])

    def interval(self, comparisons: float = 1) -> tuple[float, float]:
        """95 % interval of the difference, of printed numbers; with baselines, of the difference of differences."""
        low, high = significance.printed_interval(self.first, self.second, self.images, comparisons)
        if not any(self.baselines):
            return low, high
        base_low, base_high = significance.printed_interval(*self.baselines, self.images, comparisons)
        change, base = float(self.first - self.second), float(self.baselines[0] - self.baselines[1])
        total = float(self.difference)
        return total - math.hypot(change - low, base_high - base), total + math.hypot(high - change, base - base_low)

    def chance(self) -> float:
        """Return the level at which the interval just reaches 0."""
        if not any(self.baselines):
            return significance.chance(self.first, self.second, self.images)
        side, sign = (0, 1) if self.difference > 0 else (1, -1)

        def end(exponent: float) -> float:
            return sign * self.interval(significance.LEVEL / 10**exponent)[side]

        if not self.difference or end(0.0) <= 0:
            return 1.0
        return float(10 ** brentq(end, -300.0, 0.0)) if end(-300.0) < 0 else 0.0

    def turned(self) -> Pair:
        """The other way round."""
        return Pair(self.what, self.column, self.second, self.first, self.images, self.baselines[::-1])

    def __str__(self) -> str:
        return self.with_interval()

    def with_interval(self, comparisons: int = 1) -> str:
        """Say what is compared, and the interval, of one or of so many at once."""
        low, high = self.interval(comparisons)
        first, second = (
            f"{value}" if not any(self.baselines) else f"{value - base:+}"
            for value, base in zip((self.first, self.second), self.baselines, strict=True)
        )
        interval = f"95 % interval{f' of {comparisons} at once' * (comparisons > 1)} {low:+.2f} to {high:+.2f}"
        return f"{first} against {second} ({self.what}): {self.difference:+}, {interval}"


def value(cell: Printed | None) -> Decimal | None:
    """Return a printed number, None where there is none."""
    return cell.value if cell and isinstance(cell.value, Decimal) else None


def pairs(
    evidence: Evidence,
    name: str,
    *,
    columns: Collection[str] | None = None,
    citations: Collection[int] | None = None,
    like: bool = True,
) -> list[Pair]:
    """Ours against the rivals of a table, or some of them; ``like`` leaves out what is not like for like."""
    table = evidence.tables[name]
    found = []
    for one in significance.comparisons(table):
        ours, theirs = value(one.ours), value(one.theirs)
        wanted = (columns is None or one.column in columns) and (
            citations is None or table.row(one.rival).citation in citations
        )
        comparable = not like or one.ours.fully_quantized == one.theirs.fully_quantized
        if wanted and comparable and ours is not None and theirs is not None and table.images:
            what = f"{one.rival}, Table {name}, {one.column}"
            found.append(Pair(what, one.column, ours, theirs, table.images))
    return found


def best_pairs(evidence: Evidence, name: str, columns: Collection[str] | None = None) -> list[Pair]:
    """Ours against the best rival of each column."""
    best: dict[str, Pair] = {}
    for pair in pairs(evidence, name, columns=columns):
        if pair.column not in best or pair.second > best[pair.column].second:
            best[pair.column] = pair
    return list(best.values())


# ---------------------------------------------------------------------------------------------------------------------
# Wins
# ---------------------------------------------------------------------------------------------------------------------

Comparisons: TypeAlias = Callable[[Evidence], Sequence[Pair]]
SENTENCES: list[Comparisons] = []  # what each sentence that claims better accuracy compares


def wins(
    judges: Judgements,
    *claims: str,
    note: Callable[[Evidence], str] | str = "",
    nobody: str = "No rival prints a number there",
    then: Callable[[Evidence, Judged, Sequence[Pair]], Judged] | None = None,
) -> Callable[[Comparisons], Comparisons]:
    """Judge that the first is better in every pair that the decorated function finds.

    Parameters
    ----------
    judges : Judgements
    claims : str
    note : str or callable
        A sentence to add.
    nobody : str
        What the reason says where there is no pair.
    then : callable, optional
        Changes what was judged.
    """

    def register(found: Comparisons) -> Comparisons:
        SENTENCES.append(found)

        def judgement(evidence: Evidence) -> Judged:
            some = found(evidence)
            said = note if isinstance(note, str) else note(evidence)
            judged = judge_wins(some, adjusted(evidence), said, nobody)
            return then(evidence, judged, some) if then else judged

        judges(*claims)(judgement)
        return found

    return register


@lru_cache(maxsize=4)
def adjusted(evidence: Evidence) -> Mapping[Pair, float]:
    """The p-value of every comparison that a sentence makes, adjusted once, in its family."""
    with_rivals = [pair for name in TABLES if name in evidence.tables for pair in pairs(evidence, name, like=False)]
    turned = [pair.turned() for pair in with_rivals]
    rivals = {*with_rivals, *turned}
    others = dict.fromkeys(pair for found in SENTENCES for pair in found(evidence) if pair not in rivals)
    judged: dict[Pair, float] = {}
    for some in (with_rivals, list(others)):
        judged.update(zip(some, verdicts.holm([pair.chance() for pair in some]), strict=True))
    judged.update((pair.turned(), judged[pair]) for pair in with_rivals)
    return judged


def judge_wins(
    found: Sequence[Pair],
    chances: Mapping[Pair, float],
    note: str = "",
    nobody: str = "No rival prints a number there",
) -> Judged:
    """Judge that the first is better in every pair, by p-values that are adjusted already.

    A loss beyond noise makes the claim fail; a loss, a tie or a win within noise leaves it undecided.
    """
    if not found:
        return "vacuous", f"{nobody}, so that there is nothing to compare with. {note}".strip()
    lost = [pair for pair in found if pair.difference <= 0]
    noisy = [pair for pair in found if pair.difference > 0 and chances[pair] > significance.LEVEL]
    beaten = any(chances[pair] <= significance.LEVEL for pair in lost)
    verdict: Verdict = "fails" if beaten else "undecided" if lost or noisy else "holds"
    if len(found) == 1:
        said = f"Printed: {found[0]}; adjusted p = {chances[found[0]]:.2g}."
    else:
        wins = len(found) - len(lost)
        listed = lost or noisy or [min(found, key=lambda pair: pair.interval()[0])]
        title = "Against it" if lost else "Within noise" if noisy else "The closest"
        more = f"; and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
        said = (
            f"Of {len(found)} printed comparisons {wins} agree, {wins - len(noisy)} by more than 95 % noise, by Holm's "
            f"correction. {title}: {'; '.join(map(str, listed[:SHOWN]))}{more}."
        )
    return verdict, f"{said} {note}".strip()


def at_most_undecided(evidence: Evidence, judged: Judged, _: Sequence[Pair]) -> Judged:
    """What a claim is about is not all printed, or not alone: what is can refute it, and cannot establish it."""
    verdict, said = judged
    return ("undecided" if verdict == "holds" else verdict), said


def judge_close(found: Sequence[Pair], least: float, most: float, claimed: str, note: str = "") -> Judged:
    """Judge that every difference is between `least` and `most` points, by intervals corrected for their number."""
    intervals = [pair.interval(len(found)) for pair in found]
    inside = [least <= low and high <= most for low, high in intervals]
    outside = [high < least or low > most for low, high in intervals]
    verdict: Verdict = "fails" if any(outside) else "holds" if all(inside) else "undecided"
    printed = "; ".join(pair.with_interval(len(found)) for pair in found)
    return verdict, f"Printed: {printed}. {claimed} is taken for {least:+g} to {most:+g} points. {note}".strip()


# ---------------------------------------------------------------------------------------------------------------------
# The state of the art
# ---------------------------------------------------------------------------------------------------------------------


def _in_several(groups: Mapping[str, Collection[str]]) -> Callable[[Evidence, Judged, Sequence[Pair]], Judged]:
    """Leave undecided what fails, if the best rival is beaten in two bit-widths of two of the groups of tables."""

    def then(evidence: Evidence, judged: Judged, _: Sequence[Pair]) -> Judged:
        won: dict[str, list[str]] = {}
        for group, names in groups.items():
            some = [pair for name in names for pair in best_pairs(evidence, name)]
            won[group] = list(dict.fromkeys(pair.column for pair in some if pair.difference > 0))
        several = sum(len(columns) >= 2 for columns in won.values()) >= 2
        where = "; ".join(f"{group}: {', '.join(columns) or 'none'}" for group, columns in won.items())
        verdict, said = judged
        verdict = "undecided" if verdict == "fails" and several else verdict
        return verdict, f'{said} "Various" need not be all. As printed the best rival is beaten in {where}.'

    return then


def _everywhere(evidence: Evidence) -> list[Pair]:
    return [pair for name in TABLES for pair in best_pairs(evidence, name)]


@wins(
    judges,
    "abstract-outperforms",
    "abstract-significantly",
    "intro-state-of-the-art",
    "contribution-state-of-the-art",
    then=_in_several(BENCHMARKS),
)
def on_benchmarks(evidence: Evidence) -> list[Pair]:
    return _everywhere(evidence)


@wins(judges, "conclusion-state-of-the-art", then=_in_several(ARCHITECTURES))
def on_architectures(evidence: Evidence) -> list[Pair]:
    return _everywhere(evidence)


CONCEDED = (
    '(1) of the same paragraph says that LSQ and LSQ+ "show better results than ours slightly in a 4/4-bit setting".'
)


@wins(judges, "state-of-the-art-consistently", note=f'It is one of "five things from this table": Table 2. {CONCEDED}')
def consistently(evidence: Evidence) -> list[Pair]:
    return best_pairs(evidence, "2")


@judges("various-bit-widths")
def various(evidence: Evidence) -> Judged:
    counts = {}
    for name in TABLES:
        table = evidence.tables[name]
        counts[name] = len(table.row(table.ours).values.keys() - {table.baseline})
    listed = ", ".join(f"{count} (Table {name})" for name, count in counts.items())
    return decide(max(counts.values()) >= 2, f"Numbers of bit-widths printed for it: {listed}.")


@judges("others-specific-settings")
def others(evidence: Evidence) -> Judged:
    settings: dict[str, set[str]] = {}
    for name in TABLES:
        for row in evidence.tables[name].rows:
            settings.setdefault(row.method, set()).update(row.values.keys() - {evidence.tables[name].baseline})
    ours = len(settings.pop(evidence.tables["2"].ours))
    fewest, most = min(map(len, settings.values())), max(map(len, settings.values()))
    return "not testable", (
        f"The tables print {ours} bit-widths of the paper's method and {fewest} to {most} of each rival. A dash says "
        "that a number was not published, not that the method cannot be applied: DSQ has none for 1/1 in Table 2 and "
        "one in Table 5."
    )


# ---------------------------------------------------------------------------------------------------------------------
# ResNet-18, Table 2
# ---------------------------------------------------------------------------------------------------------------------

LOW_BIT = ("1/1", "1/2", "1/32", "2/32")  # as (1) lists them
SOFT, INTERVALS, CLIPPING, LSQ, IRNET = (12, 36, 47), (11, 12, 22), (8,), (11,), (41,)
GAPLESS = (12,)  # of the soft quantizers, DSQ rounds in the forward pass


@wins(judges, "resnet18-outperforms", "resnet18-significant-margin")
def resnet18(evidence: Evidence) -> list[Pair]:
    return best_pairs(evidence, "2", LOW_BIT)


@judges("resnet18-especially-low-bit")
def especially_low_bit(evidence: Evidence) -> Judged:
    low = best_pairs(evidence, "2", LOW_BIT)
    rest = [pair for pair in best_pairs(evidence, "2") if pair.column not in LOW_BIT]
    means = [float(sum(pair.difference for pair in some)) / len(some) for some in (low, rest)]
    below = math.hypot(*(float(pair.difference) - pair.interval()[0] for pair in low)) / len(low)
    above = math.hypot(*(pair.interval()[1] - float(pair.difference) for pair in rest)) / len(rest)
    larger, error = means[0] - means[1], math.hypot(below, above)
    verdict: Verdict = "fails" if larger < -error else "holds" if larger > error else "undecided"
    margins = ", ".join(f"{pair.column} {pair.difference:+}" for pair in rest)
    return verdict, (
        f"Over the best rival the mean margin is {means[0]:+.2f} points in the bit-widths listed and {means[1]:+.2f} "
        f"in the others, {larger:+.2f} more, with a 95 % margin of error of {error:.2f}. The others "
        f"include 2/2, which the text on Table 3 calls low-bit as well: {margins}."
    )


@judges("lsq-slightly-better")
def lsq_better(evidence: Evidence) -> Judged:
    found = pairs(evidence, "2", columns=("4/4",), citations=(4, 11))
    return judge_close([pair.turned() for pair in found], 0, SLIGHT, '"Slightly better"')


def _lsq_in_lower_bit_widths(evidence: Evidence) -> str:
    same = [f"{pair.what} {pair.difference:+}" for pair in pairs(evidence, "2", columns=("2/2", "3/3"), citations=LSQ)]
    return f"With the same two models ours is not behind in lower bit-widths: {', '.join(same)}."


@wins(judges, "lsq-better-full-precision", note=_lsq_in_lower_bit_widths)
def lsq_full_precision(evidence: Evidence) -> list[Pair]:
    table = evidence.tables["2"]
    ours = value(table.row(table.ours).values.get("FP"))
    return [
        Pair(f"{row.method} against ours, Table 2, FP", "FP", theirs, ours, table.images)
        for row in table.rows
        if row.citation in (4, 11)
        and (theirs := value(row.values.get("FP"))) is not None
        and ours is not None
        and table.images
    ]


def _irnet_elsewhere(evidence: Evidence) -> str:
    table = evidence.tables["2"]
    note = next((row.note or "" for row in table.rows if row.citation in IRNET), "")
    other = re.search(r"\d+\.\d+ in 1/1", note)
    elsewhere = "; ".join(map(str, pairs(evidence, "5", columns=("1/1",), citations=IRNET)))
    printed = "; ".join(map(str, pairs(evidence, "2", columns=("1/1",))))
    return (
        f"Who prints one: {printed}. Of IRNet, footnote 3 has {other[0] if other else 'none'} with additional "
        f"connections, which is left out. On CIFAR-10: {elsewhere}."
    )


@wins(judges, "beats-irnet-1-1", note=_irnet_elsewhere, nobody="IRNet has no number in 1/1 in Table 2")
def irnet_1_1(evidence: Evidence) -> list[Pair]:
    return pairs(evidence, "2", columns=("1/1",), citations=IRNET)


def _irnet_prints(network: str) -> str:
    value = reported.irnet_readme().row("1/1").values[network].value
    return (
        f"IR-Net's authors print {value} for {network} in 1/1 with their code, of which structure they do not say there"
    )


def _irnet_not_in_table(network: str) -> str:
    return (
        f"{_irnet_prints(network)}: perhaps of Bi-Real, with additional connections. DAQ's table has not this number."
    )


@judges("irnet-58-1")
def irnet_with_connections(_: Evidence) -> Judged:
    (claim,) = (claim for claim in reported.claims() if claim.id == "irnet-58-1")
    (quoted,) = re.findall(r"top-1 accuracy of ([\d.]+) in an 1/1-bit", claim.text)
    printed = reported.irnet_readme().row("1/1").values["ResNet-18"].value
    return decide(Decimal(quoted) == printed, f"{_irnet_prints('ResNet-18')}.")


@wins(judges, "beats-irnet-1-32")
def irnet_1_32(evidence: Evidence) -> list[Pair]:
    return pairs(evidence, "2", columns=("1/32",), citations=IRNET)


def _unlike(evidence: Evidence) -> str:
    alike = pairs(evidence, "2", citations=SOFT)
    unlike = [pair.what for pair in pairs(evidence, "2", citations=SOFT, like=False) if pair not in alike]
    return f"Not like for like (fully quantized) and left out: {'; '.join(unlike)}."


@wins(judges, "better-than-soft-quantizers", note=_unlike)
def beats_soft(evidence: Evidence) -> list[Pair]:
    return pairs(evidence, "2", citations=SOFT)


@wins(
    judges,
    "addressing-gap-improves-significantly",
    note="These are the soft quantizers of Table 2 that have a gap (DSQ has none), which the sentence rests on; "
    "they differ from DAQ in more than the gap. Table 6, which varies the temperature alone, is judged where it is "
    "claimed.",
    then=at_most_undecided,
)
def addressing_gap(evidence: Evidence) -> list[Pair]:
    return pairs(evidence, "2", citations=[citation for citation in SOFT if citation not in GAPLESS])


@wins(judges, "better-than-interval-learners", note=CONCEDED)
def beats_intervals(evidence: Evidence) -> list[Pair]:
    return pairs(evidence, "2", citations=INTERVALS)


@wins(judges, "better-than-clipping-learners")
def beats_clipping(evidence: Evidence) -> list[Pair]:
    return pairs(evidence, "2", citations=CLIPPING)


@judges("table2-dagger", "table4-dagger")
def dagger(evidence: Evidence) -> Judged:
    marked, agrees = [], True
    for name in TABLES:
        table = evidence.tables[name]
        for row in table.rows:
            some = [column for column, printed in row.values.items() if printed.fully_quantized]
            marked += [f"{row.method}, Table {name}, {column}" for column in some]
            if row.method == table.ours:
                quantized = row.values.keys() - {table.baseline} if name in ARCHITECTURES["MobileNet-V2"] else set()
                agrees &= set(some) == quantized
    return decide(
        agrees,
        f"Marked are {len(marked)} numbers: {'; '.join(marked)}. Of the paper's own that agrees with Section 4.1, "
        "which quantizes all layers of MobileNet-V2 (Table 4) and not the first and last of others. Of rivals their "
        "own papers would tell.",
    )


@judges("table2-differences-from-full-precision")
def table_2_differences(evidence: Evidence) -> Judged:
    return _differences(evidence, "2")


@judges("table6-drops")
def table_6_drops(evidence: Evidence) -> Judged:
    return _differences(evidence, "6")


def _differences(evidence: Evidence, name: str) -> Judged:
    """Judge what the parentheses are said to be: a misprint leaves it undecided, most of them being wrong refute it."""
    found = [cell for cell in arithmetic.check(evidence.tables[name]) if cell.value_verdict]
    wrong = [cell for cell in found if cell.value_verdict != "reproduced"]
    said = "".join(f" {cell.row}, {cell.column}: {cell.reason}." for cell in wrong)
    right = len(found) - len(wrong)
    verdict: Verdict = "holds" if not wrong else "undecided" if right > len(wrong) else "fails"
    note = " A misprint, of a difference or of an accuracy, is one finding: that of the table of arithmetic."
    counted = f"{right} of {len(found)} printed differences are those of the printed numbers."
    return verdict, f"{counted}{said}{note if verdict == 'undecided' else ''}"


# ---------------------------------------------------------------------------------------------------------------------
# ResNet-34, MobileNet-V2, ResNet-20: Tables 3 to 5
# ---------------------------------------------------------------------------------------------------------------------


@wins(judges, "resnet34-outperforms-1-1", note=lambda _: _irnet_not_in_table("ResNet-34"))
def resnet34_1_1(evidence: Evidence) -> list[Pair]:
    return best_pairs(evidence, "3", ("1/1",))


@wins(judges, "resnet34-outperforms-2-2")
def resnet34_2_2(evidence: Evidence) -> list[Pair]:
    return best_pairs(evidence, "3", ("2/2",))


@wins(judges, "resnet34-outperforms-1-32")
def resnet34_1_32(evidence: Evidence) -> list[Pair]:
    return best_pairs(evidence, "3", ("1/32",))


@judges("resnet34-same-as-qil")
def same_as_qil(evidence: Evidence) -> Judged:
    found = pairs(evidence, "3", columns=("3/3", "4/4"), citations=(22,))
    return judge_close(found, -SLIGHT, SLIGHT, '"The same"', "QIL begins with a full-precision model of its own.")


def _changes(evidence: Evidence, name: str) -> list[Pair]:
    """Pair the changes from full precision, ours against each rival's."""
    table = evidence.tables[name]
    found = []
    for one in significance.comparisons(table):
        ours, theirs = value(one.ours), value(one.theirs)
        bases = [value(table.row(method).values.get(table.baseline or "")) for method in (table.ours, one.rival)]
        if ours is None or theirs is None or bases[0] is None or bases[1] is None or not table.images:
            continue
        if one.ours.fully_quantized == one.theirs.fully_quantized:
            what = f"{one.rival}, Table {name}, {one.column}"
            found.append(Pair(what, one.column, ours, theirs, table.images, (bases[0], bases[1])))
    return found


def _of_table_4(evidence: Evidence) -> str:
    changes = "; ".join(map(str, _changes(evidence, "4")))
    return (
        "The noise is that of four accuracies. In 1/1 there is no rival. The sentence follows what is said of Table 3, "
        f"and precedes Table 4, of which it would not be true: {changes or 'none'}."
    )


@wins(judges, "best-improvement", note=_of_table_4)
def best_change_resnet34(evidence: Evidence) -> list[Pair]:
    return _changes(evidence, "3")


def _profit(evidence: Evidence) -> str:
    return (
        "Ours quantizes every layer and these two do not, so the comparison favours them; PROFIT, which is made for "
        f"such networks, is better: {'; '.join(map(str, pairs(evidence, '4', citations=(38,))))}."
    )


@wins(judges, "effective-on-mobilenet", note=_profit)
def mobilenet(evidence: Evidence) -> list[Pair]:
    return pairs(evidence, "4", citations=(8, 12), like=False)


@wins(judges, "cifar10-outperforms-1-1", note=lambda _: _irnet_not_in_table("ResNet-20"))
def cifar10_1_1(evidence: Evidence) -> list[Pair]:
    return best_pairs(evidence, "5", ("1/1",))


@wins(judges, "cifar10-outperforms-1-32")
def cifar10_1_32(evidence: Evidence) -> list[Pair]:
    return best_pairs(evidence, "5", ("1/32",))


@judges("cifar10-size")
def cifar10_size(_: Evidence) -> Judged:
    train, test = (len(cifar10.SPLITS[split]) * cifar10.BATCH for split in ("train", "test"))
    same = (train, test, cifar10.CLASSES) == (50_000, 10_000, 10)
    return (
        "by definition" if same else "fails",
        f"What the data set is: the suite's reader admits the official files only, by their checksums, {train} "
        f"training and {test} test images of {cifar10.CLASSES} classes.",
    )
