"""What the methods on the uniform grid of DAQ's Eq. 1 and 2 share: a learned clip range, and the grid's arithmetic.

The order of the arithmetic is the reference's (`reference.grid`), so that float32 and float64 results have the same
bits; no code is shared with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from reference import checks
from torchimpl.quantizers.base import Quantizer, as_float, positive_or_nan, reduce_to


class UniformQuantizer(Quantizer):
    """A quantizer on the uniform grid of DAQ's Eq. 1 and 2, with a learned clip range.

    Weights are scaled to [-1, 1] and start with the clip range [-3, 3]; activations are scaled to [0, 1] and take their
    clip range from the first batch. The lower end for plain activations stays 0 and is not learned.

    Attributes
    ----------
    lower, upper : Parameter (or buffer, where it is not learned), of shape ()
        The clip range l, u of Eq. 1.
    n : int
        2^bits - 1.
    """

    lower: Tensor
    upper: Tensor

    def __init__(self, bits: int, role: str = "activation", *, variant: str | None = None) -> None:
        super().__init__(bits, role, variant=variant)
        self.n = 2**self.bits - 1
        self.is_weight = role == "weight"
        if self.is_weight:
            self.lowest, self.stride = -self.n, 2  # 2 Q - n
        lower = torch.tensor(0.0 if role == "activation" else -3.0)
        if role == "activation":
            self.register_buffer("lower", lower)
        else:
            self.lower = nn.Parameter(lower)
        self.upper = nn.Parameter(torch.tensor(3.0))

    def ready_at_once(self) -> bool:
        """Whether the initial clip range needs no data: that of standardised weights."""
        return self.role == "weight"

    def set_first_values(self, x: Tensor) -> None:
        """Set the clip range from a first batch: 3 standard deviations (DAQ, Section 4.1).

        Raises
        ------
        ValueError
            If `x` has no spread.
        """
        if self.role != "weight":
            equal = x.numel() < 2 or bool(x.min() == x.max())  # whose mean may be rounded
            deviation = 0.0 if equal else float(x.std())  # NaN where a value is, or infinite
            if not 0 < deviation < math.inf:
                raise checks.refuse("standard deviation of the first batch", deviation, "positive and finite")
            self.upper.fill_(3 * deviation)
            if self.role == "signed_activation":
                self.lower.fill_(-3 * deviation)

    def check_parameters(self, x: Tensor) -> None:
        """Raise ValueError unless the clip range and its width are finite, and it is not empty."""
        lower, upper = self.lower.detach(), self.upper.detach()
        if not 0 < float(upper - lower) < math.inf:
            raise checks.refuse("clip range (lower, upper)", (float(lower), float(upper)), "finite with lower < upper")

    def unit(self, x: Tensor) -> Tensor | float:
        """Weights are odd multiples of 1/n, activations multiples (Eq. 2)."""
        return 1 / self.n

    def decode(self, codes: Tensor, x: Tensor | None = None) -> Tensor:
        """Values of codes (Eq. 2)."""
        return scale_output(as_float(codes, self.upper), self.n, self.is_weight)


def clip_range(lower: Tensor, upper: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Cast l and u; return their distance as well, which is NaN where the clip range is empty or not finite."""
    low, high = lower.to(dtype), upper.to(dtype)
    return low, high, positive_or_nan(high - low, dtype)


def normalize(x: Tensor, lower: Tensor, upper: Tensor, n: int) -> Tensor:
    """Eq. 1 as ``(clip(x) - l) / (u - l) * n``; NaN where the clip range is empty or not finite."""
    lower, upper, width = clip_range(lower, upper, x.dtype)
    return (torch.clamp(x, lower, upper) - lower) / width * n


def round_half_down(x: Tensor) -> Tensor:
    """Eq. 11, for x >= 0, where the difference to the floor is exact."""
    floor = torch.floor(x)
    return torch.where(x.isnan(), x, floor + (x - floor > 0.5))


def odd_or_whole(q: Tensor, n: int, is_weight: bool) -> Tensor:
    """The numerator of Eq. 2: 2 Q - n for weights, Q for activations."""
    return 2 * q - n if is_weight else q


def scale_output(q: Tensor, n: int, is_weight: bool) -> Tensor:
    """Eq. 2, with the weight values as ``(2 Q - n) / n``."""
    return odd_or_whole(q, n, is_weight) / n


def clip_range_backward(
    grad: Tensor, x: Tensor, lower: Tensor, upper: Tensor, slope_of: Callable[[Tensor], Tensor], n: int, is_weight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of Q/n (twice that for weights) for x, l and u, with ``slope_of(normalised x)`` for dQ/dx."""
    low, high, width = clip_range(lower, upper, x.dtype)
    p = (torch.clamp(x, low, high) - low) / width
    clipped = (x < low) | (x > high)
    local = slope_of(p * n) * (2 if is_weight else 1) / width
    grad_x = torch.where(clipped, torch.zeros_like(local), grad * local)
    grad_l, grad_u = -((1 - p) * grad_x), -(p * grad_x)
    return grad_x, reduce_to(grad_l, lower), reduce_to(grad_u, upper)
