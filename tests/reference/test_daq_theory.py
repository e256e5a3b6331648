"""DAQ's closed forms against numeric computation with the equations in scalar decimal arithmetic."""

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from reference import daq, daq_theory, registry
from tests import oracles
from tests.oracles import check_near, elementwise, eps, exact
from tests.strategies import FEW, daq_options, dtypes, gammas, kernels, normalized, variants

betas = st.floats(0, 200) | st.floats(*daq.BETA_RANGE)
moderate_kernels = st.fixed_dictionaries({"sigma": st.floats(0.3, 5), "variant": variants})


def test_theory_is_no_method():
    assert "daq_theory" not in {module.__name__.rpartition(".")[2] for module in registry.modules().values()}


@pytest.mark.parametrize(
    ("expression", "want"),
    [
        ("mean_slope(sigma=1.0)", 0.6508),
        ("mean_slope(sigma=2.0)", 1.2401),
        ("mean_slope(sigma=1.0, variant='released')", 0.4485),
        ("mean_slope(sigma=2.0, variant='released')", 0.9215),
        ("slope_range(sigma=1.0)", (0.4341, 1.1258)),
        ("slope_range(sigma=2.0)", (0.5408, 4.4173)),
        ("slope_range(sigma=1.0, variant='released')", (0.3620, 0.5966)),
        ("slope_range(sigma=2.0, variant='released')", (0.4972, 2.2172)),
        ("combine_ste_ratio()", 1.3130),
        ("distance_at_temperature(4.0, sigma=1.0)", 0.243),
        ("distance_at_temperature(6.0, sigma=1.0)", 0.404),
        ("fixed_beta_mean_gap(10.0, sigma=math.inf)", 0.113),
        ("fixed_beta_mean_gap(20.0, sigma=math.inf)", 0.057),
        ("fixed_beta_mean_gap(60.0, sigma=math.inf)", 0.019),
        ("fixed_beta_mean_gap(150.0, sigma=math.inf)", 0.008),
        ("fixed_beta_gap(150.0, sigma=math.inf)", 0.5),
        ("fixed_beta_mean_slope(24.0, sigma=1.0)", 0.0065),
        ("fixed_beta_transition_slope(150.0, sigma=math.inf)", 45.0),
    ],
)
def test_derived_numbers(expression, want):
    got = eval(f"daq_theory.{expression}", {"daq_theory": daq_theory, "math": math})
    for value, printed in zip(np.atleast_1d(got), np.atleast_1d(want), strict=True):
        digits = 0 if printed == 45 else len(f"{printed}".partition(".")[2])
        assert abs(value - printed) <= 0.5001 * 10.0**-digits, f"{expression} = {got}, stated {want}"


def test_the_released_temperature_never_reaches_6():
    with pytest.raises(ValueError, match=r"beta must be a number from 2.3\d* to 5.2\d*, got 6"):
        daq_theory.distance_at_temperature(6.0, sigma=1.0, variant="released")


# Doubles; 1e-12 is 4000 eps, for a few hundred operations.


@given(gammas, kernels)
@settings(max_examples=FEW)
def test_slope_range_is_that_of_the_slope(gamma, kernel):
    t = [Decimal(i) / 64 for i in range(33)]
    slopes = [float(oracles.daq_slope(v, gamma=gamma, **kernel)) for v in t]
    assert slopes == sorted(slopes), "the slope grows towards the transition point"
    got = daq_theory.slope_range(gamma=gamma, **kernel)
    want = [slopes[0], slopes[-1]]
    check_near(f"slope_range(gamma={gamma}, {kernel})", got, want, 1e-12 * np.array(want) + 1e-300)


@given(gammas.filter(lambda gamma: gamma < 50), moderate_kernels)
@settings(max_examples=FEW)
def test_mean_slope_is_the_mean_of_the_slope(gamma, kernel):
    def slope(x: float) -> float:
        return float(oracles.daq_slope(exact(x), gamma=gamma, **kernel))

    mean = 2 * quad(slope, 0, 0.5, epsabs=0, epsrel=1e-10)[0]  # the cell is symmetric
    check_near(f"mean_slope(gamma={gamma}, {kernel})", daq_theory.mean_slope(gamma=gamma, **kernel), mean, 1e-9 * mean)


@given(daq_options)
def test_mean_slope_lies_within_the_range(options):
    low, high = daq_theory.slope_range(**options)
    mean = daq_theory.mean_slope(**options)
    assert low * (1 - 1e-12) <= mean <= high * (1 + 1e-12), f"mean_slope({options}) = {mean}, range {low} to {high}"


@given(st.floats(0, 1), daq_options)
def test_combine_ste_ratio_is_the_same_everywhere(x, options):
    at = exact(x)
    beta = oracles.temperature(at, **options)
    kernel = {name: options[name] for name in ("sigma", "variant")}
    want = float(oracles.daq_slope(at, **options) / oracles.phi_slope(at, beta, **kernel))
    got = daq_theory.combine_ste_ratio(options["gamma"])
    check_near(f"combine_ste_ratio({options['gamma']})", got, want, 1e-12 * want)


@given(daq_options)
@settings(max_examples=FEW)
def test_temperature_range(options):
    t = [Decimal(i) / 64 for i in range(33)]
    temperatures = [float(oracles.temperature(v, **options)) for v in t]
    assert temperatures == sorted(temperatures), "the temperature rises towards the transition point"
    want = [temperatures[0], temperatures[-1]]
    got = daq_theory.adaptive_temperature_range(**options)
    check_near(f"adaptive_temperature_range({options})", got, want, 1e-12 * np.array(want))


@given(st.data(), dtypes, daq_options)
def test_the_temperature_as_a_function_of_the_distance(data, dtype, options):
    t = data.draw(normalized(dtype, top=1)) / 2
    want = elementwise(lambda v: oracles.temperature(v, **options), t)
    # 1 - kappa e^(2t - 1): expm1 keeps the digits of it, but 2t - 1 - 2c errs by eps, which counts relative to 2c.
    bound = (4 + 1 / daq.kernel_exponent(options["sigma"], options["variant"])) * eps(t) * want
    got = daq_theory.adaptive_temperature_at(t, **options)
    check_near(f"adaptive_temperature_at({t!r}, {options})", got, want, bound)


@given(daq_options, st.floats(0, 1))
@settings(max_examples=FEW)
def test_distance_at_temperature_is_the_root(options, share):
    low, high = daq_theory.adaptive_temperature_range(**options)
    beta = min(low + share * (high - low), high)
    got = daq_theory.distance_at_temperature(beta, **options)
    assert 0 <= got <= 0.5
    lo, hi = Decimal(0), oracles.HALF
    for _ in range(60):  # bisection: beta* increases with t
        middle = (lo + hi) / 2
        lo, hi = (middle, hi) if oracles.temperature(middle, **options) < exact(beta) else (lo, middle)
    # beta* is accurate to a few eps, and so is e^t, whose derivative for log beta is at most 1.
    check_near(f"distance_at_temperature({beta}, {options})", got, float(lo), 1e-14)


@given(betas, kernels | st.just({"sigma": math.inf, "variant": "paper"}))
@settings(max_examples=FEW)
@example(beta=1000.0, kernel={"sigma": 1.0, "variant": "paper"})
def test_largest_gap_at_a_fixed_temperature(beta, kernel):
    points = [Decimal(i) / 64 for i in range(129)]
    gaps = [abs(oracles.phi_offset(x, exact(beta), **kernel, at=x)) for x in points]
    want = float(max(gaps))
    assert gaps[32] >= max(gaps) - Decimal("1e-45"), "the gap is largest at the transition point"
    got = daq_theory.fixed_beta_gap(beta, **kernel)
    # exp of beta |s_f - s_c|, which errs by 4 eps of itself; beyond 700, a gap of 1e-304 is returned.
    check_near(f"fixed_beta_gap({beta}, {kernel})", got, want, (4 + 4 * min(beta, 700)) * 2.3e-16 * want + 1e-303)


@given(st.floats(0, 200), moderate_kernels | st.just({"sigma": math.inf, "variant": "paper"}))
@settings(max_examples=FEW)
def test_mean_gap_at_a_fixed_temperature(beta, kernel):
    def gap(x: float) -> float:
        return float(abs(oracles.phi(exact(x), exact(beta), **kernel) - oracles.nearest(exact(x))))

    want = quad(gap, 0, 0.5, epsabs=1e-10)[0] + quad(gap, math.nextafter(0.5, 1), 1, epsabs=1e-10)[0]
    check_near(f"fixed_beta_mean_gap({beta}, {kernel})", daq_theory.fixed_beta_mean_gap(beta, **kernel), want, 1e-9)


@given(betas, kernels | st.just({"sigma": math.inf, "variant": "paper"}))
@example(beta=1000.0, kernel={"sigma": 1.0, "variant": "paper"})
def test_jumps_at_a_fixed_temperature(beta, kernel):
    tiny = Decimal("1e-45")  # 50 digits are carried

    def jump(x: Decimal, below: Decimal, above: Decimal) -> float:
        step = oracles.phi(x + above, exact(beta), **kernel) - oracles.phi(x - below, exact(beta), **kernel)
        return float(step)

    want = [jump(Decimal(1), tiny, Decimal(0)), jump(oracles.HALF, Decimal(0), tiny)]
    got = daq_theory.fixed_beta_jumps(beta, **kernel)
    # beta |s_f - s_c| errs by 4 eps of itself, the exponential of it by as much: x e^-x < 1.
    check_near(f"fixed_beta_jumps({beta}, {kernel})", got, want, 1e-14)
    mean = daq_theory.fixed_beta_mean_slope(beta, **kernel)
    check_near(f"fixed_beta_mean_slope({beta}, {kernel})", mean, 1 - sum(want), 3e-14)


@given(st.floats(1e-3, 200) | st.floats(1e-3, 1e6), kernels | st.just({"sigma": math.inf, "variant": "paper"}))
def test_slope_at_the_transition_point_at_a_fixed_temperature(beta, kernel):
    want = float(oracles.phi_slope(oracles.HALF, exact(beta), **kernel))
    got = daq_theory.fixed_beta_transition_slope(beta, **kernel)
    bound = (4 + 4 * min(beta, 700)) * 2.3e-16 * want + 1e-290  # as for the largest gap
    check_near(f"fixed_beta_transition_slope({beta}, {kernel})", got, want, bound)


def test_with_a_kernel_the_slope_vanishes_and_without_it_explodes():
    """The last two rows of Table 6."""
    with_kernel = [daq_theory.fixed_beta_transition_slope(beta, sigma=1.0) for beta in (24, 60, 150)]
    without = [daq_theory.fixed_beta_transition_slope(beta, sigma=math.inf) for beta in (24, 60, 150)]
    assert with_kernel == sorted(with_kernel, reverse=True)
    assert with_kernel[-1] < 1e-12
    check_near("slopes without kernel", without, np.array([24, 60, 150]) / (2 * math.sqrt(math.e)), 1e-12)


@pytest.mark.parametrize("beta", [1e3, 1e5, 1e7, 1e8])
def test_the_mean_gap_far_from_quadrature_s_first_points(beta):
    """Without a kernel it lies within 1/beta of the transition point: ln 2 sqrt(e) / beta, to first order."""
    want = math.log(2) * math.sqrt(math.e) / beta
    got = daq_theory.fixed_beta_mean_gap(beta, sigma=math.inf)
    check_near(f"fixed_beta_mean_gap({beta})", got, want, 10 * want / beta**2 + 1e-11 * want)


@pytest.mark.parametrize("beta", [24.0, 150.0, 700.0, 1000.0])
def test_a_mean_slope_that_is_next_to_nothing_keeps_its_digits(beta):
    distance = exact(beta) * (1 - exact(daq.kappa(1.0))) / exact(1).exp().sqrt()
    at_level = exact(beta) * (1 - exact(daq.kappa(1.0)) / exact(1).exp())
    want = float(2 / (1 + distance.exp()) - 2 / (1 + at_level.exp()))
    bound = 8 * beta * 2.3e-16 * want + 1e-300
    check_near(f"fixed_beta_mean_slope({beta})", daq_theory.fixed_beta_mean_slope(beta, sigma=1.0), want, bound)


FIXED = ["gap", "mean_gap", "jumps", "mean_slope", "transition_slope"]


@pytest.mark.parametrize("function", FIXED)
def test_fixed_temperatures_up_to_the_largest_admitted(function):
    for beta in [*daq.BETA_RANGE, 900.0, 1e4, 1e6]:
        for sigma in [*daq.SIGMA_RANGE, 1.0, math.inf]:
            got = np.array(getattr(daq_theory, f"fixed_beta_{function}")(beta, sigma=sigma))
            assert np.isfinite(got).all(), f"fixed_beta_{function}({beta}, sigma={sigma}) = {got}"


@pytest.mark.parametrize("function", FIXED)
def test_fixed_temperatures_that_are_refused(function):
    for beta in [-1.0, 1e9, math.inf, math.nan, None]:
        with pytest.raises(ValueError, match=r"beta must be a number from 0 to 1e\+0\d, got "):
            print(function, beta, getattr(daq_theory, f"fixed_beta_{function}")(beta, sigma=1.0))
