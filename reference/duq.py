"""DuQ, the quantizer of PROFIT, and the order in which PROFIT freezes layers.

Source: Park, Yoo: PROFIT, ECCV 2020, arXiv 2008.04693. ``released`` and what follows were held against the authors'
code, github.com/EunhyeokPark/PROFIT.

Clipping and output have a scale of their own, both learned: with a and c the softplus of the two raw parameters and
n = 2^bits - 1, activations after a ReLU become

    round(n clip(x/a, 0, 1)) / n * c.

Two variants for weights and signed activations, p = clip(x/a, -1, 1); rounding is to even, as in torch.round:

- ``released``: round(q p) / q * c with q = 2^(bits-1) - 1 levels on each side. That is one level less than the bits
  allow, for every bit-width, and at 1 bit the code computes 0/0: not defined.
- ``paper``: (2 round(n (p + 1)/2) - n) / n * c, that is 2^bits levels, none of which is 0: from memory, without any
  precedent in public code.

The straight-through estimator passes the rounding; clipped elements give nothing to x and to a, nor do those at the
ends of the range, as in torch's hardtanh.

AIWQ (activation instability by weight quantization) is how far the distribution of a layer's outputs moves when
the quantized weights are updated. PROFIT trains in three stages, and freezes the most unstable layers first.

The code has another quantizer for the inputs of h-swish's network, MobileNet-V3, which is not here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reference import checks, grid
from reference.grid import Array, IntegerGrid, Role
from reference.registry import Method

METHOD = Method(
    name="duq",
    title="DuQ",
    source="Park, Yoo: PROFIT, ECCV 2020, arXiv 2008.04693; code: github.com/EunhyeokPark/PROFIT",
    bits=dict.fromkeys(grid.ROLES, range(1, 9)),
    variants=("released", "paper"),
    learnable=("a", "c"),
    undefined={("weight", 1, "released"), ("signed_activation", 1, "released")},
    exempt={"idempotence": "once trained, levels lie in [-c, c], and the clip range is [-a, a]"},
    # In units of the last place: softplus 2.5 (exp and log1p one each, the cast a half), quotient, sum and product a
    # half each; the same on the other side.
    bound=8,
)
INITIAL_SHARE = 0.9  # of the largest magnitude of the weights
QUANTILE = 0.95  # of the positive inputs
LARGEST_SHIFT = 1.0  # of a layer in one step, that its average takes in
MOMENTUM = 0.999  # of that average


@dataclass(frozen=True)
class Params:
    """Parameters of DuQ.

    Attributes
    ----------
    a, c : ndarray
        Raw values of clip range and output scale, float64, of shape () or (C, 1, ...), finite and of any sign; their
        softplus must be from 1e-30 to 1e30.
    bits : int
        1 to 8, for signed data in ``released`` 2 to 8.
    role : {"weight", "activation", "signed_activation"}
        Plain "activation" is clipped to [0, a], the others to [-a, a].
    variant : {"released", "paper"}
        Grid of signed data, see the module's text.
    """

    a: Array
    c: Array
    bits: int
    role: Role
    variant: str = "released"

    def __post_init__(self) -> None:
        object.__setattr__(self, "variant", METHOD.check(self.bits, self.role, self.variant))
        for name in ("a", "c"):
            raw = checks.finite(name, getattr(self, name))
            checks.positive(f"softplus({name})", softplus(raw))
            object.__setattr__(self, name, raw)


def softplus(raw: npt.ArrayLike) -> Array:
    """``log(1 + exp(raw))``, without overflow.

    >>> softplus([0.0, 1000.0])
    array([6.93147181e-01, 1.00000000e+03])
    """
    return np.asarray(np.logaddexp(0, np.asarray(raw, np.float64)))


def inverse_softplus(value: npt.ArrayLike) -> Array:
    """``log(exp(value) - 1)``, as ``value + log(-expm1(-value))``, which neither overflows nor cancels.

    >>> softplus(inverse_softplus([1e-20, 1.0, 1000.0]))
    array([1.e-20, 1.e+00, 1.e+03])
    """
    value = np.asarray(value, np.float64)
    return np.asarray(value + np.log(-np.expm1(-value)))


def grid_of(bits: int, role: Role, variant: str) -> tuple[int, bool]:
    """Return n or q, and whether the grid is the one of odd multiples of 1/n, which has no 0.

    >>> grid_of(2, "activation", "released"), grid_of(2, "weight", "released"), grid_of(2, "weight", "paper")
    ((3, False), (1, False), (3, True))
    """
    n = grid.top_code(bits)
    if role == "activation":
        return n, False
    return (n, True) if variant == "paper" else (n // 2, False)


def init(x: npt.ArrayLike, bits: int, role: Role, *, variant: str = "released") -> Params:
    """Initialise both scales with the same number.

    For weights it is 0.9 times their largest magnitude. For activations it is the 95th percentile of the first batch's
    positive numbers, signed ones too (the code means to take magnitudes there, and doesn't): of N of them, sorted from
    0, the one with the number floor(0.95 N). Where there is none the code takes 1e-3; here that is refused.
    For networks with ReLU6 the code takes 6 if that is less.

    Raises
    ------
    ValueError
        If `x` is not finite, empty or all zero, or has no positive number in the case of activations.

    >>> softplus(init([-10.0, 1.0], 2, "weight").a)
    array(9.)
    >>> softplus(init(range(-30, 21), 2, "signed_activation").c)  # of 20 positive ones, the number 19
    array(20.)
    """
    METHOD.check(bits, role, variant)
    scale = INITIAL_SHARE * grid.largest_magnitude(x) if role == "weight" else _upper_quantile(x)
    raw = inverse_softplus(scale)
    return Params(raw, raw, bits, role, variant)


def _upper_quantile(x: npt.ArrayLike) -> float:
    x = checks.as_float(x)
    positive = np.sort(x[x > 0])
    if not (positive.size and np.isfinite(x).all()):
        raise checks.refuse(
            "x", "NaN or infinity" if positive.size else "no positive number", "finite, partly positive"
        )
    return float(positive[int(positive.size * QUANTILE)])


def forward(x: npt.ArrayLike, params: Params, *, training: bool, noise: None = None) -> Array:
    """Quantize `x`; training and test are the same. Scales are computed in float64, the rest in the dtype of `x`.

    >>> raw = inverse_softplus(1.0)
    >>> forward([-3.0, -0.2, 0.0, 0.9], Params(raw, raw, 2, "weight"), training=True)
    array([-1.,  0.,  0.,  1.])
    """
    checks.refuse_noise(noise, METHOD.title)
    x = checks.as_float(x)
    return _value(_rounded(x, params), params)


def codes(x: npt.ArrayLike, params: Params) -> Array:
    """Integers from 0, the lowest level; 2^bits of them, in ``released`` one less for signed data.

    Raises ValueError on NaN.
    """
    return grid.integers(_rounded(checks.as_float(x), params)) + _lowest(params)


def decode(q: npt.ArrayLike, params: Params) -> Array:
    """Values of codes."""
    return _value(checks.as_float(q) - _lowest(params), params)


def levels(params: Params) -> Array:
    """The values that `forward` can return, ascending along the first axis.

    >>> raw = inverse_softplus(3.0)
    >>> levels(Params(raw, raw, 2, "weight")), levels(Params(raw, raw, 2, "weight", "paper"))
    (array([-3.,  0.,  3.]), array([-3., -1.,  1.,  3.]))
    """
    steps, _ = grid_of(params.bits, params.role, params.variant)
    return decode(grid.all_codes(steps + _lowest(params) + 1, params.a), params)


def integer_grid(params: Params) -> IntegerGrid | None:
    """The levels as a unit times integers: c over the number of steps, times odd integers where 0 is no level.

    >>> raw = inverse_softplus(1.0)
    >>> integer_grid(Params(raw, raw, 2, "weight"))
    IntegerGrid(unit=array(1.), lowest=-1, stride=1)
    >>> integer_grid(Params(raw, raw, 2, "weight", "paper"))
    IntegerGrid(unit=array(0.33333333), lowest=-3, stride=2)
    """
    steps, is_odd = grid_of(params.bits, params.role, params.variant)
    unit = np.asarray(softplus(params.c) / steps)
    return IntegerGrid(unit, -steps, stride=2) if is_odd else IntegerGrid(unit, -_lowest(params))


def threshold_distance(x: npt.ArrayLike, params: Params) -> Array:
    """Distance of the number that is rounded from the nearest transition point, in levels."""
    return grid.tie_distance(_position(_clipped(checks.as_float(x), params), params))


def surrogate(x: npt.ArrayLike, params: Params, *, at: tuple[npt.ArrayLike, Params]) -> Array:
    """What training differentiates at `at`: what rounding adds to x/a is held fixed, and which values are clipped."""
    x, (x0, params0) = checks.as_float(x), at
    x0 = checks.as_float(x0)
    p0 = _clipped(x0, params0)
    rest = _normalized(_rounded(x0, params0), params0) - p0
    p = np.where(_inside(x0, params0), x / softplus(params.a), p0)
    return np.asarray((p + rest) * softplus(params.c))


def vjp(x: npt.ArrayLike, params: Params, grad: npt.ArrayLike) -> tuple[Array, dict[str, Array]]:
    """Gradients for x and the raw parameters, by the chain rule through a, c and their softplus.

    >>> raw = inverse_softplus(1.0)
    >>> vjp([-2.0, 0.4, 1.0], Params(raw, raw, 2, "weight"), [1.0, 1.0, 1.0])[0]
    array([0., 1., 0.])
    """
    x = checks.as_float(x)
    grad = np.asarray(grad, x.dtype)
    a, c = (softplus(raw).astype(x.dtype) for raw in (params.a, params.c))
    grad_x = grid.keep_nan(x, np.where(_inside(x, params), grad * c / a, x.dtype.type(0)))
    by_a = grid.unbroadcast(-grad_x * _clipped(x, params), params.a.shape)
    by_c = grid.unbroadcast(grad * _normalized(_rounded(x, params), params), params.c.shape)
    return grid.unbroadcast(grad_x, x.shape), {
        "a": by_a * _sigmoid(params.a).astype(x.dtype),
        "c": by_c * _sigmoid(params.c).astype(x.dtype),
    }


def activation_shift(mean0: npt.ArrayLike, var0: npt.ArrayLike, mean1: npt.ArrayLike, var1: npt.ArrayLike) -> float:
    """AIWQ of one layer: how far its outputs move with an update of its weights.

    ``KL(N(mean1, var1) || N(mean0, var0)) = (log(var0/var1) + (var1 + (mean1 - mean0)^2) / var0 - 1) / 2``, averaged
    over the channels whose outputs are constant neither before nor after.

    Parameters
    ----------
    mean0, var0, mean1, var1 : array_like of shape (C,)
        Mean and variance (unbiased, in the code) of the outputs of each channel, before and after the update.

    Raises
    ------
    ValueError
        If a number is not finite or a variance negative, or if every channel has a constant output.

    >>> activation_shift([0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [1.0, 1.0])
    0.25
    """
    m0, m1 = checks.finite("mean0", mean0), checks.finite("mean1", mean1)
    v0, v1 = np.asarray(var0, np.float64), np.asarray(var1, np.float64)
    for name, value in (("var0", v0), ("var1", v1)):
        if not np.all((value >= 0) & np.isfinite(value)):
            raise checks.refuse(name, value.tolist(), "finite and not negative")
    varies = (v0 > 0) & (v1 > 0)
    if not varies.any():
        raise checks.refuse("var0 and var1", [v0.tolist(), v1.tolist()], "positive for one channel at least")
    m0, v0, m1, v1 = (value[varies] for value in (m0, v0, m1, v1))
    r = (v1 - v0) / v0  # log1p keeps the digits where little moves
    return float(np.mean(r - np.log1p(r) + np.square(m1 - m0) / v0) / 2)


def average_shift(average: float, shift: float) -> float:
    """Take one step's shift into a layer's average, by which layers are ordered; it starts at 0.

    The code has 0.999 of the average and 0.001 of the shift, and leaves out shifts above 1.

    >>> round(average_shift(0.0, 0.5), 9), average_shift(0.25, 1.5)
    (0.0005, 0.25)
    """
    return average if shift > LARGEST_SHIFT else MOMENTUM * average + (1 - MOMENTUM) * shift


def freezing_order(shifts: Mapping[str, float], stages: int = 3) -> list[list[str]]:
    """Divide layers into the groups that PROFIT freezes one after another, the greatest shift first.

    Stage k of the training updates all layers that are not frozen yet; after it, group k is frozen. So the first stage
    trains all layers, and the last only the last group, with which the training ends. The code orders convolutions
    alone: a classifier is quantized and never frozen.

    Parameters
    ----------
    shifts : mapping of str to float
        `activation_shift` of each layer, or its `average_shift`; equal ones stay in the order given.
    stages : int
        Number of groups. The first k of them have floor(k N / stages) of N layers, so that groups grow by one at most.

    Raises
    ------
    ValueError
        If a shift is not finite, or `stages` is not a whole number from 1.

    >>> freezing_order({"a": 0.1, "b": 0.9, "c": 0.5, "d": 0.5, "e": 0.3})
    [['b'], ['c', 'd'], ['e', 'a']]
    """
    if not isinstance(stages, int) or isinstance(stages, bool) or stages < 1:
        raise checks.refuse("stages", stages, "a whole number from 1")
    for name, shift in shifts.items():
        if not math.isfinite(shift):
            raise checks.refuse(f"shift of {name}", shift, "finite")
    names = sorted(shifts, key=lambda name: -shifts[name])
    first = [k * len(names) // stages for k in range(stages + 1)]
    return [names[start:stop] for start, stop in itertools.pairwise(first)]


def _clipped(x: Array, params: Params) -> Array:
    low = 0 if params.role == "activation" else -1
    return np.asarray(np.clip(x / softplus(params.a).astype(x.dtype), low, 1))


def _inside(x: Array, params: Params) -> Array:
    low = 0 if params.role == "activation" else -1
    p = x / softplus(params.a).astype(x.dtype)
    return np.asarray((p > low) & (p < 1))


def _position(p: Array, params: Params) -> Array:
    """What is rounded: ``(p + 1) n / 2``, or n p."""
    steps, is_odd = grid_of(params.bits, params.role, params.variant)
    return (p + 1) * steps / 2 if is_odd else p * steps


def _rounded(x: Array, params: Params) -> Array:
    return grid.round_half_even(_position(_clipped(x, params), params))


def _normalized(level: Array, params: Params) -> Array:
    steps, is_odd = grid_of(params.bits, params.role, params.variant)
    return np.asarray((2 * level - steps) / steps if is_odd else level / steps)


def _value(level: Array, params: Params) -> Array:
    return np.asarray(_normalized(level, params) * softplus(params.c).astype(level.dtype))


def _lowest(params: Params) -> int:
    """What makes the lowest rounded number 0."""
    steps, is_odd = grid_of(params.bits, params.role, params.variant)
    return 0 if is_odd or params.role == "activation" else steps


def _sigmoid(raw: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-raw)))
