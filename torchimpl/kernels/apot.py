"""APoT's loops: magnitudes looked up by comparing with one transition point after the other, as for LQ-Nets."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from torchimpl.kernels import ROW, Loop, Loops, load, store, unpack
from torchimpl.kernels.numbers import positive_number

SCALARS = 4  # numbers before the transition points and the magnitudes, of which there is one more


def _forward(_grad, x, out, _sums, numbers):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    alpha, scale, signed, _pass = unpack(numbers[:SCALARS], SCALARS)
    count = (numbers.size - SCALARS) // 2
    points, magnitudes = numbers[SCALARS : SCALARS + count], numbers[SCALARS + count :]
    zero = np.float32(0)
    ratios, found = np.empty(ROW, np.float32), np.empty(ROW, np.float32)
    for row in range(x.size // ROW + 1):
        size, first = min(ROW, x.size - row * ROW), np.uint64(row * ROW)
        for j in range(np.uint64(size)):
            u = load(x, first + j) / alpha
            ratios[j] = u
            found[j] = magnitudes[0]
        for k in range(points.size):
            point, magnitude = points[k], magnitudes[k + 1]
            if signed != zero:
                for j in range(np.uint64(size)):
                    found[j] = magnitude if abs(ratios[j]) > point else found[j]
            else:
                for j in range(np.uint64(size)):
                    found[j] = magnitude if ratios[j] > point else found[j]
        for j in range(np.uint64(size)):
            u = ratios[j]
            v = found[j] if (u > zero) | (signed == zero) else zero - found[j]
            v = v * scale
            v = v if u == u else u
            store(out, first + j, v)


def _backward(grad, x, grad_x, sums, numbers):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    alpha, signed, pass_above, pass_below = unpack(numbers[:SCALARS], SCALARS)
    count = (numbers.size - SCALARS) // 2
    points, magnitudes = numbers[SCALARS : SCALARS + count], numbers[SCALARS + count :]
    zero, one, infinity = np.float32(0), np.float32(1), np.float32(np.inf)
    open_below = (signed == zero) & (pass_below != zero)
    ratios, found = np.empty(ROW, np.float32), np.empty(ROW, np.float32)
    for row in range(len(sums)):
        size, first = min(ROW, x.size - row * ROW), np.uint64(row * ROW)
        for j in range(np.uint64(size)):
            u = load(x, first + j) / alpha
            ratios[j] = u
            found[j] = magnitudes[0]
        for k in range(points.size):
            point, magnitude = points[k], magnitudes[k + 1]
            if signed != zero:
                for j in range(np.uint64(size)):
                    found[j] = magnitude if abs(ratios[j]) > point else found[j]
            else:
                for j in range(np.uint64(size)):
                    found[j] = magnitude if ratios[j] > point else found[j]
        total = zero
        for j in range(np.uint64(size)):
            u = ratios[j]
            g = load(grad, first + j)
            value = found[j] if (u > zero) | (signed == zero) else zero - found[j]
            v = load(x, first + j)
            above, below = u > one, u < -one if signed != zero else (v < zero) & (u == u)
            outside = above | (below & (not open_below)) | (abs(u) == infinity)
            total += g * (value - (zero if outside else u))
            blocked = (above & (pass_above == zero)) | (below & (pass_below == zero))
            passed = zero if blocked else g
            passed = passed if v == v else v
            store(grad_x, first + j, passed)
        sums[row, 0] = total


def _tables(steps: list[int], over: float) -> tuple[Any, ...]:
    """Transition points over the largest magnitude, and magnitudes over a number, each rounded once."""
    points = [np.float32((a + b) / (2 * steps[-1])) for a, b in itertools.pairwise(steps)]
    return *points, *(np.float32(k / over) for k in steps)


def _numbers(alpha: float, steps: list[int], signed: bool, pass_above: bool, pass_below: bool) -> tuple[Any, ...]:
    return positive_number(alpha), positive_number(alpha), np.float32(signed), 0, *_tables(steps, steps[-1])


def _integer_numbers(
    alpha: float, steps: list[int], signed: bool, pass_above: bool, pass_below: bool
) -> tuple[Any, ...]:
    return positive_number(alpha), 1, np.float32(signed), 0, *_tables(steps, 1)


def _backward_numbers(
    alpha: float, steps: list[int], signed: bool, pass_above: bool, pass_below: bool
) -> tuple[Any, ...]:
    flags = map(np.float32, (signed, pass_above, pass_below))
    return positive_number(alpha), *flags, *_tables(steps, steps[-1])


LOOPS = {
    "apot": Loops(
        forward=Loop(_forward, exact=True),
        backward=Loop(_backward, exact=False),
        numbers=_numbers,
        integer_numbers=_integer_numbers,
        backward_numbers=_backward_numbers,
        sums=1,
        gradients=lambda sums, *_: (sums[0],),
    )
}
