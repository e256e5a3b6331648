"""DSQ against its formulas in scalar decimal arithmetic, and its gradients against finite differences."""

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from reference import dsq, grid
from tests import oracles
from tests.oracles import check_near, check_same, elementwise, eps, exact
from tests.strategies import (
    FEW,
    alphas,
    bit_widths,
    clip_ranges,
    cotangents,
    dtypes,
    finite_inputs,
    inputs,
    normalized,
    roles,
)


def amplitude(alpha: float) -> float:
    return 1 / (1 - alpha)


def steepness(alpha: float) -> float:
    return float(oracles.steepness(alpha))


def alpha_error(alpha: float, position_error: float) -> float:
    """Error of the derivative for alpha, in units of eps, z erring by `position_error`.

    It is a difference of two terms, up to s and s/(alpha (2 - alpha)); the second has 1 - tanh^2, which errs by 12.
    Their derivatives for z are at most s^2 K and, thrice, s K/(alpha (2 - alpha)).
    """
    s, K, a = amplitude(alpha), steepness(alpha), alpha * (2 - alpha)
    return 12 * (s + s / a) + position_error * (s * s * K + 3 * s * K / a)


def soft_slope(x: Decimal, alpha: float) -> Decimal:
    return oracles.derivative(lambda v: oracles.dsq_soft(v, exact(alpha), at=x), x)


# Numbers that follow from the definition


@pytest.mark.parametrize(
    ("expression", "want"),
    [
        ("steepness(0.2)", math.log(9)),
        ("amplitude(0.2)", 1.25),
        ("steepness(1e-6)", math.log(2e6 - 1)),
        ("amplitude(0.5)", 2.0),
    ],
)
def test_stated_numbers(expression, want):
    check_near(f"dsq.{expression}", eval(f"dsq.{expression}", {"dsq": dsq}), want, 1e-15 * want)


@given(alphas)
def test_steepness_and_amplitude(alpha):
    want = steepness(alpha)  # log1p keeps the digits of K near alpha = 1
    check_near(f"steepness({alpha})", dsq.steepness(alpha), want, 4 * 2.3e-16 * want)
    tanh = float(1 / oracles.tanh(oracles.steepness(alpha) / 2))
    check_near(f"amplitude({alpha})", dsq.amplitude(alpha), tanh, 4 * 2.3e-16 * tanh)


# The soft quantizer. tanh errs by 4 eps and its argument by 2 eps, relative; so does their product with s.


@given(st.data(), dtypes)
def test_cells(data, dtype):
    x = data.draw(normalized(dtype))
    i, z = dsq.cell(x)
    check_same(f"cell({x!r})[0]", i, np.array([math.floor(v) for v in x], dtype))
    check_near(f"cell({x!r})[1]", z, elementwise(lambda v: v - oracles.floor(v) - oracles.HALF, x), 0.5 * eps(x))


@given(st.data(), dtypes, alphas)
def test_phi_reaches_its_ends(data, dtype, alpha):
    x = data.draw(normalized(dtype))
    z = dsq.cell(x)[1]
    got = dsq.phi(z, alpha=alpha)
    want = elementwise(lambda v: oracles.tanh(oracles.steepness(alpha) * v) / (1 - exact(alpha)), z)
    check_near(f"phi({z!r}, alpha={alpha})", got, want, 8 * eps(x) * np.abs(want))
    check_near(f"phi(-1/2, alpha={alpha})", dsq.phi(dtype(-0.5), alpha=alpha), -1, 8 * eps(x))


@given(st.data(), dtypes, alphas)
def test_soft(data, dtype, alpha):
    x = data.draw(normalized(dtype))
    got = dsq.soft(x, alpha=alpha)
    want = elementwise(lambda v: oracles.dsq_soft(v, exact(alpha)), x)
    # z errs by eps/4, which phi' <= s K turns into as much of an error.
    bound = (8 + amplitude(alpha) * steepness(alpha) / 4) * eps(x) + eps(x) * want
    check_near(f"soft({x!r}, alpha={alpha})", got, want, bound)
    assert got.dtype == dtype


@given(st.floats(0, 7))
def test_alpha_leads_from_the_hard_quantizer_to_the_identity(x):
    x = np.array([x])
    small, large = dsq.ALPHA_RANGE
    # near 1, s tanh(Kz) - 2z < (1 - alpha)^2, half of which counts
    check_near(f"soft({x!r}, alpha={large})", dsq.soft(x, alpha=large), x, (1 - large) ** 2 / 2)
    if abs(x - np.floor(x) - 0.5) > 0.4:  # tanh(0.4 * 14.5) = 1 - 2e-5
        check_near(f"soft({x!r}, alpha={small})", dsq.soft(x, alpha=small), np.round(x), 1e-5)


@given(st.data(), dtypes)
def test_hard_is_the_rounding_with_ties_down(data, dtype):
    x = data.draw(normalized(dtype))
    check_same(f"hard({x!r})", dsq.hard(x), elementwise(oracles.nearest, x).astype(dtype))


@given(st.data(), dtypes, alphas)
def test_slope(data, dtype, alpha):
    x = data.draw(normalized(dtype))
    want = elementwise(lambda v: soft_slope(v, alpha), x)
    # 1 - tanh^2 errs by 12 eps of 1; z by eps/4, K sech^2 being the derivative of tanh
    bound = (12 + steepness(alpha)) * eps(x) * amplitude(alpha) * steepness(alpha)
    got = dsq.slope(x, alpha=alpha)
    check_near(f"slope({x!r}, alpha={alpha})", got, want, bound)
    assert got.dtype == dtype


@given(alphas)
def test_slope_range(alpha):
    ends = [
        oracles.derivative(lambda y, v=v: oracles.dsq_soft(y, exact(alpha), at=v), v)
        for v in (Decimal(0), oracles.HALF)
    ]
    want = [float(end) for end in ends]
    check_near(f"slope_range(alpha={alpha})", dsq.slope_range(alpha=alpha), want, 1e-14 * np.array(want))
    slopes = dsq.slope(np.linspace(0, 1, 65), alpha=alpha)
    assert (slopes >= want[0] * (1 - 1e-9) - 1e-13).all(), "least at the levels"
    assert (slopes <= want[1] * (1 + 1e-14)).all(), "greatest at the transition point"


@given(alphas)
@settings(max_examples=FEW)
def test_mean_slope_is_1(alpha):
    mean = quad(lambda x: float(dsq.slope(x, alpha=alpha)), 0, 1, points=[0.5], epsabs=1e-10)[0]
    check_near(f"mean of slope(alpha={alpha})", mean, 1, 1e-9)


@given(st.data(), dtypes, alphas)
def test_alpha_derivative(data, dtype, alpha):
    x = data.draw(normalized(dtype))
    want = elementwise(lambda v: oracles.derivative(lambda a: oracles.dsq_soft(v, a), exact(alpha)), x)
    bound = alpha_error(alpha, 0.25) * eps(x)
    got = dsq.alpha_derivative(x, alpha=alpha)
    check_near(f"alpha_derivative({x!r}, alpha={alpha})", got, want, bound)


# The contract's functions, as far as they are DSQ's own (the shared part is in test_registry.py)


@given(st.data(), dtypes, bit_widths, roles, clip_ranges(), alphas)
def test_forward_and_forward_soft(data, dtype, bits, role, clip_range, alpha):
    params = dsq.Params(*clip_range, bits, role, alpha)
    x = data.draw(inputs(*clip_range, bits, dtype))
    n = 2**bits - 1
    low, high = map(float, clip_range)
    q = grid.round_half_down(grid.normalize(x, *clip_range, bits)).astype(np.float64)
    # Quotient, width, product and sum: each eps/2 of its result.
    bound = eps(x) * (2 * (high - low) + abs(low) + abs(high))
    for training in (False, True):
        got = dsq.forward(x, params, training=training)
        check_near(f"forward({x!r}, {params})", got, low + (high - low) * q / n, bound)
    soft = dsq.forward_soft(x, params)
    normalized = grid.normalize(x, *clip_range, bits)
    want = low + (high - low) * elementwise(lambda v: oracles.dsq_soft(v, exact(alpha)), normalized) / n
    s, K = amplitude(alpha), steepness(alpha)
    check_near(f"forward_soft({x!r}, {params})", soft, want, bound + (8 + n + s * K / 4) * eps(x) * (high - low) / n)
    assert soft.dtype == dtype


@pytest.mark.parametrize("variant", ["hard", "soft"])
@given(data=st.data(), dtype=dtypes, bits=bit_widths, role=roles, clip_range=clip_ranges(), alpha=alphas)
def test_vjp_is_the_gradient_of_the_soft_output_or_of_the_hard_one(variant, data, dtype, bits, role, clip_range, alpha):
    x = data.draw(finite_inputs(*clip_range, bits, dtype))
    params = dsq.Params(*clip_range, bits, role, alpha, variant)
    if variant == "hard":  # where rounding errors do not decide the level
        x = x[(dsq.threshold_distance(x.astype(np.float64), params) > 4 * 2**bits * eps(x)) | (x < clip_range[0])]
        x = np.concatenate([x, np.array([clip_range[1]], dtype)])
    grad = cotangents(x)
    got_x, got = dsq.vjp(x, params, grad)

    low, high = map(exact, clip_range)
    each = [oracles.dsq_gradients(exact(v), low, high, exact(alpha), bits, hard=variant == "hard") for v in x]
    want = {name: np.array([float(g[name]) for g in each]) * grad for name in ("x", "lower", "upper", "alpha")}
    s, K, n = amplitude(alpha), steepness(alpha), 2**bits - 1
    # The normalised input errs by 2 n eps, which tanh and sech^2 take up with a factor K; see test_slope.
    slope_error = (12 + (1 + 2 * n) * K) * eps(x) * s * K
    expression = f"vjp({x!r}, {params}, {grad!r})"
    check_near(f"{expression} x", got_x, want["x"], slope_error * grad)
    end_error = 2 * slope_error + 4 * (1 + s * K) * eps(x)  # 1 - P and P - g p: products with p <= 1
    scale = float(high - low) / n * (s * s + 2 * s / (alpha * (2 - alpha)))
    alpha_error = (8 + (1 + 2 * n) * K) * eps(x) * scale
    for name, error, size in [
        ("lower", end_error, 1 + s * K),
        ("upper", end_error, 1 + s * K),
        ("alpha", alpha_error, scale),
    ]:
        bound = (error + x.size * eps(x) * size) * grad.sum()  # with the roundings of the sum
        check_near(f"{expression} {name}", got[name], want[name].sum(), bound)


@pytest.mark.parametrize("variant", ["hard", "soft"])
@given(data=st.data(), bits=bit_widths, role=roles, clip_range=clip_ranges(), alpha=alphas)
def test_the_three_gradients_sum_to_1(variant, data, bits, role, clip_range, alpha):
    """Shifting x, l and u together shifts the output as much, inside the clip range and outside."""
    x = data.draw(inputs(*clip_range, bits, np.float64, shape=st.just(())))
    grad_x, ends = dsq.vjp(x, dsq.Params(*clip_range, bits, role, alpha, variant), np.ones(()))
    size = amplitude(alpha) * steepness(alpha) + 1
    check_near(f"dx + dl + du at {x}, {clip_range}", grad_x + ends["lower"] + ends["upper"], 1, 4 * eps(x) * size)


@pytest.mark.parametrize("variant", ["hard", "soft"])
@given(data=st.data(), bits=bit_widths, role=roles, clip_range=clip_ranges(), alpha=alphas)
def test_x_l_and_u_times_their_gradients_sum_to_the_output_that_is_differentiated(
    variant, data, bits, role, clip_range, alpha
):
    """Scaling x, l and u together scales the output as much: the hard one, which is put out, or the soft one."""
    x = data.draw(finite_inputs(*clip_range, bits, np.float64, shape=st.just(())))
    params = dsq.Params(*clip_range, bits, role, alpha, variant)
    grad_x, ends = dsq.vjp(x, params, np.ones(()))
    got = x * grad_x + clip_range[0] * ends["lower"] + clip_range[1] * ends["upper"]
    hard, soft = dsq.forward(x, params, training=True), dsq.forward_soft(x, params)
    size = (amplitude(alpha) * steepness(alpha) + 1) * (abs(clip_range[0]) + abs(clip_range[1]) + abs(x))
    check_near(f"the sum at {x}, {params}", got, hard if variant == "hard" else soft, 16 * 2**bits * eps(x) * size)


@pytest.mark.parametrize(("variant", "by_lower", "by_upper"), [("hard", -0.3416, 0.2028), ("soft", -0.0999, -0.0389)])
def test_the_two_variants_at_a_point(variant, by_lower, by_upper):
    """The second has another sign for u."""
    _, grads = dsq.vjp(0.7, dsq.Params(0.0, 1.0, 1, "weight", 0.2, variant), 1.0)
    check_near("gradient for l", grads["lower"], by_lower, 6e-5)
    check_near("gradient for u", grads["upper"], by_upper, 6e-5)


def test_the_gradients_that_public_code_takes():
    """By autograd's rules through the sign, whose gradient is that of phi, and on through l + Delta (i + ...)."""
    n, alpha, low, high = 3, 0.2, -1.0, 2.0
    for x in (-0.8, -0.3, 0.1, 0.6, 1.2, 1.9):
        delta, i = (high - low) / n, math.floor((x - low) * n / (high - low))
        phi_at = math.tanh(steepness(alpha) * ((x - low) / delta - i - 0.5)) / (1 - alpha)
        sign = 1.0 if phi_at > 0 else -1.0
        step = 1e-6

        def moved(dl, du, x=x, i=i, sign=sign, phi_at=phi_at):
            delta = (high + du - low - dl) / n
            phi = math.tanh(steepness(alpha) * ((x - low - dl) / delta - i - 0.5)) / (1 - alpha)
            return low + dl + delta * (i + (sign + (phi - phi_at) + 1) / 2)

        _, grads = dsq.vjp(x, dsq.Params(low, high, 2, "weight", alpha), 1.0)
        check_near(f"l at {x}", grads["lower"], (moved(step, 0) - moved(-step, 0)) / (2 * step), 1e-8)
        check_near(f"u at {x}", grads["upper"], (moved(0, step) - moved(0, -step)) / (2 * step), 1e-8)


def test_a_clipped_element_moves_with_its_end():
    for x, ends in [(-2.0, (1, 0)), (2.0, (0, 1)), (-math.inf, (1, 0)), (math.inf, (0, 1))]:
        grad_x, grads = dsq.vjp([x], dsq.Params(-1.0, 1.0, 2, "weight"), [1.0])
        got = (grad_x[0], grads["lower"], grads["upper"], grads["alpha"])
        assert got == (0, *ends, 0), f"gradients at {x}: {got}"


def test_levels_of_a_clip_range_per_channel():
    ends = np.array([[0.0], [-1.0], [2.0]]), np.array([[3.0], [2.0], [8.0]])
    got = dsq.levels(dsq.Params(*ends, 2, "weight"))
    assert got.shape == (4, 3, 1)
    assert got[:, :, 0].T.tolist() == [[0, 1, 2, 3], [-1, 0, 1, 2], [2, 4, 6, 8]]


def test_init():
    x = [-1.0, 0.0, 2.0]
    assert dsq.init(x, 2, "weight") == dsq.Params(-1.0, 2.0, 2, "weight", 0.2)
    assert dsq.init(x, 2, "signed_activation") == dsq.Params(-1.0, 2.0, 2, "signed_activation", 0.2)
    assert dsq.init(x, 2, "activation", alpha=0.3) == dsq.Params(0.0, 2.0, 2, "activation", 0.3)
    for bad in [[], [1.0, 1.0], [0.0, math.inf], [0.0, math.nan]]:
        with pytest.raises(ValueError, match=r"range of x must be of finite values that differ, got \("):
            dsq.init(bad, 2, "weight")
    with pytest.raises(ValueError, match=r"range of x must be of finite values that differ, got \(0.0, -1.0\)"):
        dsq.init([-2.0, -1.0], 2, "activation")


def test_equal_activations_have_a_range():
    """From 0 to their value, the lower end being fixed."""
    assert dsq.init([2.0, 2.0], 2, "activation") == dsq.Params(0.0, 2.0, 2, "activation")


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 1.5, 1e-7, math.nan, None, "0.2"])
def test_alphas_that_are_refused(alpha):
    functions = [
        dsq.steepness,
        dsq.amplitude,
        lambda a: dsq.soft([0.2], alpha=a),
        lambda a: dsq.slope([0.2], alpha=a),
        lambda a: dsq.slope_range(alpha=a),
        lambda a: dsq.alpha_derivative([0.2], alpha=a),
        lambda a: dsq.Params(-1.0, 1.0, 2, "weight", a),
    ]
    for function in functions:
        with pytest.raises(ValueError, match=f"alpha must be a number from 1e-06 to 0.9, got {alpha!r}"):
            function(alpha)
