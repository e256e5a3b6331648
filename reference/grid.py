"""The uniform grid that the quantizers share: clipping, normalising, rounding, level sets (DAQ, Eq. 1 and 2).

Every forward computation here uses only ``+ - * /``, comparison, ``floor`` and ``rint`` (the nearest integer, which is
exact as well), in the order written down, without fused multiply-add. An implementation that keeps to that order gives
the same bits.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from reference import checks

Array: TypeAlias = npt.NDArray[Any]
Role: TypeAlias = Literal["weight", "activation", "signed_activation"]

ROLES: tuple[Role, ...] = ("weight", "activation", "signed_activation")
MAX_BITS = 8
SCALED_LEVELS = "levels lie in [-1, 1] or [0, 1], whatever the clip range"


def top_code(bits: int) -> int:
    """Return n = 2^bits - 1. Raises ValueError unless `bits` is a whole number from 1 to 8.

    >>> top_code(2)
    3
    >>> top_code(9)
    Traceback (most recent call last):
        ...
    ValueError: bits must be a whole number from 1 to 8, got 9
    """
    whole = isinstance(bits, int | np.integer) and not isinstance(bits, bool)
    if not whole or not 1 <= bits <= MAX_BITS:
        raise checks.refuse("bits", bits, f"a whole number from 1 to {MAX_BITS}")
    return 2 ** int(bits) - 1


def check_role(role: str) -> Role:
    """Return `role` if it is one of `ROLES`, else raise ValueError."""
    if role not in ROLES:
        raise checks.refuse("role", role, "one of " + ", ".join(ROLES))
    return role


def mean_magnitude(x: npt.ArrayLike, axis: tuple[int, ...] | None = None) -> Array:
    """Mean of |x|, over all or some axes (which are kept, then).

    Raises
    ------
    ValueError
        If it is not positive and finite: empty, all zero, or not finite.

    >>> mean_magnitude([-1.0, 3.0])
    array(2.)
    """
    x = checks.as_float(x)
    with np.errstate(over="ignore"):
        value = np.abs(x).mean(axis=axis, keepdims=axis is not None) if x.size else np.asarray(math.nan)
    if not np.all((value > 0) & np.isfinite(value)):
        raise checks.refuse("mean magnitude of x", value.tolist(), "positive and finite")
    return np.asarray(value)


def largest_magnitude(x: npt.ArrayLike) -> float:
    """Largest |x|.

    Raises
    ------
    ValueError
        If it is not positive and finite: empty, all zero, or not finite.

    >>> largest_magnitude([-3.0, 1.0])
    3.0
    """
    x = checks.as_float(x)
    value = float(np.abs(x).max()) if x.size else math.nan
    if not 0 < value < math.inf:
        raise checks.refuse("largest magnitude of x", value, "positive and finite")
    return value


def channel_shape(x: npt.ArrayLike) -> tuple[int, ...]:
    """Shape of parameters of which each element of the first axis of `x` has its own: (C, 1, ...).

    Raises
    ------
    ValueError
        If `x` has no first axis, or nothing along it.

    >>> channel_shape(np.zeros((3, 2, 2)))
    (3, 1, 1)
    """
    shape = np.shape(x)
    if not shape or not shape[0]:
        raise checks.refuse("shape of x", shape, "(C, ...), with a channel at least")
    return (shape[0], *[1] * (len(shape) - 1))


def integers(q: Array) -> Array:
    """Turn rounded values into int64. Raises ValueError on NaN."""
    if np.isnan(q).any():
        raise checks.refuse("x", "NaN", "free of NaN (NaN has no code)")
    return np.asarray(q.astype(np.int64))


def all_codes(count: int, parameter: Array) -> Array:
    """The codes 0 ... count - 1 along a first axis, to be broadcast with a parameter of shape () or (C, 1, ...)."""
    return np.arange(count).reshape(-1, *[1] * np.ndim(parameter))


def count_below(x: Array, points: Array) -> Array:
    """How many `points`, along their first axis, are below each element, int64; NaN has none below.

    >>> count_below(np.array([0.5, 1.0, 2.5]), np.array([0.5, 1.5, 2.0]))
    array([0, 1, 3])
    """
    q = np.zeros(np.broadcast_shapes(x.shape, points.shape[1:]), np.int64)
    with np.errstate(invalid="ignore"):  # comparing NaN
        for point in points:
            q = q + (x > point)
    return np.asarray(q)


def tie_distance(x: npt.ArrayLike) -> Array:
    """Distance of `x` from the nearest half-integer.

    >>> tie_distance([0.0, 0.75, 2.5])
    array([0.5 , 0.25, 0.  ])
    """
    x = checks.as_float(x)
    return np.asarray(np.abs(x - np.floor(x) - 0.5))


def bounds(lower: npt.ArrayLike, upper: npt.ArrayLike, dtype: npt.DTypeLike) -> tuple[Array, Array]:
    """Return the clip range in `dtype`.

    Raises
    ------
    ValueError
        Unless both ends and their distance are finite and ``lower < upper``, in `dtype`. A range so narrow that the
        gradient, which divides by its width, could overflow is refused as well.
    """
    narrowest = checks.NARROWEST[np.dtype(dtype).name]
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = np.asarray(lower, dtype), np.asarray(upper, dtype)
        width = high - low
    if not (np.all(np.isfinite(width)) and np.all(width >= narrowest)):
        raise checks.refuse("clip range (lower, upper)", (np.asarray(lower).tolist(), np.asarray(upper).tolist()),
                     f"finite with lower < upper in {np.dtype(dtype).name}, at least {narrowest:g} apart")  # fmt: skip
    return low, high


@dataclass(frozen=True)
class UniformParams:
    """Parameters that every method on this grid has.

    Attributes
    ----------
    lower, upper : ndarray
        Clip range l, u of Eq. 1, float64, of shape () or (C, 1, ...). For ``role="activation"`` l stays 0 in training.
    bits : int
        1 to 8.
    role : {"weight", "activation", "signed_activation"}
        Scaling of Eq. 2. Plain "activation" is the output of a ReLU.
    """

    lower: Array
    upper: Array
    bits: int
    role: Role

    def __post_init__(self) -> None:
        top_code(self.bits)
        check_role(self.role)
        low, high = bounds(self.lower, self.upper, np.float64)
        object.__setattr__(self, "lower", low)
        object.__setattr__(self, "upper", high)


def deviation(x: npt.ArrayLike) -> float:
    """Unbiased standard deviation of all of `x`.

    Raises
    ------
    ValueError
        If it is not positive and finite: fewer than two elements, all equal, or not finite.
    """
    x = checks.as_float(x)
    spread = x.size > 1 and bool(np.isfinite(x).all() and x.min() < x.max())  # equal values can have a rounded mean
    with np.errstate(over="ignore"):  # squares that overflow: refused below
        value = float(x.std(ddof=1)) if spread else math.nan
    if not (value > 0 and math.isfinite(value)):
        raise checks.refuse("standard deviation of x", value, "positive and finite")
    return value


def standardize(w: npt.ArrayLike) -> Array:
    """Weight standardisation: subtract the tensor's mean, divide by its unbiased standard deviation.

    Both are constants in the backward pass, as in DAQ's released code. Raises ValueError where `deviation` does.

    >>> standardize([1.0, 2.0, 3.0])
    array([-1.,  0.,  1.])
    """
    w = checks.as_float(w)
    return np.asarray((w - w.mean()) / w.dtype.type(deviation(w)))


def initial_clip_range(x: npt.ArrayLike, role: Role) -> tuple[float, float]:
    """DAQ's initial l and u (Section 4.1), from a first batch `x`.

    -3 and 3 for weights, which are standardised; 0 and 3 sigma_A after a ReLU; -3 sigma_A and 3 sigma_A for other
    activations, where sigma_A is the standard deviation of `x`.

    >>> initial_clip_range([0.0, 1.0, 2.0], "activation")
    (0.0, 3.0)
    """
    if check_role(role) == "weight":
        return -3.0, 3.0
    high = 3 * deviation(x)
    return (0.0 if role == "activation" else -high), high


def position(x: npt.ArrayLike, lower: npt.ArrayLike, upper: npt.ArrayLike) -> Array:
    """Place `x` within its clip range: ``p = (clip(x, l, u) - l) / (u - l)``, in [0, 1].

    NaN stays NaN; infinities clip.

    >>> position([-9.0, 0.0, 1.0, 9.0], -1.0, 3.0)
    array([0.  , 0.25, 0.5 , 1.  ])
    """
    x = checks.as_float(x)
    low, high = bounds(lower, upper, x.dtype)
    return np.asarray((np.clip(x, low, high) - low) / (high - low))


def normalize(x: npt.ArrayLike, lower: npt.ArrayLike, upper: npt.ArrayLike, bits: int) -> Array:
    """Eq. 1: clip `x` to [lower, upper] and normalise to [0, 2^bits - 1], as ``n * p``.

    Parameters
    ----------
    x : array_like of float32 or float64
        Full-precision values, called x-hat in the paper.
    lower, upper : array_like
        Clip range, of shape () or (C, 1, ...), broadcast against `x`.
    bits : int
        1 to 8.

    Returns
    -------
    ndarray
        Shape of the broadcast, dtype of `x`. Never above 2^bits - 1, because p is at most 1 and the product with an
        integer is rounded monotonically.

    >>> normalize([-9.0, -0.5, 0.2, 9.0], lower=-1.0, upper=1.0, bits=2)
    array([0.  , 0.75, 1.8 , 3.  ])
    """
    n = top_code(bits)
    p = position(x, lower, upper)
    return np.asarray(p * p.dtype.type(n))


def _nearest(x: npt.ArrayLike) -> tuple[Array, Array]:
    """Return the nearest integer, ties to even, and what is missing to `x`; the difference is exact (Sterbenz)."""
    x = checks.as_float(x)
    nearest = np.rint(x) + x.dtype.type(0)  # + 0 turns -0 into +0: the rules have one zero
    with np.errstate(invalid="ignore"):
        return nearest, x - nearest


def round_half_down(x: npt.ArrayLike) -> Array:
    """Round to the nearest integer, ties down: Eq. 11, ``q_f if x <= q_t else q_c``. DAQ's rule.

    >>> round_half_down([0.5, 1.5, -0.5, 0.51])
    array([ 0.,  1., -1.,  1.])
    """
    nearest, rest = _nearest(x)
    return np.asarray(nearest - (rest == -0.5))


def round_half_up(x: npt.ArrayLike) -> Array:
    """Round to the nearest integer, ties up.

    >>> round_half_up([0.5, 1.5, -0.5])
    array([1., 2., 0.])
    """
    nearest, rest = _nearest(x)
    return np.asarray(nearest + (rest == 0.5))


def round_half_even(x: npt.ArrayLike) -> Array:
    """Round to the nearest integer, ties to even: the rule of ``torch.round`` and ``numpy.round``.

    >>> round_half_even([0.5, 1.5, -0.5])
    array([0., 2., 0.])
    """
    return _nearest(x)[0]


def round_half_away(x: npt.ArrayLike) -> Array:
    """Round to the nearest integer, ties away from zero: the rule of C's ``round`` and of NEON's FCVTA.

    >>> round_half_away([0.5, 1.5, -0.5])
    array([ 1.,  2., -1.])
    """
    return np.asarray(np.where(checks.as_float(x) < 0, round_half_down(x), round_half_up(x)))


ROUNDINGS = {
    "half_down": round_half_down,
    "half_up": round_half_up,
    "half_even": round_half_even,
    "half_away": round_half_away,
}


def check_rounding(rule: str) -> str:
    """Return `rule` if it names a rounding, else raise ValueError."""
    if rule not in ROUNDINGS:
        raise checks.refuse("rounding", rule, "one of " + ", ".join(ROUNDINGS))
    return rule


def codes(
    x: npt.ArrayLike, lower: npt.ArrayLike, upper: npt.ArrayLike, bits: int, rounding: str = "half_down"
) -> Array:
    """Quantize `x` to integer codes 0 ... 2^bits - 1.

    Returns
    -------
    ndarray of int64
        Shape of `x` broadcast with the clip range.

    Raises
    ------
    ValueError
        If `x` holds NaN, or a parameter is refused.

    >>> codes([-1.0, 0.0, 0.3, 1.0], -1.0, 1.0, bits=2)
    array([0, 1, 2, 3])
    """
    top_code(bits)
    return integers(ROUNDINGS[check_rounding(rounding)](normalize(x, lower, upper, bits)))


def decode(q: npt.ArrayLike, bits: int, role: Role) -> Array:
    """Eq. 2: scale Q to [-1, 1] (weights) or [0, 1] (activations).

    The weight value 2Q/n - 1 is computed as ``(2Q - n) / n``: the numerator is an exact odd integer, so the value is
    rounded once and the levels are symmetric about zero. Signed activations are scaled as activations are: the paper
    gives one formula for both.

    Parameters
    ----------
    q : array_like
        Codes (integers), or Q as floating point numbers, whose dtype is kept.

    >>> decode([0, 1, 2, 3], bits=2, role="weight")
    array([-1.        , -0.33333333,  0.33333333,  1.        ])
    >>> decode([0, 1, 2, 3], bits=2, role="activation")
    array([0.        , 0.33333333, 0.66666667, 1.        ])
    """
    q = checks.as_float(q)
    n = q.dtype.type(top_code(bits))
    return np.asarray((2 * q - n) / n if check_role(role) == "weight" else q / n)


def levels(bits: int, role: Role) -> Array:
    """Return the 2^bits values of the level set, ascending, float64."""
    return decode(np.arange(top_code(bits) + 1), bits, role)


@dataclass(frozen=True)
class IntegerGrid:
    """Levels that are a unit times integers: the value of the code q is ``unit * (stride * q + lowest)``.

    A layer may then add products of the integers, which is exact (`reference.integer.largest_sum`), and multiply the
    sum by the units. Both this value and that of the method's `decode` are rounded twice at most, so that they differ
    by two units in the last place at most.

    Attributes
    ----------
    unit : ndarray
        Positive, float64, of shape () or (C, 1, ...).
    lowest : int
        The integer of the code 0.
    stride : int
        2 for grids of odd integers, which have no 0; otherwise 1.
    table : tuple of int
        The integers of the codes 0, 1, ..., where they are not evenly spaced; `stride` is 1 then. Otherwise empty.
    """

    unit: Array
    lowest: int
    stride: int = 1
    table: tuple[int, ...] = field(default=(), repr=False)

    def integers(self, q: npt.ArrayLike) -> Array:
        """Integers of codes, in the codes' type.

        >>> IntegerGrid(np.array(0.5), lowest=-3, stride=2).integers([0, 1, 2, 3])
        array([-3, -1,  1,  3])
        """
        if self.table:
            return np.asarray(self.table)[np.asarray(q)]
        return np.asarray(self.stride * np.asarray(q) + self.lowest)

    def largest(self, bits: int) -> int:
        """Bound on the magnitude of the integers of codes 0 ... 2^bits - 1, at most 256.

        >>> IntegerGrid(np.array(0.5), lowest=-3, stride=2).largest(bits=2)
        3
        """
        if self.table:
            return max(map(abs, self.table))
        return max(-self.lowest, self.stride * top_code(bits) + self.lowest)


def integer_grid(bits: int, role: Role) -> IntegerGrid:
    """Eq. 2 as a unit times integers: 1/n times -n, -n + 2, ... n (weights), or 0 ... n (activations).

    >>> integer_grid(2, "weight")
    IntegerGrid(unit=array(0.33333333), lowest=-3, stride=2)
    """
    n = top_code(bits)
    unit = np.asarray(1 / n)
    return IntegerGrid(unit, -n, stride=2) if check_role(role) == "weight" else IntegerGrid(unit, 0)


def output_scale(role: Role) -> float:
    """Width of the level set: 2 for weights ([-1, 1]), 1 for activations ([0, 1])."""
    return 2.0 if check_role(role) == "weight" else 1.0


def clip_range_vjp(
    grad: Array, x: Array, lower: npt.ArrayLike, upper: npt.ArrayLike, slope: Array, scale: float
) -> tuple[Array, dict[str, Array]]:
    """Gradients of ``scale * Q / n`` for x-hat, l and u, where dQ/dx = `slope` at the normalised input.

    Inside the clip range, with p the position and w = u - l,

        d/dx-hat = scale * slope / w,   d/dl = -(1 - p) d/dx-hat,   d/du = -p d/dx-hat,

    so the three sum to zero and x-hat d/dx-hat + l d/dl + u d/du = 0. Clipped elements give nothing; an element on
    an end of the range counts as inside, as in torch.clamp. NaN stays NaN.
    """
    low, high = bounds(lower, upper, x.dtype)
    p = position(x, low, high)
    clipped = (x < low) | (x > high)
    grad_x = np.where(clipped, x.dtype.type(0), grad * slope * x.dtype.type(scale) / (high - low))
    return unbroadcast(grad_x, x.shape), {
        "lower": unbroadcast(-(1 - p) * grad_x, low.shape),
        "upper": unbroadcast(-p * grad_x, high.shape),
    }


def frozen_position(x: Array, lower: Array, upper: Array, at: tuple[npt.ArrayLike, UniformParams]) -> Array:
    """`position`, except that what is clipped at the pair `at` (and nothing else) is.

    This is what the derivatives of a clipped function are the derivatives of.
    """
    x0, params0 = checks.as_float(at[0]), at[1]
    low, high = bounds(params0.lower, params0.upper, x0.dtype)
    inside = (x - lower) / (upper - lower)
    return np.where(x0 < low, 0.0, np.where(x0 > high, 1.0, inside))


def unbroadcast(grad: Array, shape: tuple[int, ...]) -> Array:
    """Sum `grad` down to `shape`, the reverse of broadcasting a parameter of that shape."""
    grad = grad.sum(axis=tuple(range(grad.ndim - len(shape))))
    kept = tuple(i for i, size in enumerate(shape) if size == 1)
    return np.asarray(grad.sum(axis=kept, keepdims=True))


def keep_nan(x: Array, value: Array) -> Array:
    """`value`, and NaN where `x` is: for gradients that are chosen by comparisons, which NaN fails.

    The gradient for x is NaN where x is, in every method, and so are those of the parameters that share in it.

    >>> keep_nan(np.array([np.nan, 1.0]), np.array([0.0, 2.0]))
    array([nan,  2.])
    """
    return np.where(np.isnan(x), x, value)


@functools.cache
def can_compile() -> bool:
    """Whether loops are compiled at all: not where numba is told not to, by ``NUMBA_DISABLE_JIT`` for one.

    A compiled twin is then its numpy twin.
    """
    from numba.core import config  # here, as it takes a while

    return not config.DISABLE_JIT  # type: ignore[attr-defined]


@functools.cache
def compiled(loop: Callable[..., None]) -> Callable[..., None]:
    """Compile a loop over flat arrays when it is first needed; types are those of the arguments."""
    import numba  # here, as it takes a while

    found: Callable[..., None] = numba.njit(cache=True, error_model="numpy")(loop)
    return found


def run_compiled(loop: Callable[..., None], x: Array, *numbers: Any) -> Array:
    """Run ``loop(x, out, *numbers)`` over the elements of `x` in memory of any layout; numbers get its dtype."""
    flat = np.ascontiguousarray(x).reshape(-1)
    flat = flat if flat.flags.writeable else flat.copy()  # else it would be compiled for read-only arrays, too
    out = np.empty_like(flat)
    compiled(loop)(flat, out, *map(x.dtype.type, numbers))
    return out.reshape(x.shape)


def _quantize_loop(x, out, low, high, n, half, zero, one):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    width = high - low
    for i in range(x.size):
        v = x[i]
        clipped = low if v < low else (high if v > high else v)
        normalized = (clipped - low) / width * n
        floor = np.floor(normalized)
        out[i] = floor + (one if normalized - floor > half else zero)


def quantize_numba(x: npt.ArrayLike, lower: npt.ArrayLike, upper: npt.ArrayLike, bits: int) -> Array:
    """Compiled twin of ``round_half_down(normalize(x, lower, upper, bits))``: one pass, the same bits.

    For a clip range of each channel it is that itself.

    >>> quantize_numba(np.array([-1.0, 0.0, 0.3, 1.0]), -1.0, 1.0, bits=2)
    array([0., 1., 2., 3.])
    """
    x = checks.as_float(x)
    low, high = bounds(lower, upper, x.dtype)
    n = top_code(bits)
    if low.size > 1 or high.size > 1 or max(low.ndim, high.ndim) > x.ndim or not can_compile():
        return round_half_down(normalize(x, low, high, bits))
    return run_compiled(_quantize_loop, x, low.item(), high.item(), n, 0.5, 0, 1)
