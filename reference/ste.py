"""The straight-through estimator on DAQ's uniform grid: rounding forward, identity backward inside the clip range.

Source: Bengio, Leonard, Courville: Estimating or Propagating Gradients Through Stochastic Neurons, 2013, as the first
row of DAQ's Table 1 uses it. With the same grid, clip range and rounding rule, DAQ and STE differ in one factor of
the backward pass, which is 1 here.

The source fixes no rule for ties. The default is that of ``torch.round``, ties to even, which is common practice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reference import checks, grid
from reference.grid import Array, IntegerGrid, Role
from reference.registry import Method

METHOD = Method(
    name="ste",
    title="STE",
    source="Bengio, Leonard, Courville: Estimating or Propagating Gradients Through Stochastic Neurons, 2013",
    bits=dict.fromkeys(grid.ROLES, range(1, 9)),
    variants=("half_even", "half_down", "half_up", "half_away"),
    learnable=("lower", "upper"),
    fixed={"activation": ("lower",)},  # 0, after a ReLU
    exempt={"idempotence": grid.SCALED_LEVELS},
    in_input_units=("lower", "upper"),
    standardized=True,
    output_scale=True,
)


@dataclass(frozen=True)
class Params(grid.UniformParams):
    """Parameters of the straight-through estimator; `variant` names the rounding rule."""

    variant: str = "half_even"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "variant", METHOD.check(self.bits, self.role, self.variant))


def init(x: npt.ArrayLike, bits: int, role: Role, *, variant: str = "half_even") -> Params:
    """Initialise the clip range as DAQ does, so that the two are compared on the same grid.

    >>> init([0.0, 1.0, 2.0], bits=1, role="activation").upper
    array(3.)
    """
    low, high = grid.initial_clip_range(x, role)
    return Params(np.asarray(low), np.asarray(high), bits, role, variant)


def forward(x: npt.ArrayLike, params: Params, *, training: bool, noise: None = None) -> Array:
    """Quantize `x`; training and test are the same.

    >>> forward([-2.0, -0.5, 0.1], Params(-1.0, 1.0, bits=2, role="weight"), training=True)
    array([-1.        , -0.33333333,  0.33333333])
    """
    checks.refuse_noise(noise, METHOD.title)
    x = checks.as_float(x)
    q = grid.ROUNDINGS[params.variant](grid.normalize(x, params.lower, params.upper, params.bits))
    return grid.decode(q, params.bits, params.role)


def codes(x: npt.ArrayLike, params: Params) -> Array:
    """Integers 0 ... 2^bits - 1. Raises ValueError on NaN."""
    return grid.codes(x, params.lower, params.upper, params.bits, params.variant)


def decode(q: npt.ArrayLike, params: Params) -> Array:
    """Values of codes."""
    return grid.decode(q, params.bits, params.role)


def levels(params: Params) -> Array:
    """The 2^bits values that `forward` can return, ascending."""
    return grid.levels(params.bits, params.role)


def integer_grid(params: Params) -> IntegerGrid | None:
    """The levels as a unit times integers.

    >>> integer_grid(Params(-1.0, 1.0, bits=2, role="weight"))
    IntegerGrid(unit=array(0.33333333), lowest=-3, stride=2)
    """
    return grid.integer_grid(params.bits, params.role)


def slope(x: npt.ArrayLike) -> Array:
    """The derivative used for the rounding: 1 everywhere (NaN for NaN).

    >>> slope([0.2, 0.5])
    array([1., 1.])
    """
    x = checks.as_float(x)
    return np.where(np.isnan(x), math.nan, x.dtype.type(1))


def threshold_distance(x: npt.ArrayLike, params: Params) -> Array:
    """Distance of the normalised input from the nearest transition point, in levels."""
    return grid.tie_distance(grid.normalize(x, params.lower, params.upper, params.bits))


def surrogate(x: npt.ArrayLike, params: Params, *, at: tuple[npt.ArrayLike, Params]) -> Array:
    """What training differentiates at `at`: what rounding adds, and which values are clipped, is held fixed."""
    x, (x0, params0) = checks.as_float(x), at
    n = grid.top_code(params.bits)
    rest = codes(x0, params0) - grid.normalize(x0, params0.lower, params0.upper, params0.bits)
    q = grid.frozen_position(x, params.lower, params.upper, at) * n + rest
    return grid.decode(q, params.bits, params.role)


def vjp(x: npt.ArrayLike, params: Params, grad: npt.ArrayLike) -> tuple[Array, dict[str, Array]]:
    """Gradients for x, l and u: those of DAQ with slope 1.

    >>> vjp([-2.0, 0.0], Params(-1.0, 1.0, bits=1, role="weight"), [1.0, 1.0])[0]
    array([0., 1.])
    """
    x = checks.as_float(x)
    grad = np.asarray(grad, x.dtype)
    ones = slope(grid.position(x, params.lower, params.upper))
    return grid.clip_range_vjp(grad, x, params.lower, params.upper, ones, grid.output_scale(params.role))
