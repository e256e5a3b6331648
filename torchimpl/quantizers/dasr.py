"""DASR as a module: the soft assignment at a given temperature, in the variants of Tables 6 and 7.

What they are is said in `reference.dasr`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from reference import checks, daq
from reference import dasr as names
from torchimpl.operators import operator
from torchimpl.quantizers.base import as_shown
from torchimpl.quantizers.daq import assign_literally, normalize_literally
from torchimpl.quantizers.uniform import (
    UniformQuantizer,
    clip_range_backward,
    normalize,
    odd_or_whole,
    round_half_down,
    scale_output,
)


def assign(x: Tensor, beta: Tensor, kappa: float, gamma: float) -> tuple[Tensor, Tensor]:
    """The soft assignment phi(x; beta) of normalised inputs and its derivative; with a gamma above 0, at beta*(x).

    The two probabilities are a logistic of the scores' difference, and the smaller is never subtracted from 1.
    """
    q_f = torch.floor(x)
    above = x - q_f
    at_floor = above <= 0.5
    d_f, d_c = torch.exp(-above), torch.exp(above - 1)
    s_f, s_c = torch.where(at_floor, d_f, kappa * d_f), torch.where(at_floor, kappa * d_c, d_c)
    difference = s_c - s_f
    beta = gamma / difference.abs() if gamma else beta.to(x.dtype)
    m_c, m_f = torch.sigmoid(beta * difference), torch.sigmoid(-beta * difference)
    return m_f * q_f + m_c * (q_f + 1), beta * m_f * m_c * (s_f + s_c)


def _backward(  # type: ignore[no-untyped-def]
    grad: Tensor,
    x: Tensor,
    lower: Tensor,
    upper: Tensor,
    beta: Tensor,
    n: int,
    is_weight: bool,
    kappa: float,
    gamma: float,
    soft: bool,
):
    def slope(normalized: Tensor) -> Tensor:
        return assign(normalized, beta, kappa, gamma)[1]

    return clip_range_backward(grad, x, lower, upper, slope, n, is_weight)


def _integers(
    x: Tensor,
    lower: Tensor,
    upper: Tensor,
    beta: Tensor,
    n: int,
    is_weight: bool,
    kappa: float,
    gamma: float,
    soft: bool,
) -> Tensor:
    return odd_or_whole(round_half_down(normalize(x, lower, upper, n)), n, is_weight)


@operator("dasr", integers=_integers, backward=_backward, gradients=3)
def dasr_quantize(
    x: Tensor,
    lower: Tensor,
    upper: Tensor,
    beta: Tensor,
    n: int,
    is_weight: bool,
    kappa: float,
    gamma: float,
    soft: bool,
) -> Tensor:
    """Quantize to phi (`soft`) or by rounding; the backward pass has phi', at `beta` or (gamma > 0) at beta*."""
    normalized = normalize(x, lower, upper, n)
    q = assign(normalized, beta, kappa, gamma)[0] if soft else round_half_down(normalized)
    return scale_output(q, n, is_weight)


class DASR(UniformQuantizer):
    """Distance-aware soft rounding (DAQ's Section 3.2) at a given temperature.

    Parameters
    ----------
    bits, role
        See `UniformQuantizer`.
    variant : {"kernel", "soft_argmax", "combined_ste", "combined_ste_adaptive"}
        See `reference.dasr`. The first two give values between the levels in training.
    beta : float
        Temperature; `set_beta` changes it in training.
    gamma, sigma : float
        As for DAQ.
    kernel : {"paper", "released"}
        Formula of the kernel.
    annealed : bool
        Whether `set_progress` raises the temperature in training, as in Table 7's "annealed".
    literal : bool
        In training, compute scores, softmax and expectation through autograd, as DAQ's option of this name does.

    >>> quantizer = DASR(bits=1, role="weight", beta=4.0)
    >>> quantizer(torch.tensor([-3.0, 3.0])).detach()
    tensor([-0.9144,  1.0856])
    >>> quantizer.eval()(torch.tensor([-3.0, 3.0])).detach()
    tensor([-1.,  1.])
    """

    method = "dasr"
    operator = dasr_quantize
    beta: Tensor

    def __init__(
        self,
        bits: int,
        role: str = "activation",
        *,
        variant: str | None = None,
        beta: float = names.BETA,
        gamma: float = daq.GAMMA,
        sigma: float | None = None,
        kernel: str = "paper",
        annealed: bool = False,
        literal: bool = False,
    ) -> None:
        super().__init__(bits, role, variant=variant)
        self.gamma = daq.check_gamma(gamma)
        self.sigma = daq.check_sigma(daq.SIGMA[self.role] if sigma is None else sigma)
        self.kernel = daq.check_variant(kernel)
        self.annealed = annealed
        self.literal = literal
        self.register_buffer("beta", torch.tensor(0.0))
        self.set_beta(beta)

    def options(self) -> dict[str, Any]:
        """Return gamma, sigma and the kernel; beta is in the state, and `literal` computes the same."""
        return {"gamma": self.gamma, "sigma": self.sigma, "kernel": self.kernel, "annealed": self.annealed}

    def set_beta(self, beta: float) -> None:
        """Set the temperature; raises ValueError unless it is from 0 to 1e8."""
        self.beta.fill_(checks.check_scalar("beta", beta, *daq.BETA_RANGE))

    def set_progress(self, progress: float) -> None:
        """If built with `annealed`, set the temperature for a share of training: from 2 to 48, linearly.

        Raises
        ------
        ValueError
            If `progress` is not from 0 to 1.
        """
        super().set_progress(progress)
        if self.annealed:
            start, end = names.ANNEALED
            self.set_beta(start + (end - start) * progress)

    def arguments(self, x: Tensor) -> tuple[Any, ...]:
        """Return clip range, temperature, 2^bits - 1, which half of Eq. 2, kappa, gamma (0: unused), whether soft."""
        exponent = 0.0 if self.variant == "soft_argmax" else 1 / self.sigma**2 * (0.5 if self.kernel == "paper" else 1)
        gamma = self.gamma if self.variant == "combined_ste_adaptive" else 0.0
        soft = self.training and self.variant in names.SOFT
        return self.lower, self.upper, self.beta, self.n, self.is_weight, math.exp(-exponent), gamma, soft

    def quantize(self, x: Tensor) -> Tensor:
        """Quantize with clip range and temperature as they stand."""
        if not (self.literal and self.training):
            return super().quantize(x)
        lower, upper, beta, n, is_weight, kappa, gamma, soft = self.arguments(x)
        x = normalize_literally(x, lower, upper, n)
        phi = assign_literally(x, kappa, lambda s: gamma / (s[0] - s[1]).abs() if gamma else beta.to(x.dtype))
        q = phi if soft else phi + (round_half_down(x) - phi).detach()
        return scale_output(q, n, is_weight)

    def extra_repr(self) -> str:
        """Show what the quantizer was built with."""
        annealed = ", annealed" if self.annealed else ""
        return f"{super().extra_repr()}, beta={as_shown(self.beta)}, sigma={self.sigma:g}{annealed}"


QUANTIZER = DASR
