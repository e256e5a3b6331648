"""QNet's sigmoid soft quantizer, which DAQ's Table 1 and Figure 3 compare with."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import qnet
from tests import oracles
from tests.oracles import check_near, check_same, elementwise, eps, exact
from tests.strategies import dtypes, normalized

temperatures = st.floats(0.5, 100) | st.floats(*qnet.TEMPERATURE_RANGE)


def soft(x, temperature):
    """q_f + sigmoid(T (x - q_t))."""
    return oracles.floor(x) + 1 / (1 + oracles.exp(-temperature * (x - oracles.floor(x) - oracles.HALF)))


def slope(x, temperature):
    """T y (1 - y), y the sigmoid: its derivative."""
    y = soft(x, temperature) - oracles.floor(x)
    return temperature * y * (1 - y)


@given(st.data(), dtypes, temperatures)
def test_soft(data, dtype, temperature):
    x = data.draw(normalized(dtype))
    t = exact(dtype(temperature))
    want = elementwise(lambda v: soft(v, t), x)
    # z = T (x - q_f - 1/2) errs by T eps/2 at most, to which the sigmoid answers with a quarter, and never by over 1.
    bound = np.minimum(1, temperature * eps(x)) + 4 * eps(x) * (1 + want)
    got = qnet.soft(x, temperature=temperature)
    check_near(f"soft({x!r}, temperature={temperature})", got, want, bound)
    assert got.dtype == dtype


@given(st.data(), dtypes, temperatures)
def test_slope(data, dtype, temperature):
    x = data.draw(normalized(dtype))
    t = exact(dtype(temperature))
    want = elementwise(lambda v: slope(v, t), x)
    bound = (8 + temperature) * eps(x) * temperature  # 1 - tanh^2 errs by 8 eps of 1, and z as above
    check_near(f"slope({x!r}, temperature={temperature})", qnet.slope(x, temperature=temperature), want, bound)


@given(st.floats(0.01, 0.99), st.floats(0.5, 50))
def test_slope_is_the_derivative(x, temperature):
    t = exact(temperature)
    want = float(oracles.derivative(lambda v: soft(v, t), exact(x)))
    got = qnet.slope(x, temperature=temperature)
    check_near(f"slope({x}, temperature={temperature})", got, want, 1e-13 * temperature)


def test_the_gap_to_the_rounding_is_half_at_every_temperature():
    for temperature in [1.0, 100.0, 1e6]:
        assert qnet.soft(0.5, temperature=temperature) == 0.5


@given(st.data(), dtypes)
def test_hard_is_the_rounding_with_ties_down(data, dtype):
    x = data.draw(normalized(dtype))
    check_same(f"hard({x!r})", qnet.hard(x), elementwise(oracles.nearest, x).astype(dtype))


@pytest.mark.parametrize("temperature", [0, -1, 1e7, math.nan, math.inf, None])
def test_temperatures_that_are_refused(temperature):
    for function in [qnet.soft, qnet.slope]:
        with pytest.raises(ValueError, match=rf"temperature must be a number from 0.001 to 1e\+06, got {temperature}"):
            function([0.2], temperature=temperature)


def test_nan_stays():
    assert np.isnan(qnet.soft([math.nan], temperature=1.0)).all()
    assert np.isnan(qnet.slope([math.nan], temperature=1.0)).all()
