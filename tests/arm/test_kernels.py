"""Every kernel against the reference's integers, bit for bit; and the runs that its lanes just hold."""

import ctypes
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arm import build, emulator, kernels
from tests.arm.convolutions import (
    Convolution,
    codes,
    compiled,
    convolutions,
    expected,
    integers_of,
    kinds_of_codes,
    needs_compiler,
    needs_emulator,
    placed,
    seeds,
    taken,
)

FEW = [(b_w, b_a) for b_w in range(1, 5) for b_a in range(1, 5)]


def check(convolution: Convolution) -> None:
    found = convolution.run()
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, convolution.expected)


@needs_compiler
@needs_emulator
class TestAgainstTheReference:
    @given(convolutions())
    def test_sums_are_the_reference_s(self, convolution):
        check(convolution)

    @given(convolutions(), st.sampled_from(["start", "end"]), st.integers(0, 17))
    def test_buffers_of_any_alignment_and_nothing_beside_them(self, convolution, place, shift):
        with placed(place, shift):
            check(convolution)

    @pytest.mark.parametrize("kernel", ["mla", "int8"])
    @pytest.mark.parametrize("weights", ["odd", "signed"])
    @pytest.mark.parametrize("bits", FEW)
    def test_all_mixes_of_few_bits(self, kernel, weights, bits):
        for of_x, of_w in [("any", "any"), ("extremes", "extremes"), ("lowest", "lowest"), ("highest", "lowest")]:
            x, w = codes(8, of_x, (1, 4, 3, 21), bits[1]), codes(9, of_w, (5, 3, 3, 21), bits[0])
            check(Convolution(x, w, {"bits": bits, "weights": weights, "kernel": kernel, "padding": 1}))

    @pytest.mark.parametrize(
        ("kernel", "bits"), [("popcount", (1, 2)), ("mla", (2, 2)), ("mla", (4, 4)), ("int8", (8, 8))]
    )
    @pytest.mark.parametrize("pixels", range(1, 27))
    def test_every_number_of_pixels_that_a_tile_can_be_left_with(self, kernel, bits, pixels):
        x, w = codes(pixels, "any", (1, 1, pixels, 16), bits[1]), codes(1, "any", (3, 1, 1, 16), bits[0])
        check(Convolution(x, w, {"bits": bits, "kernel": kernel}))

    @pytest.mark.parametrize(
        ("kernel", "bits"), [("popcount", (1, 1)), ("mla", (3, 3)), ("mla", (4, 4)), ("int8", (8, 8))]
    )
    def test_more_pixels_than_are_laid_out_at_a_time(self, kernel, bits):
        x, w = codes(2, "any", (2, 9, 8, 16), bits[1]), codes(3, "any", (6, 3, 3, 16), bits[0])
        check(Convolution(x, w, {"bits": bits, "kernel": kernel, "padding": 1}))

    @given(seeds, kinds_of_codes, st.integers(1, 8))
    def test_signed_activations_of_8_bits(self, seed, how, b_w):
        x = codes(seed, how, (1, 4, 4, 19), 8).view(np.int8)
        w = codes(seed + 1, how, (3, 3, 3, 19), b_w)
        check(Convolution(x, w, {"bits": (b_w, 8), "weights": "signed", "padding": 1}))

    @given(convolutions())
    def test_packed_ahead_of_time(self, convolution):
        options = dict(convolution.options)
        places = {name: options.pop(name) for name in ("stride", "padding")}
        packed = kernels.pack_weights(convolution.w, **options)
        np.testing.assert_array_equal(kernels.conv2d(convolution.x, packed, **places), convolution.expected)

    @given(convolutions(), st.sampled_from([np.int64, np.uint16, np.int32]))
    def test_other_types_and_layouts_of_codes(self, convolution, dtype):
        x = np.repeat(convolution.x, 2, axis=2)[:, :, ::2].astype(dtype)
        w = np.asfortranarray(convolution.w.astype(dtype))
        np.testing.assert_array_equal(kernels.conv2d(x, w, **convolution.options), convolution.expected)


def deep(k: int, bits: tuple[int, int], x: int, w: int, kernel: str) -> Convolution:
    """One output of k products x * w, given as codes."""
    full = np.full((1, 1, 1, k), x, np.uint8), np.full((1, 1, 1, k), w, np.uint8)
    return Convolution(*full, {"bits": bits, "weights": "signed", "kernel": kernel})


@needs_compiler
@needs_emulator
class TestRuns:
    """Codes 0 are the largest products: -2^(a-1) by 2^(b-1), since weights are negated."""

    @pytest.mark.parametrize("bits", FEW)
    def test_the_bound_of_8_bit_lanes_is_attained(self, bits):
        run = kernels.run_length(bits)
        assert run * 2 ** (bits[0] - 1) * -(2 ** (bits[1] - 1)) == -128
        for k in (16 * run, 16 * run * 5 + 3):
            check(deep(k, bits, 0, 0, "mla"))
            with mock.patch.object(kernels, "_unit", return_value=1):  # whole runs for all bits, not pairs
                check(deep(k, bits, 0, 0, "mla"))

    @pytest.mark.parametrize("bits", FEW)
    def test_one_product_more_overflows(self, bits):
        run = kernels.run_length(bits)
        convolution = deep(16 * (run + 1), bits, 0, 0, "mla")
        check(convolution)
        with (
            mock.patch.object(kernels, "_unit", return_value=1),
            mock.patch.object(kernels, "run_length", return_value=run + 1),
        ):
            assert (convolution.run() != convolution.expected).all()

    @pytest.mark.parametrize(("x", "w"), [(0, 15), (15, 0), (15, 15), (0, 0)])
    def test_the_other_extremes_of_4_bits_have_room(self, x, w):
        check(deep(16 * 2 * 300, (4, 4), x, w, "mla"))

    def test_the_bound_of_16_bit_lanes_is_attained(self):
        for pairs in (127, 128, 129, 256, 300):
            check(deep(16 * 2 * pairs, (4, 4), 0, 0, "mla"))

    def test_one_pair_more_overflows(self, tmp_path):
        convolution = deep(16 * 2 * 129, (4, 4), 0, 0, "mla")
        with taken(compiled(tmp_path, "mla.c", "-DPAIRS=129")):
            assert (convolution.run() != convolution.expected).all()

    @pytest.mark.parametrize("b_a", [1, 2])
    def test_the_bound_of_counts_is_attained(self, b_a):
        for run in (30, 31, 32, 62, 63):
            check(deep(128 * run, (1, b_a), 2**b_a - 1, 1, "popcount"))

    def test_one_count_more_overflows(self, tmp_path):
        convolution = deep(128 * 32, (1, 1), 1, 1, "popcount")
        with taken(compiled(tmp_path, "popcount.c", "-DRUN=32")):
            assert (convolution.run() != convolution.expected).all()

    def test_two_products_of_8_bits_attain_their_bound(self):
        largest = Convolution(
            np.full((1, 1, 1, 16), -128, np.int8),
            np.full((1, 1, 1, 16), 1, np.uint8),  # -127
            {"bits": (8, 8), "weights": "signed"},
        )
        check(largest)
        assert largest.expected == 16 * 128 * 127

    def test_two_products_of_minus_128_overflow_and_are_not_paired(self):
        x, w = np.full((1, 1, 1, 16), -128, np.int8), np.zeros((1, 1, 1, 16), np.uint8)
        convolution = Convolution(x, w, {"bits": (8, 8), "weights": "signed"})
        check(convolution)
        with mock.patch.object(kernels, "_function", return_value="qg_int8"):
            assert (convolution.run() != convolution.expected).all()

    def test_the_largest_sum_of_int32(self):
        k = (2**31 - 1) // (255 * 255)
        x, w = np.full((1, 1, 1, k), 255, np.uint8), np.array([0, 255], np.uint8)
        w = np.broadcast_to(w[:, None, None, None], (2, 1, 1, k))
        found = kernels.conv2d(x, w, bits=(8, 8), kernel="int8")
        assert found.ravel().tolist() == [-255 * 255 * k, 255 * 255 * k]
        with pytest.raises(ValueError, match="largest sum of products must be at most 2147483647"):
            kernels.pack_weights(np.zeros((1, 1, 1, k + 2), np.uint8), bits=(8, 8))


@needs_compiler
class TestPackedWeights:
    def test_layout(self):
        w = codes(5, "any", (6, 2, 1, 9), 3)  # K = 18: two steps
        packed = kernels.pack_weights(w, bits=(3, 2), weights="signed")
        groups = np.frombuffer(packed.data[: 2 * 2 * 4 * 16], np.int8).reshape(2, 2, 4, 16)
        constants = np.frombuffer(packed.data[2 * 2 * 4 * 16 :], np.int32)
        for o in range(8):
            for k in range(32):
                wanted = 4 - int(w[o].ravel()[k]) if o < 6 and k < 18 else 0
                assert groups[o // 4, k // 16, o % 4, k % 16] == wanted
        assert constants.tolist() == [2 * int((w[o].astype(int) - 4).sum()) for o in range(6)] + [0, 0]

    def test_bits_begin_a_byte_for_each_place_of_the_kernel(self):
        w = np.zeros((1, 1, 2, 9), np.uint8)
        w[0, 0, 0, [0, 8]], w[0, 0, 1, 1] = 1, 1
        packed = kernels.pack_weights(w, bits=(1, 1))
        assert packed.data[:5] == bytes([0b1, 0b1, 0b10, 0, 0])


@needs_compiler
@needs_emulator
class TestRequantization:
    @given(st.data())
    def test_a_code_is_how_many_thresholds_a_sum_reaches(self, data):
        bits, shape = data.draw(st.integers(1, 5)), (*data.draw(st.lists(st.integers(0, 5), max_size=2)),)
        o = data.draw(st.integers(1, 21))
        rng = np.random.default_rng(data.draw(seeds))
        base = data.draw(st.sampled_from([-(2**31), -(2**31) + 32767, -7, 0, 2**31 - 65535, 2**31 - 1]))
        ends = np.array([-(2**31), 2**31 - 1, base, base + 1, base + 65534, base + 65535, base + 65533, base - 1])
        reach = data.draw(st.sampled_from([9, 65534, 65535, 2**32]))  # how far thresholds are apart
        near = base + np.array([0, 1, 2, reach, reach - 1, reach // 2, *rng.integers(0, reach + 1, 6)])
        sums = rng.choice(
            np.concatenate([np.clip(near, -(2**31), 2**31 - 1), ends.clip(-(2**31), 2**31 - 1)]), (*shape, o)
        )
        thresholds = np.sort(rng.choice(near.clip(-(2**31), 2**31 - 1), (o, 2**bits - 1)), axis=1)
        falling = data.draw(st.booleans() | st.just(rng.random(o) < 0.5))
        found = kernels.requantize(sums, thresholds, falling=falling)
        assert found.dtype == np.uint8
        assert found.shape == sums.shape
        flags = np.broadcast_to(falling, (o,))
        for place in np.ndindex(*sums.shape):
            sum_, channel = int(sums[place]), place[-1]
            reached = [sum_ <= int(t) if flags[channel] else sum_ >= int(t) for t in thresholds[channel]]
            assert found[place] == sum(reached)

    @pytest.mark.parametrize("reach", [65534, 65535])
    @pytest.mark.parametrize("falling", [False, True])
    def test_thresholds_as_far_apart_as_16_bits_reach(self, reach, falling):
        for base in (-(2**31), -32767, 2**31 - 1 - reach):
            thresholds = np.array([[base, base + reach // 2, base + reach]] * 8)
            sums = np.array([s for t in thresholds[0] for s in (t - 1, t, t + 1)]).clip(-(2**31), 2**31 - 1)
            found = kernels.requantize(np.repeat(sums[:, None], 8, axis=1), thresholds, falling=falling)
            for s, row in zip(sums, found, strict=True):
                assert set(row) == {sum(s <= t if falling else s >= t for t in thresholds[0])}

    @given(st.integers(1, 9), st.integers(1, 21), st.integers(0, 31), seeds)
    def test_rescaled_sums_are_rounded_twice(self, rows, o, shift, seed):
        rng = np.random.default_rng(seed)
        size = 2 ** int(rng.integers(1, 31))
        sums, offsets = rng.integers(-size, size, (rows, o)), rng.integers(-size // 2, size // 2, o)
        factors = rng.choice([0, 1, 2**30, 2**31 - 1, *rng.integers(0, 2**31, 4)], o)
        found = kernels.rescale(sums, factors, offsets=offsets, shift=shift)
        for r in range(rows):
            for c in range(o):
                whole = (2 * (int(sums[r, c]) + int(offsets[c])) * int(factors[c]) + 2**31) // 2**32
                rounded = (whole + 2**shift // 2) // 2**shift
                assert found[r, c] == min(max(rounded, 0), 255)


x_ok, w_ok = np.zeros((1, 3, 3, 2), np.uint8), np.zeros((4, 3, 3, 2), np.uint8)


class TestRefused:
    """Before any machine code runs, and before it is built."""

    @pytest.fixture(autouse=True)
    def nothing_runs(self, monkeypatch):
        monkeypatch.setattr(kernels, "_call", lambda *_, **__: pytest.fail("a kernel ran"))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"x": x_ok + 4}, "codes of x must be from 0 to 3, got 4"),
            ({"w": w_ok + 4}, "codes of w must be from 0 to 3, got 4"),
            ({"x": x_ok.astype(np.int8) - 1}, "codes of x must be from 0 to 3, got -1"),
            ({"x": x_ok.astype(float)}, "x must be an array of integers, got 'float64'"),
            ({"w": w_ok.astype(float)}, "w must be an array of integers"),
            ({"x": x_ok[0]}, "shape of x must be .N, H, W, 2."),
            ({"x": x_ok[..., :1]}, "shape of x must be"),
            ({"w": w_ok[0]}, "shape of w must be .O, kh, kw, C., without a 0"),
            ({"w": w_ok[:0]}, "shape of w must be"),
            ({"x": x_ok[:, :2]}, "extent of the kernel must be at most 2"),
            ({"x": x_ok[:, :, :2]}, "extent of the kernel must be at most 2"),
            ({"bits": (2, 9)}, "bits must be a whole number from 1 to 8, got 9"),
            ({"bits": (0, 2)}, "bits must be a whole number from 1 to 8, got 0"),
            ({"bits": 2}, "bits must be a pair"),
            ({"bits": None}, "bits must be a pair"),
            ({"bits": (5, 2), "kernel": "mla"}, "bits must be from 1 to 4 each for the kernel mla"),
            ({"kernel": "popcount"}, r"bits must be \(1, 1\) or \(1, 2\) for the kernel popcount"),
            ({"kernel": "sdot"}, "kernel must be one of int8, mla, popcount, got 'sdot'"),
            ({"weights": "ternary"}, "weights must be one of odd, signed"),
            ({"stride": 0}, "stride must be a whole number from 1"),
            ({"stride": (1, 2, 3)}, "stride must be"),
            ({"stride": 1.5}, "stride must be"),
            ({"stride": 2**40}, "stride must be a whole number from 1 to 1048576"),
            ({"padding": -1}, "padding must be a whole number from 0"),
            ({"padding": True}, "padding must be"),
        ],
    )
    def test_convolutions(self, change, message):
        arguments = {"x": x_ok, "w": w_ok, "bits": (2, 2)} | change
        with pytest.raises(ValueError, match=message):
            kernels.conv2d(arguments.pop("x"), arguments.pop("w"), **arguments)

    @pytest.mark.parametrize(
        ("shape", "options"),
        [
            ((2**15, 2**8, 2**7, 2), {}),
            ((1, 2**15, 2**14, 2), {"bits": (1, 1)}),  # 4 bytes for each of 4 outputs
            ((1, 1, 1, 2), {"padding": 2**20}),
            ((0, 2**31, 3, 2), {}),
        ],
    )
    def test_larger_arrays_than_offsets_reach(self, shape, options):
        x = np.broadcast_to(np.uint8(0), shape)
        with (
            mock.patch.object(kernels.checks, "codes", lambda name, value, bits: np.asarray(value)),
            pytest.raises(ValueError, match="bytes of the largest array must be at most 2147483647"),
        ):
            kernels.conv2d(x, w_ok, **{"bits": (2, 2)} | options)

    def test_more_room_for_windows_than_offsets_reach(self):
        w = np.broadcast_to(np.uint8(0), (1, 1, 1, 2**29))  # 64 MiB of bits, 48 windows of which are laid out
        x = np.broadcast_to(np.uint8(0), (1, 1, 1, 2**29))
        data = mock.MagicMock()
        data.__len__.return_value = 4 * (2**26 + 4)
        packed = kernels.Packed("popcount", w.shape, (1, 1), "odd", False, data)
        with (
            mock.patch.object(kernels.checks, "codes", lambda name, value, bits: np.asarray(value)),
            pytest.raises(ValueError, match="bytes of the largest array must be at most"),
        ):
            kernels.conv2d(x, packed)

    def test_packed_weights_for_other_activations(self):
        packed = kernels.pack_weights(w_ok, bits=(2, 2))
        with pytest.raises(ValueError, match=r"bits must be \(2, 2\), as of the packed weights, got \(2, 3\)"):
            kernels.conv2d(x_ok, packed, bits=(2, 3))
        with pytest.raises(ValueError, match="codes of x must be from 0 to 3"):
            kernels.conv2d(x_ok + 4, packed)
        signed = kernels.pack_weights(w_ok, bits=(2, 8), signed=True)
        with pytest.raises(ValueError, match="type of x must be int8"):
            kernels.conv2d(x_ok, signed)
        with pytest.raises(ValueError, match="8 for signed activations"):
            kernels.pack_weights(w_ok, bits=(2, 2), signed=True)

    def test_packed_weights_cut_short(self):
        packed = kernels.pack_weights(w_ok, bits=(2, 2))
        with pytest.raises(ValueError, match="bytes of data must be"):
            kernels.Packed(packed.kernel, packed.shape, packed.bits, packed.weights, packed.signed, packed.data[:-1])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"sums": np.zeros((2, 3))}, "sums must be an array of integers"),
            ({"sums": np.int32(3)}, "shape of sums must be"),
            ({"sums": np.full((2, 3), 2**31)}, "sums must be integers that int32 holds, got 2147483648"),
            ({"sums": np.full((2, 3), -(2**31) - 1)}, "sums must be integers that int32 holds"),
            ({"thresholds": np.zeros((4, 3), int)}, r"shape of thresholds must be \(3, 2\^bits - 1\)"),
            ({"thresholds": np.zeros((3, 4), int)}, "shape of thresholds"),
            ({"thresholds": np.full((3, 1), 2**31)}, "thresholds must be integers that int32 holds"),
            ({"falling": 1}, "falling must be a bool, or 3 of them"),
            ({"falling": [True, False]}, "falling must be a bool, or 3 of them"),
        ],
    )
    def test_requantization(self, change, message):
        arguments = {"sums": np.zeros((2, 3), int), "thresholds": np.zeros((3, 3), int)} | change
        with pytest.raises(ValueError, match=message):
            kernels.requantize(**arguments)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"factors": -1}, "factors must be from 0"),
            ({"factors": [1, 2]}, r"shape of factors must be \(\) or \(3,\)"),
            ({"offsets": [1, 2]}, "shape of offsets"),
            ({"shift": 32}, "shift must be a whole number from 0 to 31"),
            ({"shift": -1}, "shift must be"),
            ({"shift": (1, 1)}, "shift must be"),
        ],
    )
    def test_rescaling(self, change, message):
        arguments = {"sums": np.zeros((2, 3), int), "factors": 1} | change
        with pytest.raises(ValueError, match=message):
            kernels.rescale(**arguments)


@pytest.mark.parametrize("b_w", range(1, 9))
@pytest.mark.parametrize("weights", ["odd", "signed"])
def test_what_weights_stand_for(b_w, weights):
    scale, offset = kernels.GRIDS[weights]
    every = np.arange(2**b_w)
    assert (integers_of(every, b_w, weights) == scale * (every - 2 ** (b_w - 1)) + offset).all()


class TestOnArm:
    """There kernels are called with the addresses of the arrays; here something stands for them."""

    def test_arrays_are_handed_over_as_they_are(self, monkeypatch):
        def requantize(*pointers):
            addresses = [pointer.value for pointer in pointers]
            rows, channels, levels = np.ctypeslib.as_array((ctypes.c_int32 * 3).from_address(addresses[0]))
            sums, bases = ((ctypes.c_int32 * 4).from_address(addresses[at]) for at in (1, 4))
            thresholds = (ctypes.c_int16 * 2).from_address(addresses[2])
            assert (rows, channels, levels) == (2, 2, 1)
            codes = (ctypes.c_uint8 * 4).from_address(addresses[5])
            for at in range(4):
                codes[at] = sums[at] - bases[at % 2] >= thresholds[at % 2]

        monkeypatch.setattr(build, "on_arm", lambda: True)
        monkeypatch.setattr(kernels, "_native", lambda: {"qg_requantize16": requantize})
        monkeypatch.setattr(emulator, "call", lambda *_, **__: pytest.fail("emulated"))
        assert kernels.requantize([[1, 2], [3, 4]], [[2], [3]]).tolist() == [[0, 0], [1, 1]]

    @needs_compiler
    @needs_emulator
    def test_counting_is_emulation_there_too(self, monkeypatch):
        monkeypatch.setattr(build, "on_arm", lambda: True)
        monkeypatch.setattr(kernels, "_native", lambda: pytest.fail("not counted"))
        codes, found = kernels.requantize([[1, 2], [3, 4]], [[2], [3]], count=True)
        assert codes.tolist() == [[0, 0], [1, 1]]
        assert found.instructions > 0


@needs_compiler
@needs_emulator
def test_an_example_by_hand():
    x = np.array([[[[1], [2]], [[3], [0]]]], np.uint8)
    w = np.array([[[[0], [3]], [[1], [2]]]], np.uint8)  # -3, 3, -1, 1
    assert kernels.conv2d(x, w, bits=(2, 2)).tolist() == [[[[-3 * 1 + 3 * 2 - 1 * 3 + 1 * 0]]]]
    assert expected(x, w, bits=(2, 2)).tolist() == [[[[0]]]]
