"""What the quantizers share: first values, integers and codes, saving; and what their files compute with."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from reference import checks, grid, registry
from torchimpl.operators import Operator, is_traced


class Quantizer(nn.Module):
    """A quantizer that learns, or measures, its parameters.

    A method defines `operator`, its `arguments`, `set_first_values` and `decode`, and where its levels are multiples
    of a unit, `unit`.

    Parameters
    ----------
    bits : int
        For which the method is defined.
    role : {"weight", "activation", "signed_activation"}
        Plain "activation" follows a ReLU.
    variant : str, optional
        Where paper, released code and common practice differ; by default the method's first.

    Attributes
    ----------
    initialized : Tensor of bool, of shape ()
        Whether the parameters have their first values.
    lowest, stride : int
        `integers` are ``lowest + stride * code``, unless there is a table.
    table : tuple of int
        The integers of the codes 0, 1, ..., where they are not evenly spaced; otherwise empty.
    is_integral : bool
        Whether values are a unit times these integers, for every element the same unit or one a channel.
    shape : tuple of int
        Of the parameters: () for one set, (C, 1, ...) for one a channel.

    Raises
    ------
    ValueError
        If a parameter is refused.
    """

    method: ClassVar[str]
    operator: Operator
    initialized: Tensor
    lowest = 0
    stride = 1
    table: tuple[int, ...] = ()
    is_integral = True
    shape: tuple[int, ...] = ()
    label = ""  # its name in the network, where a conversion or a calibration told it
    context: Mapping[str, Any] = MappingProxyType({})  # what a layer adds to `settings`
    _seen: tuple[int, ...] = ()  # versions of the parameters when they were looked at last
    _complained = False

    def __init__(self, bits: int, role: str = "activation", *, variant: str | None = None) -> None:
        super().__init__()
        known = registry.method(self.method)
        self.variant = known.check(bits, role, variant)
        self.bits, self.role = int(bits), grid.check_role(role)
        self.register_buffer("initialized", torch.tensor(False))
        self._ready = False  # mirrors `initialized`, so that forward reads no tensor
        self.mark_initialized(self.ready_at_once())

    def ready_at_once(self) -> bool:
        """Whether the first values of the parameters need no data."""
        return False

    def mark_initialized(self, ready: bool = True) -> None:
        """Say whether the parameters are set."""
        self._ready = ready
        self.initialized.fill_(ready)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Give the parameters their first values, by the method's rule, from a first batch or the weights.

        Raises
        ------
        ValueError
            If `x` does not do, because it is no floating-point tensor, empty, not finite or has no spread.
        """
        check_input(x)
        self.set_first_values(x)
        self.mark_initialized()

    def set_first_values(self, x: Tensor) -> None:
        """Set the parameters from a floating-point `x`, for `initialize`; ValueError if it does not do."""
        raise NotImplementedError

    @property
    def has_first_values(self) -> bool:
        """Whether the parameters are set; forward passes look here, and not at a tensor on some device."""
        return self._ready

    def notice_first_values(self) -> None:
        """Look at `initialized`, which was set behind the module's back."""
        self._ready = not self.initialized.is_meta and bool(self.initialized)

    def require_first_values(self, x: Tensor) -> None:
        """Take the first values from `x` if there are none yet.

        Raises
        ------
        RuntimeError
            If this is no time for it; see `check_calibrating`.
        ValueError
            If `x` does not do.
        """
        if not (self._ready or torch.compiler.is_compiling() or self.initialized.is_meta):
            self.notice_first_values()  # averaging and copying of tensors set `initialized` alone
        if not self._ready:
            check_calibrating(self)
            with named(self):
                self.initialize(x.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Quantize `x`; shape, dtype and device are kept. If training drives parameters out of range, that gives NaN.

        Where `x` is NaN, so are the value, the gradient for `x` there, and the gradients of the parameters that the
        element shares in: a NaN is never lost in the backward pass, whichever loop computes it.

        Raises
        ------
        RuntimeError
            If the parameters were never set, and this is no time for it.
        ValueError
            If `x` is not a floating-point tensor, or first values are to be taken and it does not do.
        """
        if isinstance(x, fx.Proxy):
            return as_leaf(self, x)
        check_input(x)
        self.require_first_values(x)
        self._look_at_parameters(x)
        return self.quantize(x)

    def _look_at_parameters(self, x: Tensor) -> None:
        """Say once that a parameter is out of range, which makes NaN of all that follows.

        They are looked at where they have changed since; on a GPU, where that means waiting, in test mode only.
        """
        if self._complained or not self._parameters or x.is_meta or (self.training and not x.is_cpu):
            return
        if torch.compiler.is_compiling() or is_traced() or type(x) not in (Tensor, nn.Parameter):
            return
        versions = tuple(0 if p.is_inference() else p._version for p in self._parameters.values() if p is not None)
        if versions == self._seen:
            return
        self._seen = versions
        try:
            with torch.no_grad():
                self.check_parameters(x)
        except ValueError as error:
            self._complained = True
            warnings.warn(f"{self.shown()}: {error}; its values are NaN", UserWarning, stacklevel=2)

    def shown(self) -> str:
        """Name the quantizer: as it is called in the network, if that is known, and what it was built with."""
        return f"{self.label}: " * bool(self.label) + f"{type(self).__name__}({self.extra_repr()})"

    def quantize(self, x: Tensor) -> Tensor:
        """Quantize with the parameters as they stand."""
        return self.operator(x, *self.arguments(x))

    def arguments(self, x: Tensor) -> tuple[Any, ...]:
        """Return the operator's arguments after `x`."""
        raise NotImplementedError

    def integers(self, x: Tensor) -> Tensor:
        """Quantize `x` as in test mode, to integers held as floating-point numbers in its dtype, without gradient.

        Where `is_integral`, the values are `unit` times these. Errors are those of `forward`.
        """
        check_input(x)
        self.require_first_values(x)
        return self.operator.integers(x, *self.arguments(x))

    @property
    def largest_integer(self) -> int:
        """Bound on the magnitude of `integers`."""
        if self.table:
            return max(map(abs, self.table))
        return max(abs(self.lowest), abs(self.lowest + self.stride * (2**self.bits - 1)))

    def unit(self, x: Tensor) -> Tensor | float:
        """What one of `integers` is worth, in float32 at least; `x` is what was quantized, should it depend on that."""
        raise NotImplementedError

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """Integer codes from 0, int64.

        If there are no first values yet, `x` sets them where it would in `forward`.

        Raises
        ------
        ValueError
            If `x` holds NaN, or a parameter is out of range.
        RuntimeError
            If there are no first values, and this is no time for them; see `check_calibrating`.
        """
        if bool(torch.isnan(x).any()):
            raise checks.refuse("x", "NaN", "free of NaN (NaN has no code)")
        found = self.integers(x)
        self.check_parameters(x)
        if bool(found.isnan().any()):
            raise checks.refuse("parameters", "out of range", f"positive and finite for x of {x.dtype}")
        if self.table:
            return torch.searchsorted(torch.tensor(self.table, dtype=found.dtype, device=found.device), found)
        return ((found - self.lowest) / self.stride).to(torch.int64)

    def check_parameters(self, x: Tensor) -> None:
        """Raise ValueError if training has driven a parameter out of range, or `x` tells none."""

    def decode(self, codes: Tensor, x: Tensor | None = None) -> Tensor:
        """Values of codes.

        Parameters
        ----------
        codes : Tensor
            From `codes`, for values in the parameters' dtype; floating-point codes keep theirs. Numbers that are no
            codes are refused by methods that look values up (APoT, LQ-Nets, soft-to-hard); of others they give values
            beyond or between levels.
        x : Tensor, optional
            What was quantized, where the levels depend on it (1-bit weights of DoReFa-Net, weights of IR-Net).

        Raises
        ------
        ValueError
            If the levels depend on `x` and there is none; if a code is none, and values are looked up.
        """
        raise NotImplementedError

    def penalty(self) -> Tensor:
        """Return the term that the method adds to the loss, before its coefficient; 0 for most."""
        return torch.zeros((), device=self.initialized.device)

    def set_progress(self, progress: float) -> None:
        """Say how much of the training is over, 0 to 1, for methods with a schedule; the others ignore it.

        Raises
        ------
        ValueError
            If `progress` is not from 0 to 1.
        """
        checks.check_scalar("progress", progress, 0, 1)

    # State

    def settings(self) -> dict[str, Any]:
        """Return what values depend on beside the state: method, variant, bits, role and options, as plain values."""
        own = {"method": self.method, "variant": self.variant, "bits": self.bits, "role": self.role}
        return {**own, **self.options(), **self.context}

    def options(self) -> dict[str, Any]:
        """Return the method's own options, those that the state does not have."""
        return {}

    def get_extra_state(self) -> Tensor:
        """Return `settings` as JSON in bytes: a tensor, which every format of checkpoints can hold."""
        return torch.frombuffer(bytearray(json.dumps(self.settings()).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Compare settings that were saved with those at hand.

        Raises
        ------
        ValueError
            If they differ, or say nothing; a setting that only one of both has is not compared.
        """
        saved, own = read_settings(state), self.settings()
        if any(saved[name] != own[name] for name in saved.keys() & own.keys()):
            raise ValueError(f"saved from {_as_text(saved)}, and loaded into {_as_text(own)}")

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        metadata: Any,
        strict: bool,
        missing: list[str],
        unexpected: list[str],
        errors: list[str],
    ) -> None:
        key = prefix + SETTINGS
        try:
            if key in state_dict:  # states of others, and those that are older, have none
                self.set_extra_state(state_dict[key])
        except ValueError as error:
            errors.append(f"{prefix.rstrip('.') or type(self).__name__}: {error}")
            return
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)
        if key in missing:
            missing.remove(key)
        self.notice_first_values()

    def extra_repr(self) -> str:
        """Show what the quantizer was built with."""
        return f"bits={self.bits}, role={self.role}, variant={self.variant}"

    def __prepare_scriptable__(self) -> Any:
        """Refuse `torch.jit.script`, which asks for this; it says so itself in words about its own insides."""
        whose = self.label or f"{type(self).__name__}({self.extra_repr()})"
        raise RuntimeError(
            f"torch.jit.script cannot read {whose}: use torch.jit.trace, torch.export.export or torchimpl.export_onnx"
        )


SETTINGS = "_extra_state"  # the name that torch gives it in a state_dict


def read_settings(state: Any) -> dict[str, Any]:
    """Read what `Quantizer.get_extra_state` wrote.

    Raises
    ------
    ValueError
        If it is something else.

    >>> from torchimpl.quantizers import build
    >>> read_settings(build("lsq", bits=2, role="weight").get_extra_state())
    {'method': 'lsq', 'variant': 'paper', 'bits': 2, 'role': 'weight'}
    """
    try:
        found = json.loads(bytes(state.to("cpu", torch.uint8).tolist()).decode())
    except (AttributeError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError("the settings in the state are damaged, or another program's")
    return found


def as_shown(value: Tensor) -> str:
    """Print a number of the state; on the meta device it has none."""
    return "?" if value.is_meta else f"{float(value):g}"


def _as_text(settings: Mapping[str, Any]) -> str:
    """Print settings as the call that builds the quantizer."""
    rest = dict(settings)
    method = str(rest.pop("method", "a quantizer"))[:40]
    return f"{method}({', '.join(f'{name}={value}' for name, value in rest.items())})"[:300]


# First values

_calibrating = False


@contextmanager
def calibrating() -> Iterator[None]:
    """Allow first values to be taken, on any number of ranks: whoever does this makes the ranks' values equal."""
    global _calibrating
    before, _calibrating = _calibrating, True
    try:
        yield
    finally:
        _calibrating = before


def check_calibrating(module: nn.Module) -> None:
    """Refuse to take a module's first values from the batch at hand, unless `calibrating` or in one process's training.

    Raises
    ------
    RuntimeError
        In test mode, while being compiled, or with a process group of several ranks, each of which would take its own.
    """
    if _calibrating:
        return
    if ranks() > 1:
        why = f"each of {ranks()} ranks would take its own from its first batch"
    elif torch.compiler.is_compiling() or not module.training:
        why = "only a batch in training mode, not compiled, sets them"
    else:
        return
    label = getattr(module, "label", "")
    name = type(module).__name__ + f" {label}" * bool(label)
    raise RuntimeError(
        f"{name} has no first values: {why}. Call torchimpl.calibrate(model, images) first, or load a state_dict"
    )


def is_calibrating() -> bool:
    """Whether this is within `calibrating`."""
    return _calibrating


@contextmanager
def named(module: nn.Module) -> Iterator[None]:
    """Put before what a module refuses what it is, with bits, role or shape; not within `calibrating`.

    A module does not know its name in the network; whoever calibrates does.
    """
    try:
        yield
    except ValueError as error:
        if _calibrating:
            raise
        raise ValueError(f"{type(module).__name__}({module.extra_repr()}): {error}") from None


def ranks() -> int:
    """How many processes train together."""
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if several else 1


def as_leaf(module: nn.Module, x: fx.Proxy) -> Any:
    """Record the call of a module, whose inside depends on values, as one step of a graph of `torch.fx`."""
    return x.tracer.create_proxy("call_module", x.tracer.path_of_module(module), (x,), {})  # type: ignore[attr-defined]


# Noise

_noiseless = False


@contextmanager
def noiseless() -> Iterator[None]:
    """Have stochastic quantizers draw no noise in training mode, so that they can be compared.

    >>> from torchimpl.quantizers import build
    >>> quantizer, x = build("rq", bits=2, role="weight"), torch.linspace(-2, 2, 8)
    >>> with noiseless():
    ...     torch.equal(quantizer(x), quantizer(x))
    True
    >>> torch.equal(quantizer(x), quantizer(x))
    False
    """
    global _noiseless
    before, _noiseless = _noiseless, True
    try:
        yield
    finally:
        _noiseless = before


def is_noiseless() -> bool:
    """Whether this is within `noiseless`."""
    return _noiseless


# What the methods' files compute with


def check_input(x: Tensor) -> None:
    """Raise ValueError unless `x` is of floating point."""
    if not x.is_floating_point():
        raise checks.refuse("x", x.dtype, "a floating-point tensor")


def wide(x: Tensor) -> torch.dtype:
    """The dtype in which `x` is quantized: its own, or float32 for half precision."""
    return torch.promote_types(x.dtype, torch.float32)


def as_float(codes: Tensor, parameter: Tensor) -> Tensor:
    """Cast integer codes to the dtype of a parameter."""
    return codes if codes.is_floating_point() else codes.to(parameter.dtype)


def check_positive(name: str, value: Tensor) -> None:
    """Raise ValueError unless all of a parameter is positive and finite."""
    if not bool(((value > 0) & (value < math.inf)).all()):
        raise checks.refuse(name, value.tolist(), "positive and finite")


def check_finite(name: str, value: Tensor) -> None:
    """Raise ValueError unless all of a parameter is finite."""
    if not bool(value.isfinite().all()):
        raise checks.refuse(name, value.tolist(), "finite")


def positive_or_nan(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast a parameter that must be positive and finite; where it is not, in that dtype, NaN."""
    value = value.to(dtype)
    return torch.where((value > 0) & (value < math.inf), value, torch.full_like(value, torch.nan))


def finite_or_nan(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast a parameter that must be finite; where it is not, in that dtype, NaN."""
    value = value.to(dtype)
    return torch.where(value.isfinite(), value, torch.full_like(value, torch.nan))


def keep_nan(x: Tensor, value: Tensor) -> Tensor:
    """`value`, and NaN where `x` is: for gradients that are chosen by comparisons, which NaN fails."""
    return torch.where(x.isnan(), x, value)


def reduce_to(grad: Tensor, parameter: Tensor) -> Tensor:
    """Sum a gradient to the shape of a parameter that was broadcast; in its dtype, if that is wider, and cast to it.

    A sum over a batch in half precision may be infinite although a parameter in single precision can hold it.
    """
    wide = grad.to(torch.promote_types(grad.dtype, parameter.dtype))
    return wide.sum_to_size(parameter.shape).to(parameter.dtype)


def parameter_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of parameters as a tuple; raises ValueError unless all its entries are whole numbers from 1."""
    found = tuple(shape)
    if not all(isinstance(size, int) and not isinstance(size, bool) and size >= 1 for size in found):
        raise checks.refuse("shape", found, "() or (C, 1, ...), of whole numbers from 1")
    return found


def check_shape(x: Tensor, shape: Sequence[int]) -> None:
    """Raise ValueError unless parameters of this shape, () or (C, 1, ...), divide `x` into channels."""
    own = x.shape[x.dim() - len(shape) :] if x.dim() >= len(shape) else None
    if own is None or any(size not in (1, there) for size, there in zip(shape, own, strict=True)):
        admitted = f"(..., {', '.join('any' if size == 1 else str(size) for size in shape)})"
        raise checks.refuse("shape of x", tuple(x.shape), f"{admitted}, for parameters of the shape {tuple(shape)}")


def other_axes(x: Tensor, shape: Sequence[int]) -> list[int]:
    """Return the axes of `x` along which a parameter of this shape, () or (C, 1, ...), is shared.

    Raises
    ------
    ValueError
        If `x` has not as many channels.
    """
    check_shape(x, shape)
    offset = x.dim() - len(shape)
    return [axis for axis in range(x.dim()) if axis < offset or shape[axis - offset] == 1]


def largest_magnitude(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the largest magnitude that shares each parameter, of the parameters' shape.

    Raises
    ------
    ValueError
        If one of them is not positive and finite: `x` is empty, all zero or not finite.
    """
    axes = other_axes(x, shape)
    found = x.abs().amax(axes, keepdim=True) if x.numel() else x.new_zeros(())
    if not bool(((found > 0) & (found < math.inf)).all()):
        raise checks.refuse("largest magnitude of the first batch", found.tolist(), "positive and finite")
    return found.reshape(tuple(shape))
