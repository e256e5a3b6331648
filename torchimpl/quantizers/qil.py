"""QIL as a module: a learned interval of quantized values. Formulas and their sources are in `reference.qil`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from reference.qil import LOWEST
from torchimpl.kernels import ROW, Fused, Kernel, reciprocal
from torchimpl.operators import operator
from torchimpl.quantizers.base import (
    Quantizer,
    as_float,
    check_finite,
    check_positive,
    finite_number,
    finite_or_nan,
    keep_nan,
    largest_magnitude,
    parameter_shape,
    positive_number,
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


def _forward_loop(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    x, out, center, width, q, high, low
):
    zero, half, one = np.float32(0), np.float32(0.5), np.float32(1)
    for i in range(x.size):
        u = (x[i] - center) / width + half
        code = np.rint((zero if u < zero else (one if u > one else u)) * q) + zero
        out[i] = code * high + code * low


def _backward_loop(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    grad, x, grad_x, sums, first, last, center, inverse
):
    zero = np.float32(0)
    two = np.float32(2)
    for row in range(len(sums)):
        total = weighted = zero
        for j in range(min(ROW, x.size - row * ROW)):
            i = np.uint64(row * ROW + j)
            v = x[i]
            g = grad[i] * inverse
            g = v if v != v else g  # NaN passes both comparisons
            g = zero if (v < first) | (v > last) else g
            clipped = first if v < first else (last if v > last else v)  # 0 times infinity is NaN
            grad_x[i] = g
            total += g
            weighted += g * (two * inverse * (clipped - center))
        sums[row, 0] = total
        sums[row, 1] = weighted


def _forward_numbers(center: float, distance: float, gamma: float, q: int, signed: bool) -> tuple[np.float32, ...]:
    c, d = finite_number(center), positive_number(distance)
    return c, np.float32(2) * d, np.float32(q), *reciprocal(q)


def _backward_numbers(center: float, distance: float, gamma: float, q: int, signed: bool) -> tuple[np.float32, ...]:
    c, d = finite_number(center), positive_number(distance)
    return c - d, c + d, c, np.float32(0.5) / d


# For activations, whose exponent is 1: weights are few, and raised to a power.
FUSED = Fused(
    forward=Kernel(_forward_loop, exact=True),
    backward=Kernel(_backward_loop, exact=False),
    numbers=_forward_numbers,
    backward_numbers=_backward_numbers,
    sums=2,
    gradients=lambda sums, *_: (-sums[0], -sums[1], 0.0),
    admits=lambda center, distance, gamma, q, signed: gamma == 1 and not signed,
)


@operator("qil", _backward, FUSED)
def qil_quantize(x: Tensor, center: Tensor, distance: Tensor, gamma: Tensor, q: int, signed: bool) -> Tensor:
    """Quantize to multiples of 1/q: what the transformer makes of x, rounded. `signed` is for weights.

    In the lowest 2^-12 of the interval the gradients are those of a chord (see `reference.qil`). Gamma has one for
    weights only; for activations it is not learned.
    """
    return _rounded(x, center, distance, gamma, q, signed) / q


def _cast(center: Tensor, distance: Tensor, gamma: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    return finite_or_nan(center, dtype), positive_or_nan(distance, dtype), positive_or_nan(gamma, dtype)


def _rounded(x: Tensor, center: Tensor, distance: Tensor, gamma: Tensor, q: int, signed: bool) -> Tensor:
    center, distance, gamma = _cast(center, distance, gamma, x.dtype)
    magnitude = x.abs() if signed else x
    power = torch.pow(torch.clamp((magnitude - center) / (2 * distance) + 0.5, 0, 1), gamma)
    power = torch.where(gamma.isnan(), gamma, power)  # 1 to the power of NaN is 1
    return torch.round((torch.sign(x) * power if signed else power) * q) + 0.0


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
    gamma: Tensor

    def __init__(
        self,
        bits: int | None,
        role: str = "activation",
        *,
        variant: str | None = None,
        shape: tuple[int, ...] = (),
    ) -> None:
        super().__init__(bits, role, variant=variant)
        self.signed = self.role == "weight"
        self.q = 1 if self.bits is None else 2 ** (self.bits - self.signed) - 1
        shape = parameter_shape(shape)
        self.center = nn.Parameter(torch.full(shape, 0.5))
        self.distance = nn.Parameter(torch.full(shape, 0.5))
        if self.signed:
            self.gamma = nn.Parameter(torch.ones(shape))
        else:
            self.register_buffer("gamma", torch.ones(shape))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set the interval to reach from 0 to the largest magnitude. Raises ValueError if that is 0 or not finite."""
        largest = largest_magnitude(x, self.center.shape)
        for parameter in (self.center, self.distance):
            parameter.copy_(largest / 2)
        self.gamma.fill_(1)
        self.mark_initialized()

    def quantize(self, x: Tensor) -> Tensor:
        """Quantize with the interval as it stands."""
        return qil_quantize(x, self.center, self.distance, self.gamma, self.q, self.signed)

    def check_parameters(self) -> None:
        """Raise ValueError unless the centre is finite, and distance and gamma are positive."""
        check_finite("center", self.center)
        check_positive("distance", self.distance)
        check_positive("gamma", self.gamma)

    def encode(self, x: Tensor) -> Tensor:
        """Codes: the multiple of 1/q, plus q for weights."""
        return _rounded(x, self.center, self.distance, self.gamma, self.q, self.signed) + self.q * self.signed

    def values_of(self, codes: Tensor, x: Tensor | None) -> Tensor:
        """Values of codes."""
        return (as_float(codes, self.center) - self.q * self.signed) / self.q


QUANTIZER = QIL
