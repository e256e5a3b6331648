"""PACT, parameterized clipping activation.

Source: Choi et al.: PACT: Parameterized Clipping Activation for Quantized Neural Networks, 2018 (formulas from memory
of the paper). Held against the authors' foundation-model-stack/fms-model-optimizer, IntelLabs/distiller and
ModelTC/MQBench: values are the same, and so are gradients but for the ends of the range.

The output of a ReLU is clipped at a learned level alpha and rounded to n = 2^bits - 1 steps,

    y = clip(x, 0, alpha),    value = round(y n / alpha) alpha / n,

which is computed as ``round(y / alpha * n) / n * alpha``: the highest level is then alpha itself. The paper names no
rule for ties; here they go to even, as in torch.round.

Rounding passes the gradient of y to x inside the range, and for x >= alpha to alpha. That the levels inside move with
alpha as well gives no gradient, other than in LSQ. Three variants differ where x is an end of the range:

- ``paper``: x = 0 is inside, x = alpha is not.
- ``distiller``: neither is: torch's ReLU, which comes first there, has the slope 0 at 0.
- ``fms-model-optimizer``: both are; at x = alpha x and alpha both have a gradient of 1.

The loss has an L2 term of alpha, and alpha starts at 10 whatever the data are (both from memory).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reference import checks, grid
from reference.grid import Array, IntegerGrid, Role
from reference.registry import Method

METHOD = Method(
    name="pact",
    title="PACT",
    source="Choi et al.: PACT: Parameterized Clipping Activation for Quantized Neural Networks, 2018 (and Distiller)",
    bits={"activation": range(1, 9)},
    variants=("paper", "distiller", "fms-model-optimizer"),
    learnable=("alpha",),
    in_input_units=("alpha",),
)

ALPHA = 10.0


@dataclass(frozen=True)
class Params:
    """Parameters of PACT.

    Attributes
    ----------
    alpha : ndarray
        Upper end of the clip range, positive, float64, of shape () or (C, 1, ...).
    bits : int
        1 to 8.
    role : {"activation"}
        The output of a ReLU.
    variant : {"paper", "distiller", "fms-model-optimizer"}
        Which ends of the range are inside, see the module's text.
    """

    alpha: Array
    bits: int
    role: Role = "activation"
    variant: str = "paper"

    def __post_init__(self) -> None:
        object.__setattr__(self, "variant", METHOD.check(self.bits, self.role, self.variant))
        object.__setattr__(self, "alpha", checks.positive("alpha", self.alpha))


def init(x: npt.ArrayLike, bits: int, role: Role, *, variant: str = "paper") -> Params:
    """Initialise alpha with 10; `x` is not looked at.

    >>> init([0.0], 2, "activation").alpha
    array(10.)
    """
    return Params(np.asarray(ALPHA), bits, role, variant)


def forward(x: npt.ArrayLike, params: Params, *, training: bool, noise: None = None) -> Array:
    """Quantize `x` to the multiples of alpha/n from 0 to alpha; training and test are the same.

    >>> forward([-1.0, 0.2, 0.75, 9.0], Params(1.5, 2), training=True)
    array([0. , 0. , 1. , 1.5])
    """
    checks.refuse_noise(noise, METHOD.title)
    x = checks.as_float(x)
    return _value(_rounded(x, params), params)


def codes(x: npt.ArrayLike, params: Params) -> Array:
    """Integers 0 ... 2^bits - 1. Raises ValueError on NaN."""
    return grid.integers(_rounded(checks.as_float(x), params))


def decode(q: npt.ArrayLike, params: Params) -> Array:
    """Values of codes, ``q / n * alpha``."""
    return _value(checks.as_float(q), params)


def levels(params: Params) -> Array:
    """The 2^bits values that `forward` can return, ascending along the first axis."""
    return decode(grid.all_codes(grid.top_code(params.bits) + 1, params.alpha), params)


def integer_grid(params: Params) -> IntegerGrid | None:
    """The levels as a unit times integers: alpha/n times 0 ... n.

    >>> integer_grid(Params(1.5, 2))
    IntegerGrid(unit=array(0.5), lowest=0, stride=1)
    """
    return IntegerGrid(np.asarray(params.alpha / grid.top_code(params.bits)), 0)


def threshold_distance(x: npt.ArrayLike, params: Params) -> Array:
    """Distance of y n / alpha from the nearest transition point, in levels."""
    return grid.tie_distance(_normalized(checks.as_float(x), params))


def surrogate(x: npt.ArrayLike, params: Params, *, at: tuple[npt.ArrayLike, Params]) -> Array:
    """What training differentiates at `at`: the clipped x plus what rounding adds, which is held fixed.

    So is which values are clipped, and which move with x.
    """
    x, x0, params0 = checks.as_float(x), checks.as_float(at[0]), at[1]
    moves, clipped = _receivers(x0, params0)
    moved = np.where(moves, x - x0, 0) + np.where(clipped, params.alpha - params0.alpha, 0)
    return np.asarray(forward(x0, params0, training=True) + moved)


def penalty(params: Params) -> float:
    """What keeps alpha small: the L2 term alpha^2 of the loss, before its coefficient; of several, their sum.

    >>> penalty(Params(3.0, 2))
    9.0
    """
    return float(np.square(params.alpha).sum())


def vjp(x: npt.ArrayLike, params: Params, grad: npt.ArrayLike) -> tuple[Array, dict[str, Array]]:
    """Gradients for x and alpha: each element's goes to one of them, or, below 0, to neither; at the ends see above.

    >>> vjp([-1.0, 0.0, 0.6, 1.5, 9.0], Params(1.5, 2), np.ones(5))
    (array([0., 1., 1., 0., 0.]), {'alpha': array(2.)})
    """
    x = checks.as_float(x)
    grad = np.asarray(grad, x.dtype)
    moves, clipped = _receivers(x, params)
    nothing = x.dtype.type(0)
    grad_x = grid.keep_nan(x, np.where(moves, grad, nothing))
    by_alpha = grid.keep_nan(x, np.where(clipped, grad, nothing))
    return grid.unbroadcast(grad_x, x.shape), {"alpha": grid.unbroadcast(by_alpha, params.alpha.shape)}


def _receivers(x: Array, params: Params) -> tuple[Array, Array]:
    """Where x, and where alpha has the gradient of the value."""
    alpha = params.alpha.astype(x.dtype)
    above = x > 0 if params.variant == "distiller" else x >= 0
    below = x <= alpha if params.variant == "fms-model-optimizer" else x < alpha
    return above & below, x >= alpha


def _normalized(x: Array, params: Params) -> Array:
    alpha = params.alpha.astype(x.dtype)
    return np.asarray(np.clip(x, 0, alpha) / alpha * x.dtype.type(grid.top_code(params.bits)))


def _rounded(x: Array, params: Params) -> Array:
    return grid.round_half_even(_normalized(x, params))


def _value(q: Array, params: Params) -> Array:
    return np.asarray(q / q.dtype.type(grid.top_code(params.bits)) * params.alpha.astype(q.dtype))
