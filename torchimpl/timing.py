"""What quantizers cost: alternatives timed by turns in one run, so that ratios mean something on a busy machine."""

from __future__ import annotations

import math
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reference import registry
from torchimpl import files
from torchimpl.layers import Bits
from torchimpl.models import resnet20
from torchimpl.quantizers import quantizer_class
from torchimpl.quantizers.base import Quantizer

Run = Callable[[], object]
QUIET = Path(tempfile.gettempdir()) / f"quantgap-timing-{os.getuid()}.lock"
LONG = 120.0  # seconds


def quiet() -> AbstractContextManager[None]:
    """Let the suite's long computations in other processes pause, as they call `wait_for_quiet`."""
    return files.locked(QUIET)


def wait_for_quiet() -> None:
    """Wait while another process of this machine times something; warn if that takes minutes."""
    begun = time.monotonic()
    while files.is_locked(QUIET):
        time.sleep(0.2)
        if time.monotonic() - begun > LONG:
            warnings.warn(f"waiting: a process that times something holds {QUIET}", UserWarning, stacklevel=2)
            begun = math.inf


def medians(runs: Mapping[str, Run], *, rounds: int = 11, warmup: int = 2) -> dict[str, float]:
    """Median wall-clock seconds of each run; every round calls each twice and times the second.

    The first call leaves caches and the allocator as this alternative, and not the one before it, leaves them: nearly
    so, and therefore each round has an order of its own.

    >>> sorted(medians({"a": lambda: 1, "b": lambda: 2}, rounds=3))
    ['a', 'b']
    """
    return {name: statistics.median(times) for name, times in by_turns(runs, rounds=rounds, warmup=warmup).items()}


def by_turns(runs: Mapping[str, Run], *, rounds: int = 11, warmup: int = 2) -> dict[str, list[float]]:
    """Wall-clock seconds of each run in each round, in ascending order: see `medians`."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    shuffled = np.random.default_rng(0)
    with quiet():
        for _ in range(warmup + rounds):
            for i in shuffled.permutation(len(names)):
                name, run = names[i], runs[names[i]]
                run()
                start = time.perf_counter()
                run()
                found[name].append(time.perf_counter() - start)
    return {name: sorted(times[warmup:]) for name, times in found.items()}


def activation_quantizer(method: str, sample: Tensor, **options: object) -> Quantizer:
    """Build a method's quantizer of activations at 2 bits (or what it has), initialised from `sample`."""
    known = registry.method(method)
    role = known.input_role
    quantizer = quantizer_class(method)(min(2, known.bits[role][-1]), role, **options)  # type: ignore[arg-type]
    quantizer.initialize(sample.abs() if role == "activation" else sample)
    return quantizer.train()


def forward(quantizer: Callable[[Tensor], Tensor], x: Tensor) -> Run:
    """Return a forward pass that keeps what a backward pass needs."""
    leaf = x.detach().requires_grad_()
    return lambda: quantizer(leaf)


def forward_backward(quantizer: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> Run:
    """Return a forward and a backward pass, with outputs of their own."""

    def run() -> None:
        leaf = x.detach().requires_grad_()
        quantizer(leaf).backward(grad)  # type: ignore[no-untyped-call]

    return run


def copy_of_20_bytes(x: Tensor, grad: Tensor) -> Run:
    """Return a copy between buffers that are there, of 20 bytes an element: what a quantizer must move at least.

    That is: read x, write the output; read x and its gradient, write the other gradient.
    """
    source = torch.cat([x.flatten(), grad.flatten(), x.flatten()[: x.numel() // 2]])
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def bytes_kept(quantizer: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """Bytes kept for the backward pass, the input itself included once."""
    kept: dict[int, int] = {}

    def note(t: Tensor) -> Tensor:
        kept[t.data_ptr()] = t.numel() * t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        quantizer(x.detach().requires_grad_())
    return sum(kept.values())


def lowest_bits(method: str) -> Bits:
    """The lowest bit-widths of weights and activations for which a method is defined; None where it has none."""
    known = registry.method(method)
    return (known.admitted("weight")[0] if "weight" in known.bits else None), known.admitted(known.input_role)[0]


def training_step(
    method: str | None, bits: Bits, *, batch: int = 128, dtype: torch.dtype = torch.float32, **options: Any
) -> Run:
    """Return a step of training ResNet-20 on random images: forward (under autocast to `dtype`), backward, SGD."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, 32, 32, generator=generator)
    y = torch.randint(0, 10, (batch,), generator=generator)
    model: nn.Module = resnet20(method, bits, **options).train()
    model(x)
    # At so small a rate no range leaves its bounds, however often a step is repeated; NaN would take other times.
    optimizer = torch.optim.SGD(model.parameters(), 1e-9, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return run
