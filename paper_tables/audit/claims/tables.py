"""Claims on accuracy, judged by the numbers that Tables 2 to 5 print. Each function judges the claims named above it.

A claim of better accuracy *fails* where a printed number contradicts it, *holds* where every comparison it makes is a
win by more than the choice of test images explains (95 %, see `paper_tables.audit.significance`), is *undecided* where
a win is within that noise, and *vacuous* where no rival prints a number. Models with and without quantized first and
last layers are not compared with each other. Plurals ("various bit-widths", "standard benchmarks") mean at least two.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from paper_tables.audit import arithmetic, significance
from paper_tables.audit.claims.judging import Evidence, Judged, Judgements, Verdict, decide
from paper_tables.reported import Printed
from torchimpl.data import cifar10

judges = Judgements()

BENCHMARKS = {"ImageNet": ("2", "3", "4"), "CIFAR-10": ("5",)}
ARCHITECTURES = {"ResNet-18": ("2",), "ResNet-34": ("3",), "MobileNet-V2": ("4",), "ResNet-20": ("5",)}
TABLES = ("2", "3", "4", "5")
SHOWN = 4  # comparisons that a reason lists


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

    def interval(self, comparisons: int = 1) -> tuple[float, float]:
        """95 % interval of the difference; with baselines, of the difference of differences."""
        low, high = significance.difference_interval(self.first, self.second, self.images, comparisons)
        if not any(self.baselines):
            return low, high
        base_low, base_high = significance.difference_interval(*self.baselines, self.images, comparisons)
        change, base = float(self.first - self.second), float(self.baselines[0] - self.baselines[1])
        total = float(self.difference)
        return total - math.hypot(change - low, base_high - base), total + math.hypot(high - change, base - base_low)

    def __str__(self) -> str:
        low, high = self.interval()
        first, second = (
            f"{value}" if not any(self.baselines) else f"{value - base:+}"
            for value, base in zip((self.first, self.second), self.baselines, strict=True)
        )
        return f"{first} against {second} ({self.what}): {self.difference:+}, 95 % interval {low:+.2f} to {high:+.2f}"


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


def judge_wins(found: Sequence[Pair], note: str = "") -> Judged:
    """Judge that the first is better in every pair, by intervals corrected for their number (Bonferroni).

    A loss beyond noise makes the claim fail; a loss, a tie or a win within noise leaves it undecided.
    """
    if not found:
        return "vacuous", f"No rival prints a number there, so that there is nothing to compare with. {note}".strip()
    lost = [pair for pair in found if pair.difference <= 0]
    noisy = [pair for pair in found if pair.difference > 0 and pair.interval(len(found))[0] <= 0]
    beaten = any(pair.interval(len(found))[1] < 0 for pair in lost)
    verdict: Verdict = "fails" if beaten else "undecided" if lost or noisy else "holds"
    if len(found) == 1:
        said = f"Printed: {found[0]}."
    else:
        wins = len(found) - len(lost)
        listed = lost or noisy or [min(found, key=lambda pair: pair.interval()[0])]
        title = "Against it" if lost else "Within noise" if noisy else "The closest"
        more = f"; and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
        said = (
            f"Of {len(found)} printed comparisons {wins} agree, {wins - len(noisy)} by more than 95 % noise, "
            f"corrected for their number. {title}: "
            f"{'; '.join(map(str, listed[:SHOWN]))}{more}."
        )
    return verdict, f"{said} {note}".strip()


# ---------------------------------------------------------------------------------------------------------------------
# The state of the art
# ---------------------------------------------------------------------------------------------------------------------


def headline(evidence: Evidence, groups: Mapping[str, Collection[str]]) -> Judged:
    """Judge that the best rival is beaten in various bit-widths (two or more) in two or more groups of tables."""
    found = {group: [pair for name in names for pair in best_pairs(evidence, name)] for group, names in groups.items()}
    every = [pair for group in found.values() for pair in group]
    sure = {
        group: list(dict.fromkeys(pair.column for pair in some if pair.interval(len(every))[0] > 0))
        for group, some in found.items()
    }
    won = {group: {pair.column for pair in some if pair.difference > 0} for group, some in found.items()}
    enough, printed = (sum(len(columns) >= 2 for columns in by.values()) for by in (sure, won))
    verdict: Verdict = "holds" if enough >= 2 else "undecided" if printed >= 2 else "fails"
    where = "; ".join(f"{group}: {', '.join(columns) or 'none'}" for group, columns in sure.items())
    lost = [f"{pair.what}, {pair.difference:+}" for pair in every if pair.difference < 0]
    ties = sum(pair.difference == 0 for pair in every)
    return verdict, (
        f"Bit-widths in which the best rival is beaten by more than 95 % noise, corrected for {len(every)} "
        f"comparisons: {where}. As printed {len(every) - ties - len(lost)} are wins, {ties} ties and {len(lost)} losses"
        f"{' (' + '; '.join(lost) + ')' if lost else ''}."
    )


@judges("abstract-outperforms", "abstract-significantly", "intro-state-of-the-art", "contribution-state-of-the-art")
def on_benchmarks(evidence: Evidence) -> Judged:
    return headline(evidence, BENCHMARKS)


@judges("conclusion-state-of-the-art")
def on_architectures(evidence: Evidence) -> Judged:
    return headline(evidence, ARCHITECTURES)


@judges("state-of-the-art-consistently")
def consistently(evidence: Evidence) -> Judged:
    every = [pair for name in TABLES for pair in best_pairs(evidence, name)]
    lost = [pair for pair in every if pair.difference < 0]
    noisy = [pair for pair in every if pair.interval()[0] <= 0]
    verdict: Verdict = "fails" if lost else "undecided" if noisy else "holds"
    return verdict, (
        f"Of {len(every)} comparisons with the best rival in Tables 2 to 5, {len(lost)} are losses"
        f"{': ' + '; '.join(map(str, lost[:SHOWN])) if lost else ''}; {len(every) - len(noisy)} are wins by more than "
        "95 % noise."
    )


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


@judges("resnet18-outperforms", "resnet18-significant-margin")
def resnet18(evidence: Evidence) -> Judged:
    return judge_wins(best_pairs(evidence, "2", LOW_BIT))


@judges("resnet18-especially-low-bit")
def especially_low_bit(evidence: Evidence) -> Judged:
    low = best_pairs(evidence, "2", LOW_BIT)
    rest = [pair for pair in best_pairs(evidence, "2") if pair.column not in LOW_BIT]
    means = [float(sum(pair.difference for pair in some)) / len(some) for some in (low, rest)]
    below = math.hypot(*(float(pair.difference) - pair.interval()[0] for pair in low)) / len(low)
    above = math.hypot(*(pair.interval()[1] - float(pair.difference) for pair in rest)) / len(rest)
    larger = means[0] - means[1]
    verdict: Verdict = "fails" if larger <= 0 else "holds" if larger > math.hypot(below, above) else "undecided"
    margins = ", ".join(f"{pair.column} {pair.difference:+}" for pair in rest)
    return verdict, (
        f"Over the best rival the mean margin is {means[0]:+.2f} points in the bit-widths listed and {means[1]:+.2f} "
        f"in the others, {larger:+.2f} more, with a 95 % margin of error of {math.hypot(below, above):.2f}. The others "
        f"include 2/2, which the text on Table 3 calls low-bit as well: {margins}."
    )


@judges("lsq-slightly-better")
def lsq_better(evidence: Evidence) -> Judged:
    found = pairs(evidence, "2", columns=("4/4",), citations=(4, 11))
    return judge_wins([Pair(pair.what, pair.column, pair.second, pair.first, pair.images) for pair in found])


@judges("lsq-better-full-precision")
def lsq_full_precision(evidence: Evidence) -> Judged:
    table = evidence.tables["2"]
    ours = value(table.row(table.ours).values.get("FP"))
    found = [
        Pair(f"{row.method} against ours, Table 2, FP", "FP", theirs, ours, table.images)
        for row in table.rows
        if row.citation in (4, 11)
        and (theirs := value(row.values.get("FP"))) is not None
        and ours is not None
        and table.images
    ]
    same = [f"{pair.what} {pair.difference:+}" for pair in pairs(evidence, "2", columns=("2/2", "3/3"), citations=LSQ)]
    return judge_wins(found, f"With the same two models ours is not behind in lower bit-widths: {', '.join(same)}.")


@judges("beats-irnet-1-1")
def irnet_1_1(evidence: Evidence) -> Judged:
    table = evidence.tables["2"]
    note = next((row.note or "" for row in table.rows if row.citation in IRNET), "")
    other = re.search(r"\d+\.\d+ in 1/1", note)
    elsewhere = "; ".join(map(str, pairs(evidence, "5", columns=("1/1",), citations=IRNET)))
    ours = value(table.row(table.ours).values.get("1/1"))
    return judge_wins(
        pairs(evidence, "2", columns=("1/1",), citations=IRNET),
        f"Table 2 gives {ours} for the paper's method in 1/1; of IRNet, footnote 3 has {other[0] if other else 'none'} "
        f"with additional connections, which is left out. On CIFAR-10: {elsewhere}.",
    )


@judges("beats-irnet-1-32")
def irnet_1_32(evidence: Evidence) -> Judged:
    return judge_wins(pairs(evidence, "2", columns=("1/32",), citations=IRNET))


@judges("better-than-soft-quantizers")
def beats_soft(evidence: Evidence) -> Judged:
    unlike = [
        pair.what
        for pair in pairs(evidence, "2", citations=SOFT, like=False)
        if pair not in pairs(evidence, "2", citations=SOFT)
    ]
    return judge_wins(
        pairs(evidence, "2", citations=SOFT), f"Not like for like (fully quantized) and left out: {'; '.join(unlike)}."
    )


@judges("better-than-interval-learners")
def beats_intervals(evidence: Evidence) -> Judged:
    return judge_wins(pairs(evidence, "2", citations=INTERVALS))


@judges("better-than-clipping-learners")
def beats_clipping(evidence: Evidence) -> Judged:
    return judge_wins(pairs(evidence, "2", citations=CLIPPING))


@judges("table2-differences-from-full-precision")
def table_2_differences(evidence: Evidence) -> Judged:
    return _differences(evidence, "2")


@judges("table6-drops")
def table_6_drops(evidence: Evidence) -> Judged:
    return _differences(evidence, "6")


def _differences(evidence: Evidence, name: str) -> Judged:
    found = [cell for cell in arithmetic.check(evidence.tables[name]) if cell.value_verdict]
    wrong = [cell for cell in found if cell.value_verdict == "contradicted"]
    said = "".join(f" {cell.row}, {cell.column}: {cell.reason}." for cell in wrong)
    right = len(found) - len(wrong)
    return decide(not wrong, f"{right} of {len(found)} printed differences are those of the printed numbers.{said}")


# ---------------------------------------------------------------------------------------------------------------------
# ResNet-34, MobileNet-V2, ResNet-20: Tables 3 to 5
# ---------------------------------------------------------------------------------------------------------------------


@judges("resnet34-outperforms-1-1")
def resnet34_1_1(evidence: Evidence) -> Judged:
    return judge_wins(best_pairs(evidence, "3", ("1/1",)))


@judges("resnet34-outperforms-2-2")
def resnet34_2_2(evidence: Evidence) -> Judged:
    return judge_wins(best_pairs(evidence, "3", ("2/2",)))


@judges("resnet34-outperforms-1-32")
def resnet34_1_32(evidence: Evidence) -> Judged:
    return judge_wins(best_pairs(evidence, "3", ("1/32",)))


@judges("resnet34-same-as-qil")
def same_as_qil(evidence: Evidence) -> Judged:
    found = pairs(evidence, "3", columns=("3/3", "4/4"), citations=(22,))
    return decide(
        len(found) == 2 and all(pair.difference == 0 for pair in found),
        f"Printed: {'; '.join(map(str, found))}. Equal to the digit printed; QIL begins with a full-precision "
        "model of its own.",
    )


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


@judges("best-improvement-resnet34")
def best_change_resnet34(evidence: Evidence) -> Judged:
    return judge_wins(_changes(evidence, "3"), "The noise is that of four accuracies. In 1/1 there is no rival.")


@judges("best-improvement-mobilenet")
def best_change_mobilenet(evidence: Evidence) -> Judged:
    return judge_wins(
        _changes(evidence, "4"),
        "(The paragraph is on Tables 3 and 4; if the sentence means Table 3 alone, this is not claimed.)",
    )


@judges("effective-on-mobilenet")
def mobilenet(evidence: Evidence) -> Judged:
    return judge_wins(
        pairs(evidence, "4", citations=(8, 12), like=False),
        "Ours quantizes every layer and these two do not, so the comparison favours them; PROFIT, which is made for "
        f"such networks, is better: {'; '.join(map(str, pairs(evidence, '4', citations=(38,))))}.",
    )


@judges("cifar10-outperforms-1-1")
def cifar10_1_1(evidence: Evidence) -> Judged:
    return judge_wins(best_pairs(evidence, "5", ("1/1",)))


@judges("cifar10-outperforms-1-32")
def cifar10_1_32(evidence: Evidence) -> Judged:
    return judge_wins(best_pairs(evidence, "5", ("1/32",)))


@judges("cifar10-size")
def cifar10_size(_: Evidence) -> Judged:
    train, test = (len(cifar10.SPLITS[split]) * cifar10.BATCH for split in ("train", "test"))
    return decide(
        (train, test, cifar10.CLASSES) == (50_000, 10_000, 10),
        f"The suite's reader admits the official files only, by their checksums: {train} training and {test} test "
        f"images of {cifar10.CLASSES} classes.",
    )
