"""Soft rounding at a given temperature: Eq. 5 by the oracles, and how the variants relate to DAQ."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import daq, daq_theory, dasr, grid
from tests import oracles
from tests.oracles import check_near, check_same, elementwise, eps
from tests.strategies import bit_widths, clip_ranges, cotangents, dtypes, finite_inputs, kernels, roles

betas = st.floats(0.5, 60)


def params(clip_range, bits, role, variant, beta=24.0, gamma=2.0, sigma=1.0, kernel="paper"):
    return dasr.Params(*clip_range, bits, role, beta, gamma, sigma, kernel, variant)


@given(st.data(), dtypes, bit_widths, roles, clip_ranges(), betas, kernels, st.sampled_from(dasr.SOFT))
def test_in_training_the_output_is_phi(data, dtype, bits, role, clip_range, beta, kernel, variant):
    x = data.draw(finite_inputs(*clip_range, bits, dtype))
    p = params(clip_range, bits, role, variant, beta, sigma=kernel["sigma"], kernel=kernel["variant"])
    used = {**kernel, "sigma": math.inf} if variant == "soft_argmax" else kernel
    normalized = grid.normalize(x, *clip_range, bits)
    phi = elementwise(lambda v: oracles.phi(v, oracles.exact(beta), **used), normalized)
    n = 2**bits - 1
    want = 2 * phi / n - 1 if role == "weight" else phi / n
    # beta s is known to beta eps, a probability to a quarter of that; Eq. 2 doubles, weights are near 1.
    bound = (8 * (n + 1) + 4 * beta) * 2 / n * eps(x)
    check_near(f"forward({x!r}, {p}, training=True)", dasr.forward(x, p, training=True), want, bound)


@given(st.data(), dtypes, bit_widths, roles, clip_ranges(), st.sampled_from(dasr.METHOD.variants))
def test_in_test_and_with_ste_the_output_is_daqs(data, dtype, bits, role, clip_range, variant):
    x = data.draw(finite_inputs(*clip_range, bits, dtype))
    p = params(clip_range, bits, role, variant)
    want = daq.forward(x, daq.Params(*clip_range, bits, role), training=False)
    check_same(f"forward({x!r}, {p}, training=False)", dasr.forward(x, p, training=False), want)
    check_same(f"codes({x!r}, {p})", dasr.codes(x, p), daq.codes(x, daq.Params(*clip_range, bits, role)))
    if variant not in dasr.SOFT:
        check_same(f"forward({x!r}, {p}, training=True)", dasr.forward(x, p, training=True), want)


@given(st.data(), dtypes, bit_widths, roles, clip_ranges(), st.floats(0.5, 8), kernels)
def test_combined_ste_at_the_adaptive_temperature_is_daq_up_to_coth(data, dtype, bits, role, clip_range, gamma, kernel):
    x = data.draw(finite_inputs(*clip_range, bits, dtype))
    p = params(clip_range, bits, role, "combined_ste_adaptive", 24.0, gamma, kernel["sigma"], kernel["variant"])
    ours_x, ours = dasr.vjp(x, p, cotangents(x))
    theirs_x, theirs = daq.vjp(x, daq.Params(*clip_range, bits, role, gamma, **kernel), cotangents(x))
    factor = 1 / math.tanh(gamma / 2)
    # beta* divides by a difference of scores, exact to eps of 1; the rest is 16 roundings.
    beta = daq_theory.adaptive_temperature_range(gamma=gamma, **kernel)[1]
    relative = (32 + 16 * beta * (1 + 2**bits)) * eps(x)
    check_near(f"vjp({x!r}, {p}), x", factor * ours_x, theirs_x, relative * np.abs(theirs_x))
    for end, value in theirs.items():
        total = (relative + x.size * eps(x)) * np.abs(theirs_x).sum()
        check_near(f"vjp({x!r}, {p}), {end}", factor * ours[end], value, total)


@pytest.mark.parametrize("variant", dasr.SOFT)
def test_the_slope_is_that_of_phi(variant):
    x = np.array([0.1, 0.3, 0.5, 0.8])
    p = params((0.0, 1.0), 1, "activation", variant, beta=12.0)
    sigma = math.inf if variant == "soft_argmax" else 1.0
    want = elementwise(lambda v: oracles.phi_slope(v, oracles.exact(12), sigma=sigma, variant="paper"), x)
    check_near(f"vjp({x}, {p})", dasr.vjp(x, p, np.ones(4))[0], want, 1e-14 * (1 + want))


def test_a_kernel_closes_the_gap_at_the_transition_point_and_its_absence_leaves_one_half():
    """Table 6: x at the transition point stays at 1/2 without kernel, however large beta is."""
    for beta in (4.0, 24.0, 150.0):
        for variant, want in (("soft_argmax", 0.5), ("kernel", daq_theory.fixed_beta_gap(beta, sigma=1.0))):
            p = params((0.0, 1.0), 1, "activation", variant, beta)
            check_near(f"{variant}, beta={beta}", dasr.forward([0.5], p, training=True)[0], want, 1e-15)


def test_the_annealed_temperature_is_linear_from_2_to_48():
    assert [dasr.annealed_beta(p) for p in (0, 0.25, 1)] == [2, 13.5, 48]
    for progress in (-0.1, 1.1, math.nan, None):
        with pytest.raises(ValueError, match=f"progress must be a number from 0 to 1, got {progress}"):
            dasr.annealed_beta(progress)


REFUSED = [(name, value) for name in ("beta", "gamma", "sigma") for value in (-1.0, math.nan, math.inf, "x", None)]


@pytest.mark.parametrize(("name", "value"), [pair for pair in REFUSED if pair != ("sigma", None)])  # that is the role's
def test_parameters_that_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a number from .*, got {value!r}"):
        params((0.0, 1.0), 1, "activation", "kernel", **{name: value})
