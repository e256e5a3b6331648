"""The tests of the kernels tested: each mistake, planted in the C sources, changes a sum or leaves its buffers.

By default one of each source is planted; with QUANTGAP_MISTAKES=all every one.
"""

import numpy as np
import pytest

from arm import build, kernels
from tests.arm.convolutions import Convolution, codes, compiled, needs_emulator, placed, taken
from tests.strategies import ALL_MISTAKES

MISTAKES = [
    # source, the file of kernels that shows it, old, new, and what that is
    ("frame.h", "mla.c", "pixel / s->wo % s->ho", "pixel / s->wo", "the second image's rows"),
    ("frame.h", "mla.c", "s->w - first : s->kw", "s->w - first + 1 : s->kw", "a column too many at the right edge"),
    ("frame.h", "mla.c", "y0 + i >= s->h ||", "y0 + i > s->h ||", "a row too many at the lower edge"),
    ("frame.h", "mla.c", "if (bytes & 8) {\n    vst1_s8(to, vsub", "if (bytes & 4) {\n    vst1_s8(to, vsub", "tails"),
    ("frame.h", "mla.c", "at < end_of_line; ++at) *at = 0", "at < end_of_line; ++at) *at = 1", "window sums of a tail"),
    (
        "frame.h",
        "mla.c",
        "vst1q_s8(to + 16 * i, vnegq_s8(zero))",
        "vst1q_s8(to + 16 * i, zero)",
        "padding is not code 0",
    ),
    ("frame.h", "mla.c", "if (channels > 2) out", "if (channels > 1) out", "a channel that is not there"),
    ("frame.h", "mla.c", "(t < larger)", "(t <= larger)", "a pixel too many"),
    ("frame.h", "mla.c", "total / tiles, larger = total % tiles", "total / tiles, larger = 0", "pixels left out"),
    ("int8.c", "int8.c", "if (run == 2)", "if (run)", "(-128) * (-128), twice, in 16 bits"),
    ("mla.c", "mla.c", "w += SHORT * CHANNELS * 16", "w += CHANNELS * 16", "steps taken twice"),
    ("mla.c", "mla.c", "rest < 2 * PAIRS ? rest : 2 * PAIRS", "rest", "16-bit lanes that are never widened"),
    ("popcount.c", "popcount.c", "rest < RUN ? rest : RUN", "rest", "8-bit lanes that are never widened"),
    ("popcount.c", "popcount.c", "bits + pixels * s->c", "bits", "both planes in one place"),
    (
        "popcount.c",
        "popcount.c",
        "total += (int32_t)vaddvq_u32(sum) << p",
        "total += (int32_t)vaddvq_u32(sum)",
        "window sums of planes",
    ),
    ("popcount.c", "popcount.c", "bytes >= 16; bytes", "bytes >= 9; bytes", "more codes than there are"),
]
PLANTED = MISTAKES if ALL_MISTAKES else [*{mistake[0]: mistake for mistake in MISTAKES}.values()]


def convolution(seed, kernel, bits, x, w, how="any", **more):
    options = {"kernel": kernel, "bits": bits} | more
    return Convolution(codes(seed, how, x, bits[1]), codes(seed + 1, how, w, bits[0]), options)


def battery(file: str) -> list[Convolution]:
    """A few convolutions of the kernels in a file: padding, strides, tails, several images, long sums."""
    few = {"int8.c": [("int8", (8, 8))], "popcount.c": [("popcount", (1, 1)), ("popcount", (1, 2))]}
    result = []
    for kernel, bits in few.get(file, [("mla", (2, 2)), ("mla", (3, 3)), ("mla", (4, 4))]):
        result += [
            convolution(1, kernel, bits, (2, 5, 4, 32), (6, 3, 3, 32), padding=1),
            convolution(2, kernel, bits, (1, 4, 5, 9), (5, 3, 2, 9), stride=2, padding=(1, 0)),
            convolution(3, kernel, bits, (1, 7, 7, 72), (4, 1, 1, 72), stride=(2, 3)),
            convolution(4, kernel, bits, (1, 1, 3, 9), (2, 1, 1, 9)),
            convolution(5, kernel, bits, (1, 1, 1, 16), (2, 1, 1, 16), "lowest", weights="signed"),
            convolution(6, kernel, bits, (1, 1, 1, 4128), (2, 1, 1, 4128), "lowest"),
            convolution(7, kernel, bits, (1, 1, 1, 4128), (2, 1, 1, 4128), "highest"),
        ]
    minus = np.full((1, 1, 1, 16), -128, np.int8), np.zeros((1, 1, 1, 16), np.uint8)
    if file == "int8.c":
        result.append(Convolution(*minus, {"bits": (8, 8), "weights": "signed"}))
    return result


def is_right(library, file: str) -> bool:
    """Whether all sums of the battery are the reference's, with buffers at either end of their pages."""
    with taken(library):
        for one in battery(file):
            for place in ("start", "end"):
                with placed(place, 0):
                    try:
                        if (one.run() != one.expected).any():
                            return False
                    except RuntimeError:
                        return False
    return True


@needs_emulator
@pytest.mark.parametrize("file", ["int8.c", "mla.c", "popcount.c"])
def test_without_a_mistake(tmp_path, file):
    assert is_right(compiled(tmp_path, file), file)


def test_the_places_of_mistakes_are_there():
    """Also of those that are planted nightly only."""
    for source, _, old, _, why in MISTAKES:
        assert old in (build.FOLDER / source).read_text(), why


@needs_emulator
@pytest.mark.parametrize(("source", "file", "old", "new", "why"), PLANTED, ids=[mistake[-1] for mistake in PLANTED])
def test_mistakes_are_caught(tmp_path, source, file, old, new, why):
    text = (build.FOLDER / source).read_text()
    assert not is_right(compiled(tmp_path, file, **{source: text.replace(old, new)}), file), why


def test_the_battery_is_of_what_kernels_admit():
    for file in ("int8.c", "mla.c", "popcount.c"):
        for one in battery(file):
            options = {k: v for k, v in one.options.items() if k in ("bits", "weights", "kernel")}
            kernels.pack_weights(one.w, **options, signed=one.x.dtype == np.int8)
