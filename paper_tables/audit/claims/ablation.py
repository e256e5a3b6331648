"""Claims on the ablations of the DAQ paper, Tables 6 and 7, by the rules of `paper_tables.audit.claims.tables`.

Each function judges the claims named above it. Table 6's quantizer gap has two measures: the drop in points, which the
paper prints, and the share that is lost of the accuracy above chance. Where the two disagree a claim is undecided.
"""

from __future__ import annotations

import re
from decimal import Decimal

from paper_tables import reported
from paper_tables.audit.claims.judging import Evidence, Judged, Judgements, Verdict, decide
from paper_tables.audit.claims.tables import Pair, at_most_undecided, pairs, value, wins
from reference import daq_theory
from torchimpl.data import cifar10

judges = Judgements()

SOFT, KERNEL = "soft argmax", "kernel soft argmax"
ROUNDING, DASR = "Rounding", "DASR"
CHANCE = Decimal(100) / cifar10.CLASSES
ACCURACY, TIME = "Top-1 accuracy", "Time/iters"


def accuracies(evidence: Evidence, kind: str) -> dict[int, tuple[Decimal, Decimal]]:
    """Table 6's accuracies with rounding and with DASR at test time, by fixed temperature, where both are printed."""
    found = {}
    for row in evidence.tables["6"].rows:
        match = re.fullmatch(rf"{kind}, beta = (\d+)", row.method)
        numbers = value(row.values.get(ROUNDING)), value(row.values.get(DASR))
        if match and numbers[0] is not None and numbers[1] is not None:
            found[int(match[1])] = numbers[0], numbers[1]
    return found


def drop(numbers: tuple[Decimal, Decimal]) -> Decimal:
    """Points lost between DASR and rounding."""
    return numbers[1] - numbers[0]


def share(numbers: tuple[Decimal, Decimal]) -> float:
    """Share of the accuracy above chance that is lost, in percent."""
    above = numbers[1] - CHANCE
    return 100 * float(drop(numbers) / above) if above > 0 else 100.0


def adaptive(evidence: Evidence) -> tuple[Decimal, Decimal]:
    """The last row of Table 6: accuracies with rounding and with DASR at the adaptive temperature."""
    table = evidence.tables["6"]
    row = table.row(table.ours).values
    numbers = value(row[ROUNDING]), value(row[DASR])
    assert numbers[0] is not None
    assert numbers[1] is not None
    return numbers[0], numbers[1]


def _images(evidence: Evidence) -> int:
    images = evidence.tables["6"].images
    assert images
    return images


@judges("drop-decreases-with-temperature")
def drop_decreases(evidence: Evidence) -> Judged:
    rows = [row for row in evidence.tables["6"].rows if row.method.startswith(SOFT)]
    found = [numbers for _, numbers in sorted(accuracies(evidence, SOFT).items())]
    drops, shares = [drop(numbers) for numbers in found], [share(numbers) for numbers in found]
    falls = [values == sorted(values, reverse=True) for values in (drops, shares)]
    verdict: Verdict = "undecided" if falls[0] != falls[1] else "holds" if falls[0] else "fails"
    if len(found) < len(rows) and verdict == "holds":
        verdict = "undecided"
    return verdict, (
        f"{len(found)} of the {len(rows)} rows have numbers. Their drops are {_list(drops)} points; but rounding "
        "leaves "
        f"{_list([numbers[0] for numbers in found])} % in each, next to chance ({CHANCE:g} %), so that the drop is "
        f"all there is to lose: of the accuracy above chance it is {_list([round(s, 1) for s in shares])} %."
    )


def _list(values: list[Decimal] | list[float]) -> str:
    return ", ".join(str(each) for each in values)


@judges("kernel-handles-gap-better")
def kernel_handles_gap(evidence: Evidence) -> Judged:
    soft, kernel = (list(accuracies(evidence, kind).values()) for kind in (SOFT, KERNEL))
    least_drops = [min(map(drop, some)) for some in (kernel, soft)]
    least_shares = [min(map(share, some)) for some in (kernel, soft)]
    better = [least_drops[0] < least_drops[1], least_shares[0] < least_shares[1]]
    verdict: Verdict = "undecided" if better[0] != better[1] else "holds" if better[0] else "fails"
    return verdict, (
        f"At fixed temperatures the least drop with the kernel is {least_drops[0]} points, without it "
        f"{least_drops[1]} (the last row, of the adaptive one, has none); as a share of the accuracy above "
        f"chance {least_shares[0]:.0f} % against {least_shares[1]:.0f} %."
    )


@judges("kernel-much-smaller-temperature")
def kernel_smaller_temperature(evidence: Evidence) -> Judged:
    soft, kernel = accuracies(evidence, SOFT), accuracies(evidence, KERNEL)
    compared = [(low, high) for low in kernel for high in soft if 2 * low <= high]
    worse_drop = [(low, high) for low, high in compared if drop(kernel[low]) >= drop(soft[high])]
    worse_share = [(low, high) for low, high in compared if share(kernel[low]) >= share(soft[high])]
    verdict: Verdict = "undecided" if bool(worse_drop) != bool(worse_share) else "fails" if worse_drop else "holds"
    listed = "; ".join(
        f"{drop(kernel[low])} points at beta = {low} against {drop(soft[high])} at {high}" for low, high in worse_drop
    )
    return verdict, (
        f"Of {len(compared)} pairs in which the kernel's temperature is at most half the soft argmax's, the kernel has "
        f"the larger drop in {len(worse_drop)}{f' ({listed})' if listed else ''}, but the larger share of the accuracy "
        f"above chance is lost with it in {len(worse_share)}."
    )


@judges("drop-from-76-2-to-3-8")
def drops_in_the_text(evidence: Evidence) -> Judged:
    (sentence,) = (claim.text for claim in reported.claims() if claim.id == "drop-from-76-2-to-3-8")
    low, high = (int(beta) for beta in re.findall(r"from (\d+) to (\d+)", sentence)[0])
    claimed = [Decimal(number) for number in re.findall(r"(\d+\.\d)%", sentence)]
    found = [accuracies(evidence, KERNEL)[beta] for beta in (low, high)]
    drops = [drop(numbers) for numbers in found]
    # The text repeats what the table prints in parentheses: where both differ from the sum, it is the same misprint.
    in_table = [_printed_drop(evidence, beta) for beta in (low, high)]
    repeated = in_table == claimed
    verdict: Verdict = "holds" if drops == claimed else "undecided" if repeated else "fails"
    facts = "; ".join(
        f"beta = {beta}: {numbers[1]} - {numbers[0]} = {drop(numbers)}, in the text {number}"
        for beta, numbers, number in zip((low, high), found, claimed, strict=True)
    )
    note = (
        " The table prints the same difference: a misprint of that, or of an accuracy, which would then be right in "
        "the text. It is one finding, that of the table of arithmetic."
    )
    return verdict, f"{facts}.{note if verdict == 'undecided' else ''}"


def _printed_drop(evidence: Evidence, beta: int) -> Decimal | None:
    difference = evidence.tables["6"].row(f"{KERNEL}, beta = {beta}").values[ROUNDING].difference
    return None if difference is None else -difference


@wins(judges, "soft-argmax-degrades-without-gap")
def soft_argmax_degrades(evidence: Evidence) -> list[Pair]:
    found = accuracies(evidence, SOFT)
    return [Pair("beta = 10 against 60, DASR in both passes", DASR, found[10][1], found[60][1], _images(evidence))]


@wins(judges, "beta-24-degrades", note="That the gradient is the cause takes training runs.")
def beta_24(evidence: Evidence) -> list[Pair]:
    found = accuracies(evidence, KERNEL)
    return [
        Pair(f"beta = 12 against 24, {column}", column, found[12][index], found[24][index], _images(evidence))
        for index, column in enumerate((ROUNDING, DASR))
    ]


@wins(
    judges,
    "related-soft-degrades-significantly",
    note="These are the soft argmaxes of Table 6. The sentence is on sigmoid and tanh, of which no table has a row "
    "with and without the gap: undecided at best.",
    then=at_most_undecided,
)
def gap_costs_accuracy(evidence: Evidence) -> list[Pair]:
    return [
        Pair(f"{kind}, beta = {beta}, DASR against rounding", ROUNDING, numbers[1], numbers[0], _images(evidence))
        for kind in (SOFT, KERNEL)
        for beta, numbers in accuracies(evidence, kind).items()
    ]


def _over_fixed(evidence: Evidence) -> list[Pair]:
    """Pair the adaptive temperature with the fixed ones, all with rounding at test time."""
    ours = adaptive(evidence)[0]
    return [
        Pair(f"{kind}, beta = {beta}", ROUNDING, ours, numbers[0], _images(evidence))
        for kind in (SOFT, KERNEL)
        for beta, numbers in accuracies(evidence, kind).items()
    ]


def _not_quantized_but_higher(evidence: Evidence) -> str:
    ours = adaptive(evidence)[0]
    above = [
        f"{numbers[1]} ({kind}, beta = {beta})"
        for kind in (SOFT, KERNEL)
        for beta, numbers in accuracies(evidence, kind).items()
        if numbers[1] > ours
    ]
    return (
        "That is the column with rounding. The other, of networks that are not quantized, has "
        f"{len(above)} higher numbers{': ' + ', '.join(above) if above else ''}."
    )


@wins(judges, "adaptive-best-result", note=_not_quantized_but_higher)
def best_result(evidence: Evidence) -> list[Pair]:
    return _over_fixed(evidence)


@judges("adaptive-addresses-gap", "adaptive-no-drop")
def no_drop(evidence: Evidence) -> Judged:
    rounding, dasr = adaptive(evidence)
    return decide(rounding == dasr, f"With beta* Table 6 prints {rounding} with rounding and {dasr} with DASR.")


@wins(
    judges,
    "conclusion-each-component",
    note="Each number is of one run. No row leaves DASR out, as the plain STE in the same network would: undecided at "
    "best.",
    then=at_most_undecided,
)
def components(evidence: Evidence) -> list[Pair]:
    best = {kind: max(numbers[0] for numbers in accuracies(evidence, kind).values()) for kind in (SOFT, KERNEL)}
    ours, images = adaptive(evidence)[0], _images(evidence)
    return [
        Pair("controller against the best fixed temperature", ROUNDING, ours, best[KERNEL], images),
        Pair("kernel against none, each at its best fixed temperature", ROUNDING, best[KERNEL], best[SOFT], images),
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Table 7
# ---------------------------------------------------------------------------------------------------------------------


@wins(
    judges,
    "controller-large-margin",
    note="At which temperature the STE was combined with DASR is not said; at beta* it would be DAQ itself with "
    f"gradients smaller by the factor {daq_theory.combine_ste_ratio():.3f}.",
)
def large_margin(evidence: Evidence) -> list[Pair]:
    return pairs(evidence, "7", columns=(ACCURACY,))


@judges("controller-slower")
def slower(evidence: Evidence) -> Judged:
    table = evidence.tables["7"]
    times = {row.method: value(row.values.get(TIME)) for row in table.rows}
    ours = times.pop(table.ours)
    others = [time for time in times.values() if time is not None]
    assert ours is not None
    listed = ", ".join(f"{method} {time}" for method, time in times.items())
    most = 100 * (ours / min(others) - 1)
    return decide(
        ours > max(others),
        f"Printed: {ours} ms against {listed}, at most {most:.1f} % more; without any spread.",
    )


@judges("discussion-1-1-resnet20")
def same_network(evidence: Evidence) -> Judged:
    five, seven = evidence.tables["5"], evidence.tables["7"]
    found = [
        value(five.row(five.ours).values.get("1/1")),
        adaptive(evidence)[0],
        value(seven.row(seven.ours).values.get(ACCURACY)),
    ]
    return decide(
        len(set(found)) == 1,
        f"The same number stands in Tables 5, 6 and 7: {', '.join(str(number) for number in found)}.",
    )
