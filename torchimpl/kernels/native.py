# mypy: disable-error-code="attr-defined, call-arg"
"""How a loop becomes native code that OpenMP's threads can run without Python: imported when the first is compiled.

A *task* is a C function of one pointer, to what `DATA` lists. It takes one part of the rows after another, counted
atomically, and calls the loop on that part of the arrays; any number of threads may run it at once.
"""

from __future__ import annotations

import types as python_types
from collections.abc import Callable, Mapping
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic, overload
from numba.np.unsafe.ndarray import to_fixed_tuple

from torchimpl.kernels import ROW, load, store, unpack

DATA = ("next part", "parts", "size", "rows", "grad", "x", "out", "sums", "numbers", "how many")  # each int64

# What `_task` finds in their place: see `compile_task`.
LOOP: Any = None
ELEMENT, BYTES, SUMS = np.float32, 4, 0


@overload(load)
def _load(array, i):  # type: ignore[no-untyped-def]
    if array.dtype == types.uint16:
        return lambda array, i: np.uint32(np.uint32(array[i]) << np.uint32(16)).view(np.float32)
    return lambda array, i: array[i]


@overload(store)
def _store(array, i, value):  # type: ignore[no-untyped-def]
    def rounded(array, i, value):  # type: ignore[no-untyped-def]
        bits = np.float32(value).view(np.uint32)
        even = np.uint32((bits >> np.uint32(16)) & np.uint32(1))
        bits = np.uint32(bits + even + np.uint32(0x7FFF))
        array[i] = np.uint16(0x7FC0) if value != value else np.uint16(bits >> np.uint32(16))

    def plain(array, i, value):  # type: ignore[no-untyped-def]
        array[i] = value

    return rounded if array.dtype == types.uint16 else plain


@overload(unpack, prefer_literal=True)
def _unpack(numbers, count):  # type: ignore[no-untyped-def]
    literal = count.literal_value
    return lambda numbers, count: to_fixed_tuple(numbers, literal)


@intrinsic
def _pointer(context, address):  # type: ignore[no-untyped-def]
    def code(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), code


@intrinsic
def _count(context, pointer):  # type: ignore[no-untyped-def]
    """Add 1 to the int64 that `pointer` points to, atomically; returns what it was."""

    def code(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        integer = ir.IntType(64)
        place = builder.bitcast(arguments[0], integer.as_pointer())
        return builder.atomic_rmw("add", place, ir.Constant(integer, 1), "monotonic")

    return types.int64(types.voidptr), code


def _task(pointer):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    data = carray(pointer, len(DATA), np.int64)
    numbers = carray(_pointer(data[8]), data[9], np.float32)
    part = _count(pointer)
    while part < data[1]:
        row, end = data[3] * part // data[1], data[3] * (part + 1) // data[1]
        first = row * ROW
        size = min(end * ROW, data[2]) - first
        grad = carray(_pointer(data[4] + first * BYTES), size, ELEMENT)
        x = carray(_pointer(data[5] + first * BYTES), size, ELEMENT)
        out = carray(_pointer(data[6] + first * BYTES), size, ELEMENT)
        sums = carray(_pointer(data[7] + row * SUMS * 8), (end - row, SUMS), np.float64)
        LOOP(grad, x, out, sums, numbers)
        part = _count(pointer)


def compile_task(
    loop: Callable[..., None], options: Mapping[str, Any], dtype: np.dtype[Any], sums: int, version: str
) -> Any:
    """Compile a loop, and the task that runs it; kept on disk where that is possible.

    On disk, functions are found by their name and forgotten when their own file changes: the name has the version of
    all that is compiled into them.

    The loop is made part of the task. Otherwise there would be two of it in the process that compiles, its own and the
    task's copy, which may sum in other orders; and the one that is called there is not the one that is kept.

    Returns
    -------
    CFunc
        Whose `address` is that of the task.
    """
    place = _task.__globals__ | {
        "LOOP": numba.njit(error_model="numpy", forceinline=True, **options)(loop),
        "ELEMENT": dtype.type,
        "BYTES": dtype.itemsize,
        "SUMS": sums,
    }
    task = python_types.FunctionType(_task.__code__, place, _task.__name__)
    task.__module__ = __name__
    task.__qualname__ = f"{loop.__module__.rpartition('.')[2]}{loop.__name__}_{dtype.name}_{sums}_{version}"
    signature = types.void(types.voidptr)
    try:
        return numba.cfunc(signature, cache=True)(task)
    except Exception:  # a cache that can't be written, or that holds rubbish
        return numba.cfunc(signature)(task)
