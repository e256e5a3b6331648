"""Integer arithmetic, the oracle of integer networks: convolution, multiplication, and codes packed into bytes.

Everything here is exact, in int64. Programs that hold the same integers as floating point numbers are exact, too, as
long as their sums are small enough (`largest_sum`).
"""

from __future__ import annotations

import operator

import numpy as np
import numpy.typing as npt

from reference import checks, grid
from reference.grid import Array

EXACT_IN_BFLOAT16 = 2**8  # every integer of at most this magnitude is a number of the type
EXACT_IN_FLOAT32 = 2**24
EXACT_IN_FLOAT64 = 2**53
LARGEST = 2**63 - 1  # in int64


def largest_sum(w_largest: int, x_largest: int, terms: int) -> int:
    """Bound on the magnitude of a sum of products of integers: ``w_largest * x_largest * terms``, which is attained.

    A sum of products of integers held as floats is exact, *whatever the order of its additions*, if this is at most
    2^24 in float32, or 2^53 in float64. For the sum of any of the products is an integer of at most that magnitude.
    So are all numbers that occur on the way: the products; the partial sums, one after another, in blocks, in a tree
    or over several threads; and the results of fused multiply-adds. Each is a number of the type, hence rounded to
    itself, and the result has the same bits for every order, block size and thread count.

    Beyond the bound sums of actual data may still be exact, but none of this is certain: 2^24 + 1 is no number of
    float32, and 2^24 + 1 + 1 is 2^24 or 2^24 + 2, depending on which two are added first.

    Operands in bfloat16 are exact up to 2^8 = 256. Accumulated in float32, within its bound, their sum is exact; stored
    as bfloat16, it is rounded once.

    Algorithms that do not add up these products, as Winograd's (which multiplies by fractions) and the fast Fourier
    transform, are not covered: their numbers on the way are no integers.

    Parameters
    ----------
    w_largest, x_largest : int
        Largest magnitudes of the two factors, from 0.
    terms : int
        Number of products, from 0: of a convolution, C / groups times the size of the kernel.

    >>> largest_sum(3, 3, 512 * 3 * 3) <= EXACT_IN_FLOAT32  # two bits each, 512 channels
    True
    """
    factors = (("w_largest", w_largest), ("x_largest", x_largest), ("terms", terms))
    w, x, count = (_whole(name, value, 0) for name, value in factors)
    return w * x * count


def convolve(
    x: npt.ArrayLike,
    w: npt.ArrayLike,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Array:
    """Convolve integers, as neural networks do (that is, correlate), exactly.

    Parameters
    ----------
    x : array_like of int, shape (N, C, H, W)
        N may be 0.
    w : array_like of int, shape (O, C / groups, kh, kw)
    stride, padding, dilation : int or pair of int
        Vertically and horizontally; a single number is both. Padding is of zeros, on all sides.
    groups : int
        Output channels, divided into so many groups of neighbours, see the input channels of their group only.

    Returns
    -------
    ndarray of int64, shape (N, O, H', W')
        ``H' = (H + 2 padding - dilation (kh - 1) - 1) // stride + 1``, and W' likewise.

    Raises
    ------
    ValueError
        If arrays do not hold integers, or hold such that int64 might overflow; if shapes do not fit each other; if the
        kernel has no elements or is larger than the padded image.

    >>> convolve([[[[1, 2, 3], [4, 5, 6]]]], [[[[1, -1]]]]).tolist()
    [[[[-1, -1], [-1, -1]]]]
    """
    x, w, steps, pads, spread = _checked(x, w, stride, padding, dilation, groups)
    n, (o, per_group, kh, kw) = len(x), w.shape
    image = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[0]), (pads[1], pads[1])))
    extent = tuple(d * (k - 1) + 1 for d, k in zip(spread, (kh, kw), strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(image, extent, axis=(2, 3))
    windows = windows[:, :, :: steps[0], :: steps[1], :: spread[0], :: spread[1]]
    windows = windows.reshape(n, groups, per_group, *windows.shape[2:])
    kernels = w.reshape(groups, o // groups, per_group, kh, kw)
    found = np.einsum("ngchwij,gocij->ngohw", windows, kernels)
    return np.ascontiguousarray(found.reshape(n, o, *found.shape[3:]))


def _convolve_loop(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    x, w, out, down, right, top, left, down_in, right_in
):
    n, o, height, width = out.shape
    per_group, kh, kw = w.shape[1:]
    outputs = o // (x.shape[1] // per_group)  # of a group
    for b in range(n):
        for k in range(o):
            first = k // outputs * per_group
            for h in range(height):
                for v in range(width):
                    total = 0
                    for c in range(per_group):
                        for i in range(kh):
                            row = h * down + i * down_in - top
                            if row < 0 or row >= x.shape[2]:
                                continue
                            for j in range(kw):
                                column = v * right + j * right_in - left
                                if 0 <= column < x.shape[3]:
                                    total += x[b, first + c, row, column] * w[k, c, i, j]
                    out[b, k, h, v] = total


def convolve_numba(
    x: npt.ArrayLike,
    w: npt.ArrayLike,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Array:
    """Compiled twin of `convolve`: the same integers, without the memory of padded images and windows.

    >>> convolve_numba([[[[1, 2, 3], [4, 5, 6]]]], [[[[1, -1]]]]).tolist()
    [[[[-1, -1], [-1, -1]]]]
    """
    if not grid.can_compile():
        return convolve(x, w, stride=stride, padding=padding, dilation=dilation, groups=groups)
    x, w, steps, pads, spread = _checked(x, w, stride, padding, dilation, groups)
    sizes = zip(x.shape[2:], w.shape[2:], steps, pads, spread, strict=True)
    shape = [(size + 2 * pad - gap * (k - 1) - 1) // step + 1 for size, k, step, pad, gap in sizes]
    out = np.empty((len(x), len(w), *shape), np.int64)
    grid.compiled(_convolve_loop)(x, w, out, *steps, *pads, *spread)
    return out


def multiply(x: npt.ArrayLike, w: npt.ArrayLike) -> Array:
    """Multiply integers by a matrix, as a linear layer does: ``x w^T``, exactly.

    Parameters
    ----------
    x : array_like of int, shape (..., K)
    w : array_like of int, shape (O, K)

    Returns
    -------
    ndarray of int64, shape (..., O)

    Raises
    ------
    ValueError
        If arrays do not hold integers, or hold such that int64 might overflow; if shapes do not fit each other, or w
        has no elements.

    >>> multiply([1, 2], [[3, 4], [0, -1]]).tolist()
    [11, -2]
    """
    x, w = _integers("x", x), _integers("w", w)
    if w.ndim != 2 or not w.size:
        raise checks.refuse("shape of w", w.shape, "(O, K), without a 0")
    if not x.ndim or x.shape[-1] != w.shape[1]:
        raise checks.refuse("shape of x", x.shape, f"(..., {w.shape[1]}), as w has shape {w.shape}")
    _refuse_overflow(x, w, w.shape[1])
    return np.asarray(x @ w.T)


def pack(codes: npt.ArrayLike, bits: int) -> Array:
    """Pack codes along the last axis into bytes, without gaps.

    Each row begins with a byte of its own. Within it, bit j of code i (of value 2^j) is bit number ``i * bits + j`` of
    the row, and bit number m is that of value 2^(m mod 8) in byte m // 8. So codes of 3, 5, 6 and 7 bits go on in the
    next byte, in its low bits. What is left of the last byte is 0.

    Parameters
    ----------
    codes : array_like of int, shape (..., count)
        From 0 to 2^bits - 1.
    bits : int
        1 to 8.

    Returns
    -------
    ndarray of uint8, shape (..., ceil(count * bits / 8))

    Raises
    ------
    ValueError
        If codes are not integers, or one is out of range; if there is no last axis.

    >>> pack([1, 2, 3, 0, 1], bits=2)  # 3 2 1, from the high bits to the low ones; the fifth in the next byte
    array([57,  1], dtype=uint8)
    >>> [f"{byte:08b}" for byte in pack([7, 0, 7], bits=3)]
    ['11000111', '00000001']
    """
    top = grid.top_code(bits)
    codes = _integers("codes", codes)
    if not codes.ndim:
        raise checks.refuse("shape of codes", codes.shape, "(..., count)")
    outside = (codes < 0) | (codes > top)
    if outside.any():
        raise checks.refuse("codes", int(codes[outside][0]), f"from 0 to {top}")
    digits = ((codes[..., None] >> np.arange(bits)) & 1).astype(np.uint8)
    return np.packbits(digits.reshape(*codes.shape[:-1], codes.shape[-1] * bits), axis=-1, bitorder="little")


def unpack(packed: npt.ArrayLike, bits: int, count: int) -> Array:
    """Undo `pack`.

    Parameters
    ----------
    packed : array_like of uint8, shape (..., ceil(count * bits / 8))
    bits : int
        1 to 8.
    count : int
        How many codes a row has.

    Returns
    -------
    ndarray of int64, shape (..., count)

    Raises
    ------
    ValueError
        If `packed` is no array of uint8, or of another length, or its last bits, which belong to no code, are not 0.

    >>> unpack(np.array([57, 1], np.uint8), bits=2, count=5)
    array([1, 2, 3, 0, 1])
    """
    grid.top_code(bits)
    count = _whole("count", count, 0)
    packed = np.asarray(packed)
    if packed.dtype != np.uint8:
        raise checks.refuse("type of packed", packed.dtype.name, "uint8")
    length = -(-count * bits // 8)
    if not packed.ndim or packed.shape[-1] != length:
        raise checks.refuse("shape of packed", packed.shape, f"(..., {length}), for {count} codes of {bits} bits")
    digits = np.unpackbits(packed, axis=-1, bitorder="little")
    if digits[..., count * bits :].any():
        raise checks.refuse("packed", "other bits", f"0 beyond its {count} codes of {bits} bits")
    digits = digits[..., : count * bits].reshape(*packed.shape[:-1], count, bits)
    return np.asarray(digits.astype(np.int64) @ (1 << np.arange(bits)))


# What is refused


def _integers(name: str, value: npt.ArrayLike) -> Array:
    """Return an array of integers as int64, in memory of its own and in the order of its indices."""
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise checks.refuse(name, array.dtype.name, "an array of integers")
    if array.dtype == np.uint64 and array.size and int(array.max()) > LARGEST:
        raise checks.refuse(name, int(array.max()), f"integers of at most {LARGEST}")
    return array.astype(np.int64, order="C")


def _whole(name: str, value: object, least: int) -> int:
    """Return `value` as an int if it is a whole number from `least`, else raise ValueError."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or number < least:
        raise checks.refuse(name, value, f"a whole number from {least}")
    return number


def _pair(name: str, value: object, least: int) -> tuple[int, int]:
    """Return a pair of whole numbers; a single one is both."""
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2:
        raise checks.refuse(name, value, "a whole number or a pair of them")
    return _whole(name, pair[0], least), _whole(name, pair[1], least)


def _refuse_overflow(x: Array, w: Array, terms: int) -> None:
    x_largest, w_largest = (max(-int(a.min()), int(a.max())) if a.size else 0 for a in (x, w))
    largest = largest_sum(w_largest, x_largest, terms)
    if largest > LARGEST:
        raise checks.refuse("largest sum of products", largest, f"at most {LARGEST}, which int64 holds")


def _checked(
    x: npt.ArrayLike, w: npt.ArrayLike, stride: object, padding: object, dilation: object, groups: int
) -> tuple[Array, Array, tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Return both arrays in int64, and the three options as pairs."""
    x, w = _integers("x", x), _integers("w", w)
    steps, pads, spread = _pair("stride", stride, 1), _pair("padding", padding, 0), _pair("dilation", dilation, 1)
    groups = _whole("groups", groups, 1)
    if w.ndim != 4 or not w.size:
        raise checks.refuse("shape of w", w.shape, "(O, C / groups, kh, kw), without a 0")
    if len(w) % groups:
        raise checks.refuse("groups", groups, f"a divisor of the {len(w)} output channels")
    if x.ndim != 4 or x.shape[1] != w.shape[1] * groups:
        channels = w.shape[1] * groups
        raise checks.refuse(
            "shape of x", x.shape, f"(N, {channels}, H, W), as w has shape {w.shape} and groups={groups}"
        )
    for size, k, pad, gap in zip(x.shape[2:], w.shape[2:], pads, spread, strict=True):
        if gap * (k - 1) + 1 > size + 2 * pad:
            extent = f"at most {size + 2 * pad}, the size of the padded image"
            raise checks.refuse("extent of the kernel", gap * (k - 1) + 1, extent)
    _refuse_overflow(x, w, w[0].size)
    return x, w, steps, pads, spread
