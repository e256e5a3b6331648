"""Hand PyTorch quantizers over to `reference.contract`: anybody's (`of_torch`), and the suite's modules.

subject = contract.of_torch(quantize, bits=2, parameters={"step": step})
print(contract.check(subject, reference="lsq"))
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reference import contract, registry
from reference.conformance import check as check
from reference.contract import of_numpy as of_numpy
from reference.grid import Array
from torchimpl.handover import of_torch as of_torch
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


def of_module(module: Quantizer) -> contract.Quantizer:
    """Hand over one of the suite's modules whose parameters are set: values of test mode, gradients of training mode.

    The module itself stays as it is; gradients are taken of a copy, and without noise.

    >>> from torchimpl.quantizers import build
    >>> contract.check_at(of_module(build("daq", bits=2, role="weight")), np.array([-4.0, 0.1, 0.3]))
    """
    found = of_torch(
        module,
        bits=module.bits or 0,
        codes=module.codes,
        decode=module.decode,
        name=repr(module),
        dtypes=("float32", "float64", "bfloat16", "float16"),
        role=module.role,
        exempt=registry.module(module.method).METHOD.exempt,
        from_whole_tensor=_has_statistics(module),
    )
    return _quiet(dataclasses.replace(found, parameters=contract.parameters_of(reference_params(module))))


def _quiet(found: contract.Quantizer) -> contract.Quantizer:
    """The same, with gradients of training without its noise."""
    view = found.view

    def vjp(x: Array, grad: Array) -> contract.Gradients:
        with noiseless():
            return found.vjp(x, grad)

    return dataclasses.replace(found, vjp=vjp, view=view and (lambda dtype, device: _quiet(view(dtype, device))))


def _has_statistics(module: Quantizer) -> bool:
    """Whether the values depend on statistics of what is quantized."""
    known: Any = registry.module(module.method)
    params = reference_params(module)
    return hasattr(known, "observe") and known.observe([0.25, -0.5, 1.0], params) is not params
