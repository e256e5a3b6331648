"""RQ as a module: relaxed samples in training, rounding in test. Formulas and their sources are in `reference.rq`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from reference import checks
from reference.rq import FAR, FIRST_SIGMA, REACH, STEEPEST, TEMPERATURE, TEMPERATURE_RANGE
from torchimpl.operators import operator
from torchimpl.quantizers.base import (
    Quantizer,
    as_float,
    check_finite,
    check_positive,
    finite_or_nan,
    is_noiseless,
    keep_nan,
    positive_or_nan,
    reduce_to,
    wide,
)

TEST, RELAXED, SAMPLED = range(3)  # what the forward pass does


def _units(x: Tensor, alpha: Tensor, beta: Tensor, sigma: Tensor, low: int, high: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return x in levels, no farther from the grid than probabilities change; tau = alpha/sigma; the grid's integers.

    NaN where a parameter is out of range.
    """
    a = positive_or_nan(alpha, x.dtype)
    tau = a / positive_or_nan(torch.maximum(sigma.to(x.dtype), a / STEEPEST), x.dtype)
    beyond = 1 + FAR / tau
    v = torch.minimum(torch.maximum((x - finite_or_nan(beta, x.dtype)) / a, low - beyond), high + beyond)
    k = torch.arange(low, high + 1, dtype=x.dtype, device=x.device)
    return v, tau, k.reshape(-1, *[1] * v.dim())


def _shares(v: Tensor, tau: Tensor, k: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """The z of Eq. 5, along a first axis; noise without elements is none."""
    logits = -_softplus((v - k - 0.5) * tau) - _softplus((k - v - 0.5) * tau)
    if noise.numel():
        logits = logits + noise.to(v.dtype)
    return torch.softmax(logits / temperature, 0)


def _softplus(z: Tensor) -> Tensor:
    """``log(1 + e^z)`` to the last digits: torch's own is either infinite for z above 88 or rough in float64."""
    return z.clamp(min=0) + torch.log1p(torch.exp(-z.abs()))


def _backward(  # type: ignore[no-untyped-def]
    grad: Tensor,
    x: Tensor,
    alpha: Tensor,
    beta: Tensor,
    sigma: Tensor,
    noise: Tensor,
    low: int,
    high: int,
    temperature: float,
    mode: int,
):
    v, tau, k = _units(x, alpha, beta, sigma, low, high)
    z = _shares(v, tau, k, noise, temperature)
    y = (z * k).sum(0)
    below, above = k - v - 0.5, k - v + 0.5
    left, right = torch.sigmoid(below * tau), torch.sigmoid(-above * tau)
    by_logit = z * (k - y) / temperature
    by_v = (by_logit * (left - right)).sum(0) * tau
    by_tau = (by_logit * (above * right - below * left)).sum(0) * tau
    return (
        reduce_to(keep_nan(x, grad * by_v), x),
        reduce_to(grad * (y - by_v * v + by_tau), alpha),
        reduce_to(grad * (1 - by_v), beta),
        reduce_to(-grad * by_tau * tau, sigma),
    )


def _integers(
    x: Tensor,
    alpha: Tensor,
    beta: Tensor,
    sigma: Tensor,
    noise: Tensor,
    low: int,
    high: int,
    temperature: float,
    mode: int,
) -> Tensor:
    v = torch.clamp((x - finite_or_nan(beta, x.dtype)) / positive_or_nan(alpha, x.dtype), low, high)
    floor = torch.floor(v)
    return torch.where(v.isnan(), v, floor + (v - floor >= 0.5))


@operator("rq", integers=_integers, backward=_backward, gradients=4)
def rq_quantize(
    x: Tensor,
    alpha: Tensor,
    beta: Tensor,
    sigma: Tensor,
    noise: Tensor,
    low: int,
    high: int,
    temperature: float,
    mode: int,
) -> Tensor:
    """Quantize to ``alpha k + beta``, k from `low` to `high`: the nearest (0), relaxed (1), or sampled (2).

    `noise` has a number for each k along its first axis, or no elements. The gradients, for x, alpha, beta and sigma,
    are those of the relaxed sample in every mode.
    """
    if mode == TEST:
        y = _integers(x, alpha, beta, sigma, noise, low, high, temperature, mode)
    else:
        v, tau, k = _units(x, alpha, beta, sigma, low, high)
        z = _shares(v, tau, k, noise, temperature)
        y = (z * k).sum(0) if mode == RELAXED else torch.where(v.isnan(), v, z.argmax(0).to(v.dtype) + low)
    return keep_nan(x, y * positive_or_nan(alpha, x.dtype) + finite_or_nan(beta, x.dtype))


class RQ(Quantizer):
    """Relaxed quantization (Louizos et al., ICLR 2019): a grid, and noise of the input that decides on its points.

    In training mode every forward pass draws 2^bits numbers for each element from torch's generator, and keeps them for
    the backward pass. Test mode rounds.

    Parameters
    ----------
    bits, role, variant
        See `Quantizer`; 2 to 8 bits for signed data. Variants are "paper" and "straight_through" (see `reference.rq`).
    temperature : float
        lambda, of the relaxation, 0.01 to 100.

    Attributes
    ----------
    alpha, sigma : Parameter, of shape ()
        Distance of the grid points, and scale of the noise.
    beta : Parameter, of shape ()
        Offset of the grid; for weights and after a ReLU a buffer, 0.

    >>> quantizer = RQ(2, "weight").eval()
    >>> quantizer.initialize(torch.tensor([0.0, 1.0, 2.0]))
    >>> quantizer(torch.tensor([-9.0, -0.75, 0.7, 0.8])).detach()  # alpha starts at 3/2 of the deviation
    tensor([-3.0000,  0.0000,  0.0000,  1.5000])
    """

    method = "rq"
    operator = rq_quantize
    beta: Tensor

    def __init__(
        self, bits: int, role: str = "activation", *, variant: str | None = None, temperature: float = TEMPERATURE
    ) -> None:
        super().__init__(bits, role, variant=variant)
        self.temperature = checks.check_scalar("temperature", temperature, *TEMPERATURE_RANGE)
        self.lowest = 0 if self.role == "activation" else -(2 ** (self.bits - 1))
        self.highest = self.lowest + 2**self.bits - 1
        self.alpha = nn.Parameter(torch.tensor(1.0))
        self.sigma = nn.Parameter(torch.tensor(FIRST_SIGMA))
        if self.role == "signed_activation":
            self.beta = nn.Parameter(torch.tensor(0.0))
        else:
            self.register_buffer("beta", torch.tensor(0.0))
        self.is_integral = self.role != "signed_activation"

    def set_first_values(self, x: Tensor) -> None:
        """Set alpha so that the farther end of the grid is at 3 standard deviations, sigma to a third of it, beta to 0.

        Raises
        ------
        ValueError
            If `x` has no spread.
        """
        equal = x.numel() < 2 or bool(x.min() == x.max())  # whose mean may be rounded
        deviation = 0.0 if equal else float(x.std())  # NaN where a value is, or infinite
        if not 0 < deviation < math.inf:
            raise checks.refuse("standard deviation of the first batch", deviation, "positive and finite")
        alpha = REACH * deviation / max(-self.lowest, self.highest)
        self.alpha.fill_(alpha)
        self.sigma.fill_(alpha * FIRST_SIGMA)
        self.beta.zero_()

    def draw(self, x: Tensor) -> Tensor:
        """Draw the noise of Eq. 5, of a Gumbel distribution: for each grid point and element, in float32 at least."""
        if is_noiseless():
            return x.new_empty(0, dtype=wide(x))
        exponential = torch.empty(2**self.bits, *x.shape, dtype=wide(x), device=x.device).exponential_()
        return -exponential.clamp(min=torch.finfo(exponential.dtype).tiny).log()

    def arguments(self, x: Tensor) -> tuple[Any, ...]:
        """Return what `rq_quantize` takes after x; in training mode with noise that is drawn now."""
        mode = (SAMPLED if self.variant == "straight_through" else RELAXED) if self.training else TEST
        noise = self.draw(x) if self.training else x.new_empty(0)
        return self.alpha, self.beta, self.sigma, noise, self.lowest, self.highest, self.temperature, mode

    def check_parameters(self, x: Tensor) -> None:
        """Raise ValueError unless alpha is positive, and beta is finite."""
        check_positive("alpha", self.alpha)
        check_finite("beta", self.beta)

    def unit(self, x: Tensor) -> Tensor | float:
        """Values are multiples of alpha."""
        return self.alpha

    def decode(self, codes: Tensor, x: Tensor | None = None) -> Tensor:
        """Values of codes: grid points."""
        q = as_float(codes, self.alpha)
        return (q + self.lowest) * self.alpha.detach().to(q.dtype) + self.beta.detach().to(q.dtype)

    def options(self) -> dict[str, Any]:
        """Return the temperature."""
        return {"temperature": self.temperature}

    def extra_repr(self) -> str:
        """Show what the quantizer was built with."""
        return f"{super().extra_repr()}, temperature={self.temperature:g}"


QUANTIZER = RQ
