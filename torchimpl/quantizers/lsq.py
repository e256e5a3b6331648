"""LSQ as a module: rounding to multiples of a learned step size. Formulas and their sources are in `reference.lsq`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from reference import checks
from torchimpl.operators import operator
from torchimpl.quantizers.base import (
    Quantizer,
    as_float,
    check_positive,
    keep_nan,
    other_axes,
    parameter_shape,
    positive_or_nan,
    reduce_to,
)


def level_range(bits: int, signed: bool) -> tuple[int, int]:
    """Return how many levels there are below 0 and above it.

    >>> level_range(3, signed=True), level_range(3, signed=False)
    ((4, 3), (0, 7))
    """
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
    grad: Tensor, x: Tensor, step: Tensor, low: int, high: int, gradient_scale: float, mask_rounded: bool, closed: bool
):
    q = x / positive_or_nan(step, x.dtype)
    rounded = torch.round(torch.clamp(q, -low, high))
    inside = inside_range(torch.round(q) if mask_rounded else q, low, high, closed)
    by_step = grad * torch.where(inside, rounded - q, rounded)
    return (
        reduce_to(keep_nan(x, torch.where(inside, grad, 0.0)), x),
        reduce_to(by_step, step) * gradient_scale,
    )


def inside_range(q: Tensor, low: int, high: int, closed: bool) -> Tensor:
    """Whether `q` is from -low to high, with the ends or without them.

    >>> inside_range(torch.tensor([-2.0, 0.5, 1.0, 1.5]), 2, 1, closed=True)
    tensor([ True,  True,  True, False])
    """
    return (q >= -low) & (q <= high) if closed else (q > -low) & (q < high)


def _integers(
    x: Tensor, step: Tensor, low: int, high: int, gradient_scale: float, mask_rounded: bool, closed: bool
) -> Tensor:
    return torch.round(torch.clamp(x / positive_or_nan(step, x.dtype), -low, high)) + 0.0


@operator("lsq", integers=_integers, backward=_backward)
def lsq_quantize(
    x: Tensor, step: Tensor, low: int, high: int, gradient_scale: float, mask_rounded: bool, closed: bool
) -> Tensor:
    """Quantize to ``step * round(clip(x / step, -low, high))``.

    `gradient_scale` multiplies the gradient for `step`; with `mask_rounded` the rounded value says what is clipped, and
    if `closed` the ends of the range are not.
    """
    return _integers(x, step, low, high, gradient_scale, mask_rounded, closed) * positive_or_nan(step, x.dtype)


class LSQ(Quantizer):
    """Learned step size quantization (Esser et al., ICLR 2020). Values are multiples of the step size.

    Parameters
    ----------
    bits, role, variant
        See `Quantizer`; 2 to 8 bits for signed data. Variants are "paper", "lsq-net" and "mqbench" (see
        `reference.lsq`).
    shape : tuple of int
        Of the step size: () for one, (C, 1, ...) for one a channel.

    >>> quantizer = LSQ(2, "weight")
    >>> quantizer(torch.tensor([-2.0, 0.0, 0.5, 1.5])).detach()  # the step starts at 2 mean|x| = 2
    tensor([-2.,  0.,  0.,  2.])
    """

    method = "lsq"
    operator = lsq_quantize

    def __init__(
        self,
        bits: int,
        role: str = "activation",
        *,
        variant: str | None = None,
        shape: tuple[int, ...] = (),
    ) -> None:
        super().__init__(bits, role, variant=variant)
        self.low, self.high = level_range(self.bits, signed=self.role != "activation")
        self.lowest = -self.low
        self.shape = parameter_shape(shape)
        self.step = nn.Parameter(torch.ones(self.shape))

    def set_first_values(self, x: Tensor) -> None:
        """Set the step size to ``2 mean|x| / sqrt(Q_P)``. Raises ValueError if that is not positive and finite."""
        mean = x.abs().mean(other_axes(x, self.step.shape), keepdim=True) if x.numel() else x.new_zeros(())
        if not bool(((mean > 0) & (mean < math.inf)).all()):
            raise checks.refuse("mean magnitude of the first batch", mean.tolist(), "positive and finite")
        self.step.copy_(2 * mean.reshape(self.step.shape) / math.sqrt(self.high))

    def arguments(self, x: Tensor) -> tuple[Tensor, int, int, float, bool, bool]:
        """Return the step size, the numbers of levels below and above 0, the gradient's factor, and what masks."""
        by_paper, steps = self.variant == "paper", self.step.numel()
        shared = x.numel() // (1 if self.variant == "lsq-net" else steps)
        count = elements_per_step(x, steps, self.role) if by_paper else max(shared, 1)
        return self.step, self.low, self.high, 1 / math.sqrt(count * self.high), self.variant == "mqbench", not by_paper

    def check_parameters(self, x: Tensor) -> None:
        """Raise ValueError unless the step size is positive."""
        check_positive("step", self.step)

    def unit(self, x: Tensor) -> Tensor | float:
        """Values are multiples of the step size."""
        return self.step

    def decode(self, codes: Tensor, x: Tensor | None = None) -> Tensor:
        """Values of codes."""
        q = as_float(codes, self.step)
        return (q - self.low) * self.step.detach().to(q.dtype)


QUANTIZER = LSQ
