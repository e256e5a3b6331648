"""APoT: the sums of powers of two, the nearest of them, the reparameterised gradient; what public code does."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import apot, grid
from tests.oracles import check_near, check_same
from tests.strategies import arrays_of, cotangents, dtypes, nudge, vectors

variants = st.sampled_from(apot.METHOD.variants)
roles = st.sampled_from(["weight", "activation"])
widths = st.integers(2, 5)
alphas = st.sampled_from([0.25, 1.0, 2.0, 3.0, 8.0]) | st.floats(0.015625, 20, width=32)

# What build_power_value(B) of the authors' code makes, over its smallest element: printed by running it.
RELEASED = {
    1: [0, 1],
    2: [0, 1, 2, 4],
    3: [0, 1, 2, 3, 4, 6, 8, 10],
    4: [0, 1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24, 32, 33, 36, 48],
    5: [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 17, 20, 21, 24, 28, 32, 34, 36, 38, 48, 52,
        64, 65, 68, 69, 72, 76, 96, 100],
}  # fmt: skip


def powers(magnitude_bits):
    """The paper's set in a loop over all choices, with k = 2 bits a term, in fractions of the largest."""
    n, odd = divmod(magnitude_bits, 2)
    sums = {Fraction(0)}
    for i in range(n):
        last = i + 2 * n + 1 if odd else i + 2 * n
        term = [Fraction(0), Fraction(1, 2**i), Fraction(1, 2 ** (i + n)), Fraction(1, 2**last)]
        sums = {s + p for s in sums for p in term}
    if odd:
        sums = {s + p for s in sums for p in (Fraction(0), Fraction(1, 2 ** (2 * n)))}
    return sorted(s / max(sums) for s in sums)


def nearest(v, alpha, bits, role):
    """The element of the set nearest to v / alpha, in fractions; halfway the one of the smaller magnitude."""
    u = Fraction(float(v)) / Fraction(float(alpha))
    sign = -1 if role == "weight" and u < 0 else 1
    found = powers(bits - (role == "weight"))
    return sign * min(found, key=lambda level: (abs(sign * u - level), level))


@pytest.mark.parametrize("bits", range(1, 6))
def test_the_set_is_the_papers_and_the_codes(bits):
    if bits > 1:
        ours = apot.magnitudes(bits, "activation")
        assert [Fraction(k, ours[-1]) for k in ours] == powers(bits)
        assert list(ours) == RELEASED[bits]
    if bits < 5:
        assert list(apot.magnitudes(bits + 1, "weight")) == RELEASED[bits]


@pytest.mark.parametrize("bits", range(2, 6))
def test_how_many_levels(bits):
    """No two sums are equal, so that 2^b are left of the choices; of weights 0 has no sign."""
    assert len(apot.magnitudes(bits, "activation")) == 2**bits
    assert len(apot.integers(bits, "weight")) == 2**bits - 1
    assert np.array_equal(apot.integers(bits, "weight"), -np.array(apot.integers(bits, "weight"))[::-1])


def inputs(alpha, bits, role, dtype):
    """Levels, transition points, neighbours of both, ends, and what lies between."""
    found = powers(bits - (role == "weight"))
    special = [*found, *((a + b) / 2 for a, b in itertools.pairwise(found)), Fraction(3, 2)]
    sides = (1, -1)
    on_grid = st.sampled_from([dtype(float(s * sign) * alpha) for s in special for sign in sides])
    anywhere = st.floats(-1.5, 1.5).map(lambda u: dtype(u * alpha))
    return arrays_of(on_grid | st.builds(nudge, on_grid, st.integers(-2, 2)) | anywhere, dtype, vectors)


@given(st.data(), widths, roles, alphas, dtypes, variants)
def test_values_are_alpha_times_the_nearest(data, bits, role, alpha, dtype, variant):
    x = data.draw(inputs(alpha, bits, role, dtype))
    params = apot.Params(alpha, bits, role, variant)
    clear = apot.threshold_distance(x.astype(np.float64), params) > 1e3 * np.finfo(dtype).eps
    got = apot.forward(x, params, training=True)
    want = np.array([float(nearest(v, alpha, bits, role)) for v in x]) * alpha
    check_near(f"forward({x!r}, {params})", got[clear], want[clear], 2 * np.finfo(dtype).eps * np.abs(want[clear]))
    check_same("test", apot.forward(x, params, training=False), got)


@given(st.data(), widths, roles, alphas)
def test_the_distance_is_in_units_of_the_smallest_power(data, bits, role, alpha):
    x = data.draw(inputs(alpha, bits, role, np.float64))
    found = powers(bits - (role == "weight"))
    ratios = [Fraction(float(v)) / Fraction(alpha) for v in x]
    ratios = [abs(u) for u in ratios] if role == "weight" else ratios
    want = [min(abs(u - (a + b) / 2) for a, b in itertools.pairwise(found)) / found[1] for u in ratios]
    params = apot.Params(alpha, bits, role)
    want = np.array(want, np.float64)
    check_near(f"distance of {x!r}, {params}", apot.threshold_distance(x, params), want, 1e-12 * (1 + want))


@pytest.mark.parametrize("role", ["weight", "activation"])
@pytest.mark.parametrize("bits", range(2, 6))
def test_halfway_magnitudes_go_down(bits, role):
    """At powers of two as alpha all is exact. The released code goes up at some of these points, down at others."""
    found = powers(bits - (role == "weight"))
    for below, above in itertools.pairwise(found):
        if (below + above).denominator.bit_count() == 1:  # exact in floating point
            x = np.array([float((below + above) / 2)])
            params = apot.Params(1.0, bits, role)
            assert apot.forward(x, params, training=False)[0] == float(below)
            if role == "weight":
                assert apot.forward(-x, params, training=False)[0] == -float(below)


def gradients(v, alpha, bits, role, variant):
    """The gradients for v and alpha, for one number."""
    q = float(nearest(v, alpha, bits, role))
    u = float(v) / alpha
    if role == "weight":
        clipped = abs(u) > 1
        passes = not clipped or variant == "cifar10" or (variant == "imagenet" and bits == 2)
        return float(passes), (1.0 if u > 0 else -1.0) if clipped else q - u
    if u > 1:
        return 0.0, 1.0
    if u < 0 and variant != "cifar10":
        return 0.0, 0.0
    return 1.0, q - u


@given(st.data(), widths, roles, alphas, variants)
def test_gradients(data, bits, role, alpha, variant):
    params = apot.Params(alpha, bits, role, variant)
    x = data.draw(inputs(alpha, bits, role, np.float64))
    x = x[(apot.threshold_distance(x, params) > 1e-9) & (abs(abs(x / alpha) - 1) > 1e-9) & (abs(x) > 1e-9)]
    grad = cotangents(x)
    want = np.array([gradients(v, alpha, bits, role, variant) for v in x]).reshape(-1, 2)
    got_x, got = apot.vjp(x, params, grad)
    check_same(f"gradient for {x!r}", got_x, grad * want[:, 0])
    check_near("gradient for alpha", got["alpha"], (grad * want[:, 1]).sum(), 1e-12 * (1 + np.abs(grad).sum()))


def test_the_ends_are_inside():
    """|v| = alpha: the gradient passes, and alpha has none, as value and v are equal."""
    for role in ("weight", "activation"):
        for variant in apot.METHOD.variants:
            by_x, by = apot.vjp([2.0], apot.Params(2.0, 3, role, variant), [1.0])
            assert (by_x[0], by["alpha"]) == (1.0, 0.0)


# Printed by the authors' code, CIFAR10/models/quant_layer.py and ImageNet/models/quant_layer.py, with a gradient of 1.
WITNESSES = [
    ("cifar10", "activation", 2, 2.0, [-0.5, 0.5, 3.0], [0.0, 0.5, 2.0], [1, 1, 0], 1.25),
    ("imagenet", "activation", 2, 2.0, [-0.5, 0.5, 3.0], [0.0, 0.5, 2.0], [0, 1, 0], 1.0),
    ("cifar10", "weight", 3, 2.0, [-2.5, -0.6, 0.6, 2.0], [-2.0, -0.5, 0.5, 2.0], [1, 1, 1, 1], -1.0),
    ("imagenet", "weight", 3, 2.0, [-2.5, -0.6, 0.6, 2.0], [-2.0, -0.5, 0.5, 2.0], [0, 1, 1, 1], -1.0),
]


@pytest.mark.parametrize(("variant", "role", "bits", "alpha", "x", "values", "by_x", "by_alpha"), WITNESSES)
def test_what_the_released_code_prints(variant, role, bits, alpha, x, values, by_x, by_alpha):
    params = apot.Params(alpha, bits, role, variant)
    check_same("values", apot.forward(x, params, training=True), np.array(values))
    got_x, got = apot.vjp(x, params, np.ones(len(x)))
    check_same("gradient for x", got_x, np.array(by_x, float))
    check_near("gradient for alpha", got["alpha"], by_alpha, 1e-12)


def test_two_bit_weights_pass_where_they_are_clipped_in_both_public_codes():
    """ "Calibrated gradients"; the paper's clip blocks them. At 3 bits that for ImageNet blocks them, too."""
    passed = {
        (variant, bits): apot.vjp([9.0], apot.Params(1.0, bits, "weight", variant), [1.0])[0][0]
        for variant in apot.METHOD.variants
        for bits in (2, 3)
    }
    assert [key for key, value in passed.items() if value] == [("imagenet", 2), ("cifar10", 2), ("cifar10", 3)]


def test_first_values():
    want = {"paper": (3, 8), "imagenet": (3, 6), "cifar10": (3, 8)}
    for variant, alpha in want.items():
        got = [float(apot.init([], 2, role, variant=variant).alpha) for role in ("weight", "activation")]
        assert got == list(alpha)


def test_infinite_activations_leave_alpha_alone_below():
    """In the released code for CIFAR-10 alpha's gradient is infinite there."""
    for variant in apot.METHOD.variants:
        assert apot.vjp([-np.inf], apot.Params(1.0, 2, "activation", variant), [1.0])[1]["alpha"] == 0.0


@given(st.lists(st.floats(-3, 3, width=32), min_size=3, max_size=9, unique=True))
def test_standardised_weights_do_not_know_their_scale(w):
    """Weight standardisation: what layers do first. Scale and offset of the weights change no level."""
    w = np.array(w)
    params = apot.Params(2.0, 3, "weight")
    if np.std(w) < 1e-3:
        return
    y, moved = grid.standardize(w), grid.standardize(4 * w + 8)
    check_near("standardised", moved, y, 1e-9 * (1 + abs(y)))
    clear = apot.threshold_distance(y, params) > 1e-6
    assert np.array_equal(apot.codes(y, params)[clear], apot.codes(moved, params)[clear])
