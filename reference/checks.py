"""What input is refused, and how: one line that names the value and says what is admitted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

NARROWEST = {"float32": 1e-30, "float64": 1e-300}  # clip range, or number to divide by


def refuse(name: str, value: object, admitted: str) -> ValueError:
    """Build the error for a refused parameter: its name, its value and what is admitted."""
    return ValueError(f"{name} must be {admitted}, got {value!r}")


def check_scalar(name: str, value: float, low: float, high: float) -> float:
    """Return `value` as a float if ``low <= value <= high`` (NaN never is), else raise ValueError."""
    try:
        number = math.nan if isinstance(value, str | bytes) or np.ndim(value) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not low <= number <= high:
        raise refuse(name, value, f"a number from {low:g} to {high:g}")
    return number


def as_float(x: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return `x` as a float32 or float64 array; integers and other floats become float64.

    Raises
    ------
    ValueError
        If `x` is complex, boolean or not numeric.
    """
    array = np.asarray(x)
    if array.dtype in (np.float32, np.float64):
        return array
    if array.dtype.kind not in "iuf":
        raise refuse("x", array.dtype.name, "an array of real numbers")
    return array.astype(np.float64)


def positive(name: str, value: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return `value` as a float64 array if all of it is positive and finite, else raise ValueError.

    So small a number that dividing by it could overflow in float32 is refused as well.

    >>> positive("step", 0.5)
    array(0.5)
    """
    array = np.asarray(value, np.float64)
    if not (array.size and np.all((array >= NARROWEST["float32"]) & (array <= 1e30))):
        raise refuse(name, np.asarray(value).tolist(), f"from {NARROWEST['float32']:g} to 1e+30")
    return array


def finite(name: str, value: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return `value` as a float64 array if all of it is finite, else raise ValueError."""
    array = np.asarray(value, np.float64)
    if not (array.size and np.isfinite(array).all()):
        raise refuse(name, np.asarray(value).tolist(), "finite")
    return array


def refuse_noise(noise: object, title: str) -> None:
    """Raise ValueError unless `noise` is None: only stochastic methods take any."""
    if noise is not None:
        raise refuse("noise", noise, f"None ({title} is deterministic)")
