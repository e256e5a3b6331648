"""Compiled kernels for float32 on the CPU: when they are compiled, how threads share the work, when they apply.

A kernel is a plain loop over flat arrays, written beside the method that it belongs to. Each direction of a quantizer
is one such loop, which reads the input (and, backward, the gradient) and writes the output. What is summed on the way
(the gradients of a clip range, say) is summed within rows of fixed size and then over the rows in their order, so that
the result does not depend on how many threads there are.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reference.grid import Array

GRAIN = 1 << 17  # elements; a thread with fewer takes less time than it takes to wake it

# A kernel sums this many elements in float32; its sums over a row go to a row of a float64 array. Elements are indexed
# by unsigned numbers: where an index could be negative, and then count from the end, nothing is vectorised.
ROW = 2048

MARGIN = 256  # elements between an output and the inputs; `_empty_like` says why

# What the compiler may assume in a backward pass. In a forward pass: nothing, so that it has the reference's bits.
REORDERED = {"contract", "reassoc", "nsz"}

_TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Kernel:
    """A loop over flat arrays, compiled when it is first called, and kept on disk where that is possible.

    Parameters
    ----------
    loop : function
        Of arrays of equal size, then (where it sums anything) a float64 array of shape (rows, sums), to set the sums
        of its rows in, then float32 numbers or small tables of them.
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

    @property
    def compiled(self) -> bool:
        """Whether a call goes straight to the compiled loop."""
        return self._compiled is not None

    def _compile(self, arguments: Sequence[Any]) -> Callable[..., None]:
        import numba  # here, as it takes a while

        signature = tuple(map(numba.typeof, arguments))
        loop = _named_by_version(self.loop)
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
        if not self.exact:
            options["fastmath"] = REORDERED
        with contextlib.suppress(Exception):  # a cache that can't be written, or that holds rubbish
            cached = numba.njit(cache=True, **options)(loop)
            cached.compile(signature)
            return cached
        plain = numba.njit(**options)(loop)
        plain.compile(signature)
        return plain


def _named_by_version(loop: Callable[..., None]) -> Callable[..., None]:
    """Copy a loop under a name with a digest of this file, whose constants and options are compiled into it.

    On disk, compiled loops are found by their name, and forgotten when their own file changes.
    """
    copy = types.FunctionType(loop.__code__, loop.__globals__, loop.__name__)
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    copy.__module__, copy.__qualname__ = loop.__module__, f"{loop.__qualname__}_{digest}"
    return copy


def _openmp() -> Callable[..., None] | None:
    """Return ``GOMP_parallel(task, None, threads, 0)`` of the OpenMP runtime that torch has loaded.

    None where there is no such function, on systems other than Linux: one thread does all the work there.
    """
    try:
        function = ctypes.CDLL(None).GOMP_parallel
    except (OSError, TypeError, AttributeError):
        return None
    function.argtypes = (_TASK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    function.restype = None
    return function


_in_parallel = _openmp()


def _alone() -> None:
    global _in_parallel
    _in_parallel = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_alone)  # the runtime's threads do not survive a fork; it would wait for them


def launch(kernel: Kernel, arrays: Sequence[Array], numbers: Sequence[Any], sums: int = 0) -> Array:
    """Run a kernel over flat arrays of equal size, on as many threads as torch has; returns the sums over all rows.

    The threads are torch's own. Others would compete with them: for a while after an operation of torch's they are busy
    waiting for the next.
    """
    size = arrays[0].size
    rows = -(-size // ROW)
    by_row = np.zeros((rows, sums))

    def run(first: int, last: int) -> None:
        part = slice(first * ROW, last * ROW)
        kernel(*(array[part] for array in arrays), *((by_row[first:last],) if sums else ()), *numbers)

    threads = min(torch.get_num_threads(), size // GRAIN)
    if threads <= 1 or _in_parallel is None:
        run(0, rows)
        return by_row.sum(axis=0)
    if not kernel.compiled:
        run(0, 0)  # the compiler needs more stack than a thread of the runtime may have
    parts = iter([(rows * i // threads, rows * (i + 1) // threads) for i in range(threads)])
    errors: list[BaseException] = []

    def work(_: object) -> None:
        try:
            for first, last in parts:  # whoever comes takes the next
                run(first, last)
        except BaseException as error:  # handed to the caller: there is nobody else to catch it
            errors.append(error)

    _in_parallel(_TASK(work), None, threads, 0)
    work(None)  # what is left, if an interrupt took a thread before it began
    if errors:
        raise errors[0]
    return by_row.sum(axis=0)


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
    admits : callable, optional
        Whether the kernels compute what the same arguments ask for; by default whatever they are.
    value_numbers : callable, optional
        The same arguments to the forward kernel's numbers: the backward kernel finds what that computes in grad_x,
        before it writes there.
    tables : bool
        Whether parameters of one axis are handed on as arrays: each is looked up, none belongs to a channel.
    """

    forward: Kernel
    backward: Kernel
    numbers: Callable[..., tuple[Any, ...]]
    backward_numbers: Callable[..., tuple[Any, ...]]
    sums: int
    gradients: Callable[..., tuple[float, ...]]
    admits: Callable[..., bool] | None = None
    value_numbers: Callable[..., tuple[Any, ...]] | None = None
    tables: bool = False

    def applies(self, x: Tensor, arguments: Sequence[Any]) -> bool:
        """Whether the kernels can be used for these arguments of the operator."""
        possible = applies(x, arguments, tables=self.tables)
        return possible and (self.admits is None or self.admits(*map(_number, arguments)))

    def run_forward(self, x: Tensor, arguments: Sequence[Any]) -> Tensor:
        """Quantize `x`."""
        out = _empty_like(x)
        launch(self.forward, (flat(x), flat(out)), self.numbers(*map(_number, arguments)))
        return out

    def run_backward(self, grad: Tensor, x: Tensor, arguments: Sequence[Any]) -> tuple[Tensor, ...]:
        """Return the gradients for `x` and the parameters."""
        grad = grad.contiguous(memory_format=_memory_format(x) or torch.contiguous_format)
        grad_x = _empty_like(x, grad)
        values = [_number(argument) for argument in arguments]
        arrays = (flat(grad), flat(x), flat(grad_x))
        if self.value_numbers is not None:
            launch(self.forward, arrays[1:], self.value_numbers(*values))
        summed = launch(self.backward, arrays, self.backward_numbers(*values), self.sums)
        found = self.gradients(summed.tolist(), *values)
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


def applies(x: Tensor, arguments: Sequence[Any], *, tables: bool = False) -> bool:
    """Whether kernels can be used: float32 on the CPU, in dense memory, one set of parameters (or `tables`)."""
    if _off or x.dtype != torch.float32 or not x.is_cpu or x.layout != torch.strided or _memory_format(x) is None:
        return False
    for p in arguments:
        if isinstance(p, Tensor):
            one = (p.numel() == 1 and p.dim() <= x.dim()) or (tables and p.dim() == 1)
            if not (one and p.is_cpu and p.is_floating_point()):
                return False
    return True


def _number(argument: Any) -> Any:
    if not isinstance(argument, Tensor):
        return argument
    return argument.item() if argument.numel() == 1 else argument.detach().numpy()


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


def flat(x: Tensor) -> Array:
    """View dense memory as a flat array, whatever the order of the axes."""
    if not x.is_contiguous():
        x = x.permute(0, 2, 3, 1)
    return np.asarray(x.detach().numpy()).reshape(-1)


@functools.cache
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
