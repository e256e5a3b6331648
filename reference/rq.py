"""RQ, relaxed quantization: a sample of the grid points that noise of the input would round to.

Source: Louizos et al.: Relaxed Quantization for Discretized Neural Networks, ICLR 2019 (arXiv 1810.01875; equations and
algorithms numbered as there). From the paper, without its Appendix A, which was not at hand; no code of its authors was
found.

The grid is g_k = alpha k + beta with k = 0 ... 2^b - 1 after a ReLU, else -2^(b-1) ... 2^(b-1) - 1 (Eq. 1). Logistic
noise of scale sigma around x falls into the cell of g_k, of width alpha, with the probability

    pi_k = [S((g_k + alpha/2 - x)/sigma) - S((g_k - alpha/2 - x)/sigma)] / Z          (Eq. 3, 4),

S the sigmoid, and Z the same for all cells together: the distribution is truncated to the grid. In training one number
for each grid point, u_k of a Gumbel distribution, makes of it

    z = softmax((log pi + u) / lambda),  x-hat = sum_k z_k g_k                        (Eq. 5),

the concrete relaxation of a sample; in test x goes to the nearest grid point (Algorithm 2), ties up (Section 2.1). With
all u_k = 0 and lambda = 1, x-hat is the mean of the distribution.

Two variants:

- ``paper``: as above. Values in training lie between the grid points.
- ``straight_through``: RQ ST, which has the sample itself, the grid point of the largest log pi_k + u_k, in the forward
  pass, and the gradient of ``paper``.

alpha and sigma are learned. beta is kept at 0 for weights and after a ReLU, as in the paper's experiments (Section 4: 0
must be a level); for other inputs, which those do not have, it is learned as in Section 2.1.

Assumptions, as Appendix A was not at hand: lambda is 1; sigma starts at alpha/3, and alpha so that the grid ends 3
standard deviations of the data from 0; and sigma counts as alpha/1000 at least, lest a step of training take it below
0. Algorithm 1 adds a small number to each pi_k (`probabilities` has it): far outside the grid, where all cells'
probabilities are below it, it makes them equal, and x-hat the middle of the grid. Without it, as here, they go as
e^(k alpha / sigma): even an infinite x is not quite at the end. The local grid of Section 2.2 (grid points some sigmas
away are left out, to save time) is not here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reference import checks, grid
from reference.grid import Array, IntegerGrid, Role
from reference.registry import Method

METHOD = Method(
    name="rq",
    title="RQ",
    source="Louizos et al.: Relaxed Quantization for Discretized Neural Networks, ICLR 2019, arXiv 1810.01875",
    bits={"weight": range(2, 9), "activation": range(1, 9), "signed_activation": range(2, 9)},
    variants=("paper", "straight_through"),
    learnable=("alpha", "beta", "sigma"),
    fixed={"weight": ("beta",), "activation": ("beta",)},
    stochastic=True,
)
SOFT = ("paper",)  # the variants that are not on the levels in training

TEMPERATURE = 1.0
TEMPERATURE_RANGE = (0.01, 100.0)
FIRST_SIGMA = 1 / 3  # over alpha
REACH = 3.0  # of the first grid, in standard deviations
STEEPEST = 1000.0  # alpha over sigma; a sigma that training makes smaller counts as this, and can come back
FAR = 40.0  # sigmas beyond the grid, from where on probabilities change no more


@dataclass(frozen=True)
class Params:
    """Parameters of RQ.

    Attributes
    ----------
    alpha : ndarray
        Distance of the grid points, positive, float64, of shape () or (C, 1, ...).
    sigma : ndarray
        Scale of the logistic noise, positive, float64, of shape () or (C, 1, ...). Its standard deviation is
        pi/sqrt(3) times that.
    bits : int
        2 to 8 for signed data, 1 to 8 for activations after a ReLU.
    role : {"weight", "activation", "signed_activation"}
    beta : ndarray
        Offset of the grid, finite, of shape () or (C, 1, ...).
    temperature : float
        lambda, of the relaxation, 0.01 to 100.
    variant : {"paper", "straight_through"}
        See the module's text.
    """

    alpha: Array
    sigma: Array
    bits: int
    role: Role
    beta: Array | float = 0.0
    temperature: float = TEMPERATURE
    variant: str = "paper"

    def __post_init__(self) -> None:
        object.__setattr__(self, "variant", METHOD.check(self.bits, self.role, self.variant))
        for name in ("alpha", "sigma"):
            object.__setattr__(self, name, checks.positive(name, getattr(self, name)))
        object.__setattr__(self, "beta", checks.finite("beta", self.beta))
        checks.check_scalar("temperature", self.temperature, *TEMPERATURE_RANGE)

    @property
    def integers(self) -> Array:
        """The k of the grid points."""
        return np.arange(2**self.bits) + lowest(self.bits, self.role)


def lowest(bits: int, role: Role) -> int:
    """The lowest integer of the grid: 0 after a ReLU, else -2^(bits-1).

    >>> lowest(2, "activation"), lowest(2, "weight")
    (0, -2)
    """
    return 0 if role == "activation" else -(2 ** (bits - 1))


def init(x: npt.ArrayLike, bits: int, role: Role, *, variant: str = "paper") -> Params:
    """First alpha, so that the grid's farther end is at 3 standard deviations; sigma is a third of it, beta 0.

    Raises
    ------
    ValueError
        If `x` has no spread or is not finite.

    >>> params = init([0.0, 1.0, 2.0], 2, "weight")
    >>> params.alpha, params.sigma
    (array(1.5), array(0.5))
    """
    METHOD.check(bits, role, variant)
    low = lowest(bits, role)
    alpha = REACH * grid.deviation(x) / max(-low, low + grid.top_code(bits))
    return Params(np.asarray(alpha), np.asarray(alpha * FIRST_SIGMA), bits, role, variant=variant)


def gumbel(shape: tuple[int, ...], bits: int, seed: int = 0) -> Array:
    """Draw noise for inputs of a shape: of shape (2^bits, *shape), float64.

    >>> gumbel((3,), 1).shape
    (2, 3)
    """
    return np.random.default_rng(seed).gumbel(size=(2**bits, *shape))


def probabilities(x: npt.ArrayLike, params: Params, *, fuzz: float = 0.0) -> Array:
    """The pi_k, along a first axis, of shape (2^bits, *x.shape); they sum to 1.

    Parameters
    ----------
    fuzz : float
        epsilon of Algorithm 1: ``(pi_k + epsilon) / (1 + 2^b epsilon)``, before pi_k is truncated to the grid.

    >>> probabilities([0.5], Params(1.0, 0.25, 1, "activation")).round(3).tolist()
    [[0.5], [0.5]]
    >>> far = Params(1.0, 0.1, 2, "activation")
    >>> probabilities([9.0], far, fuzz=1e-6).round(3).ravel(), probabilities([9.0], far).round(3).ravel()
    (array([0.25, 0.25, 0.25, 0.25]), array([0., 0., 0., 1.]))
    """
    x = checks.as_float(x)
    logits = _logits(*_units(x, params), params.integers)
    top = logits.max(axis=0)
    e = np.exp(logits - top)
    if not fuzz:
        return np.asarray(e / e.sum(axis=0))
    tau = _units(x, params)[1]
    cells = e * np.exp(top) * -np.expm1(-tau)  # of the distribution before it is truncated
    return np.asarray((cells + fuzz) / (cells.sum(axis=0) + len(cells) * fuzz))


def forward(x: npt.ArrayLike, params: Params, *, training: bool, noise: npt.ArrayLike | None = None) -> Array:
    """Quantize `x`: to a relaxed sample in training, or a sample (``straight_through``); to the nearest point in test.

    Parameters
    ----------
    noise : array_like, optional
        The u_k, of shape (2^bits, *x.shape), in training; by default 0, which is no noise at all.

    Raises
    ------
    ValueError
        If there is noise in test mode, or it has another shape or is not finite.

    >>> params = Params(1.0, 0.25, 2, "activation")
    >>> forward([0.2, 0.5, 0.9, 9.0], params, training=False)
    array([0., 1., 1., 3.])
    >>> forward([0.2, 0.5, 0.9, 9.0], params, training=True).round(3)
    array([0.251, 0.528, 0.92 , 2.981])
    """
    x = checks.as_float(x)
    noise = _check_noise(noise, x, params)
    if not training:
        if noise is not None:
            raise checks.refuse("noise", "an array", "None in test mode, which is deterministic")
        return _value(_rounded(x, params), params)
    z = _shares(x, params, noise)
    k = params.integers.astype(x.dtype).reshape(-1, *[1] * (z.ndim - 1))
    y = (z * k).sum(axis=0) if params.variant in SOFT else params.integers.astype(x.dtype)[z.argmax(axis=0)]
    return _value(grid.keep_nan(x, y), params)


def codes(x: npt.ArrayLike, params: Params) -> Array:
    """Integers 0 ... 2^bits - 1 of test mode, int64. Raises ValueError on NaN."""
    return grid.integers(_rounded(checks.as_float(x), params)) - lowest(params.bits, params.role)


def decode(q: npt.ArrayLike, params: Params) -> Array:
    """Values of codes: grid points."""
    q = checks.as_float(q)
    return _value(q + q.dtype.type(lowest(params.bits, params.role)), params)


def levels(params: Params) -> Array:
    """The 2^bits grid points, ascending along the first axis."""
    return decode(grid.all_codes(2**params.bits, params.alpha + params.beta), params)


def integer_grid(params: Params) -> IntegerGrid | None:
    """The levels as a unit times integers: alpha times the k. None for the role whose beta is learned.

    >>> integer_grid(Params(0.5, 0.1, 2, "weight"))
    IntegerGrid(unit=array(0.5), lowest=-2, stride=1)
    """
    if "beta" in METHOD.learned(params.role, params.variant) or np.any(params.beta):
        return None
    return IntegerGrid(params.alpha, lowest(params.bits, params.role))


def threshold_distance(x: npt.ArrayLike, params: Params) -> Array:
    """Distance of (x - beta)/alpha from the nearest point halfway between two grid points, in levels."""
    return grid.tie_distance(_clipped(checks.as_float(x), params))


def surrogate(
    x: npt.ArrayLike, params: Params, *, at: tuple[npt.ArrayLike, Params], noise: npt.ArrayLike | None = None
) -> Array:
    """What training differentiates, wherever it is: the relaxed sample, with the noise held fixed."""
    x = checks.as_float(x)
    z = _shares(x, params, _check_noise(noise, x, params))
    k = params.integers.astype(x.dtype).reshape(-1, *[1] * (z.ndim - 1))
    return _value((z * k).sum(axis=0), params)


def vjp(
    x: npt.ArrayLike, params: Params, grad: npt.ArrayLike, *, noise: npt.ArrayLike | None = None
) -> tuple[Array, dict[str, Array]]:
    """Gradients of the relaxed sample for x, alpha, beta and sigma, with the noise held fixed.

    >>> by_x, by_parameter = vjp([0.5], Params(1.0, 0.25, 1, "activation"), [1.0])
    >>> by_x.round(3), float(by_parameter["sigma"].round(3))
    (array([0.964]), 0.0)
    """
    x = checks.as_float(x)
    grad = np.asarray(grad, x.dtype)
    z = _shares(x, params, _check_noise(noise, x, params))
    v, tau = _units(x, params)
    k = params.integers.astype(x.dtype).reshape(-1, *[1] * (z.ndim - 1))
    y = (z * k).sum(axis=0)
    below, above = k - v - 0.5, k - v + 0.5  # ends of the cells
    left, right = _sigmoid(below * tau), _sigmoid(-above * tau)
    by_logit = z * (k - y) / x.dtype.type(params.temperature)
    by_v = (by_logit * (left - right)).sum(axis=0) * tau
    by_tau = (by_logit * (above * right - below * left)).sum(axis=0) * tau
    return grid.unbroadcast(grid.keep_nan(x, grad * by_v), x.shape), {
        "alpha": grid.unbroadcast(grad * (y - by_v * v + by_tau), params.alpha.shape),
        "beta": grid.unbroadcast(grad * (1 - by_v), np.shape(params.beta)),
        "sigma": grid.unbroadcast(-grad * by_tau * tau, params.sigma.shape),
    }


def _units(x: Array, params: Params) -> tuple[Array, Array]:
    """Return x in levels, no farther from the grid than probabilities change, and tau = alpha/sigma."""
    alpha, beta, sigma = (np.asarray(p).astype(x.dtype) for p in (params.alpha, params.beta, params.sigma))
    tau, k = np.minimum(alpha / sigma, x.dtype.type(STEEPEST)), params.integers.astype(x.dtype)
    beyond = x.dtype.type(1) + x.dtype.type(FAR) / tau
    return np.clip((x - beta) / alpha, k[0] - beyond, k[-1] + beyond), np.asarray(tau)


def _logits(v: Array, tau: Array, integers: Array) -> Array:
    """The log pi_k, but for what all have in common.

    S(b) - S(a) = (1 - e^(a-b)) / ((1 + e^-b) (1 + e^a)), where b - a = tau: nothing cancels.
    """
    k = integers.astype(v.dtype).reshape(-1, *[1] * np.ndim(v + tau))
    half = v.dtype.type(0.5)
    return np.asarray(-_softplus((v - k - half) * tau) - _softplus((k - v - half) * tau))


def _shares(x: Array, params: Params, noise: Array | None) -> Array:
    """The z_k of Eq. 5, along a first axis."""
    logits = _logits(*_units(x, params), params.integers)
    logits = (logits if noise is None else logits + noise) / x.dtype.type(params.temperature)
    e = np.exp(logits - logits.max(axis=0))
    return np.asarray(e / e.sum(axis=0))


def _check_noise(noise: npt.ArrayLike | None, x: Array, params: Params) -> Array | None:
    if noise is None:
        return None
    noise, shape = np.asarray(noise, x.dtype), (2**params.bits, *x.shape)
    if noise.shape != shape:
        raise checks.refuse("shape of noise", noise.shape, f"{shape}: a number for each grid point and element")
    if not np.isfinite(noise).all():
        raise checks.refuse("noise", "NaN or infinity", "finite numbers")
    return noise


def _clipped(x: Array, params: Params) -> Array:
    alpha, beta = (np.asarray(p).astype(x.dtype) for p in (params.alpha, params.beta))
    k = params.integers.astype(x.dtype)
    return np.asarray(np.clip((x - beta) / alpha, k[0], k[-1]))


def _rounded(x: Array, params: Params) -> Array:
    return grid.round_half_up(_clipped(x, params))


def _value(k: Array, params: Params) -> Array:
    """``alpha k + beta``, in two operations; no negative zero."""
    return np.asarray(k * params.alpha.astype(k.dtype) + np.asarray(params.beta).astype(k.dtype))


def _softplus(z: Array) -> Array:
    return np.asarray(np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))))


def _sigmoid(z: Array) -> Array:
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, z.dtype.type(1), e) / (1 + e)
