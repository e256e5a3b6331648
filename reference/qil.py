"""QIL, quantization interval learning.

Source: Jung et al.: Learning to Quantize Deep Networks by Optimizing Quantization Intervals with Task Loss, CVPR 2019
(formulas from memory of the paper). No code of the authors was found. In the public code that it was held against, of
others, weights are the same; activations are not clipped to the interval, and so have more levels than the bits allow.

An interval with centre c and half width d, both learned, says which values are pruned, which are clipped and which are
quantized. The transformer takes weights to

    0 for |w| < c - d,    sign w for |w| > c + d,    otherwise u^gamma sign w,    u = (|w| - c) / (2 d) + 1/2,

where gamma > 0 is learned as well, and the discretizer rounds that to a multiple of 1/q, q = 2^(bits-1) - 1. For
activations the same holds of x in place of |w|, without sign, with q = 2^bits - 1 and gamma = 1, which is not learned.
The paper names no rule for ties; here they go to even, as in torch.round. Weights of 1 bit would have q = 0: not
defined.

Rounding passes the gradient of the transformer, which is 0 for what is pruned or clipped. For gamma < 1 its slope
gamma u^(gamma-1) has no bound towards the lower end of the interval, where u is known to few digits besides. In the
lowest 2^-12 of the interval the derivatives are therefore those of the chord from its lower end, u 2^(-12 (gamma-1)):
they are finite everywhere, and for gamma = 1 the same. This guard is ours, and so is the beginning: gamma = 1 and an
interval from 0 to the largest magnitude.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reference import checks, grid
from reference.grid import Array, IntegerGrid, Role
from reference.registry import Method

# u is known to 1 unit, c and d to half of one, which adds another for c up to 4 d; a power errs by up to 4 units, and
# gamma adds a half. `threshold_distance` counts the power's magnification of the errors of u.
METHOD = Method(
    name="qil",
    title="QIL",
    source="Jung et al.: Learning to Quantize Deep Networks by Optimizing Quantization Intervals with Task Loss, "
    "CVPR 2019 (formulas from memory)",
    bits={"weight": range(2, 9), "activation": range(1, 9)},
    variants=("paper",),
    learnable=("center", "distance", "gamma"),
    fixed={"activation": ("gamma",)},  # 1
    exempt={"idempotence": grid.SCALED_LEVELS},
    bound=8,
    in_input_units=("center", "distance"),
)

LOWEST = 2.0**-12  # of the interval, where a chord stands in for the power


@dataclass(frozen=True)
class Params:
    """Parameters of QIL.

    Attributes
    ----------
    center : ndarray
        Centre c of the interval, finite, float64, of shape () or (C, 1, ...).
    distance : ndarray
        Half its width, d, positive, likewise.
    gamma : ndarray
        Exponent, positive, likewise. For activations it stays 1 in training.
    bits : int
        2 to 8 for weights, 1 to 8 for activations.
    role : {"weight", "activation"}
        Activations are those after a ReLU.
    variant : {"paper"}
        There is one.
    """

    center: Array
    distance: Array
    gamma: Array
    bits: int
    role: Role
    variant: str = "paper"

    def __post_init__(self) -> None:
        object.__setattr__(self, "variant", METHOD.check(self.bits, self.role, self.variant))
        object.__setattr__(self, "center", checks.finite("center", self.center))
        object.__setattr__(self, "distance", checks.positive("distance", self.distance))
        object.__setattr__(self, "gamma", checks.positive("gamma", self.gamma))


def level_count(bits: int, role: Role) -> int:
    """Number of levels above 0, called q: 2^(bits-1) - 1 for weights, 2^bits - 1 for activations.

    >>> level_count(3, "weight"), level_count(3, "activation")
    (3, 7)
    """
    n = grid.top_code(bits)
    return n // 2 if role == "weight" else n


def init(x: npt.ArrayLike, bits: int, role: Role, *, variant: str = "paper") -> Params:
    """Initialise c and d with half the largest magnitude, of the weights or the first batch, and gamma with 1.

    Raises
    ------
    ValueError
        If `x` is empty, all zero or not finite.

    >>> init([-3.0, 1.0], 2, "weight").center
    array(1.5)
    """
    METHOD.check(bits, role, variant)
    half = np.asarray(grid.largest_magnitude(x) / 2)
    return Params(half, half, np.asarray(1.0), bits, role, variant)


def forward(x: npt.ArrayLike, params: Params, *, training: bool, noise: None = None) -> Array:
    """Quantize `x`; training and test are the same.

    >>> forward([-9.0, -0.9, 0.2, 1.0], Params(1.0, 0.5, 1.0, 3, "weight"), training=True)
    array([-1.        , -0.33333333,  0.        ,  0.66666667])
    """
    checks.refuse_noise(noise, METHOD.title)
    x = checks.as_float(x)
    return np.asarray(_rounded(x, params) / x.dtype.type(_q(params)))


def codes(x: npt.ArrayLike, params: Params) -> Array:
    """Integers 0 ... 2 q for weights, q standing for the value 0, and 0 ... q for activations.

    Raises ValueError on NaN.
    """
    return grid.integers(_rounded(checks.as_float(x), params)) + _zero(params)


def decode(q: npt.ArrayLike, params: Params) -> Array:
    """Values of codes: their distance from the code of 0, divided by q."""
    code = checks.as_float(q)
    return np.asarray((code - _zero(params)) / code.dtype.type(_q(params)))


def levels(params: Params) -> Array:
    """The 2 q + 1 (weights) or q + 1 values that `forward` can return, ascending: the same for all channels."""
    return decode(np.arange(_zero(params) + _q(params) + 1), params)


def integer_grid(params: Params) -> IntegerGrid | None:
    """The levels as a unit times integers: 1/q times -q ... q for weights, 0 ... q for activations.

    >>> integer_grid(Params(1.0, 0.5, 1.0, 3, "weight"))
    IntegerGrid(unit=array(0.33333333), lowest=-3, stride=1)
    """
    return IntegerGrid(np.asarray(1 / _q(params)), -_zero(params))


def threshold_distance(x: npt.ArrayLike, params: Params) -> Array:
    """Distance from the nearest transition point, in levels: of u or of its power, whichever is nearer."""
    x = checks.as_float(x)
    u = np.clip(_position(x, params), 0, 1)
    power, q, gamma = _transformed(u, params), _q(params), params.gamma
    nearest = np.clip(np.floor(power * q), 0, q - 1) + 0.5
    return np.minimum(np.abs(power * q - nearest), q * np.abs(u - (nearest / q) ** (1 / gamma)))


def surrogate(x: npt.ArrayLike, params: Params, *, at: tuple[npt.ArrayLike, Params]) -> Array:
    """What training differentiates at `at`: the transformer, with what rounding adds held fixed.

    So are the sign, which values are pruned or clipped and which lie in the lowest 2^-12 of the interval.
    """
    x, x0, params0 = checks.as_float(x), checks.as_float(at[0]), at[1]
    sign, inside = _sign(x0, params0), _inside(x0, params0)
    lowest = _position(x0, params0) < LOWEST

    def transformed(x: Array, params: Params) -> Array:
        u = (sign * x - params.center) / (2 * params.distance) + 0.5
        power = np.where(inside & ~lowest, u, 1) ** params.gamma
        return np.where(lowest, u * LOWEST ** (params.gamma - 1), power)

    moved = np.where(inside, sign * (transformed(x, params) - transformed(x0, params0)), 0)
    return np.asarray(forward(x0, params0, training=True) + moved)


def vjp(x: npt.ArrayLike, params: Params, grad: npt.ArrayLike) -> tuple[Array, dict[str, Array]]:
    """Gradients for x, c, d and gamma (for activations too, where gamma is not learned).

    With P the power u^gamma (or the chord), inside the interval

        d/dx = P'(u) / (2 d),    d/dc = -sign(x) d/dx,    d/dd = (2 u - 1) d/dc,
        d/dgamma = sign(x) P ln u.

    >>> vjp([-0.2, -0.9, 2.0], Params(1.0, 0.5, 1.0, 3, "weight"), np.ones(3))[0]
    array([0., 1., 0.])
    """
    x = checks.as_float(x)
    grad = np.asarray(grad, x.dtype)
    distance, gamma = params.distance.astype(x.dtype), params.gamma.astype(x.dtype)
    lowest, nothing = x.dtype.type(LOWEST), x.dtype.type(0)
    inside, sign = _inside(x, params), _sign(x, params)
    u = np.where(inside, _position(x, params), x.dtype.type(0.5))  # what is outside counts for nothing
    v = np.clip(u, lowest, 1)
    chord = v ** (gamma - 1)
    slope = np.where(u < lowest, chord, gamma * chord) / (2 * distance)
    signed = grid.keep_nan(x, np.where(inside, grad * sign, nothing))
    by_center = -(signed * slope)
    grad_x = grid.keep_nan(x, np.where(inside & (sign != 0), grad * slope, nothing))
    return grid.unbroadcast(grad_x, x.shape), {
        "center": grid.unbroadcast(by_center, params.center.shape),
        "distance": grid.unbroadcast(by_center * (2 * u - 1), params.distance.shape),
        "gamma": grid.unbroadcast(signed * (u * chord * np.log(v)), params.gamma.shape),
    }


def _q(params: Params) -> int:
    return level_count(params.bits, params.role)


def _zero(params: Params) -> int:
    """The code of the value 0."""
    return _q(params) if params.role == "weight" else 0


def _sign(x: Array, params: Params) -> Array:
    return np.sign(x) if params.role == "weight" else np.ones_like(x)


def _magnitude(x: Array, params: Params) -> Array:
    return np.abs(x) if params.role == "weight" else x


def _position(x: Array, params: Params) -> Array:
    """u: 0 at the lower end of the interval, 1 at the upper end."""
    center, distance = params.center.astype(x.dtype), params.distance.astype(x.dtype)
    return np.asarray((_magnitude(x, params) - center) / (2 * distance) + x.dtype.type(0.5))


def _inside(x: Array, params: Params) -> Array:
    """Whether values are neither pruned nor clipped; the ends belong to the interval."""
    center, distance = params.center.astype(x.dtype), params.distance.astype(x.dtype)
    magnitude = _magnitude(x, params)
    return np.asarray((magnitude >= center - distance) & (magnitude <= center + distance))


def _transformed(u: Array, params: Params) -> Array:
    # In full arrays: for a single exponent of 0.5 or 2 numpy takes the root or the square, with other last bits.
    base, exponent = np.broadcast_arrays(np.clip(u, 0, 1), params.gamma.astype(u.dtype))
    return np.power(np.atleast_1d(base), np.atleast_1d(exponent).copy()).reshape(base.shape)


def _rounded(x: Array, params: Params) -> Array:
    power = _transformed(_position(x, params), params)
    return grid.round_half_even(_sign(x, params) * power * x.dtype.type(_q(params)))
