"""QIL against its formulas in scalar decimal arithmetic, and its gradients against finite differences."""

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import qil
from tests.oracles import HALF, check_near, check_same, derivative, eps, exact, floor, round_by
from tests.strategies import FEW, arrays_of, cotangents, dtypes, vectors

intervals = st.tuples(st.floats(-0.5, 2, width=32), st.floats(0.125, 2, width=32), st.floats(0.25, 4, width=32))
definitions = st.sampled_from([(b, r) for b, r, _ in qil.METHOD.defined()])


@st.composite
def values(draw, interval, dtype):
    """Numbers in, on the ends of and around an interval, of both signs."""
    c, d, _ = interval
    ends = st.sampled_from([c - d, c + d, c, 0.0]).map(dtype)
    x = draw(arrays_of(ends | st.floats(c - 1.5 * d, c + 1.5 * d).map(dtype), dtype, vectors))
    return x * draw(st.sampled_from([1, -1]))


def position(magnitude: Decimal, c: Decimal, d: Decimal) -> Decimal:
    """Alpha |w| + beta, which at the lower end is 0 but for the rounding in the fiftieth digit."""
    return max(magnitude / (2 * d) + (-c / (2 * d) + HALF), Decimal(0))


def transformer(x: Decimal, c: Decimal, d: Decimal, gamma: Decimal, role: str) -> Decimal:
    sign, magnitude = ((x > 0) - (x < 0), abs(x)) if role == "weight" else (1, x)
    if magnitude < c - d:
        return Decimal(0)
    return Decimal(sign) * (1 if magnitude > c + d else position(magnitude, c, d) ** gamma)


@given(st.data(), intervals, definitions)
@settings(max_examples=FEW)
def test_forward_and_codes(data, interval, definition):
    bits, role = definition
    x = data.draw(values(interval, np.float64))
    params = qil.Params(*interval, bits, role)
    q = 2 ** (bits - 1) - 1 if role == "weight" else 2**bits - 1
    codes = qil.codes(x, params)
    for value, code in zip(x, codes, strict=True):
        scaled = q * transformer(exact(value), *map(exact, interval), role)
        if abs(scaled - floor(scaled) - HALF) > Decimal("1e-3"):  # at gamma = 1/4, u's error of 1e-16 becomes 1e-4 q
            want = round_by("half_even", scaled) + (q if role == "weight" else 0)
            assert code == want, f"code of {value!r} with {params}: {code}, not {want}"
    got = qil.forward(x, params, training=True)
    check_same(f"forward({x!r}, {params})", got, (codes - (q if role == "weight" else 0)) / q)


@given(st.data(), intervals, definitions)
@settings(max_examples=FEW)
def test_gradients_are_those_of_the_transformer(data, interval, definition):
    bits, role = definition
    x = data.draw(values(interval, np.float64))
    c, d, _ = interval
    magnitude = np.abs(x) if role == "weight" else x
    u = (magnitude - c) / (2 * d) + 0.5
    regular = (np.abs(u - 1) > 1e-9) & ((u < -1e-9) | (u > 2 * qil.LOWEST)) & (np.abs(x) > 1e-9)
    x = x[regular]
    at = [*map(exact, interval)]
    grad = cotangents(x)

    def differences(i):
        """For the parameter i, or x for -1; which side of the interval x lies on does not change over 1e-18."""

        def moved(value, v):
            arguments = [value if j == i else a for j, a in enumerate(at)]
            return transformer(value if i < 0 else exact(v), *arguments, role)

        return np.array([float(derivative(lambda t, v=v: moved(t, v), at[i] if i >= 0 else exact(v))) for v in x])

    got_x, got = qil.vjp(x, qil.Params(*interval, bits, role), grad)
    expression = f"vjp({x!r}, {interval}, {role})"
    bound = 1e-10 * (1 + 1 / d) ** 2 * 2**9  # a slope of up to 2^9 (gamma = 1/4), its u known to 2^12 units
    check_near(f"{expression} x", got_x, differences(-1) * grad, bound)
    for i, name in enumerate(("center", "distance", "gamma")):
        check_near(f"{expression} {name}", got[name], (differences(i) * grad).sum(), bound * (1 + abs(c) + x.size))


@given(st.data(), intervals, definitions)
def test_scaling_x_c_and_d_changes_nothing(data, interval, definition):
    """Hence x dx + c dc + d dd = 0, chord or power; and powers of two leave the bits as they are."""
    x = data.draw(values(interval, np.float64))
    params = qil.Params(*interval, *definition)
    grad_x, grads = qil.vjp(x, params, cotangents(x))
    terms = [*(x * grad_x), params.center * grads["center"], params.distance * grads["distance"]]
    size = sum(abs(t) for t in terms) + abs(float(params.center)) * np.abs(grad_x).sum()
    check_near(f"sum at {x!r}, {params}", math.fsum(terms), 0, 20 * eps(x) * (size + np.abs(grad_x).sum()))
    x = x[(x == 0) | (np.abs(x) > 1e-300)]
    for factor in (0.25, 8.0):
        scaled = qil.Params(params.center * factor, params.distance * factor, params.gamma, *definition)
        check_same(f"codes of {x!r} times {factor}", qil.codes(factor * x, scaled), qil.codes(x, params))


@given(st.data(), intervals, dtypes, st.integers(2, 8))
def test_weights_are_treated_alike_on_both_sides(data, interval, dtype, bits):
    x = data.draw(values(interval, dtype))
    params = qil.Params(*interval, bits, "weight")
    q = 2 ** (bits - 1) - 1
    check_same(f"codes(-{x!r})", qil.codes(-x, params) - q, q - qil.codes(x, params))
    check_same("gradients", qil.vjp(-x, params, cotangents(x))[0], qil.vjp(x, params, cotangents(x))[0])


# Pruned, clipped, and next to the lower end


def test_pruned_and_clipped_values_move_nothing():
    params = qil.Params(1.0, 0.5, 0.5, 4, "weight")
    for x, value in [(0.0, 0), (0.49, 0), (-0.49, 0), (1.51, 1), (-1.51, -1), (math.inf, 1), (-math.inf, -1)]:
        assert qil.forward([x], params, training=True).tolist() == [value]
        grad_x, grads = qil.vjp([x], params, [1.0])
        assert grad_x.tolist() == [0]
        assert all(g == 0 for g in grads.values()), f"gradients at {x}: {grads}"


@pytest.mark.parametrize("gamma", [1e-6, 0.25, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("role", ["weight", "activation"])
def test_gradients_are_bounded_at_the_lower_end(gamma, role):
    """u^(gamma-1) is infinite at u = 0, and infinity times 0 would be NaN."""
    ends = [np.nextafter(0.5, 0), 0.5, np.nextafter(0.5, 1), 0.5 + 1e-9]
    steepest = 2.0 ** (12 * max(1 - gamma, 0))
    for x in ends:
        grad_x, grads = qil.vjp([x], qil.Params(1.0, 0.5, gamma, 4, role), [1.0])
        assert abs(grad_x[0]) <= steepest * 1.0001
        assert all(np.isfinite(g) and abs(g) <= 9 * steepest for g in grads.values())
    assert qil.vjp(ends[:1], qil.Params(1.0, 0.5, gamma, 4, role), [1.0])[0] == 0
    # The chord from 0 to the power at 2^-12.
    chord = qil.vjp([0.5 + 2.0**-14], qil.Params(1.0, 0.5, gamma, 4, role), [1.0])[0]
    check_near("chord", chord, [2.0 ** (-12 * gamma) / 2.0**-12], 1e-12 * steepest)


def test_an_interval_that_reaches_below_zero_prunes_zero_alone():
    params = qil.Params(0.25, 0.75, 1.0, 4, "weight")  # u = 1/3 next to 0
    got = qil.forward([-1e-9, 0.0, -0.0, 1e-9], params, training=True)
    check_same("forward", got, np.array([-2, 0, 0, 2]) / 7)


# Levels, initial values, bad input


@pytest.mark.parametrize("bits", range(1, 9))
def test_levels(bits):
    n = 2**bits - 1
    check_same("activation", qil.levels(qil.Params(1.0, 1.0, 1.0, bits, "activation")), np.arange(n + 1) / n)
    if bits > 1:
        levels = qil.levels(qil.Params(1.0, 1.0, 1.0, bits, "weight"))
        q = 2 ** (bits - 1) - 1
        check_same("weight", levels, np.arange(-q, q + 1) / q)
        assert len(levels) == 2**bits - 1


@given(dtypes, st.floats(2.0**-8, 64, width=32), definitions)
def test_the_interval_starts_as_0_to_the_largest_magnitude(dtype, largest, definition):
    x = np.array([largest, 0.0, -largest / 2], dtype)
    params = qil.init(x, *definition)
    assert (params.center, params.distance, params.gamma) == (largest / 2, largest / 2, 1)
    assert qil.forward(x, params, training=True)[0] == 1
    assert qil.vjp(x[:1], params, [1.0])[0][0] > 0  # not clipped


@pytest.mark.parametrize("x", [[], [0.0, 0.0], [1.0, math.nan], [1.0, -math.inf]])
def test_data_that_tell_nothing_are_refused(x):
    for role in ("weight", "activation"):
        with pytest.raises(ValueError, match="largest magnitude of x must be positive and finite"):
            qil.init(x, 4, role)


@pytest.mark.parametrize(
    ("center", "distance", "gamma", "name"),
    [
        (math.nan, 1.0, 1.0, "center"),
        (math.inf, 1.0, 1.0, "center"),
        (1.0, 0.0, 1.0, "distance"),
        (1.0, -1.0, 1.0, "distance"),
        (1.0, 1.0, 0.0, "gamma"),
        (1.0, 1.0, -0.5, "gamma"),
        (1.0, 1.0, math.nan, "gamma"),
    ],
)
def test_parameters_that_are_refused(center, distance, gamma, name):
    with pytest.raises(ValueError, match=f"{name} must be"):
        qil.Params(center, distance, gamma, 4, "weight")


def test_an_input_that_is_broadcast_gets_the_sum_of_its_gradients():
    params, x, grad = (
        qil.Params([[0.5], [0.25]], [[0.5], [0.25]], [[1.0], [1.0]], 2, "weight"),
        [[0.6, -0.3]],
        np.array([[1.0, 2.0], [4.0, 8.0]]),
    )
    grad_x, grads = qil.vjp(x, params, grad)
    assert grad_x.tolist() == [[1, 18]]
    assert all(value.shape == (2, 1) for value in grads.values())
