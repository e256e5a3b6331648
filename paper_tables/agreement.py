"""How well a slope agrees with the derivative of the staircase, smoothed by Gaussian noise.

A staircase has no useful derivative of its own: that is 0 between jumps, and every slope differs from it by itself, so
that the smallest slope would seem the best. What a gradient can tell is how the *mean* output moves, when the input
comes with noise of deviation s; the derivative of that mean is a row of Gaussian bumps, one at each transition point.
The cosine between the slope used backward and that derivative, over whole cells, leaves out how large gradients are. It
depends on s: narrow noise favours slopes that are steep at transition points, wide noise the constant one.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from paper_tables.equations import inside_cells
from reference.grid import Array

NOISES = (0.1, 0.2, 0.5, 1.0)  # levels
CURVE = tuple(float(round(s, 4)) for s in np.geomspace(0.05, 1.0, 27))


def smoothed_slope(x: npt.ArrayLike, noise: float) -> Array:
    """Derivative of the rounding to integers, averaged over Gaussian noise of deviation `noise`, at `x`.

    >>> smoothed_slope([0.0, 0.5], 0.5).round(4), smoothed_slope([0.0, 0.5], 2.0).round(4)
    (array([0.9856, 1.0144]), array([1., 1.]))
    """
    at = np.asarray(x, float)[..., None]
    reach = math.ceil(10 * noise) + 1  # beyond ten deviations nothing is left
    transitions = np.arange(math.floor(at.min()) - reach, math.ceil(at.max()) + reach) + 0.5
    bumps = np.exp(-(((at - transitions) / noise) ** 2) / 2) / (noise * math.sqrt(2 * math.pi))
    return np.asarray(bumps.sum(-1))


def agreement(used: npt.ArrayLike, noise: float) -> float:
    """Cosine between a slope at `equations.inside_cells` and the smoothed one.

    >>> round(agreement(np.ones(inside_cells().size), 0.1), 3)
    0.595
    """
    slope, smooth = np.asarray(used, float), smoothed_slope(inside_cells(), noise)
    return float(slope @ smooth / math.sqrt(float(slope @ slope) * float(smooth @ smooth)))


def crossing(used: npt.ArrayLike, other: npt.ArrayLike) -> float | None:
    """The noise from which on `other` agrees better than `used` does; None if either does at every noise."""

    def ahead(noise: float) -> float:
        return agreement(used, noise) - agreement(other, noise)

    low, high = CURVE[0], CURVE[-1]
    if ahead(low) <= 0 or ahead(high) >= 0:
        return None
    return float(brentq(ahead, low, high, xtol=1e-6))
