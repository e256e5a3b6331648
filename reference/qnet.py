"""The sigmoid soft quantizer of Quantization Networks, as DAQ's Table 1 and Figure 3 compare with it.

Source: Yang et al.: Quantization Networks, CVPR 2019 (from memory; the text was not at hand). In training a step of
the staircase is a sigmoid of temperature T, and T is raised from epoch to epoch; in test it is a hard step. Here the
steps have unit height and lie at the half-integers of the normalised input, so that the function can be set beside
DAQ's phi; QNet's learned scale factors and k-means biases do not bear on what Table 1 says.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from reference import grid
from reference.grid import Array

TEMPERATURE_RANGE = (1e-3, 1e6)


def soft(x: npt.ArrayLike, *, temperature: float) -> Array:
    """The training function: ``q_f + sigmoid(T (x - q_t))``, of the step in whose cell `x` lies.

    >>> soft([0.0, 0.5, 1.0], temperature=10.0).round(4)
    array([0.0067, 0.5   , 1.0067])
    """
    q_f, z = _step(x, temperature)
    return np.asarray(q_f + 0.5 * (1 + np.tanh(z / 2)))


def slope(x: npt.ArrayLike, *, temperature: float) -> Array:
    """Derivative of `soft`: ``T y (1 - y)`` with y the sigmoid.

    >>> slope([0.0, 0.5], temperature=10.0).round(4)
    array([0.0665, 2.5   ])
    """
    _, z = _step(x, temperature)
    return np.asarray(z.dtype.type(temperature) * 0.25 * (1 - np.tanh(z / 2) ** 2))


def hard(x: npt.ArrayLike) -> Array:
    """The test function: the hard step, ties down."""
    return grid.round_half_down(x)


def _step(x: npt.ArrayLike, temperature: float) -> tuple[Array, Array]:
    grid.check_scalar("temperature", temperature, *TEMPERATURE_RANGE)
    x = grid.as_float(x)
    q_f = np.floor(x)
    return q_f, x.dtype.type(temperature) * (x - q_f - x.dtype.type(0.5))
