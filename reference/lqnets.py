"""LQ-Nets, learned quantization with a basis: levels are the sums that a small basis can form.

Source: Zhang et al.: LQ-Nets: Learned Quantization for Highly Accurate and Compact Deep Neural Networks, ECCV 2018
(arXiv 1807.10029). ``released`` was held against the authors' code, github.com/microsoft/LQ-Nets; ``paper`` is from
memory.

With a basis v of b numbers, the levels are B v for all rows B in {-1, 1}^b (weights) or {0, 1}^b (activations after a
ReLU). A value goes to the nearest level: the transition points are the midpoints of neighbouring levels. Midpoints go
down, in the code; the paper names no rule for them.

The basis receives no gradient. It is fitted to the data (QEM, quantization error minimisation): encode all x with the
present basis, solve the least squares problem for v' with the encodings B fixed, and let the basis follow:
``v <- (1 - m) v + m v'``. Two variants:

- ``released``: m = 0.1 / (1 - 0.9^t) in step t = 1, 2, ... The code's average is TensorFlow 1's, which is rid of its
  bias towards 0: after t steps the basis is the sum of 0.1 * 0.9^(t-i) v'_i over 1 - 0.9^t, and the first step
  *replaces* it. Weights have ``v' = (B^T B + eps I)^-1 (B^T x + eps v)`` with eps = 1e-4; activations have no eps, and
  where their B^T B is singular (an element of the basis that no activation uses, say), where the code stops with an
  error, no step is made here. Weights start from the deviation sqrt(2/n) that initial weights could have, whatever
  they are.
- ``paper``: m = 0.1, no eps, the solution of minimal norm where B^T B is singular. Weights start from the deviation
  that they have.

No part of a step raises |x - B v|^2: encoding takes the nearest level; the solution minimises
|x - B v'|^2 + eps |v' - v|^2, which is the error itself at v' = v; and the error is convex on the way to the solution.

The gradient passes weights unchanged everywhere. Activations above the highest level receive none; below the lowest
one it passes, as the code clips at the top only.

Not copied is a mistake of the code's: its lowest level always has the encoding of a positive basis, -1 or 0 throughout,
and of activations the value 0, also where an element of the basis is negative, so that another row is the lowest.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from reference import checks, grid
from reference.grid import Array, IntegerGrid, Role
from reference.registry import Method

METHOD = Method(
    name="lqnets",
    title="LQ-Nets",
    source="Zhang et al.: LQ-Nets, ECCV 2018, arXiv 1807.10029; code: github.com/microsoft/LQ-Nets",
    bits={"weight": range(1, 9), "activation": range(1, 9)},
    variants=("released", "paper"),
    learnable=(),
    in_input_units=("basis",),
    channelwise=True,
)

QUARTILE = 0.6745  # of the normal distribution: half of its numbers are within as many standard deviations
RIDGE = 1e-4  # of weights in `released`
MOMENTUM = 0.9
CUTOFF = 1e-12  # eigenvalues of B^T B below this share of the largest are zero


@dataclass(frozen=True)
class Params:
    """Parameters of LQ-Nets.

    Attributes
    ----------
    basis : ndarray
        Basis v, float64, of shape (b,), or (b, C, 1, ...) for one basis a channel, the first axis of the input. Its
        elements may have any sign and order and may be equal, so that levels coincide and have several codes; one
        element at least must differ from 0. Magnitudes end at 1e30, and the largest starts at 1e-30.
    bits : int
        b, 1 to 8.
    role : {"weight", "activation"}
        Levels from {-1, 1}^b or {0, 1}^b.
    variant : {"released", "paper"}
        See the module's text; makes a difference to `init` and `qem_step` alone.
    steps : ndarray
        How many steps of QEM have been made, whole numbers of shape () or (C, 1, ...), by default 0: what ``released``
        averages with.
    """

    basis: Array
    bits: int
    role: Role
    variant: str = "released"
    steps: Array | int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "variant", METHOD.check(self.bits, self.role, self.variant))
        basis = checks.finite("basis", self.basis)
        if not basis.ndim or self.bits != len(basis):
            raise checks.refuse("shape of basis", basis.shape, f"({self.bits},) or ({self.bits}, C, 1, ...)")
        checks.positive("largest magnitude in basis", np.abs(basis).max(axis=0))
        object.__setattr__(self, "basis", basis)
        steps = np.broadcast_to(np.asarray(self.steps, np.float64), basis.shape[1:])
        if not np.all((steps >= 0) & (steps < 2**53) & (steps == np.floor(steps))):
            raise checks.refuse("steps", steps.tolist(), "whole numbers from 0")
        object.__setattr__(self, "steps", steps.astype(np.int64))


def encodings(bits: int, role: Role) -> Array:
    """All B, of shape (2^b, b), int64: row k has the binary digits of k, the lowest first, and -1 for 0 in weights.

    >>> encodings(2, "weight").tolist()
    [[-1, -1], [1, -1], [-1, 1], [1, 1]]
    """
    digits = (np.arange(grid.top_code(bits) + 1)[:, None] >> np.arange(bits)) & 1
    return 2 * digits - 1 if role == "weight" else digits


def init(x: npt.ArrayLike, bits: int, role: Role, *, channels: bool = False, variant: str = "released") -> Params:
    """Initialise the basis with powers of two, so that the first levels are uniform.

    Activations start with ``v_j = 2^j * 0.6745 * 2 / (2^b - 1)``, whatever the data are. Weights start with
    ``v_j = 2^j * 0.6745 s / 2^(b-1)``. In ``released`` s is sqrt(2/n), where n is the number of weights of an output
    channel's kernel times that of output channels: all of them, by the second axis. In ``paper`` it is the unbiased
    standard deviation that `x` has.

    Parameters
    ----------
    channels : bool
        Give each element of the first axis of `x` a basis of its own.

    Raises
    ------
    ValueError
        If there are no weights; in ``paper``, if weights (in any channel) are fewer than two, all equal, or not finite;
        with `channels`, if there are none.

    >>> init([-2.0, 0.0, 2.0], 2, "weight", variant="paper").basis
    array([0.6745, 1.349 ])
    >>> init(np.ones((8, 16, 2, 2)), 2, "weight").basis * 4  # n = 8 * 2 * 2
    array([0.33725, 0.6745 ])
    """
    METHOD.check(bits, role, variant)
    x = checks.as_float(x)
    shape = grid.channel_shape(x) if channels else ()
    if role == "activation":
        scale = np.full(shape, 2 / grid.top_code(bits))
    elif variant == "paper":
        rows = x.reshape(shape[0], -1) if channels else [x]
        scale = np.reshape([grid.deviation(row) for row in rows], shape) / 2 ** (bits - 1)
    else:
        scale = np.full(shape, math.sqrt(2 / fan_out(x.shape)) / 2 ** (bits - 1))
    powers = 2.0 ** np.arange(bits).reshape(-1, *[1] * len(shape))
    return Params(powers * (QUARTILE * scale), bits, role, variant)


def fan_out(shape: tuple[int, ...]) -> int:
    """Return how many weights there are along all axes but the second: kernel size times output channels.

    Raises
    ------
    ValueError
        If there are no weights.

    >>> fan_out((8, 16, 3, 3)), fan_out((8,))
    (72, 8)
    """
    if 0 in shape:
        raise checks.refuse("shape of x", shape, "without a 0 (there are no weights)")
    return math.prod(shape[:1] + shape[2:])


def forward(x: npt.ArrayLike, params: Params, *, training: bool, noise: None = None) -> Array:
    """Quantize `x` to the nearest level; training and test are the same, the basis being fixed.

    >>> forward([-9.0, 0.2, 1.5, 1.6], Params([1.0, 2.0], 2, "activation"), training=True)
    array([0., 0., 1., 2.])
    """
    checks.refuse_noise(noise, METHOD.title)
    x = checks.as_float(x)
    value = _pick(_sorted(params, x.dtype)[0], _codes(x, params))
    return np.where(np.isnan(x), x, value)


def codes(x: npt.ArrayLike, params: Params) -> Array:
    """Integers 0 ... 2^bits - 1: how many transition points are below `x`. Raises ValueError on NaN."""
    x = checks.as_float(x)
    if np.isnan(x).any():
        raise checks.refuse("x", "NaN", "free of NaN (NaN has no code)")
    return _codes(x, params)


def decode(q: npt.ArrayLike, params: Params) -> Array:
    """Values of codes: level q in ascending order. Raises ValueError if there is no such level."""
    q = checks.as_float(q)
    top = grid.top_code(params.bits)
    if not np.all((q >= 0) & (q <= top)):
        raise checks.refuse("codes", q.tolist(), f"whole numbers from 0 to {top}")
    return _pick(_sorted(params, q.dtype)[0], grid.integers(q))


def levels(params: Params) -> Array:
    """The 2^bits values that `forward` can return, ascending along the first axis, then of the channels' shape."""
    return _sorted(params, np.dtype(np.float64))[0]


def integer_grid(params: Params) -> IntegerGrid | None:
    """None: the levels, sums of a learned basis, are no multiples of a unit."""
    return None


def thresholds(params: Params, dtype: npt.DTypeLike = np.float64) -> Array:
    """The 2^bits - 1 transition points, ascending: midpoints of neighbouring levels, computed in `dtype`.

    >>> thresholds(Params([1.0, 2.0], 2, "weight"))
    array([-2.,  0.,  2.])
    """
    values = _sorted(params, np.dtype(dtype))[0]
    return np.asarray((values[:-1] + values[1:]) / 2)


def threshold_distance(x: npt.ArrayLike, params: Params) -> Array:
    """Distance of `x` from the nearest transition point, in mean distances of neighbouring levels."""
    x, values = checks.as_float(x), levels(params)
    unit = (values[-1] - values[0]) / grid.top_code(params.bits)
    return np.asarray(functools.reduce(np.minimum, (np.abs(x - t) / unit for t in thresholds(params))))


def surrogate(x: npt.ArrayLike, params: Params, *, at: tuple[npt.ArrayLike, Params]) -> Array:
    """What training differentiates at `at`: the identity, up to the highest level for activations."""
    x, (x0, params0) = checks.as_float(x), at
    if params.role == "weight":
        return x
    return np.where(checks.as_float(x0) > levels(params0)[-1], levels(params)[-1], x)


def vjp(x: npt.ArrayLike, params: Params, grad: npt.ArrayLike) -> tuple[Array, dict[str, Array]]:
    """Gradient for x; no parameter has one.

    >>> vjp([-9.0, 1.0, 3.5], Params([1.0, 2.0], 2, "activation"), [1.0, 1.0, 1.0])[0]
    array([1., 1., 0.])
    """
    x = checks.as_float(x)
    grad = np.asarray(grad, x.dtype)
    top = _sorted(params, x.dtype)[0][-1]
    found = grad if params.role == "weight" else np.where(x > top, x.dtype.type(0), grad)
    return grid.unbroadcast(grid.keep_nan(x, found), x.shape), {}


# Fitting the basis


def quantization_error(x: npt.ArrayLike, params: Params) -> float:
    """``|x - B v|^2``, the sum over all elements.

    >>> quantization_error([0.5, 3.0], Params([1.0], 1, "weight"))
    4.25
    """
    x = checks.as_float(x)
    return float(np.square(x - forward(x, params, training=True), dtype=np.float64).sum())


def qem_step(x: npt.ArrayLike, params: Params) -> Params:
    """One step of QEM: encode, solve for the basis, move some or all of the way to the solution.

    Raises
    ------
    ValueError
        If `x` is empty, not finite or has other channels than the basis.

    >>> x = [1.0, 3.0]  # the solution is 2
    >>> qem_step(x, Params([1.0], 1, "weight", "paper")).basis
    array([1.1])
    >>> first = qem_step(x, Params([1.0], 1, "weight"))
    >>> bool(abs(first.basis - 2) < 1e-4), first.steps
    (True, array(1))
    """
    x, shape = checks.as_float(x), params.basis.shape[1:]
    if shape and (x.ndim != len(shape) or len(x) != shape[0]):
        raise checks.refuse("shape of x", x.shape, f"({shape[0]}, ...), with {len(shape)} axes, as the basis has")
    old = params.basis.reshape(len(params.basis), -1)
    rows = x.reshape(old.shape[1], -1)
    new, steps = old.copy(), np.array(params.steps).reshape(-1)
    for c, (row, v) in enumerate(zip(rows, old.T, strict=True)):
        solution = fit(*normal_equations(row, v, params.role), v, params.role, params.variant)
        if solution is not None:
            m = share(int(steps[c]), params.variant)
            new[:, c] = (1 - m) * v + m * solution
            steps[c] += 1
    return replace(params, basis=new.reshape(params.basis.shape), steps=steps.reshape(shape))


def share(steps: int, variant: str) -> float:
    """How much of the way to the solution the basis moves, after so many steps.

    >>> [round(share(steps, "released"), 3) for steps in (0, 1, 2, 100)], round(share(0, "paper"), 3)
    ([1.0, 0.526, 0.369, 0.1], 0.1)
    """
    return (1 - MOMENTUM) / (1 - MOMENTUM ** (steps + 1) if variant == "released" else 1)


def fit(gram: Array, moment: Array, basis: Array, role: Role, variant: str) -> Array | None:
    """Solve for the basis, given ``B^T B``, ``B^T x`` and the present basis; see the module's text for the variants.

    None for activations of ``released`` if ``B^T B`` is singular.
    """
    if variant == "paper":
        return np.linalg.pinv(gram, rcond=CUTOFF, hermitian=True) @ moment
    if role == "weight":
        return np.linalg.solve(gram + RIDGE * np.eye(len(gram)), moment + RIDGE * basis)
    eigenvalues = np.linalg.eigvalsh(gram)
    return np.linalg.solve(gram, moment) if eigenvalues[0] > CUTOFF * eigenvalues[-1] else None


def normal_equations(x: npt.ArrayLike, basis: npt.ArrayLike, role: Role) -> tuple[Array, Array]:
    """Encode `x` with one basis of shape (b,); return ``B^T B`` of shape (b, b) and ``B^T x`` of shape (b,), float64.

    Raises
    ------
    ValueError
        If `x` is empty or not finite.

    >>> normal_equations([1.0, 3.0, -2.0], [1.0], "weight")
    (array([[3.]]), array([6.]))
    """
    x, params = _data(x), _one_basis(basis, role)
    order = _sorted(params, x.dtype)[1]
    B = encodings(params.bits, role)[order][_codes(x, params)].astype(np.float64)
    return B.T @ B, B.T @ x.astype(np.float64)


def normal_equations_numba(x: npt.ArrayLike, basis: npt.ArrayLike, role: Role) -> tuple[Array, Array]:
    """Compiled twin of `normal_equations`: one pass over `x`, without B.

    Elements and their sum are counted a level, whence ``B^T B``, the same integers, and ``B^T x``, apart by no more
    than ``2 N eps sum|x|`` (N numbers added in another order).

    >>> normal_equations_numba([1.0, 3.0, -2.0], [1.0], "weight")
    (array([[3.]]), array([6.]))
    """
    if not grid.can_compile():
        return normal_equations(x, basis, role)
    x, params = _data(x), _one_basis(basis, role)
    order = _sorted(params, x.dtype)[1]
    count, total = np.zeros(len(order), np.int64), np.zeros(len(order))
    _compiled(x.dtype)(np.ascontiguousarray(x), thresholds(params, x.dtype), count, total)
    B = encodings(params.bits, role)[order].astype(np.float64)
    return (B.T * count) @ B, B.T @ total


def _tally(x, points, count, total):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Count the elements of each code and add them up.

    By blocks that stay in cache, so that the comparisons are vectorised; in four tallies by turns, so that an element
    need not wait for the sum of the one before.
    """
    block, lanes = 1024, 4
    counts, totals = np.zeros((lanes, len(count)), np.int64), np.zeros((lanes, len(count)))
    q = np.zeros(block, np.uint8)
    for start in range(0, len(x), block):
        part = x[start : start + block]
        q[:] = 0
        for point in points:
            for i in range(len(part)):
                q[i] += point < part[i]
        for i in range(len(part)):
            counts[i % lanes, q[i]] += 1
            totals[i % lanes, q[i]] += part[i]
    count += counts.sum(0)
    total += totals.sum(0)


@functools.cache
def _compiled(dtype: np.dtype) -> Any:
    """Compile `_tally` for one dtype, when it is first needed; its first argument may be read-only."""
    import numba  # here, as it takes a while

    number, integer = numba.from_dtype(dtype), numba.int64
    read = numba.types.Array(number, 1, "C", readonly=True)
    return numba.njit([numba.void(read, number[::1], integer[::1], numba.float64[::1])], cache=True)(_tally)


def _one_basis(basis: npt.ArrayLike, role: Role) -> Params:
    basis = np.asarray(basis, np.float64)
    if basis.ndim != 1:
        raise checks.refuse("shape of basis", basis.shape, "(b,)")
    return Params(basis, len(basis), role)


def _data(x: npt.ArrayLike) -> Array:
    x = checks.as_float(x).ravel()
    if not (x.size and np.isfinite(x).all()):
        raise checks.refuse("x", "NaN or infinity" if x.size else "nothing", "finite numbers")
    return x


def _sorted(params: Params, dtype: np.dtype) -> tuple[Array, Array]:
    """Levels in ascending order, and which row of `encodings` each has. Sums start from 0 with the first element."""
    basis = params.basis.astype(dtype)
    values = np.zeros((grid.top_code(params.bits) + 1, *basis.shape[1:]), dtype)
    for column, v in zip(encodings(params.bits, params.role).T, basis, strict=True):
        values = values + column.astype(dtype).reshape(-1, *[1] * v.ndim) * v
    order = values.argsort(axis=0, kind="stable")
    return np.take_along_axis(values, order, axis=0), order


def _codes(x: Array, params: Params) -> Array:
    """How many transition points are below `x`; 0 for NaN."""
    return grid.count_below(x, thresholds(params, x.dtype))


def _pick(table: Array, q: Array) -> Array:
    """Element q of the first axis of `table`, whose other axes broadcast with those of `q`."""
    shape = np.broadcast_shapes(table.shape[1:], q.shape)
    table = table.reshape(len(table), *[1] * (len(shape) - table.ndim + 1), *table.shape[1:])
    table = np.broadcast_to(table, (len(table), *shape))
    return np.take_along_axis(table, np.broadcast_to(q, shape)[None], axis=0)[0]
