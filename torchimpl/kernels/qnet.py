"""QNet's loops: sigmoids or steps forward, the sigmoids' derivatives backward.

A block of elements is gone through once for each step of the staircase, so that the inner loop is vectorised.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from torchimpl.kernels import ROW, Loop, Loops, load, store, unpack
from torchimpl.kernels.dasr import EXP  # exp(-a) for 0 <= a <= 1
from torchimpl.kernels.numbers import positive_number

SCALARS = 14  # numbers before the biases and the heights of the steps, of which there are as many
STEPS = 255  # at most
FARTHEST = 32.0  # a sigmoid's argument beyond which it is 0 or 1 to 1e-14


def _forward(_grad, x, out, _sums, numbers):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    soft, alpha, beta, temperature, lowest, limit, e0, e1, e2, e3, e4, e5, e6, e7 = unpack(numbers[:SCALARS], SCALARS)
    count = (numbers.size - SCALARS) // 2
    biases, steps = numbers[SCALARS : SCALARS + count], numbers[SCALARS + count :]
    one, zero, part = np.float32(1), np.float32(0), np.float32(1 / 32)
    scaled, y = np.empty(ROW, np.float32), np.empty(ROW, np.float32)
    for start in range(0, x.size, ROW):
        size, first = min(ROW, x.size - start), np.uint64(start)
        for i in range(np.uint64(size)):
            scaled[i] = load(x, first + i) * beta
            y[i] = lowest
        for k in range(biases.size):
            b, s = biases[k], steps[k]
            if soft:
                for i in range(np.uint64(size)):
                    z = temperature * (scaled[i] - b)
                    w = abs(z)
                    w = limit if w > limit else w
                    w = w * part
                    e = e0 + w * (e1 + w * (e2 + w * (e3 + w * (e4 + w * (e5 + w * (e6 + w * e7))))))
                    e = e * e
                    e = e * e
                    e = e * e
                    e = e * e
                    e = e * e
                    y[i] += s * ((e if z < zero else one) / (one + e))
            else:
                for i in range(np.uint64(size)):
                    y[i] += s if scaled[i] > b else zero
        for i in range(np.uint64(size)):
            v = y[i] * alpha
            v = v if scaled[i] == scaled[i] else scaled[i]
            store(out, first + i, v)


def _backward(grad, x, grad_x, sums, numbers):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    alpha, beta, temperature, slope_temperature, lowest, limit = unpack(numbers[:6], 6)
    e0, e1, e2, e3, e4, e5, e6, e7 = unpack(numbers[6:SCALARS], 8)
    count = (numbers.size - SCALARS) // 2
    biases, steps = numbers[SCALARS : SCALARS + count], numbers[SCALARS + count :]
    one, zero, part = np.float32(1), np.float32(0), np.float32(1 / 32)
    scaled, y, slope = np.empty(ROW, np.float32), np.empty(ROW, np.float32), np.empty(ROW, np.float32)
    passed = np.empty(ROW, np.float32)
    twice = slope_temperature != temperature
    for row in range(len(sums)):
        start = row * ROW
        size, first = min(ROW, x.size - start), np.uint64(start)
        for i in range(np.uint64(size)):
            scaled[i] = load(x, first + i) * beta
            y[i] = lowest
            slope[i] = zero
            passed[i] = load(grad, first + i) * alpha
        for k in range(biases.size):
            b, s = biases[k], steps[k]
            by_bias = zero
            for i in range(np.uint64(size)):
                z = temperature * (scaled[i] - b)
                w = abs(z)
                w = limit if w > limit else w
                w = w * part
                e = e0 + w * (e1 + w * (e2 + w * (e3 + w * (e4 + w * (e5 + w * (e6 + w * e7))))))
                e = e * e
                e = e * e
                e = e * e
                e = e * e
                e = e * e
                inverse = one / (one + e)
                y[i] += s * ((e if z < zero else one) * inverse)
                own = s * (e * inverse * inverse)
                slope[i] += own
                by_bias -= passed[i] * (temperature * own)
            sums[row, 2 + k] = by_bias
        if twice:
            for i in range(np.uint64(size)):
                slope[i] = zero
            for k in range(biases.size):
                b, s = biases[k], steps[k]
                by_bias = zero
                for i in range(np.uint64(size)):
                    w = abs(slope_temperature * (scaled[i] - b))
                    w = limit if w > limit else w
                    w = w * part
                    e = e0 + w * (e1 + w * (e2 + w * (e3 + w * (e4 + w * (e5 + w * (e6 + w * e7))))))
                    e = e * e
                    e = e * e
                    e = e * e
                    e = e * e
                    e = e * e
                    own = s * (e / ((one + e) * (one + e)))
                    slope[i] += own
                    by_bias -= passed[i] * (temperature * own)
                sums[row, 2 + k] = by_bias
        by_alpha = by_beta = zero
        for i in range(np.uint64(size)):
            at = first + i
            g = load(grad, at)
            v = load(x, at)
            by_u = passed[i] * (temperature * slope[i])
            by_alpha += g * y[i]
            by_beta += by_u * (zero if abs(v) == np.float32(np.inf) else v)
            by_u = by_u * beta
            store(grad_x, at, by_u)
        sums[row, 0] = by_alpha
        sums[row, 1] = by_beta


def _scale(beta: float, biases: Any) -> Any:
    """Beta, or NaN where it or a bias is not admitted."""
    return positive_number(beta) if np.isfinite(biases).all() else np.float32(math.nan)


def _numbers(
    alpha: float, beta: float, biases: Any, temperature: float, steps: list[float], lowest: float, limit: float,
    slope_at_one: bool, soft: bool,
) -> tuple[Any, ...]:  # fmt: skip
    single = map(np.float32, (temperature, lowest, min(limit, FARTHEST)))
    scales = (positive_number(alpha), _scale(beta, biases))
    return soft, *scales, *single, *EXP, *np.ravel(biases), *steps


def _integer_numbers(
    alpha: float, beta: float, biases: Any, temperature: float, steps: list[float], lowest: float, limit: float,
    slope_at_one: bool, soft: bool,
) -> tuple[Any, ...]:  # fmt: skip
    return _numbers(1.0, beta, biases, temperature, steps, lowest, limit, slope_at_one, False)


def _backward_numbers(
    alpha: float, beta: float, biases: Any, temperature: float, steps: list[float], lowest: float, limit: float,
    slope_at_one: bool, soft: bool,
) -> tuple[Any, ...]:  # fmt: skip
    single = map(np.float32, (temperature, 1.0 if slope_at_one else temperature, lowest, min(limit, FARTHEST)))
    scales = (positive_number(alpha), _scale(beta, biases))
    return *scales, *single, *EXP, *np.ravel(biases), *steps


LOOPS = {
    "qnet": Loops(
        forward=Loop(_forward, exact=True),
        backward=Loop(_backward, exact=False),
        numbers=_numbers,
        integer_numbers=_integer_numbers,
        backward_numbers=_backward_numbers,
        sums=2 + STEPS,
        gradients=lambda sums, alpha, beta, biases, *_: (*sums[:2], np.array(sums[2 : 2 + np.size(biases)])),
        tables=True,
    )
}
