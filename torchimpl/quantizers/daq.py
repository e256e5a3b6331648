"""DAQ as a module, twice: the closed form (the default) and the paper's literal computation.

The closed form is a rounding forward and one factor, a hyperbolic cotangent, backward; `reference.daq.slope` derives
it. The literal form goes through scores, kernel, softmax and temperature and lets autograd do the rest, the temperature
being detached. Both give the same training up to rounding errors; the literal form exists so that this can be tested,
and costs what the paper's computation costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from reference import daq as names
from torchimpl.operators import operator
from torchimpl.quantizers.uniform import (
    UniformQuantizer,
    clip_range,
    clip_range_backward,
    normalize,
    odd_or_whole,
    round_half_down,
    scale_output,
)


def _backward(grad: Tensor, x: Tensor, lower: Tensor, upper: Tensor, n: int, is_weight: bool, gamma: float, c: float):  # type: ignore[no-untyped-def]
    factor = gamma * math.exp(-gamma) / -math.expm1(-2 * gamma)  # gamma / (2 sinh gamma), without overflow

    def slope(normalized: Tensor) -> Tensor:
        above = normalized - torch.floor(normalized)
        t = torch.minimum(above, 1 - above)
        return factor / torch.tanh(0.5 - t + c)

    return clip_range_backward(grad, x, lower, upper, slope, n, is_weight)


def _integers(x: Tensor, lower: Tensor, upper: Tensor, n: int, is_weight: bool, gamma: float, c: float) -> Tensor:
    return odd_or_whole(round_half_down(normalize(x, lower, upper, n)), n, is_weight)


@operator("daq", integers=_integers, backward=_backward)
def daq_closed_form(x: Tensor, lower: Tensor, upper: Tensor, n: int, is_weight: bool, gamma: float, c: float) -> Tensor:
    """Quantize by rounding; the backward pass uses ``gamma/(2 sinh gamma) coth(1/2 - t + c)``."""
    return scale_output(round_half_down(normalize(x, lower, upper, n)), n, is_weight)


def normalize_literally(x: Tensor, lower: Tensor, upper: Tensor, n: int) -> Tensor:
    """Eq. 1 as it stands, differentiated by autograd; NaN keeps its gradient.

    A clip range that is empty, or whose width is not finite, gives NaN.
    """
    lower, upper, width = clip_range(lower, upper, x.dtype)
    clipped = torch.where(x.isnan(), x, torch.clamp(x, lower, upper))  # clamp would give NaN the gradient 0
    return n * (clipped - lower) / width


def assign_literally(x: Tensor, kappa: float, temperature: Callable[[Tensor], Tensor | float]) -> Tensor:
    """Return phi(x; beta) by Eq. 4 to 6 and 8 as they stand, differentiated by autograd.

    Parameters
    ----------
    x : Tensor
        Normalised values.
    kappa : float
        The kernel at the farther level; it is 1 at the nearer.
    temperature : callable
        Gives beta for the scores of both levels, of shape (2, *x.shape). It is not differentiated: beta is a
        hyperparameter in both passes (Section 3.3).
    """
    q_f = torch.floor(x).detach()
    levels = torch.stack([q_f, q_f + 1])
    # |x - q|, with the derivative at x = q taken from the right; torch.abs would have 0 there.
    distance = torch.where(x >= levels, x - levels, levels - x)
    d = torch.exp(-distance)  # Eq. 4
    at_floor = (x - q_f <= 0.5).detach()
    k = torch.where(torch.stack([at_floor, ~at_floor]), 1.0, torch.full_like(levels, kappa))  # in the dtype of x
    s = k * d  # Eq. 8
    m = torch.softmax(temperature(s.detach()) * s, dim=0)  # Eq. 6; softmax subtracts each input's maximum
    return (m * levels).sum(0)  # Eq. 5


def daq_literal(x: Tensor, lower: Tensor, upper: Tensor, n: int, is_weight: bool, gamma: float, kappa: float) -> Tensor:
    """Quantize by Eq. 1, 4 to 8, 10 and 2 as they stand, differentiated by autograd.

    Parameters
    ----------
    x : Tensor
        Full-precision values.
    lower, upper : Tensor
        Clip range.
    n : int
        2^bits - 1.
    is_weight : bool
        Which half of Eq. 2.
    gamma : float
        Eq. 7.
    kappa : float
        The kernel at the farther level; it is 1 at the nearer.
    """
    x = normalize_literally(x, lower, upper, n)
    phi = assign_literally(x, kappa, lambda s: gamma / (s[0] - s[1]).abs())  # Eq. 7
    q_t = torch.floor(x).detach() + 0.5
    lambda_ = 1 / (math.exp(min(gamma, 700.0)) + 1)  # beyond, 0 within double precision
    return scale_output((phi - q_t) / (1 - 2 * lambda_) + q_t, n, is_weight)  # Eq. 10, Eq. 2


class DAQ(UniformQuantizer):
    """Distance-aware quantizer (Kim, Lee, Ham, ICCV 2021).

    Parameters
    ----------
    bits, role, variant
        See `UniformQuantizer`; variants are "paper" and "released", the two formulas of the kernel.
    gamma : float
        Eq. 7; 2 in the paper.
    sigma : float, optional
        Width of the kernel; by default the paper's, 1 for weights and 2 for activations.
    literal : bool
        In training, compute Eq. 4 to 10 through autograd instead of the closed form.

    >>> quantizer = DAQ(bits=2, role="weight")
    >>> quantizer(torch.tensor([-9.0, -1.0, 0.5, 9.0])).detach()
    tensor([-1.0000, -0.3333,  0.3333,  1.0000])
    """

    method = "daq"
    operator = daq_closed_form

    def __init__(
        self,
        bits: int,
        role: str = "activation",
        *,
        variant: str | None = None,
        gamma: float = names.GAMMA,
        sigma: float | None = None,
        literal: bool = False,
    ) -> None:
        super().__init__(bits, role, variant=variant)
        self.gamma = names.check_gamma(gamma)
        self.sigma = names.check_sigma(names.SIGMA[self.role] if sigma is None else sigma)
        self.literal = literal

    def options(self) -> dict[str, Any]:
        """Return gamma and sigma; `literal` computes the same."""
        return {"gamma": self.gamma, "sigma": self.sigma}

    def arguments(self, x: Tensor) -> tuple[Tensor, Tensor, int, bool, float, float]:
        """Return the clip range, 2^bits - 1, which half of Eq. 2, gamma, and c of the closed form."""
        c = 1 / (4 * self.sigma**2) if self.variant == "paper" else 1 / (2 * self.sigma**2)
        return self.lower, self.upper, self.n, self.is_weight, self.gamma, c

    def quantize(self, x: Tensor) -> Tensor:
        """Quantize with the clip range as it stands."""
        if not (self.literal and self.training):
            return super().quantize(x)
        lower, upper, n, is_weight, gamma, c = self.arguments(x)
        return daq_literal(x, lower.to(x.dtype), upper.to(x.dtype), n, is_weight, gamma, math.exp(-2 * c))

    def extra_repr(self) -> str:
        """Show what the quantizer was built with."""
        form = ", literal" if self.literal else ""
        return f"{super().extra_repr()}, gamma={self.gamma:g}, sigma={self.sigma:g}{form}"


QUANTIZER = DAQ
