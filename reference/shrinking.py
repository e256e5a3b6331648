"""The smallest witness: fewer numbers, and simpler ones, that still show what a larger input showed."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from reference.grid import Array
from reference.inputs import Format, simpler

SECONDS = 3.0  # after which the smallest that was found is taken
CALLS = 600


def shrink(points: Array, kind: Format, shows: Callable[[Array], bool]) -> Array:
    """Return a part of `points`, in simpler numbers, of which `shows` still holds; `shows(points)` must.

    >>> from reference.inputs import FORMATS
    >>> x = np.arange(100, dtype=np.float32) + np.float32(0.3)
    >>> shrink(x, FORMATS["float32"], lambda x: ((x > 40) & (x < 41)).any())
    array([40.3], dtype=float32)
    """
    until, left = time.monotonic() + SECONDS, CALLS

    def still(candidate: Array) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and time.monotonic() < until and shows(candidate)

    return _simplified(_fewer(points, still), kind, still)


def _fewer(points: Array, still: Callable[[Array], bool]) -> Array:
    """Take away as much as can be: parts of half the length, then of a quarter, ..."""
    size = len(points)
    while size >= 1:
        at = 0
        while at < len(points):
            rest = np.delete(points, np.s_[at : at + size])
            if len(rest) and still(rest):
                points = rest
            else:
                at += size
        size = size // 2
    return points


def _simplified(points: Array, kind: Format, still: Callable[[Array], bool]) -> Array:
    for i in range(len(points)):
        for value in simpler(kind, float(points[i])):
            rest = points.copy()
            rest[i] = kind.nearest(value) if value else value
            other = rest[i] != points[i] or np.signbit(rest[i]) != np.signbit(points[i])
            if other and still(rest):
                points = rest
                break
    ordered = np.sort(points)
    return ordered if still(ordered) else points
