"""APoT as a module: sums of powers of two under a learned threshold. Formulas and their sources: `reference.apot`."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from reference import checks
from reference.apot import ALPHA, ALPHA_IMAGENET
from torchimpl.operators import operator
from torchimpl.quantizers.base import Quantizer, as_float, check_positive, keep_nan, positive_or_nan, reduce_to


def magnitudes(bits: int) -> list[int]:
    """The sums of powers of two that `bits` bits make, ascending, in units of the smallest power.

    >>> magnitudes(3), magnitudes(1)
    ([0, 1, 2, 3, 4, 6, 8, 10], [0, 1])
    """
    n, odd = divmod(bits, 2)
    smallest = 3 * n - 1 + odd if n else 0  # its exponent: the last of the last term
    choices = [[0, *(2 ** (smallest - e) for e in (i, i + n, i + 2 * n + odd))] for i in range(n)]
    if odd:
        choices.append([0, 2 ** (smallest - 2 * n)])
    return sorted({sum(some) for some in itertools.product(*choices)})


def _search(u: Tensor, steps: list[int], values: list[float]) -> Tensor:
    """What is in `values` for the element of the set nearest to u, halfway the lower one."""
    found = torch.full_like(u, values[0])
    for (below, above), value in zip(itertools.pairwise(steps), values[1:], strict=True):
        found = torch.where(u > (below + above) / (2 * steps[-1]), value, found)
    return found


def _levels(x: Tensor, alpha: Tensor, steps: list[int], signed: bool) -> tuple[Tensor, Tensor]:
    """The integers of x, and x over alpha, which is NaN where alpha is out of range."""
    u = x / positive_or_nan(alpha, x.dtype)
    if not signed:
        return torch.where(u.isnan(), u, _search(u, steps, [float(k) for k in steps])), u
    k = _search(u.abs(), steps, [float(k) for k in steps])
    return torch.where(u.isnan(), u, torch.where(u < 0, -k, k) + 0.0), u


def _backward(  # type: ignore[no-untyped-def]
    grad: Tensor, x: Tensor, alpha: Tensor, steps: list[int], signed: bool, pass_above: bool, pass_below: bool
):
    k, u = _levels(x, alpha, steps, signed)
    above, below = u > 1, u < -1 if signed else (x < 0) & ~u.isnan()  # x, as the ratio may underflow
    outside = above | below if signed or not pass_below else above
    blocked = (above & (not pass_above)) | (below & (not pass_below))
    by_alpha = k / steps[-1] - torch.where(outside | u.isinf(), 0.0, u)
    return reduce_to(keep_nan(x, torch.where(blocked, 0.0, grad)), x), reduce_to(grad * by_alpha, alpha)


def _integers(x: Tensor, alpha: Tensor, steps: list[int], signed: bool, pass_above: bool, pass_below: bool) -> Tensor:
    return _levels(x, alpha, steps, signed)[0]


@operator("apot", integers=_integers, backward=_backward)
def apot_quantize(
    x: Tensor, alpha: Tensor, steps: list[int], signed: bool, pass_above: bool, pass_below: bool
) -> Tensor:
    """Quantize to ``alpha * k / k_max``, k the nearest of the integers `steps`; if `signed` also of their opposites.

    `pass_above` and `pass_below` tell whether x has a gradient beyond the ends. That for alpha is the end there, the
    rounding error elsewhere; below an unsigned range that lets x pass, it is the error, too.
    """
    k, _ = _levels(x, alpha, steps, signed)
    return k / steps[-1] * positive_or_nan(alpha, x.dtype)


class APoT(Quantizer):
    """Additive powers-of-two quantization (Li et al., ICLR 2020). Values are sums of powers of two, times a threshold.

    Parameters
    ----------
    bits, role, variant
        See `Quantizer`; 2 to 5 bits, for weights (which layers standardise) and for activations after a ReLU. Variants
        are "paper", "imagenet" and "cifar10", which differ in gradients of what is clipped and in the first alpha (see
        `reference.apot`).

    Attributes
    ----------
    alpha : Parameter, of shape ()
        The clipping threshold, the highest level.

    >>> quantizer = APoT(3, "weight")  # alpha starts at 3, and no batch is needed first
    >>> quantizer(torch.tensor([-9.0, 0.3, 1.0, 2.0])).detach()
    tensor([-3.0000,  0.0000,  0.7500,  1.5000])
    """

    method = "apot"
    operator = apot_quantize

    def __init__(self, bits: int, role: str = "activation", *, variant: str | None = None) -> None:
        super().__init__(bits, role, variant=variant)
        self.signed = self.role == "weight"
        self.steps = magnitudes(self.bits - self.signed)
        self.levels = [*(-k for k in reversed(self.steps[1:])), *self.steps] if self.signed else self.steps
        even = self.steps[-1] == len(self.steps) - 1
        self.lowest, self.table = self.levels[0], () if even else tuple(self.levels)
        self.alpha = nn.Parameter(torch.tensor(self._first_alpha()))

    def _first_alpha(self) -> float:
        return (ALPHA_IMAGENET if self.variant == "imagenet" else ALPHA)[self.role]

    def ready_at_once(self) -> bool:
        """Alpha starts at a constant whatever the data are."""
        return True

    def set_first_values(self, x: Tensor) -> None:
        """Set alpha to its first value; `x` is not looked at."""
        self.alpha.fill_(self._first_alpha())

    def arguments(self, x: Tensor) -> tuple[Any, ...]:
        """Return alpha, the magnitudes, whether there are signs, and whether x has a gradient beyond either end."""
        everywhere = self.variant == "cifar10"
        weights = self.signed and (everywhere or (self.variant == "imagenet" and self.bits == 2))
        return self.alpha, self.steps, self.signed, weights, weights if self.signed else everywhere

    def check_parameters(self, x: Tensor) -> None:
        """Raise ValueError unless alpha is positive."""
        check_positive("alpha", self.alpha)

    def unit(self, x: Tensor) -> Tensor | float:
        """Values are alpha times integers over the largest of them."""
        return self.alpha / self.steps[-1]

    def decode(self, codes: Tensor, x: Tensor | None = None) -> Tensor:
        """Values of codes. Raises ValueError if there is no such code."""
        q = as_float(codes, self.alpha)
        if not bool(torch.isin(q, torch.arange(len(self.levels), dtype=q.dtype, device=q.device)).all()):
            raise checks.refuse("codes", q.tolist(), f"whole numbers from 0 to {len(self.levels) - 1}")
        k = torch.tensor(self.levels, dtype=q.dtype, device=q.device)[q.long()]
        return k / self.steps[-1] * self.alpha.detach().to(q.dtype)


QUANTIZER = APoT
