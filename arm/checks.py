"""What the kernels are given is refused here, before any machine code runs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from reference import checks, grid
from reference.grid import Array

LEAST, LARGEST = -(2**31), 2**31 - 1  # of int32
MOST = 2**20  # of strides and padding, so that places within a padded image are numbers of int32


def pair(name: str, value: object, least: int) -> tuple[int, int]:
    """Return a pair of whole numbers from `least` to `MOST`; a single one is both."""
    found = tuple(value) if isinstance(value, tuple | list) else (value, value)
    whole = [isinstance(number, int | np.integer) and not isinstance(number, bool) for number in found]
    if len(found) != 2 or not all(whole) or not all(least <= number <= MOST for number in found):
        raise checks.refuse(name, value, f"a whole number from {least} to {MOST}, or a pair of them")
    return int(found[0]), int(found[1])


def bit_widths(bits: object) -> tuple[int, int]:
    """Return the bits of weights and of activations, each from 1 to 8."""
    pair = tuple(bits) if isinstance(bits, tuple | list) else ()
    if len(pair) != 2:
        raise checks.refuse("bits", bits, "a pair, of weights and of activations")
    for number in pair:
        grid.top_code(number)
    return int(pair[0]), int(pair[1])


def codes(name: str, value: npt.ArrayLike, bits: int) -> Array:
    """Return codes as uint8, contiguous."""
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise checks.refuse(name, array.dtype.name, "an array of integers")
    top = grid.top_code(bits)
    outside = (array < 0) | (array > top)
    if outside.any():
        raise checks.refuse(f"codes of {name}", int(array[outside][0]), f"from 0 to {top}")
    return np.ascontiguousarray(array, np.uint8).reshape(array.shape)


def int32(name: str, value: npt.ArrayLike) -> Array:
    """Return integers as int32, contiguous."""
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise checks.refuse(name, array.dtype.name, "an array of integers")
    outside = [number for number in (array.min(), array.max()) if not LEAST <= number <= LARGEST] if array.size else []
    if outside:
        raise checks.refuse(name, int(outside[0]), "integers that int32 holds")
    return np.ascontiguousarray(array, np.int32).reshape(array.shape)
