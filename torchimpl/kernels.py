"""Compiled kernels for float32 on the CPU: when they are compiled, how threads share the work, when they apply.

A kernel is a plain loop over flat arrays, written beside the method that it belongs to. Each direction of a quantizer
is one such loop: nothing but the input is read, nothing but the output is written. What is summed on the way (the
gradients of a clip range, say) is summed within rows and blocks of fixed size and then over the blocks in their
order, so that the result does not depend on how many threads there are.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reference.grid import Array

BLOCK = 1 << 17  # elements

# A kernel sums this many elements in float32 before it adds to its float64 sums. Its rows are indexed by unsigned
# numbers: where an index could be negative, and then count from the end, the compiler gives up on vectorising.
ROW = 2048

MARGIN = 256  # elements between an output and the inputs; `_empty_like` says why

# What the compiler may assume in a backward pass. In a forward pass: nothing, so that it has the reference's bits.
REORDERED = {"contract", "reassoc", "nsz"}


class Kernel:
    """A loop over flat arrays, compiled when it is first called, and kept on disk where that is possible.

    Parameters
    ----------
    loop : function
        Of arrays of equal size, then (where it sums anything) a float64 array to add the sums to, then float32 numbers.
    exact : bool
        Whether every operation is rounded on its own, in the order written.
    """

    def __init__(self, loop: Callable[..., None], *, exact: bool) -> None:
        self.loop = loop
        self.exact = exact
        self._compiled: Callable[..., None] | None = None

    def __call__(self, *arguments: Any) -> None:
        if self._compiled is None:
            self._compiled = self._compile(arguments)
        self._compiled(*arguments)

    def _compile(self, arguments: Sequence[Any]) -> Callable[..., None]:
        import numba  # here, as it takes a while

        types = tuple(map(numba.typeof, arguments))
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
        if not self.exact:
            options["fastmath"] = REORDERED
        with contextlib.suppress(Exception):  # a cache that can't be written, or that holds rubbish
            cached = numba.njit(cache=True, **options)(self.loop)
            cached.compile(types)
            return cached
        plain = numba.njit(**options)(self.loop)
        plain.compile(types)
        return plain


class _Worker:
    """A thread that runs what it is handed."""

    def __init__(self) -> None:
        self.tasks: SimpleQueue[tuple[Callable[[], None], SimpleQueue[BaseException | None]]] = SimpleQueue()
        threading.Thread(target=self._run, daemon=True, name="quantgap kernels").start()

    def _run(self) -> None:
        while True:
            task, done = self.tasks.get()
            try:
                task()
            except BaseException as error:  # handed to the caller
                done.put(error)
            else:
                done.put(None)


_workers: list[_Worker] = []
os.register_at_fork(after_in_child=_workers.clear)  # threads do not survive a fork


def launch(kernel: Kernel, arrays: Sequence[Array], numbers: Sequence[Any], sums: int = 0) -> Array:
    """Run a kernel over blocks of flat arrays of equal size, with as many threads as torch has; returns the sums."""
    size = arrays[0].size
    blocks = -(-size // BLOCK)
    partial = np.zeros((blocks, sums))

    def run(first: int, last: int) -> None:
        for block in range(first, last):
            part = slice(block * BLOCK, (block + 1) * BLOCK)
            summed = (partial[block],) if sums else ()
            kernel(*(array[part] for array in arrays), *summed, *numbers)

    threads = min(torch.get_num_threads(), blocks)
    if threads <= 1:
        run(0, blocks)
        return partial.sum(axis=0)
    while len(_workers) < threads - 1:
        _workers.append(_Worker())
    cuts = [blocks * i // threads for i in range(threads + 1)]
    done: SimpleQueue[BaseException | None] = SimpleQueue()
    for worker, first, last in zip(_workers, cuts[1:], cuts[2:], strict=False):
        worker.tasks.put((lambda first=first, last=last: run(first, last), done))  # type: ignore[misc]
    try:
        run(0, cuts[1])
    finally:
        errors = [done.get() for _ in range(threads - 1)]
    for error in errors:
        if error is not None:
            raise error
    return partial.sum(axis=0)


@dataclass(frozen=True)
class Fused:
    """The two kernels of an operator, and how its arguments become their numbers.

    Attributes
    ----------
    forward : Kernel
        ``forward(x, out, *numbers)``.
    backward : Kernel
        ``backward(grad, x, grad_x, sums, *numbers)``.
    numbers : callable
        The operator's arguments after x, its parameters as floats, to the forward kernel's numbers.
    backward_numbers : callable
        The same, to the backward kernel's.
    sums : int
        How many sums the backward kernel makes.
    gradients : callable
        The sums, then the same arguments, to the parameters' gradients.
    """

    forward: Kernel
    backward: Kernel
    numbers: Callable[..., tuple[Any, ...]]
    backward_numbers: Callable[..., tuple[Any, ...]]
    sums: int
    gradients: Callable[..., tuple[float, ...]]

    def run_forward(self, x: Tensor, arguments: Sequence[Any]) -> Tensor:
        """Quantize `x`."""
        out = _empty_like(x)
        launch(self.forward, (_flat(x), _flat(out)), self.numbers(*map(_number, arguments)))
        return out

    def run_backward(self, grad: Tensor, x: Tensor, arguments: Sequence[Any]) -> tuple[Tensor, ...]:
        """Return the gradients for `x` and the parameters."""
        grad = grad.contiguous(memory_format=_memory_format(x) or torch.contiguous_format)
        grad_x = _empty_like(x, grad)
        values = [_number(argument) for argument in arguments]
        arrays = (_flat(grad), _flat(x), _flat(grad_x))
        summed = launch(self.backward, arrays, self.backward_numbers(*values), self.sums)
        found = self.gradients(summed, *values)
        learned = zip((a for a in arguments if isinstance(a, Tensor)), found, strict=False)
        return grad_x, *(a.new_full(a.shape, value) for a, value in learned)


_off = False


@contextlib.contextmanager
def switched_off() -> Iterator[None]:
    """Do without kernels, for a comparison: what follows uses torch's own operations."""
    global _off
    before, _off = _off, True
    try:
        yield
    finally:
        _off = before


def applies(x: Tensor, arguments: Sequence[Any]) -> bool:
    """Whether the kernels can be used: float32 on the CPU, in dense memory, one set of parameters."""
    return (
        not _off
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.layout == torch.strided
        and _memory_format(x) is not None
        and all(
            p.numel() == 1 and p.dim() <= x.dim() and p.device.type == "cpu" and p.dtype.is_floating_point
            for p in arguments
            if isinstance(p, Tensor)
        )
    )


def _number(argument: Any) -> Any:
    return argument.item() if isinstance(argument, Tensor) else argument


def _memory_format(x: Tensor) -> torch.memory_format | None:
    if x.is_contiguous():
        return torch.contiguous_format
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return None


def _empty_like(x: Tensor, *inputs: Tensor) -> Tensor:
    """Allocate an output that is at least MARGIN elements away from the inputs.

    Before a loop takes its vectorised form it checks that what it writes does not overlap what it reads, and errs on
    the safe side: next to an input, an output would be computed element by element, slower and with sums in another
    order, depending on where memory happened to be free.
    """
    passed_over = []  # so that their place is taken when the next is looked for
    while True:
        out = torch.empty_like(x)
        length = (out.numel() + MARGIN) * out.element_size()
        if out.numel() == 0 or all(abs(out.data_ptr() - given.data_ptr()) >= length for given in (x, *inputs)):
            return out
        passed_over.append(out)


def _flat(x: Tensor) -> Array:
    """View dense memory as a flat array, whatever the order of the axes."""
    if not x.is_contiguous():
        x = x.permute(0, 2, 3, 1)
    return np.asarray(x.detach().view(-1).numpy())


def reciprocal(n: int) -> tuple[Any, Any]:
    """Split 1/n so that ``q * high + q * low`` is the float32 quotient ``q / n``, for odd n < 2^9 and |q| <= 2^9.

    `high` has 14 bits, so that q * high is exact; `low` has what is left, to 2^-37 of 1/n. A quotient by an odd n is an
    integer, or at least 2^-34 (relative) away from any number halfway between two float32: the sum is rounded the same
    way. Without it a forward pass would divide twice for each element.

    >>> high, low = reciprocal(3)
    >>> bool(np.float32(2) * high + np.float32(2) * low == np.float32(2) / np.float32(3))
    True
    """
    bits = np.array(1 / n, np.float32).view(np.uint32) & np.uint32(0xFFFFFC00)
    high = np.array(bits).view(np.float32)[()]
    return high, np.float32(1 / n - float(high))
