"""DSQ as a module: the hard quantizer forward, the slope of the soft one backward; l, u and alpha learned.

Formulas and their sources are in `reference.dsq`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from reference import checks
from reference import dsq as names
from torchimpl.operators import operator
from torchimpl.quantizers.base import as_float, reduce_to
from torchimpl.quantizers.uniform import UniformQuantizer, clip_range, normalize, round_half_down


def _backward(  # type: ignore[no-untyped-def]
    grad: Tensor, x: Tensor, lower: Tensor, upper: Tensor, alpha: Tensor, n: int, soft: bool
):
    low, high, width = clip_range(lower, upper, x.dtype)
    a = alpha.to(x.dtype).clamp(*names.ALPHA_RANGE)
    s, K = 1 / (1 - a), torch.log1p(2 * (1 - a) / a)  # ln(2/alpha - 1), accurate for alpha near 1
    p = (torch.clamp(x, low, high) - low) / width
    inside = ~((x < low) | (x > high))
    cell = torch.floor(p * n)
    z = p * n - cell - 0.5
    tanh = torch.tanh(K * z)
    sech2 = 1 - tanh * tanh
    g = torch.where(inside, s * K / 2 * sech2, 0.0)
    output = cell + (s * tanh + 1) / 2 if soft else round_half_down(p * n)
    P = torch.where(inside, output / n, p)
    by_alpha = (tanh * s * s - 2 * s * z * sech2 / (a * (2 - a))) / 2
    grad_alpha = torch.where(inside, width / n * by_alpha, 0.0)
    return (
        grad * g,
        reduce_to(grad * ((1 - P) - g * (1 - p)), lower),
        reduce_to(grad * (P - g * p), upper),
        reduce_to(grad * grad_alpha, alpha),
    )


def _integers(x: Tensor, lower: Tensor, upper: Tensor, alpha: Tensor, n: int, soft: bool) -> Tensor:
    return round_half_down(normalize(x, lower, upper, n))


@operator("dsq", integers=_integers, backward=_backward)
def dsq_hard(x: Tensor, lower: Tensor, upper: Tensor, alpha: Tensor, n: int, soft: bool) -> Tensor:
    """Quantize to l + (u - l) (Q / n); the backward pass has the slope of the soft quantizer.

    If `soft`, the gradients of l and u are those of the soft output, else those of the hard one.
    """
    lower_x, upper_x = lower.to(x.dtype), upper.to(x.dtype)
    return lower_x + (upper_x - lower_x) * (round_half_down(normalize(x, lower, upper, n)) / n)


class DSQ(UniformQuantizer):
    """Differentiable soft quantization (Gong et al., ICCV 2019). Values stay in the clip range, from l to u.

    Variants are "hard" and "soft", after the output whose gradients l and u get (see `reference.dsq`).

    The clip range starts at the least and the greatest value of the first batch (0 and the greatest after a ReLU).
    `alpha` is learned; whatever training makes of it, the slope is that of the nearest admitted alpha.

    >>> DSQ(bits=2, role="weight").alpha
    Parameter containing:
    tensor(0.2000, requires_grad=True)
    """

    method = "dsq"
    operator = dsq_hard

    def __init__(
        self,
        bits: int,
        role: str = "activation",
        *,
        variant: str | None = None,
        alpha: float = names.INITIAL_ALPHA,
    ) -> None:
        super().__init__(bits, role, variant=variant)
        self.lowest, self.stride = 0, 1
        self.is_integral = self.role == "activation"  # where l stays 0
        self.alpha = nn.Parameter(torch.tensor(names.check_alpha(alpha)))

    def ready_at_once(self) -> bool:
        """Never: the clip range comes from data, for weights too."""
        return False

    def set_first_values(self, x: Tensor) -> None:
        """Set the clip range to the range of `x`. Raises ValueError if `x` has none."""
        least, high = (float(x.min()), float(x.max())) if x.numel() else (0.0, 0.0)
        low = 0.0 if self.role == "activation" else least
        if not (low < high and math.isfinite(least) and math.isfinite(high - low)):
            raise checks.refuse("range of the first batch", (low, high), "of finite values that differ")
        self.lower.fill_(low)
        self.upper.fill_(high)

    def arguments(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, int, bool]:
        """Return clip range, alpha, 2^bits - 1 and whether l and u get the soft output's gradients."""
        return self.lower, self.upper, self.alpha, self.n, self.variant == "soft"

    def unit(self, x: Tensor) -> Tensor | float:
        """Activations are multiples of u / n."""
        return self.upper / self.n

    def penalty(self) -> Tensor:
        """Return alpha squared, the term before its coefficient, which drives alpha down."""
        return self.alpha.square()

    def decode(self, codes: Tensor, x: Tensor | None = None) -> Tensor:
        """Values of codes, ``l + (u - l) (q / n)``."""
        q = as_float(codes, self.upper)
        lower, upper = self.lower.detach().to(q.dtype), self.upper.detach().to(q.dtype)
        return lower + (upper - lower) * (q / self.n)


QUANTIZER = DSQ
