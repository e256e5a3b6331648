"""DoReFa-Net as a module, which learns no parameter. Formulas and their sources are in `reference.dorefa`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reference import checks
from torchimpl.operators import Operator, operator
from torchimpl.quantizers.base import (
    Quantizer,
    as_float,
    check_positive,
    keep_nan,
    positive_or_nan,
    reduce_to,
    wide,
)
from torchimpl.statistics import ordered_sum


def _weight_backward(grad: Tensor, x: Tensor, largest: Tensor, n: int):  # type: ignore[no-untyped-def]
    t, scale = torch.tanh(x), positive_or_nan(largest, x.dtype)
    by_tanh = grad / scale
    by_largest = -(by_tanh * (t / scale))
    return by_tanh * (1 - t * t), reduce_to(by_largest, largest)


def _weight_integers(x: Tensor, largest: Tensor, n: int) -> Tensor:
    p = torch.tanh(x) / (2 * positive_or_nan(largest, x.dtype)) + 0.5
    return 2 * torch.round(torch.clamp(p, 0, 1) * n) - n


@operator("dorefa_weight", integers=_weight_integers, backward=_weight_backward)
def dorefa_weight(x: Tensor, largest: Tensor, n: int) -> Tensor:
    """Quantize weights to odd multiples of 1/n; `largest` is max|tanh x|, of shape (), and has a gradient of its own.

    The rounding passes gradients as they are. So does the clip, which only takes up rounding errors.
    """
    return _weight_integers(x, largest, n) / n


def _sign_backward(grad: Tensor, x: Tensor, mean: Tensor):  # type: ignore[no-untyped-def]
    return keep_nan(x, grad), torch.zeros_like(mean)


def _sign_integers(x: Tensor, mean: Tensor) -> Tensor:
    return torch.where(x.isnan() | positive_or_nan(mean, x.dtype).isnan(), torch.nan, torch.where(x >= 0, 1.0, -1.0))


@operator("dorefa_sign", integers=_sign_integers, backward=_sign_backward)
def dorefa_sign(x: Tensor, mean: Tensor) -> Tensor:
    """Quantize weights to -`mean` and, from 0 on, `mean`, of shape (). The gradient for x is that of the value."""
    mean = positive_or_nan(mean, x.dtype)
    return torch.where(x.isnan(), x, torch.where(x >= 0, mean, -mean))


def _activation_backward(grad: Tensor, x: Tensor, n: int):  # type: ignore[no-untyped-def]
    return (keep_nan(x, torch.where((x >= 0) & (x <= 1), grad, 0.0)),)


def _activation_integers(x: Tensor, n: int) -> Tensor:
    return torch.round(torch.clamp(x, 0, 1) * n) + 0.0


@operator("dorefa_activation", integers=_activation_integers, backward=_activation_backward)
def dorefa_activation(x: Tensor, n: int) -> Tensor:
    """Quantize activations to ``round(clip(x, 0, 1) * n) / n``."""
    return _activation_integers(x, n) / n


class DoReFa(Quantizer):
    """DoReFa-Net (Zhou et al., 2016).

    Weights have levels in [-1, 1] or, at 1 bit, -E|w| and E|w|; activations in [0, 1]. The maximum and the mean are
    those of the weights that are quantized; if all of them are zero, that gives NaN. (A layer refuses such weights in
    its first batch.)

    Parameters
    ----------
    bits, role, variant
        See `Quantizer`. Variants are "released" and "paper" (see `reference.dorefa`).

    >>> DoReFa(2, "weight")(torch.tensor([-1.0, 0.0, 0.2, 1.0]))
    tensor([-1.0000,  0.3333,  0.3333,  1.0000])
    >>> DoReFa(1, "weight")(torch.tensor([-0.5, 0.0, 2.5]))
    tensor([-1.,  1.,  1.])
    """

    method = "dorefa"

    def __init__(self, bits: int, role: str = "activation", *, variant: str | None = None) -> None:
        super().__init__(bits, role, variant=variant)
        self.n = 2**self.bits - 1
        if role == "weight":
            self.lowest, self.stride = -self.n, 2

    @property
    def operator(self) -> Operator:  # type: ignore[override]
        """One for activations, two for weights."""
        if self.role == "activation":
            return dorefa_activation
        return dorefa_sign if self.n == 1 else dorefa_weight

    def ready_at_once(self) -> bool:
        """There is no parameter to set."""
        return True

    def set_first_values(self, x: Tensor) -> None:
        """Set nothing; raise ValueError if weights are empty, all zero or not finite. Activations are not looked at."""
        if self.role == "weight":
            mean = ordered_sum(x.detach().to(wide(x)).abs()) / max(x.numel(), 1)
            check_positive("mean magnitude of the weights", mean)

    def arguments(self, x: Tensor) -> tuple[Any, ...]:
        """Return the statistics of weights, or 2^bits - 1, or both."""
        if self.role == "activation":
            return (self.n,)
        if self.n == 1:
            return (_mean_magnitude(x),)
        return _largest_tanh(x if self.variant == "released" else x.detach()), self.n

    def check_parameters(self, x: Tensor) -> None:
        """Raise ValueError if weights are all zero."""
        if self.role == "weight":
            check_positive("max|tanh w|", _largest_tanh(x))

    def unit(self, x: Tensor) -> Tensor | float:
        """1/n or, for weights at 1 bit, their mean magnitude."""
        return _mean_magnitude(x) if self.role == "weight" and self.n == 1 else 1 / self.n

    def decode(self, codes: Tensor, x: Tensor | None = None) -> Tensor:
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
            raise checks.refuse("x", x, "the weights that were quantized: levels at 1 bit are -E|w| and E|w|")
        return (2 * q - 1) * _mean_magnitude(x).to(q.dtype)


def _largest_tanh(x: Tensor) -> Tensor:
    """max|tanh x|, as tanh(max|x|); of equal maxima, `amax` gives each its share of the gradient."""
    x = x.to(wide(x))
    return torch.tanh(x.abs().amax() if x.numel() else x.new_ones(()))


def _mean_magnitude(x: Tensor) -> Tensor:
    x = x.detach().to(wide(x))
    return (ordered_sum(x.abs()) / x.numel()).to(x.dtype) if x.numel() else x.new_ones(())


QUANTIZER = DoReFa
