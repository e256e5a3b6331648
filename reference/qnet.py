"""QNet, Quantization Networks: a staircase whose steps are sigmoids in training, sharpened from epoch to epoch.

Source: Yang et al.: Quantization Networks, CVPR 2019 (equations numbered as there), held against the authors' code,
aliyun/alibabacloud-quantization-networks. With Y the set of integers to quantize to, s_i = Y_(i+1) - Y_i,

    y = alpha (sum_i s_i sigmoid(T (beta x - b_i)) - o)    in training (Eq. 7),
    y = alpha (sum_i s_i [beta x > b_i] - o)               in test (Eq. 12),

where o, half the sum of all s_i, makes Y symmetric for weights and is 0 for activations; either way -o is the lowest of
Y. All sigmoids are summed at every x. alpha, beta and the biases b_i are learned; T is raised linearly. First values
(Section 4.1): beta = 5p/(4q), p the largest magnitude in Y and q that of the data, and alpha = 1/beta.

The derivative for b_i is -alpha s_i T sigmoid'(T (beta x - b_i)) (Eq. 11). Learned biases may pass one another, and the
paper does not say what then: where the gaps of Y differ, the sums would leave Y. Here s_i belongs to the i-th smallest
bias, in training and in test, so that values stay in Y, and the gradient goes to that bias wherever it stands. Eq. 8
as printed is the derivative only if g is alpha s_i sigmoid(...); the paper's definition of g lacks alpha s_i.

Three variants:

- ``paper``: Y is {-1, 1}, {-1, 0, 1}, {-4, -2, -1, 0, 1, 2, 4} for weights of 1 to 3 bits, {-15 ... 15} for 5, and
  between these (4 bits, which the paper does not have) {-7 ... 7}; {0 ... 2^b - 1} for activations. b is 0 for 1-bit
  weights and +-0.05 for 2-bit ones. Others are the midpoints of neighbouring centres of k-means; of weights, the two
  around 0 are +-0.05 again.
- ``paper_pm2``: the same, but that 3-bit weights have {-2 ... 2}, the paper's "3(+-2)".
- ``released``: the code as it stands. The biases are constants. T (beta x - b_i) is clamped to +-10, and the derivative
  there is that at +-10: it never vanishes. For weights the backward pass takes the sigmoid's derivative at T = 1 and
  multiplies it by T (meant for 1 bit, says a comment), and T ends at 2000. Biases, also those around 0, lie halfway
  between the data on either side of a boundary of k-means, where both sides have any; those of 1-bit weights are 0.
  (For 1-bit activations its configuration has 0.05, without the beta that belongs to it; k-means serves here.)

Their k-means starts at random; here it starts at Y, so that the same data give the same biases. What QNet computes
where alpha = beta = 1 and the steps lie at the half-integers, on a grid without ends, is `soft`, `slope` and `hard`: so
it can be set beside DAQ's phi.
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
    name="qnet",
    title="QNet",
    source="Yang et al.: Quantization Networks, CVPR 2019; aliyun/alibabacloud-quantization-networks",
    bits={"weight": range(1, 6), "activation": range(1, 9)},
    variants=("paper", "paper_pm2", "released"),
    learnable=("alpha", "beta", "biases"),
    fixed={(role, "released"): ("biases",) for role in ("weight", "activation")},
    exempt={"idempotence": "a level, alpha times an integer, is compared with biases that know nothing of alpha"},
)
SOFT = METHOD.variants  # the variants that are not on the levels in training

SCHEDULE = (5.0, 275.0)  # Section 4.1: 5 times the epoch for ResNets, of which there are 55
TEMPERATURE = SCHEDULE[0]
TEMPERATURE_RANGE = (0.1, 1e6)
LARGEST_TEMPERATURE = 2000.0  # of the released code, for weights
CLAMP = 10.0  # of the released code
ZERO = 0.05  # half the width of the interval that the paper quantizes to 0, before beta
ROUNDS = 300  # of k-means at most, as in scikit-learn, which the released code uses


def annealed_temperature(progress: float, *, start: float = SCHEDULE[0], end: float = SCHEDULE[1]) -> float:
    """Temperature at a share of training, 0 to 1: linear.

    The paper has 5 times the epoch for ResNets, 10 for AlexNet; the released script 20, for 35 epochs.

    >>> annealed_temperature(0.5)
    140.0
    """
    progress = checks.check_scalar("progress", progress, 0, 1)
    start, end = (checks.check_scalar(n, v, *TEMPERATURE_RANGE) for n, v in (("start", start), ("end", end)))
    return start + (end - start) * progress


def integers(bits: int, role: Role, variant: str = "paper") -> Array:
    """The set Y, int64, ascending.

    >>> integers(3, "weight"), integers(3, "weight", "paper_pm2"), integers(2, "activation")
    (array([-4, -2, -1,  0,  1,  2,  4]), array([-2, -1,  0,  1,  2]), array([0, 1, 2, 3]))
    """
    variant = METHOD.check(bits, role, variant)
    if role == "activation":
        return np.arange(2**bits)
    if bits == 1:
        return np.array([-1, 1])
    if bits == 3:
        return np.arange(-2, 3) if variant == "paper_pm2" else np.array([-4, -2, -1, 0, 1, 2, 4])
    return np.arange(1 - 2 ** (bits - 1), 2 ** (bits - 1))


@dataclass(frozen=True)
class Params:
    """Parameters of QNet.

    Attributes
    ----------
    alpha, beta : ndarray
        Scales of the output and of the input, positive, float64, of shape () or (C, 1, ...).
    biases : ndarray
        The b_i, one less than Y has elements, in any order, float64, of shape (n,), for all channels.
    bits : int
        1 to 5 for weights, 1 to 8 for activations.
    role : {"weight", "activation"}
    temperature : float
        T, 0.1 to 1e6.
    variant : {"paper", "paper_pm2", "released"}
        See the module's text.
    """

    alpha: Array
    beta: Array
    biases: Array
    bits: int
    role: Role
    temperature: float = TEMPERATURE
    variant: str = "paper"

    def __post_init__(self) -> None:
        object.__setattr__(self, "variant", METHOD.check(self.bits, self.role, self.variant))
        for name in ("alpha", "beta"):
            object.__setattr__(self, name, checks.positive(name, getattr(self, name)))
        biases = checks.finite("biases", self.biases)
        count = len(self.integers) - 1
        if biases.shape != (count,):
            raise checks.refuse("biases", biases.tolist(), f"{count} numbers")
        object.__setattr__(self, "biases", biases)
        checks.check_scalar("temperature", self.temperature, *TEMPERATURE_RANGE)

    @property
    def integers(self) -> Array:
        """The set Y."""
        return integers(self.bits, self.role, self.variant)

    @property
    def order(self) -> Array:
        """Which bias is the smallest, which comes next, ...; the first of equal ones before the others."""
        return np.argsort(self.biases, kind="stable")

    @property
    def steps(self) -> list[tuple[Array, Array]]:
        """Height and place of each step of the staircase, from left to right."""
        return list(zip(np.diff(self.integers), self.biases[self.order], strict=True))

    @property
    def clamps(self) -> bool:
        """Whether the sigmoids' arguments are clamped."""
        return self.variant == "released"

    @property
    def used_temperature(self) -> float:
        """The temperature of the forward pass."""
        capped = self.variant == "released" and self.role == "weight"
        return min(float(self.temperature), LARGEST_TEMPERATURE) if capped else float(self.temperature)

    @property
    def slope_temperature(self) -> float:
        """The temperature at which the backward pass takes the sigmoids' derivative, before it multiplies it by T."""
        return 1.0 if self.variant == "released" and self.role == "weight" else self.used_temperature


def init(
    x: npt.ArrayLike, bits: int, role: Role, *, temperature: float = TEMPERATURE, variant: str = "paper"
) -> Params:
    """Initialise beta with 5p/(4q), alpha with its reciprocal, and the biases.

    Raises
    ------
    ValueError
        If `x` is empty, all zero or not finite.

    >>> init([0.0, 0.5, 1.0, 4.0], 1, "activation")
    Params(alpha=array(3.2), beta=array(0.3125), biases=array([0.703125]), bits=1, role='activation', \
temperature=5.0, variant='paper')
    """
    targets = integers(bits, role, METHOD.check(bits, role, variant))
    beta = 5 * int(np.abs(targets).max()) / (4 * grid.largest_magnitude(x))
    biases = first_biases(checks.as_float(x).astype(np.float64) * beta, bits, role, variant)
    return Params(np.asarray(1 / beta), np.asarray(beta), biases, bits, role, temperature, variant)


def first_biases(scaled: npt.ArrayLike, bits: int, role: Role, variant: str = "paper") -> Array:
    """Return the first b_i for data that beta has scaled; see the module's text.

    >>> first_biases([-5.0, -1.2, -0.8, 0.1, 1.0, 2.6, 4.4], 3, "weight")
    array([-3.5 , -1.5 , -0.05,  0.05,  1.8 ,  3.5 ])
    """
    targets = integers(bits, role, variant)
    if role == "weight" and bits == 1:
        return np.zeros(1)
    x = np.sort(checks.as_float(scaled).astype(np.float64).ravel())
    centers = kmeans(x, targets)
    found = (centers[:-1] + centers[1:]) / 2
    if variant == "released":
        ends = np.searchsorted(x, found, side="right")
        filled = np.diff(ends, prepend=0, append=x.size) > 0
        between = filled[:-1] & filled[1:]
        found[between] = (x[ends[between] - 1] + x[ends[between]]) / 2
    elif role == "weight":
        middle = found.size // 2
        found[:middle] = np.minimum(found[:middle], -ZERO)
        found[middle:] = np.maximum(found[middle:], ZERO)
        found[middle - 1], found[middle] = -ZERO, ZERO
    return found


def kmeans(x: npt.ArrayLike, centers: npt.ArrayLike) -> Array:
    """Return the ascending centres of Lloyd's iteration, float64, that starts at `centers`; x must be sorted.

    Data halfway between two centres go to the lower one. A centre to which none go stays where it is.

    >>> kmeans([0.0, 1.0, 5.0, 6.0], [0.0, 4.0])
    array([0.5, 5.5])
    """
    x, centers = np.asarray(x, np.float64), np.asarray(centers, np.float64)
    total = np.concatenate([[0.0], np.cumsum(x)])
    before = None
    for _ in range(ROUNDS):
        ends = np.searchsorted(x, (centers[:-1] + centers[1:]) / 2, side="right")
        if before is not None and np.array_equal(ends, before):
            break
        first, last = np.concatenate([[0], ends]), np.concatenate([ends, [x.size]])
        count = last - first
        centers = np.where(count > 0, (total[last] - total[first]) / np.maximum(count, 1), centers)
        before = ends
    return centers


def forward(x: npt.ArrayLike, params: Params, *, training: bool, noise: None = None) -> Array:
    """Quantize `x`: between the levels in training, on them in test.

    >>> params = Params(0.5, 2.0, [0.5, 1.5, 2.5], 2, "activation", temperature=4.0)
    >>> forward([0.0, 0.25, 0.5], params, training=True).round(4)
    array([0.0609, 0.2592, 0.5012])
    >>> forward([0.0, 0.25, 0.5, 9.0], params, training=False)
    array([0. , 0. , 0.5, 1.5])
    """
    checks.refuse_noise(noise, METHOD.title)
    x = checks.as_float(x)
    y = _soft_sum(x, params) if training else _hard_sum(x, params)
    return np.asarray(y * params.alpha.astype(x.dtype))


def codes(x: npt.ArrayLike, params: Params) -> Array:
    """How many biases are below beta x: integers from 0. Raises ValueError on NaN."""
    return grid.integers(_codes(checks.as_float(x), params))


def decode(q: npt.ArrayLike, params: Params) -> Array:
    """Values of codes, alpha times the integer of Y.

    Raises
    ------
    ValueError
        If Y is not evenly spaced, and there is no such code.
    """
    q = checks.as_float(q)
    found, targets = integer_grid(params), params.integers
    if found.table and not np.isin(q, np.arange(targets.size)).all():
        raise checks.refuse("codes", q.tolist(), f"whole numbers from 0 to {targets.size - 1}")
    k = found.integers(q.astype(np.int64) if found.table else q).astype(q.dtype)
    return np.asarray(k * params.alpha.astype(q.dtype))


def levels(params: Params) -> Array:
    """The values of test mode, ascending along the first axis: 2^bits, or, of weights from 2 bits on, fewer."""
    return decode(grid.all_codes(params.integers.size, params.alpha), params)


def integer_grid(params: Params) -> IntegerGrid:
    """The levels as a unit times integers: alpha times Y.

    >>> integer_grid(Params(0.5, 1.0, [0.0], 1, "weight"))
    IntegerGrid(unit=array(0.5), lowest=-1, stride=2)
    """
    targets = params.integers
    gaps = np.diff(targets)
    table = () if (gaps == gaps[0]).all() else tuple(targets.tolist())
    return IntegerGrid(params.alpha, int(targets[0]), 1 if table else int(gaps[0]), table)


def threshold_distance(x: npt.ArrayLike, params: Params) -> Array:
    """Distance of beta x from the nearest bias: in units of Y, of which levels are 1 or 2 apart."""
    u = _scaled(checks.as_float(x), params)
    return np.asarray(np.min([np.abs(u - b) for b in params.biases.astype(u.dtype)], axis=0))


def surrogate(x: npt.ArrayLike, params: Params, *, at: tuple[npt.ArrayLike, Params]) -> Array:
    """What training differentiates at `at`: the soft staircase; ``released`` is not its own derivative's function.

    For beta, x and the biases it then is T/t times the staircase of the temperature t of the backward pass; a sigmoid
    that is clamped at `at` is a line, of the slope that it has at the clamp. Which bias is the i-th smallest stays.
    """
    x, (x0, params0) = checks.as_float(x), at
    steps, order = np.diff(params0.integers), params0.order
    t, factor = params0.slope_temperature, params0.used_temperature / params0.slope_temperature
    z = t * ((x * params.beta)[..., None] - params.biases[order])
    z0 = t * ((checks.as_float(x0) * params0.beta)[..., None] - params0.biases[order])
    end = _clamped(z0, params0)
    line = _sigmoid(end)[0] + _sigmoid(end)[1] * (z - z0)
    moved = (steps * (np.where(end != z0, line, _sigmoid(z)[0]) - _sigmoid(end)[0])).sum(axis=-1)
    y = params0.integers[0] + (steps * _sigmoid(_clamped(factor * z0, params0))[0]).sum(axis=-1)
    return np.asarray(params.alpha * y + params0.alpha * factor * moved)


def vjp(x: npt.ArrayLike, params: Params, grad: npt.ArrayLike) -> tuple[Array, dict[str, Array]]:
    """Gradients for x, alpha, beta and the biases (Eq. 8 to 11). Infinite elements give nothing to beta's.

    >>> vjp([0.25], Params(0.5, 2.0, [0.5], 1, "activation", temperature=4.0), [1.0])
    (array([1.]), {'alpha': array(0.5), 'beta': array(0.125), 'biases': array([-0.5])})
    """
    x = checks.as_float(x)
    grad = np.asarray(grad, x.dtype)
    t, factor = x.dtype.type(params.slope_temperature), x.dtype.type(params.used_temperature)
    u = _scaled(x, params)
    by_y = grad * params.alpha.astype(x.dtype)
    slope, by_bias = np.zeros_like(u), np.zeros(params.biases.shape, x.dtype)
    for i, (s, b) in zip(params.order, params.steps, strict=True):
        own = x.dtype.type(s) * _sigmoid(_clamped(t * (u - x.dtype.type(b)), params))[1]
        slope = slope + own
        by_bias[i] = -(by_y * (factor * own)).sum()
    by_u = by_y * (factor * slope)
    return grid.unbroadcast(by_u * params.beta.astype(x.dtype), x.shape), {
        "alpha": grid.unbroadcast(grad * _soft_sum(x, params), params.alpha.shape),
        "beta": grid.unbroadcast(by_u * np.where(np.isinf(x), x.dtype.type(0), x), params.beta.shape),
        "biases": by_bias,
    }


# On a grid of all integers, without ends


def soft(x: npt.ArrayLike, *, temperature: float) -> Array:
    """The training function with a step at every half-integer, as in the middle of a grid of many levels.

    >>> soft([0.25, 0.5, 0.75, 1.0], temperature=4.0).round(4)
    array([0.2274, 0.5   , 0.7726, 1.    ])
    """
    q_f, z, steps = _cell(x, temperature)
    y = _sigmoid(z)[0]
    for far in steps:
        y = y + (_sigmoid(z - far)[0] - _sigmoid(-z - far)[0])
    return np.asarray(q_f + y)


def slope(x: npt.ArrayLike, *, temperature: float) -> Array:
    """Derivative of `soft`: ``T sum_i y_i (1 - y_i)`` with y_i the sigmoids.

    >>> slope([0.0, 0.5], temperature=4.0).round(4)
    array([0.8601, 1.144 ])
    """
    _, z, steps = _cell(x, temperature)
    y = _sigmoid(z)[1]
    for far in steps:
        y = y + (_sigmoid(z - far)[1] + _sigmoid(-z - far)[1])
    return np.asarray(z.dtype.type(temperature) * y)


def hard(x: npt.ArrayLike) -> Array:
    """The test function: hard steps, ties down."""
    return grid.round_half_down(x)


def _cell(x: npt.ArrayLike, temperature: float) -> tuple[Array, Array, Array]:
    """Return the level below x, T times the distance from the step above it, and T times those of the steps beyond.

    The farthest that count add less than e^-40.
    """
    checks.check_scalar("temperature", temperature, *TEMPERATURE_RANGE)
    x = checks.as_float(x)
    q_f = np.floor(x)
    t = x.dtype.type(temperature)
    return q_f, t * (x - q_f - x.dtype.type(0.5)), t * np.arange(1, math.ceil(40 / temperature) + 2, dtype=x.dtype)


# The staircases of given parameters


def _scaled(x: Array, params: Params) -> Array:
    return np.asarray(x * params.beta.astype(x.dtype))


def _clamped(z: Array, params: Params) -> Array:
    return np.clip(z, -CLAMP, CLAMP) if params.clamps else z


def _soft_sum(x: Array, params: Params) -> Array:
    u, t = _scaled(x, params), x.dtype.type(params.used_temperature)
    y = np.full_like(u, params.integers[0])
    for s, b in params.steps:
        y = y + x.dtype.type(s) * _sigmoid(_clamped(t * (u - x.dtype.type(b)), params))[0]
    return y


def _hard_sum(x: Array, params: Params) -> Array:
    u = _scaled(x, params)
    return grid.keep_nan(u, params.integers.astype(x.dtype)[_below(u, params)])


def _codes(x: Array, params: Params) -> Array:
    u = _scaled(x, params)
    return grid.keep_nan(u, _below(u, params).astype(u.dtype))


def _below(u: Array, params: Params) -> Array:
    """How many biases are below the scaled input."""
    return grid.count_below(u, params.biases.astype(u.dtype))


def _sigmoid(z: Array) -> tuple[Array, Array]:
    """The sigmoid and its derivative; neither is a difference of numbers that are nearly equal."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, z.dtype.type(1), e) / (1 + e), e / (1 + e) ** 2
