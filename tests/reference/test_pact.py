"""PACT against its formula in decimal arithmetic."""

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import pact
from tests.oracles import HALF, check_near, check_same, eps, exact, floor, round_by
from tests.strategies import bit_widths, cotangents, dtypes, finite_inputs

alphas = st.floats(2.0**-5, 20, width=32)


def normalized(x: Decimal, alpha: Decimal, n: int) -> Decimal:
    return min(max(x, Decimal(0)), alpha) * n / alpha


@given(st.data(), dtypes, bit_widths, alphas)
def test_forward_and_codes(data, dtype, bits, alpha):
    x = data.draw(finite_inputs(0.0, alpha, bits, dtype))
    n, top = 2**bits - 1, exact(alpha)
    params = pact.Params(alpha, bits)
    q = pact.codes(x, params)
    for value, code in zip(x, q, strict=True):
        v = normalized(exact(value), top, n)
        error = 2 * eps(x) * n  # quotient and product: half a unit each
        admitted = {int(round_by("half_even", v + Decimal(move * error))) for move in (-1, 0, 1)}
        if abs(v - floor(v) - HALF) > error:
            assert code == int(round_by("half_even", v)), f"codes({value!r}, {params}) = {code}"
        assert code in admitted, f"codes({value!r}, {params}) = {code}"
    want = [float(int(code) * top / n) for code in q]
    check_near(f"forward({x!r}, {params})", pact.forward(x, params, training=True), want, 2 * eps(x) * alpha)


def test_ties_go_to_even():
    got = pact.codes([0.5, 1.5, 2.5], pact.Params(3.0, 2))
    assert got.tolist() == [0, 2, 2]


@given(dtypes, bit_widths, alphas)
def test_the_highest_level_is_alpha_itself(dtype, bits, alpha):
    x = np.array([alpha, 2 * alpha, math.inf], dtype)
    params = pact.Params(alpha, bits)
    check_same(f"forward({x!r}, {params})", pact.forward(x, params, training=False), np.full(3, alpha, dtype))
    assert pact.levels(params)[0] == 0


@given(st.data(), dtypes, bit_widths, alphas)
def test_every_gradient_goes_to_x_or_to_alpha(data, dtype, bits, alpha):
    """By the paper: dy/dalpha is 1 for x >= alpha and 0 below, inside the range too."""
    x, low, high = data.draw(finite_inputs(0.0, alpha, bits, dtype)), dtype(0), dtype(alpha)
    grad = cotangents(x)
    grad_x, grads = pact.vjp(x, pact.Params(alpha, bits), grad)
    want = [g if low <= v < high else dtype(0) for v, g in zip(x, grad, strict=True)]
    check_same(f"gradient of {x!r} at alpha={alpha}", grad_x, np.array(want, dtype))
    of_alpha = sum(float(g) for v, g in zip(x, grad, strict=True) if v >= high)
    assert float(grads["alpha"]) == of_alpha, f"gradient of alpha={alpha} at {x!r}"


@pytest.mark.parametrize(
    ("variant", "want", "of_alpha"),
    [
        ("paper", [0, 1, 1, 1, 0, 0], 2),
        ("distiller", [0, 0, 0, 1, 0, 0], 2),
        ("fms-model-optimizer", [0, 1, 1, 1, 1, 0], 2),
    ],
)
def test_the_ends_of_the_clip_range(variant, want, of_alpha):
    """Each public code by itself: torch's ReLU in Distiller, comparisons in fms-model-optimizer."""
    x = [np.nextafter(0, -1), -0.0, 0.0, np.nextafter(1.5, 0), 1.5, np.nextafter(1.5, 2)]
    params = pact.Params(1.5, 2, variant=variant)
    grad_x, grads = pact.vjp(x, params, np.ones(6))
    assert grad_x.tolist() == want
    assert grads["alpha"] == of_alpha
    check_same("values", pact.forward(x, params, training=True), pact.forward(x, pact.Params(1.5, 2), training=True))


def test_one_alpha_a_channel():
    params = pact.Params([[1.0], [2.0]], 1)
    x = [[3.0, 0.2, 5.0], [0.4, 1.2, 2.0]]
    assert pact.forward(x, params, training=True).tolist() == [[1, 0, 1], [0, 2, 2]]
    assert pact.vjp(x, params, np.ones((2, 3)))[1]["alpha"].tolist() == [[2], [1]]


@pytest.mark.parametrize("x", [[], [0.0], [1.0, 1.0], [math.nan], [math.inf], [-3.0, 70.0]])
def test_alpha_starts_at_10_whatever_the_data(x):
    assert pact.init(x, 4, "activation") == pact.Params(10.0, 4, "activation")


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan, math.inf, 1e-40, [1.0, 0.0], []])
def test_alphas_that_are_refused(alpha):
    with pytest.raises(ValueError, match=r"alpha must be from 1e-30 to 1e\+30, got"):
        pact.Params(alpha, 2)


def test_an_input_that_is_broadcast_gets_the_sum_of_its_gradients():
    params, x, grad = pact.Params([[1.0], [0.5]], 2), [[0.6, -0.3]], np.array([[1.0, 2.0], [4.0, 8.0]])
    grad_x, grads = pact.vjp(x, params, grad)
    assert grad_x.tolist() == [[1, 0]]
    assert all(value.shape == (2, 1) for value in grads.values())


def test_the_penalty_is_alpha_squared():
    assert pact.penalty(pact.Params(10.0, 2)) == 100
    assert pact.penalty(pact.Params([[1.0], [2.0]], 2)) == 5
