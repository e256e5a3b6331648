"""PACT as a module: activations clipped at a learned level. Formulas and their sources are in `reference.pact`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reference.pact import ALPHA
from torchimpl.operators import operator
from torchimpl.quantizers.base import (
    Quantizer,
    as_float,
    check_positive,
    keep_nan,
    parameter_shape,
    positive_or_nan,
    reduce_to,
)


def _backward(grad: Tensor, x: Tensor, alpha: Tensor, n: int, at_zero: bool, at_alpha: bool):  # type: ignore[no-untyped-def]
    own = positive_or_nan(alpha, x.dtype)
    clipped = x >= own
    outside = (x < 0 if at_zero else x <= 0) | (x > own if at_alpha else clipped)
    return (
        reduce_to(keep_nan(x, torch.where(outside, 0.0, grad)), x),
        reduce_to(keep_nan(x, torch.where(clipped, grad, 0.0)), alpha),
    )


def _integers(x: Tensor, alpha: Tensor, n: int, at_zero: bool, at_alpha: bool) -> Tensor:
    alpha = positive_or_nan(alpha, x.dtype)
    return torch.round(torch.minimum(torch.clamp(x, min=0), alpha) / alpha * n) + 0.0


@operator("pact", integers=_integers, backward=_backward)
def pact_quantize(x: Tensor, alpha: Tensor, n: int, at_zero: bool, at_alpha: bool) -> Tensor:
    """Quantize to ``round(clip(x, 0, alpha) / alpha * n) / n * alpha``.

    The gradient is that of the clip; `at_zero` and `at_alpha` tell whether x gets any at these ends.
    """
    return _integers(x, alpha, n, at_zero, at_alpha) / n * positive_or_nan(alpha, x.dtype)


class PACT(Quantizer):
    """Parameterized clipping activation (Choi et al., 2018). Values are multiples of alpha / (2^bits - 1).

    Parameters
    ----------
    bits, role, variant
        See `Quantizer`; for activations after a ReLU only. Variants are "paper", "distiller" and "fms-model-optimizer",
        which differ in the gradients at both ends of the range (see `reference.pact`).
    shape : tuple of int
        Of alpha: () for one, (C, 1, ...) for one a channel.

    >>> quantizer = PACT(2)  # alpha starts at 10, and no batch is needed first
    >>> quantizer(torch.tensor([-2.0, 1.0, 4.0, 12.0])).detach()
    tensor([ 0.0000,  0.0000,  3.3333, 10.0000])
    """

    method = "pact"
    operator = pact_quantize

    def __init__(
        self,
        bits: int,
        role: str = "activation",
        *,
        variant: str | None = None,
        shape: tuple[int, ...] = (),
    ) -> None:
        super().__init__(bits, role, variant=variant)
        self.n = 2**self.bits - 1
        self.shape = parameter_shape(shape)
        self.alpha = nn.Parameter(torch.full(self.shape, ALPHA))

    def ready_at_once(self) -> bool:
        """Alpha starts at 10 whatever the data are."""
        return True

    def set_first_values(self, x: Tensor) -> None:
        """Set alpha to 10; `x` is not looked at."""
        self.alpha.fill_(ALPHA)

    def arguments(self, x: Tensor) -> tuple[Tensor, int, bool, bool]:
        """Return alpha, 2^bits - 1, and whether x has a gradient at 0 and at alpha."""
        return self.alpha, self.n, self.variant != "distiller", self.variant == "fms-model-optimizer"

    def check_parameters(self, x: Tensor) -> None:
        """Raise ValueError unless alpha is positive."""
        check_positive("alpha", self.alpha)

    def unit(self, x: Tensor) -> Tensor | float:
        """Values are multiples of alpha / n."""
        return self.alpha / self.n

    def decode(self, codes: Tensor, x: Tensor | None = None) -> Tensor:
        """Values of codes."""
        q = as_float(codes, self.alpha)
        return q / self.n * self.alpha.detach().to(q.dtype)

    def penalty(self) -> Tensor:
        """Alpha squared, the L2 term before its coefficient; with one alpha a channel, their sum."""
        return self.alpha.square().sum()


QUANTIZER = PACT
