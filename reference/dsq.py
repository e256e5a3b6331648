"""DSQ, differentiable soft quantization.

Source: Gong et al.: Differentiable Soft Quantization, ICCV 2019. Only its abstract was at hand; the formulas are from
memory of the paper, and the gradients are derived here. No official code was found; held against ModelTC/MQBench, of
the authors' organisation, and ricky40403/DSQ.

The clip range [l, u] is divided into n = 2^bits - 1 cells of width Delta = (u - l)/n. In cell i with centre m the soft
quantizer is a tanh between the cell's two levels,

    z = (x - m)/Delta,   phi = s tanh(K z),   Q = l + Delta (i + (phi + 1)/2),

with K = ln(2/alpha - 1) and s = 1/tanh(K/2) = 1/(1 - alpha), so that phi runs from -1 to 1 over the cell. (The
paper's k is K/Delta.) alpha tells the shape: towards 0 the hard quantizer, towards 1 the identity. In training the
output is that of the hard quantizer, and the derivative for x and alpha that of the soft one.

Two variants, which differ in the gradients of l and u. The output is l + (u - l) P, and P also depends on l and u. In
``hard`` P outside of that dependence is the hard quantizer's, for that is what is put out: so public code, whose sign
passes the gradient of phi. In ``soft`` it is the soft quantizer's, as if that were put out. They are often of other
signs: x = 0.7, l = 0, u = 1, 1 bit, alpha = 0.2 give (-0.34, 0.20) and (-0.10, -0.04) for l and u. In both, the
gradients of x, l and u sum to 1; x, l and u times theirs sum to the output in ``hard``, to the soft output in ``soft``.

Public code starts alpha at 0.2 (ricky40403/DSQ, where it is learned) or keeps it at 0.4 (MQBench, where l and u are not
learned either). MQBench rounds the soft output, ties to even; ricky40403/DSQ normalises the sign by the range of the
data, so that data in one half of their cells leave the grid. Here ties go down, as in DAQ.
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
    name="dsq",
    title="DSQ",
    source="Gong et al.: Differentiable Soft Quantization, ICCV 2019 (held against ricky40403/DSQ and MQBench)",
    bits=dict.fromkeys(grid.ROLES, range(1, 9)),
    variants=("hard", "soft"),
    learnable=("lower", "upper", "alpha"),
    fixed={"activation": ("lower",)},  # 0, after a ReLU
    in_input_units=("lower", "upper"),
)

# The paper has alpha < 1/2. Towards 1 the soft quantizer is the identity, and its derivative for alpha cancels.
ALPHA_RANGE = (1e-6, 0.9)
INITIAL_ALPHA = 0.2


def check_alpha(alpha: float) -> float:
    """Return `alpha` if it lies in [1e-6, 0.9]; the paper keeps it below 1/2."""
    return checks.check_scalar("alpha", alpha, *ALPHA_RANGE)


def steepness(alpha: float) -> float:
    """``K = ln(2/alpha - 1)``, the paper's k in units of the cell width.

    >>> round(steepness(0.2), 4)
    2.1972
    """
    return math.log1p(2 * (1 - check_alpha(alpha)) / alpha)


def amplitude(alpha: float) -> float:
    """``s = 1 / tanh(K/2) = 1 / (1 - alpha)``.

    >>> amplitude(0.2)
    1.25
    """
    return 1 / (1 - check_alpha(alpha))


def cell(x: npt.ArrayLike) -> tuple[Array, Array]:
    """Index i of the cell of the normalised input `x` (Eq. 1 of DAQ), and z in [-1/2, 1/2)."""
    x = checks.as_float(x)
    i = np.floor(x)
    return i, x - i - x.dtype.type(0.5)


def phi(z: npt.ArrayLike, *, alpha: float) -> Array:
    """The soft sign of a cell, ``s tanh(K z)``.

    >>> phi([-0.5, 0.0, 0.25], alpha=0.2).round(4)
    array([-1.   ,  0.   ,  0.625])
    """
    z = checks.as_float(z)
    return np.asarray(z.dtype.type(amplitude(alpha)) * np.tanh(z.dtype.type(steepness(alpha)) * z))


def soft(x: npt.ArrayLike, *, alpha: float) -> Array:
    """The soft quantizer on the normalised input: ``i + (phi + 1)/2``.

    >>> soft([0.0, 0.5, 0.75, 1.0], alpha=0.2).round(4)
    array([0.    , 0.5   , 0.8125, 1.    ])
    """
    i, z = cell(x)
    return np.asarray(i + (phi(z, alpha=alpha) + 1) / 2)


def hard(x: npt.ArrayLike) -> Array:
    """The hard quantizer: sgn(phi) for phi. At z = 0 the sign counts as -1: ties down, as in DAQ."""
    return grid.round_half_down(x)


def slope(x: npt.ArrayLike, *, alpha: float) -> Array:
    """Derivative of `soft`: ``(s K / 2) sech^2(K z)``. Its mean over a cell is 1, for every alpha.

    >>> slope([0.0, 0.5], alpha=0.2).round(4)
    array([0.4944, 1.3733])
    """
    _, z = cell(x)
    K = steepness(alpha)
    scale = z.dtype.type(amplitude(alpha) * K / 2)
    return np.asarray(scale * (1 - np.tanh(z.dtype.type(K) * z) ** 2))


def slope_range(*, alpha: float) -> tuple[float, float]:
    """Least slope, ``(K/2) alpha (2 - alpha) / (1 - alpha)``, and greatest, ``s K / 2``.

    >>> [round(value, 4) for value in slope_range(alpha=0.2)]
    [0.4944, 1.3733]
    """
    half = steepness(alpha) / 2
    return half * alpha * (2 - alpha) / (1 - alpha), half * amplitude(alpha)


def alpha_derivative(x: npt.ArrayLike, *, alpha: float) -> Array:
    """Derivative of `soft` for alpha: ``(tanh(Kz)/(1-alpha)^2 - 2 s z sech^2(Kz) / (alpha (2-alpha))) / 2``.

    >>> alpha_derivative([0.0, 0.25, 0.75], alpha=0.2).round(4) + 0
    array([ 0.    ,  0.2604, -0.2604])
    """
    _, z = cell(x)
    s = amplitude(alpha)
    tanh = np.tanh(z.dtype.type(steepness(alpha)) * z)
    shape = z.dtype.type(2 * s / (alpha * (2 - alpha))) * z * (1 - tanh**2)
    return np.asarray((tanh * z.dtype.type(s * s) - shape) / 2)


@dataclass(frozen=True)
class Params(grid.UniformParams):
    """Parameters of DSQ: the clip range, `alpha` in [1e-6, 0.9], and the variant, "hard" or "soft"."""

    alpha: float = INITIAL_ALPHA
    variant: str = "hard"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "variant", METHOD.check(self.bits, self.role, self.variant))
        check_alpha(self.alpha)


def init(x: npt.ArrayLike, bits: int, role: Role, *, alpha: float = INITIAL_ALPHA, variant: str = "hard") -> Params:
    """Initialise l and u with the least and the greatest value of `x` (l with 0 after a ReLU), and alpha with 0.2.

    The paper's initial values could not be verified; alpha's is that of ricky40403/DSQ. Raises ValueError if `x` is
    empty or not finite, or no value lies above l.

    >>> init([-1.0, 0.0, 2.0], bits=2, role="weight").upper
    array(2.)
    """
    x = checks.as_float(x)
    least, high = (float(x.min()), float(x.max())) if x.size else (0.0, 0.0)
    low = 0.0 if grid.check_role(role) == "activation" else least
    if not (low < high and math.isfinite(least) and math.isfinite(high - low)):
        raise checks.refuse("range of x", (low, high), "of finite values that differ")
    return Params(np.asarray(low), np.asarray(high), bits, role, alpha, variant)


def forward(x: npt.ArrayLike, params: Params, *, training: bool, noise: None = None) -> Array:
    """Quantize `x` to l + Delta Q. Training and test are both the hard quantizer; `forward_soft` is the soft one.

    Returns
    -------
    ndarray
        Values on the 2^bits levels from l to u, in the dtype of `x`.

    >>> forward([-2.0, -0.5, 0.1], Params(-1.0, 1.0, bits=2, role="weight"), training=True).round(4)
    array([-1.    , -0.3333,  0.3333])
    """
    checks.refuse_noise(noise, METHOD.title)
    x = checks.as_float(x)
    return _scale(hard(_normalize(x, params)), params)


def forward_soft(x: npt.ArrayLike, params: Params) -> Array:
    """The soft quantizer l + Delta (i + (phi + 1)/2), clipped outside [l, u]: what ``soft`` differentiates."""
    x = checks.as_float(x)
    return _scale(soft(_normalize(x, params), alpha=params.alpha), params)


def _normalize(x: Array, params: Params) -> Array:
    return grid.normalize(x, params.lower, params.upper, params.bits)


def _scale(q: Array, params: Params) -> Array:
    """``l + (u - l) (Q / n)``, in this order."""
    low, high = grid.bounds(params.lower, params.upper, q.dtype)
    return np.asarray(low + (high - low) * (q / q.dtype.type(grid.top_code(params.bits))))


def codes(x: npt.ArrayLike, params: Params) -> Array:
    """Integers 0 ... 2^bits - 1. Raises ValueError on NaN."""
    return grid.codes(x, params.lower, params.upper, params.bits, "half_down")


def decode(q: npt.ArrayLike, params: Params) -> Array:
    """Values of codes, ``l + (u - l) (q / n)``."""
    return _scale(checks.as_float(q), params)


def levels(params: Params) -> Array:
    """The 2^bits values that `forward` can return, ascending along the first axis."""
    return decode(grid.all_codes(grid.top_code(params.bits) + 1, params.upper - params.lower), params)


def integer_grid(params: Params) -> IntegerGrid | None:
    """The levels as a unit times integers: Delta times 0 ... n where l is 0, as it stays after a ReLU; else None.

    >>> integer_grid(Params(0.0, 1.5, bits=2, role="activation"))
    IntegerGrid(unit=array(0.5), lowest=0, stride=1)
    >>> integer_grid(Params(-1.0, 1.5, bits=2, role="weight"))
    """
    if params.role != "activation" or params.lower.any():
        return None
    return IntegerGrid(np.asarray(params.upper / grid.top_code(params.bits)), 0)


def threshold_distance(x: npt.ArrayLike, params: Params) -> Array:
    """Distance of the normalised input from the nearest transition point, in levels."""
    return grid.tie_distance(_normalize(checks.as_float(x), params))


def surrogate(x: npt.ArrayLike, params: Params, *, at: tuple[npt.ArrayLike, Params]) -> Array:
    """What training differentiates at `at`: the soft quantizer of the cell, or the end of the range, that holds x0.

    In ``hard``, what is between the levels of hard and soft output at `at` is held fixed, and added.
    """
    x, (x0, params0) = checks.as_float(x), at
    n = grid.top_code(params.bits)
    i, _ = cell(_normalize(checks.as_float(x0), params0))
    z = grid.frozen_position(x, params.lower, params.upper, at) * n - i - 0.5
    q = i + (phi(z, alpha=params.alpha) + 1) / 2
    if params0.variant == "hard":
        x1 = _normalize(checks.as_float(x0), params0)
        q = q + (hard(x1) - soft(x1, alpha=params0.alpha))
    low, high = grid.bounds(params0.lower, params0.upper, x.dtype)
    x0 = checks.as_float(x0)
    q = np.where(x0 < low, 0.0, np.where(x0 > high, n, q))
    return np.asarray(params.lower + (params.upper - params.lower) * (q / n))


def penalty(params: Params) -> float:
    """What drives alpha down: the L2 term alpha^2 of the loss, before its coefficient (from memory of the paper).

    >>> round(penalty(Params(-1.0, 1.0, bits=1, role="weight", alpha=0.2)), 3)
    0.04
    """
    return params.alpha**2


def vjp(x: npt.ArrayLike, params: Params, grad: npt.ArrayLike) -> tuple[Array, dict[str, Array]]:
    """Gradients for x, l, u and alpha.

    With p = (clip(x) - l)/(u - l), P = (Q - l)/(u - l) of the output Q, by the variant the hard or the soft one, and g
    the slope, inside the range

        dQ/dx = g,   dQ/dl = (1 - P) - g (1 - p),   dQ/du = P - g p,   dQ/dalpha = Delta * `alpha_derivative`,

    so the first three sum to 1, and x dQ/dx + l dQ/dl + u dQ/du = Q. A clipped element gives 1 to the end it is clipped
    to.

    >>> for variant in METHOD.variants:
    ...     grad_x, grads = vjp(0.7, Params(0.0, 1.0, 1, "weight", 0.2, variant), 1.0)
    ...     [float(value.round(4)) for value in (grad_x, grads["lower"], grads["upper"])]
    [1.1388, -0.3416, 0.2028]
    [1.1388, -0.0999, -0.0389]
    """
    x = checks.as_float(x)
    grad = np.asarray(grad, x.dtype)
    low, high = grid.bounds(params.lower, params.upper, x.dtype)
    n = x.dtype.type(2**params.bits - 1)
    p = grid.position(x, low, high)
    clipped = (x < low) | (x > high)
    g = np.where(clipped, x.dtype.type(0), slope(p * n, alpha=params.alpha))
    output = hard(p * n) if params.variant == "hard" else soft(p * n, alpha=params.alpha)
    P = np.where(clipped, p, output / n)
    by_alpha = np.where(clipped, x.dtype.type(0), (high - low) / n * alpha_derivative(p * n, alpha=params.alpha))
    return grid.unbroadcast(grad * g, x.shape), {
        "lower": grid.unbroadcast(grad * ((1 - P) - g * (1 - p)), low.shape),
        "upper": grid.unbroadcast(grad * (P - g * p), high.shape),
        "alpha": np.asarray((grad * by_alpha).sum()),
    }
