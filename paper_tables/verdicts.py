"""How a measured number is judged against a printed one."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from scipy.stats import binomtest

from paper_tables.reported import printed_decimals


def accuracy(correct: int, images: int) -> Decimal:
    """Return the accuracy in percent, exactly where `images` divides a power of ten.

    >>> accuracy(8562, 10000)
    Decimal('85.62')
    """
    return Decimal(100 * correct) / Decimal(images)


def accuracy_interval(correct: int, images: int) -> tuple[float, float]:
    """95 % Wilson interval of the accuracy, in percent, for the population that the images are drawn from.

    >>> [round(end, 2) for end in accuracy_interval(8562, 10000)]
    [84.92, 86.29]
    """
    interval = binomtest(correct, images).proportion_ci(0.95, method="wilson")
    return 100 * float(interval.low), 100 * float(interval.high)


def matches_printed(measured: Decimal, printed: Decimal) -> bool:
    """Whether a deterministic result reproduces a printed number: within half a unit of the last printed digit.

    Half a unit itself counts as reproduced, since rules for rounding it differ.

    >>> matches_printed(Decimal("91.45"), Decimal("91.4")), matches_printed(Decimal("85.62"), Decimal("85.8"))
    (True, False)
    """
    unit = Decimal(1).scaleb(-printed_decimals(printed))
    return abs(measured - printed) <= unit / 2


def judge_accuracy(correct: int, images: int, printed: Decimal) -> tuple[str, str]:
    """Judge a deterministic accuracy.

    Returns
    -------
    verdict : {"reproduced", "contradicted"}
    reason : str
        With the difference in images.

    >>> verdict, reason = judge_accuracy(8562, 10000, Decimal("85.8"))
    >>> print(verdict, reason, sep="; ")
    contradicted; not within 0.05 of 85.8 %; 8562 of 10000 images are right (85.62 %), 18 images fewer than printed
    """
    within, reason = _beside(correct, images, printed)
    return "reproduced" if within else "contradicted", reason


def judge_released(correct: int, images: int, printed: Decimal) -> tuple[str, str]:
    """Set a released file beside the number that is printed of a training run.

    A file that differs refutes nothing: the number may be of another run. So the verdict is on the file, and the reason
    has the 95 % interval for other test images.

    Returns
    -------
    verdict : {"matches", "released file differs"}
    reason : str
        With the difference in images.

    >>> verdict, reason = judge_released(8562, 10000, Decimal("85.8"))
    >>> print(verdict, reason.partition("; ")[2], sep="; ")  # doctest: +NORMALIZE_WHITESPACE
    released file differs; the 95 % interval for other test images, 84.92 to 86.29, contains 85.8; 8562 of 10000 images
    are right (85.62 %), 18 images fewer than printed
    """
    within, reason = _beside(correct, images, printed)
    low, high = accuracy_interval(correct, images)
    contains = "contains" if low <= printed <= high else "does not contain"
    edge, _, counted = reason.partition("; ")
    interval = f"the 95 % interval for other test images, {low:.2f} to {high:.2f}, {contains} {printed}"
    return "matches" if within else "released file differs", f"{edge}; {interval}; {counted}"


def _beside(correct: int, images: int, printed: Decimal) -> tuple[bool, str]:
    """Return whether an accuracy is as printed, and how far off, in images."""
    measured = accuracy(correct, images)
    difference = Decimal(correct) - printed * images / 100
    half = Decimal(1).scaleb(-printed_decimals(printed)) / 2
    counted = f"{abs(difference).normalize():f} images {'more' if difference > 0 else 'fewer'} than printed"
    said = f"{correct} of {images} images are right ({measured:.2f} %), {counted if difference else 'as printed'}"
    if matches_printed(measured, printed):
        edge = "exactly" if abs(measured - printed) == half else "within"
        return True, f"{edge} {half} {'off' if edge == 'exactly' else 'of'} {printed} %; {said}"
    return False, f"not within {half} of {printed} %; {said}"


def holm(chances: Sequence[float]) -> list[float]:
    """Adjust p-values for how many there are, by Holm's step-down procedure; in the order given.

    >>> [round(p, 3) for p in holm([0.04, 0.01, 0.03])]
    [0.06, 0.03, 0.06]
    """
    adjusted = [0.0] * len(chances)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        largest = max(largest, min(1.0, (len(chances) - rank) * chances[index]))
        adjusted[index] = largest
    return adjusted
