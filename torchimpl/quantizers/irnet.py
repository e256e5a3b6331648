"""IR-Net as a module: Libra-PB for weights, signs for activations, EDE. Formulas are in `reference.irnet`."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from reference import grid
from reference.irnet import T_MAX, T_MIN, T_RANGE
from torchimpl.kernels import Fused, Kernel
from torchimpl.operators import operator
from torchimpl.quantizers.base import (
    Quantizer,
    as_float,
    check_positive,
    check_shape,
    other_axes,
    parameter_shape,
    positive_number,
    positive_or_nan,
)


def _backward(grad: Tensor, y: Tensor, scale: Tensor, t: Tensor):  # type: ignore[no-untyped-def]
    t = positive_or_nan(t, y.dtype)
    slope = torch.clamp(t, min=1.0) * (1 - torch.tanh(t * y).square())  # k t = max(1, t)
    return (grad * scale * slope,)


# tanh(w) for |w| <= 9, beyond which it is 1 in float32: tanh(w/16) / (w/16) as a polynomial in (w/16)^2, the minimax
# one for |w/16| <= 0.5647 with a relative error of 1.3e-9, and four times tanh(2v) = 2 tanh v / (1 + tanh^2 v).
TANH = (0.99999999874, -0.333333047389, 0.13332274878, -0.0538236346038, 0.020960963785, -0.00612318419288)


def _forward_loop(x, out, scale):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    zero = np.float32(0)
    for i in range(x.size):
        v = x[i]
        sign = scale if v >= zero else -scale
        out[i] = v if v != v else sign


def _backward_loop(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    grad, x, grad_x, sixteenth, steepest, a0, a1, a2, a3, a4, a5
):
    one, two, end = np.float32(1), np.float32(2), np.float32(9 / 16)
    for i in range(x.size):
        u = x[i] * sixteenth
        u = -end if u < -end else (end if u > end else u)
        square = u * u
        t = u * (a0 + square * (a1 + square * (a2 + square * (a3 + square * (a4 + square * a5)))))
        t = two * t / (one + t * t)
        t = two * t / (one + t * t)
        t = two * t / (one + t * t)
        t = two * t / (one + t * t)
        grad_x[i] = grad[i] * (steepest * (one - t * t))


def _backward_numbers(scale: float, t: float) -> tuple[np.float32, ...]:
    t = float(positive_number(t))
    return tuple(map(np.float32, (t / 16, scale * max(t, 1.0) if t == t else t, *TANH)))


FUSED = Fused(
    forward=Kernel(_forward_loop, exact=True),
    backward=Kernel(_backward_loop, exact=False),
    numbers=lambda scale, t: (np.float32(scale),),
    backward_numbers=_backward_numbers,
    sums=0,
    gradients=lambda sums, scale, t: (),
)


@operator("irnet", _backward, FUSED, gradients=1)
def irnet_sign(y: Tensor, scale: Tensor, t: Tensor) -> Tensor:
    """Return `scale` with the sign of `y`, + for 0; the gradient is that of ``scale max(1/t, 1) tanh(t y)``."""
    return torch.where(y.isnan(), y, torch.where(y >= 0, scale, -scale))


def standardize(w: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return w-hat, with gradients through mean and deviation, and 2^s, without any.

    The statistics have the given shape, () or (C, 1, ...). Where all weights are equal, both are NaN. Raises ValueError
    if the weights have not as many channels.
    """
    axes, count = other_axes(w, shape), w.numel() // math.prod(shape)
    centred = w - w.sum(axes, keepdim=True) / count
    std = (centred.square().sum(axes, keepdim=True) / (count - 1)).sqrt()
    varied = w.detach().amin(axes, keepdim=True) < w.detach().amax(axes, keepdim=True)  # a mean may be rounded
    y = centred / torch.where(varied, std, torch.full_like(std, torch.nan))
    magnitude = y.detach().abs().sum(axes, keepdim=True) / count
    mantissa, _ = torch.frexp(magnitude)  # from 1/2 to 1; the quotient is a power of two, without an error
    power = magnitude / mantissa
    return y, torch.where(mantissa < math.sqrt(0.5), power / 2, power)


class IRNet(Quantizer):
    """Binary weights and activations of IR-Net (Qin et al., CVPR 2020).

    Weights take their statistics from themselves, at every call; if all of a channel are equal, or one is not finite,
    its values are NaN. Half precision is standardised in float32.

    Parameters
    ----------
    bits, role, variant
        See `Quantizer`; 1 bit, roles "weight" and "signed_activation". There is one variant, "released".
    shape : tuple of int
        Of the statistics: () for the whole tensor, (C, 1, ...) for one set a channel.

    Attributes
    ----------
    t : Tensor, of shape ()
        Steepness of the surrogate; saved. `set_progress` raises it.

    >>> IRNet(1, "weight")(torch.tensor([1.0, 2.0, 6.0]))
    tensor([-1., -1.,  1.])
    """

    method = "irnet"
    t: Tensor

    def __init__(
        self, bits: int | None, role: str = "signed_activation", *, variant: str | None = None,
        shape: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        super().__init__(bits, role, variant=variant)
        self.shape = parameter_shape(shape)
        self.register_buffer("t", torch.tensor(T_MIN))

    def ready_at_once(self) -> bool:
        """Nothing needs a first batch."""
        return True

    def initialize(self, x: Tensor) -> None:
        """Nothing is set: what depends on the data does so at every call. Raises ValueError for other channels."""
        if self.role == "weight" and x.numel():
            check_shape(x, self.shape)
        self.mark_initialized()

    def set_progress(self, progress: float, *, t_min: float = T_MIN, t_max: float = T_MAX) -> None:
        """Set t for a share of training, 0 to 1: geometrically from `t_min` to `t_max`.

        Raises
        ------
        ValueError
            If `progress` is not from 0 to 1, or an end is out of range.
        """
        share = grid.check_scalar("progress", progress, 0, 1)
        low, high = grid.check_scalar("t_min", t_min, *T_RANGE), grid.check_scalar("t_max", t_max, *T_RANGE)
        self.t.fill_(math.exp((1 - share) * math.log(low) + share * math.log(high)))

    def quantize(self, x: Tensor) -> Tensor:
        """Binarise, with t as it stands."""
        y, scale = self._standardized(x)
        return irnet_sign(y, scale, self.t).to(x.dtype)

    def check_parameters(self) -> None:
        """Raise ValueError unless t is positive."""
        check_positive("t", self.t)

    def encode(self, x: Tensor) -> Tensor:
        """Codes, 0 and 1. Raises ValueError if weights have no statistics."""
        y, _ = self._standardized(x)
        if bool(y.isnan().any()):
            raise grid.refuse("weights of a channel", "infinite or equal ones", "finite, and not all equal")
        return (y >= 0).to(x.dtype)

    def values_of(self, codes: Tensor, x: Tensor | None) -> Tensor:
        """Values of codes. Raises ValueError for weights without `x`, the weights that were quantized."""
        q = as_float(codes, self.t)
        if self.role != "weight":
            return 2 * q - 1
        if x is None:
            raise grid.refuse("x", None, "the weights that were quantized: they determine the levels")
        return (2 * q - 1) * self._standardized(x.detach())[1].to(q.dtype)

    def _standardized(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is binarised, in float32 at least, and the scale of its sign."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return standardize(wide, self.shape) if self.role == "weight" and x.numel() else (wide, wide.new_ones(()))


QUANTIZER = IRNet
