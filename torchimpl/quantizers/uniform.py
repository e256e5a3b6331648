"""What the methods on the uniform grid of DAQ's Eq. 1 and 2 share: a learned clip range, and the grid's arithmetic.

The order of the arithmetic is the reference's (`reference.grid`), so that float32 and float64 results have the same
bits; no code is shared with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from reference import grid
from torchimpl.kernels import Fused, Kernel, reciprocal
from torchimpl.operators import Overload, moments, standardize
from torchimpl.quantizers.base import (
    Quantizer,
    as_float,
    check_input,
    finite_number,
    positive_number,
    positive_or_nan,
    reduce_to,
)


class UniformQuantizer(Quantizer):
    """A quantizer on the uniform grid of DAQ's Eq. 1 and 2, with a learned clip range.

    Weights are scaled to [-1, 1] and start with the clip range [-3, 3]; activations are scaled to [0, 1] and take their
    clip range from the first batch seen in training mode. The lower end for plain activations stays 0 and is not
    learned.

    A method defines `operator` and its `arguments`, and `weight_operator` where it standardises weights.

    Attributes
    ----------
    lower, upper : Parameter (or buffer, where it is not learned), of shape ()
        The clip range l, u of Eq. 1.
    levels : int
        2^bits.
    """

    lower: Tensor
    upper: Tensor
    operator: ClassVar[Overload]
    weight_operator: ClassVar[Overload | None] = None

    def __init__(self, bits: int | None, role: str = "activation", *, variant: str | None = None) -> None:
        super().__init__(bits, role, variant=variant)
        self.levels = 2 ** (self.bits or 0)
        lower = torch.tensor(0.0 if role == "activation" else -3.0)
        if role == "activation":
            self.register_buffer("lower", lower)
        else:
            self.lower = nn.Parameter(lower)
        self.upper = nn.Parameter(torch.tensor(3.0))

    def ready_at_once(self) -> bool:
        """Whether the initial clip range needs no data: that of standardised weights."""
        return self.role == "weight"

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set the clip range from a first batch: 3 standard deviations (DAQ, Section 4.1).

        Raises
        ------
        ValueError
            If `x` has no spread.
        """
        if self.role != "weight":
            spread = x.numel() > 1 and bool(x.min() < x.max())  # equal values can have a rounded mean
            deviation = float(x.std()) if spread else 0.0
            if not 0 < deviation < math.inf:
                raise grid.refuse("standard deviation of the first batch", deviation, "positive and finite")
            self.upper.fill_(3 * deviation)
            if self.role == "signed_activation":
                self.lower.fill_(-3 * deviation)
        self.mark_initialized()

    def arguments(self) -> tuple[Any, ...]:
        """Return the operator's arguments after x and the clip range."""
        raise NotImplementedError

    def quantize(self, x: Tensor) -> Tensor:
        """Quantize with the clip range as it stands."""
        return self.operator(x, self.lower, self.upper, *self.arguments())

    def at_once(self) -> Overload | None:
        """Return the operator that standardises, quantizes and scales weights, if there is one."""
        return self.weight_operator

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """Quantize, as `Quantizer.forward`; with a `scale`, the standardised `x`, which it multiplies.

        Parameters
        ----------
        x : Tensor
            Of any shape.
        scale : Tensor, of shape (), optional
            The result is multiplied by its absolute value.
        """
        if scale is None:
            return super().forward(x)
        operator = self.at_once()
        if self.bits is None or not self._ready or operator is None:
            return super().forward(standardize(x)) * scale.abs()
        check_input(x)
        return operator(x, scale, self.lower, self.upper, *self.arguments(), *moments(x))

    def check_parameters(self) -> None:
        """Raise ValueError unless the clip range and its width are finite, and it is not empty."""
        if not 0 < float(self.upper - self.lower) < math.inf:
            raise grid.refuse(
                "clip range (lower, upper)", (float(self.lower), float(self.upper)), "finite with lower < upper"
            )

    def encode(self, x: Tensor) -> Tensor:
        """Codes, as floating-point numbers, of `x` without NaN."""
        return self.round(normalize(x, self.lower, self.upper, self.levels - 1))

    def round(self, x: Tensor) -> Tensor:
        """Round normalised values by the method's rule."""
        return round_half_down(x)

    def values_of(self, codes: Tensor, x: Tensor | None) -> Tensor:
        """Values of codes (Eq. 2)."""
        return scale_output(as_float(codes, self.upper), self.levels - 1, self.role == "weight")


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


def scale_output(q: Tensor, n: int, is_weight: bool) -> Tensor:
    """Eq. 2, with the weight values as ``(2 Q - n) / n``."""
    return (2 * q - n) / n if is_weight else q / n


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


def _forward_loop(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    x, out, standardized, mean, std, scale, low, high, width, n,
    factor, offset, reciprocal_high, reciprocal_low, down, up,
):  # fmt: skip
    half = np.float32(0.5)
    zero = np.float32(0)
    for i in range(x.size):
        v = (x[i] - mean) / std if standardized else x[i]
        clipped = low if v < low else (high if v > high else v)
        normalized = (clipped - low) / width * n
        q = np.rint(normalized)
        rest = normalized - q
        q = q - (down if rest == -half else zero) + (up if rest == half else zero)
        q = factor * q - offset
        q = q * reciprocal_high + q * reciprocal_low
        out[i] = q * scale if standardized else q


uniform_forward = Kernel(_forward_loop, exact=True)


def fused_pair(
    backward: Kernel, numbers: Callable[..., tuple[Any, ...]], backward_numbers: Callable[..., tuple[Any, ...]]
) -> tuple[Fused, Fused]:
    """Return the kernels of an operator on the grid, for any values and for `on_standardized_weights`.

    They are the same loops. Their first numbers are: whether to standardise what is read, its mean and standard
    deviation, and what values are multiplied by.
    """
    as_they_are = (False, *map(np.float32, (0, 1, 1)))

    def standardization(scale: float, *rest: Any) -> tuple[Any, ...]:
        *_, mean, std = rest
        return True, *map(np.float32, (mean, std, abs(scale)))

    def weight_gradients(sums: Any, scale: float, *_: Any) -> tuple[float, ...]:
        return sums[2] * np.sign(scale), *clip_range_gradients(sums)

    return Fused(
        forward=uniform_forward,
        backward=backward,
        numbers=lambda *own: (*as_they_are, *numbers(*own)),
        backward_numbers=lambda *own: (*as_they_are, *backward_numbers(*own)),
        sums=3,
        gradients=clip_range_gradients,
    ), Fused(
        forward=uniform_forward,
        backward=backward,
        numbers=lambda *rest: (*standardization(*rest), *numbers(*rest[1:-2])),
        backward_numbers=lambda *rest: (*standardization(*rest), *backward_numbers(*rest[1:-2])),
        sums=3,
        gradients=weight_gradients,
        value_numbers=lambda scale, *rest: (*standardization(1.0, *rest), *numbers(*rest[:-2])),
    )


def clip_range_numbers(lower: float, upper: float) -> tuple[np.float32, np.float32, np.float32]:
    """`clip_range` in the numbers of a kernel."""
    low, high = finite_number(lower), finite_number(upper)
    return low, high, positive_number(float(high) - float(low))


def forward_numbers(
    lower: float, upper: float, n: int, is_weight: bool, rule: str = "half_down"
) -> tuple[np.float32, ...]:
    """Numbers of `uniform_forward` after the first four: clip range, scaling of Eq. 2, and where `rint`'s ties go."""
    low, high, width = clip_range_numbers(lower, upper)
    down = np.float32(rule == "half_down")
    up = np.float32(rule in ("half_up", "half_away"))  # the same where nothing is negative
    scaling = (np.float32(2), np.float32(n)) if is_weight else (np.float32(1), np.float32(0))
    return low, high, width, np.float32(n), *scaling, *reciprocal(n), down, up


def backward_numbers(lower: float, upper: float, n: int, is_weight: bool) -> tuple[np.float32, ...]:
    """Clip range, 1/width, n, and what the derivative of the rounding is multiplied by."""
    low, high, width = clip_range_numbers(lower, upper)
    inverse = positive_number(1 / float(width))
    return low, high, inverse, np.float32(n), inverse * np.float32(2 if is_weight else 1)


def clip_range_gradients(sums: Any, *_: Any) -> tuple[float, float]:
    """Gradients of l and u, of the sums of the gradient for x and of p times it: the first three sum to zero."""
    total, weighted = sums[:2]
    return weighted - total, -weighted
