"""What the tests of the torch side share: quantizers with a given clip range, and the reference's parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from reference import grid, registry
from torchimpl import calibrate, kernels
from torchimpl.models import resnet20
from torchimpl.quantizers import quantizer_class
from torchimpl.quantizers.uniform import UniformQuantizer

REFERENCE = registry.modules()
VARIANTS = [(name, variant) for name, module in REFERENCE.items() for variant in module.METHOD.variants]
UNIFORM = [name for name, module in REFERENCE.items() if issubclass(module.Params, grid.UniformParams)]
uniform_method = pytest.mark.parametrize("method", UNIFORM)
uniform_variant = pytest.mark.parametrize(("method", "variant"), [row for row in VARIANTS if row[0] in UNIFORM])
every_method = pytest.mark.parametrize("method", REFERENCE)
every_variant = pytest.mark.parametrize(("method", "variant"), VARIANTS)


# Each method in a layer of its own kind: methods for one of weights and inputs only get a partner.
PAIRS = {
    name: tuple(
        name if role in known.bits else "ste"
        for role in ("weight", next((r for r in known.roles if r != "weight"), "activation"))
    )
    for name, known in registry.methods().items()
}


def input_role(method):
    """What the method's inputs are."""
    return registry.method(PAIRS[method][1]).input_role


def fit(method, bits):
    """The nearest bit-widths for which the pair of methods is defined."""
    fitted = []
    for name, role, wanted in zip(PAIRS[method], ("weight", input_role(method)), bits, strict=True):
        admitted = registry.method(name).admitted(role)
        fitted.append(None if wanted is None else min(max(wanted, admitted[0]), admitted[-1]))
    return tuple(fitted)


def quantizer(
    method: str, bits: int, role: str, lower: Any = -1.0, upper: Any = 1.0, **options: Any
) -> UniformQuantizer:
    """Build a quantizer that needs no first batch."""
    module = quantizer_class(method)(bits, role, **options)
    with torch.no_grad():
        module.lower.fill_(float(lower))
        module.upper.fill_(float(upper))
    module.mark_initialized()
    return module


def reference(method: str, bits: int, role: str, lower: Any, upper: Any, **options: Any) -> tuple[ModuleType, Any]:
    """Return the reference module of a method and its parameters."""
    module = REFERENCE[method]
    return module, module.Params(lower, upper, bits, role, **options)


@contextmanager
def without_loops() -> Iterator[None]:
    """Have what follows use torch's own operations, for a comparison."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "ELEMENTS", {})
        yield


def tensor(x: np.ndarray) -> torch.Tensor:
    """Copy an array, of any memory layout, to a tensor."""
    return torch.from_numpy(np.array(x))


def layouts(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same values in other memory."""
    doubled = torch.stack([x, x], -1)
    found = {"every second": doubled[..., 0], "transposed": x.mT.contiguous().mT if x.dim() > 1 else x}
    if x.dim() == 4:
        found["channels last"] = x.contiguous(memory_format=torch.channels_last)
    return found


def gradients(module: UniformQuantizer, x: np.ndarray, grad: np.ndarray) -> dict[str, np.ndarray]:
    """Gradients of ``(module(x) * grad).sum()`` for "x" and the learnable parameters."""
    module.zero_grad()
    leaf = tensor(x).requires_grad_()
    (module(leaf) * tensor(grad)).sum().backward()
    found = {name: value.grad.numpy() for name, value in module.named_parameters()}
    return {"x": leaf.grad.numpy(), **found}


def calibrated_block(bits, stride, *, method="daq", seed=0):
    """A ResNet-20 as drawn, calibrated, with running statistics of its own; one of its blocks, and what it gets."""
    torch.manual_seed(seed)
    model = resnet20(method, bits)
    images = torch.randn(8, 3, 16, 16)
    calibrate(model, images)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight, 1.0, 0.7)
        nn.init.normal_(norm.bias, 0.0, 0.3)
        norm.momentum = None
    with torch.no_grad():
        model.train()(images)
    model.eval()
    return block_and_input(model, "layer2.0" if stride == 2 else "layer1.1", images)


def block_and_input(model, name, images):
    """A block of a network, and what it gets of images."""
    block, seen = model.get_submodule(name), []
    handle = block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(images)
    handle.remove()
    return block, seen[0]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Have torch use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
