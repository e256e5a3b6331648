"""Means over runs: Welch's and the pooled t against scipy's, of runs made up for it."""

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from paper_tables.audit import means
from paper_tables.audit.means import Mean

RUNS = st.lists(st.integers(-200, 200).map(lambda tenths: 90 + tenths / 100), min_size=2, max_size=8)


def printed(runs):
    """To ten decimals, so that half a unit is nothing."""
    return Mean(Decimal(f"{np.mean(runs):.10f}"), Decimal(f"{np.std(runs, ddof=1):.10f}"), len(runs))


@given(RUNS, RUNS)
def test_welch_is_scipys(first, second):
    assume(np.std(first) > 0.01 and np.std(second) > 0.01)
    found = means.compare(printed(first), printed(second))
    expected = stats.ttest_ind(first, second, equal_var=False)
    assert found.test == "Welch's t"
    assert found.degrees == pytest.approx(expected.df, rel=1e-6)
    assert found.chance == pytest.approx(expected.pvalue, rel=1e-4, abs=1e-7)
    interval = expected.confidence_interval(0.95)
    assert found.interval() == pytest.approx((interval.low, interval.high), abs=1e-6)


@given(RUNS, st.integers(8000, 9900))
def test_one_deviation_stands_for_both(runs, other):
    """A single run against several: Student's t with the deviation of the several, n - 1 degrees of freedom."""
    assume(np.std(runs) > 0.01)
    single = Mean(Decimal(other).scaleb(-2) + Decimal("0E-10"))
    for pair in ((printed(runs), single), (single, printed(runs))):
        found = means.compare(*pair)
        assert found.test == "pooled t, with the one deviation that is printed"
        assert found.degrees == len(runs) - 1
        error = np.std(runs, ddof=1) * math.sqrt(1 / len(runs) + 1)
        t = abs(np.mean(runs) - other / 100) / error
        assert found.chance == pytest.approx(2 * stats.t.sf(t, len(runs) - 1), rel=1e-4, abs=1e-7)


def test_half_units_of_means_and_deviations_count():
    found = means.compare(Mean(Decimal("91.0"), Decimal("0.2"), 4), Mean(Decimal("90.0"), Decimal("0.2"), 4))
    assert found.error == pytest.approx(math.sqrt(2 * 0.25**2 / 4))
    assert found.rounding == pytest.approx(0.1)
    low, high = found.interval()
    half = stats.t.isf(0.025, 6) * found.error + 0.1
    assert (low, high) == pytest.approx((1 - half, 1 + half))
    assert means.compare(Mean(Decimal("90.1"), Decimal("0.2"), 4), Mean(Decimal("90.0"))).chance == 1.0


@pytest.mark.parametrize("first", [Mean(Decimal(90)), Mean(Decimal(90), None, 5), Mean(Decimal(90), Decimal(1), 1)])
def test_without_a_deviation_nothing_is_said(first):
    assert means.compare(first, Mean(Decimal(80))) is None


@given(RUNS, RUNS, st.integers(1, 30))
def test_exchanging_the_two_exchanges_the_ends(first, second, comparisons):
    one, other = (
        means.compare(*pair) for pair in ((printed(first), printed(second)), (printed(second), printed(first)))
    )
    low, high = one.interval(comparisons)
    assert other.interval(comparisons) == pytest.approx((-high, -low))
    assert one.chance == pytest.approx(other.chance)
