"""QNet as a module: sigmoids in training, steps in test. Formulas, variants and sources are in `reference.qnet`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from reference import checks
from reference.qnet import CLAMP, LARGEST_TEMPERATURE, ROUNDS, SCHEDULE, TEMPERATURE, TEMPERATURE_RANGE, ZERO
from torchimpl.operators import operator
from torchimpl.quantizers.base import (
    Quantizer,
    as_float,
    as_shown,
    check_finite,
    check_positive,
    positive_or_nan,
    reduce_to,
)


def targets(bits: int, role: str, variant: str) -> list[int]:
    """The integers that are quantized to, the paper's Y, ascending.

    >>> targets(3, "weight", "paper")
    [-4, -2, -1, 0, 1, 2, 4]
    """
    if role == "activation":
        return list(range(2**bits))
    if bits == 1:
        return [-1, 1]
    if bits == 3:
        return [-2, -1, 0, 1, 2] if variant == "paper_pm2" else [-4, -2, -1, 0, 1, 2, 4]
    top = 2 ** (bits - 1) - 1
    return list(range(-top, top + 1))


def _sigmoids(
    u: Tensor, biases: Tensor, temperature: Tensor, steps: list[float], limit: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """The sigmoids at the scaled input u, times the heights of the steps, and their derivatives for T u."""
    t = temperature.to(u.dtype)
    for s, b in zip(steps, biases.to(u.dtype).unbind(), strict=True):
        z = torch.clamp(t * (u - b), -limit, limit)
        up = torch.sigmoid(z)
        yield s * up, s * (up * torch.sigmoid(-z))


def _scaled(x: Tensor, beta: Tensor, biases: Tensor) -> Tensor:
    """The input that is compared with the biases; NaN where one of these is not finite."""
    return x * torch.where(biases.to(x.dtype).isfinite().all(), positive_or_nan(beta, x.dtype), torch.nan)


def _backward(  # type: ignore[no-untyped-def]
    grad: Tensor,
    x: Tensor,
    alpha: Tensor,
    beta: Tensor,
    biases: Tensor,
    temperature: Tensor,
    steps: list[float],
    lowest: float,
    limit: float,
    slope_at_one: bool,
    soft: bool,
):
    u, t = _scaled(x, beta, biases), temperature.to(x.dtype)
    by_y = grad * positive_or_nan(alpha, x.dtype)
    y, slope, by_bias = torch.full_like(u, lowest), torch.zeros_like(u), []
    for up, own in _sigmoids(u, biases, temperature, steps, limit):
        y = y + up
        if not slope_at_one:
            slope = slope + own
            by_bias.append(-(by_y * (t * own)).sum())
    if slope_at_one:
        for _, own in _sigmoids(u, biases, torch.ones_like(temperature), steps, limit):
            slope = slope + own
            by_bias.append(-(by_y * (t * own)).sum())
    by_u = by_y * (t * slope)
    by_beta = by_u * torch.where(x.isinf(), 0.0, x)
    by_x = reduce_to(by_u * positive_or_nan(beta, x.dtype), x)
    return by_x, reduce_to(grad * y, alpha), reduce_to(by_beta, beta), torch.stack(by_bias).to(biases.dtype)


def _integers(
    x: Tensor,
    alpha: Tensor,
    beta: Tensor,
    biases: Tensor,
    temperature: Tensor,
    steps: list[float],
    lowest: float,
    limit: float,
    slope_at_one: bool,
    soft: bool,
) -> Tensor:
    u = _scaled(x, beta, biases)
    y = torch.full_like(u, lowest)
    for s, b in zip(steps, biases.to(x.dtype).unbind(), strict=True):
        y = y + s * (u > b)
    return torch.where(u.isnan(), u, y)


@operator("qnet", integers=_integers, backward=_backward, gradients=4, tables=True)
def qnet_quantize(
    x: Tensor,
    alpha: Tensor,
    beta: Tensor,
    biases: Tensor,
    temperature: Tensor,
    steps: list[float],
    lowest: float,
    limit: float,
    slope_at_one: bool,
    soft: bool,
) -> Tensor:
    """Quantize to alpha times a sum of steps at the `biases`, from `lowest` on: sigmoids (`soft`), or hard ones.

    The gradients for x, alpha, beta and the biases are those of the sigmoids; with `slope_at_one`, all but alpha get T
    times the derivative at T = 1. The sigmoids' arguments are clamped to +-`limit`, their derivatives being those
    there.
    """
    if soft:
        u = _scaled(x, beta, biases)
        y = torch.full_like(u, lowest)
        for up, _ in _sigmoids(u, biases, temperature, steps, limit):
            y = y + up
    else:
        y = _integers(x, alpha, beta, biases, temperature, steps, lowest, limit, slope_at_one, soft)
    return y * positive_or_nan(alpha, x.dtype)


class QNet(Quantizer):
    """Quantization Networks (Yang et al., CVPR 2019): values are alpha times the integers of a set.

    Parameters
    ----------
    bits, role, variant
        See `Quantizer`; 1 to 5 bits for weights, 1 to 8 for activations after a ReLU. Variants are "paper",
        "paper_pm2" and "released" (see `reference.qnet`).
    temperature : float
        T; `set_temperature` and `set_progress` raise it in training.

    Attributes
    ----------
    alpha, beta : Parameter, of shape ()
        Scales of the output and of the input.
    biases : Parameter, of shape (n,)
        Where the steps are, in units of beta x, in any order: the i-th smallest is that of the i-th step. In "released"
        a buffer, which the first data set.
    temperature : Tensor, of shape ()
        Saved, too.

    >>> quantizer = QNet(1, "weight")
    >>> x = torch.tensor([-4.0, 0.0, 0.8])
    >>> quantizer(x).detach()  # alpha starts at 4 max|x| / 5
    tensor([-3.1877,  0.0000,  1.7747])
    >>> quantizer.eval()(x).detach()
    tensor([-3.2000, -3.2000,  3.2000])
    """

    method = "qnet"
    operator = qnet_quantize
    biases: Tensor
    temperature: Tensor

    def __init__(
        self,
        bits: int,
        role: str = "activation",
        *,
        variant: str | None = None,
        temperature: float = TEMPERATURE,
    ) -> None:
        super().__init__(bits, role, variant=variant)
        self.targets = targets(self.bits, self.role, self.variant)
        self.steps = [float(b - a) for a, b in itertools.pairwise(self.targets)]
        even = min(self.steps) == max(self.steps)
        self.lowest, self.stride = self.targets[0], int(self.steps[0]) if even else 1
        self.table = () if even else tuple(self.targets)
        self.alpha = nn.Parameter(torch.tensor(1.0))
        self.beta = nn.Parameter(torch.tensor(1.0))
        biases = torch.zeros(len(self.steps))
        if self.variant == "released":
            self.register_buffer("biases", biases)
        else:
            self.biases = nn.Parameter(biases)
        self.register_buffer("temperature", torch.tensor(0.0))
        self.set_temperature(temperature)

    def set_temperature(self, temperature: float) -> None:
        """Set the temperature; raises ValueError unless it is from 0.1 to 1e6."""
        self.temperature.fill_(checks.check_scalar("temperature", temperature, *TEMPERATURE_RANGE))

    def set_progress(self, progress: float, *, start: float = SCHEDULE[0], end: float = SCHEDULE[1]) -> None:
        """Set the temperature for a share of training, 0 to 1: linearly from `start` to `end`.

        Raises
        ------
        ValueError
            If `progress` is not from 0 to 1, or an end is out of range.
        """
        share = checks.check_scalar("progress", progress, 0, 1)
        ends = {"start": start, "end": end}
        start, end = (checks.check_scalar(name, value, *TEMPERATURE_RANGE) for name, value in ends.items())
        self.set_temperature(start + (end - start) * share)

    def set_first_values(self, x: Tensor) -> None:
        """Set beta to 5p/(4q), alpha to its reciprocal, and the biases.

        Raises
        ------
        ValueError
            If the largest magnitude q is not positive and finite.
        """
        data = x.double().flatten()
        q = float(data.abs().max()) if data.numel() else 0.0
        if not 0 < q < math.inf:
            raise checks.refuse("largest magnitude of the first batch", q, "positive and finite")
        beta = 5 * max(self.targets) / (4 * q)
        self.alpha.fill_(1 / beta)
        self.beta.fill_(beta)
        self.biases.copy_(self._first_biases(data * beta))

    def _first_biases(self, scaled: Tensor) -> Tensor:
        if self.role == "weight" and self.bits == 1:
            return torch.zeros(1)
        x = torch.sort(scaled).values
        centers = kmeans(x, torch.tensor(self.targets, dtype=x.dtype, device=x.device))
        found = (centers[:-1] + centers[1:]) / 2
        if self.variant == "released":
            ends = torch.searchsorted(x, found, right=True)
            filled = torch.diff(ends, prepend=ends.new_zeros(1), append=ends.new_tensor([len(x)])) > 0
            halfway = (x[(ends - 1).clamp(min=0)] + x[ends.clamp(max=len(x) - 1)]) / 2
            return torch.where(filled[:-1] & filled[1:], halfway, found)
        if self.role == "weight":
            middle = len(found) // 2
            below = [found[: middle - 1].clamp(max=-ZERO), found.new_tensor([-ZERO, ZERO])]
            return torch.cat([*below, found[middle + 1 :].clamp(min=ZERO)])
        return found

    def arguments(self, x: Tensor) -> tuple[Any, ...]:
        """Return what `qnet_quantize` takes after x; the biases from left to right, as the steps are."""
        released = self.variant == "released"
        as_released = released and self.role == "weight"
        temperature = self.temperature.clamp(max=LARGEST_TEMPERATURE) if as_released else self.temperature
        limit = CLAMP if released else math.inf
        numbers = (self.steps, float(self.lowest), limit, as_released, self.training)
        return self.alpha, self.beta, self.biases.sort(stable=True).values, temperature, *numbers

    def check_parameters(self, x: Tensor) -> None:
        """Raise ValueError unless alpha and beta are positive and the biases finite."""
        check_positive("alpha", self.alpha)
        check_positive("beta", self.beta)
        check_finite("biases", self.biases)

    def unit(self, x: Tensor) -> Tensor | float:
        """Values are alpha times integers."""
        return self.alpha

    def decode(self, codes: Tensor, x: Tensor | None = None) -> Tensor:
        """Values of codes. Raises ValueError if the integers are not evenly spaced, and there is no such code."""
        q = as_float(codes, self.alpha)
        alpha = self.alpha.detach().to(q.dtype)
        if not self.table:
            return (self.lowest + self.stride * q) * alpha
        if not bool(torch.isin(q, torch.arange(len(self.table), dtype=q.dtype, device=q.device)).all()):
            raise checks.refuse("codes", q.tolist(), f"whole numbers from 0 to {len(self.table) - 1}")
        return torch.tensor(self.table, dtype=q.dtype, device=q.device)[q.long()] * alpha

    def extra_repr(self) -> str:
        """Show what the quantizer was built with."""
        return f"{super().extra_repr()}, temperature={as_shown(self.temperature)}"


def kmeans(x: Tensor, centers: Tensor) -> Tensor:
    """Centres of Lloyd's iteration over sorted numbers, from `centers` on; one to which none go stays where it is.

    >>> kmeans(torch.tensor([0.0, 1.0, 5.0, 6.0]), torch.tensor([0.0, 4.0]))
    tensor([0.5000, 5.5000])
    """
    total = torch.cat([x.new_zeros(1), x.cumsum(0)])
    before = None
    for _ in range(ROUNDS):
        ends = torch.searchsorted(x, (centers[:-1] + centers[1:]) / 2, right=True)
        if before is not None and torch.equal(ends, before):
            break
        first, last = torch.cat([ends.new_zeros(1), ends]), torch.cat([ends, ends.new_tensor([len(x)])])
        count = last - first
        centers = torch.where(count > 0, (total[last] - total[first]) / count.clamp(min=1), centers)
        before = ends
    return centers


QUANTIZER = QNet
