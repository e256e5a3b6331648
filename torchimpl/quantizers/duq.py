"""DuQ as a module. Formulas and their sources are in `reference.duq`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reference import checks
from reference.duq import INITIAL_SHARE, QUANTILE
from torchimpl.operators import operator
from torchimpl.quantizers.base import (
    Quantizer,
    as_float,
    check_positive,
    keep_nan,
    largest_magnitude,
    other_axes,
    parameter_shape,
    positive_or_nan,
    reduce_to,
    wide,
)


def _backward(  # type: ignore[no-untyped-def]
    grad: Tensor, x: Tensor, a: Tensor, c: Tensor, lowest: float, steps: int, is_odd: bool
):
    own_a, own_c = positive_or_nan(a, x.dtype), positive_or_nan(c, x.dtype)
    p = x / own_a
    inside = (p > lowest) & (p < 1)  # as in hardtanh's backward pass
    p = torch.clamp(p, lowest, 1)
    grad_x = keep_nan(x, torch.where(inside, grad * own_c / own_a, 0.0))
    by_c = grad * (_rounded(p, steps, is_odd) / steps)
    return reduce_to(grad_x, x), reduce_to(-grad_x * p, a), reduce_to(by_c, c)


def _rounded(p: Tensor, steps: int, is_odd: bool) -> Tensor:
    """Multiples of 1/steps, or odd ones, in units of 1/steps."""
    if is_odd:
        return 2 * (torch.round((p + 1) * steps / 2) + 0.0) - steps
    return torch.round(p * steps) + 0.0


def _integers(x: Tensor, a: Tensor, c: Tensor, lowest: float, steps: int, is_odd: bool) -> Tensor:
    return _rounded(torch.clamp(x / positive_or_nan(a, x.dtype), lowest, 1), steps, is_odd)


@operator("duq", integers=_integers, backward=_backward)
def duq_quantize(x: Tensor, a: Tensor, c: Tensor, lowest: float, steps: int, is_odd: bool) -> Tensor:
    """Clip `x` to [lowest a, a], round x/a to a grid, and scale by c.

    With `is_odd` the grid is that of the odd multiples of 1/steps, otherwise of all multiples.
    """
    return _integers(x, a, c, lowest, steps, is_odd) / steps * positive_or_nan(c, x.dtype)


class DuQ(Quantizer):
    """The quantizer of PROFIT (Park, Yoo, ECCV 2020): one learned scale to clip by, another for the output.

    Parameters
    ----------
    bits, role, variant
        See `Quantizer`. Variants are "released" and "paper" (see `reference.duq`).
    shape : tuple of int
        Of a and c: () for one, (C, 1, ...) for one a channel.

    Attributes
    ----------
    a, c : Parameter
        Raw values, of any sign: the ends of the clip range are at plus and minus log(1 + e^a) (softplus, the paper's
        and the code's way to keep a scale positive), and the output's scale is log(1 + e^c).

    >>> quantizer = DuQ(2, "weight")
    >>> quantizer(torch.tensor([-10.0, -1.0, 0.1, 6.5])).detach()  # both scales start at 0.9 max|x| = 9
    tensor([-9.,  0.,  0.,  9.])
    """

    method = "duq"
    operator = duq_quantize

    def __init__(
        self,
        bits: int,
        role: str = "activation",
        *,
        variant: str | None = None,
        shape: tuple[int, ...] = (),
    ) -> None:
        super().__init__(bits, role, variant=variant)
        signed = self.role != "activation"
        self.is_odd = signed and self.variant == "paper"
        top = 2**self.bits - 1
        self.steps = top // 2 if signed and not self.is_odd else top
        self.lowest, self.stride = -self.steps if signed else 0, 2 if self.is_odd else 1
        self.shape = shape = parameter_shape(shape)
        self.a = nn.Parameter(torch.zeros(shape))
        self.c = nn.Parameter(torch.zeros(shape))

    def set_first_values(self, x: Tensor) -> None:
        """Set both scales: for weights to 0.9 times the largest magnitude, else to the first batch's upper quantile.

        Raises
        ------
        ValueError
            If that is not positive and finite (in any channel).
        """
        if self.role == "weight":
            scale = INITIAL_SHARE * largest_magnitude(x.double(), self.a.shape)
        else:
            scale = upper_quantile(x, self.a.shape)
        raw = scale + torch.log(-torch.expm1(-scale))
        self.a.copy_(raw)
        self.c.copy_(raw)

    def arguments(self, x: Tensor) -> tuple[Tensor, Tensor, float, int, bool]:
        """Return both scales, the lower end of the clip range in units of a, and the grid."""
        a, c = scale_of(self.a, wide(x)), scale_of(self.c, wide(x))
        return a, c, -1.0 if self.lowest else 0.0, self.steps, self.is_odd

    def check_parameters(self, x: Tensor) -> None:
        """Raise ValueError unless both scales are positive and finite."""
        check_positive("softplus(a)", F.softplus(self.a.detach()))
        check_positive("softplus(c)", F.softplus(self.c.detach()))

    def unit(self, x: Tensor) -> Tensor | float:
        """Values are multiples of c / steps, or odd ones."""
        return scale_of(self.c, wide(x)) / self.steps

    def decode(self, codes: Tensor, x: Tensor | None = None) -> Tensor:
        """Values of codes."""
        q = as_float(codes, self.c)
        c = scale_of(self.c.detach(), q.dtype).to(q.dtype)
        return (self.lowest + self.stride * q) / self.steps * c


def scale_of(raw: Tensor, dtype: torch.dtype) -> Tensor:
    """Softplus, in the wider of both types; NaN where it is not finite.

    PyTorch's threshold of 20, above which it is the identity, would be off by 2e-9 in float64.

    >>> scale_of(torch.tensor([0.0, 30.0]), torch.float64)
    tensor([ 0.6931, 30.0000], dtype=torch.float64)
    """
    scale = F.softplus(raw.to(torch.promote_types(raw.dtype, dtype)), threshold=40)
    return torch.where(scale.isfinite(), scale, torch.nan)


def upper_quantile(x: Tensor, shape: Sequence[int]) -> Tensor:
    """The number floor(0.95 N) of the N positive ones, sorted from 0, that share each parameter; float64.

    Raises
    ------
    ValueError
        If there is none, or `x` is not finite.

    >>> upper_quantile(torch.arange(-30.0, 21.0), ())
    tensor(20., dtype=torch.float64)
    """
    kept = [axis for axis in range(x.dim()) if axis not in other_axes(x, shape)]
    rows = x.permute(*kept, *other_axes(x, shape)).reshape(math.prod(shape), -1)
    positive = [row[row > 0] for row in rows]
    if not (bool(x.isfinite().all()) and all(row.numel() for row in positive)):
        found = "NaN or infinity" if x.numel() and not bool(x.isfinite().all()) else "no positive number"
        raise checks.refuse("first batch", found, "finite, with a positive number" + " a channel" * (len(rows) > 1))
    return torch.stack([row.sort().values[int(row.numel() * QUANTILE)] for row in positive]).double().reshape(shape)


QUANTIZER = DuQ
