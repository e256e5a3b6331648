"""QIL as a module: a learned interval of quantized values. Formulas and their sources are in `reference.qil`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reference.qil import LOWEST
from torchimpl.operators import operator
from torchimpl.quantizers.base import (
    Quantizer,
    as_float,
    check_finite,
    check_positive,
    finite_or_nan,
    keep_nan,
    largest_magnitude,
    parameter_shape,
    positive_or_nan,
    reduce_to,
)


def _backward(  # type: ignore[no-untyped-def]
    grad: Tensor, x: Tensor, center: Tensor, distance: Tensor, gamma: Tensor, q: int, signed: bool
):
    c, d, g = _cast(center, distance, gamma, x.dtype)
    magnitude, sign = (x.abs(), torch.sign(x)) if signed else (x, torch.ones_like(x))
    inside = (magnitude >= c - d) & (magnitude <= c + d)
    u = torch.where(inside, (magnitude - c) / (2 * d) + 0.5, 0.5)
    v = torch.clamp(u, LOWEST, 1)
    chord = torch.pow(v, g - 1)
    by_u = torch.where(u < LOWEST, chord, g * chord)
    by_power = keep_nan(x, torch.where(inside, grad * sign, 0.0))
    by_center = -(by_power * by_u / (2 * d))
    by_gamma = reduce_to(by_power * (u * chord * torch.log(v)), gamma) if signed else torch.zeros_like(gamma)
    return (
        reduce_to(-by_center * sign, x),
        reduce_to(by_center, center),
        reduce_to(by_center * (2 * u - 1), distance),
        by_gamma,
    )


def _cast(center: Tensor, distance: Tensor, gamma: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    return finite_or_nan(center, dtype), positive_or_nan(distance, dtype), positive_or_nan(gamma, dtype)


def _integers(x: Tensor, center: Tensor, distance: Tensor, gamma: Tensor, q: int, signed: bool) -> Tensor:
    center, distance, gamma = _cast(center, distance, gamma, x.dtype)
    magnitude = x.abs() if signed else x
    power = torch.pow(torch.clamp((magnitude - center) / (2 * distance) + 0.5, 0, 1), gamma)
    power = torch.where(gamma.isnan(), gamma, power)  # 1 to the power of NaN is 1
    return torch.round((torch.sign(x) * power if signed else power) * q) + 0.0


@operator("qil", integers=_integers, backward=_backward)
def qil_quantize(x: Tensor, center: Tensor, distance: Tensor, gamma: Tensor, q: int, signed: bool) -> Tensor:
    """Quantize to multiples of 1/q: what the transformer makes of x, rounded. `signed` is for weights.

    In the lowest 2^-12 of the interval the gradients are those of a chord (see `reference.qil`). Gamma has one for
    weights only; for activations it is not learned.
    """
    return _integers(x, center, distance, gamma, q, signed) / q


class QIL(Quantizer):
    """Quantization interval learning (Jung et al., CVPR 2019). Levels lie in [-1, 1], or [0, 1] for activations.

    Parameters
    ----------
    bits, role, variant
        See `Quantizer`; weights have 2 bits or more.
    shape : tuple of int
        Of the parameters: () for one set, (C, 1, ...) for one a channel.

    Attributes
    ----------
    center, distance : Parameter
        Centre and half width of the interval.
    gamma : Parameter (or buffer of 1, for activations)
        Exponent.

    >>> quantizer = QIL(3, "weight")
    >>> quantizer(torch.tensor([-2.0, -0.3, 0.6, 1.2])).detach()  # the interval starts as 0 to max|x| = 2
    tensor([-1.0000,  0.0000,  0.3333,  0.6667])
    """

    method = "qil"
    operator = qil_quantize
    gamma: Tensor

    def __init__(
        self,
        bits: int,
        role: str = "activation",
        *,
        variant: str | None = None,
        shape: tuple[int, ...] = (),
    ) -> None:
        super().__init__(bits, role, variant=variant)
        self.signed = self.role == "weight"
        self.q = 2 ** (self.bits - self.signed) - 1
        self.lowest = -self.q * self.signed
        self.shape = shape = parameter_shape(shape)
        self.center = nn.Parameter(torch.full(shape, 0.5))
        self.distance = nn.Parameter(torch.full(shape, 0.5))
        if self.signed:
            self.gamma = nn.Parameter(torch.ones(shape))
        else:
            self.register_buffer("gamma", torch.ones(shape))

    def set_first_values(self, x: Tensor) -> None:
        """Set the interval to reach from 0 to the largest magnitude. Raises ValueError if that is 0 or not finite."""
        largest = largest_magnitude(x, self.center.shape)
        for parameter in (self.center, self.distance):
            parameter.copy_(largest / 2)
        self.gamma.fill_(1)

    def arguments(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, int, bool]:
        """Return the interval's parameters, the greatest integer, and whether there are negative ones."""
        return self.center, self.distance, self.gamma, self.q, self.signed

    def check_parameters(self, x: Tensor) -> None:
        """Raise ValueError unless the centre is finite, and distance and gamma are positive."""
        check_finite("center", self.center)
        check_positive("distance", self.distance)
        check_positive("gamma", self.gamma)

    def unit(self, x: Tensor) -> Tensor | float:
        """Values are multiples of 1/q."""
        return 1 / self.q

    def decode(self, codes: Tensor, x: Tensor | None = None) -> Tensor:
        """Values of codes."""
        return (as_float(codes, self.center) + self.lowest) / self.q


QUANTIZER = QIL
