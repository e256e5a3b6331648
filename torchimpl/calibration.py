"""First values for every quantizer and scale of a network, before it is compiled, distributed or tested."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from reference import checks
from torchimpl.layers import QuantizedLayer
from torchimpl.quantizers.base import Quantizer, calibrating, ranks


@torch.no_grad()
def calibrate(model: nn.Module, *inputs: Any, **keywords: Any) -> nn.Module:
    """Give every quantizer and output scale that has none its first values, from one batch.

    The batch passes once, in training mode, so that each layer sees what it would see in the first step. Nothing else
    changes: modes, running statistics and random numbers are afterwards what they were. Do it before `torch.compile`
    and `DistributedDataParallel`, whose forward passes refuse networks without first values. With a process group of
    several ranks every rank must call it, and the values of rank 0 become everyone's.

    Parameters
    ----------
    model : Module
        With quantized layers, or quantizers as parametrizations, anywhere.
    *inputs, **keywords
        What the model is called with: a batch of images, say, on its device.

    Returns
    -------
    Module
        `model`.

    Raises
    ------
    ValueError
        If the batch does not do, which names the quantizer or layer, or does not reach every quantizer, which are
        then named. Nothing is set.
    RuntimeError
        If that happened on another rank.

    Examples
    --------
    >>> from torchimpl.layers import QuantLinear
    >>> layer = QuantLinear(8, 2, method="lsq", bits=(4, 4))
    >>> bool(calibrate(layer, torch.rand(16, 8)).input_quantizer.initialized)
    True
    """
    parts = [module for module in model.modules() if isinstance(module, Quantizer | QuantizedLayer)]
    own = {id(part) for part in parts}
    for name, part in model.named_modules():
        if id(part) in own and not part.label:
            part.label = name
    for part in parts:
        part.notice_first_values()
    before = [(tensor, tensor.clone()) for tensor in _own_tensors(parts)]
    problem: Exception | None = None
    try:
        with all_else_unchanged(model, own), calibrating(), _named_errors(model, own):
            model.train()(*inputs, **keywords)
        missing = [name for name, part in model.named_modules() if id(part) in own and not part.has_first_values]
        if missing:
            shapes = [tuple(x.shape) for x in (*inputs, *keywords.values()) if isinstance(x, Tensor)]
            raise checks.refuse("batch", shapes, f"one that reaches {', '.join(missing)}")
    except Exception as error:
        problem = error
    device = before[0][0].device if before else torch.device("cpu")
    if ranks() > 1:
        failed = torch.tensor(0 if problem is None else 1, device=device)
        torch.distributed.all_reduce(failed)
        if int(failed) and problem is None:
            problem = RuntimeError(f"calibration failed on {int(failed)} of {ranks() - 1} other ranks")
    if problem is not None:
        for tensor, value in before:
            tensor.copy_(value)
    elif ranks() > 1:
        for tensor in _own_tensors(parts):
            torch.distributed.broadcast(tensor, src=0)
    for part in parts:
        part.notice_first_values()
    if problem is not None:
        raise problem
    return model


def _own_tensors(parts: Sequence[nn.Module]) -> list[Tensor]:
    """Parameters and buffers that calibration may set: those of quantizers, and the layers' scales."""
    found: list[Tensor] = []
    for part in parts:
        if isinstance(part, QuantizedLayer):
            found += [part.scale_initialized, *([] if part.scale is None else [part.scale])]
        else:
            found += chain(part.parameters(), part.buffers())
    return found


@contextmanager
def _named_errors(model: nn.Module, parts: Collection[int]) -> Iterator[None]:
    """Put the name of the part that refuses its first data before what it says; `parts` are the parts' ids."""
    within: list[str] = []
    hooks = []
    for name, part in model.named_modules():
        if id(part) in parts:
            hooks.append(part.register_forward_pre_hook(lambda *_, name=name: within.append(name)))
            hooks.append(part.register_forward_hook(lambda *_: within.pop() and None))
    try:
        yield
    except ValueError as error:
        if not within or not within[-1]:
            raise
        raise ValueError(f"{within[-1]}: {error}") from None
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def all_else_unchanged(model: nn.Module, parts: Collection[int] = ()) -> Iterator[None]:
    """Restore modes, random numbers and the buffers of all modules whose ids are not in `parts`."""
    modes = {module: module.training for module in model.modules()}
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in modes
        if id(module) not in parts
        for name, buffer in module.named_buffers(recurse=False)
    ]
    devices = {p.device for p in model.parameters() if p.is_cuda}
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        for module, name, buffer, value in buffers:
            setattr(module, name, buffer)
            buffer.copy_(value)
