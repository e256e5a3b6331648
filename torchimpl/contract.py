"""Hand a quantizer module over to `reference.contract`, and to the reference itself."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reference import contract, registry
from reference.grid import Array
from torchimpl.quantizers.base import Quantizer, noiseless


def tensor(x: Array) -> Tensor:
    """Copy an array, of any memory layout, to a tensor."""
    return torch.from_numpy(np.array(x))


def reference_params(module: Quantizer) -> Any:
    """Return the parameters of the reference that equal a module's: those of the same names.

    >>> from torchimpl.quantizers import build
    >>> reference_params(build("ste", bits=2, role="weight"))
    Params(lower=array(-3.), upper=array(3.), bits=2, role='weight', variant='half_even')
    """
    kind = registry.module(module.method).Params
    found = {}
    for field in dataclasses.fields(kind):
        if hasattr(module, field.name):
            value = getattr(module, field.name)
            found[field.name] = value.detach().double().cpu().numpy() if isinstance(value, Tensor) else value
    return kind(**found)


@contextmanager
def mode(module: Quantizer, training: bool) -> Iterator[Quantizer]:
    """Put a module in training or test mode for a while."""
    before = module.training
    try:
        yield module.train(training)
    finally:
        module.train(before)


def of_module(module: Quantizer) -> contract.Quantizer:
    """Hand over a quantizer module whose parameters are set: its values in test mode, its gradients in training mode.

    The module itself stays as it is; gradients are taken of a copy, and without noise.

    >>> from torchimpl.quantizers import build
    >>> contract.check(of_module(build("daq", bits=2, role="weight")), np.array([-4.0, 0.1, 0.3]))
    """
    known = registry.module(module.method)

    def forward(x: Array) -> Array:
        with torch.no_grad(), mode(module, training=False):
            return np.asarray(module(tensor(x)).numpy())

    def decode(q: Array) -> Array:
        return np.asarray(module.decode(tensor(q)).numpy().astype(q.dtype))

    def vjp(x: Array, grad: Array) -> contract.Gradients:
        leaf = tensor(x).requires_grad_()
        trained = copy.deepcopy(module).train()
        parameters = dict(trained.named_parameters())
        with noiseless():
            out = trained(leaf)
        found = torch.autograd.grad((out * tensor(grad)).sum(), [leaf, *parameters.values()])
        arrays = [value.numpy() for value in found]
        return arrays[0], dict(zip(parameters, arrays[1:], strict=True))

    return contract.Quantizer(
        name=repr(module),
        bits=module.bits or 0,
        forward=forward,
        codes=lambda x: np.asarray(module.codes(tensor(x)).numpy()),
        decode=decode,
        vjp=vjp,
        exempt=known.METHOD.exempt,
        from_whole_tensor=hasattr(known, "observe"),
    )
