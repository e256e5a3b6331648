"""Verdicts against exact fractions."""

import itertools
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paper_tables import verdicts

COUNTS = st.integers(1, 60_000).flatmap(lambda images: st.tuples(st.integers(0, images), st.just(images)))
CHANCES = st.sampled_from([0.0, 0.001, 0.01, 0.02, 0.05, 0.3, 1.0]) | st.floats(0, 1)


@given(COUNTS, st.integers(0, 10_000), st.integers(0, 3))
def test_reproduced_iff_within_half_a_unit(counts, digits, decimals):
    correct, images = counts
    printed = Decimal(digits).scaleb(-decimals)
    if printed > 100:
        printed = Decimal(100)
        decimals = 0
    within = abs(Fraction(100 * correct, images) - Fraction(printed)) <= Fraction(1, 2 * 10**decimals)
    verdict, reason = verdicts.judge_accuracy(correct, images, printed)
    assert (verdict == "reproduced") == within, reason


@given(COUNTS, st.integers(0, 10_000), st.integers(0, 3))
def test_a_released_file_matches_or_differs_and_contradicts_nothing(counts, digits, decimals):
    correct, images = counts
    printed = min(Decimal(digits).scaleb(-decimals), Decimal(100))
    verdict, reason = verdicts.judge_released(correct, images, printed)
    assert (
        verdict
        == {"reproduced": "matches", "contradicted": "released file differs"}[
            verdicts.judge_accuracy(correct, images, printed)[0]
        ]
    )
    low, high = verdicts.accuracy_interval(correct, images)
    contains = "contains" if low <= printed <= high else "does not contain"
    assert f"{low:.2f} to {high:.2f}, {contains} {printed}; {correct} of {images}" in reason


def test_the_released_1_1_is_18_images_off_and_its_interval_contains_85_8():
    verdict, reason = verdicts.judge_released(8562, 10_000, Decimal("85.8"))
    assert verdict == "released file differs"
    assert "84.92 to 86.29, contains 85.8" in reason
    assert reason.endswith("18 images fewer than printed")


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_the_difference_is_counted_in_images(correct, claimed):
    printed = Decimal(claimed).scaleb(-2)
    reason = verdicts.judge_accuracy(correct, 10_000, printed)[1]
    if correct == claimed:
        assert reason.endswith("as printed")
    else:
        assert f"{abs(correct - claimed)} images {'more' if correct > claimed else 'fewer'}" in reason


@pytest.mark.parametrize(
    ("correct", "printed", "verdict"),
    [
        (9145, "91.4", "reproduced"),  # half a unit: 91.45 is printed as 91.4 or 91.5, by the rule for ties
        (9145, "91.5", "reproduced"),
        (9146, "91.4", "contradicted"),
        (9145, "91.40", "contradicted"),  # printed with two decimals, it claims more
        (8575, "85.8", "reproduced"),
        (8574, "85.8", "contradicted"),
    ],
)
def test_edges(correct, printed, verdict):
    assert verdicts.judge_accuracy(correct, 10_000, Decimal(printed))[0] == verdict


@given(COUNTS)
def test_interval_contains_the_accuracy_and_stays_in_bounds(counts):
    correct, images = counts
    low, high = verdicts.accuracy_interval(correct, images)
    assert 0 <= low <= 100 * correct / images + 1e-9
    assert 100 * correct / images - 1e-9 <= high <= 100


def test_interval_by_wilsons_formula():
    # Wilson 1927, written out for 8562 of 10000 and z = 1.959964
    n, p, z = 10_000, 0.8562, 1.959963984540054
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    assert verdicts.accuracy_interval(8562, 10_000) == pytest.approx((100 * (centre - half), 100 * (centre + half)))


@given(st.lists(CHANCES, min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(chances):
    """A comparison is certain at a level where all intersections that it is in are, each by its least probability."""
    names = range(len(chances))
    adjusted = verdicts.holm(chances)
    for name in names:
        sets = [s for k in range(1, len(chances) + 1) for s in itertools.combinations(names, k) if name in s]
        assert adjusted[name] == pytest.approx(max(min(1, len(s) * min(chances[i] for i in s)) for s in sets))
