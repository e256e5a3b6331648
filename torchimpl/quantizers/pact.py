"""PACT as a module: activations clipped at a learned level. Formulas and their sources are in `reference.pact`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from reference.pact import ALPHA
from torchimpl.kernels import ROW, Fused, Kernel, reciprocal
from torchimpl.operators import operator
from torchimpl.quantizers.base import (
    Quantizer,
    as_float,
    check_positive,
    keep_nan,
    parameter_shape,
    positive_number,
    positive_or_nan,
    reduce_to,
)


def _backward(grad: Tensor, x: Tensor, alpha: Tensor, n: int):  # type: ignore[no-untyped-def]
    above = x >= positive_or_nan(alpha, x.dtype)
    return (
        reduce_to(keep_nan(x, torch.where((x >= 0) & ~above, grad, 0.0)), x),
        reduce_to(keep_nan(x, torch.where(above, grad, 0.0)), alpha),
    )


def _forward_loop(x, out, alpha, n, high, low):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    zero = np.float32(0)
    for i in range(x.size):
        v = x[i]
        clipped = zero if v < zero else (alpha if v > alpha else v)
        q = np.rint(clipped / alpha * n) + zero
        out[i] = (q * high + q * low) * alpha


def _backward_loop(grad, x, grad_x, sums, alpha):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    zero = np.float32(0)
    for row in range(len(sums)):
        total = zero
        for j in range(min(ROW, x.size - row * ROW)):
            i = np.uint64(row * ROW + j)
            v = x[i]
            g = grad[i]
            g = v if v != v else g  # NaN passes both comparisons
            grad_x[i] = zero if (v < zero) | (v >= alpha) else g
            total += zero if v < alpha else g
        sums[row, 0] = total


FUSED = Fused(
    forward=Kernel(_forward_loop, exact=True),
    backward=Kernel(_backward_loop, exact=False),
    numbers=lambda alpha, n: (positive_number(alpha), np.float32(n), *reciprocal(n)),
    backward_numbers=lambda alpha, n: (positive_number(alpha),),
    sums=1,
    gradients=lambda sums, alpha, n: (sums[0],),
)


@operator("pact", _backward, FUSED)
def pact_quantize(x: Tensor, alpha: Tensor, n: int) -> Tensor:
    """Quantize to ``round(clip(x, 0, alpha) / alpha * n) / n * alpha``."""
    return _rounded(x, alpha, n) / n * positive_or_nan(alpha, x.dtype)


def _rounded(x: Tensor, alpha: Tensor, n: int) -> Tensor:
    alpha = positive_or_nan(alpha, x.dtype)
    return torch.round(torch.minimum(torch.clamp(x, min=0), alpha) / alpha * n) + 0.0


class PACT(Quantizer):
    """Parameterized clipping activation (Choi et al., 2018). Values are multiples of alpha / (2^bits - 1).

    Parameters
    ----------
    bits, role, variant
        See `Quantizer`; for activations after a ReLU only.
    shape : tuple of int
        Of alpha: () for one, (C, 1, ...) for one a channel.

    >>> quantizer = PACT(2)  # alpha starts at 10, and no batch is needed first
    >>> quantizer(torch.tensor([-2.0, 1.0, 4.0, 12.0])).detach()
    tensor([ 0.0000,  0.0000,  3.3333, 10.0000])
    """

    method = "pact"

    def __init__(
        self,
        bits: int | None,
        role: str = "activation",
        *,
        variant: str | None = None,
        shape: tuple[int, ...] = (),
    ) -> None:
        super().__init__(bits, role, variant=variant)
        self.n = 2 ** (self.bits or 1) - 1
        self.alpha = nn.Parameter(torch.full(parameter_shape(shape), ALPHA))

    def ready_at_once(self) -> bool:
        """Alpha starts at 10 whatever the data are."""
        return True

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set alpha to 10; `x` is not looked at."""
        self.alpha.fill_(ALPHA)
        self.mark_initialized()

    def quantize(self, x: Tensor) -> Tensor:
        """Quantize with alpha as it stands."""
        return pact_quantize(x, self.alpha, self.n)

    def check_parameters(self) -> None:
        """Raise ValueError unless alpha is positive."""
        check_positive("alpha", self.alpha)

    def encode(self, x: Tensor) -> Tensor:
        """Codes: the multiple of alpha / n."""
        return _rounded(x, self.alpha, self.n)

    def values_of(self, codes: Tensor, x: Tensor | None) -> Tensor:
        """Values of codes."""
        q = as_float(codes, self.alpha)
        return q / self.n * self.alpha.detach().to(q.dtype)

    def penalty(self) -> Tensor:
        """Alpha squared, the L2 term before its coefficient; with one alpha a channel, their sum."""
        return self.alpha.square().sum()


QUANTIZER = PACT
