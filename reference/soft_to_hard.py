"""Soft-to-hard quantization: a softmax over the distances to learned centres, which hardens during training.

Source: Agustsson et al.: Soft-to-Hard Vector Quantization for End-to-End Learning Compressible Representations, NeurIPS
2017 (arXiv 1704.00648; formulas from memory of the paper). Its own code was not found; held against that of its
authors' next paper, github.com/fab-jul/imgcomp-cvpr.

The paper's vectors are of dimension 1 here, as where it compresses networks. With centres c_1 ... c_L, L = 2^b,

    phi(x) = softmax(-sigma (x - c_1)^2, ..., -sigma (x - c_L)^2),
    soft(x) = sum_j phi_j c_j                                       in training,
    hard(x) = the nearest centre                                    in test,

and sigma is raised in training: soft goes to hard. The derivative for x is 2 sigma times the variance of the centres
under phi, so that it vanishes in the end, but for a peak of height sigma (c - c')^2 / 2 halfway between two centres.

Two variants:

- ``paper``: soft in training. There is a gap between training and test.
- ``imgcomp-cvpr``: hard in training, too, with the gradient of soft (``soft + stop_gradient(hard - soft)``). That code
  keeps sigma at 1, for features that batch normalisation scales, and draws its centres from [-2, 2].

Ties go to the lower centre; the code takes the one with the lower number.

Three choices are the suite's, as neither source has them for weights and activations. First centres are those of
k-means, from evenly spaced ones between the least and the greatest value on. sigma is ``hardness / spacing^2``, where
spacing is the mean distance of the first centres: a layer's weights may be a hundredth as large as another's. The
hardness grows exponentially from 1 to 10 in ``paper``, and stays at 1 in ``imgcomp-cvpr``. (The paper has such a
schedule for networks, and for images one that controls the gap. With 50 at the end, the loss of short trainings on
digits rises again.)
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reference import checks, grid
from reference.grid import Array, Role
from reference.qnet import kmeans
from reference.registry import Method

METHOD = Method(
    name="soft_to_hard",
    title="Soft-to-hard",
    source="Agustsson et al.: Soft-to-Hard Vector Quantization, NeurIPS 2017, arXiv 1704.00648; "
    "fab-jul/imgcomp-cvpr, of the same authors",
    bits={"weight": range(1, 9), "activation": range(1, 9)},
    variants=("paper", "imgcomp-cvpr"),
    learnable=("centers",),
    in_input_units=("centers",),
)
SOFT = ("paper",)  # the variants that are not on the levels in training

SCHEDULE = (1.0, 10.0)  # hardness
SIGMA_RANGE = (1e-30, 1e30)
FAR = 1e18  # beyond it, x counts as this: its square is finite in float32


def annealed_hardness(progress: float, *, start: float = SCHEDULE[0], end: float = SCHEDULE[1]) -> float:
    """Hardness at a share of training, 0 to 1: exponential.

    >>> annealed_hardness(0.5, end=100.0)
    10.0
    """
    progress = checks.check_scalar("progress", progress, 0, 1)
    start, end = (checks.check_scalar(n, v, 1e-6, 1e6) for n, v in (("start", start), ("end", end)))
    return start * (end / start) ** progress


@dataclass(frozen=True)
class Params:
    """Parameters of soft-to-hard quantization.

    Attributes
    ----------
    centers : ndarray
        The c_j in any order, finite, float64, of shape (2^bits,), one codebook for all. Some may be equal, so that
        levels coincide.
    bits : int
        1 to 8.
    role : {"weight", "activation"}
        Makes no difference.
    sigma : float
        How hard the softmax is, over a square of the input's unit, 1e-30 to 1e30.
    variant : {"paper", "imgcomp-cvpr"}
        See the module's text.
    """

    centers: Array
    bits: int
    role: Role
    sigma: float = 1.0
    variant: str = "paper"

    def __post_init__(self) -> None:
        object.__setattr__(self, "variant", METHOD.check(self.bits, self.role, self.variant))
        centers = checks.finite("centers", self.centers)
        if centers.shape != (2**self.bits,):
            raise checks.refuse("shape of centers", centers.shape, f"({2**self.bits},)")
        object.__setattr__(self, "centers", centers)
        checks.check_scalar("sigma", self.sigma, *SIGMA_RANGE)

    @property
    def sorted(self) -> Array:
        """The centres, ascending: the levels."""
        return np.sort(self.centers)


def init(x: npt.ArrayLike, bits: int, role: Role, *, variant: str = "paper") -> Params:
    """First centres by k-means, and the sigma of hardness 1.

    Raises
    ------
    ValueError
        If `x` is empty, not finite, or all its values are equal.

    >>> init([0.0, 0.2, 2.0, 4.0], 1, "activation")  # doctest: +ELLIPSIS
    Params(centers=array([0.73333333, 4.        ]), bits=1, role='activation', sigma=0.0937109..., variant='paper')
    """
    METHOD.check(bits, role, variant)
    data = np.sort(checks.as_float(x).astype(np.float64).ravel())
    spread = float(data[-1] - data[0]) if data.size and np.isfinite(data).all() else math.nan
    if not 0 < spread < math.inf:
        raise checks.refuse("spread of x", spread, "positive and finite")
    centers = kmeans(data, np.linspace(data[0], data[-1], 2**bits))
    return Params(centers, bits, role, SCHEDULE[0] / spacing(centers) ** 2, variant)


def spacing(centers: npt.ArrayLike) -> float:
    """Mean distance of neighbouring centres.

    >>> spacing([0.0, 1.0, 4.0])
    2.0
    """
    centers = np.asarray(centers, np.float64)
    return float(np.ptp(centers)) / (centers.size - 1)


def assignments(x: npt.ArrayLike, params: Params) -> Array:
    """The soft assignments phi: how much each centre has of each element, of shape (2^bits, *x.shape); they sum to 1.

    >>> assignments([0.0, 0.5], Params([0.0, 1.0], 1, "weight", sigma=2.0)).round(3)
    array([[0.881, 0.5  ],
           [0.119, 0.5  ]])
    """
    x = checks.as_float(x)
    return _assignments(x, _nearest(x, params), params)


def forward(x: npt.ArrayLike, params: Params, *, training: bool, noise: None = None) -> Array:
    """Quantize `x`: to the mean of the centres under phi in training (``paper``), else to the nearest.

    >>> params = Params([0.0, 1.0], 1, "weight", sigma=2.0)
    >>> forward([-9.0, 0.0, 0.5, 0.6], params, training=True).round(3)
    array([0.   , 0.119, 0.5  , 0.599])
    >>> forward([-9.0, 0.0, 0.5, 0.6], params, training=False)
    array([0., 0., 0., 1.])
    """
    checks.refuse_noise(noise, METHOD.title)
    x = checks.as_float(x)
    soft = training and params.variant in SOFT
    return grid.keep_nan(x, _soft(x, params) if soft else _nearest(x, params))


def codes(x: npt.ArrayLike, params: Params) -> Array:
    """How many transition points are below `x`, int64, from 0. Raises ValueError on NaN."""
    x = checks.as_float(x)
    if np.isnan(x).any():
        raise checks.refuse("x", "NaN", "free of NaN (NaN has no code)")
    return _below(x, params)


def decode(q: npt.ArrayLike, params: Params) -> Array:
    """Values of codes: centre q in ascending order. Raises ValueError if there is no such centre."""
    q = checks.as_float(q)
    if not np.isin(q, np.arange(params.centers.size)).all():
        raise checks.refuse("codes", q.tolist(), f"whole numbers from 0 to {params.centers.size - 1}")
    return params.sorted.astype(q.dtype)[q.astype(np.int64)]


def levels(params: Params) -> Array:
    """The 2^bits centres, ascending."""
    return params.sorted


def integer_grid(params: Params) -> None:
    """None: the levels, a learned codebook, are no multiples of a unit."""


def thresholds(params: Params, dtype: npt.DTypeLike = np.float64) -> Array:
    """The 2^bits - 1 transition points: midpoints of neighbouring centres, computed in `dtype`.

    >>> thresholds(Params([3.0, 0.0, 1.0, 7.0], 2, "weight"))
    array([0.5, 2. , 5. ])
    """
    values = params.sorted.astype(dtype)
    return np.asarray(values[:-1] / 2 + values[1:] / 2)


def threshold_distance(x: npt.ArrayLike, params: Params) -> Array:
    """Distance of `x` from the nearest transition point, in mean distances of neighbouring centres (or in 1)."""
    x, unit = checks.as_float(x), spacing(params.centers) or 1.0
    return np.asarray(functools.reduce(np.minimum, (np.abs(x - t) / unit for t in thresholds(params))))


def surrogate(x: npt.ArrayLike, params: Params, *, at: tuple[npt.ArrayLike, Params]) -> Array:
    """What training differentiates, wherever it is: the soft quantizer."""
    return _soft(checks.as_float(x), params)


def vjp(x: npt.ArrayLike, params: Params, grad: npt.ArrayLike) -> tuple[Array, dict[str, Array]]:
    """Gradients of the soft quantizer for x and the centres.

    >>> vjp([0.5], Params([0.0, 1.0], 1, "weight", sigma=2.0), [1.0])
    (array([1.]), {'centers': array([0., 0.])})
    """
    x = checks.as_float(x)
    grad = np.asarray(grad, x.dtype)
    near = _nearest(x, params)
    phi = _assignments(x, near, params)
    sharp = x.dtype.type(2 * params.sigma)
    apart = _column(params.centers, x) - near  # small numbers, where the centres' own squares would cancel
    mean = (phi * apart).sum(axis=0)
    slope = sharp * (phi * (apart - mean) ** 2).sum(axis=0)
    x_here = np.clip(x, -FAR, FAR)
    by_center = phi * (1 + (apart - mean) * sharp * (x_here - near - apart))
    found = (grad * by_center).reshape(len(phi), -1).sum(axis=1)
    return grid.keep_nan(x, grad * slope), {"centers": found}


def gap(x: npt.ArrayLike, params: Params) -> float:
    """Mean of ``(soft - hard)^2``, what the paper's schedule for images controls.

    >>> gap([0.0, 0.5], Params([0.0, 1.0], 1, "weight", sigma=2.0))  # doctest: +ELLIPSIS
    0.13210...
    """
    x = checks.as_float(x)
    return float(np.mean((_soft(x, params) - _nearest(x, params)) ** 2))


def _column(centers: Array, x: Array) -> Array:
    """Centres along a first axis, to be broadcast with `x`."""
    return centers.astype(x.dtype).reshape(-1, *[1] * x.ndim)


def _below(x: Array, params: Params) -> Array:
    """How many transition points are below `x`, all of them for NaN."""
    return np.asarray(np.searchsorted(thresholds(params, x.dtype), x), np.int64)


def _nearest(x: Array, params: Params) -> Array:
    return np.asarray(params.sorted.astype(x.dtype)[_below(x, params)])


def _assignments(x: Array, near: Array, params: Params) -> Array:
    """Shares by exponents from the nearest centre on, so that none overflows and none is 0/0."""
    x, centers = np.clip(x, -FAR, FAR), _column(params.centers, x)
    with np.errstate(over="ignore"):  # a sharp softmax, far outside: shares of 0
        z = x.dtype.type(params.sigma) * ((near - centers) * ((x - centers) + (x - near)))
    e = np.exp(-np.maximum(z, x.dtype.type(0)))
    return np.asarray(e / e.sum(axis=0))


def _soft(x: Array, params: Params) -> Array:
    """The nearest centre and the mean of what the others are apart from it, so that a hard softmax loses no digits."""
    near = _nearest(x, params)
    return np.asarray(near + (_assignments(x, near, params) * (_column(params.centers, x) - near)).sum(axis=0))
