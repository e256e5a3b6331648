"""LSQ as a module: rounding to multiples of a learned step size. Formulas and their sources are in `reference.lsq`."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from reference import grid
from torchimpl.kernels import ROW, Fused, Kernel
from torchimpl.operators import operator
from torchimpl.quantizers.base import (
    Quantizer,
    as_float,
    check_positive,
    finite_number,
    keep_nan,
    other_axes,
    parameter_shape,
    positive_number,
    positive_or_nan,
    reduce_to,
)


def level_range(bits: int | None, signed: bool) -> tuple[int, int]:
    """Return how many levels there are below 0 and above it; for full precision, 0 and 1.

    >>> level_range(3, signed=True), level_range(3, signed=False)
    ((4, 3), (0, 7))
    """
    if bits is None:
        return 0, 1
    return (2 ** (bits - 1), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def elements_per_step(x: Tensor, steps: int, role: str) -> int:
    """Return N of LSQ's 1/sqrt(N Q_P): how many elements, of one image where the first axis is a batch, share a step.

    >>> elements_per_step(torch.zeros(2, 3, 4, 4), 3, "activation")
    16
    """
    per_image = role != "weight" and x.dim() > 1
    count = math.prod(x.shape[1:]) if per_image else x.numel()
    return max(count // steps, 1)


def _backward(  # type: ignore[no-untyped-def]
    grad: Tensor, x: Tensor, step: Tensor, low: int, high: int, gradient_scale: float, mask_rounded: bool
):
    q = x / positive_or_nan(step, x.dtype)
    rounded = torch.round(torch.clamp(q, -low, high))
    at = torch.round(q) if mask_rounded else q
    inside = (at >= -low) & (at <= high) if mask_rounded else (at > -low) & (at < high)
    by_step = grad * torch.where(inside, rounded - q, rounded)
    return (
        reduce_to(keep_nan(x, torch.where(inside, grad, 0.0)), x),
        reduce_to(by_step, step) * gradient_scale,
    )


def _forward_loop(x, out, step, offset, low, high):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    for i in range(x.size):
        q = (x[i] - offset) / step
        q = low if q < low else (high if q > high else q)
        out[i] = (np.rint(q) + np.float32(0)) * step + offset


def _backward_loop(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    grad, x, grad_x, sums, step, offset, low, high, masks_rounded
):
    zero = np.float32(0)
    for row in range(len(sums)):
        by_step = by_offset = zero
        for j in range(min(ROW, x.size - row * ROW)):
            i = np.uint64(row * ROW + j)
            v = x[i]
            q = (v - offset) / step  # the forward pass's own quotient: the ends of the range decide
            rounded = np.rint(q)
            at = rounded if masks_rounded else q
            outside = (at < low) | (at > high) | ((not masks_rounded) & ((at == low) | (at == high)))
            g = grad[i]
            end = low if q < high else high
            nan = v if v != v else zero  # it is not outside
            grad_x[i] = (zero if outside else g) + nan
            by_step += g * (end if outside else rounded - q)
            by_offset += (g if outside else zero) + nan
        sums[row, 0] = by_step
        sums[row, 1] = by_offset


# With an offset these are LSQ+'s kernels, too.
forward_kernel = Kernel(_forward_loop, exact=True)
backward_kernel = Kernel(_backward_loop, exact=False)


def forward_numbers(step: float, offset: float, low: int, high: int) -> tuple[np.float32, ...]:
    """Numbers of `forward_kernel`; NaN for a step size that is not positive."""
    return positive_number(step), finite_number(offset), np.float32(-low), np.float32(high)


def backward_numbers(
    step: float, offset: float, low: int, high: int, mask_rounded: bool = False
) -> tuple[np.float32 | bool, ...]:
    """Numbers of `backward_kernel`."""
    return positive_number(step), finite_number(offset), np.float32(-low), np.float32(high), mask_rounded


FUSED = Fused(
    forward=forward_kernel,
    backward=backward_kernel,
    numbers=lambda step, low, high, scale, mask_rounded: forward_numbers(step, 0.0, low, high),
    backward_numbers=lambda step, low, high, scale, mask_rounded: backward_numbers(step, 0.0, low, high, mask_rounded),
    sums=2,
    gradients=lambda sums, step, low, high, scale, mask_rounded: (sums[0] * scale,),
)


@operator("lsq", _backward, FUSED)
def lsq_quantize(x: Tensor, step: Tensor, low: int, high: int, gradient_scale: float, mask_rounded: bool) -> Tensor:
    """Quantize to ``step * round(clip(x / step, -low, high))``.

    `gradient_scale` multiplies the gradient for `step`; with `mask_rounded` the rounded value says what is clipped.
    """
    step = positive_or_nan(step, x.dtype)
    return (torch.round(torch.clamp(x / step, -low, high)) + 0.0) * step


class LSQ(Quantizer):
    """Learned step size quantization (Esser et al., ICLR 2020). Values are multiples of the step size.

    Parameters
    ----------
    bits, role, variant
        See `Quantizer`; 2 to 8 bits for signed data. Variants are "paper" and "public" (see `reference.lsq`).
    shape : tuple of int
        Of the step size: () for one, (C, 1, ...) for one a channel.

    >>> quantizer = LSQ(2, "weight")
    >>> quantizer(torch.tensor([-2.0, 0.0, 0.5, 1.5])).detach()  # the step starts at 2 mean|x| = 2
    tensor([-2.,  0.,  0.,  2.])
    """

    method = "lsq"

    def __init__(
        self,
        bits: int | None,
        role: str = "activation",
        *,
        variant: str | None = None,
        shape: tuple[int, ...] = (),
    ) -> None:
        super().__init__(bits, role, variant=variant)
        self.low, self.high = level_range(self.bits, signed=self.role != "activation")
        self.step = nn.Parameter(torch.ones(parameter_shape(shape)))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set the step size to ``2 mean|x| / sqrt(Q_P)``. Raises ValueError if that is not positive and finite."""
        mean = x.abs().mean(other_axes(x, self.step.shape), keepdim=True) if x.numel() else x.new_zeros(())
        if not bool(((mean > 0) & (mean < math.inf)).all()):
            raise grid.refuse("mean magnitude of the first batch", mean.tolist(), "positive and finite")
        self.step.copy_(2 * mean.reshape(self.step.shape) / math.sqrt(self.high))
        self.mark_initialized()

    def quantize(self, x: Tensor) -> Tensor:
        """Quantize with the step size as it stands."""
        public = self.variant == "public"  # counts all of a batch and all channels
        count = max(x.numel(), 1) if public else elements_per_step(x, self.step.numel(), self.role)
        return lsq_quantize(x, self.step, self.low, self.high, 1 / math.sqrt(count * self.high), public)

    def check_parameters(self) -> None:
        """Raise ValueError unless the step size is positive."""
        check_positive("step", self.step)

    def encode(self, x: Tensor) -> Tensor:
        """Codes: the multiple of the step size, plus Q_N."""
        return torch.round(torch.clamp(x / positive_or_nan(self.step, x.dtype), -self.low, self.high)) + self.low

    def values_of(self, codes: Tensor, x: Tensor | None) -> Tensor:
        """Values of codes."""
        q = as_float(codes, self.step)
        return (q - self.low) * self.step.detach().to(q.dtype)


QUANTIZER = LSQ
