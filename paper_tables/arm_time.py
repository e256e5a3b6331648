"""Wall time of convolutions on a 64-bit ARM host: the suite's kernels, and NCNN if its package is installed."""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from arm import kernels
from arm.count import Layer
from reference.grid import Array

PEER = "NCNN 8/8"
PROTOCOL = (
    "one thread, batch 1, medians of 7 runs a layer after 2, added up; the suite's numbers include checking the codes, "
    "NCNN's quantizing from and to float32"
)
ROUNDS, WARMUP = 7, 2
INT8_WEIGHTS = 0x000D4B38  # NCNN's mark of weights that are 8-bit integers


def has_peer() -> bool:
    """Whether the package ncnn is installed."""
    return importlib.util.find_spec("ncnn") is not None


def kernels_seconds(layers: Sequence[Layer], bits: tuple[int, int]) -> float:
    """Seconds that the suite's kernels take for layers, one after the other: convolution and requantization."""
    return sum(_median(_own(layer, bits)) for layer in layers)


def peer_seconds(layers: Sequence[Layer]) -> float:
    """Seconds that NCNN's 8-bit convolutions take for layers, with its default options and one thread."""
    random = np.random.default_rng(0)
    total = 0.0
    for layer in layers:
        w = random.integers(-127, 128, (layer.outputs, layer.inputs, layer.kernel, layer.kernel))
        x = random.integers(0, 128, (layer.inputs, layer.size, layer.size))
        total += _median(Peer(layer, w, x).run)
    return total


def _median(action: Callable[[], object]) -> float:
    seconds = []
    for _ in range(WARMUP + ROUNDS):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[WARMUP:])


def _own(layer: Layer, bits: tuple[int, int]) -> Callable[[], object]:
    random = np.random.default_rng(0)
    shape = (layer.outputs, layer.kernel, layer.kernel, layer.inputs)
    weights = "signed" if bits == (8, 8) else "odd"
    least = int(bits == (8, 8))  # without -128, as baselines of 8 bits have it
    packed = kernels.pack_weights(random.integers(least, 2 ** bits[0], shape, np.uint8), bits=bits, weights=weights)
    x = random.integers(0, 2 ** bits[1], (1, layer.size, layer.size, layer.inputs), np.uint8)
    factors = np.full(layer.outputs, 2**20)
    thresholds = np.sort(random.integers(-999, 999, (layer.outputs, 2 ** bits[1] - 1)), axis=1)

    def once() -> Array:
        sums = kernels.conv2d(x, packed, stride=layer.stride, padding=layer.kernel // 2)
        return kernels.rescale(sums, factors) if bits[1] > 4 else kernels.requantize(sums, thresholds)

    return once


class Peer:
    """One 8-bit convolution in NCNN, all of whose scales are 1: its outputs are the integers' sums, as float32.

    Parameters
    ----------
    layer : Layer
    w : ndarray of int, shape (O, C, kh, kw)
        From -127 to 127.
    x : ndarray of int, shape (C, H, W)
        From -127 to 127.
    """

    def __init__(self, layer: Layer, w: Array, x: Array) -> None:
        import ncnn

        sizes = f"0={layer.outputs} 1={layer.kernel} 3={layer.stride} 4={layer.kernel // 2} 5=0 6={w.size} 8=1"
        text = f"7767517\n2 2\nInput data 0 1 data\nConvolution conv 1 1 data out {sizes}\n"
        stored = w.astype(np.int8).tobytes()
        content = np.uint32(INT8_WEIGHTS).tobytes() + stored + bytes(-len(stored) % 4)
        content += np.ones(
            layer.outputs + 1, np.float32
        ).tobytes()  # a scale for each channel's weights, one for inputs
        self._x = np.ascontiguousarray(x, np.float32)  # which the next line refers to, and does not keep
        self._image = ncnn.Mat(self._x)
        self._net = ncnn.Net()
        self._net.opt.num_threads = 1
        with tempfile.TemporaryDirectory() as folder:
            param, model = Path(folder, "net.param"), Path(folder, "net.bin")
            param.write_text(text)
            model.write_bytes(content)
            if self._net.load_param(str(param)) or self._net.load_model(str(model)):
                raise RuntimeError("ncnn refused a convolution of 8 bits")

    def run(self) -> Array:
        """Return the sums, float32 of shape (O, H', W')."""
        extractor = self._net.create_extractor()
        extractor.input("data", self._image)
        _, out = extractor.extract("out")
        return np.array(out)
