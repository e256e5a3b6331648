"""DoReFa-Net: weights through tanh, activations clipped to [0, 1].

Source: Zhou et al.: DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth Gradients, 2016
(formulas from memory of the paper). Gradients themselves are not quantized here.

With n = 2^bits - 1 and ties to even, as in torch.round, weights of two bits or more become

    p = tanh(w) / (2 max|tanh w|) + 1/2,    Q = round(n p),    value = (2 Q - n) / n,

where the maximum is over the tensor: levels are the odd multiples of 1/n, none of them 0. A weight of 0 is a tie,
which goes up, to 1/n. At 1 bit the value is E|w| for w >= 0 and -E|w| below, with the mean over the tensor and a zero
counted as positive. Activations become Q / n with Q = round(n clip(a, 0, 1)).

Rounding and the sign pass gradients as they are. At 1 bit the weights' gradient is hence the value's, with E|w| a
constant; for more it is multiplied by (1 - tanh^2 w) / max|tanh w|; activations from 0 to 1, ends included, pass it.

Two variants, for weights of two bits or more. In ``released``, as in the authors' code (tensorpack/tensorpack) and in
IntelLabs/distiller, which it was held against, the gradient flows through the maximum to the weights of the largest
magnitude; several share it evenly. In ``paper`` the maximum is a constant in the backward pass: a reading of the paper
that was not at hand to verify it, and that no public code was found to have.

Both statistics belong to the tensor that is quantized: `observe` takes them, and all else uses them as they are in the
parameters. `vjp` needs those of its own x.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reference import checks, grid
from reference.grid import Array, IntegerGrid, Role
from reference.registry import Method

# tanh and the maximum err by 2 units each and their quotient, which is at most 1/2, by half a one: with the rounding of
# the sum, p is known to 3. A mean errs by half a unit for each doubling of the tensor, as both libraries add pairwise:
# 8 is enough for 2^16 weights.
METHOD = Method(
    name="dorefa",
    title="DoReFa-Net",
    source="Zhou et al.: DoReFa-Net, 2016, and its code, tensorpack/tensorpack",
    bits={"weight": range(1, 9), "activation": range(1, 9)},
    variants=("released", "paper"),
    learnable=(),
    exempt={"idempotence": "weights pass through tanh, and " + grid.SCALED_LEVELS},
    bound=8,
)


@dataclass(frozen=True)
class Params:
    """Parameters of DoReFa-Net: none is learned, but weights have statistics.

    Attributes
    ----------
    bits : int
        1 to 8.
    role : {"weight", "activation"}
        Activations are those after a ReLU.
    variant : {"released", "paper"}
        See the module's text.
    largest : ndarray
        max|tanh w|, positive, float64, of shape (); 1, the supremum, unless observed. Not used for activations.
    mean : ndarray
        E|w|, positive, float64, of shape (); 1 unless observed. Used for weights of 1 bit.
    """

    bits: int
    role: Role
    variant: str = "released"
    largest: Array = dataclasses.field(default_factory=lambda: np.asarray(1.0))
    mean: Array = dataclasses.field(default_factory=lambda: np.asarray(1.0))

    def __post_init__(self) -> None:
        object.__setattr__(self, "variant", METHOD.check(self.bits, self.role, self.variant))
        object.__setattr__(self, "largest", checks.positive("largest", self.largest))
        object.__setattr__(self, "mean", checks.positive("mean", self.mean))


def observe(x: npt.ArrayLike, params: Params) -> Params:
    """Return the parameters with the statistics of the weights `x`; those of activations as they are.

    max|tanh w| is computed as tanh(max|w|), which is the same because tanh increases.

    Raises
    ------
    ValueError
        If weights are empty, all zero or not finite.

    >>> float(observe([-2.0, 1.0], Params(1, "weight")).mean)
    1.5
    """
    if params.role == "activation":
        return params
    x = checks.as_float(x)
    mean = grid.mean_magnitude(x)
    return dataclasses.replace(params, mean=mean, largest=np.tanh(np.abs(x).max()))


def init(x: npt.ArrayLike, bits: int, role: Role, *, variant: str = "released") -> Params:
    """Take the statistics of weights; activations need none. Raises ValueError where `observe` does."""
    return observe(x, Params(bits, role, variant))


def forward(x: npt.ArrayLike, params: Params, *, training: bool, noise: None = None) -> Array:
    """Quantize `x`; training and test are the same.

    >>> w = [-1.0, 0.0, 0.2, 1.0]
    >>> forward(w, init(w, 2, "weight"), training=True)
    array([-1.        ,  0.33333333,  0.33333333,  1.        ])
    >>> forward([-0.6, 0.0, 3.0], init([-0.6, 0.0, 3.0], 1, "weight"), training=True)
    array([-1.2,  1.2,  1.2])
    >>> forward([-1.0, 0.4, 3.0], Params(1, "activation"), training=True)
    array([0., 0., 1.])
    """
    checks.refuse_noise(noise, METHOD.title)
    x = checks.as_float(x)
    return decode(_rounded(x, params), params)


def codes(x: npt.ArrayLike, params: Params) -> Array:
    """Integers 0 ... 2^bits - 1, the lowest level being 0. Raises ValueError on NaN."""
    return grid.integers(_rounded(checks.as_float(x), params))


def decode(q: npt.ArrayLike, params: Params) -> Array:
    """Values of codes: ``(2 q - n) / n`` for weights, times E|w| at 1 bit, and ``q / n`` for activations."""
    q = checks.as_float(q)
    value = grid.decode(q, params.bits, params.role)
    return np.asarray(value * params.mean.astype(q.dtype)) if _binary(params) else value


def levels(params: Params) -> Array:
    """The 2^bits values that `forward` can return, ascending along the first axis."""
    return decode(np.arange(grid.top_code(params.bits) + 1), params)


def integer_grid(params: Params) -> IntegerGrid | None:
    """The levels as a unit times integers: 1/n times those of Eq. 2 of DAQ; at 1 bit weights are E|w| times -1 and 1.

    >>> integer_grid(Params(1, "weight", mean=0.5))
    IntegerGrid(unit=array(0.5), lowest=-1, stride=2)
    """
    found = grid.integer_grid(params.bits, params.role)
    return dataclasses.replace(found, unit=params.mean) if _binary(params) else found


def threshold_distance(x: npt.ArrayLike, params: Params) -> Array:
    """Distance from the nearest transition point, in levels; at 1 bit w's from 0, which no rounding error moves."""
    x = checks.as_float(x)
    return np.asarray(np.abs(x) / (2 * params.mean)) if _binary(params) else grid.tie_distance(_normalized(x, params))


def surrogate(x: npt.ArrayLike, params: Params, *, at: tuple[npt.ArrayLike, Params]) -> Array:
    """What training differentiates at `at`: what rounding or the sign adds is held fixed.

    So is which activations are clipped and, in ``released``, which weights have the largest magnitude.
    """
    x, x0, params0 = checks.as_float(x), checks.as_float(at[0]), at[1]
    value = forward(x0, params0, training=True)
    if params.role == "activation":
        return np.asarray(value + np.where((x0 >= 0) & (x0 <= 1), x - x0, 0))
    if _binary(params0):
        return np.asarray(value + x - x0)
    largest = params.largest
    if params0.variant == "released" and x0.size:
        attained = np.abs(x0) == np.abs(x0).max()
        largest = largest + np.abs(np.tanh(x[attained])).mean() - np.abs(np.tanh(x0[attained])).mean()
    return np.asarray(value + np.tanh(x) / largest - np.tanh(x0) / params0.largest)


def vjp(x: npt.ArrayLike, params: Params, grad: npt.ArrayLike) -> tuple[Array, dict[str, Array]]:
    """Gradient for x, the statistics in `params` being those of x; no parameter is learned.

    >>> vjp([-0.1, 0.0, 0.7, 1.0, 1.1], Params(2, "activation"), np.ones(5))[0]
    array([0., 1., 1., 1., 0.])
    """
    x = checks.as_float(x)
    grad = np.asarray(grad, x.dtype)
    if _binary(params):
        return grid.keep_nan(x, grad), {}
    if params.role == "activation":
        return grid.keep_nan(x, np.where((x >= 0) & (x <= 1), grad, x.dtype.type(0))), {}
    t, largest = np.tanh(x), params.largest.astype(x.dtype)
    by_tanh = grad / largest
    if params.variant == "released" and x.size:
        attained = np.abs(x) == np.abs(x).max()
        by_largest = -(by_tanh * (t / largest)).sum()
        by_tanh = by_tanh + attained * np.sign(x) * (by_largest / x.dtype.type(max(attained.sum(), 1)))
    return np.asarray(by_tanh * (1 - t * t)), {}


def _binary(params: Params) -> bool:
    return params.role == "weight" and params.bits == 1


def _normalized(x: Array, params: Params) -> Array:
    """The value that is rounded, in [0, n]; for weights, the clip takes up what rounding errors lead out of it."""
    p = x if params.role == "activation" else np.tanh(x) / (2 * params.largest.astype(x.dtype)) + x.dtype.type(0.5)
    return np.asarray(np.clip(p, 0, 1) * x.dtype.type(grid.top_code(params.bits)))


def _rounded(x: Array, params: Params) -> Array:
    if _binary(params):
        return np.where(np.isnan(x), x, (x >= 0).astype(x.dtype))
    return grid.round_half_even(_normalized(x, params))
