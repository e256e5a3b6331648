"""What the tests of arm/ draw: convolutions of codes, and where their buffers lie; and the oracle's sums."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import strategies as st

from arm import build, emulator, kernels
from reference import integer
from reference.requantization import IntegerLayer, Thresholds, attainable

COMPILER = importlib.util.find_spec("ziglang") is not None
needs_compiler = pytest.mark.skipif(not COMPILER, reason=f"needs the compiler ziglang: {build.INSTALL}")
needs_emulator = pytest.mark.skipif(
    not COMPILER or importlib.util.find_spec("unicorn") is None,
    reason=f"needs ziglang and unicorn, which run ARM code anywhere: {build.INSTALL}",
)
few_bits = st.integers(1, 4)
kernels_and_bits = st.one_of(
    st.tuples(st.just("mla"), st.tuples(few_bits, few_bits)),
    st.tuples(st.just("popcount"), st.sampled_from([(1, 1), (1, 2)])),
    st.tuples(st.just("int8"), st.tuples(st.integers(1, 8), st.integers(1, 8))),
)


@dataclass(frozen=True)
class Convolution:
    """Codes and options of one convolution."""

    x: np.ndarray
    w: np.ndarray
    options: dict[str, Any]

    def run(self, **more: Any) -> Any:
        return kernels.conv2d(self.x, self.w, **self.options, **more)

    @property
    def expected(self) -> np.ndarray:
        return expected(self.x, self.w, **{k: v for k, v in self.options.items() if k != "kernel"})


def integers_of(w: np.ndarray, bits: int, weights: str) -> np.ndarray:
    """The integers that codes of weights stand for."""
    return 2 * w.astype(np.int64) - (2**bits - 1) if weights == "odd" else w.astype(np.int64) - 2 ** (bits - 1)


def expected(x, w, *, bits, weights="odd", stride=1, padding=0):
    """The oracle's sums, channels last."""
    values = integers_of(w, bits[0], weights).transpose(0, 3, 1, 2)
    sums = integer.convolve(x.transpose(0, 3, 1, 2), values, stride=stride, padding=padding)
    return sums.transpose(0, 2, 3, 1)


def codes(seed: int, how: str, shape: tuple[int, ...], bits: int) -> np.ndarray:
    """Codes: anything, one extreme only, or both."""
    top = 2**bits - 1
    rng = np.random.default_rng(seed)
    match how:
        case "lowest":
            return np.zeros(shape, np.uint8)
        case "highest":
            return np.full(shape, top, np.uint8)
        case "extremes":
            return rng.choice(np.array([0, top], np.uint8), shape)
    return rng.integers(0, top + 1, shape).astype(np.uint8)


kinds_of_codes = st.sampled_from(["any", "any", "lowest", "highest", "extremes"])
seeds = st.integers(0, 2**32 - 1)
channels = st.integers(1, 40) | st.sampled_from([16, 32, 48, 64, 127, 128, 130])


@st.composite
def convolutions(draw: st.DrawFn, kernel_and_bits: st.SearchStrategy = kernels_and_bits) -> Convolution:
    """Shapes with all kinds of tails, strides, padding wider than the image, empty images, several of them and none."""
    kernel, bits = draw(kernel_and_bits)
    kh, kw = draw(st.sampled_from([(1, 1), (3, 3), (3, 3), (1, 3), (2, 1), (5, 4)]))
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    height, width = (draw(st.integers(max(0, k - 2 * pad), 6)) for k, pad in zip((kh, kw), padding, strict=True))
    c, o, n = draw(channels), draw(st.integers(1, 9)), draw(st.sampled_from([1, 1, 1, 0, 2, 3]))
    stride = draw(st.sampled_from([1, 2, (1, 2), (3, 1)]))
    x = codes(draw(seeds), draw(kinds_of_codes), (n, height, width, c), bits[1])
    w = codes(draw(seeds), draw(kinds_of_codes), (o, kh, kw, c), bits[0])
    options = {"bits": bits, "weights": draw(st.sampled_from(["odd", "signed"])), "stride": stride, "padding": padding}
    return Convolution(x, w, options | {"kernel": kernel})


@contextlib.contextmanager
def emulated() -> Iterator[None]:
    """Run kernels under emulation, where nothing can be damaged, on ARM hosts too, as long as this context lasts."""
    with mock.patch.object(build, "on_arm", return_value=False):
        yield


@contextlib.contextmanager
def placed(place: str, shift: int) -> Iterator[None]:
    """Lay buffers at that end of their pages, so many bytes away from it, as long as this context lasts."""
    call = functools.partial(emulator.call, place=place, shift=shift)
    with emulated(), mock.patch.object(emulator, "call", call):
        yield


def compiled(folder: Path, file: str, *options: str, **changed: str) -> Path:
    """Build one file of kernels, with options, too, or with other texts for some sources; nothing of it is kept."""
    paths = []
    for path in build.sources():
        if path.suffix == ".h" or path.name == file:
            copy = folder / path.name
            copy.write_text(changed.get(path.name, path.read_text()))
            paths.append(copy)
    command, version = build.compiler()
    with mock.patch.dict(os.environ, XDG_CACHE_HOME=str(folder / "cache")):
        return build.built(tuple(paths), ((*command, *options), version))


@contextlib.contextmanager
def taken(library: Path) -> Iterator[None]:
    """Take kernels from this library, under emulation, as long as this context lasts."""
    with emulated(), mock.patch.object(build, "library", return_value=library):
        yield


@st.composite
def layers(draw):
    """A layer of any bit-widths and grid, with thresholds among its sums, and codes for it."""
    b_w, b_a, b_next = (draw(st.integers(1, 4)) for _ in range(3))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    o, c, k = draw(st.integers(1, 9)), draw(st.integers(1, 20)), draw(st.sampled_from([1, 3]))
    lowest, step = draw(st.sampled_from([(1 - 2**b_w, 2), (-(2 ** (b_w - 1)), 1)]))
    codes = random.integers(0, 2**b_w, (o, c, k, k), np.uint8)
    low, high = attainable(lowest + step * codes.astype(int), 0, 2**b_a - 1)
    values = np.sort(random.integers(low[:, None], high[:, None] + 2, (o, 2**b_next - 1)), axis=1)
    falling = random.integers(0, 2, o).astype(bool)
    values[falling] = values[falling][:, ::-1]
    thresholds = Thresholds(values, falling) if draw(st.booleans()) else None
    layer = IntegerLayer(codes, lowest, step, (b_w, b_a), draw(st.integers(1, 2)), k // 2, thresholds=thresholds)
    x = random.integers(0, 2**b_a, (draw(st.integers(1, 2)), c, draw(st.integers(k, 6)), draw(st.integers(k, 6))))
    return layer, x
