"""DoReFa-Net against its formulas in scalar decimal arithmetic, and its gradients against finite differences."""

import dataclasses
import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import dorefa
from tests.oracles import HALF, check_near, check_same, derivative, eps, exact, floor, round_by, tanh
from tests.strategies import FEW, arrays_of, bit_widths, cotangents, dtypes, finite_inputs, vectors

more_bits = st.integers(2, 8)


@st.composite
def weights(draw, dtype):
    """Weights of which one at least is no small number."""
    x = draw(arrays_of(st.floats(-4, 4, width=32) | st.sampled_from([0.0, -0.0, 0.5, -0.5, 2.0]), dtype, vectors))
    x[draw(st.integers(0, x.size - 1))] = draw(st.sampled_from([-3.0, -0.75, 0.75, 1.5]))
    return x


def position(w: Decimal, all_weights) -> Decimal:
    return tanh(w) / (2 * max(abs(tanh(exact(v))) for v in all_weights)) + HALF


@given(st.data(), dtypes, more_bits)
@settings(max_examples=FEW)
def test_weights(data, dtype, bits):
    w = data.draw(weights(dtype))
    params = dorefa.init(w, bits, "weight")
    n, got, q = 2**bits - 1, dorefa.forward(w, params, training=True), dorefa.codes(w, params)
    for i, value in enumerate(w):
        v = n * position(exact(value), w)
        if abs(v - floor(v) - HALF) > 8 * eps(w) * n or value == 0:  # 0 is a tie in any arithmetic
            assert q[i] == round_by("half_even", v), f"code of {value!r} among {w!r}, {bits} bits"
    check_near(f"forward({w!r}, {params})", got, [2 * int(v) / n - 1 for v in q], eps(w))


@given(st.data(), dtypes)
def test_weights_of_one_bit(data, dtype):
    w = data.draw(weights(dtype))
    mean = sum(abs(exact(v)) for v in w) / w.size
    got = dorefa.forward(w, dorefa.init(w, 1, "weight"), training=True)
    want = [float(mean if v >= 0 else -mean) for v in w]
    check_near(f"forward({w!r})", got, want, w.size * eps(w) * float(mean))


@given(st.data(), dtypes, bit_widths)
def test_activations(data, dtype, bits):
    a = data.draw(finite_inputs(0.0, 1.0, bits, dtype))
    n, params = 2**bits - 1, dorefa.Params(bits, "activation")
    q = dorefa.codes(a, params)
    for value, code in zip(a, q, strict=True):
        v = min(max(exact(value), Decimal(0)), Decimal(1)) * n
        if abs(v - floor(v) - HALF) > eps(a) * n:  # the product is rounded
            assert code == round_by("half_even", v), f"code of {value!r}, {bits} bits"
    check_same(f"forward({a!r})", dorefa.forward(a, params, training=True), q.astype(dtype) / dtype(n))


def test_ties_of_activations_go_to_even():
    for bits, code in [(1, 0), (2, 2), (3, 4)]:  # n/2 = 0.5, 1.5, 3.5
        assert dorefa.codes([0.5], dorefa.Params(bits, "activation")) == code


# The traps


@pytest.mark.parametrize("bits", range(2, 9))
def test_levels_are_the_odd_multiples_and_none_is_zero(bits):
    """An integer grid, round(tanh(w) / max (2^(bits-1) - 1)), has the level 0 and one level less."""
    n = 2**bits - 1
    levels = dorefa.levels(dorefa.Params(bits, "weight"))
    check_same("levels", levels, np.arange(-n, n + 1, 2) / n)
    zero = dorefa.forward([0.0, -0.0, 1.0], dorefa.init([1.0], bits, "weight"), training=True)
    check_same("zero", zero, np.array([1 / n, 1 / n, 1.0]))


def test_one_bit_is_the_mean_magnitude_and_zero_counts_as_positive():
    w = [-0.6, 0.0, -0.0, 4.2]
    params = dorefa.init(w, 1, "weight")
    got = dorefa.forward(w, params, training=True)
    check_near("forward", got, [-1.2, 1.2, 1.2, 1.2], 1e-15)
    assert dorefa.codes(w, params).tolist() == [0, 1, 1, 1]
    assert dorefa.vjp(w, params, np.arange(4.0))[0].tolist() == [0, 1, 2, 3]


# Gradients


def soft(w, i: int, value: Decimal, largest: Decimal | None) -> Decimal:
    """The loss without rounding, with weight i replaced; the maximum is held fixed, or taken of the new weights."""
    new = [value if j == i else exact(v) for j, v in enumerate(w)]
    largest = max(abs(tanh(v)) for v in new) if largest is None else largest
    return sum(exact(g) * tanh(v) / largest for v, g in zip(new, cotangents(w), strict=True))


@given(st.data(), more_bits, st.sampled_from(["paper", "released"]))
@settings(max_examples=FEW)
def test_weight_gradients(data, bits, variant):
    w = data.draw(weights(np.float64))
    if variant == "released" and (np.abs(w) == np.abs(w).max()).sum() > 1:
        w[0] = 5.0  # shared maxima have no derivative: see below
    largest = max(abs(tanh(exact(v))) for v in w) if variant == "paper" else None
    want = [float(derivative(lambda v, i=i: soft(w, i, v, largest), exact(w[i]))) for i in range(w.size)]
    got = dorefa.vjp(w, dorefa.init(w, bits, "weight", variant=variant), cotangents(w))[0]
    check_near(f"vjp({w!r}), {variant}", got, want, 100 * eps(w) * (1 + np.abs(want).max()))


def test_equal_maxima_share_the_gradient_evenly():
    w, grad = np.array([-1.0, 0.5, 1.0]), np.array([0.0, 1.0, 0.0])
    got = {v: dorefa.vjp(w, dorefa.init(w, 3, "weight", variant=v), grad)[0] for v in dorefa.METHOD.variants}
    t, t1 = math.tanh(0.5), math.tanh(1.0)
    share = t / t1**2 * (1 - t1**2) / 2
    check_near("paper", got["paper"], [0, (1 - t**2) / t1, 0], 1e-15)
    check_near("released", got["released"], [share, (1 - t**2) / t1, -share], 1e-15)


def test_activations_pass_gradients_from_0_to_1_ends_included():
    a = [np.nextafter(0, -1), 0.0, 0.4, 1.0, np.nextafter(1, 2)]
    assert dorefa.vjp(a, dorefa.Params(2, "activation"), np.full(5, 3.0))[0].tolist() == [0, 3, 3, 3, 0]


# Statistics


@given(st.data(), dtypes)
def test_statistics(data, dtype):
    w = data.draw(weights(dtype))
    params = dorefa.observe(w, dorefa.Params(2, "weight"))
    check_near("largest", params.largest, float(max(abs(tanh(exact(v))) for v in w)), 2 * eps(w))
    check_near("mean", params.mean, float(sum(abs(exact(v)) for v in w) / w.size), w.size * eps(w) * 4)


@pytest.mark.parametrize("w", [[], [0.0], [0.0, -0.0], [1.0, math.nan], [1.0, math.inf]])
def test_weights_that_tell_nothing_are_refused(w):
    with pytest.raises(ValueError, match="mean magnitude of x must be positive and finite"):
        dorefa.observe(w, dorefa.Params(2, "weight"))
    assert dorefa.init(w, 2, "activation") == dorefa.Params(2, "activation")  # not looked at


def test_constant_weights_are_quantized():
    assert dorefa.forward([-0.25], dorefa.init([-0.25], 2, "weight"), training=True).tolist() == [-1]


@pytest.mark.parametrize("name", ["largest", "mean"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_statistics_that_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be from 1e-30 to 1e\+30"):
        dataclasses.replace(dorefa.Params(2, "weight"), **{name: value})
