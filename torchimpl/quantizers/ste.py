"""The straight-through estimator as a module: rounding forward, identity backward inside the clip range."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from torchimpl.kernels import ROW, Kernel
from torchimpl.operators import on_standardized_weights, operator
from torchimpl.quantizers.uniform import (
    UniformQuantizer,
    backward_numbers,
    clip_range_backward,
    forward_numbers,
    fused_pair,
    normalize,
    round_half_down,
    scale_output,
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


def _backward_loop(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    grad, x, grad_x, sums, standardized, mean, std, magnitude, low, high, inverse, scale
):
    zero = np.float32(0)
    scale = scale * magnitude
    for row in range(len(sums)):
        total = weighted = by_scale = zero
        for j in range(min(ROW, x.size - row * ROW)):
            i = np.uint64(row * ROW + j)
            v = (x[i] - mean) / std if standardized else x[i]
            outside = (v < low) | (v > high)
            p = (v - low) * inverse
            p = zero if outside else p
            g = grad[i] * scale
            g = zero if outside else g
            g = p if p != p else g  # NaN is not outside
            if standardized:
                by_scale += grad[i] * grad_x[i]
            grad_x[i] = g / std if standardized else g
            total += g
            weighted += p * g
        sums[row, 0] = total
        sums[row, 1] = weighted
        sums[row, 2] = by_scale


def _backward_numbers(lower: float, upper: float, n: int, is_weight: bool, rule: str) -> tuple[np.float32, ...]:
    low, high, inverse, _, scale = backward_numbers(lower, upper, n, is_weight)
    return low, high, inverse, scale


FUSED, FUSED_WEIGHTS = fused_pair(Kernel(_backward_loop, exact=False), forward_numbers, _backward_numbers)


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
    operator = straight_through
    weight_operator = on_standardized_weights(straight_through, FUSED_WEIGHTS)

    def arguments(self) -> tuple[int, bool, str]:
        """Return 2^bits - 1, which half of Eq. 2, and the rule for ties."""
        return self.levels - 1, self.role == "weight", self.variant

    def round(self, x: Tensor) -> Tensor:
        """Round normalised values by the chosen rule."""
        return round_by(self.variant, x)


QUANTIZER = STE
