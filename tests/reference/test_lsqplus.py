"""LSQ+ against its formulas for one number, in fractions; its starting values; what it shares with LSQ."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import lsq, lsqplus
from tests.oracles import check_near, check_same
from tests.strategies import cotangents, dtypes, vectors

VARIANTS = ["paper", "public"]
by_variant = pytest.mark.parametrize("variant", VARIANTS)
ROLES = [("weight", bits) for bits in range(2, 9)]
ROLES += [(role, bits) for role in ("activation", "signed_activation") for bits in range(1, 9)]
# Products with eighths of small integers, and sums of them, are exact: no test needs a bound.
steps = st.sampled_from([0.125, 0.25, 0.5, 1.0, 2.0])
betas = st.integers(-80, 80).map(lambda k: k / 8)
numbers = st.integers(-2000, 2000).map(lambda k: k / 32)


def arrays(dtype):
    return st.lists(numbers, min_size=1, max_size=8).map(lambda x: np.array(x, dtype))


def ends(bits, role):
    """n and p."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if role == "weight" else (0, 2**bits - 1)


def one(x, step, beta, bits, role):
    """The paper's x-hat and its derivatives for x, s and beta, of one number; Python rounds fractions half to even."""
    low, high = ends(bits, role)
    q = (Fraction(float(x)) - Fraction(beta)) / Fraction(step)
    if q <= low or q >= high:
        end = low if q <= low else high
        return end * Fraction(step) + Fraction(beta), 0, end, 1
    return round(q) * Fraction(step) + Fraction(beta), 1, round(q) - q, 0


@given(data=st.data(), dtype=dtypes, role=st.sampled_from(ROLES), step=steps, beta=betas)
def test_values_are_the_papers(data, dtype, role, step, beta):
    role, bits = role
    x = data.draw(arrays(dtype))
    params = lsqplus.Params(step, 0.0 if role == "weight" else beta, bits, role)
    want = np.array([one(v, step, float(params.beta), bits, role)[0] for v in x], dtype)
    check_same(f"forward({x!r}, {params})", lsqplus.forward(x, params, training=True), want + 0.0)
    low = ends(bits, role)[0]
    want = [(one(v, step, float(params.beta), bits, role)[0] - params.beta) / step - low for v in x]
    check_same(f"codes({x!r}, {params})", lsqplus.codes(x, params), np.array(want, np.int64))


@by_variant
@given(data=st.data(), role=st.sampled_from(ROLES), step=steps, beta=betas)
def test_gradients_are_the_papers(variant, data, role, step, beta):
    role, bits = role
    x = data.draw(arrays(np.float64))
    params = lsqplus.Params(step, 0.0 if role == "weight" else beta, bits, role, variant)
    grad = cotangents(x)
    got_x, got = lsqplus.vjp(x, params, grad)
    each = [one(v, step, float(params.beta), bits, role) for v in x]
    scale = 1 / math.sqrt(x.size * ends(bits, role)[1])
    expression = f"vjp({x!r}, {params})"
    check_same(f"{expression}, x", got_x, np.array([row[1] for row in each]) * grad)
    by_step = float(sum(row[2] * Fraction(g) for row, g in zip(each, grad, strict=True))) * scale
    check_near(f"{expression}, step", got["step"], by_step, 1e-15 * (1 + abs(by_step)))
    by_beta = sum(row[3] * g for row, g in zip(each, grad, strict=True)) * (scale if variant == "public" else 1)
    check_near(f"{expression}, beta", got["beta"], by_beta, 1e-15 * (1 + abs(by_beta)))


@given(st.data(), st.sampled_from(["activation", "signed_activation"]), st.integers(1, 8), steps, betas)
def test_the_offset_learns_from_clipped_elements_only(data, role, bits, step, beta):
    """Those on the ends count as clipped."""
    p = 2**bits - 1
    params = lsqplus.Params(step, beta, bits, role)
    q = data.draw(st.lists(st.integers(1, 32 * p - 1), min_size=1, max_size=8))
    grad_x, grads = lsqplus.vjp(np.array(q) / 32 * step + beta, params, np.ones(len(q)))
    assert grads["beta"] == 0, "all of them lie inside"
    assert (grad_x == 1).all()
    for outside, end in [(-3, 0), (0, 0), (p, p), (p + 0.25, p), (p + 99, p)]:
        grad_x, grads = lsqplus.vjp([outside * step + beta], params, [1.0])
        got = (float(grad_x[0]), float(grads["beta"]))
        assert got == (0, 1), f"gradients for x and beta at level {outside}: {got}"
        check_near(f"gradient for step at level {outside}", grads["step"], end / math.sqrt(p), 1e-15 * p)


@given(st.data(), dtypes, st.integers(1, 8), steps)
def test_without_offset_it_is_lsq(data, dtype, bits, step):
    for role in ("activation", "weight")[: 1 + (bits > 1)]:
        x = data.draw(arrays(dtype))
        ours, theirs = lsqplus.Params(step, 0.0, bits, role), lsq.Params(step, bits, role)
        for name in ("forward", "codes"):
            options = {"training": True} if name == "forward" else {}
            got, want = (getattr(m, name)(x, p, **options) for m, p in [(lsqplus, ours), (lsq, theirs)])
            check_same(f"{name}({x!r}, {ours})", got, want)
        (got_x, got), (want_x, want) = lsqplus.vjp(x, ours, cotangents(x)), lsq.vjp(x, theirs, cotangents(x))
        check_same(f"gradient of {ours} for {x!r}", got_x, want_x)
        check_same(f"gradient of {ours} for its step", got["step"], want["step"])


# The starting values


def test_weights_start_with_three_deviations():
    w = np.array([1.0, 2.0, 3.0])  # mean 2, unbiased deviation 1: max(|2 - 3|, |2 + 3|) = 5
    for bits in range(2, 9):
        for variant, whole in [("paper", 2 ** (bits - 1)), ("public", 2**bits - 1)]:
            params = lsqplus.init(w, bits, "weight", variant=variant)
            check_near(f"init({w}, {bits}, {variant}).step", params.step, 5 / whole, 1e-15)
            assert params.beta == 0
            check_same("the same, mirrored", lsqplus.init(-w, bits, "weight", variant=variant).step, params.step)


def errors_by_hand(x, bits):
    """Squared errors of x-hat for the 100 candidates, in fractions."""
    p, x = 2**bits - 1, [Fraction(v) for v in x]
    found = {}
    for k in range(1, 101):
        step, beta = (max(x) - min(x)) * Fraction(k, 100 * p), min(x) * Fraction(k, 100)
        values = [min(max(round((v - beta) / step), 0), p) * step + beta for v in x]
        found[k] = sum((v - value) ** 2 for v, value in zip(x, values, strict=True))
    return found


@given(
    st.lists(numbers, min_size=2, max_size=8, unique=True),
    st.integers(1, 8),
    st.sampled_from(["activation", "signed_activation"]),
)
def test_activations_start_with_the_least_squared_error(x, bits, role):
    errors = errors_by_hand(x, bits)
    params = lsqplus.init(x, bits, role)
    got = lsqplus.squared_error(x, params)
    size = max(map(abs, x)) ** 2 * len(x)
    check_near(f"squared error of init({x}, {bits})", got, float(min(errors.values())), 1e-14 * size)
    minimum, width = min(x), max(x) - min(x)
    spanning = lsqplus.Params(width / (2**bits - 1), minimum, bits, role)
    assert got <= lsqplus.squared_error(x, spanning), "no worse than the range that it started from"
    k = 100 * params.step * (2**bits - 1) / width
    check_near(f"beta of init({x}, {bits})", params.beta, minimum * k / 100, 1e-13 * abs(minimum))
    check_near(f"100 step / (max - min) of init({x}, {bits})", k, round(float(k)), 1e-11)


def test_a_range_that_is_the_grid_stays():
    for beta, step in [(-1.0, 0.5), (2.0, 1.0)]:
        x = beta + step * np.arange(4)
        params = lsqplus.init(x, 2, "activation")
        assert (params.step, params.beta) == (step, beta)


# What is refused


@pytest.mark.parametrize("x", [[], [2.0], [2.0, 2.0], [0.0, 0.0], [0.0, math.nan], [0.0, math.inf], [-1e308, 1e308]])
@pytest.mark.parametrize("role", ["weight", "activation", "signed_activation"])
def test_data_without_a_range_are_refused(x, role):
    with pytest.raises(ValueError, match="range of x must be finite, with values that differ, got"):
        lsqplus.init(x, 2, role)


@pytest.mark.parametrize(("name", "value"), [("step", 0.0), ("step", -1.0), ("step", 1e-31), ("beta", math.nan)])
def test_parameters_that_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be (from 1e-30 to 1e\\+30|finite), got"):
        lsqplus.Params(**({"step": 1.0, "beta": 0.0} | {name: value}), bits=2, role="activation")


@given(shape=vectors, channels=st.integers(1, 3))
def test_elements_that_share_a_step_are_counted(shape, channels):
    """N: of the weights those of a channel, of activations those of one image; p of 2-bit weights is 1."""
    x = np.zeros((channels, *shape))
    weight = lsqplus.Params(np.ones((channels, 1)), np.zeros((channels, 1)), 2, "weight")
    check_near("scale for weights", lsqplus.gradient_scale(x, weight), 1 / math.sqrt(shape[0]), 1e-15)
    activation = lsqplus.Params(1.0, 0.0, 2, "activation")
    check_near("scale for activations", lsqplus.gradient_scale(x, activation), 1 / math.sqrt(3 * shape[0]), 1e-15)


def test_an_input_that_is_broadcast_gets_the_sum_of_its_gradients():
    params, x, grad = (
        lsqplus.Params([[1.0], [0.25]], [[0.0], [0.0]], 2, "weight"),
        [[0.6, -0.3]],
        np.array([[1.0, 2.0], [4.0, 8.0]]),
    )
    grad_x, grads = lsqplus.vjp(x, params, grad)
    assert grad_x.tolist() == [[1, 10]]
    assert all(value.shape == (2, 1) for value in grads.values())


def test_the_gradient_scale_counts_the_elements_of_a_channel():
    params = lsqplus.Params(np.ones((3, 1, 1)), np.zeros((3, 1, 1)), 2, "activation")
    check_near("gradient_scale", lsqplus.gradient_scale(np.zeros((2, 3, 4, 4)), params), 1 / math.sqrt(16 * 3), 1e-16)
