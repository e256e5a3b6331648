"""IR-Net: balanced, standardised binary weights (Libra-PB) and a sign whose gradient sharpens in training (EDE).

Source: Qin et al.: Forward and Backward Information Retention for Accurate Binary Neural Networks, CVPR 2020
(arXiv 1909.10788), held against its released code, htqin/IR-Net.

Weights are standardised, as a rule per output channel, and binarised with a power of two for scale:

    w-hat = (w - mean w) / std w,   w_b = sign(w-hat) 2^s,   s = round(log2(mean |w-hat|)),

with the unbiased standard deviation. s rounds ties to even and is a constant in the backward pass; mean and deviation
are not, as the released code does not detach them. Activations are binarised to sign(x) in {-1, 1}. The sign of 0 is
+1 everywhere: as 0, which is what the released code's torch.sign makes of it, it would be a third level.

The gradient of the sign (EDE, error decay estimator) is that of k tanh(t y), with t raised from 0.1 to 10 in training
and k = max(1/t, 1): near the identity first, near the sign at last.

For two weights mean |w-hat| is sqrt(1/2) whatever they are, midway between two scales, and rounding errors decide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from reference import checks, grid
from reference.grid import Array, IntegerGrid, Role
from reference.registry import Method

METHOD = Method(
    name="irnet",
    title="IR-Net",
    source="Qin et al.: IR-Net, CVPR 2020, arXiv 1909.10788, and its code, htqin/IR-Net",
    bits={"weight": range(1, 2), "signed_activation": range(1, 2)},
    variants=("released",),
    learnable=(),
    # Of w-hat, in which its mean errs by a few eps of mean |w| (a sum) over the deviation: 32 admits weights that are
    # up to ten deviations from 0. The output is a power of two, hence exact.
    bound=32,
    exempt={"idempotence": "levels lie about 0, whatever the mean of the weights is"},
    in_input_units=("mean", "std"),
    channelwise=True,
)

T_MIN, T_MAX = 0.1, 10.0  # one released script starts from 1e-3
T_RANGE = (1e-6, 1e6)
LARGEST_EXPONENT = 100  # 2^s and its multiples by a gradient then stay far within float32


@dataclass(frozen=True)
class Params:
    """Parameters of IR-Net: none is learned.

    Attributes
    ----------
    bits : int
        1.
    role : {"weight", "signed_activation"}
        What is quantized. Activations have no statistics.
    t : float
        Steepness of the surrogate, 1e-6 to 1e6. See `ede`.
    mean, std, exponent : ndarray
        Statistics of the weights, float64, of shape () or (C, 1, ...): mean, unbiased standard deviation, which is
        positive, and s, a whole number from -100 to 100. For activations they stay at 0, 1 and 0.
    variant : {"released"}
        There is one.
    """

    bits: int
    role: Role
    t: float = T_MIN
    mean: Array | float = 0.0
    std: Array | float = 1.0
    exponent: Array | float = 0.0
    variant: str = "released"

    def __post_init__(self) -> None:
        object.__setattr__(self, "variant", METHOD.check(self.bits, self.role, self.variant))
        object.__setattr__(self, "t", checks.check_scalar("t", self.t, *T_RANGE))
        object.__setattr__(self, "mean", checks.finite("mean", self.mean))
        object.__setattr__(self, "std", checks.positive("std", self.std))
        exponent = checks.finite("exponent", self.exponent)
        if not np.all((exponent == np.rint(exponent)) & (np.abs(exponent) <= LARGEST_EXPONENT)):
            admitted = f"whole numbers from -{LARGEST_EXPONENT} to {LARGEST_EXPONENT}"
            raise checks.refuse("exponent", exponent.tolist(), admitted)
        object.__setattr__(self, "exponent", exponent)


def ede(progress: float, *, t_min: float = T_MIN, t_max: float = T_MAX) -> tuple[float, float]:
    """Return t and k at a share of training, 0 to 1: t grows geometrically, and ``k = max(1/t, 1)``.

    ``t = t_min 10^(progress log10(t_max/t_min))``.

    >>> ede(0), ede(0.5), ede(1)
    ((0.1, 10.0), (1.0, 1.0), (10.0, 1.0))
    """
    progress = checks.check_scalar("progress", progress, 0, 1)
    low, high = checks.check_scalar("t_min", t_min, *T_RANGE), checks.check_scalar("t_max", t_max, *T_RANGE)
    t = low * 10 ** (progress * math.log10(high / low))
    return t, max(1 / t, 1.0)


def init(
    x: npt.ArrayLike,
    bits: int,
    role: Role,
    *,
    channels: bool = False,
    t: float = T_MIN,
    variant: str = "released",
) -> Params:
    """Take the statistics of weights; activations are not looked at.

    Parameters
    ----------
    channels : bool
        Each element of the first axis of `x` has its own.

    Raises
    ------
    ValueError
        If weights (in any channel) are fewer than two, all equal, or not finite; with `channels`, if there are none.

    >>> params = init([1.0, 2.0, 6.0], 1, "weight")
    >>> float(params.mean), float(params.exponent)
    (3.0, 0.0)
    """
    METHOD.check(bits, role, variant)
    shape = grid.channel_shape(x) if channels else ()
    return observe(x, Params(bits, role, t, np.zeros(shape), np.ones(shape), np.zeros(shape), variant))


def observe(x: npt.ArrayLike, params: Params) -> Params:
    """Return the parameters with the statistics of `x`, if they are for weights.

    Raises ValueError as `init` does, and if `x` has other channels.
    """
    if params.role != "weight":
        return params
    x, shape = checks.as_float(x), np.shape(params.mean)
    if shape and (x.ndim != len(shape) or len(x) != shape[0]):
        raise checks.refuse("shape of x", x.shape, f"({shape[0]}, ...), with {len(shape)} axes, as the statistics have")
    rows = x.astype(np.float64).reshape(math.prod(shape), -1)
    std = np.array([grid.deviation(row) for row in rows])
    mean = rows.mean(axis=1)
    exponent = grid.round_half_even(np.log2(np.abs((rows - mean[:, None]) / std[:, None]).mean(axis=1)))
    return replace(params, mean=mean.reshape(shape), std=std.reshape(shape), exponent=exponent.reshape(shape))


def standardized(x: npt.ArrayLike, params: Params) -> Array:
    """Return w-hat; activations as they are."""
    x = checks.as_float(x)
    if params.role != "weight":
        return x
    return np.asarray((x - _cast(params.mean, x.dtype)) / _cast(params.std, x.dtype))


def forward(x: npt.ArrayLike, params: Params, *, training: bool, noise: None = None) -> Array:
    """Binarise `x`; training and test are the same.

    >>> forward([-0.1, 0.0, 9.0], Params(1, "signed_activation"), training=True)
    array([-1.,  1.,  1.])
    >>> forward([1.0, 2.0, 6.0], init([1.0, 2.0, 6.0], 1, "weight"), training=True)
    array([-1., -1.,  1.])
    """
    checks.refuse_noise(noise, METHOD.title)
    x = checks.as_float(x)
    y = standardized(x, params)
    with np.errstate(invalid="ignore"):  # comparing NaN
        return np.where(np.isnan(y), y, decode((y >= 0).astype(x.dtype), params))


def codes(x: npt.ArrayLike, params: Params) -> Array:
    """0 for the negative level, 1 for the positive one. Raises ValueError on NaN."""
    y = standardized(x, params)
    return grid.integers(np.where(np.isnan(y), y, y >= 0))


def decode(q: npt.ArrayLike, params: Params) -> Array:
    """Values of codes, ``(2 q - 1) 2^s``."""
    q = checks.as_float(q)
    return np.asarray((2 * q - 1) * _power(params, q.dtype))


def levels(params: Params) -> Array:
    """The two values that `forward` can return, ascending along the first axis."""
    return decode(grid.all_codes(grid.top_code(params.bits) + 1, np.asarray(params.exponent)), params)


def integer_grid(params: Params) -> IntegerGrid | None:
    """The levels as a unit times integers: 2^s times -1 and 1; activations have s = 0.

    >>> integer_grid(Params(1, "weight", exponent=-1))
    IntegerGrid(unit=array(0.5), lowest=-1, stride=2)
    """
    return IntegerGrid(_power(params, np.dtype(np.float64)), -1, stride=2)


def threshold_distance(x: npt.ArrayLike, params: Params) -> Array:
    """Distance of w-hat, or of an activation, from 0."""
    return np.abs(standardized(x, params))


def surrogate(x: npt.ArrayLike, params: Params, *, at: tuple[npt.ArrayLike, Params]) -> Array:
    """What training differentiates at `at`: ``2^s k tanh(t w-hat)``, s fixed; mean and deviation are those of `x`.

    Its values are not those of `forward`, whose derivative it stands in for.
    """
    x, (_, params0) = checks.as_float(x), at
    y = x
    if params.role == "weight":
        shape = np.shape(params0.mean)
        count = x.size // math.prod(shape)
        centred = x - grid.unbroadcast(x, shape) / count
        y = centred / np.sqrt(grid.unbroadcast(centred * centred, shape) / (count - 1))
    return np.asarray(_power(params0, x.dtype) * max(1 / params.t, 1) * np.tanh(params.t * y))


def vjp(x: npt.ArrayLike, params: Params, grad: npt.ArrayLike) -> tuple[Array, dict[str, Array]]:
    """Gradient for x; no parameter has one.

    With g the gradient for w-hat, ``grad * 2^s k t (1 - tanh^2(t w-hat))``, and N weights, that of mean and deviation
    included is ``(g - mean(g) - w-hat sum(g w-hat) / (N - 1)) / std``.

    >>> vjp([0.0, 2.0], Params(1, "signed_activation", t=1.0), [1.0, 1.0])[0].round(4)
    array([1.    , 0.0707])
    """
    x = checks.as_float(x)
    grad = np.asarray(grad, x.dtype)
    y = standardized(x, params)
    t, k = x.dtype.type(params.t), x.dtype.type(max(1 / params.t, 1))
    g = grad * _power(params, x.dtype) * (k * t * (1 - np.square(np.tanh(t * y))))
    if params.role == "weight":
        shape = np.shape(params.mean)
        count = x.size // math.prod(shape)
        by_mean = grid.unbroadcast(g, shape) / x.dtype.type(max(count, 1))
        by_std = grid.unbroadcast(g * y, shape) / x.dtype.type(max(count - 1, 1))
        g = (g - by_mean - y * by_std) / _cast(params.std, x.dtype)
    return np.asarray(g), {}


def _cast(value: Array | float, dtype: np.dtype) -> Array:
    return np.asarray(value).astype(dtype)


def _power(params: Params, dtype: np.dtype) -> Array:
    """2^s, exact."""
    return _cast(np.ldexp(1.0, np.asarray(params.exponent).astype(np.int64)), dtype)
