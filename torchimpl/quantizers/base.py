"""What the quantizers on the uniform grid share: clip range, first-batch initialisation, codes, the grid's arithmetic.

The order of the arithmetic is the reference's (`reference.grid`), so that float32 and float64 results have the same
bits; no code is shared with it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from reference import grid, registry


class Quantizer(nn.Module):
    """A quantizer with a learned clip range.

    Parameters
    ----------
    bits : int or None
        1 to 8; None passes values through.
    role : {"weight", "activation", "signed_activation"}
        Weights are scaled to [-1, 1] and start with the clip range [-3, 3]; activations are scaled to [0, 1] and take
        their clip range from the first batch seen in training mode. Plain "activation" follows a ReLU: its lower end
        stays 0 and is not learned.
    variant : str, optional
        Where paper and released code differ; by default the method's first.

    Attributes
    ----------
    lower, upper : Parameter (or buffer, where it is not learned), of shape ()
        The clip range l, u of Eq. 1. If training drives it empty, the output is NaN rather than silently constant.
    initialized : Tensor of bool, of shape ()

    Raises
    ------
    ValueError
        If a parameter is refused.
    """

    method: str
    lower: Tensor
    upper: Tensor
    initialized: Tensor

    def __init__(self, bits: int | None, role: str = "activation", *, variant: str | None = None) -> None:
        super().__init__()
        known = registry.methods()[self.method]
        self.bits = grid.check_bits(bits)
        self.role = grid.check_role(role)
        self.variant = known.variants[0] if variant is None else variant
        if self.variant not in known.variants:
            raise grid.refuse("variant", variant, "one of " + ", ".join(known.variants))
        self.levels = 2 ** (self.bits or 0)
        lower = torch.tensor(0.0 if role == "activation" else -3.0)
        if role == "activation":
            self.register_buffer("lower", lower)
        else:
            self.lower = nn.Parameter(lower)
        self.upper = nn.Parameter(torch.tensor(3.0))
        self.register_buffer("initialized", torch.tensor(False))
        self._ready = False  # mirrors `initialized`, so that forward reads no tensor
        self.mark_initialized(self.bits is None or self.ready_at_once())

    def ready_at_once(self) -> bool:
        """Whether the initial clip range needs no data."""
        return self.role == "weight"

    def mark_initialized(self, ready: bool = True) -> None:
        """Say whether the parameters are set; the first batch in training sets them if not."""
        self._ready = ready
        self.initialized.fill_(ready)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set the clip range from a first batch: 3 standard deviations (DAQ, Section 4.1).

        Raises
        ------
        ValueError
            If `x` has no spread.
        """
        spread = x.numel() > 1 and bool(x.min() < x.max())  # equal values can have a rounded mean
        deviation = float(x.std()) if spread else 0.0
        if not 0 < deviation < float("inf"):
            raise grid.refuse("standard deviation of the first batch", deviation, "positive and finite")
        self.upper.fill_(3 * deviation)
        if self.role == "signed_activation":
            self.lower.fill_(-3 * deviation)
        self.mark_initialized()

    def forward(self, x: Tensor) -> Tensor:
        """Quantize `x`; shape, dtype and device are kept.

        Raises
        ------
        RuntimeError
            If the clip range was never set: in test mode, or while being compiled.
        """
        if self.bits is None:
            return x
        if not self._ready:
            if torch.compiler.is_compiling() or not self.training:
                raise RuntimeError(
                    f"{type(self).__name__} has no clip range yet: run one batch in training mode (before compiling), "
                    "call initialize(x), or load a state_dict"
                )
            self.initialize(x.detach())
        return self.quantize(x)

    def quantize(self, x: Tensor) -> Tensor:
        """Quantize with the clip range as it stands."""
        raise NotImplementedError

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """Integer codes 0 ... 2^bits - 1, int64.

        Raises
        ------
        ValueError
            If `x` holds NaN, bits is None or the clip range is empty.
        """
        if self.bits is None:
            raise grid.refuse("bits", None, "a whole number from 1 to 8 (full precision has no codes)")
        if not bool(self.upper > self.lower):
            raise grid.refuse("clip range (lower, upper)", (float(self.lower), float(self.upper)), "lower < upper")
        if bool(torch.isnan(x).any()):
            raise grid.refuse("x", "NaN", "free of NaN (NaN has no code)")
        return self.round(normalize(x, self.lower, self.upper, self.levels - 1)).to(torch.int64)

    def round(self, x: Tensor) -> Tensor:
        """Round normalised values by the method's rule."""
        return round_half_down(x)

    def decode(self, codes: Tensor) -> Tensor:
        """Values of codes, in the default dtype."""
        return scale_output(codes.to(self.upper.dtype), self.levels - 1, self.role == "weight")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._ready = bool(self.initialized)

    def extra_repr(self) -> str:
        """Show what the quantizer was built with."""
        return f"bits={self.bits}, role={self.role}, variant={self.variant}"


def normalize(x: Tensor, lower: Tensor, upper: Tensor, n: int) -> Tensor:
    """Eq. 1 as ``(clip(x) - l) / (u - l) * n``; NaN where the clip range is empty."""
    lower, upper = lower.to(x.dtype), upper.to(x.dtype)
    width = upper - lower
    width = torch.where(width > 0, width, torch.full_like(width, torch.nan))
    return (torch.clamp(x, lower, upper) - lower) / width * n


def round_half_down(x: Tensor) -> Tensor:
    """Eq. 11, for x >= 0, where the difference to the floor is exact."""
    floor = torch.floor(x)
    return torch.where(x.isnan(), x, floor + (x - floor > 0.5))


def scale_output(q: Tensor, n: int, is_weight: bool) -> Tensor:
    """Eq. 2, with the weight values as ``(2 Q - n) / n``."""
    return (2 * q - n) / n if is_weight else q / n


def clip_range_backward(
    grad: Tensor, x: Tensor, lower: Tensor, upper: Tensor, slope_of: Any, n: int, is_weight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of Q/n (twice that for weights) for x, l and u, with ``slope_of(normalised x)`` for dQ/dx."""
    low, high = lower.to(x.dtype), upper.to(x.dtype)
    width = high - low
    p = (torch.clamp(x, low, high) - low) / width
    clipped = (x < low) | (x > high)
    local = slope_of(p * n) * (2 if is_weight else 1) / width
    grad_x = torch.where(clipped, torch.zeros_like(local), grad * local)
    grad_l, grad_u = -((1 - p) * grad_x), -(p * grad_x)
    return grad_x, grad_l.sum_to_size(lower.shape).to(lower.dtype), grad_u.sum_to_size(upper.shape).to(upper.dtype)
