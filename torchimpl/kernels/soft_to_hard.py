"""Soft-to-hard quantization's loops: a softmax over the centres, one centre after the other; in test a search.

Exponents are taken from the nearest centre, so that they are at most 0. As in QNet's loops, a block of elements is gone
through once for each centre, so that the inner loop is vectorised.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from reference.grid import Array
from reference.soft_to_hard import FAR
from torchimpl.kernels import ROW, Loop, Loops, load, store, unpack
from torchimpl.kernels.dasr import EXP  # exp(-a) for 0 <= a <= 1

SCALARS = 11  # numbers before the centres, the same in ascending order, and the transition points
CENTERS = 256  # at most
SMALLEST = 32.0  # of an exponent, beyond which a centre has no share: it would be 1e-14


def _forward(_grad, x, out, _sums, numbers):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    soft, sigma, far, e0, e1, e2, e3, e4, e5, e6, e7 = unpack(numbers[:SCALARS], SCALARS)
    count = (numbers.size - SCALARS + 1) // 3
    centers, levels = numbers[SCALARS : SCALARS + count], numbers[SCALARS + count : SCALARS + 2 * count]
    points = numbers[SCALARS + 2 * count :]
    one, zero, part = np.float32(1), np.float32(0), np.float32(1 / 32)
    values, near = np.empty(ROW, np.float32), np.empty(ROW, np.float32)
    total, mean = np.empty(ROW, np.float32), np.empty(ROW, np.float32)
    for row in range(x.size // ROW + 1):
        size, first = min(ROW, x.size - row * ROW), np.uint64(row * ROW)
        for j in range(np.uint64(size)):
            v = load(x, first + j)
            values[j] = v
            near[j] = v if v != v else levels[0]
            total[j] = mean[j] = zero
        for k in range(points.size):
            point, level = points[k], levels[k + 1]
            for j in range(np.uint64(size)):
                near[j] = level if values[j] > point else near[j]
        if soft != zero:
            for j in range(np.uint64(size)):
                v = values[j]
                v = far if v > far else v
                values[j] = -far if v < -far else v
            for k in range(centers.size):
                c = centers[k]
                for j in range(np.uint64(size)):
                    apart = c - near[j]
                    w = -sigma * (apart * ((values[j] - c) + (values[j] - near[j])))
                    w = zero if w < zero else w
                    kept = zero if w >= np.float32(SMALLEST) else one
                    w = (np.float32(SMALLEST) if w >= np.float32(SMALLEST) else w) * part
                    e = e0 + w * (e1 + w * (e2 + w * (e3 + w * (e4 + w * (e5 + w * (e6 + w * e7))))))
                    e = e * e
                    e = e * e
                    e = e * e
                    e = e * e
                    e = e * e
                    e = e * kept
                    total[j] += e
                    mean[j] += e * apart
            for j in range(np.uint64(size)):
                near[j] = near[j] + mean[j] / total[j]
        for j in range(np.uint64(size)):
            v = near[j]
            store(out, first + j, v)


def _backward(grad, x, grad_x, sums, numbers):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    _soft, sigma, far, e0, e1, e2, e3, e4, e5, e6, e7 = unpack(numbers[:SCALARS], SCALARS)
    count = (numbers.size - SCALARS + 1) // 3
    centers, levels = numbers[SCALARS : SCALARS + count], numbers[SCALARS + count : SCALARS + 2 * count]
    points = numbers[SCALARS + 2 * count :]
    one, zero, part, two = np.float32(1), np.float32(0), np.float32(1 / 32), np.float32(2)
    values, near = np.empty(ROW, np.float32), np.empty(ROW, np.float32)
    total, mean, square = np.empty(ROW, np.float32), np.empty(ROW, np.float32), np.empty(ROW, np.float32)
    for row in range(len(sums)):
        size, first = min(ROW, x.size - row * ROW), np.uint64(row * ROW)
        for j in range(np.uint64(size)):
            v = load(x, first + j)
            near[j] = v if v != v else levels[0]
            values[j] = v
            total[j] = mean[j] = square[j] = zero
        for k in range(points.size):
            point, level = points[k], levels[k + 1]
            for j in range(np.uint64(size)):
                near[j] = level if values[j] > point else near[j]
        for j in range(np.uint64(size)):
            v = values[j]
            v = far if v > far else v
            values[j] = -far if v < -far else v
        for k in range(centers.size):
            c = centers[k]
            for j in range(np.uint64(size)):
                apart = c - near[j]
                w = -sigma * (apart * ((values[j] - c) + (values[j] - near[j])))
                w = zero if w < zero else w
                kept = zero if w >= np.float32(SMALLEST) else one
                w = (np.float32(SMALLEST) if w >= np.float32(SMALLEST) else w) * part
                e = e0 + w * (e1 + w * (e2 + w * (e3 + w * (e4 + w * (e5 + w * (e6 + w * e7))))))
                e = e * e
                e = e * e
                e = e * e
                e = e * e
                e = e * e
                e = e * kept
                total[j] += e
                mean[j] += e * apart
                square[j] += e * (apart * apart)
        for j in range(np.uint64(size)):
            inverse = one / total[j]
            m = mean[j] * inverse
            g = load(grad, first + j)
            passed = g * (two * sigma * (square[j] * inverse - m * m))
            store(grad_x, first + j, passed)
            mean[j] = m
            total[j] = g * inverse
        for k in range(centers.size):
            c = centers[k]
            by_center = zero
            for j in range(np.uint64(size)):
                apart = c - near[j]
                w = -sigma * (apart * ((values[j] - c) + (values[j] - near[j])))
                w = zero if w < zero else w
                kept = zero if w >= np.float32(SMALLEST) else one
                w = (np.float32(SMALLEST) if w >= np.float32(SMALLEST) else w) * part
                e = e0 + w * (e1 + w * (e2 + w * (e3 + w * (e4 + w * (e5 + w * (e6 + w * e7))))))
                e = e * e
                e = e * e
                e = e * e
                e = e * e
                e = e * e
                e = e * kept
                by_center += total[j] * e * (one + (apart - mean[j]) * (two * sigma) * (values[j] - c))
            sums[row, k] = by_center


def _tables(centers: Any, values: Array | None) -> tuple[Any, ...]:
    """The centres, what stands for them in ascending order, and the transition points; all NaN if one is not finite."""
    own = np.ravel(centers).astype(np.float32)
    if not np.isfinite(own).all():
        return tuple(np.full(3 * own.size - 1, math.nan))
    ascending = np.sort(own)
    half = np.float32(0.5)
    return *own, *(ascending if values is None else values), *(ascending[:-1] * half + ascending[1:] * half)


def _numbers(centers: Any, sigma: float, soft: bool) -> tuple[Any, ...]:
    return np.float32(soft), np.float32(sigma), FAR, *EXP, *_tables(centers, None)


def _integer_numbers(centers: Any, sigma: float, soft: bool) -> tuple[Any, ...]:
    return np.float32(False), np.float32(sigma), FAR, *EXP, *_tables(centers, np.arange(np.size(centers)))


LOOPS = {
    "soft_to_hard": Loops(
        forward=Loop(_forward, exact=True),
        backward=Loop(_backward, exact=False),
        numbers=_numbers,
        integer_numbers=_integer_numbers,
        backward_numbers=_numbers,
        sums=CENTERS,
        gradients=lambda sums, centers, *_: (np.array(sums[: np.size(centers)]),),
        tables=True,
    )
}
