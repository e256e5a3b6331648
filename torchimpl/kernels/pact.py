"""PACT's loops: activations clipped at a learned level."""

from __future__ import annotations

from typing import Any

import numpy as np

from torchimpl.kernels import ROW, Loop, Loops, load, reciprocal, store, unpack
from torchimpl.kernels.numbers import positive_number


def _forward(_grad, x, out, _sums, numbers):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    alpha, n, high, low, scale = unpack(numbers, 5)
    zero = np.float32(0)
    for i in range(x.size):
        v = load(x, i)
        clipped = zero if v < zero else (alpha if v > alpha else v)
        q = np.rint(clipped / alpha * n) + zero
        store(out, i, (q * high + q * low) * scale)


def _backward(grad, x, grad_x, sums, numbers):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    alpha, at_zero, at_alpha = unpack(numbers, 3)
    zero = np.float32(0)
    for row in range(len(sums)):
        total = zero
        for j in range(min(ROW, x.size - row * ROW)):
            i = np.uint64(row * ROW + j)
            v = load(x, i)
            g = load(grad, i)
            g = v if v != v else g  # NaN passes both comparisons
            closed = ((v == zero) & (at_zero == zero)) | ((v == alpha) & (at_alpha == zero))
            passed = zero if (v < zero) | (v > alpha) | closed else g
            total += zero if v < alpha else g
            store(grad_x, i, passed)
        sums[row, 0] = total


def _numbers(alpha: float, n: int, at_zero: bool, at_alpha: bool) -> tuple[Any, ...]:
    return positive_number(alpha), np.float32(n), *reciprocal(n), positive_number(alpha)


def _integer_numbers(alpha: float, n: int, at_zero: bool, at_alpha: bool) -> tuple[Any, ...]:
    return positive_number(alpha), np.float32(n), *reciprocal(1), np.float32(1)


def _backward_numbers(alpha: float, n: int, at_zero: bool, at_alpha: bool) -> tuple[Any, ...]:
    return positive_number(alpha), np.float32(at_zero), np.float32(at_alpha)


LOOPS = {
    "pact": Loops(
        forward=Loop(_forward, exact=True),
        backward=Loop(_backward, exact=False),
        numbers=_numbers,
        integer_numbers=_integer_numbers,
        backward_numbers=_backward_numbers,
        sums=1,
        gradients=lambda sums, *_: (sums[0],),
    )
}
