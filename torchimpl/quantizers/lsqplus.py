"""LSQ+ as a module: a learned step size and offset. Formulas and their sources are in `reference.lsqplus`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from reference import checks
from reference.lsqplus import ENDS, ITERATIONS, NO_BETTER, THRESHOLDS
from torchimpl.operators import operator
from torchimpl.quantizers.base import (
    Quantizer,
    as_float,
    check_finite,
    check_positive,
    finite_or_nan,
    keep_nan,
    other_axes,
    parameter_shape,
    positive_or_nan,
    reduce_to,
)
from torchimpl.quantizers.lsq import elements_per_step, inside_range, level_range


def _backward(  # type: ignore[no-untyped-def]
    grad: Tensor, x: Tensor, step: Tensor, beta: Tensor, low: int, high: int, step_scale: float, beta_scale: float,
    closed: bool,
):  # fmt: skip
    q = (x - finite_or_nan(beta, x.dtype)) / positive_or_nan(step, x.dtype)
    rounded = torch.round(torch.clamp(q, -low, high))
    inside = inside_range(q, low, high, closed)
    by_step = grad * torch.where(inside, rounded - q, rounded)
    by_beta = keep_nan(x, torch.where(inside, 0.0, grad))
    return (
        reduce_to(keep_nan(x, torch.where(inside, grad, 0.0)), x),
        reduce_to(by_step, step) * step_scale,
        reduce_to(by_beta, beta) * beta_scale,
    )


def _integers(
    x: Tensor, step: Tensor, beta: Tensor, low: int, high: int, step_scale: float, beta_scale: float, closed: bool
) -> Tensor:
    step, beta = positive_or_nan(step, x.dtype), finite_or_nan(beta, x.dtype)
    return torch.round(torch.clamp((x - beta) / step, -low, high)) + 0.0


@operator("lsqplus", integers=_integers, backward=_backward)
def lsqplus_quantize(
    x: Tensor, step: Tensor, beta: Tensor, low: int, high: int, step_scale: float, beta_scale: float, closed: bool
) -> Tensor:
    """Quantize to ``round(clip((x - beta) / step, -low, high)) * step + beta``.

    `step_scale` and `beta_scale` multiply the gradients for `step` and `beta`; if `closed`, the ends of the range are
    not clipped.
    """
    q = _integers(x, step, beta, low, high, step_scale, beta_scale, closed)
    return q * positive_or_nan(step, x.dtype) + finite_or_nan(beta, x.dtype)


class LSQPlus(Quantizer):
    """Learned step size and offset (Bhalgat et al., CVPR workshops 2020).

    Parameters
    ----------
    bits, role, variant
        See `Quantizer`; 2 to 8 bits for weights, whose offset is a buffer that stays 0. Variants are "paper", "public"
        and "fms-model-optimizer", which learns an offset of weights, too (see `reference.lsqplus`).
    shape : tuple of int
        Of step size and offset: () for one, (C, 1, ...) for one a channel.

    >>> quantizer = LSQPlus(2, "activation")
    >>> quantizer.initialize(torch.tensor([-1.0, 0.0, 1.0, 2.0]))  # a grid: the step starts at 1, the offset at -1
    >>> quantizer(torch.tensor([-9.0, 0.25, 0.75, 9.0])).detach()
    tensor([-1.,  0.,  1.,  2.])
    """

    method = "lsqplus"
    operator = lsqplus_quantize
    beta: Tensor

    def __init__(
        self,
        bits: int,
        role: str = "activation",
        *,
        variant: str | None = None,
        shape: tuple[int, ...] = (),
    ) -> None:
        super().__init__(bits, role, variant=variant)
        alike = self.variant == "fms-model-optimizer"
        self.low, self.high = level_range(self.bits, signed=self.role == "weight" or alike)
        self.lowest = -self.low
        self.is_integral = self.role == "weight" and not alike  # else there is an offset
        self.shape = shape = parameter_shape(shape)
        self.step = nn.Parameter(torch.ones(shape))
        if self.is_integral:
            self.register_buffer("beta", torch.zeros(shape))
        else:
            self.beta = nn.Parameter(torch.zeros(shape))

    def set_first_values(self, x: Tensor) -> None:
        """Set step size and offset by the rule of `reference.lsqplus.init`, computed in float64.

        For activations ``paper`` sorts `x` and searches, which takes time in proportion to the sorting: a few tenths
        of a second for a million. Raises ValueError if `x` has no spread or is not finite.
        """
        x, axes = x.double(), other_axes(x, self.step.shape)
        low, high = (x.amin(axes, keepdim=True), x.amax(axes, keepdim=True)) if x.numel() else (x.sum(), x.sum())
        if not bool(((high > low) & (high - low < math.inf)).all()):
            raise checks.refuse("range of the first batch", (low.tolist(), high.tolist()), "finite, with unequal ends")
        if self.is_integral:
            mean, deviation = x.mean(axes, keepdim=True), x.std(axes, keepdim=True)
            whole = 2 ** (self.bits - 1) if self.variant == "paper" else 2**self.bits - 1
            step, beta = torch.maximum((mean - 3 * deviation).abs(), (mean + 3 * deviation).abs()) / whole, None
        else:
            step = (high - low) / (self.low + self.high)
            beta = low + self.low * step
            if self.variant == "paper":
                kept = [axis for axis in range(x.dim()) if axis not in axes]
                rows = x.permute(*kept, *axes).reshape(step.numel(), -1)
                step, beta = torch.stack([_minimize(row, self.high) for row in rows], 1)
        self.step.copy_(step.reshape(self.step.shape))
        if beta is not None:
            self.beta.copy_(beta.reshape(self.beta.shape))

    def arguments(self, x: Tensor) -> tuple[Tensor, Tensor, int, int, float, float, bool]:
        """Return step size and offset, the numbers of levels below and above 0, the gradients' factors, what masks."""
        public = self.variant == "public"
        if self.variant == "fms-model-optimizer":
            return self.step, self.beta, self.low, self.high, 1.0, 1.0, public
        count = max(x.numel(), 1) if public else elements_per_step(x, self.step.numel(), self.role)
        scale = 1 / math.sqrt(count * self.high)
        return self.step, self.beta, self.low, self.high, scale, scale if public else 1.0, public

    def check_parameters(self, x: Tensor) -> None:
        """Raise ValueError unless the step size is positive and the offset finite."""
        check_positive("step", self.step)
        check_finite("beta", self.beta)

    def unit(self, x: Tensor) -> Tensor | float:
        """Weights without an offset are multiples of the step size."""
        return self.step

    def decode(self, codes: Tensor, x: Tensor | None = None) -> Tensor:
        """Values of codes."""
        q = as_float(codes, self.step)
        return (q - self.low) * self.step.detach().to(q.dtype) + self.beta.detach().to(q.dtype)


def _minimize(x: Tensor, n: int) -> Tensor:
    """Return step size and offset for all of `x`, float64, by the search of `reference.lsqplus.minimize`."""
    low, width = x.min(), x.max() - x.min()
    y = ((x - low) / width).sort().values
    count = len(y)
    mean = y.cumsum(0)[-1] / count
    y = y - mean
    sums = torch.cat([y.new_zeros(1), y.cumsum(0)])
    total, variation = sums[-1], (y * y).cumsum(0)[-1]
    level = torch.arange(1, n + 1, dtype=y.dtype, device=y.device)

    def fit(step: Tensor, beta: Tensor) -> tuple[Tensor, ...]:
        below = torch.searchsorted(y, beta[:, None] + (level - 0.5) * step[:, None])
        above = (count - below).to(y.dtype)
        codes, squares = above.sum(1), (above * (2 * level - 1)).sum(1)
        products = (total - sums[below]).cumsum(1)[:, -1]
        spread, shared = squares - codes * codes / count, products - codes * total / count
        fitted = (spread > 0) & (shared > 0)
        slope = torch.where(fitted, shared / spread, step)
        offset = torch.where(fitted, (total - slope * codes) / count, beta)
        error = torch.where(fitted, variation - total * total / count - slope * shared, math.inf)
        return slope, offset, error, codes, spread

    share = torch.arange(ENDS + 1, dtype=y.dtype, device=y.device) / ENDS
    points = torch.cat([share - mean, y[torch.arange(ENDS + 1, device=y.device) * (count - 1) // ENDS]])
    one, other = torch.triu_indices(len(points), len(points), 1, device=y.device)
    start, end = torch.minimum(points[one], points[other]), torch.maximum(points[one], points[other])
    if n == 1:
        size, inner = torch.arange(1, count, dtype=y.dtype, device=y.device), sums[1:-1]
        cut = (inner * inner / size + (total - inner) * (total - inner) / (count - size)).argmax()
        start, end = (inner[cut] / size[cut])[None], ((total - inner[cut]) / (count - size[cut]))[None]
    start, end = torch.cat([-mean[None], start]), torch.cat([1 - mean[None], end])
    step, beta = (end - start) / n, start
    slope, offset, error, codes, spread = fit(step, beta)
    of_range = error[0] + (slope[0] - step[0]).square() * spread[0]
    of_range += count * (offset[0] - beta[0] + (slope[0] - step[0]) * codes[0] / count).square()
    best = error.sort(stable=True).indices[: max(THRESHOLDS // n, 1)]
    step, beta = slope[best], offset[best]
    for _ in range(ITERATIONS):
        slope, offset, error, *_ = fit(step, beta)
        if torch.equal(slope, step) and torch.equal(offset, beta):
            break
        step, beta = slope, offset
    k = error.argmin()
    if not bool(of_range - error[k] > NO_BETTER * variation):
        return torch.stack([width / n, low])
    return torch.stack([slope[k] * width, low + (offset[k] + mean) * width])


QUANTIZER = LSQPlus
