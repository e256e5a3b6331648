"""Thresholds against staircases given as tables, sum by sum, and against rounding written out in Python."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reference import requantization
from reference.requantization import Thresholds, attainable, search
from tests.oracles import check_same


@st.composite
def staircases(draw):
    """Codes of every sum from a lowest on, a row a channel: rising, falling or constant, with steps of any height."""
    top, channels, count = draw(st.integers(1, 15)), draw(st.integers(1, 4)), draw(st.integers(1, 70))
    rows = []
    for _ in range(channels):
        a, b = sorted(draw(st.tuples(st.integers(0, top), st.integers(0, top))))
        row = sorted(draw(st.lists(st.integers(a, b), min_size=count, max_size=count)))
        rows.append(row[::-1] if draw(st.booleans()) else row)
    lowest = draw(st.lists(st.integers(-(2**20), 2**20), min_size=channels, max_size=channels))
    return np.array(rows), np.array(lowest), top


def looked_up(table, lowest):
    """The staircase as a function; a sum beyond its ends is an error of the search."""

    def codes_of(sums):
        index = sums - lowest[:, None]
        assert ((index >= 0) & (index < table.shape[1])).all(), "asked for a sum that does not occur"
        return np.take_along_axis(table, index, axis=1)

    return codes_of


@given(staircases())
def test_every_sum_has_the_code_of_the_staircase(case):
    table, lowest, top = case
    highest = lowest + table.shape[1] - 1
    found = search(looked_up(table, lowest), lowest, highest, top)
    sums = lowest[:, None] + np.arange(table.shape[1])
    check_same(f"{table.tolist()} from {lowest.tolist()}", found.codes(sums), table)
    # The same, written out: one comparison a threshold.
    for row, values, falling, codes in zip(sums, found.values, found.falling, table, strict=True):
        for total, code in zip(row, codes, strict=True):
            assert code == sum(total <= t if falling else total >= t for t in values)
    check_same("falling", found.falling, table[:, 0] > table[:, -1])
    # Thresholds are sums, or the integer behind the last one.
    first, last = np.where(found.falling, highest, lowest), np.where(found.falling, lowest - 1, highest + 1)
    for values, one, other in zip(found.values, first, last, strict=True):
        assert ((min(one, other) <= values) & (values <= max(one, other))).all()


@given(staircases(), st.data())
def test_codes_along_any_axis(case, data):
    table, lowest, top = case
    found = search(looked_up(table, lowest), lowest, lowest + table.shape[1] - 1, top)
    sums = lowest[:, None] + np.arange(table.shape[1])
    axis = data.draw(st.integers(-3, 2))
    places = [1, 1, 1]
    places[axis] = len(sums)
    other = next(i for i in range(3) if i != axis % 3)
    places[other] = sums.shape[1]
    there = (lambda a: a if axis % 3 < other else a.T)(sums).reshape(places).astype(np.int32)
    want = (lambda a: a if axis % 3 < other else a.T)(table).reshape(places)
    check_same(f"axis {axis}", found.codes(there, axis=axis), want)


ROUNDINGS = {
    "half down": lambda v: math.ceil(v - Fraction(1, 2)),
    "half up": lambda v: math.floor(v + Fraction(1, 2)),
    "half even": round,
}


@given(
    st.sampled_from(list(ROUNDINGS)),
    st.integers(-6, 6),
    st.integers(1, 8),
    st.integers(-9, 9),
    st.sampled_from([1, 3, 7, 15]),
)
@example("half down", 1, 2, 0, 3)  # 1/2, 3/2, 5/2: ties only
@example("half even", -1, 2, 3, 3)
@example("half up", 0, 1, 5, 3)  # constant
def test_ties_go_where_the_function_rounds_them(rule, numerator, denominator, shift, top):
    """A line with a rational slope: many sums lie on ties."""

    def code(total):
        value = Fraction(numerator * int(total) + shift, denominator)
        return min(max(ROUNDINGS[rule](value), 0), top)

    sums = np.arange(-60, 61)
    table = np.array([[code(s) for s in sums]])
    found = search(lambda asked: np.vectorize(code)(asked), [-60], [60], top)
    check_same(f"{rule} of ({numerator} s + {shift})/{denominator}", found.codes(sums[None]), table)


def test_thresholds_where_they_are_expected():
    """Rounding half down of s/2: 1 begins above 1/2, at 2; 2 above 3/2, at 4. Falling: of -s/2, at -2 and -4."""
    down = np.vectorize(lambda v: math.ceil(v - 0.5))
    signs = np.array([[1], [-1], [0]])
    found = search(lambda s: np.clip(down(signs * s / 2), 0, 3), [-9] * 3, [9] * 3, 3)
    assert found.values.tolist() == [[2, 4, 6], [-2, -4, -6], [10, 10, 10]]
    assert found.falling.tolist() == [False, True, False]
    saturated = search(lambda s: np.full(s.shape, 3), [-9], [9], 3)
    assert saturated.values.tolist() == [[-9, -9, -9]]


@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=3, max_size=3), min_size=1, max_size=3),
    st.integers(-2, 2),
    st.integers(0, 3),
)
def test_bounds_of_sums_are_those_of_all_inputs(w, smallest, width):
    largest = smallest + width
    inputs = {0, *range(smallest, largest + 1)}
    lowest, highest = attainable(w, smallest, largest)
    for row, low, high in zip(w, lowest, highest, strict=True):
        sums = [sum(a * b for a, b in zip(row, x, strict=True)) for x in itertools.product(inputs, repeat=3)]
        assert (min(sums), max(sums)) == (low, high)


def test_few_questions_for_many_sums():
    """Bisection: 2^41 sums, and the function is asked for some hundreds a channel."""
    asked = []

    def codes_of(sums):
        asked.append(sums.size)
        return np.clip(sums // 2**30, 0, 15)

    found = search(codes_of, [-(2**40)], [2**40], 15)
    assert found.values.tolist() == [[k * 2**30 for k in range(1, 16)]]
    assert sum(asked) < 45 * 15 + 3 * requantization.SAMPLES


# What is refused


@pytest.mark.parametrize(
    ("codes_of", "lowest", "highest", "message"),
    [
        (lambda s: s % 2, [0], [9], "codes must be monotone in the sum"),
        (lambda s: np.where(s == 3, 0, 1), [-8], [9], "codes must be monotone in the sum"),
        (lambda s: s, [0], [9], "codes must be whole numbers from 0 to 3"),
        (lambda s: s - 1, [0], [3], "codes must be whole numbers from 0 to 3"),
        (lambda s: np.zeros(3), [0], [9], "codes must be whole numbers from 0 to 3, one for each sum"),
        (lambda s: np.full(s.shape, 0.5), [0], [9], "codes must be whole numbers from 0 to 3"),
        (lambda s: np.full(s.shape, np.nan), [0], [9], "codes must be whole numbers from 0 to 3"),
        (lambda s: 0 * s, [1], [0], "lowest and highest must be ends of sums"),
        (lambda s: 0 * s, [-(2**62)], [0], "lowest and highest must be ends of sums"),
        (lambda s: 0 * s, [], [], "lowest and highest must be"),
        (lambda s: 0 * s, [0.0], [1.0], "lowest and highest must be integers of one shape"),
        (lambda s: 0 * s, [0], [1, 2], "lowest and highest must be integers of one shape"),
    ],
)
def test_functions_and_ends_that_are_refused(codes_of, lowest, highest, message):
    with pytest.raises(ValueError, match=message):
        search(codes_of, np.array(lowest), np.array(highest), 3)


@pytest.mark.parametrize(
    ("values", "falling", "message"),
    [
        ([[1.0]], [False], "values must be int64"),
        ([1], [False], "values must be int64"),
        (np.zeros((1, 0), np.int64), [False], "values must be int64"),
        ([[1]], [0], "falling must be bool"),
        ([[1]], [False, True], "falling must be bool"),
        ([[1, 2], [2, 1]], [False, False], "thresholds of channel 1 must be in order"),
        ([[1, 2], [2, 1]], [True, True], "thresholds of channel 0 must be in order"),
    ],
)
def test_thresholds_that_are_refused(values, falling, message):
    with pytest.raises(ValueError, match=message):
        Thresholds(np.array(values), np.array(falling))


def test_sums_and_weights_that_are_refused():
    found = Thresholds(np.array([[1], [1]]), np.array([False, True]))
    for sums, axis, message in [
        (np.zeros((2, 3)), 0, "sums must be an array of integers"),
        (np.zeros((3, 2), int), 0, "shape of sums must be 2 channels along axis 0"),
        (np.zeros((2, 3), int), 2, "shape of sums must be 2 channels along axis 2"),
        (np.int64(1), 0, "shape of sums must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            found.codes(sums, axis=axis)
    for w in ([[1.0]], 1, np.zeros((0, 1), int)):
        with pytest.raises(ValueError, match="w must be integers"):
            attainable(w, 0, 1)
    with pytest.raises(ValueError, match="smallest must be at most the largest, 0, got 1"):
        attainable([[1]], 1, 0)
