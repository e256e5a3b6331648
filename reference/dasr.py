"""DASR, distance-aware soft rounding at a given temperature: DAQ without its controller, as Tables 6 and 7 compare it.

Source: Kim, Lee, Ham: Distance-aware Quantization, ICCV 2021, Section 3.2 and the ablations of Section 4.3.

Four variants of one soft assignment phi(x; beta), with x the normalised input of Eq. 1:

- ``kernel``: phi of Eq. 5 forward and backward, without the rescaling f; in test, rounding. Table 6's rows "kernel
  soft argmax"; with beta raised in training (`annealed_beta`), Table 7's "annealed".
- ``soft_argmax``: the same without kernel (k = 1): Table 6's rows "soft argmax".
- ``combined_ste``: rounding forward, phi' backward: Table 7's "combined with STE". The paper does not give its beta.
- ``combined_ste_adaptive``: the same at beta*(x) of Eq. 7. That is DAQ, but for the factor coth(gamma/2) that its
  rescaling puts on the gradient (`reference.daq_theory.combine_ste_ratio`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from reference import checks, daq, grid
from reference.grid import Array, IntegerGrid, Role
from reference.registry import Method

METHOD = Method(
    name="dasr",
    title="DASR",
    source="Kim, Lee, Ham: Distance-aware Quantization, ICCV 2021, Section 3.2, Tables 6 and 7",
    bits=dict.fromkeys(grid.ROLES, range(1, 9)),
    variants=("kernel", "soft_argmax", "combined_ste", "combined_ste_adaptive"),
    learnable=("lower", "upper"),
    fixed={"activation": ("lower",)},  # 0, after a ReLU
    exempt={"idempotence": grid.SCALED_LEVELS},
    in_input_units=("lower", "upper"),
    standardized=True,
    output_scale=True,
)
SOFT = ("kernel", "soft_argmax")  # the variants that are not on the levels in training

BETA = 24.0  # the largest of Table 6's kernel rows with numbers
ANNEALED = (2.0, 48.0)  # Table 7


def annealed_beta(progress: float, *, start: float = ANNEALED[0], end: float = ANNEALED[1]) -> float:
    """Temperature at a share of training, 0 to 1: from 2 to 48 in Table 7.

    The paper does not give the shape; that it is linear is our assumption.

    >>> annealed_beta(0.5)
    25.0
    """
    progress = checks.check_scalar("progress", progress, 0, 1)
    return start + (end - start) * progress


@dataclass(frozen=True)
class Params(grid.UniformParams):
    """Parameters of DASR.

    Attributes
    ----------
    beta : float
        Temperature, 0 to 1e8; not used by ``combined_ste_adaptive``.
    gamma, sigma : float
        As in `reference.daq.Params`; gamma serves ``combined_ste_adaptive`` alone, sigma all but ``soft_argmax``.
    kernel : {"paper", "released"}
        Formula of the kernel.
    variant : str
        See the module's text.
    """

    beta: float = BETA
    gamma: float = daq.GAMMA
    sigma: float = None  # type: ignore[assignment]  # here; a number in every instance
    kernel: daq.Variant = "paper"
    variant: str = "kernel"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "variant", METHOD.check(self.bits, self.role, self.variant))
        checks.check_scalar("beta", self.beta, *daq.BETA_RANGE)
        daq.check_gamma(self.gamma)
        object.__setattr__(self, "sigma", daq.check_sigma(daq.SIGMA[self.role] if self.sigma is None else self.sigma))
        daq.check_variant(self.kernel)

    @property
    def options(self) -> dict[str, Any]:
        """Width and formula of the kernel; an infinite width is none."""
        return {"sigma": math.inf if self.variant == "soft_argmax" else self.sigma, "variant": self.kernel}


def init(
    x: npt.ArrayLike,
    bits: int,
    role: Role,
    *,
    beta: float = BETA,
    gamma: float = daq.GAMMA,
    sigma: float | None = None,
    kernel: daq.Variant = "paper",
    variant: str = "kernel",
) -> Params:
    """Initialise the clip range as DAQ does. Raises ValueError if activations have no spread.

    >>> init([0.0, 1.0, 2.0], bits=1, role="activation").beta
    24.0
    """
    METHOD.check(bits, role, variant)
    low, high = grid.initial_clip_range(x, role)
    return Params(np.asarray(low), np.asarray(high), bits, role, beta, gamma, sigma, kernel, variant)  # type: ignore[arg-type]


def forward(x: npt.ArrayLike, params: Params, *, training: bool, noise: None = None) -> Array:
    """Quantize `x`; in training the variants ``kernel`` and ``soft_argmax`` give phi, which lies between levels.

    >>> params = Params(-1.0, 1.0, bits=1, role="weight", beta=4.0)
    >>> forward([-1.0, 1.0], params, training=True).round(4)
    array([-0.9144,  1.0856])
    >>> forward([-1.0, 1.0], params, training=False)
    array([-1.,  1.])
    """
    checks.refuse_noise(noise, METHOD.title)
    x = checks.as_float(x)
    normalized = grid.normalize(x, params.lower, params.upper, params.bits)
    if training and params.variant in SOFT:
        q = daq.kernel_soft_argmax(normalized, params.beta, **params.options)
    else:
        q = grid.round_half_down(normalized)
    return grid.decode(q, params.bits, params.role)


def codes(x: npt.ArrayLike, params: Params) -> Array:
    """Integers 0 ... 2^bits - 1 of test mode. Raises ValueError on NaN."""
    return grid.codes(x, params.lower, params.upper, params.bits, "half_down")


def decode(q: npt.ArrayLike, params: Params) -> Array:
    """Values of codes (Eq. 2)."""
    return grid.decode(q, params.bits, params.role)


def levels(params: Params) -> Array:
    """The 2^bits values that `forward` can return in test, ascending."""
    return grid.levels(params.bits, params.role)


def integer_grid(params: Params) -> IntegerGrid | None:
    """The levels of test mode as a unit times integers (Eq. 2).

    >>> integer_grid(Params(-1.0, 1.0, bits=2, role="weight"))
    IntegerGrid(unit=array(0.33333333), lowest=-3, stride=2)
    """
    return grid.integer_grid(params.bits, params.role)


def threshold_distance(x: npt.ArrayLike, params: Params) -> Array:
    """Distance of the normalised input from the nearest discontinuity, in levels: phi jumps at the levels, too."""
    normalized = grid.normalize(x, params.lower, params.upper, params.bits)
    to_tie = grid.tie_distance(normalized)
    return np.minimum(to_tie, grid.tie_distance(normalized + 0.5)) if params.variant in SOFT else to_tie


def temperature(normalized: npt.ArrayLike, params: Params) -> Array:
    """The temperature of each normalised input: beta, or beta* of Eq. 7."""
    x = checks.as_float(normalized)
    if params.variant == "combined_ste_adaptive":
        return daq.adaptive_temperature(x, gamma=params.gamma, **params.options)
    return np.full_like(x, params.beta)


def surrogate(x: npt.ArrayLike, params: Params, *, at: tuple[npt.ArrayLike, Params]) -> Array:
    """What training differentiates at `at`: phi, with its two levels, the nearer of them and the temperature fixed."""
    x, (x0, params0) = checks.as_float(x), at
    normalized = grid.frozen_position(x, params.lower, params.upper, at) * grid.top_code(params.bits)
    fixed = grid.normalize(x0, params0.lower, params0.upper, params0.bits)
    phi = daq.frozen_assignment(normalized, fixed, temperature(fixed, params0), **params0.options)
    return grid.decode(phi, params.bits, params.role)


def vjp(x: npt.ArrayLike, params: Params, grad: npt.ArrayLike) -> tuple[Array, dict[str, Array]]:
    """Gradients for x, l and u, with phi' for the derivative of the rounding.

    >>> vjp([0.0], Params(-1.0, 1.0, bits=1, role="weight", variant="combined_ste_adaptive"), [1.0])[0].round(4)
    array([0.8574])
    """
    x = checks.as_float(x)
    grad = np.asarray(grad, x.dtype)
    normalized = grid.normalize(x, params.lower, params.upper, params.bits)
    slope = daq.kernel_soft_argmax_slope(normalized, temperature(normalized, params), **params.options)
    return grid.clip_range_vjp(grad, x, params.lower, params.upper, slope, grid.output_scale(params.role))
