"""What the quantizers share: their parameters' first values, codes, saving, and how an operator is registered.

`UniformQuantizer` adds the uniform grid of DAQ's Eq. 1 and 2. The order of the arithmetic is the reference's, so that
float32 and float64 results have the same bits; no code is shared with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from reference import grid, registry


def operator(name: str, backward: Callable[..., Any]) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Register a function as ``torch.ops.quantgap.NAME``.

    Its first argument is the input x; other tensors are parameters, broadcast against x; the rest are numbers. The
    output has the dtype of x. ``backward(grad, *arguments)`` returns a gradient for each tensor, in their order; the
    tensors themselves are all that is kept for it.
    """

    def register(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        op = torch.library.custom_op(f"quantgap::{name}", forward, mutates_args=())

        def fake(x: Tensor, *rest: Any) -> Tensor:
            return torch.empty_like(sum((p.to(x.dtype) for p in rest if isinstance(p, Tensor)), x))

        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            ctx.save_for_backward(*(v for v in inputs if isinstance(v, Tensor)))
            ctx.arguments = [None if isinstance(v, Tensor) else v for v in inputs]

        def run_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            tensors = iter(ctx.saved_tensors)
            arguments = [next(tensors) if v is None else v for v in ctx.arguments]
            grads = iter(backward(grad, *arguments))
            return tuple(next(grads) if isinstance(v, Tensor) else None for v in arguments)

        op.register_fake(fake)
        op.register_autograd(run_backward, setup_context=setup_context)
        return op

    return register


class Quantizer(nn.Module):
    """A quantizer that learns, or measures, its parameters.

    Parameters
    ----------
    bits : int or None
        For which the method is defined; None passes values through.
    role : {"weight", "activation", "signed_activation"}
        Plain "activation" follows a ReLU.
    variant : str, optional
        Where paper, released code and common practice differ; by default the method's first.

    Attributes
    ----------
    initialized : Tensor of bool, of shape ()
        Whether the parameters have their first values, which the first batch in training mode gives them.

    Raises
    ------
    ValueError
        If a parameter is refused.
    """

    method: str
    initialized: Tensor

    def __init__(self, bits: int | None, role: str = "activation", *, variant: str | None = None) -> None:
        super().__init__()
        self.variant = registry.method(self.method).check(bits, role, variant)
        self.bits, self.role = grid.check_bits(bits), grid.check_role(role)
        self.register_buffer("initialized", torch.tensor(False))
        self._ready = False  # mirrors `initialized`, so that forward reads no tensor
        self.mark_initialized(self.bits is None or self.ready_at_once())

    def ready_at_once(self) -> bool:
        """Whether the first values of the parameters need no data."""
        return False

    def mark_initialized(self, ready: bool = True) -> None:
        """Say whether the parameters are set; the first batch in training sets them if not."""
        self._ready = ready
        self.initialized.fill_(ready)

    def initialize(self, x: Tensor) -> None:
        """Give the parameters their first values, by the method's rule, from a first batch or the weights.

        Raises
        ------
        ValueError
            If `x` does not do, because it is empty, not finite or has no spread.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Quantize `x`; shape, dtype and device are kept. If training drives parameters out of range, that gives NaN.

        Raises
        ------
        RuntimeError
            If the parameters were never set: in test mode, or while being compiled.
        ValueError
            If `x` is not a floating-point tensor.
        """
        if not x.is_floating_point():
            raise grid.refuse("x", x.dtype, "a floating-point tensor")
        if self.bits is None:
            return x
        if not self._ready:
            if torch.compiler.is_compiling() or not self.training:
                raise RuntimeError(
                    f"{type(self).__name__} is not initialized: run one batch in training mode (before compiling), "
                    "call initialize(x), or load a state_dict"
                )
            self.initialize(x.detach())
        return self.quantize(x)

    def quantize(self, x: Tensor) -> Tensor:
        """Quantize with the parameters as they stand."""
        raise NotImplementedError

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """Integer codes from 0, int64.

        Raises
        ------
        ValueError
            If `x` holds NaN, bits is None or a parameter is out of range.
        """
        if self.bits is None:
            raise grid.refuse("bits", None, "a whole number from 1 to 8 (full precision has no codes)")
        if bool(torch.isnan(x).any()):
            raise grid.refuse("x", "NaN", "free of NaN (NaN has no code)")
        self.check_parameters()
        return self.encode(x).to(torch.int64)

    def check_parameters(self) -> None:
        """Raise ValueError if training has driven a parameter out of range."""

    def encode(self, x: Tensor) -> Tensor:
        """Codes, as floating-point numbers, of `x` without NaN."""
        raise NotImplementedError

    def decode(self, codes: Tensor, x: Tensor | None = None) -> Tensor:
        """Values of codes.

        Parameters
        ----------
        codes : Tensor
            From `codes`, for values in the parameters' dtype; floating-point codes keep theirs.
        x : Tensor, optional
            What was quantized, where the levels depend on it (1-bit weights of DoReFa-Net, weights of IR-Net).
        """
        raise NotImplementedError

    def penalty(self) -> Tensor:
        """Return the term that the method adds to the loss, before its coefficient; 0 for most."""
        return torch.zeros(())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._ready = bool(self.initialized)

    def extra_repr(self) -> str:
        """Show what the quantizer was built with."""
        return f"bits={self.bits}, role={self.role}, variant={self.variant}"


def as_float(codes: Tensor, parameter: Tensor) -> Tensor:
    """Cast integer codes to the dtype of a parameter."""
    return codes if codes.is_floating_point() else codes.to(parameter.dtype)


def check_positive(name: str, value: Tensor) -> None:
    """Raise ValueError unless all of a parameter is positive and finite."""
    if not bool(((value > 0) & (value < math.inf)).all()):
        raise grid.refuse(name, value.tolist(), "positive and finite")


def positive_or_nan(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast a parameter that must be positive; where it is not, NaN."""
    value = value.to(dtype)
    return torch.where(value > 0, value, torch.full_like(value, torch.nan))


def other_axes(x: Tensor, shape: torch.Size | tuple[int, ...]) -> list[int]:
    """Return the axes of `x` along which a parameter of this shape, () or (C, 1, ...), is shared."""
    offset = x.dim() - len(shape)
    return [axis for axis in range(x.dim()) if axis < offset or shape[axis - offset] == 1]


class UniformQuantizer(Quantizer):
    """A quantizer on the uniform grid of DAQ's Eq. 1 and 2, with a learned clip range.

    Weights are scaled to [-1, 1] and start with the clip range [-3, 3]; activations are scaled to [0, 1] and take their
    clip range from the first batch seen in training mode. The lower end for plain activations stays 0 and is not
    learned.

    Attributes
    ----------
    lower, upper : Parameter (or buffer, where it is not learned), of shape ()
        The clip range l, u of Eq. 1.
    levels : int
        2^bits.
    """

    lower: Tensor
    upper: Tensor

    def __init__(self, bits: int | None, role: str = "activation", *, variant: str | None = None) -> None:
        super().__init__(bits, role, variant=variant)
        self.levels = 2 ** (self.bits or 0)
        lower = torch.tensor(0.0 if role == "activation" else -3.0)
        if role == "activation":
            self.register_buffer("lower", lower)
        else:
            self.lower = nn.Parameter(lower)
        self.upper = nn.Parameter(torch.tensor(3.0))

    def ready_at_once(self) -> bool:
        """Whether the initial clip range needs no data: that of standardised weights."""
        return self.role == "weight"

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set the clip range from a first batch: 3 standard deviations (DAQ, Section 4.1).

        Raises
        ------
        ValueError
            If `x` has no spread.
        """
        if self.role != "weight":
            spread = x.numel() > 1 and bool(x.min() < x.max())  # equal values can have a rounded mean
            deviation = float(x.std()) if spread else 0.0
            if not 0 < deviation < math.inf:
                raise grid.refuse("standard deviation of the first batch", deviation, "positive and finite")
            self.upper.fill_(3 * deviation)
            if self.role == "signed_activation":
                self.lower.fill_(-3 * deviation)
        self.mark_initialized()

    def check_parameters(self) -> None:
        """Raise ValueError if the clip range is empty."""
        if not bool(self.upper > self.lower):
            raise grid.refuse("clip range (lower, upper)", (float(self.lower), float(self.upper)), "lower < upper")

    def encode(self, x: Tensor) -> Tensor:
        """Codes, as floating-point numbers, of `x` without NaN."""
        return self.round(normalize(x, self.lower, self.upper, self.levels - 1))

    def round(self, x: Tensor) -> Tensor:
        """Round normalised values by the method's rule."""
        return round_half_down(x)

    def decode(self, codes: Tensor, x: Tensor | None = None) -> Tensor:
        """Values of codes (Eq. 2)."""
        return scale_output(as_float(codes, self.upper), self.levels - 1, self.role == "weight")


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
