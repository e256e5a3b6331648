"""DASR as a module: the soft assignment at a given temperature, in the variants of Tables 6 and 7.

What they are is said in `reference.dasr`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reference import daq, grid
from reference import dasr as names
from torchimpl.kernels import ROW, Fused, Kernel
from torchimpl.operators import operator
from torchimpl.quantizers.uniform import (
    UniformQuantizer,
    backward_numbers,
    clip_range_backward,
    clip_range_gradients,
    forward_numbers,
    normalize,
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


# exp(-a) for 0 <= a <= 1: the minimax polynomial of degree 7, with a relative error of 7.6e-10. For the two
# probabilities, whose exponents go further, exp(-w) is exp(-w/32) squared five times, w being cut at 32 (1e-14).
EXP = (
    0.999999999248,
    -0.999999913335,
    0.499998313622,
    -0.16665389665,
    0.0416183101054,
    -0.00823199812964,
    0.00126813634046,
    -0.000119510306836,
)


def _forward_loop(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    x, out, soft, low, high, width, n, factor, offset, reciprocal_high, reciprocal_low, kappa, gamma, beta,
    e0, e1, e2, e3, e4, e5, e6, e7,
):  # fmt: skip
    half, one, zero, part = np.float32(0.5), np.float32(1), np.float32(0), np.float32(1 / 32)
    for i in range(x.size):
        v = x[i]
        clipped = low if v < low else (high if v > high else v)
        normalized = (clipped - low) / width * n
        q = np.floor(normalized)
        a = normalized - q
        if soft:
            b = one - a
            d_f = e0 + a * (e1 + a * (e2 + a * (e3 + a * (e4 + a * (e5 + a * (e6 + a * e7))))))
            d_c = e0 + b * (e1 + b * (e2 + b * (e3 + b * (e4 + b * (e5 + b * (e6 + b * e7))))))
            d_f = d_f if a <= half else kappa * d_f
            d_c = kappa * d_c if a <= half else d_c
            w = abs(d_c - d_f) * beta * part
            w = one if w > one else w
            e = e0 + w * (e1 + w * (e2 + w * (e3 + w * (e4 + w * (e5 + w * (e6 + w * e7))))))
            e = e * e
            e = e * e
            e = e * e
            e = e * e
            e = e * e
            q = q + (one if d_c > d_f else e) / (one + e)
        else:
            q = q + (one if a > half else zero)
        q = factor * q - offset
        out[i] = q * reciprocal_high + q * reciprocal_low


def _backward_loop(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    grad, x, grad_x, sums, low, high, inverse, n, scale, kappa, gamma, beta,
    e0, e1, e2, e3, e4, e5, e6, e7,
):  # fmt: skip
    half, one, zero, part = np.float32(0.5), np.float32(1), np.float32(0), np.float32(1 / 32)
    for row in range(len(sums)):
        total = weighted = zero
        for j in range(min(ROW, x.size - row * ROW)):
            i = np.uint64(row * ROW + j)
            v = x[i]
            clipped = low if v < low else (high if v > high else v)
            p = (clipped - low) * inverse
            a = p * n - np.floor(p * n)
            b = one - a
            d_f = e0 + a * (e1 + a * (e2 + a * (e3 + a * (e4 + a * (e5 + a * (e6 + a * e7))))))
            d_c = e0 + b * (e1 + b * (e2 + b * (e3 + b * (e4 + b * (e5 + b * (e6 + b * e7))))))
            d_f = d_f if a <= half else kappa * d_f
            d_c = kappa * d_c if a <= half else d_c
            difference = abs(d_c - d_f)
            temperature = gamma / difference if gamma > zero else beta
            w = difference * temperature * part
            w = one if w > one else w
            e = e0 + w * (e1 + w * (e2 + w * (e3 + w * (e4 + w * (e5 + w * (e6 + w * e7))))))
            e = e * e
            e = e * e
            e = e * e
            e = e * e
            e = e * e
            slope = temperature * (e / ((one + e) * (one + e))) * (d_f + d_c)
            g = grad[i] * (scale * slope)
            g = zero if (v < low) | (v > high) else g
            grad_x[i] = g
            total += g
            weighted += p * g
        sums[row, 0] = total
        sums[row, 1] = weighted


def _numbers(
    lower: float, upper: float, beta: float, n: int, is_weight: bool, kappa: float, gamma: float, soft: bool
) -> tuple[Any, ...]:
    uniform = forward_numbers(lower, upper, n, is_weight)[:-2]
    return soft, *uniform, *map(np.float32, (kappa, gamma, beta, *EXP))


def _backward_numbers(
    lower: float, upper: float, beta: float, n: int, is_weight: bool, kappa: float, gamma: float, soft: bool
) -> tuple[np.float32, ...]:
    uniform = backward_numbers(lower, upper, n, is_weight)
    return *uniform, *map(np.float32, (kappa, gamma, beta, *EXP))


FUSED = Fused(
    forward=Kernel(_forward_loop, exact=True),
    backward=Kernel(_backward_loop, exact=False),
    numbers=_numbers,
    backward_numbers=_backward_numbers,
    sums=2,
    gradients=clip_range_gradients,
)


@operator("dasr", _backward, FUSED, gradients=3)
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
        bits: int | None,
        role: str = "activation",
        *,
        variant: str | None = None,
        beta: float = names.BETA,
        gamma: float = daq.GAMMA,
        sigma: float | None = None,
        kernel: str = "paper",
        annealed: bool = False,
    ) -> None:
        super().__init__(bits, role, variant=variant)
        self.gamma = daq.check_gamma(gamma)
        self.sigma = daq.check_sigma(daq.SIGMA[self.role] if sigma is None else sigma)
        self.kernel = daq.check_variant(kernel)
        self.annealed = annealed
        self.register_buffer("beta", torch.tensor(0.0))
        self.set_beta(beta)

    def set_beta(self, beta: float) -> None:
        """Set the temperature; raises ValueError unless it is from 0 to 1e8."""
        self.beta.fill_(grid.check_scalar("beta", beta, *daq.BETA_RANGE))

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

    def arguments(self) -> tuple[Any, ...]:
        """Return the temperature, 2^bits - 1, which half of Eq. 2, kappa, gamma (0: unused), and whether to be soft."""
        exponent = 0.0 if self.variant == "soft_argmax" else 1 / self.sigma**2 * (0.5 if self.kernel == "paper" else 1)
        gamma = self.gamma if self.variant == "combined_ste_adaptive" else 0.0
        soft = self.training and self.variant in names.SOFT
        return self.beta, self.levels - 1, self.role == "weight", math.exp(-exponent), gamma, soft

    def extra_repr(self) -> str:
        """Show what the quantizer was built with."""
        annealed = ", annealed" if self.annealed else ""
        return f"{super().extra_repr()}, beta={float(self.beta):g}, sigma={self.sigma:g}{annealed}"


QUANTIZER = DASR
