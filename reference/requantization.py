"""Requantization: from a convolution's integer sums to the next layer's codes, by comparing integers only.

Behind the sums of a layer come its scale, a bias, a normalisation in test mode, an activation and the next layer's
quantizer. Each of these is monotone, in floating point as well as in real numbers, and so is what they make of a sum:
the code of channel c is a staircase in the sum, which 2^b - 1 integer thresholds say completely,

    code = number of k with sum >= threshold[c, k],  or, where the staircase falls, with sum <= threshold[c, k].

It falls where the normalisation's factor is negative. The thresholds are not solved for, but searched on the very
function of the network (`search`): whatever the type it computes in and the rule it rounds by, the codes are its own,
ties and saturated channels included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from reference import checks, grid, integer
from reference.grid import Array

CodesOf: TypeAlias = Callable[[Array], npt.ArrayLike]
"""Maps sums, int64 of shape (O, m), to codes of the same shape: row c holds sums of channel c."""

SAMPLES = 257  # sums a channel at which a staircase must not turn round, beside the thresholds


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of the sums of O channels, for codes from 0 to `top`.

    Attributes
    ----------
    values : ndarray of int64, shape (O, top)
        ``values[c, k - 1]`` is where code k begins: in ascending order, or descending where `falling`.
    falling : ndarray of bool, shape (O,)
        Whether the codes of a channel fall as its sums rise.

    Raises
    ------
    ValueError
        If shapes or types differ from these, or a channel's thresholds are not in order.

    >>> rising = Thresholds(np.array([[-2, 0, 5]]), np.array([False]))
    >>> rising.codes([[-3, -2, -1, 0, 4, 5, 99]]).tolist()
    [[0, 1, 1, 2, 2, 3, 3]]
    >>> Thresholds(np.array([[5, 0, -2]]), np.array([True])).codes([[-3, -2, 0, 1, 5, 6]]).tolist()
    [[3, 3, 2, 1, 1, 0]]
    """

    values: Array
    falling: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        values, falling = np.asarray(self.values), np.asarray(self.falling)
        if values.dtype != np.int64 or values.ndim != 2 or not values.size:
            raise checks.refuse("values", f"{values.dtype.name} {values.shape}", "int64 (O, top), without a 0")
        if falling.dtype != np.bool_ or falling.shape != values.shape[:1]:
            raise checks.refuse("falling", f"{falling.dtype.name} {falling.shape}", f"bool ({len(values)},)")
        rising = np.where(falling[:, None], values[:, ::-1], values)
        unordered = (rising[:, 1:] < rising[:, :-1]).any(axis=1)
        if unordered.any():
            channel = int(np.flatnonzero(unordered)[0])
            raise checks.refuse(f"thresholds of channel {channel}", values[channel].tolist(), "in order")

    @property
    def top(self) -> int:
        """The highest code."""
        return int(self.values.shape[1])

    def codes(self, sums: npt.ArrayLike, *, axis: int = 0) -> Array:
        """Return the codes of sums.

        Parameters
        ----------
        sums : array_like of int, with O channels along `axis`
        axis : int

        Returns
        -------
        ndarray of int64, of the shape of `sums`

        Raises
        ------
        ValueError
            If `sums` are no integers, or of other channels.
        """
        sums = np.asarray(sums)
        if sums.dtype.kind not in "iu":
            raise checks.refuse("sums", sums.dtype.name, "an array of integers")
        if not -sums.ndim <= axis < sums.ndim or sums.shape[axis] != len(self.values):
            raise checks.refuse("shape of sums", sums.shape, f"{len(self.values)} channels along axis {axis}")
        rows = np.moveaxis(sums, axis, 0).reshape(len(self.values), -1)
        found = np.empty(rows.shape, np.int64)
        for channel, (row, values) in enumerate(zip(rows, self.values, strict=True)):
            if self.falling[channel]:
                found[channel] = len(values) - np.searchsorted(values[::-1], row, side="left")
            else:
                found[channel] = np.searchsorted(values, row, side="right")
        moved = np.moveaxis(sums, axis, 0).shape
        return np.ascontiguousarray(np.moveaxis(found.reshape(moved), 0, axis))


@dataclass(frozen=True)
class IntegerLayer:
    """A convolution as a kernel computes it: codes in, and codes out, or sums where it has no thresholds.

    Attributes
    ----------
    codes : ndarray of uint8, shape (O, C, kh, kw)
        Of the weights; the integer of code q is ``lowest + step * q``.
    lowest, step : int
        For DAQ ``1 - 2^b`` and 2; for grids in two's complement ``-2^(b-1)`` and 1.
    bits : tuple of int
        Of weights and of inputs, 1 to 8. The integer of an input is its code.
    stride, padding : int
        Vertically and horizontally.
    thresholds : Thresholds, optional

    Raises
    ------
    ValueError
        If codes are out of range or of another type or shape, or there is not a row of thresholds for each channel.

    >>> rounded = Thresholds(np.array([[0, 2, 5]]), np.array([False]))
    >>> layer = IntegerLayer(np.array([[[[0]], [[3]]]], np.uint8), -3, 2, (2, 2), thresholds=rounded)  # -3 and 3
    >>> layer.weights.ravel().tolist()
    [-3, 3]
    >>> layer.run([[[[1, 0, 2]], [[3, 0, 3]]]]).tolist()  # sums of 6, 0 and 3
    [[[[3, 1, 2]]]]
    """

    codes: npt.NDArray[np.uint8]
    lowest: int
    step: int
    bits: tuple[int, int]
    stride: int = 1
    padding: int = 0
    thresholds: Thresholds | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        top = grid.top_code(self.bits[0])
        grid.top_code(self.bits[1])
        if self.codes.dtype != np.uint8 or self.codes.ndim != 4 or not self.codes.size:
            shape = f"{self.codes.dtype.name} {self.codes.shape}"
            raise checks.refuse("codes", shape, "uint8 (O, C, kh, kw), without a 0")
        if self.codes.max() > top:
            raise checks.refuse("codes", int(self.codes.max()), f"from 0 to {top}")
        if self.thresholds is not None and len(self.thresholds.values) != len(self.codes):
            raise checks.refuse("channels of the thresholds", len(self.thresholds.values), f"{len(self.codes)}")

    @property
    def weights(self) -> Array:
        """The integers of the weights, int64."""
        return self.lowest + self.step * self.codes.astype(np.int64)

    def run(self, x: npt.ArrayLike) -> Array:
        """Convolve codes (N, C, H, W), exactly; return codes or sums, int64 (N, O, H', W').

        Raises
        ------
        ValueError
            If `x` is not an array of integers from 0 to 2^bits - 1, or does not fit.
        """
        x, top = np.asarray(x), grid.top_code(self.bits[1])
        if x.dtype.kind in "iu" and x.size and not 0 <= int(x.min()) <= int(x.max()) <= top:
            raise checks.refuse("codes of x", (int(x.min()), int(x.max())), f"from 0 to {top}")
        sums = integer.convolve_numba(x, self.weights, stride=self.stride, padding=self.padding)
        return sums if self.thresholds is None else self.thresholds.codes(sums, axis=1)


def attainable(w: npt.ArrayLike, smallest: int, largest: int) -> tuple[Array, Array]:
    """Bounds of the sums of each output channel, over all inputs; both are attained.

    Parameters
    ----------
    w : array_like of int, shape (O, ...)
        The integers of the weights.
    smallest, largest : int
        Of the inputs' integers. Padding adds zeros, which count as inputs, too.

    Returns
    -------
    lowest, highest : ndarray of int64, shape (O,)

    Raises
    ------
    ValueError
        If w holds no integers, or none; or if ``smallest > largest``.

    >>> lowest, highest = attainable([[1, -1, -3], [1, 1, 1]], 0, 3)
    >>> lowest.tolist(), highest.tolist()
    ([-12, 0], [3, 9])
    """
    w = np.asarray(w)
    if w.dtype.kind not in "iu" or not w.ndim or not w.size:
        raise checks.refuse("w", f"{w.dtype.name} {w.shape}", "integers (O, ...), without a 0")
    if smallest > largest:
        raise checks.refuse("smallest", smallest, f"at most the largest, {largest}")
    rows = w.astype(np.int64).reshape(len(w), -1)
    ends = np.stack([rows * min(smallest, 0), rows * max(largest, 0)])
    return np.asarray(ends.min(axis=0).sum(axis=1)), np.asarray(ends.max(axis=0).sum(axis=1))


def search(codes_of: CodesOf, lowest: npt.ArrayLike, highest: npt.ArrayLike, top: int) -> Thresholds:
    """Find the thresholds of a monotone function of integer sums, by bisection on the function itself.

    Parameters
    ----------
    codes_of : callable
        See `CodesOf`: monotone in each channel's sum, in either direction.
    lowest, highest : array_like of int, shape (O,)
        Ends of each channel's sums, as `attainable` gives them.
    top : int
        The highest code.

    Returns
    -------
    Thresholds
        With ``codes(sums) == codes_of(sums)`` for all sums within the ends. The threshold of a code that every sum has
        or exceeds is the first sum (the lowest, or where codes fall, the highest); of one that no sum reaches, the
        integer behind the last one.

    Raises
    ------
    ValueError
        If ends are in the wrong order, `codes_of` gives codes beyond `top`, or is not monotone at one of `SAMPLES`
        sums a channel or at a threshold.

    >>> half = search(lambda s: np.clip(np.rint(s / 2), 0, 3), [-9], [9], 3)  # ties to even: 1/2 -> 0, 3/2 -> 2
    >>> half.values.tolist(), half.codes([[0, 1, 2, 3, 4, 5, 6]]).tolist()
    ([[2, 3, 6]], [[0, 0, 1, 2, 2, 2, 3]])
    """
    low, high = np.asarray(lowest), np.asarray(highest)
    if low.dtype.kind not in "iu" or high.dtype.kind not in "iu" or low.ndim != 1 or low.shape != high.shape:
        raise checks.refuse("lowest and highest", f"{low.dtype.name} {low.shape}", "integers of one shape (O,)")
    low, high = low.astype(np.int64), high.astype(np.int64)
    if not low.size or (low > high).any() or max(-int(low.min()), int(high.max())) > integer.LARGEST // 4:
        raise checks.refuse("lowest and highest", (low.tolist(), high.tolist()), "ends of sums within 61 bits")

    def at(sums: Array) -> Array:
        found = np.asarray(codes_of(sums))
        if found.shape != sums.shape or not ((found >= 0) & (found <= top) & (found == np.floor(found))).all():
            raise checks.refuse("codes", found.tolist(), f"whole numbers from 0 to {top}, one for each sum")
        return found.astype(np.int64)

    ends = at(np.stack([low, high], axis=1))
    falling = ends[:, 0] > ends[:, 1]
    sign = np.where(falling, -1, 1)[:, None]
    # In u = sign * sum codes rise; `first` and `last` are the ends of u.
    first, last = np.where(falling, -high, low)[:, None], np.where(falling, -low, high)[:, None]
    wanted = np.arange(1, top + 1)
    reached = np.repeat(last + 1, top, axis=1)  # where code k is known to be reached, if it is within the sums
    missed = np.repeat(first - 1, top, axis=1)  # where it is known not to be, or no sum is
    while (reached - missed > 1).any():
        middle = (reached + missed) // 2
        open_ = reached - missed > 1
        probe = np.where(open_, middle, first)  # what is found already asks for a sum that exists
        enough = at(sign * probe) >= wanted
        reached = np.where(open_ & enough, probe, reached)
        missed = np.where(open_ & ~enough, probe, missed)
    found = Thresholds(sign * reached, falling)
    steps = np.arange(SAMPLES)
    probes = (first + (last - first) // (SAMPLES - 1) * steps, last - steps, reached - 1, reached)
    for probe in probes:
        _check(found, at, sign * np.clip(probe, first, last))
    return found


def _check(found: Thresholds, at: Callable[[Array], Array], sums: Array) -> None:
    """Raise ValueError where thresholds say another code than the function: it is not monotone."""
    want, got = at(sums), found.codes(sums)
    if (want != got).any():
        channel, index = (int(i[0]) for i in np.nonzero(want != got))
        shown = f"code {want[channel, index]} at the sum {sums[channel, index]} of channel {channel}"
        raise checks.refuse("codes", shown, f"monotone in the sum: {got[channel, index]} by the codes elsewhere")
