"""The granularity test, against every whole number of right answers."""

from decimal import ROUND_HALF_DOWN, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paper_tables import reported
from paper_tables.audit import granularity

ROUNDINGS = (ROUND_HALF_UP, ROUND_HALF_EVEN, ROUND_HALF_DOWN)


def printed_of(right, answers, decimals):
    """What programs print of it, whatever they do with ties."""
    exact = Fraction(100 * right, answers)
    scaled = exact * 10**decimals
    whole, rest = divmod(scaled.numerator, scaled.denominator)
    ties = {whole, whole + 1} if 2 * rest == scaled.denominator else {whole + (2 * rest > scaled.denominator)}
    return {Decimal(one).scaleb(-decimals) for one in ties}


@given(st.integers(1, 60), st.integers(1, 4), st.integers(0, 3), st.data())
def test_an_accuracy_can_arise_iff_some_count_is_printed_so(images, runs, decimals, data):
    answers = images * runs
    everything = set().union(*(printed_of(right, answers, decimals) for right in range(answers + 1)))
    printed = Decimal(data.draw(st.integers(0, 100 * 10**decimals))).scaleb(-decimals)
    found = granularity.nearest(printed, images, runs)
    assert found.possible == (printed in everything)
    assert found.answers == answers
    assert Fraction(100 * found.below, answers) <= Fraction(printed) <= Fraction(100 * found.above, answers)
    assert found.above - found.below <= 1


@given(st.integers(1, 200), st.integers(1, 3), st.integers(0, 2))
def test_it_says_something_iff_something_cannot_arise(images, runs, decimals):
    every = (Decimal(k).scaleb(-decimals) for k in range(100 * 10**decimals + 1))
    impossible = any(not granularity.nearest(printed, images, runs).possible for printed in every)
    if impossible:
        assert granularity.says_something(decimals, images, runs)
    if not granularity.says_something(decimals, images, runs):
        assert not impossible


def test_97_35_of_1797():
    """1749/1797 is 97.3289, 1750/1797 is 97.3845."""
    assert not granularity.nearest(Decimal("97.35"), 1797).possible
    assert granularity.nearest(Decimal("97.33"), 1797).possible
    assert granularity.nearest(Decimal("97.38"), 1797).possible


def test_trailing_zeros_count():
    assert granularity.nearest(Decimal("97.4"), 1797).possible
    assert not granularity.nearest(Decimal("97.40"), 1797).possible


@pytest.mark.parametrize("name", ["2", "3", "4", "5"])
def test_the_papers_images_are_too_many_for_it(name):
    assert list(granularity.check(reported.tables()[name])) == []
