"""LSQ, learned step size quantization.

Source: Esser et al.: Learned Step Size Quantization, ICLR 2020 (formulas from memory of the paper). No official code
was found; held against zhutmost/lsq-net, ZouJiu1/LSQplus, ModelTC/MQBench and torch's own learnable fake-quantization.

With Q_N and Q_P the number of negative and positive levels, and s the step size,

    v-hat = s * round(clip(v / s, -Q_N, Q_P)),

and the step size is learned: round(v/s) - v/s inside the range, -Q_N or Q_P at and beyond its ends, times
1/sqrt(N Q_P), where N is the number of weights or of features that share s. The paper names no rule for ties; here
they go to even, as in torch.round.

Three variants, which differ in what counts as clipped (gradient 0 for v, an end for s), and in N. All have the values
above.

- ``paper``: v/s at or beyond an end. Of activations N counts one image's.
- ``lsq-net``: v/s beyond an end; on it, the gradients are 1 for v and 0 for s. N counts the whole tensor, the batch
  included, even where there is one step size a channel. So zhutmost/lsq-net; hustzxd/LSQuantization and ZouJiu1/LSQplus
  agree, but that the latter rounds ties away from zero and keeps the first batch's N.
- ``mqbench``: round(v/s) beyond an end, so that v/s = Q_P + 0.3 counts as inside, with 1 for v and -0.3 (rather than
  Q_P) for s. N counts what shares the step size, the batch included. So ModelTC/MQBench, where one step size a tensor
  is ``torch._fake_quantize_learnable_per_tensor_affine``.

Signed data at 1 bit would have Q_P = 0: not defined.
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
    name="lsq",
    title="LSQ",
    source="Esser et al.: Learned Step Size Quantization, ICLR 2020 (held against lsq-net and MQBench)",
    bits={"weight": range(2, 9), "activation": range(1, 9), "signed_activation": range(2, 9)},
    variants=("paper", "lsq-net", "mqbench"),
    learnable=("step",),
    in_input_units=("step",),
)


@dataclass(frozen=True)
class Params:
    """Parameters of LSQ.

    Attributes
    ----------
    step : ndarray
        Step size s, positive, float64, of shape () or (C, 1, ...).
    bits : int
        2 to 8 for signed data, 1 to 8 for activations after a ReLU.
    role : {"weight", "activation", "signed_activation"}
        Plain "activation" has Q_N = 0.
    variant : {"paper", "lsq-net", "mqbench"}
        See the module's text.
    """

    step: Array
    bits: int
    role: Role
    variant: str = "paper"

    def __post_init__(self) -> None:
        object.__setattr__(self, "variant", METHOD.check(self.bits, self.role, self.variant))
        object.__setattr__(self, "step", checks.positive("step", self.step))


def level_range(bits: int, role: Role) -> tuple[int, int]:
    """Q_N and Q_P: 2^(bits-1) and one less for signed data, 0 and 2^bits - 1 otherwise.

    >>> level_range(3, "weight"), level_range(3, "activation")
    ((4, 3), (0, 7))
    """
    n = grid.top_code(bits)
    return (0, n) if role == "activation" else (n // 2 + 1, n // 2)


def gradient_scale(x: npt.ArrayLike, params: Params) -> float:
    """``1 / sqrt(N Q_P)``, the factor of the gradient for s.

    N is the number of elements that share a step size; for activations, those of one image (the first axis, where
    there are several, is the batch). ``mqbench`` counts all images, ``lsq-net`` all channels, too.

    >>> gradient_scale(np.zeros((8, 4)), Params(1.0, 2, "weight"))  # Q_P = 1
    0.17677669529663687
    """
    _, top = level_range(params.bits, params.role)
    shape, steps = np.shape(x), params.step.size
    if params.variant == "paper":
        count = elements_per_step(shape, steps, params.role)
    else:
        count = max(math.prod(shape) // (1 if params.variant == "lsq-net" else steps), 1)
    return 1 / math.sqrt(count * top)


def elements_per_step(shape: tuple[int, ...], steps: int, role: Role) -> int:
    """How many elements share one of `steps` step sizes, N of the paper: at least 1, and of one image for activations.

    >>> elements_per_step((2, 3, 4, 4), 3, "activation")
    16
    """
    per_image = role != "weight" and len(shape) > 1
    return max(math.prod(shape[1:] if per_image else shape) // steps, 1)


def init(x: npt.ArrayLike, bits: int, role: Role, *, variant: str = "paper") -> Params:
    """Initialise s with ``2 mean|v| / sqrt(Q_P)``, of the weights or the first batch.

    Raises
    ------
    ValueError
        If `x` is empty, all zero or not finite.

    >>> init([-1.0, 1.0, 3.0, 3.0], 2, "weight").step
    array(4.)
    """
    METHOD.check(bits, role, variant)
    _, top = level_range(bits, role)
    return Params(np.asarray(2 * grid.mean_magnitude(x) / math.sqrt(top)), bits, role, variant)


def forward(x: npt.ArrayLike, params: Params, *, training: bool, noise: None = None) -> Array:
    """Quantize `x` to multiples of s; training and test are the same.

    >>> forward([-9.0, 0.2, 0.25, 0.9], Params(0.5, 2, "weight"), training=True)
    array([-1. ,  0. ,  0. ,  0.5])
    """
    checks.refuse_noise(noise, METHOD.title)
    x = checks.as_float(x)
    return np.asarray(_rounded(x, params) * params.step.astype(x.dtype))


def codes(x: npt.ArrayLike, params: Params) -> Array:
    """Integers 0 ... 2^bits - 1, the lowest level being 0. Raises ValueError on NaN."""
    low, _ = level_range(params.bits, params.role)
    return grid.integers(_rounded(checks.as_float(x), params)) + low


def decode(q: npt.ArrayLike, params: Params) -> Array:
    """Values of codes, ``(q - Q_N) s``."""
    q = checks.as_float(q)
    low, _ = level_range(params.bits, params.role)
    return np.asarray((q - low) * params.step.astype(q.dtype))


def levels(params: Params) -> Array:
    """The 2^bits values that `forward` can return, ascending along the first axis."""
    return decode(grid.all_codes(grid.top_code(params.bits) + 1, params.step), params)


def integer_grid(params: Params) -> IntegerGrid | None:
    """The levels as a unit times integers: s times -Q_N ... Q_P.

    >>> integer_grid(Params(0.5, 2, "weight"))
    IntegerGrid(unit=array(0.5), lowest=-2, stride=1)
    """
    low, _ = level_range(params.bits, params.role)
    return IntegerGrid(params.step, -low)


def threshold_distance(x: npt.ArrayLike, params: Params) -> Array:
    """Distance of v/s from the nearest transition point, in levels."""
    return grid.tie_distance(_clipped(checks.as_float(x), params))


def surrogate(x: npt.ArrayLike, params: Params, *, at: tuple[npt.ArrayLike, Params]) -> Array:
    """What training differentiates at `at`: what rounding adds is held fixed, and so is which values are clipped.

    The step size moves by 1/sqrt(N Q_P) of its change.
    """
    x, (x0, params0) = checks.as_float(x), at
    x0 = checks.as_float(x0)
    low, high = level_range(params0.bits, params0.role)
    step = params0.step + gradient_scale(x0, params0) * (params.step - params0.step)
    rounded = _rounded(x0, params0)
    rest = rounded - x0 / params0.step
    return np.asarray(np.where(_inside(x0, params0), (x / step + rest) * step, np.where(x0 > 0, high, -low) * step))


def vjp(x: npt.ArrayLike, params: Params, grad: npt.ArrayLike) -> tuple[Array, dict[str, Array]]:
    """Gradients for v and s.

    >>> vjp([0.6, 2.0], Params(1.0, 2, "weight"), [1.0, 1.0])[0]
    array([1., 0.])
    """
    x = checks.as_float(x)
    grad = np.asarray(grad, x.dtype)
    inside, rounded = _inside(x, params), _rounded(x, params)
    by_step = np.where(inside, rounded - x / params.step.astype(x.dtype), rounded)
    factor = x.dtype.type(gradient_scale(x, params))
    grad_x = grid.keep_nan(x, np.where(inside, grad, x.dtype.type(0)))
    return grid.unbroadcast(grad_x, x.shape), {"step": grid.unbroadcast(grad * by_step, params.step.shape) * factor}


def _clipped(x: Array, params: Params) -> Array:
    low, high = level_range(params.bits, params.role)
    return np.asarray(np.clip(x / params.step.astype(x.dtype), -low, high))


def _rounded(x: Array, params: Params) -> Array:
    return grid.round_half_even(_clipped(x, params))


def _inside(x: Array, params: Params) -> Array:
    """Whether values count as not clipped, by the variant."""
    low, high = level_range(params.bits, params.role)
    q = x / params.step.astype(x.dtype)
    if params.variant == "paper":
        return np.asarray((q > -low) & (q < high))
    q = grid.round_half_even(q) if params.variant == "mqbench" else q
    return np.asarray((q >= -low) & (q <= high))
