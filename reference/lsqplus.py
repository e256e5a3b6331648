"""LSQ+, learned step size and offset.

Source: Bhalgat, Lee, Nagel, Blankevoort, Kwak: LSQ+, CVPR workshops 2020, arXiv 2004.09576 (formulas from memory of the
paper). No official code was found; held against ZouJiu1/LSQplus (its second version) and IBM's
foundation-model-stack/fms-model-optimizer.

With s the step size, beta the offset, and n and p the lowest and the highest level,

    x-hat = round(clip((x - beta) / s, n, p)) * s + beta.

Activations have n = 0 and p = 2^bits - 1, and both s and beta are learned: a range that need not start at 0 serves
functions such as swish. Weights have n = -2^(bits-1), p = 2^(bits-1) - 1 and beta = 0, which is not learned; that is
LSQ. Inside the range s receives round(q) - q with q = (x - beta)/s, at and beyond its ends n or p, times LSQ's
1/sqrt(N p). beta receives 1 from values at and beyond the ends, and nothing from those inside, where it cancels. The
paper names no rule for ties; here they go to even, as in torch.round.

Three variants:

- ``paper`` leaves the gradient of beta as it is, counts the elements of one image among N, and starts the step size of
  weights at max(|mu - 3 sigma|, |mu + 3 sigma|) / 2^(bits-1), and those of activations, with beta, at the least squared
  error (`minimize`).
- ``public``, as ZouJiu1/LSQplus, multiplies the gradient of beta by 1/sqrt(N p), too; counts the whole tensor, all
  images of it, in N; lets the ends themselves count as inside the range; divides by 2^bits - 1, which makes the first
  range of weights half as wide; and starts activations with the range of the first batch. That code also rounds ties
  away from zero and keeps the first batch's N, which no variant does.
- ``fms-model-optimizer``, as IBM's code, treats weights and activations alike: n = -2^(bits-1), p = 2^(bits-1) - 1 and
  a learned beta, the middle of the range and not its lower end. Neither gradient has a factor. s and beta start such
  that the levels span the first batch, or the weights: s = (max - min)/(2^bits - 1), beta = min + 2^(bits-1) s. (Its
  refactored twin, in ``quant_refactor``, rounds that beta to a whole number, whatever s is; no variant does.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reference import checks, grid, lsq
from reference.grid import Array, IntegerGrid, Role
from reference.registry import Method

METHOD = Method(
    name="lsqplus",
    title="LSQ+",
    source="Bhalgat et al.: LSQ+, CVPR workshops 2020, arXiv 2004.09576 (held against ZouJiu1/LSQplus and "
    "foundation-model-stack/fms-model-optimizer)",
    bits={"weight": range(2, 9), "activation": range(1, 9), "signed_activation": range(1, 9)},
    variants=("paper", "public", "fms-model-optimizer"),
    learnable=("step", "beta"),
    fixed={("weight", variant): ("beta",) for variant in ("paper", "public")},  # 0
    in_input_units=("step", "beta"),
)

# The search for the first step size and offset.
ENDS = 16  # candidates for ends of the range divide it, and its elements by rank, into as many parts
THRESHOLDS = 2048  # of all candidates that are followed together
ITERATIONS = 100
NO_BETTER = 1e-9  # of the variation of the data: far above rounding errors, so that what replaces the range is better


@dataclass(frozen=True)
class Params:
    """Parameters of LSQ+.

    Attributes
    ----------
    step : ndarray
        Step size s, positive, float64, of shape () or (C, 1, ...).
    beta : ndarray
        Offset, finite, float64, of the shape of the step size; 0 for weights, but in ``fms-model-optimizer``.
    bits : int
        2 to 8 for weights, 1 to 8 for activations.
    role : {"weight", "activation", "signed_activation"}
        Both kinds of activations are treated alike.
    variant : {"paper", "public", "fms-model-optimizer"}
        See the module's text.
    """

    step: Array
    beta: Array
    bits: int
    role: Role
    variant: str = "paper"

    def __post_init__(self) -> None:
        object.__setattr__(self, "variant", METHOD.check(self.bits, self.role, self.variant))
        object.__setattr__(self, "step", checks.positive("step", self.step))
        object.__setattr__(self, "beta", checks.finite("beta", self.beta))


def level_range(bits: int, role: Role, variant: str = "paper") -> tuple[int, int]:
    """-n and p: 2^(bits-1) and one less for weights, 0 and 2^bits - 1 for activations.

    In ``fms-model-optimizer`` activations are as weights.

    >>> level_range(3, "weight"), level_range(3, "activation"), level_range(3, "activation", "fms-model-optimizer")
    ((4, 3), (0, 7), (4, 3))
    """
    n = grid.top_code(bits)
    return (n // 2 + 1, n // 2) if role == "weight" or variant == "fms-model-optimizer" else (0, n)


def gradient_scale(x: npt.ArrayLike, params: Params) -> float:
    """``1 / sqrt(N p)``, the factor of the gradient for s (and in ``public`` for beta).

    N is the number of elements that share a step size; for activations, those of one image (the first axis, where
    there are several, is the batch). ``public`` counts all of `x`, whatever shares a step size. In
    ``fms-model-optimizer`` the factor is 1.

    >>> gradient_scale(np.zeros((8, 3)), Params(1.0, 0.0, 2, "activation"))
    0.3333333333333333
    """
    if params.variant == "fms-model-optimizer":
        return 1.0
    _, top = level_range(params.bits, params.role, params.variant)
    if params.variant == "public":
        return 1 / math.sqrt(max(math.prod(np.shape(x)), 1) * top)
    return 1 / math.sqrt(lsq.elements_per_step(np.shape(x), params.step.size, params.role) * top)


def init(x: npt.ArrayLike, bits: int, role: Role, *, variant: str = "paper") -> Params:
    """Initialise s (and beta) from the weights or the first batch.

    Weights start with ``max(|mu - 3 sigma|, |mu + 3 sigma|) / 2^(bits-1)`` (``public``: ``/ (2^bits - 1)``) and beta 0;
    that sigma is the unbiased deviation is our choice. Activations start with `minimize`, in ``public`` with
    s = (max - min)/p and beta = min, which span the first batch. In ``fms-model-optimizer`` levels span either.

    Raises
    ------
    ValueError
        If `x` is empty, has no spread or is not finite.

    >>> init([0.0, 1.0, 2.0, 3.0], 2, "activation")
    Params(step=array(1.), beta=array(0.), bits=2, role='activation', variant='paper')
    """
    METHOD.check(bits, role, variant)
    x = np.asarray(checks.as_float(x), np.float64)
    low, high = (float(x.min()), float(x.max())) if x.size else (0.0, 0.0)
    if not 0 < high - low < math.inf:
        raise checks.refuse("range of x", (low, high), "finite, with values that differ")
    if role == "weight" and variant != "fms-model-optimizer":
        mean, deviation = float(x.mean()), grid.deviation(x)
        whole = 2 ** (bits - 1) if variant == "paper" else grid.top_code(bits)
        step = max(abs(mean - 3 * deviation), abs(mean + 3 * deviation)) / whole
        return Params(np.asarray(step), np.zeros(()), bits, role, variant)
    n, (below, _) = grid.top_code(bits), level_range(bits, role, variant)
    step, beta = minimize(x, n) if variant == "paper" else ((high - low) / n, low)
    return Params(np.asarray(step), np.asarray(beta + below * step), bits, role, variant)


def minimize(x: npt.ArrayLike, n: int) -> tuple[float, float]:
    """Step size and offset for a small squared error of `x`, rounded to the nearest of beta, beta + s ... beta + n s.

    The paper minimises that error over both and does not say how. Here two steps alternate, neither of which can raise
    it: every element is encoded by its nearest level, then s and beta become those of least squared error for these
    codes. This starts from the range of the data and from ranges between any two of 34 points: 17 evenly spaced in the
    range, 17 evenly spaced among the elements by rank. The best of them are followed until nothing changes, at most for
    100 rounds, and the best is taken.

    The data are sorted once, and summed up to each element; then a round takes n look-ups.

    For n = 1 there is also a start from the best cut in two of all, and the result is the least error that there is.
    For n > 1 this is not guaranteed, but: the error is no larger than that of the range (s = (max - min)/n,
    beta = min), which is the result if nothing is better by more than 1e-9 of the variation; and if it is another,
    where the rounds have ended of themselves, then changing the codes alone, or s and beta alone, lowers it no further.

    Parameters
    ----------
    x : array_like
        Finite, not all equal.
    n : int
        Number of steps: 2^bits - 1.

    >>> step, beta = minimize([10.0, 10.2, 10.4, 11.0, 13.0], 1)
    >>> round(step, 6), round(beta, 6)
    (2.6, 10.4)
    """
    x = np.asarray(x, np.float64).ravel()
    low, width = float(x.min()), float(x.max() - x.min())
    y = np.sort((x - low) / width)
    count = len(y)
    mean = y.cumsum()[-1] / count
    y = y - mean
    sums = np.concatenate([[0.0], y.cumsum()])
    variation = (y * y).cumsum()[-1]

    points = np.concatenate([np.arange(ENDS + 1) / ENDS - mean, y[np.arange(ENDS + 1) * (count - 1) // ENDS]])
    one, other = np.triu_indices(len(points), 1)
    start, end = np.minimum(points[one], points[other]), np.maximum(points[one], points[other])
    if n == 1:
        start, end = _best_cut(sums)
    start, end = np.concatenate([[-mean], start]), np.concatenate([[1 - mean], end])
    step, beta = (end - start) / n, start
    slope, offset, error, codes, spread = _fit(y, sums, variation, step, beta, n)
    # The error of the range: that of the fit to its codes, and what s and beta are off.
    of_range = error[0] + (slope[0] - step[0]) ** 2 * spread[0]
    of_range += count * (offset[0] - beta[0] + (slope[0] - step[0]) * codes[0] / count) ** 2
    best = np.argsort(error, kind="stable")[: max(THRESHOLDS // n, 1)]
    step, beta = slope[best], offset[best]
    for _ in range(ITERATIONS):
        slope, offset, error, *_ = _fit(y, sums, variation, step, beta, n)
        if np.array_equal(slope, step) and np.array_equal(offset, beta):
            break
        step, beta = slope, offset
    k = error.argmin()
    if not of_range - error[k] > NO_BETTER * variation:
        return width / n, low
    return float(slope[k] * width), float(low + (offset[k] + mean) * width)


def _best_cut(sums: Array) -> tuple[Array, Array]:
    """Means of the two parts, as arrays of one, of the cut with the least squared error; `sums` are up to each."""
    count, inner = len(sums) - 1, sums[1:-1]
    size = np.arange(1.0, count)
    rest = sums[-1] - inner
    cut = (inner * inner / size + rest * rest / (count - size)).argmax()
    return inner[[cut]] / size[cut], rest[[cut]] / (count - size[cut])


def _fit(y: Array, sums: Array, variation: float, step: Array, beta: Array, n: int) -> tuple[Array, ...]:
    """Encode sorted data by each pair of K steps and offsets; fit both anew to the codes.

    Returns those, the squared error that they leave (infinite where all have one code, whose pair stays), the sum of
    the codes and N times their variance. The code of an element is the number of thresholds that it reaches.
    """
    count, total = len(y), sums[-1]
    level = np.arange(1.0, n + 1)
    below = np.searchsorted(y, beta[:, None] + (level - 0.5) * step[:, None])
    above = (count - below).astype(np.float64)
    codes, squares = above.sum(1), (above * (2 * level - 1)).sum(1)
    products = (total - sums[below]).cumsum(1)[:, -1]
    spread, shared = squares - codes * codes / count, products - codes * total / count
    fitted = (spread > 0) & (shared > 0)
    slope = np.where(fitted, shared / np.where(fitted, spread, 1), step)
    offset = np.where(fitted, (total - slope * codes) / count, beta)
    error = np.where(fitted, variation - total * total / count - slope * shared, math.inf)
    return slope, offset, error, codes, spread


def squared_error(x: npt.ArrayLike, params: Params) -> float:
    """Sum of the squared differences between `x` and its quantized values.

    >>> squared_error([0.25, 3.5], Params(1.0, 0.0, 2, "activation"))
    0.3125
    """
    x = checks.as_float(x)
    return float(np.square(forward(x, params, training=False) - x).sum())


def forward(x: npt.ArrayLike, params: Params, *, training: bool, noise: None = None) -> Array:
    """Quantize `x` as ``round(clip((x - beta) / s)) * s + beta``, in this order; training and test are the same.

    >>> forward([-9.0, -0.5, 0.25, 9.0], Params(0.5, -1.0, 2, "activation"), training=True)
    array([-1. , -0.5,  0. ,  0.5])
    """
    checks.refuse_noise(noise, METHOD.title)
    x = checks.as_float(x)
    return _value(_rounded(x, params), params)


def codes(x: npt.ArrayLike, params: Params) -> Array:
    """Integers 0 ... 2^bits - 1, the lowest level being 0. Raises ValueError on NaN."""
    low, _ = level_range(params.bits, params.role, params.variant)
    return grid.integers(_rounded(checks.as_float(x), params)) + low


def decode(q: npt.ArrayLike, params: Params) -> Array:
    """Values of codes, ``(q + n) s + beta``."""
    low, _ = level_range(params.bits, params.role, params.variant)
    return _value(checks.as_float(q) - low, params)


def levels(params: Params) -> Array:
    """The 2^bits values that `forward` can return, ascending along the first axis."""
    return decode(grid.all_codes(grid.top_code(params.bits) + 1, params.step), params)


def integer_grid(params: Params) -> IntegerGrid | None:
    """The levels as a unit times integers: s times n ... p for weights whose offset is 0. None with a learned offset.

    >>> integer_grid(Params(0.5, 0.0, 2, "weight"))
    IntegerGrid(unit=array(0.5), lowest=-2, stride=1)
    >>> integer_grid(Params(0.5, -1.0, 2, "activation"))
    """
    if "beta" in METHOD.learned(params.role, params.variant) or params.beta.any():
        return None
    low, _ = level_range(params.bits, params.role, params.variant)
    return IntegerGrid(params.step, -low)


def threshold_distance(x: npt.ArrayLike, params: Params) -> Array:
    """Distance of (x - beta)/s from the nearest transition point, in levels."""
    low, high = level_range(params.bits, params.role, params.variant)
    return grid.tie_distance(np.clip(_scaled(checks.as_float(x), params), -low, high))


def surrogate(x: npt.ArrayLike, params: Params, *, at: tuple[npt.ArrayLike, Params]) -> Array:
    """What training differentiates at `at`: what rounding adds is held fixed, and so is which values are clipped.

    The step size moves by `gradient_scale` of its change, in ``public`` the offset too.
    """
    x, (x0, params0) = checks.as_float(x), at
    x0 = checks.as_float(x0)
    scale = gradient_scale(x0, params0)
    step = params0.step + scale * (params.step - params0.step)
    beta = params0.beta + (scale if params0.variant == "public" else 1) * (params.beta - params0.beta)
    rounded, inside = _rounded(x0, params0), _inside(x0, params0)
    level = np.where(inside, (x - beta) / step + (rounded - _scaled(x0, params0)), rounded)
    return np.asarray(level * step + beta)


def vjp(x: npt.ArrayLike, params: Params, grad: npt.ArrayLike) -> tuple[Array, dict[str, Array]]:
    """Gradients for x, s and beta.

    >>> grad_x, grads = vjp([0.6, 9.0, -9.0], Params(1.0, 0.0, 2, "activation"), [1.0, 1.0, 1.0])
    >>> grad_x, grads["beta"]
    (array([1., 0., 0.]), array(2.))
    """
    x = checks.as_float(x)
    grad = np.asarray(grad, x.dtype)
    inside, rounded = _inside(x, params), _rounded(x, params)
    zero, scale = x.dtype.type(0), x.dtype.type(gradient_scale(x, params))
    by_step = grid.unbroadcast(grad * np.where(inside, rounded - _scaled(x, params), rounded), params.step.shape)
    by_beta = grid.unbroadcast(grid.keep_nan(x, np.where(inside, zero, grad)), params.beta.shape)
    return grid.unbroadcast(grid.keep_nan(x, np.where(inside, grad, zero)), x.shape), {
        "step": by_step * scale,
        "beta": by_beta * scale if params.variant == "public" else by_beta,
    }


def _scaled(x: Array, params: Params) -> Array:
    return np.asarray((x - params.beta.astype(x.dtype)) / params.step.astype(x.dtype))


def _rounded(x: Array, params: Params) -> Array:
    low, high = level_range(params.bits, params.role, params.variant)
    return grid.round_half_even(np.clip(_scaled(x, params), -low, high))


def _value(level: Array, params: Params) -> Array:
    return np.asarray(level * params.step.astype(level.dtype) + params.beta.astype(level.dtype))


def _inside(x: Array, params: Params) -> Array:
    """Whether values count as not clipped; n and p themselves do in ``public``."""
    low, high = level_range(params.bits, params.role, params.variant)
    q = _scaled(x, params)
    return np.asarray((q >= -low) & (q <= high) if params.variant == "public" else (q > -low) & (q < high))
