"""Deviations, intervals, probabilities and power, against definitions written out."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special
from scipy import stats as scipy_stats

from paper_tables import scatter
from paper_tables.scatter import Pooled

ACCURACIES = st.decimals(10, 100, places=2).map(float)


@given(st.lists(st.lists(ACCURACIES, max_size=5), max_size=6))
def test_the_deviation_is_pooled_over_groups_with_their_own_means(groups):
    found = scatter.pooled(groups)
    several = [group for group in groups if len(group) > 1]
    degrees = sum(len(group) - 1 for group in several)
    assert found.degrees == degrees
    if degrees:
        variance = sum((len(group) - 1) * statistics.variance(group) for group in several) / degrees
        assert found.deviation == pytest.approx(math.sqrt(variance), rel=1e-9, abs=1e-9)
    else:
        assert math.isnan(found.deviation)


@pytest.mark.parametrize(("degrees", "quantile"), [(2, 4.303), (10, 2.228), (14, 2.145), (30, 2.042), (10**6, 1.960)])
def test_half_an_interval_of_printed_quantiles(degrees, quantile):
    spread = Pooled(0.7, degrees)
    assert scatter.half_width(spread, 3) == pytest.approx(quantile * 0.7 / math.sqrt(3), rel=3e-4)
    one_more = quantile * 0.7 * math.sqrt(1 + 1 / 3)
    assert scatter.half_width(spread, 3, of_one_run=True) == pytest.approx(one_more, rel=3e-4)
    assert scatter.half_width(Pooled(math.nan, 0), 3) == math.inf
    assert scatter.half_width(Pooled(0.0, degrees), 3) == math.inf  # all agree: too few, or of too few test images


@given(st.integers(2, 400), st.integers(1, 30), st.floats(1e-3, 20))
def test_half_an_interval(degrees, count, deviation):
    expected = special.stdtrit(degrees, 0.975) * deviation / math.sqrt(count)
    assert scatter.half_width(Pooled(deviation, degrees), count) == pytest.approx(expected, rel=1e-9)


@given(st.lists(ACCURACIES, min_size=3, max_size=8, unique=True))
def test_the_chance_of_one_group_is_student_s(values):
    values = [value - 50 for value in values]
    expected = scipy_stats.ttest_1samp(values, 0).pvalue
    assert scatter.chance(values, scatter.pooled([values])) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_chances_at_the_ends():
    assert scatter.chance([1.0, 2.0], Pooled(math.nan, 0)) == 1
    assert scatter.chance([50.0, 50.01], Pooled(0.01, 1)) == 1  # a deviation by luck: the next may be thirty times that
    assert scatter.half_width(Pooled(0.01, 1), 2) == math.inf
    assert scatter.half_width(Pooled(0.01, 2), 2) < math.inf
    assert scatter.chance([1.0, 1.0], Pooled(0.0, 4)) == 1
    assert scatter.chance([1.0, -1.0], Pooled(1.0, 4)) == 1
    assert scatter.chance([-2.0, -2.0], Pooled(1.0, 4)) == scatter.chance([2.0, 2.0], Pooled(1.0, 4))


def residuals(table):
    """What is left of values by entry and seed, without the means of both: lists of lists."""
    rows = [statistics.fmean(row) for row in table]
    columns = [statistics.fmean(column) for column in zip(*table, strict=True)]
    grand = statistics.fmean(rows)
    return [
        [value - row - column + grand for value, column in zip(values, columns, strict=True)]
        for values, row in zip(table, rows, strict=True)
    ]


@given(st.data(), st.integers(2, 5), st.integers(2, 5))
def test_the_deviation_of_a_difference_is_what_entry_and_seed_leave(data, entries, seeds):
    row = st.lists(ACCURACIES, min_size=seeds, max_size=seeds)
    table = data.draw(st.lists(row, min_size=entries, max_size=entries))
    found = scatter.spread_of_differences([dict(enumerate(values)) for values in table])
    degrees = (entries - 1) * (seeds - 1)
    squares = sum(value**2 for values in residuals(table) for value in values)
    assert found.degrees == degrees
    assert found.deviation == pytest.approx(math.sqrt(2 * squares / degrees), abs=1e-8)
    if entries == 2:
        assert found.deviation == pytest.approx(statistics.stdev(a - b for a, b in zip(*table, strict=True)), abs=1e-8)


def test_a_seed_that_one_entry_has_alone_tells_nothing():
    one, other = {0: 1.0, 1: 2.5, 2: 3.0}, {0: 0.0, 1: 2.0, 2: 1.0}
    plain = scatter.spread_of_differences([one, other])
    assert plain == pytest.approx(scatter.spread_of_differences([one, {**other, 3: 50.0}]))
    assert scatter.spread_of_differences([{0: 1.0}, {0: 2.0}]).degrees == 0
    assert scatter.spread_of_differences([{0: 1.0, 1: 2.0}]).degrees == 0


def power(shift, degrees, comparisons):
    """The chance that Student's t of a difference is beyond its quantile: over all that the deviation may come out."""
    critical = special.stdtrit(degrees, 1 - 0.05 / (2 * comparisons))
    squares = scipy_stats.chi2(degrees)

    def beyond(share):
        """Given the quantile of the deviation found."""
        return special.ndtr(shift - critical * math.sqrt(squares.ppf(share) / degrees))

    return integrate.quad(beyond, 0, 1, limit=200)[0]


@pytest.mark.parametrize("difference", [0.6, 1.5, 4.0])
@pytest.mark.parametrize("entries", [2, 6])
@pytest.mark.parametrize("comparisons", [1, 13])
def test_so_many_seeds_would_tell_in_four_of_five_cases(difference, entries, comparisons):
    said = scatter.seeds_to_tell(-difference, 1.0, entries, comparisons)
    takes = int(said.removeprefix("about "))
    reached = [
        power(difference * math.sqrt(n), (entries - 1) * (n - 1), comparisons) for n in (takes - 1, takes) if n > 1
    ]
    assert reached[-1] > 0.8 - 1e-6
    assert takes == 2 or (takes, entries) == (3, 2) or reached[0] < 0.8 + 1e-6  # fewer have too few degrees of freedom
    assert scatter.seeds_to_tell(difference, 1.0, entries, comparisons, more_than=takes) == f"about {takes + 1}"
