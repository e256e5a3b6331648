"""Soft-to-hard quantization as a module: a softmax over learned centres. Formulas: `reference.soft_to_hard`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from reference import checks
from reference.soft_to_hard import FAR, SCHEDULE, SOFT
from torchimpl.operators import operator
from torchimpl.quantizers.base import Quantizer, as_float, as_shown, check_finite, keep_nan, reduce_to
from torchimpl.quantizers.qnet import kmeans


def _levels(centers: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The centres, ascending, all NaN if one is not finite, and the transition points between them."""
    centers = centers.to(dtype)
    levels = torch.where(centers.isfinite().all(), centers.sort().values, torch.nan)
    return levels, levels[:-1] / 2 + levels[1:] / 2


def _soft(x: Tensor, centers: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each centre's share, and how far it is from the nearest, along a first axis; x less the nearest; the nearest."""
    levels, points = _levels(centers, x.dtype)
    nearest = levels[torch.searchsorted(points, x.contiguous())]
    column = torch.where(levels[0].isnan(), levels, centers.to(x.dtype)).reshape(-1, *[1] * x.dim())
    here = x.clamp(-FAR, FAR)
    apart = column - nearest
    z = sigma.to(x.dtype) * ((nearest - column) * ((here - column) + (here - nearest)))
    e = torch.exp(-z.clamp(min=0))
    return e / e.sum(0), apart, here - nearest, nearest


def _backward(grad: Tensor, x: Tensor, centers: Tensor, sigma: Tensor, soft: bool):  # type: ignore[no-untyped-def]
    phi, apart, off, _ = _soft(x, centers, sigma)
    sharp = 2 * sigma.to(x.dtype)
    rest = apart - (phi * apart).sum(0)
    by_x = keep_nan(x, grad * (sharp * (phi * rest.square()).sum(0)))
    by_center = phi * (1 + rest * sharp * (off - apart))
    return reduce_to(by_x, x), (grad * by_center).reshape(len(centers), x.numel()).sum(1).to(centers.dtype)


def _integers(x: Tensor, centers: Tensor, sigma: Tensor, soft: bool) -> Tensor:
    levels, points = _levels(centers, x.dtype)
    found = torch.searchsorted(points, x.contiguous()).to(x.dtype)
    return torch.where(x.isnan() | levels[0].isnan(), torch.nan, found)


@operator("soft_to_hard", integers=_integers, backward=_backward, gradients=2, tables=True)
def soft_to_hard_quantize(x: Tensor, centers: Tensor, sigma: Tensor, soft: bool) -> Tensor:
    """Quantize to the nearest of the `centers`, or if `soft` to their mean by a softmax of ``-sigma (x - center)^2``.

    The gradients, for x and the centres, are those of that mean.
    """
    if soft:
        phi, apart, _, nearest = _soft(x, centers, sigma)
        return keep_nan(x, nearest + (phi * apart).sum(0))
    levels, points = _levels(centers, x.dtype)
    return keep_nan(x, levels[torch.searchsorted(points, x.contiguous())])


class SoftToHard(Quantizer):
    """Soft-to-hard quantization (Agustsson et al., NeurIPS 2017): a learned codebook, one for all elements.

    Parameters
    ----------
    bits, role, variant
        See `Quantizer`; roles "weight" and "activation", 2^bits centres. Variants are "paper", which is soft in
        training, and "imgcomp-cvpr", which is not (see `reference.soft_to_hard`).
    hardness : float
        sigma times the square of the first centres' mean distance; `set_progress` raises it in training.

    Attributes
    ----------
    centers : Parameter, of shape (2^bits,)
        In any order.
    hardness, spacing : Tensor, of shape ()
        Saved; sigma is ``hardness / spacing^2``.

    >>> quantizer = SoftToHard(1, "weight")
    >>> x = torch.tensor([-1.0, 0.0, 0.1, 1.0])
    >>> quantizer(x).detach().mul(1000).round()
    tensor([-369.,   13.,   62.,  408.])
    >>> quantizer.eval()(x).detach()  # the means of two and two
    tensor([-0.5000, -0.5000,  0.5500,  0.5500])
    """

    method = "soft_to_hard"
    operator = soft_to_hard_quantize
    is_integral = False  # a codebook
    hardness: Tensor
    spacing: Tensor

    def __init__(
        self, bits: int, role: str = "activation", *, variant: str | None = None, hardness: float = SCHEDULE[0]
    ) -> None:
        super().__init__(bits, role, variant=variant)
        self.centers = nn.Parameter(torch.linspace(-1.0, 1.0, 2**self.bits))
        self.register_buffer("spacing", torch.tensor(1.0))
        self.register_buffer("hardness", torch.tensor(0.0))
        self.set_hardness(hardness)

    def set_hardness(self, hardness: float) -> None:
        """Set the hardness; raises ValueError unless it is from 1e-6 to 1e6."""
        self.hardness.fill_(checks.check_scalar("hardness", hardness, 1e-6, 1e6))

    def set_progress(self, progress: float, *, start: float = SCHEDULE[0], end: float = SCHEDULE[1]) -> None:
        """Set the hardness for a share of training, 0 to 1: exponentially from `start` to `end`.

        In "imgcomp-cvpr" it stays as it is.

        Raises
        ------
        ValueError
            If `progress` is not from 0 to 1, or an end is out of range.
        """
        share = checks.check_scalar("progress", progress, 0, 1)
        start, end = (checks.check_scalar(n, v, 1e-6, 1e6) for n, v in (("start", start), ("end", end)))
        if self.variant in SOFT:
            self.set_hardness(start * (end / start) ** share)

    @property
    def sigma(self) -> Tensor:
        """Sigma of the softmax, over a square of the input's unit."""
        return self.hardness / self.spacing.square()

    def set_first_values(self, x: Tensor) -> None:
        """Set the centres to those of k-means, and the unit of the hardness to their mean distance.

        Raises
        ------
        ValueError
            If `x` is empty, not finite, or all its values are equal.
        """
        data = x.double().flatten().sort().values
        spread = float(data[-1] - data[0]) if data.numel() and bool(data.isfinite().all()) else math.nan
        if not 0 < spread < math.inf:
            raise checks.refuse("spread of the first batch", spread, "positive and finite")
        first = torch.linspace(float(data[0]), float(data[-1]), 2**self.bits, dtype=data.dtype, device=data.device)
        centers = kmeans(data, first)
        self.centers.copy_(centers)
        self.spacing.copy_((centers[-1] - centers[0]) / (len(centers) - 1))

    def arguments(self, x: Tensor) -> tuple[Any, ...]:
        """Return the centres, sigma, and whether training is soft."""
        return self.centers, self.sigma, self.training and self.variant in SOFT

    def check_parameters(self, x: Tensor) -> None:
        """Raise ValueError unless all centres are finite."""
        check_finite("centers", self.centers)

    def decode(self, codes: Tensor, x: Tensor | None = None) -> Tensor:
        """Values of codes: centres in ascending order. Raises ValueError if there is no such centre."""
        q = as_float(codes, self.centers)
        if not bool(torch.isin(q, torch.arange(len(self.centers), dtype=q.dtype, device=q.device)).all()):
            raise checks.refuse("codes", q.tolist(), f"whole numbers from 0 to {len(self.centers) - 1}")
        return self.centers.detach().to(q.dtype).sort().values[q.long()]

    def extra_repr(self) -> str:
        """Show what the quantizer was built with."""
        return f"{super().extra_repr()}, hardness={as_shown(self.hardness)}"


QUANTIZER = SoftToHard
