"""The straight-through estimator: rounding by each rule, and the identity's gradient."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import daq, grid, ste
from tests import oracles
from tests.oracles import check_near, check_same, elementwise, eps, exact
from tests.strategies import bit_widths, clip_ranges, cotangents, dtypes, finite_inputs, inputs, normalized, roles

rules = st.sampled_from(sorted(grid.ROUNDINGS))


def test_the_default_is_that_of_torch():
    assert ste.METHOD.variants[0] == ste.Params(-1.0, 1.0, 2, "weight").variant == "half_even"
    assert sorted(ste.METHOD.variants) == sorted(grid.ROUNDINGS)


@pytest.mark.parametrize(
    ("rule", "want"),
    [
        ("half_even", [0, 2, 2]),
        ("half_down", [0, 1, 2]),
        ("half_up", [1, 2, 3]),
        ("half_away", [1, 2, 3]),
    ],
)
def test_ties(rule, want):
    params = ste.Params(0.0, 3.0, 2, "activation", rule)
    x = np.array([0.5, 1.5, 2.5])
    check_same(f"codes({x}, {rule})", ste.codes(x, params), np.array(want))
    for training in (False, True):
        got = ste.forward(x, params, training=training)
        check_same(f"forward({x}, {rule})", got, np.array(want) / 3)


@given(st.data(), dtypes, bit_widths, roles, clip_ranges(), rules)
def test_forward(data, dtype, bits, role, clip_range, rule):
    x = data.draw(inputs(*clip_range, bits, dtype))
    params = ste.Params(*clip_range, bits, role, rule)
    q = elementwise(lambda v: oracles.round_by(rule, v), grid.normalize(x, *clip_range, bits))
    want = elementwise(lambda v: oracles.decode(v, bits, role), q).astype(dtype)
    check_same(f"forward({x!r}, {params})", ste.forward(x, params, training=True), want)


@given(st.data(), bit_widths, roles, clip_ranges())
def test_daq_and_ste_round_alike(data, bits, role, clip_range):
    x = data.draw(inputs(*clip_range, bits, np.float64, nan=True))
    want = daq.forward(x, daq.Params(*clip_range, bits, role), training=False)
    got = ste.forward(x, ste.Params(*clip_range, bits, role, "half_down"), training=False)
    check_same(f"ste.forward({x!r}, half_down)", got, want)


@given(st.data(), dtypes)
def test_slope_is_1(data, dtype):
    x = data.draw(normalized(dtype))
    check_same(f"slope({x!r})", ste.slope(x), np.ones_like(x))
    check_same("slope(nan)", ste.slope(np.array([math.nan], dtype)), np.array([math.nan], dtype))


@given(st.data(), dtypes, bit_widths, roles, clip_ranges(), rules)
def test_vjp_is_the_gradient_without_the_rounding(data, dtype, bits, role, clip_range, rule):
    x = data.draw(finite_inputs(*clip_range, bits, dtype))
    grad = cotangents(x)
    got_x, got_ends = ste.vjp(x, ste.Params(*clip_range, bits, role, rule), grad)
    low, high = map(exact, clip_range)
    each = [oracles.quantized(lambda y, at: y, exact(v), low, high, bits, role) for v in x]
    # Without rounding the position p itself is scaled. What rounding adds is held fixed: its gradient is that of DAQ
    # with slope 1, so that l and u receive -(1 - p) and -p of the gradient of x.
    want = {name: np.array([float(g[name]) for g in each]) * grad for name in ("x", "lower", "upper")}
    expression = f"vjp({x!r}, {rule})"
    check_near(f"{expression} x", got_x, want["x"], 4 * eps(x) * np.abs(want["x"]))
    bound = (6 + x.size) * eps(x) * np.abs(want["x"]).sum()
    for end in ("lower", "upper"):
        check_near(f"{expression} {end}", got_ends[end], want[end].sum(), bound)


def test_gradients_of_one_input():
    """x = -0.4 in [-1, 1] has p = 0.3; weights are scaled by 2, and the width is 2."""
    grad_x, ends = ste.vjp([-0.4, 5.0], ste.Params(-1.0, 1.0, 2, "weight"), [1.0, 1.0])
    check_near("vjp([-0.4, 5])", [*grad_x, ends["lower"], ends["upper"]], [1, 0, -0.7, -0.3], 1e-15)


def test_init_is_that_of_daq():
    x = [0.0, 1.0, 2.0]
    for role in grid.ROLES:
        ours, theirs = ste.init(x, 2, role), daq.init(x, 2, role)
        assert (ours.lower, ours.upper, ours.bits, ours.role) == (theirs.lower, theirs.upper, theirs.bits, theirs.role)


def test_unknown_rules_are_refused():
    for rule in ["", "paper", 1]:
        with pytest.raises(ValueError, match=rf"variant must be one of .*, got {rule!r}"):
            ste.Params(-1.0, 1.0, 2, "weight", rule)
