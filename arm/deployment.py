"""Integer layers (`reference.requantization.IntegerLayer`) on the kernels: convolution and requantization, packed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from arm import kernels
from arm.counts import Counts
from reference import checks, grid
from reference.grid import Array
from reference.requantization import IntegerLayer, Thresholds


@dataclass(frozen=True)
class PackedLayer:
    """A convolution as the kernels run it.

    Attributes
    ----------
    packed : Packed
        Its weights.
    stride, padding : int
    thresholds : Thresholds, optional
        Without, its results are sums.
    """

    packed: kernels.Packed
    stride: int
    padding: int
    thresholds: Thresholds | None

    def run(self, x: npt.ArrayLike) -> tuple[Array, Counts]:
        """Map codes, uint8 (N, H, W, C), to codes (N, H', W', O) or sums, int32, and count what that executes.

        Raises
        ------
        ValueError
            If codes are out of range, or do not fit.
        MissingToolchainError
            If the kernels can be built or run by nothing that is installed.
        """
        sums, counts = kernels.conv2d(x, self.packed, stride=self.stride, padding=self.padding, count=True)
        if self.thresholds is None:
            return sums, counts
        codes, more = kernels.requantize(sums, self.thresholds.values, falling=self.thresholds.falling, count=True)
        return codes, counts + more


def pack(layer: IntegerLayer, *, kernel: str | None = None) -> PackedLayer:
    """Pack the weights of a layer for a kernel; without `kernel`, for the fastest.

    Raises
    ------
    ValueError
        If weights are neither odd integers nor in two's complement, within their bits; if thresholds pass int32, or
        are not as many as codes of 1 to 8 bits take.

    >>> layer = IntegerLayer(np.array([[[[0]], [[3]]]], np.uint8), -3, 2, (2, 2))
    >>> pack(layer).packed.kernel, pack(layer).packed.weights
    ('mla', 'odd')
    """
    if layer.thresholds is not None:
        bound, top = 2**31 - 1, layer.thresholds.top
        largest = int(np.abs(layer.thresholds.values).max())
        if largest > bound:
            raise checks.refuse("largest threshold", largest, f"at most {bound}")
        if (top + 1).bit_count() != 1 or top > 255:
            raise checks.refuse("thresholds a channel", top, "2^bits - 1, of 1 to 8 bits")
    bits = layer.bits[0]
    integers = layer.weights.transpose(0, 2, 3, 1)
    half, top = 2 ** (bits - 1), grid.top_code(bits)
    if (integers % 2 == 1).all() and np.abs(integers).max() <= top:
        codes, weights = (integers + top) // 2, "odd"
    elif (-half <= integers).all() and (integers < half).all():
        codes, weights = integers + half, "signed"
    else:
        ends = (int(integers.min()), int(integers.max()))
        raise checks.refuse("weights", ends, f"odd and at most {top}, or from {-half} to {half - 1}, of {bits} bits")
    packed = kernels.pack_weights(codes, bits=layer.bits, weights=weights, kernel=kernel)
    return PackedLayer(packed, layer.stride, layer.padding, layer.thresholds)


def run(layer: IntegerLayer, x: Array) -> Array:
    """Compute a layer on codes (N, C, H, W) by the fastest kernel: the counterpart of `IntegerLayer.run`.

    Errors are those of `pack` and of `PackedLayer.run`.
    """
    found, _ = pack(layer).run(np.ascontiguousarray(np.moveaxis(x, 1, 3)))
    return np.ascontiguousarray(np.moveaxis(found, 3, 1))
