"""Hand somebody's PyTorch quantizer over to the contract: a function of a tensor, or a module."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reference import contract
from reference.checks import refuse
from reference.grid import Array

DTYPES = {name: getattr(torch, name) for name in contract.DTYPES}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def of_torch(
    subject: Callable[..., Any],
    *,
    bits: int,
    parameters: Mapping[str, Any] | None = None,
    dtypes: Sequence[torch.dtype | str] = ("float32",),
    devices: Sequence[torch.device | str] = ("cpu",),
    gradient: bool = True,
    training: bool = True,
    codes: Callable[[Tensor], Tensor] | None = None,
    decode: Callable[[Tensor], Tensor] | None = None,
    surrogate: Callable[..., Tensor] | None = None,
    name: str | None = None,
    **options: Any,
) -> contract.Quantizer:
    """Hand over a function of a tensor, or a module, whose parameters are set; gradients are autograd's.

    Parameters
    ----------
    subject : callable or Module
        Takes a tensor and returns its quantized values. A module's values are those of test mode.
    bits : int
        There are at most 2^bits values.
    parameters : mapping of str to Tensor, str or number, optional
        What gradients are taken for, by the names of the reference if it is to be compared with one: a tensor that
        requires a gradient, or the name of a module's parameter. A number, or another tensor, is a constant that the
        reference is told. By default all parameters of a module.
    dtypes, devices : sequence
        What it is tried with; parameters stay as they are, modules are moved to the device.
    gradient : bool
        Whether there is one: an engine for inference has none.
    training : bool
        Whether the gradients of a module are those of training mode, taken of a copy, or of test mode.
    codes, decode : callable, optional
        Tensor to integers 0, 1, ... and back.
    surrogate : callable, optional
        ``surrogate(x, **parameters)``, of float64 tensors: the function whose derivative the gradient claims to be.
    name : str, optional
        For messages.
    **options
        Further attributes of `reference.contract.Quantizer`: role, shape, from_whole_tensor, exempt.

    Raises
    ------
    ValueError
        If a parameter is not one of the module, or a dtype is none of float64, float32, float16 and bfloat16.

    >>> step = torch.tensor([0.5], requires_grad=True)
    >>> zero = torch.tensor([0.0])
    >>> def quantize(x):
    ...     return torch._fake_quantize_learnable_per_tensor_affine(x, step, zero, -2, 1, 1.0)
    >>> from reference import conformance
    >>> conformance.check(of_torch(quantize, bits=2, parameters={"step": step}), reference="lsq").kin
    'lsq, weight, mqbench'
    """
    if not callable(subject):
        raise refuse("subject", subject, "a function of a tensor, or a module")
    names = tuple(_dtype_name(dtype) for dtype in dtypes)
    places = tuple(str(torch.device(device)) for device in devices)
    learned, constants = _divided(subject, parameters)
    base = contract.Quantizer(
        name=name or _name_of(subject),
        bits=bits,
        forward=lambda x: x,
        parameters={key: _values(_tensor_of(subject, value)) for key, value in learned.items()} | constants,
        constants=tuple(constants),
        dtypes=names,
        devices=places,
        surrogate=None if surrogate is None else _over_arrays(surrogate),
        **options,
    )

    def view(dtype: str | None, device: str) -> contract.Quantizer:
        found = _view(base, subject, learned, dtype, device, training=training, codes=codes, decode=decode)
        return found if gradient else dataclasses.replace(found, vjp=base.vjp)

    return dataclasses.replace(view(None, places[0]), view=view)


def _view(
    base: contract.Quantizer,
    subject: Callable[..., Any],
    learned: Mapping[str, Tensor | str],
    dtype: str | None,
    device: str,
    *,
    training: bool,
    codes: Callable[[Tensor], Tensor] | None,
    decode: Callable[[Tensor], Tensor] | None,
) -> contract.Quantizer:
    """The quantizer for one dtype; None is that of the arrays."""
    moved = subject
    if isinstance(subject, nn.Module) and device != "cpu":
        moved = copy.deepcopy(subject).to(device)

    def make(x: Array) -> Tensor:
        return _like(x, None if dtype is None else DTYPES[dtype], device)

    def evaluated(x: Tensor) -> Tensor:
        if isinstance(moved, nn.Module):
            with torch.no_grad(), mode(moved, training=False):
                return _tensor(moved(x))
        with torch.no_grad():
            return _tensor(moved(x))

    def forward(x: Array) -> Array:
        own = make(x)
        before = own.clone()
        values = evaluated(own)
        if not torch.equal(own.nan_to_num(), before.nan_to_num()):  # it was changed: whoever called is to see that
            x[...] = _array(own)
        return _array(values).astype(x.dtype, copy=False)

    def vjp(x: Array, grad: Array) -> contract.Gradients:
        leaf = make(x).requires_grad_()
        function, tensors = _to_be_differentiated(moved, learned, training)
        values = _tensor(function(leaf.clone()))  # which it may change, as a leaf it may not
        if not values.requires_grad:
            raise RuntimeError("its values do not require a gradient: nothing leads back from them to x")
        incoming = _like(grad, values.dtype, str(values.device))
        found = torch.autograd.grad(values, [leaf, *tensors.values()], incoming, allow_unused=True)
        arrays = [
            np.zeros(tuple(of.shape), _array(of.detach()).dtype) if one is None else _array(one)
            for one, of in zip(found, (leaf, *tensors.values()), strict=True)
        ]
        return arrays[0], dict(zip(tensors, arrays[1:], strict=True))

    own: dict[str, Any] = {}
    if codes is not None:
        own["codes"] = lambda x: _array(codes(make(x)))
    if decode is not None:
        # As values are: computed in single precision at least, then rounded.
        own["decode"] = lambda q: _array(decode(_like(q, _wide(q), device)).to(make(q).dtype)).astype(q.dtype)
    return dataclasses.replace(
        base,
        forward=forward,
        vjp=vjp,
        kind=None if dtype is None else lambda x: _dtype_name(evaluated(make(x)).dtype),
        dtypes=base.dtypes if dtype is None else (dtype,),
        **own,
    )


def _to_be_differentiated(
    subject: Callable[..., Any], learned: Mapping[str, Tensor | str], training: bool
) -> tuple[Callable[..., Any], dict[str, Tensor]]:
    """Return the function, a copy if it is a module, and its parameters by name."""
    if not isinstance(subject, nn.Module):
        return subject, {key: value for key, value in learned.items() if isinstance(value, Tensor)}
    copied = copy.deepcopy(subject).train(training)
    return copied, {key: copied.get_parameter(str(value)) for key, value in learned.items()}


def _divided(
    subject: Callable[..., Any], parameters: Mapping[str, Any] | None
) -> tuple[dict[str, Tensor | str], dict[str, Any]]:
    """Divide parameters into those that are learned, of a module by name, and constants."""
    own = dict(subject.named_parameters()) if isinstance(subject, nn.Module) else {}
    if parameters is None:
        return {key: key for key, value in own.items() if value.requires_grad}, {}
    by_identity = {id(value): key for key, value in own.items()}
    learned: dict[str, Tensor | str] = {}
    constants: dict[str, Any] = {}
    for key, value in parameters.items():
        if isinstance(value, str):
            if value not in own:
                raise refuse(f"parameter {key}", value, "one of the module's: " + ", ".join(own))
            learned[key] = value
        elif isinstance(value, Tensor) and id(value) in by_identity:
            learned[key] = by_identity[id(value)]
        elif isinstance(value, Tensor) and value.requires_grad:
            if own:
                raise refuse(f"parameter {key}", "another tensor", "one of the module's: " + ", ".join(own))
            learned[key] = value
        else:
            constants[key] = _values(value) if isinstance(value, Tensor) else value
    return learned, constants


def _tensor_of(subject: Callable[..., Any], value: Tensor | str) -> Tensor:
    return subject.get_parameter(value) if isinstance(subject, nn.Module) and isinstance(value, str) else value  # type: ignore[return-value]


def _values(value: Tensor) -> Array:
    return value.detach().double().cpu().numpy().copy()


def _over_arrays(surrogate: Callable[..., Tensor]) -> Callable[..., Array]:
    """The same function over arrays."""

    def function(x: Array, **parameters: Any) -> Array:
        with torch.no_grad():
            given = {key: torch.as_tensor(np.asarray(value, np.float64)) for key, value in parameters.items()}
            return np.asarray(surrogate(torch.as_tensor(x), **given).numpy())

    return function


def _wide(x: Array) -> torch.dtype:
    return torch.float64 if x.dtype == np.float64 else torch.float32


def _tensor(value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"it returns a {type(value).__name__}, not a tensor")
    return value


def _like(x: Array, dtype: torch.dtype | None, device: str) -> Tensor:
    """Copy an array to a tensor, with the memory layout that it has where torch knows such."""
    plain = torch.from_numpy(np.array(x, copy=True))
    strides = [stride // x.itemsize for stride in x.strides]
    wanted = plain.dtype if dtype is None else dtype
    if x.size and min(strides, default=0) > 0 and all(s % x.itemsize == 0 for s in x.strides):
        return torch.empty_strided(x.shape, strides, dtype=wanted, device=device).copy_(plain)
    return plain.to(device, wanted, copy=True)


def _array(value: Tensor) -> Array:
    value = value.detach().cpu()
    return np.array((value.float() if value.dtype is torch.bfloat16 else value).numpy())


def _dtype_name(dtype: torch.dtype | str) -> str:
    return dtype if isinstance(dtype, str) else NAMES.get(dtype, str(dtype).removeprefix("torch."))


def _name_of(subject: Callable[..., Any]) -> str:
    if isinstance(subject, nn.Module):
        return " ".join(repr(subject).split())
    return getattr(subject, "__qualname__", type(subject).__name__).removesuffix(".<locals>.<lambda>")


@contextmanager
def mode(module: nn.Module, training: bool) -> Iterator[nn.Module]:
    """Put a module in training or test mode for a while."""
    before = {part: part.training for part in module.modules()}
    try:
        yield module.train(training)
    finally:
        for part, mode_before in before.items():
            part.training = mode_before
