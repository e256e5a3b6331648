"""Clipping, normalising, rounding, level sets and the clip range's gradient, against exact arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import grid
from tests import oracles
from tests.oracles import check_near, check_same, elementwise, eps, exact
from tests.strategies import (
    any_clip_ranges,
    arrays_of,
    bit_widths,
    clip_ranges,
    cotangents,
    dtypes,
    inputs,
    layouts,
    roles,
    shapes,
)

RULES = sorted(grid.ROUNDINGS)

# Rounding


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("half_down", [-2, -1, 0, 1, 2]),
        ("half_up", [-1, 0, 1, 2, 3]),
        ("half_even", [-2, 0, 0, 2, 2]),
        ("half_away", [-2, -1, 1, 2, 3]),
    ],
)
def test_rules_on_ties(rule, expected):
    assert grid.ROUNDINGS[rule]([-1.5, -0.5, 0.5, 1.5, 2.5]).tolist() == expected


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_half_integer_and_its_neighbours(rule, dtype):
    ties = np.arange(-256, 256, dtype=dtype) + dtype(0.5)
    x = np.concatenate([np.nextafter(ties, dtype(-math.inf)), ties, np.nextafter(ties, dtype(math.inf))])
    want = elementwise(lambda v: oracles.round_by(rule, v), x).astype(dtype)
    check_same(f"{rule}(half-integers)", grid.ROUNDINGS[rule](x), want)


@given(st.data(), dtypes, st.sampled_from(RULES))
def test_rounding(data, dtype, rule):
    width = 8 * np.dtype(dtype).itemsize
    x = data.draw(arrays_of(st.floats(-300, 300, width=width) | st.floats(width=width), dtype, shapes))
    want = x.copy()
    finite = np.isfinite(x)
    want[finite] = elementwise(lambda v: oracles.round_by(rule, v), x[finite])  # infinities and NaN stay
    check_same(f"{rule}({x!r})", grid.ROUNDINGS[rule](x), want + dtype(0))  # + 0: there is one zero


def test_discretizing_rules_are_the_four_names():
    assert RULES == ["half_away", "half_down", "half_even", "half_up"]


# Eq. 1


@given(st.data(), dtypes, bit_widths, clip_ranges())
def test_normalize(data, dtype, bits, clip_range):
    x = data.draw(inputs(*clip_range, bits, dtype))
    low, high = map(exact, clip_range)
    got = grid.normalize(x, *clip_range, bits)
    want = elementwise(lambda v: oracles.normalize(v, low, high, bits), np.nan_to_num(x, posinf=1e30, neginf=-1e30))
    # Two subtractions, a division, a product: four roundings of eps/2 each (and one of a subnormal number).
    bound = 2.001 * eps(x) * want + 2**bits * float(np.finfo(dtype).smallest_subnormal)
    assert got.dtype == dtype
    check_near(f"normalize({x!r}, {clip_range}, bits={bits})", got, want, bound)
    assert ((got >= 0) & (got <= 2**bits - 1)).all()


@given(st.data(), dtypes, bit_widths, any_clip_ranges())
def test_normalize_is_monotone_and_reaches_its_ends(data, dtype, bits, clip_range):
    x = np.sort(data.draw(inputs(*clip_range, bits, dtype)).ravel())
    got = grid.normalize(x, *clip_range, bits)
    expression = f"normalize({x!r}, {clip_range}, {bits}) = {got!r}"
    assert (np.diff(got) >= 0).all(), expression
    lower, upper = (dtype(end) for end in clip_range)
    assert (got[x <= lower] == 0).all(), expression
    assert (got[x >= upper] == 2**bits - 1).all(), expression


@given(st.data(), dtypes, bit_widths, clip_ranges((3, 1)))
def test_a_clip_range_per_channel(data, dtype, bits, clip_range):
    lower, upper = clip_range
    x = data.draw(inputs(lower, upper, bits, dtype, shape=st.sampled_from([(3, 4), (2, 3, 4), (3, 0), (4,), ()])))
    got = grid.normalize(x, lower, upper, bits)
    one = [grid.normalize(np.broadcast_to(x, got.shape)[..., c, :], lower[c, 0], upper[c, 0], bits) for c in range(3)]
    # + 0: the sign of a zero that numpy.clip returns depends on the memory layout; rounding drops it.
    check_same(f"normalize({x!r}, {lower!r}, {upper!r}, {bits})", got + dtype(0), np.stack(one, axis=-2) + dtype(0))


def test_nan_stays_and_infinity_clips():
    x = [math.nan, -math.inf, math.inf]
    check_same(f"normalize({x}, -1, 1, 2)", grid.normalize(x, -1.0, 1.0, 2), np.array([math.nan, 0, 3]))


# Codes and levels


@given(st.data(), dtypes, bit_widths, clip_ranges(), st.sampled_from(RULES))
def test_codes(data, dtype, bits, clip_range, rule):
    x = data.draw(inputs(*clip_range, bits, dtype))
    normalized = grid.normalize(x, *clip_range, bits)
    want = elementwise(lambda v: oracles.round_by(rule, v), normalized).astype(np.int64)
    check_same(f"codes({x!r}, {clip_range}, {bits}, {rule!r})", grid.codes(x, *clip_range, bits, rule), want)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("role", grid.ROLES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_decode_is_eq_2_rounded_once(bits, role, dtype):
    n = 2**bits - 1
    q = np.arange(n + 1)
    exactly = [Fraction(2 * c - n, n) if role == "weight" else Fraction(int(c), n) for c in range(n + 1)]
    want = np.array([float(value) for value in exactly], dtype)
    check_same(f"decode({q!r}, {bits}, {role!r})", grid.decode(q.astype(dtype), bits, role), want)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("role", grid.ROLES)
def test_levels(bits, role):
    levels = grid.levels(bits, role)
    assert levels.shape == (2**bits,)
    assert (np.diff(levels) > 0).all()
    assert (levels[0], levels[-1]) == ((-1, 1) if role == "weight" else (0, 1))
    assert grid.output_scale(role) == levels[-1] - levels[0]
    if role == "weight":
        assert (levels == -levels[::-1]).all()


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_codes_of_decoded_codes(bits, rule, dtype):
    q = np.arange(2**bits)
    for role in grid.ROLES:
        lower, upper = (-1.0, 1.0) if role == "weight" else (0.0, 1.0)
        values = grid.decode(q.astype(dtype), bits, role)
        check_same(f"codes(decode({q!r}))", grid.codes(values, lower, upper, bits, rule), q)


# The compiled twin


@given(st.data(), dtypes, bit_widths, clip_ranges() | any_clip_ranges())
def test_quantize_numba_has_the_same_bits(data, dtype, bits, clip_range):
    x = data.draw(inputs(*clip_range, bits, dtype, nan=True))
    want = grid.round_half_down(grid.normalize(x, *clip_range, bits))
    check_same(f"quantize_numba({x!r}, {clip_range}, {bits})", grid.quantize_numba(x, *clip_range, bits), want)


@given(st.data(), dtypes, bit_widths, clip_ranges((3, 1)))
def test_quantize_numba_per_channel_and_in_any_memory(data, dtype, bits, clip_range):
    x = data.draw(inputs(*clip_range, bits, dtype, shape=st.just((2, 3, 4))))
    want = grid.round_half_down(grid.normalize(x, *clip_range, bits))
    for name, view in layouts(x).items():
        check_same(f"quantize_numba({name} {x!r})", grid.quantize_numba(view, *clip_range, bits), want)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_quantize_numba_of_nan_and_infinity(dtype):
    got = grid.quantize_numba(np.array([math.nan, -math.inf, math.inf], dtype), -1.0, 1.0, 2)
    check_same("quantize_numba([nan, -inf, inf], -1, 1, 2)", got, np.array([math.nan, 0, 3], dtype))


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_quantize_numba_on_every_tie(bits, dtype):
    n = 2**bits - 1
    twice = np.arange(2 * n + 1, dtype=dtype)
    check_same(f"quantize_numba(ties, 0, {n})", grid.quantize_numba(twice / dtype(2), 0.0, n, bits), twice // 2)


# The gradient of the clip range


@given(st.data(), dtypes, bit_widths, roles, clip_ranges())
def test_clip_range_vjp(data, dtype, bits, role, clip_range):
    x = data.draw(inputs(*clip_range, bits, dtype))
    g = data.draw(arrays_of(st.floats(0.25, 4, width=32), dtype, st.just(x.shape)))
    scale = grid.output_scale(role)
    got, ends = grid.clip_range_vjp(np.ones_like(x), x, *clip_range, g, scale)
    low, high = map(float, clip_range)
    inside = (x >= low) & (x <= high)
    want = np.where(inside, scale * g.astype(np.float64) / (high - low), 0)
    expression = f"clip_range_vjp(1, {x!r}, {clip_range}, {g!r}, {scale})"
    check_near(expression, got, want, 2 * eps(x) * want)  # product, difference, quotient: three roundings of eps/2
    p = np.clip((np.clip(x.astype(np.float64), low, high) - low) / (high - low), 0, 1)
    # p and 1 - p err by 2 eps, the product by 3 eps, a sum of n numbers by n eps/2, all relative to |got| <= want
    bound = (5 + x.size) * eps(x) * want.sum()
    check_near(expression + " l", ends["lower"], -((1 - p) * want).sum(), bound)
    check_near(expression + " u", ends["upper"], -(p * want).sum(), bound)


@given(st.data(), bit_widths, clip_ranges())
def test_sum_rules(data, bits, clip_range):
    """d/dx + d/dl + d/du = 0 and x d/dx + l d/dl + u d/du = 0: shifting or stretching all three changes nothing."""
    x = data.draw(inputs(*clip_range, bits, np.float64, shape=st.just(())).filter(np.isfinite))
    low, high = map(float, clip_range)
    dx, ends = grid.clip_range_vjp(np.ones(()), x, low, high, np.ones(()), 1.0)
    terms = [dx, ends["lower"], ends["upper"]]
    # Each factor 1, p, 1 - p errs by 2 eps at most, each product by eps.
    check_near(f"sum of the gradients at {x}, {low}, {high}", sum(terms), 0, 6 * eps(x) * abs(dx))
    moments = [x * terms[0], low * terms[1], high * terms[2]]
    bound = 4 * eps(x) * (abs(x) + abs(low) + abs(high)) * abs(dx)
    check_near(f"moment of the gradients at {x}, {low}, {high}", sum(moments), 0, bound)


@pytest.mark.parametrize("end", [-1.0, 1.0])
def test_an_input_on_an_end_counts_as_inside(end):
    for x, inside in [(end, True), (end * (1 + 2**-52), False)]:
        dx, _ = grid.clip_range_vjp(np.ones(1), np.array([x]), -1.0, 1.0, np.ones(1), 1.0)
        assert (dx[0] != 0) == inside, f"gradient {dx[0]} at {x} in [-1, 1]"


def test_nan_stays_in_the_gradient():
    dx, ends = grid.clip_range_vjp(np.ones(2), np.array([math.nan, 0.0]), -1.0, 1.0, np.array([math.nan, 1.0]), 1.0)
    assert math.isnan(dx[0])
    assert dx[1] == 0.5
    assert math.isnan(ends["lower"])
    assert math.isnan(ends["upper"])


@given(st.sampled_from([(), (1,), (3, 1), (1, 3, 1), (4,), (3, 4), (2, 1, 1)]))
def test_unbroadcast_is_the_reverse_of_broadcasting(shape):
    grad = cotangents(np.zeros((2, 3, 4)))
    got = grid.unbroadcast(grad, shape)
    want = np.zeros(shape)
    index = np.broadcast_to(np.arange(want.size).reshape(shape), grad.shape)
    np.add.at(want.reshape(-1), index.ravel(), grad.ravel())
    check_same(f"unbroadcast(..., {shape})", got, want)  # sums of small multiples of 1/4 are exact


# Statistics


# multiples of 2^-10: squares that do not vanish in float32
values = st.integers(-100_000, 100_000).map(lambda i: i / 1024)


@given(arrays_of(values, np.float64, st.sampled_from([(2,), (5,), (3, 4)])), dtypes)
def test_standardize(w, dtype):
    w = w.astype(dtype)
    if (w == w.flat[0]).all():
        with pytest.raises(ValueError, match="standard deviation of x must be positive and finite"):
            grid.standardize(w)
        return
    values = [Fraction(float(v)) for v in w.ravel()]
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    got = grid.standardize(w)
    assert got.dtype == dtype
    # The mean of n numbers up to m errs by n m eps/2, hence each difference does; the deviation by as much.
    error = (w.size + 2) * float(np.abs(w).max()) * eps(w) / deviation
    want = elementwise(lambda v: (Fraction(v) - mean) / Fraction(deviation), w)
    if error < 0.1:  # otherwise the values are equal but for rounding errors
        check_near(f"standardize({w!r})", got, want, 2 * error * (1 + np.abs(want)))
        check_near(f"deviation({w!r})", grid.deviation(w), deviation, 2 * error * deviation)


@pytest.mark.parametrize("values", [[], [1.0], [2.0, 2.0], [0.1, 0.1, 0.1], [1.0, math.inf], [1.0, math.nan]])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_deviation(values, dtype):
    with pytest.raises(ValueError, match="standard deviation of x must be positive and finite"):
        grid.deviation(np.array(values, dtype))


@pytest.mark.parametrize("size", [1e200, 1e-200])
def test_a_deviation_that_overflows_or_vanishes(size):
    with pytest.raises(ValueError, match="standard deviation of x must be positive and finite"):
        grid.deviation([size, -size])


def test_the_deviation_is_unbiased():
    assert grid.deviation([1.0, 2.0, 3.0]) == 1
    assert grid.deviation([-1.0, 1.0]) == math.sqrt(2)


def test_initial_clip_ranges():
    x = [-1.0, 1.0]  # deviation sqrt(2)
    three = 3 * math.sqrt(2)
    assert grid.initial_clip_range(x, "weight") == (-3, 3)
    assert grid.initial_clip_range(x, "activation") == (0, three)
    assert grid.initial_clip_range(x, "signed_activation") == (-three, three)


# What is refused

TAKE_BITS = {
    "top_code": grid.top_code,
    "normalize": lambda bits: grid.normalize([0.5], 0.0, 1.0, bits),
    "codes": lambda bits: grid.codes([0.5], 0.0, 1.0, bits),
    "decode": lambda bits: grid.decode([0.0], bits, "weight"),
    "levels": lambda bits: grid.levels(bits, "weight"),
    "quantize_numba": lambda bits: grid.quantize_numba([0.5], 0.0, 1.0, bits),
}


@pytest.mark.parametrize("function", TAKE_BITS)
def test_bits_out_of_range_are_refused(function):
    for bits in [0, 9, -1, 2.0, 1.5, True, "2", None, math.nan]:
        with pytest.raises(ValueError, match=rf"bits must be a whole number from 1 to 8, got {bits!r}"):
            print(function, bits, TAKE_BITS[function](bits))  # shown where nothing is raised


TAKE_ROLE = {
    "check_role": grid.check_role,
    "decode": lambda role: grid.decode([0.0], 2, role),
    "levels": lambda role: grid.levels(2, role),
    "output_scale": grid.output_scale,
    "initial_clip_range": lambda role: grid.initial_clip_range([0.0, 1.0], role),
}


@pytest.mark.parametrize("function", TAKE_ROLE)
def test_unknown_roles_are_refused(function):
    for role in ["", "Weight", None, 1]:
        with pytest.raises(ValueError, match=f"role must be one of weight, .*, signed_activation, got {role!r}"):
            print(function, role, TAKE_ROLE[function](role))  # shown where nothing is raised


@pytest.mark.parametrize("rule", ["", "half", None])
def test_unknown_roundings_are_refused(rule):
    for call in [lambda: grid.check_rounding(rule), lambda: grid.codes([0.5], 0.0, 1.0, 2, rule)]:
        with pytest.raises(ValueError, match=r"rounding must be one of half_down, .*, got "):
            call()


@pytest.mark.parametrize(
    ("lower", "upper"),
    [(1, 1), (1, -1), (-math.inf, 0), (0, math.inf), (math.nan, 1), (-1e308, 1e308), ([[0], [0]], [[1], [0]])],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clip_ranges_that_are_none(lower, upper, dtype):
    for call in [grid.position, grid.normalize, grid.quantize_numba]:
        arguments = [np.zeros(1, dtype), lower, upper, *([] if call is grid.position else [2])]
        with pytest.raises(ValueError, match=r"clip range \(lower, upper\) must be finite with lower < upper in float"):
            call(*arguments)


def test_a_clip_range_must_be_one_in_the_type_of_x():
    assert grid.position(np.float64([1]), 1.0, 1 + 1e-12) == 0
    with pytest.raises(ValueError, match="lower < upper in float32"):
        grid.position(np.float32([1]), 1.0, 1 + 1e-12)


def test_codes_of_nothing_definite_are_refused():
    with pytest.raises(ValueError, match="x must be free of NaN"):
        grid.codes([0.0, math.nan], -1.0, 1.0, 2)
