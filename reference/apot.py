"""APoT: levels that are sums of powers of two, under a learned clipping threshold.

Source: Li, Dong, Wang: Additive Powers-of-Two Quantization, ICLR 2020 (arXiv 1909.13144; formulas from memory of the
paper), held against the authors' code, github.com/yhhhli/APoT_Quantization, of which there are two: that for ImageNet
and that for CIFAR-10.

With B bits for magnitudes, the set of them is

    {p_0 + ... + p_(n-1)},                p_i in {0, 2^-i, 2^-(i+n), 2^-(i+2n)},    for B = 2n,
    {p_0 + ... + p_(n-1) + p},            p_i in {0, 2^-i, 2^-(i+n), 2^-(i+2n+1)}, p in {0, 2^-2n}, for B = 2n + 1,

over its largest element. Activations after a ReLU have B = b, weights B = b - 1 and a sign, so that there are 2^b - 1
of them; 2-bit weights are ternary. The value of v is alpha times the element nearest to clip(v / alpha). The clipping
threshold alpha is learned with the reparameterised gradient: where v is clipped its sign, elsewhere the rounding error
over alpha, (value - v) / alpha.

Weights are standardised first (`grid.standardize`): the code for CIFAR-10 detaches mean and deviation, as DAQ's does,
that for ImageNet does not; here they are detached.

Three variants, whose values are the same:

- ``paper``: no gradient for what is clipped. alpha starts at 3 for weights, at 8 for activations.
- ``imagenet``: 2-bit weights receive the gradient where they are clipped, too ("calibrated gradients"). alpha starts at
  3 and at 6.
- ``cifar10``: all weights do, and activations below 0, where the error -v/alpha counts for alpha as well. It starts
  at 3 and at 8.

Halfway between two elements, magnitudes go down. The paper names no rule, and the code has none: it takes the element
that comes first in a Python set, so that ties go up or down by the elements' hashes (the transition points of 3 bits:
down, up, down, up, down, up, down). Its elements are off by up to one unit in the last place, as it multiplies by
1/max in float32.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from reference import checks, grid
from reference.grid import Array, IntegerGrid, Role
from reference.registry import Method

METHOD = Method(
    name="apot",
    title="APoT",
    source="Li et al.: Additive Powers-of-Two Quantization, ICLR 2020; code: github.com/yhhhli/APoT_Quantization",
    bits={"weight": range(2, 6), "activation": range(2, 6)},
    variants=("paper", "imagenet", "cifar10"),
    learnable=("alpha",),
    in_input_units=("alpha",),
    standardized=True,
)

ALPHA = {"weight": 3.0, "activation": 8.0}
ALPHA_IMAGENET = {"weight": 3.0, "activation": 6.0}


def terms(magnitude_bits: int) -> list[tuple[Fraction, ...]]:
    """What each term of a sum may be: n sets of four numbers, for odd numbers of bits one of two besides.

    >>> [[str(p) for p in term] for term in terms(3)]
    [['0', '1', '1/2', '1/8'], ['0', '1/4']]
    """
    n, odd = divmod(magnitude_bits, 2)
    found = [(Fraction(0), *(Fraction(1, 2**k) for k in (i, i + n, i + 2 * n + odd))) for i in range(n)]
    return [*found, (Fraction(0), Fraction(1, 4**n))] if odd else found


@functools.cache
def magnitudes(bits: int, role: Role) -> tuple[int, ...]:
    """The set of magnitudes as integers, ascending: in units of the smallest power of two; the last stands for alpha.

    >>> magnitudes(3, "activation"), magnitudes(3, "weight"), magnitudes(2, "weight")
    ((0, 1, 2, 3, 4, 6, 8, 10), (0, 1, 2, 4), (0, 1))
    """
    METHOD.check(bits, role)
    sums = sorted({sum(term, Fraction(0)) for term in itertools.product(*terms(bits - (role == "weight")))})
    unit = sums[1]
    return tuple(int(s / unit) for s in sums)


def integers(bits: int, role: Role) -> tuple[int, ...]:
    """The levels as integers, ascending: with both signs for weights.

    >>> integers(3, "weight")
    (-4, -2, -1, 0, 1, 2, 4)
    """
    found = magnitudes(bits, role)
    return (*(-k for k in reversed(found[1:])), *found) if role == "weight" else found


@dataclass(frozen=True)
class Params:
    """Parameters of APoT.

    Attributes
    ----------
    alpha : ndarray
        Clipping threshold, the highest level, positive, float64, of shape () or (C, 1, ...).
    bits : int
        2 to 5.
    role : {"weight", "activation"}
    variant : {"paper", "imagenet", "cifar10"}
        See the module's text; makes a difference to gradients and `init` alone.
    """

    alpha: Array
    bits: int
    role: Role
    variant: str = "paper"

    def __post_init__(self) -> None:
        object.__setattr__(self, "variant", METHOD.check(self.bits, self.role, self.variant))
        object.__setattr__(self, "alpha", checks.positive("alpha", self.alpha))

    @property
    def magnitudes(self) -> Array:
        """The set of magnitudes as integers."""
        return np.array(magnitudes(self.bits, self.role))

    @property
    def integers(self) -> Array:
        """The levels as integers."""
        return np.array(integers(self.bits, self.role))


def init(x: npt.ArrayLike, bits: int, role: Role, *, variant: str = "paper") -> Params:
    """First alpha: 3 for weights, which are standardised; 8 for activations (``imagenet``: 6). `x` is not looked at.

    >>> init([], 2, "weight").alpha, init([], 2, "activation", variant="imagenet").alpha
    (array(3.), array(6.))
    """
    METHOD.check(bits, role, variant)
    checks.as_float(x)
    return Params(np.asarray((ALPHA_IMAGENET if variant == "imagenet" else ALPHA)[role]), bits, role, variant)


def forward(x: npt.ArrayLike, params: Params, *, training: bool, noise: None = None) -> Array:
    """Quantize `x` to alpha times sums of powers of two; training and test are the same.

    >>> forward([-9.0, 0.5, 0.6, 1.6], Params(2.0, 3, "weight"), training=True)
    array([-2. ,  0.5,  0.5,  2. ])
    """
    checks.refuse_noise(noise, METHOD.title)
    x = checks.as_float(x)
    k = _signed(x, params, params.magnitudes.astype(x.dtype)[_magnitude_codes(x, params)])
    return _value(k, params)


def codes(x: npt.ArrayLike, params: Params) -> Array:
    """Numbers of the levels, int64, ascending from 0. Raises ValueError on NaN.

    >>> codes([-9.0, 0.5, 0.6, 1.6], Params(2.0, 3, "weight"))
    array([0, 4, 4, 6])
    """
    x = checks.as_float(x)
    q = _signed(x, params, _magnitude_codes(x, params).astype(x.dtype))
    return grid.integers(q) + (len(params.integers) - len(params.magnitudes))


def decode(q: npt.ArrayLike, params: Params) -> Array:
    """Values of codes. Raises ValueError if there is no such level."""
    q, k = checks.as_float(q), params.integers
    if not np.isin(q, np.arange(k.size)).all():
        raise checks.refuse("codes", q.tolist(), f"whole numbers from 0 to {k.size - 1}")
    return _value(k.astype(q.dtype)[q.astype(np.int64)], params)


def levels(params: Params) -> Array:
    """The values that `forward` can return, ascending along the first axis: 2^bits, or one less for weights."""
    return decode(grid.all_codes(params.integers.size, params.alpha), params)


def integer_grid(params: Params) -> IntegerGrid:
    """The levels as a unit times integers: the smallest power of two times sums of powers of two.

    >>> integer_grid(Params(2.0, 3, "weight")).integers(np.arange(7))
    array([-4, -2, -1,  0,  1,  2,  4])
    """
    k = params.integers
    table = () if (np.diff(k) == 1).all() else tuple(k.tolist())
    return IntegerGrid(params.alpha / k[-1], int(k[0]), table=table)


def threshold_distance(x: npt.ArrayLike, params: Params) -> Array:
    """Distance of v/alpha from the nearest transition point, in units of the smallest power of two."""
    u = _ratio(checks.as_float(x), params)
    u = np.abs(u) if params.role == "weight" else u
    return np.asarray(np.min([np.abs(u - t) for t in _thresholds(params, u.dtype)], axis=0) * params.magnitudes[-1])


def surrogate(x: npt.ArrayLike, params: Params, *, at: tuple[npt.ArrayLike, Params]) -> Array:
    """What training differentiates at `at`: what rounding adds to v/alpha is held fixed, and so is what is clipped.

    Where v is clipped alone for alpha's sake the value is alpha's end, and v passes beside it.
    """
    x, (x0, params0) = checks.as_float(x), at
    x0 = checks.as_float(x0)
    value = forward(x0, params0, training=True) / params0.alpha
    rounded = params.alpha * (x / params.alpha + (value - x0 / params0.alpha))
    outside, blocked = _outside(x0, params0)
    return np.asarray(np.where(outside, params.alpha * value + np.where(blocked, 0.0, x - x0), rounded))


def vjp(x: npt.ArrayLike, params: Params, grad: npt.ArrayLike) -> tuple[Array, dict[str, Array]]:
    """Gradients for v and alpha. Infinite elements count as clipped for alpha.

    >>> vjp([0.6, -9.0], Params(2.0, 3, "weight"), [1.0, 1.0])
    (array([1., 0.]), {'alpha': array(-1.05)})
    """
    x = checks.as_float(x)
    grad = np.asarray(grad, x.dtype)
    zero = x.dtype.type(0)
    k = _signed(x, params, params.magnitudes.astype(x.dtype)[_magnitude_codes(x, params)])
    value = k / x.dtype.type(params.magnitudes[-1])
    outside, blocked = _outside(x, params)
    rest = value - np.where(outside | np.isinf(x), zero, _ratio(x, params))
    return grid.unbroadcast(grid.keep_nan(x, np.where(blocked, zero, grad)), x.shape), {
        "alpha": grid.unbroadcast(grad * rest, params.alpha.shape)
    }


def _ratio(x: Array, params: Params) -> Array:
    return np.asarray(x / params.alpha.astype(x.dtype))


def _thresholds(params: Params, dtype: np.dtype) -> Array:
    """Midpoints of neighbouring magnitudes, over alpha, rounded to `dtype` once."""
    k = params.magnitudes
    return np.asarray(((k[:-1] + k[1:]) / (2 * k[-1])).astype(dtype))


def _magnitude_codes(x: Array, params: Params) -> Array:
    """How many transition points are below the magnitude, or, of activations, the value; 0 for NaN."""
    u = _ratio(x, params)
    return grid.count_below(np.abs(u) if params.role == "weight" else u, _thresholds(params, u.dtype))


def _signed(x: Array, params: Params, k: Array) -> Array:
    """Give magnitudes the sign of `x`, but for 0, which has none; NaN stays."""
    signed = np.where(x < 0, -k, k) + x.dtype.type(0) if params.role == "weight" else k
    return grid.keep_nan(np.broadcast_to(x, k.shape), signed)


def _value(k: Array, params: Params) -> Array:
    """``k / k_max * alpha``."""
    return np.asarray(k / k.dtype.type(params.magnitudes[-1]) * params.alpha.astype(k.dtype))


def _outside(x: Array, params: Params) -> tuple[Array, Array]:
    """Where alpha gets the end's gradient, and where v gets none. The ends themselves are inside."""
    u = _ratio(x, params)
    above = u > 1
    if params.role == "activation":
        below = (x < 0) & (params.variant != "cifar10")  # x, as the ratio may underflow
        return above | below, above | below
    outside = above | (u < -1)
    passes = params.variant == "cifar10" or (params.variant == "imagenet" and params.bits == 2)
    return outside, outside & (not passes)
