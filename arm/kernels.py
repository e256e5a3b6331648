"""Low-bit convolutions and requantization by the kernels for ARM, on numpy arrays.

On Linux for 64-bit ARM the kernels run natively; elsewhere the same code runs under emulation (`arm.emulator`).
All integers equal those of `reference.integer.convolve` for the weights' and activations' integers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, overload

import numpy as np
import numpy.typing as npt

from arm import build, checks, emulator
from arm.counts import Counts
from arm.emulator import CANARY
from reference import integer
from reference.checks import refuse
from reference.grid import Array

#: What a weight's code Q of b bits stands for: scale * (Q - 2^(b-1)) + offset.
GRIDS = {"odd": (2, 1), "signed": (1, 0)}  # 2Q - (2^b - 1); two's complement
KERNELS = ("int8", "mla", "popcount")

_CHANNELS, _PANEL, _STEP = 4, 8, 16  # as in src/frame.h
# Pixels of a tile, and windows of a pixel, of each C function.
_TILES = {
    "qg_int8": (4, 1),
    "qg_int8_single": (4, 1),
    "qg_mla": (6, 1),
    "qg_mla2": (4, 1),
    "qg_popcount": (6, 1),
    "qg_popcount2": (3, 2),
}


@dataclass(frozen=True)
class Packed:
    """Weights as a kernel reads them.

    Attributes
    ----------
    kernel : str
        Which one: of `KERNELS`.
    shape : tuple of int
        (O, kh, kw, C).
    bits : tuple of int
        Of weights and of activations.
    weights : str
        Of `GRIDS`.
    signed : bool
        Whether activations are signed integers of 8 bits, rather than codes.
    data : bytes
        Groups of four output channels; in each, steps of 16 bytes of each of the four, along (kh, kw, C); and after
        all groups an int32 for each channel, which is added to its sums. What is missing of channels and of the last
        step is 0. A byte is, with W = Q - 2^(b-1): "int8" W; "mla" -W; "popcount" eight codes, the first in the lowest
        bit, where each (kh, kw) begins with a byte of its own.
    """

    kernel: str
    shape: tuple[int, int, int, int]
    bits: tuple[int, int]
    weights: str
    signed: bool
    data: bytes

    def __post_init__(self) -> None:
        length = round_up(self.shape[0], _CHANNELS) * (self.steps * _STEP + 4)
        if len(self.data) != length:
            raise refuse("bytes of data", len(self.data), f"{length}, for weights of shape {self.shape}")

    @property
    def steps(self) -> int:
        """Steps of 16 bytes along (kh, kw, C): an even number of them where they are multiplied in pairs."""
        return round_up(self.shape[1] * self.shape[2] * self.pixel, _STEP * self.unit) // _STEP

    @property
    def unit(self) -> int:
        """Steps that are multiplied together: two, or one."""
        return _unit(self.kernel, self.bits)

    @property
    def pixel(self) -> int:
        """Bytes that the channels of a pixel take."""
        return -(-self.shape[3] // 8) if self.kernel == "popcount" else self.shape[3]


@dataclass(frozen=True)
class Plan:
    """A call of a kernel: which, and with what.

    Attributes
    ----------
    function : str
        Its name in C; it takes pointers only.
    arguments : dict from str to ndarray
        In order; it writes those of `written`, and what is left is constant but for the data themselves, `data`.
    written : tuple of str
    data : str
        Codes or sums that come from outside.
    result : str
        Of those that it writes; the others are for its own use.
    """

    function: str
    arguments: Mapping[str, Array]
    written: tuple[str, ...]
    data: str
    result: str

    def call(self, *, count: bool) -> Counts:
        """Do it; counts are empty unless asked for."""
        written = tuple(index for index, name in enumerate(self.arguments) if name in self.written)
        return _call(self.function, list(self.arguments.values()), written, count=count)


def run_length(bits: tuple[int, int]) -> int:
    """Return how many products of two codes an 8-bit lane of the kernel "mla" holds: 2^(9 - b_w - b_a).

    Weights are in [-2^(b-1) + 1, 2^(b-1)] and activations in [-2^(a-1), 2^(a-1) - 1] there, so that a sum of that many
    products is at least -128, which is attained, and less than 128.

    >>> run_length((2, 2)), run_length((4, 4))
    (32, 2)
    """
    return 2 ** (9 - bits[0] - bits[1])


def choose_kernel(bits: tuple[int, int]) -> str:
    """Return the fastest kernel for so many bits of weights and activations.

    Raises
    ------
    ValueError
        Unless both are whole numbers from 1 to 8.

    >>> [choose_kernel(bits) for bits in ((1, 1), (1, 2), (2, 2), (4, 4), (8, 8))]
    ['popcount', 'popcount', 'mla', 'mla', 'int8']
    """
    b_w, b_a = checks.bit_widths(bits)
    if b_w == 1 and b_a <= 2:
        return "popcount"
    return "mla" if max(b_w, b_a) <= 4 else "int8"


def pack_weights(
    w: npt.ArrayLike,
    *,
    bits: tuple[int, int],
    weights: str = "odd",
    kernel: str | None = None,
    signed: bool = False,
) -> Packed:
    """Bring weights into the order in which a kernel reads them, ahead of time.

    Parameters
    ----------
    w : array_like of int, shape (O, kh, kw, C)
        Codes from 0 to 2^b - 1.
    bits : pair of int
        Of weights and of activations: 1 to 8.
    weights : {"odd", "signed"}
        The integer of code Q: 2Q - (2^b - 1), as of DAQ, or Q - 2^(b-1), two's complement.
    kernel : {"int8", "mla", "popcount"}, optional
        "mla" is for 1 to 4 bits, "popcount" for weights of one bit and activations of one or two; without, the fastest.
    signed : bool
        Activations are the integers -128 to 127 themselves; of 8 bits only.

    Raises
    ------
    ValueError
        If codes are out of range, options unknown, or bits not for that kernel; or if a sum might leave int32.
    """
    b_w, b_a = bits = checks.bit_widths(bits)
    if weights not in GRIDS:
        raise refuse("weights", weights, "one of " + ", ".join(GRIDS))
    kernel = choose_kernel(bits) if kernel is None else kernel
    if kernel not in KERNELS:
        raise refuse("kernel", kernel, "one of " + ", ".join(KERNELS))
    if kernel == "mla" and max(bits) > 4:
        raise refuse("bits", bits, "from 1 to 4 each for the kernel mla")
    if kernel == "popcount" and not (b_w == 1 and b_a <= 2):
        raise refuse("bits", bits, "(1, 1) or (1, 2) for the kernel popcount")
    if signed and b_a != 8:
        raise refuse("bits", bits, "8 for signed activations")
    codes = checks.codes("w", w, b_w)
    if codes.ndim != 4 or not codes.size:
        raise refuse("shape of w", codes.shape, "(O, kh, kw, C), without a 0")
    o, kh, kw, c = (int(size) for size in codes.shape)
    scale, offset = GRIDS[weights]
    half, zero = 2 ** (b_w - 1), 0 if signed else 2 ** (b_a - 1)
    largest = integer.largest_sum(scale * half - offset, 128 if signed else 2**b_a - 1, kh * kw * c)
    if largest > checks.LARGEST:
        raise refuse("largest sum of products", largest, f"at most {checks.LARGEST}, which int32 holds")
    values = codes.astype(np.int64) - half
    constants = np.zeros(round_up(o, _CHANNELS), np.int32)
    if kernel == "popcount":
        rows = np.packbits(codes, axis=-1, bitorder="little").reshape(o, -1)
    else:
        constants[:o] = zero * (scale * values.sum(axis=(1, 2, 3)) + offset * kh * kw * c)
        rows = (-values if kernel == "mla" else values).astype(np.int8).view(np.uint8).reshape(o, -1)
    padded = np.zeros((len(constants), round_up(rows.shape[1], _STEP * _unit(kernel, bits))), np.uint8)
    padded[:o, : rows.shape[1]] = rows
    ordered = padded.reshape(-1, _CHANNELS, padded.shape[1] // _STEP, _STEP).transpose(0, 2, 1, 3)
    return Packed(kernel, (o, kh, kw, c), bits, weights, signed, ordered.tobytes() + constants.tobytes())


@overload
def conv2d(
    x: npt.ArrayLike,
    w: npt.ArrayLike | Packed,
    *,
    bits: tuple[int, int] | None = ...,
    weights: str = ...,
    stride: int | tuple[int, int] = ...,
    padding: int | tuple[int, int] = ...,
    kernel: str | None = ...,
    count: Literal[False] = ...,
) -> Array: ...
@overload
def conv2d(
    x: npt.ArrayLike,
    w: npt.ArrayLike | Packed,
    *,
    bits: tuple[int, int] | None = ...,
    weights: str = ...,
    stride: int | tuple[int, int] = ...,
    padding: int | tuple[int, int] = ...,
    kernel: str | None = ...,
    count: Literal[True],
) -> tuple[Array, Counts]: ...
def conv2d(
    x: npt.ArrayLike,
    w: npt.ArrayLike | Packed,
    *,
    bits: tuple[int, int] | None = None,
    weights: str = "odd",
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    kernel: str | None = None,
    count: bool = False,
) -> Array | tuple[Array, Counts]:
    """Convolve codes of activations with codes of weights.

    Parameters
    ----------
    x : array_like of int, shape (N, H, W, C)
        Codes from 0 to 2^a - 1, which are the activations' integers; or int8 where a is 8: integers themselves.
    w : array_like of int, shape (O, kh, kw, C), or Packed
        Codes from 0 to 2^b - 1, or what `pack_weights` made of them; then `bits`, `weights` and `kernel` are its own.
    bits : pair of int
        Of weights and of activations, (b, a): 1 to 8.
    weights, kernel
        As of `pack_weights`.
    stride, padding : int or pair of int
        Vertically and horizontally; padding is of zeros.
    count : bool
        Return the counts, too: of packing the activations and of the convolution.

    Returns
    -------
    ndarray of int32, shape (N, H', W', O); and Counts, if they are asked for
        ``H' = (H + 2 padding - kh) // stride + 1``, and W' likewise.

    Raises
    ------
    ValueError
        If codes are out of range, shapes do not fit each other, options are unknown, or bits not for that kernel.
    MissingToolchainError
        If the kernels can be built or run by nothing that is installed.

    >>> conv2d([[[[3], [1]]]], [[[[0]]], [[[3]]]], bits=(2, 2)).tolist()
    [[[[-9, 9], [-3, 3]]]]
    """
    plan = plan_conv2d(x, w, bits=bits, weights=weights, stride=stride, padding=padding, kernel=kernel)
    counts = plan.call(count=count)
    out = plan.arguments[plan.result]
    return (out, counts) if count else out


def plan_conv2d(
    x: npt.ArrayLike,
    w: npt.ArrayLike | Packed,
    *,
    bits: tuple[int, int] | None = None,
    weights: str = "odd",
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    kernel: str | None = None,
) -> Plan:
    """Return the call that `conv2d` makes; parameters and errors are those.

    >>> plan = plan_conv2d([[[[3], [1]]]], [[[[0]]], [[[3]]]], bits=(2, 2))
    >>> plan.function, list(plan.arguments), plan.arguments["sums"].shape
    ('qg_mla', ['shape', 'x', 'weights', 'sums', 'work'], (1, 1, 2, 2))
    """
    steps, pads = checks.pair("stride", stride, 1), checks.pair("padding", padding, 0)
    array = np.asarray(x)
    if not isinstance(w, Packed):
        if bits is None:
            raise refuse("bits", bits, "a pair, for weights that are not packed")
        signed = array.dtype == np.int8 and checks.bit_widths(bits)[1] == 8
        w = pack_weights(w, bits=bits, weights=weights, kernel=kernel, signed=signed)
    elif bits is not None and tuple(bits) != w.bits:
        raise refuse("bits", bits, f"{w.bits}, as of the packed weights")
    if w.signed:
        if array.dtype != np.int8:
            raise refuse("type of x", array.dtype.name, "int8, as the weights are packed for")
    else:
        array = checks.codes("x", array, w.bits[1])
    o, kh, kw, c = w.shape
    if array.ndim != 4 or array.shape[3] != c:
        raise refuse("shape of x", array.shape, f"(N, H, W, {c}), as w has shape {w.shape}")
    n, height, width, _ = (int(size) for size in array.shape)
    for size, k, pad in zip((height, width), (kh, kw), pads, strict=True):
        if k > size + 2 * pad:
            raise refuse("extent of the kernel", k, f"at most {size + 2 * pad}, the size of the padded image")
    ho, wo = (height + 2 * pads[0] - kh) // steps[0] + 1, (width + 2 * pads[1] - kw) // steps[1] + 1
    name = _function(w)
    pixels, planes = _TILES[name]
    work = _PANEL * pixels * 4 + (_PANEL * pixels * planes + 1) * w.steps * _STEP
    if w.kernel == "popcount":
        work += planes * n * height * width * w.pixel  # the image as bits
    largest = max(height, width, array.size, 4 * n * ho * wo * o, len(w.data), work)
    if largest > checks.LARGEST:
        raise refuse("bytes of the largest array", largest, f"at most {checks.LARGEST}")
    out = np.zeros((n, ho, wo, o), np.int32)
    b_w, b_a = w.bits
    scale, offset = GRIDS[w.weights]
    zero, window, run = 0 if w.signed else 2 ** (b_a - 1), offset, 1
    if w.kernel == "mla":
        scale, run = -scale, run_length(w.bits)
    elif w.kernel == "popcount":
        zero, window = 0, offset - scale * 2 ** (b_w - 1)
    numbers = (n, height, width, w.pixel, o, kh, kw, *steps, *pads, ho, wo, w.steps, run, zero, scale, window)
    packed = np.frombuffer(w.data, np.uint8)
    arguments: dict[str, Array] = {}
    arguments |= {"shape": np.array(numbers, np.int32), "x": array.view(np.uint8), "weights": packed, "sums": out}
    arguments["work"] = np.full(work, CANARY, np.uint8)
    if w.kernel == "popcount":
        arguments["channels"] = np.array([c], np.int32)
    return Plan(name, arguments, ("sums", "work"), "x", "sums")


def _unit(kernel: str, bits: tuple[int, int]) -> int:
    return 2 if kernel == "mla" and sum(bits) >= 7 else 1  # runs of 4 take more instructions than pairs do


def _function(w: Packed) -> str:
    """Return the C function for these weights."""
    if w.unit == 2:
        return "qg_mla2"
    if w.kernel == "int8" and w.bits == (8, 8):
        weights = w.data[: round_up(w.shape[0], _CHANNELS) * w.steps * _STEP]
        return "qg_int8_single" if 0x80 in weights else "qg_int8"  # (-128)^2 + (-128)^2 does not fit into 16 bits
    if w.kernel == "popcount" and w.bits[1] == 2:
        return "qg_popcount2"
    return "qg_" + w.kernel


def round_up(value: int, unit: int) -> int:
    """Return the least multiple of `unit` that is not below `value`.

    >>> round_up(5, 4)
    8
    """
    return -(-value // unit) * unit


@overload
def requantize(
    sums: npt.ArrayLike, thresholds: npt.ArrayLike, *, falling: npt.ArrayLike = ..., count: Literal[False] = ...
) -> Array: ...
@overload
def requantize(
    sums: npt.ArrayLike, thresholds: npt.ArrayLike, *, falling: npt.ArrayLike = ..., count: Literal[True]
) -> tuple[Array, Counts]: ...
def requantize(
    sums: npt.ArrayLike, thresholds: npt.ArrayLike, *, falling: npt.ArrayLike = False, count: bool = False
) -> Array | tuple[Array, Counts]:
    """Turn sums into codes: how many of its channel's thresholds a sum reaches.

    Where each channel's thresholds are within 65534 of each other, they are compared in 16 bits, which takes half the
    instructions.

    Parameters
    ----------
    sums : array_like of int32, shape (..., O)
    thresholds : array_like of int, shape (O, 2^a - 1)
        Within int32: code = number of k with ``sum >= thresholds[o, k]``.
    falling : array_like of bool, shape () or (O,)
        In these channels code = number of k with ``sum <= thresholds[o, k]``.
    count : bool
        Return the counts, too.

    Returns
    -------
    ndarray of uint8, shape (..., O); and Counts, if they are asked for

    Raises
    ------
    ValueError
        If shapes do not fit each other, or numbers not into int32.
    MissingToolchainError
        If the kernels can be built or run by nothing that is installed.

    >>> requantize([[-1, 4], [0, 5]], [[-1, 0, 1], [-5, 5, 9]]).tolist()
    [[1, 1], [2, 2]]
    """
    plan = plan_requantize(sums, thresholds, falling=falling)
    counts = plan.call(count=count)
    codes = plan.arguments[plan.result]
    return (codes, counts) if count else codes


def plan_requantize(sums: npt.ArrayLike, thresholds: npt.ArrayLike, *, falling: npt.ArrayLike = False) -> Plan:
    """Return the call that `requantize` makes; parameters and errors are those."""
    sums, thresholds = checks.int32("sums", sums), checks.int32("thresholds", thresholds)
    if not sums.ndim:
        raise refuse("shape of sums", sums.shape, "(..., O)")
    channels = int(sums.shape[-1])
    if (
        thresholds.ndim != 2
        or len(thresholds) != channels
        or thresholds.shape[1] not in [2**a - 1 for a in range(1, 9)]
    ):
        raise refuse("shape of thresholds", thresholds.shape, f"({channels}, 2^bits - 1)")
    flags = np.asarray(falling)
    if flags.dtype != np.bool_ or flags.shape not in ((), (channels,)):
        raise refuse("falling", flags.tolist(), f"a bool, or {channels} of them")
    flip = np.where(np.broadcast_to(flags, (channels,)), np.int32(-1), np.int32(0))
    codes = np.zeros(sums.shape, np.uint8)
    rows = sums.size // channels if channels else 0
    shape = np.array([rows, channels, thresholds.shape[1]], np.int32)
    turned = (thresholds ^ flip[:, None]).astype(np.int64).T  # s <= t where ~s >= ~t
    low, high = turned.min(axis=0), turned.max(axis=0)
    near = bool((high - low <= 2 * 32767).all())
    base = (low + high) // 2
    limits = (turned - base).astype(np.int16) if near else turned.astype(np.int32)
    arguments = {"rows": shape, "sums": sums, "thresholds": np.ascontiguousarray(limits), "flip": flip}
    if near:
        arguments["base"] = base.astype(np.int32)
    arguments["codes"] = codes
    return Plan("qg_requantize16" if near else "qg_requantize", arguments, ("codes",), "sums", "codes")


@overload
def rescale(
    sums: npt.ArrayLike,
    factors: npt.ArrayLike,
    *,
    offsets: npt.ArrayLike = ...,
    shift: int = ...,
    count: Literal[False] = ...,
) -> Array: ...
@overload
def rescale(
    sums: npt.ArrayLike, factors: npt.ArrayLike, *, offsets: npt.ArrayLike = ..., shift: int = ..., count: Literal[True]
) -> tuple[Array, Counts]: ...
def rescale(
    sums: npt.ArrayLike, factors: npt.ArrayLike, *, offsets: npt.ArrayLike = 0, shift: int = 0, count: bool = False
) -> Array | tuple[Array, Counts]:
    """Turn sums into codes of 8 bits by multiplying with fixed-point numbers, as engines of 8 bits do.

    The 255 thresholds that `requantize` would take cost more than the convolution. In exact integers, with
    p = floor((2 (sum + offset) factor + 2^31) / 2^32), the code is floor((p + 2^(shift-1)) / 2^shift), or p where shift
    is 0, clipped to 0 to 255.

    Parameters
    ----------
    sums : array_like of int32, shape (..., O)
        ``sum + offset`` must be in int32, too; if it is not, it wraps around.
    factors : array_like of int, shape () or (O,)
        From 0 to 2^31 - 1: of each channel, in units of 2^-31.
    offsets : array_like of int32, shape () or (O,)
    shift : int
        0 to 31.
    count : bool
        Return the counts, too.

    Returns
    -------
    ndarray of uint8, shape (..., O); and Counts, if they are asked for

    Raises
    ------
    ValueError
        If shapes do not fit each other, or numbers are out of range.
    MissingToolchainError
        If the kernels can be built or run by nothing that is installed.

    >>> rescale([[100, -3, 1000]], 2**30, shift=1).tolist()
    [[25, 0, 250]]
    """
    sums, factors, offsets = (
        checks.int32("sums", sums),
        checks.int32("factors", factors),
        checks.int32("offsets", offsets),
    )
    if not sums.ndim:
        raise refuse("shape of sums", sums.shape, "(..., O)")
    channels = int(sums.shape[-1])
    for name, array in (("factors", factors), ("offsets", offsets)):
        if array.shape not in ((), (channels,)):
            raise refuse(f"shape of {name}", array.shape, f"() or ({channels},)")
    if (factors < 0).any():
        raise refuse("factors", int(factors.min()), "from 0 to 2^31 - 1")
    if isinstance(shift, tuple | list) or checks.pair("shift", shift, 0)[0] > 31:
        raise refuse("shift", shift, "a whole number from 0 to 31")
    codes = np.zeros(sums.shape, np.uint8)
    rows = sums.size // channels if channels else 0
    wide = [np.ascontiguousarray(np.broadcast_to(array, (channels,))) for array in (factors, offsets)]
    counts = _call("qg_rescale", [np.array([rows, channels, shift], np.int32), sums, *wide, codes], (4,), count=count)
    return (codes, counts) if count else codes


# How kernels are called


def _call(name: str, arguments: Sequence[Array], written: tuple[int, ...], *, count: bool) -> Counts:
    """Call a kernel, with those of its arguments writeable that it writes."""
    shown = []
    for index, array in enumerate(arguments):
        view = array.view()
        view.flags.writeable = index in written
        shown.append(view)
    if build.on_arm() and not count:
        _native()[name](*(ctypes.c_void_p(array.ctypes.data) for array in shown))
        return Counts()
    return emulator.call(name, shown, count=count)


@cache
def _native() -> ctypes.CDLL:
    return ctypes.CDLL(str(build.library()))
