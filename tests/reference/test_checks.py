"""What is refused, whatever the quantizer, and what is taken."""

import math

import numpy as np
import pytest

from reference import checks
from tests.oracles import check_same


@pytest.mark.parametrize("value", [[True], [1j], ["1"], [None], [np.datetime64("2020")], [[1.0], None]])
def test_inputs_that_are_not_real_numbers_are_refused(value):
    with pytest.raises(ValueError, match="x must be an array of real numbers, got '"):
        checks.as_float(np.array(value, object) if isinstance(value[0], list) else np.array(value))


@pytest.mark.parametrize("dtype", [np.int8, np.uint64, np.float16, np.longdouble, ">f4"])
def test_other_real_types_become_float64(dtype):
    check_same(f"as_float({dtype})", checks.as_float(np.array([0, 1, 2], dtype)), np.array([0.0, 1.0, 2.0]))


@pytest.mark.parametrize("value", [math.nan, -0.1, 1.1, math.inf, None, "x", "0.5", 1j, [0.5]])
def test_scalars_out_of_range_are_refused(value):
    with pytest.raises(ValueError, match="tau must be a number from 0 to 1, got "):
        checks.check_scalar("tau", value, 0.0, 1.0)


def test_a_whole_number_beyond_all_floats_is_refused():
    with pytest.raises(ValueError, match="tau must be a number from 0 to 1, got 1000"):
        checks.check_scalar("tau", 10**400, 0.0, 1.0)


def test_the_ends_of_a_scalars_range_are_admitted():
    assert [checks.check_scalar("tau", value, 0.0, 1.0) for value in (0, 1, np.float32(0.5))] == [0, 1, 0.5]


@pytest.mark.parametrize("value", [0.0, -1.0, 9e-31, 1.1e30, math.nan, math.inf, [], [1.0, 0.0]])
def test_what_is_not_positive_is_refused(value):
    with pytest.raises(ValueError, match=r"step must be from 1e-30 to 1e\+30, got "):
        checks.positive("step", value)


def test_the_least_and_the_greatest_positive_number_are_taken():
    check_same("positive", checks.positive("step", [1e-30, 1e30]), np.array([1e-30, 1e30]))


@pytest.mark.parametrize("value", [math.nan, -math.inf, [], [0.0, math.inf]])
def test_what_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match="offset must be finite, got "):
        checks.finite("offset", value)


def test_zero_and_negative_numbers_are_finite():
    check_same("finite", checks.finite("offset", [0, -1]), np.array([0.0, -1.0]))


def test_only_none_is_no_noise():
    checks.refuse_noise(None, "DAQ")
    with pytest.raises(ValueError, match=r"noise must be None \(DAQ is deterministic\), got 0"):
        checks.refuse_noise(0, "DAQ")
