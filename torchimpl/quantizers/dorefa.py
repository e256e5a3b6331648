"""DoReFa-Net as a module, which learns no parameter. Formulas and their sources are in `reference.dorefa`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from reference import grid
from torchimpl.kernels import Fused, Kernel, reciprocal
from torchimpl.operators import operator
from torchimpl.quantizers.base import (
    Quantizer,
    as_float,
    check_positive,
    keep_nan,
    positive_or_nan,
    reduce_to,
)


def _weight_backward(grad: Tensor, x: Tensor, largest: Tensor, n: int):  # type: ignore[no-untyped-def]
    t, scale = torch.tanh(x), positive_or_nan(largest, x.dtype)
    by_tanh = grad / scale
    by_largest = -(by_tanh * (t / scale))
    return by_tanh * (1 - t * t), reduce_to(by_largest, largest)


@operator("dorefa_weight", _weight_backward)
def dorefa_weight(x: Tensor, largest: Tensor, n: int) -> Tensor:
    """Quantize weights to odd multiples of 1/n; `largest` is max|tanh x|, of shape (), and has a gradient of its own.

    The rounding passes gradients as they are. So does the clip, which only takes up rounding errors.
    """
    return (2 * _rounded(x, largest, n) - n) / n


def _rounded(x: Tensor, largest: Tensor, n: int) -> Tensor:
    p = torch.tanh(x) / (2 * positive_or_nan(largest, x.dtype)) + 0.5
    return torch.round(torch.clamp(p, 0, 1) * n)


def _sign_backward(grad: Tensor, x: Tensor, mean: Tensor):  # type: ignore[no-untyped-def]
    return keep_nan(x, grad), torch.zeros_like(mean)


@operator("dorefa_sign", _sign_backward)
def dorefa_sign(x: Tensor, mean: Tensor) -> Tensor:
    """Quantize weights to -`mean` and, from 0 on, `mean`, of shape (). The gradient for x is that of the value."""
    mean = positive_or_nan(mean, x.dtype)
    return torch.where(x.isnan(), x, torch.where(x >= 0, mean, -mean))


def _activation_backward(grad: Tensor, x: Tensor, n: int):  # type: ignore[no-untyped-def]
    return (keep_nan(x, torch.where((x >= 0) & (x <= 1), grad, 0.0)),)


def _forward_loop(x, out, n, high, low):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    zero, one = np.float32(0), np.float32(1)
    for i in range(x.size):
        v = x[i]
        q = np.rint((zero if v < zero else (one if v > one else v)) * n) + zero
        out[i] = q * high + q * low


def _backward_loop(grad, x, grad_x):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    zero, one = np.float32(0), np.float32(1)
    for i in range(x.size):
        v = x[i]
        g = grad[i]
        g = v if v != v else g  # NaN passes both comparisons
        grad_x[i] = zero if (v < zero) | (v > one) else g


# For activations: weights are few, and pass through tanh.
FUSED = Fused(
    forward=Kernel(_forward_loop, exact=True),
    backward=Kernel(_backward_loop, exact=False),
    numbers=lambda n: (np.float32(n), *reciprocal(n)),
    backward_numbers=lambda n: (),
    sums=0,
    gradients=lambda sums, n: (),
)


@operator("dorefa_activation", _activation_backward, FUSED)
def dorefa_activation(x: Tensor, n: int) -> Tensor:
    """Quantize activations to ``round(clip(x, 0, 1) * n) / n``."""
    return (torch.round(torch.clamp(x, 0, 1) * n) + 0.0) / n


class DoReFa(Quantizer):
    """DoReFa-Net (Zhou et al., 2016).

    Weights have levels in [-1, 1] or, at 1 bit, -E|w| and E|w|; activations in [0, 1]. The maximum and the mean are
    those of the weights that are quantized; if all of them are zero, that gives NaN.

    Parameters
    ----------
    bits, role, variant
        See `Quantizer`. Variants are "paper" and "released" (see `reference.dorefa`).

    >>> DoReFa(2, "weight")(torch.tensor([-1.0, 0.0, 0.2, 1.0]))
    tensor([-1.0000,  0.3333,  0.3333,  1.0000])
    >>> DoReFa(1, "weight")(torch.tensor([-0.5, 0.0, 2.5]))
    tensor([-1.,  1.,  1.])
    """

    method = "dorefa"

    def __init__(self, bits: int | None, role: str = "activation", *, variant: str | None = None) -> None:
        super().__init__(bits, role, variant=variant)
        self.n = 2 ** (self.bits or 1) - 1

    def ready_at_once(self) -> bool:
        """There is no parameter to set."""
        return True

    def initialize(self, x: Tensor) -> None:
        """Set nothing; `x` is not looked at."""
        self.mark_initialized()

    def quantize(self, x: Tensor) -> Tensor:
        """Quantize with the statistics of `x`."""
        if self.role == "activation":
            return dorefa_activation(x, self.n)
        if self.n == 1:
            return dorefa_sign(x, _mean_magnitude(x.detach()))
        return dorefa_weight(x, _largest_tanh(x if self.variant == "released" else x.detach()), self.n)

    def encode(self, x: Tensor) -> Tensor:
        """Codes, as floating-point numbers, of `x` without NaN. Raises ValueError if weights are all zero."""
        if self.role == "activation":
            return torch.round(torch.clamp(x, 0, 1) * self.n)
        largest = _largest_tanh(x)
        check_positive("max|tanh w|", largest)
        return (x >= 0).to(x.dtype) if self.n == 1 else _rounded(x, largest, self.n)

    def values_of(self, codes: Tensor, x: Tensor | None) -> Tensor:
        """Values of codes; integer codes become torch's default dtype.

        Raises
        ------
        ValueError
            If weights of 1 bit come without `x`, whose mean magnitude scales the levels.
        """
        q = as_float(codes, torch.empty(()))
        if self.role == "activation":
            return q / self.n
        if self.n > 1:
            return (2 * q - self.n) / self.n
        if x is None:
            raise grid.refuse("x", x, "the weights that were quantized: levels at 1 bit are -E|w| and E|w|")
        return (2 * q - 1) * _mean_magnitude(x.detach()).to(q.dtype)


def _largest_tanh(x: Tensor) -> Tensor:
    """max|tanh x|, as tanh(max|x|); of equal maxima, `amax` gives each its share of the gradient."""
    return torch.tanh(x.abs().amax() if x.numel() else x.new_ones(()))


def _mean_magnitude(x: Tensor) -> Tensor:
    return x.abs().mean() if x.numel() else x.new_ones(())


QUANTIZER = DoReFa
