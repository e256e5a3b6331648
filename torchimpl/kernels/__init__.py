"""Compiled loops for the CPU: when they are compiled, how threads share the work, when they apply.

Each direction of a quantizer is one plain loop over flat arrays, which reads the input (and, backward, the gradient)
and writes the output; the loops of a method are in the file of its name. What is summed on the way (the gradients of a
clip range, say) is summed within rows of fixed size and then over the rows in their order, so that the result does not
depend on how many threads there are.

Elements are float32, or bfloat16 held as its 16 bits: `load` widens them, `store` rounds the result to nearest, ties
to even. The arithmetic between is that of float32. What is stored must be a plain variable, and stored last: a
conditional expression as the argument keeps a loop from being vectorised.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reference.grid import Array, can_compile

GRAIN = 1 << 17  # elements; a thread with fewer takes less time than it takes to wake it

# A loop sums this many elements in float32; its sums over a row go to a row of a float64 array. Elements are indexed
# by unsigned numbers: where an index could be negative, and then count from the end, nothing is vectorised.
ROW = 2048

MARGIN = 256  # elements between an output and the inputs; `_empty_like` says why

# What the compiler may assume in a backward pass. In a forward pass: nothing, so that it has the reference's bits.
REORDERED = {"contract", "reassoc", "nsz"}

ELEMENTS = {torch.float32: np.float32, torch.bfloat16: np.uint16}


def load(array: Any, i: Any) -> Any:
    """Element i as float32; within loops only, where `_define_elements` says what it does."""
    raise NotImplementedError


def store(array: Any, i: Any, value: Any) -> None:
    """Set element i to a float32 number; within loops only."""
    raise NotImplementedError


def unpack(numbers: Any, count: Any) -> Any:
    """The `count` numbers that a loop gets, as a tuple; within loops only."""
    raise NotImplementedError


class Loop:
    """A loop over flat arrays, compiled for a type of elements when first called with it, and kept on disk if possible.

    Parameters
    ----------
    function : function
        ``function(grad, x, out, sums, numbers)``: arrays of equal size (a forward pass has no `grad`), then a float64
        array of shape (rows, sums) to set the sums of its rows in, and a float32 array.
    exact : bool
        Whether every operation is rounded on its own, in the order written.
    """

    def __init__(self, function: Callable[..., None], *, exact: bool) -> None:
        self.function = function
        self.exact = exact
        self._tasks: dict[tuple[Any, int], Any] = {}

    def task(self, dtype: np.dtype[Any], sums: int) -> Any:
        """Return the compiled task for elements of a type: see `torchimpl.kernels.native`."""
        found = self._tasks.get((dtype, sums))
        if found is None:
            from torchimpl.kernels import native  # here, as it takes a while

            options = {} if self.exact else {"fastmath": REORDERED}
            found = native.compile_task(self.function, options, dtype, sums, _version())
            self._tasks[dtype, sums] = found
        return found


@functools.cache
def _version() -> str:
    """Digest of the files of this package, whose constants and functions are compiled into the loops."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:8]


def _openmp() -> Callable[..., None] | None:
    """Return ``GOMP_parallel(task, None, threads, 0)`` of the OpenMP runtime that torch has loaded.

    None where there is no such function, on systems other than Linux: one thread does all the work there, and a
    training step of ResNet-20 in 1/1 takes 6 (float32) to 11 % (bfloat16) longer on two cores.
    """
    try:
        function = ctypes.CDLL(None).GOMP_parallel
    except (OSError, TypeError, AttributeError):
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    function.restype = None
    return function


_in_parallel = _openmp()


def _alone() -> None:
    global _in_parallel
    _in_parallel = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_alone)  # the runtime's threads do not survive a fork; it would wait for them


def launch(loop: Loop, arrays: Sequence[Array], numbers: Sequence[Any], sums: int = 0) -> Array:
    """Run a loop over flat arrays of equal size, on as many threads as torch has; returns the sums over all rows.

    The threads are torch's own, which run the loop without Python. Others would compete with them: for a while after an
    operation of torch's they are busy waiting for the next.

    Parameters
    ----------
    loop : Loop
    arrays : sequence of ndarray
        ``(grad, x, out)``, of one type.
    numbers : sequence of float, or of one array
    sums : int
        How many sums the loop makes.

    Raises
    ------
    ValueError
        If the arrays are not alike, or not contiguous: native code would read beyond their ends.
    """
    size, kind = arrays[0].size, arrays[0].dtype
    if any(array.size != size or array.dtype != kind or not array.flags.c_contiguous for array in arrays):
        raise ValueError(f"arrays must be alike and contiguous, got {[(a.size, a.dtype.name) for a in arrays]}")
    rows = -(-size // ROW)
    by_row = np.zeros((rows, sums))
    table = np.array(numbers, np.float32) if len(numbers) != 1 else np.atleast_1d(np.asarray(numbers[0], np.float32))
    threads = max(min(torch.get_num_threads(), size // GRAIN), 1) if _in_parallel else 1
    task = loop.task(kind, sums)
    places = [array.ctypes.data for array in (*arrays, by_row, table)]
    data = np.array([0, threads, size, rows, *places, table.size])
    if threads == 1 or _in_parallel is None:
        task.ctypes(data.ctypes.data)
    else:
        _in_parallel(task.address, data.ctypes.data, threads, 0)
    with np.errstate(invalid="ignore"):  # the sum of infinities of both signs is NaN, as it should be
        return by_row.sum(axis=0)


@dataclass(frozen=True)
class Loops:
    """The two loops of an operator, and how its arguments become their numbers.

    Attributes
    ----------
    forward, backward : Loop
    numbers : callable
        ``numbers(*arguments)``, the operator's arguments after x, to the forward loop's numbers.
    integer_numbers : callable
        The same, for outputs in units: integers.
    backward_numbers : callable
        The same, to the backward loop's numbers.
    sums : int
        How many sums the backward loop makes.
    gradients : callable
        The sums, then the same arguments, to the parameters' gradients: numbers, or arrays for tables.
    admits : callable, optional
        Whether the loops compute what the same arguments ask for; by default whatever they are.
    tables : bool
        Whether parameters of one axis are handed on as arrays: each is looked up, none belongs to a channel.
    """

    forward: Loop
    backward: Loop
    numbers: Callable[..., tuple[Any, ...]]
    integer_numbers: Callable[..., tuple[Any, ...]]
    backward_numbers: Callable[..., tuple[Any, ...]]
    sums: int
    gradients: Callable[..., tuple[Any, ...]]
    admits: Callable[..., bool] | None = None
    tables: bool = False

    def apply(self, x: Tensor, arguments: Sequence[Any]) -> bool:
        """Whether the loops can be used for these arguments of the operator."""
        possible = apply(x, arguments, tables=self.tables)
        return possible and (self.admits is None or self.admits(*map(_number, arguments)))

    def run_forward(self, x: Tensor, arguments: Sequence[Any], *, integers: bool = False) -> Tensor:
        """Quantize `x`, to values or to integers."""
        out = _empty_like(x)
        numbers = self.integer_numbers if integers else self.numbers
        launch(self.forward, (flat(x), flat(x), flat(out)), numbers(*map(_number, arguments)))
        return out

    def run_backward(self, grad: Tensor, x: Tensor, arguments: Sequence[Any]) -> tuple[Tensor, ...]:
        """Return the gradients for `x` and the parameters."""
        grad = grad.contiguous(memory_format=_memory_format(x) or torch.contiguous_format)
        grad_x = _empty_like(x, grad)
        values = [_number(argument) for argument in arguments]
        numbers = self.backward_numbers(*values)
        summed = launch(self.backward, (flat(grad), flat(x), flat(grad_x)), numbers, self.sums)
        found = self.gradients(summed.tolist(), *values)
        learned = zip((a for a in arguments if isinstance(a, Tensor)), found, strict=False)
        return grad_x, *(_like(a, value) for a, value in learned)


def find(method: str, operator: str) -> Loops | None:
    """Return the loops of an operator, from the file of its method; None if there are none."""
    name = f"{__name__}.{method}"
    if importlib.util.find_spec(name) is None:
        return None
    loops: dict[str, Loops] = importlib.import_module(name).LOOPS
    return loops.get(operator)


def apply(x: Tensor, arguments: Sequence[Any], *, tables: bool = False) -> bool:
    """Whether loops can be used: float32, bfloat16 on the CPU, in dense memory; one set of parameters, or `tables`.

    Where numba is told not to compile (``NUMBA_DISABLE_JIT``) they can't: torch's own operations do the work.
    """
    if x.dtype not in ELEMENTS or not x.is_cpu or x.layout != torch.strided or _memory_format(x) is None:
        return False
    for p in arguments:
        if isinstance(p, Tensor):
            one = (p.numel() == 1 and p.dim() <= x.dim()) or (tables and p.dim() == 1)
            if not (one and p.is_cpu and p.is_floating_point()):
                return False
    return can_compile()


def _number(argument: Any) -> Any:
    if not isinstance(argument, Tensor):
        return argument
    return argument.item() if argument.numel() == 1 else argument.detach().float().numpy()


def _like(parameter: Tensor, value: Any) -> Tensor:
    """What is summed for a parameter, as a tensor of its shape and type."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value).to(parameter.dtype).reshape(parameter.shape)
    return parameter.new_full(parameter.shape, value)


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
    """View dense memory as a flat array, whatever the order of the axes; bfloat16 as its bits."""
    if not x.is_contiguous():
        x = x.permute(0, 2, 3, 1)
    x = x.detach()
    return np.asarray((x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()).reshape(-1)


@functools.cache
def reciprocal(n: int) -> tuple[Any, Any]:
    """Split 1/n so that ``q * high + q * low`` is the float32 quotient ``q / n``, for odd n < 2^9 and |q| <= 2^9.

    `high` has 14 bits, so that q * high is exact; `low` has what is left, to 2^-37 of 1/n. A quotient by an odd n is an
    integer, or at least 2^-34 (relative) away from any number halfway between two float32: the sum is rounded the same
    way. Without it a forward pass would divide twice for each element. For n = 1 the sum is q itself.

    >>> high, low = reciprocal(3)
    >>> bool(np.float32(2) * high + np.float32(2) * low == np.float32(2) / np.float32(3))
    True
    """
    bits = np.array(1 / n, np.float32).view(np.uint32) & np.uint32(0xFFFFFC00)
    high = np.array(bits).view(np.float32)[()]
    return high, np.float32(1 / n - float(high))
