"""IR-Net as a module: Libra-PB for weights, signs for activations, EDE. Formulas are in `reference.irnet`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reference import checks
from reference.irnet import T_MAX, T_MIN, T_RANGE
from torchimpl.operators import operator
from torchimpl.quantizers.base import (
    Quantizer,
    as_float,
    check_positive,
    check_shape,
    other_axes,
    parameter_shape,
    positive_or_nan,
    wide,
)
from torchimpl.statistics import ordered_sum


def _backward(grad: Tensor, y: Tensor, scale: Tensor, t: Tensor):  # type: ignore[no-untyped-def]
    t = positive_or_nan(t, y.dtype)
    slope = torch.clamp(t, min=1.0) * (1 - torch.tanh(t * y).square())  # k t = max(1, t)
    return (grad * scale * slope,)


def _integers(y: Tensor, scale: Tensor, t: Tensor) -> Tensor:
    return torch.where(y.isnan(), y, torch.where(y >= 0, 1.0, -1.0))


@operator("irnet", integers=_integers, backward=_backward, gradients=1)
def irnet_sign(y: Tensor, scale: Tensor, t: Tensor) -> Tensor:
    """Return `scale` with the sign of `y`, + for 0; the gradient is that of ``scale max(1/t, 1) tanh(t y)``."""
    return torch.where(y.isnan(), y, torch.where(y >= 0, scale, -scale))


def standardize(w: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return w-hat, with gradients through mean and deviation, and 2^s, without any.

    The statistics have the given shape, () or (C, 1, ...). Where all weights are equal, both are NaN. Raises ValueError
    if the weights have not as many channels.
    """
    axes, count = other_axes(w, shape), w.numel() // math.prod(shape)
    w = w.contiguous()

    def total(x: Tensor) -> Tensor:
        return x.sum(axes, keepdim=True) if math.prod(shape) > 1 else ordered_sum(x).to(x.dtype).reshape([1] * x.dim())

    centred = w - total(w) / count
    std = (total(centred.square()) / (count - 1)).sqrt()
    varied = w.detach().amin(axes, keepdim=True) < w.detach().amax(axes, keepdim=True)  # a mean may be rounded
    y = centred / torch.where(varied, std, torch.full_like(std, torch.nan))
    magnitude = total(y.detach().abs()) / count
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
    operator = irnet_sign
    lowest, stride = -1, 2
    t: Tensor

    def __init__(
        self, bits: int, role: str = "signed_activation", *, variant: str | None = None,
        shape: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        super().__init__(bits, role, variant=variant)
        self.shape = parameter_shape(shape)
        self.register_buffer("t", torch.tensor(T_MIN))

    def ready_at_once(self) -> bool:
        """Nothing needs a first batch."""
        return True

    def set_first_values(self, x: Tensor) -> None:
        """Nothing is set: what depends on the data does so at every call.

        Raises ValueError for other channels, and if weights (in any channel) are fewer than two, all equal, or not
        finite.
        """
        if self.role == "weight":
            check_shape(x, self.shape)
            y, _ = self._standardized(x.detach())
            if not (y.numel() and bool(y.isfinite().all())):
                raise checks.refuse(
                    "weights of a channel", "too few, equal or infinite ones", "finite, and not all equal"
                )

    def set_progress(self, progress: float, *, t_min: float = T_MIN, t_max: float = T_MAX) -> None:
        """Set t for a share of training, 0 to 1: geometrically from `t_min` to `t_max`.

        Raises
        ------
        ValueError
            If `progress` is not from 0 to 1, or an end is out of range.
        """
        share = checks.check_scalar("progress", progress, 0, 1)
        low, high = checks.check_scalar("t_min", t_min, *T_RANGE), checks.check_scalar("t_max", t_max, *T_RANGE)
        self.t.fill_(math.exp((1 - share) * math.log(low) + share * math.log(high)))

    def quantize(self, x: Tensor) -> Tensor:
        """Binarise, with t as it stands."""
        y, scale = self._standardized(x)
        return irnet_sign(y, scale, self.t).to(x.dtype)

    def integers(self, x: Tensor) -> Tensor:
        """Signs, -1 and 1."""
        y, scale = self._standardized(x)
        return irnet_sign.integers(y, scale, self.t).to(x.dtype)

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """Integer codes 0 and 1, int64. Raises ValueError if `x` holds NaN or weights have no statistics."""
        if bool(torch.isnan(x).any()):
            raise checks.refuse("x", "NaN", "free of NaN (NaN has no code)")
        check_positive("t", self.t)
        signs = self.integers(x)
        if bool(signs.isnan().any()):
            raise checks.refuse("weights of a channel", "infinite or equal ones", "finite, and not all equal")
        return (signs > 0).to(torch.int64)

    def unit(self, x: Tensor) -> Tensor | float:
        """The power of two that scales the signs of weights, one a channel; 1 for activations."""
        return self._standardized(x.detach())[1] if self.role == "weight" else 1.0

    def decode(self, codes: Tensor, x: Tensor | None = None) -> Tensor:
        """Values of codes. Raises ValueError for weights without `x`, the weights that were quantized."""
        q = as_float(codes, self.t)
        if self.role != "weight":
            return 2 * q - 1
        if x is None:
            raise checks.refuse("x", None, "the weights that were quantized: they determine the levels")
        return (2 * q - 1) * self._standardized(x.detach())[1].to(q.dtype)

    def _standardized(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is binarised, in float32 at least, and the scale of its sign."""
        if self.role != "weight" or not x.numel():
            return x, torch.ones((), dtype=wide(x), device=x.device)
        return standardize(x.to(wide(x)), self.shape)


QUANTIZER = IRNet
