"""The straight-through estimator as a module: rounding forward, identity backward inside the clip range."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from torchimpl.kernels import ROW, Fused, Kernel
from torchimpl.quantizers.base import operator
from torchimpl.quantizers.uniform import (
    UniformQuantizer,
    backward_numbers,
    clip_range_backward,
    clip_range_gradients,
    forward_numbers,
    normalize,
    round_half_down,
    scale_output,
    uniform_forward,
)


def round_by(rule: str, x: Tensor) -> Tensor:
    """Round x >= 0 by a named rule for ties."""
    if rule == "half_even":
        return torch.round(x) + 0.0
    if rule == "half_down":
        return round_half_down(x)
    floor = torch.floor(x)  # up and away from zero are the same for x >= 0
    return torch.where(x.isnan(), x, floor + (x - floor >= 0.5))


def _backward(grad: Tensor, x: Tensor, lower: Tensor, upper: Tensor, n: int, is_weight: bool, rule: str):  # type: ignore[no-untyped-def]
    def slope(normalized: Tensor) -> Tensor:
        return normalized * 0 + 1  # NaN stays NaN

    return clip_range_backward(grad, x, lower, upper, slope, n, is_weight)


def _backward_loop(grad, x, grad_x, sums, low, high, inverse, scale):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    zero = np.float32(0)
    for row in range(x.size // ROW + 1):
        total = weighted = zero
        for j in range(min(ROW, x.size - row * ROW)):
            i = np.uint64(row * ROW + j)
            v = x[i]
            outside = (v < low) | (v > high)
            p = (v - low) * inverse
            p = zero if outside else p
            g = grad[i] * scale
            g = zero if outside else g
            g = p if p != p else g  # NaN is not outside
            grad_x[i] = g
            total += g
            weighted += p * g
        sums[0] += total
        sums[1] += weighted


def _backward_numbers(lower: float, upper: float, n: int, is_weight: bool, rule: str) -> tuple[np.float32, ...]:
    low, high, inverse, _, scale = backward_numbers(lower, upper, n, is_weight)
    return low, high, inverse, scale


FUSED = Fused(
    forward=uniform_forward,
    backward=Kernel(_backward_loop, exact=False),
    numbers=forward_numbers,
    backward_numbers=_backward_numbers,
    sums=2,
    gradients=clip_range_gradients,
)


@operator("ste", _backward, FUSED)
def straight_through(x: Tensor, lower: Tensor, upper: Tensor, n: int, is_weight: bool, rule: str) -> Tensor:
    """Quantize by rounding; the backward pass takes the rounding's derivative for 1."""
    return scale_output(round_by(rule, normalize(x, lower, upper, n)), n, is_weight)


class STE(UniformQuantizer):
    """Straight-through estimator on DAQ's grid; `variant` is the rounding rule, by default "half_even".

    >>> STE(bits=1, role="weight")(torch.tensor([-1.0, 0.5])).detach()
    tensor([-1.,  1.])
    """

    method = "ste"

    def quantize(self, x: Tensor) -> Tensor:
        """Quantize with the clip range as it stands."""
        return straight_through(x, self.lower, self.upper, self.levels - 1, self.role == "weight", self.variant)

    def round(self, x: Tensor) -> Tensor:
        """Round normalised values by the chosen rule."""
        return round_by(self.variant, x)


QUANTIZER = STE
