"""DSQ as a module: the hard quantizer forward, the slope of the soft one backward; l, u and alpha learned.

Formulas and their sources are in `reference.dsq`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from reference import dsq as names
from reference import grid
from torchimpl.kernels import ROW, Fused, Kernel, reciprocal
from torchimpl.operators import operator
from torchimpl.quantizers.base import as_float, reduce_to
from torchimpl.quantizers.uniform import UniformQuantizer, clip_range, clip_range_numbers, normalize, round_half_down


def _backward(grad: Tensor, x: Tensor, lower: Tensor, upper: Tensor, alpha: Tensor, n: int):  # type: ignore[no-untyped-def]
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
    P = torch.where(inside, (cell + (s * tanh + 1) / 2) / n, p)
    by_alpha = (tanh * s * s - 2 * s * z * sech2 / (a * (2 - a))) / 2
    grad_alpha = torch.where(inside, width / n * by_alpha, 0.0)
    return (
        grad * g,
        reduce_to(grad * ((1 - P) - g * (1 - p)), lower),
        reduce_to(grad * (P - g * p), upper),
        reduce_to(grad * grad_alpha, alpha),
    )


# tanh(y) for |y| <= 7.3, the largest K/2 of an admitted alpha: tanh(y/8) / (y/8) as a polynomial in (y/8)^2, the
# minimax one for |y/8| <= 0.91 with a relative error of 1.62e-8, and three times tanh(2v) = 2 tanh v / (1 + tanh^2 v),
# which makes no relative error larger.
TANH = (
    0.999999983822,
    -0.333331397429,
    0.133295056651,
    -0.0536798823244,
    0.0208078472046,
    -0.00675482328623,
    0.00126025547749,
)


def _forward_loop(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    x, out, low, high, width, n, reciprocal_high, reciprocal_low
):
    half, one, zero = np.float32(0.5), np.float32(1), np.float32(0)
    for i in range(x.size):
        v = x[i]
        clipped = low if v < low else (high if v > high else v)
        normalized = (clipped - low) / width * n
        floor = np.floor(normalized)
        q = floor + (one if normalized - floor > half else zero)
        out[i] = low + width * (q * reciprocal_high + q * reciprocal_low)


def _backward_loop(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    grad, x, grad_x, sums, low, high, inverse, n, s, eighth, steepest, shape, a0, a1, a2, a3, a4, a5, a6
):
    half, one, two, zero = np.float32(0.5), np.float32(1), np.float32(2), np.float32(0)
    step = one / n
    for row in range(len(sums)):
        by_lower = by_upper = by_alpha = zero
        for j in range(min(ROW, x.size - row * ROW)):
            i = np.uint64(row * ROW + j)
            v = x[i]
            outside = (v < low) | (v > high)
            clipped = low if v < low else (high if v > high else v)
            p = (clipped - low) * inverse
            cell = np.floor(p * n)
            z = p * n - cell - half
            u = z * eighth
            square = u * u
            t = u * (a0 + square * (a1 + square * (a2 + square * (a3 + square * (a4 + square * (a5 + square * a6))))))
            t = two * t / (one + t * t)
            t = two * t / (one + t * t)
            t = two * t / (one + t * t)
            sech2 = one - t * t
            slope = zero if outside else steepest * sech2
            soft = p if outside else (cell + (s * t + one) * half) * step
            g = grad[i]
            grad_x[i] = g * slope
            by_lower += g * ((one - soft) - slope * (one - p))
            by_upper += g * (soft - slope * p)
            by_alpha += zero if outside else g * (t * (s * s) - shape * z * sech2)
        sums[row, 0] = by_lower
        sums[row, 1] = by_upper
        sums[row, 2] = by_alpha


def _numbers(lower: float, upper: float, alpha: float, n: int) -> tuple[np.float32, ...]:
    return *clip_range_numbers(lower, upper), np.float32(n), *reciprocal(n)


def _backward_numbers(lower: float, upper: float, alpha: float, n: int) -> tuple[np.float32, ...]:
    low, high, width = clip_range_numbers(lower, upper)
    lowest, highest = (float(np.float32(end)) for end in names.ALPHA_RANGE)
    a = min(max(alpha, lowest), highest) if alpha == alpha else math.nan
    s, K = 1 / (1 - a), math.log1p(2 * (1 - a) / a)
    shape = 2 * s / (a * (2 - a))
    return low, high, *map(np.float32, (1 / float(width), n, s, K / 8, s * K / 2, shape, *TANH))


FUSED = Fused(
    forward=Kernel(_forward_loop, exact=True),
    backward=Kernel(_backward_loop, exact=False),
    numbers=_numbers,
    backward_numbers=_backward_numbers,
    sums=3,
    gradients=lambda sums, lower, upper, alpha, n: (sums[0], sums[1], sums[2] * (upper - lower) / n / 2),
)


@operator("dsq", _backward, FUSED)
def dsq_hard(x: Tensor, lower: Tensor, upper: Tensor, alpha: Tensor, n: int) -> Tensor:
    """Quantize to l + (u - l) (Q / n); the backward pass is that of the soft quantizer."""
    lower_x, upper_x = lower.to(x.dtype), upper.to(x.dtype)
    return lower_x + (upper_x - lower_x) * (round_half_down(normalize(x, lower, upper, n)) / n)


class DSQ(UniformQuantizer):
    """Differentiable soft quantization (Gong et al., ICCV 2019). Values stay in the clip range, from l to u.

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
        bits: int | None,
        role: str = "activation",
        *,
        variant: str | None = None,
        alpha: float = names.INITIAL_ALPHA,
    ) -> None:
        super().__init__(bits, role, variant=variant)
        self.alpha = nn.Parameter(torch.tensor(names.check_alpha(alpha)))

    def ready_at_once(self) -> bool:
        """Never: the clip range comes from data, for weights too."""
        return False

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set the clip range to the range of `x`. Raises ValueError if `x` has none."""
        least, high = (float(x.min()), float(x.max())) if x.numel() else (0.0, 0.0)
        low = 0.0 if self.role == "activation" else least
        if not (low < high and math.isfinite(least) and math.isfinite(high - low)):
            raise grid.refuse("range of the first batch", (low, high), "of finite values that differ")
        self.lower.fill_(low)
        self.upper.fill_(high)
        self.mark_initialized()

    def arguments(self) -> tuple[Tensor, int]:
        """Return alpha and 2^bits - 1."""
        return self.alpha, self.levels - 1

    def penalty(self) -> Tensor:
        """Return alpha squared, the term before its coefficient, which drives alpha down."""
        return self.alpha.square()

    def values_of(self, codes: Tensor, x: Tensor | None) -> Tensor:
        """Values of codes, ``l + (u - l) (q / n)``."""
        q = as_float(codes, self.upper)
        lower, upper = self.lower.detach().to(q.dtype), self.upper.detach().to(q.dtype)
        return lower + (upper - lower) * (q / (self.levels - 1))


QUANTIZER = DSQ
