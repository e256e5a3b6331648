"""LSQ+ against its formulas for one number, in fractions; its starting values; what it shares with LSQ."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import lsq, lsqplus
from tests.oracles import check_near, check_same
from tests.strategies import cotangents, dtypes, vectors

IBM = "fms-model-optimizer"
VARIANTS = ["paper", "public", IBM]
by_variant = pytest.mark.parametrize("variant", VARIANTS)
ROLES = [("weight", bits) for bits in range(2, 9)]
ROLES += [(role, bits) for role in ("activation", "signed_activation") for bits in range(1, 9)]
# Products with eighths of small integers, and sums of them, are exact: no test needs a bound.
steps = st.sampled_from([0.125, 0.25, 0.5, 1.0, 2.0])
betas = st.integers(-80, 80).map(lambda k: k / 8)
numbers = st.integers(-2000, 2000).map(lambda k: k / 32)


def arrays(dtype):
    return st.lists(numbers, min_size=1, max_size=8).map(lambda x: np.array(x, dtype))


def ends(bits, role, variant="paper"):
    """n and p."""
    around = role == "weight" or variant == IBM
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if around else (0, 2**bits - 1)


def one(x, step, beta, bits, role, variant="paper"):
    """x-hat and its derivatives for x, s and beta, of one number; Python rounds fractions half to even.

    By the paper, and in IBM's code, the ends count as clipped, by other public code they do not.
    """
    low, high = ends(bits, role, variant)
    q = (Fraction(float(x)) - Fraction(beta)) / Fraction(step)
    if q < low or q > high or (variant != "public" and q in (low, high)):
        end = low if q <= low else high
        return end * Fraction(step) + Fraction(beta), 0, end, 1
    return round(q) * Fraction(step) + Fraction(beta), 1, round(q) - q, 0


def offset(beta, role, variant):
    """The one that is tried: the weights of most variants have none."""
    return 0.0 if role == "weight" and variant != IBM else beta


@by_variant
@given(data=st.data(), dtype=dtypes, role=st.sampled_from(ROLES), step=steps, beta=betas)
def test_values_are_the_papers(variant, data, dtype, role, step, beta):
    role, bits = role
    x = data.draw(arrays(dtype))
    params = lsqplus.Params(step, offset(beta, role, variant), bits, role, variant)
    want = np.array([one(v, step, float(params.beta), bits, role, variant)[0] for v in x], dtype)
    check_same(f"forward({x!r}, {params})", lsqplus.forward(x, params, training=True), want + 0.0)
    low = ends(bits, role, variant)[0]
    want = [(one(v, step, float(params.beta), bits, role, variant)[0] - params.beta) / step - low for v in x]
    check_same(f"codes({x!r}, {params})", lsqplus.codes(x, params), np.array(want, np.int64))


@by_variant
@given(data=st.data(), role=st.sampled_from(ROLES), step=steps, beta=betas)
def test_gradients_are_the_variants(variant, data, role, step, beta):
    role, bits = role
    x = data.draw(arrays(np.float64))
    params = lsqplus.Params(step, offset(beta, role, variant), bits, role, variant)
    grad = cotangents(x)
    got_x, got = lsqplus.vjp(x, params, grad)
    each = [one(v, step, float(params.beta), bits, role, variant) for v in x]
    scale = 1 if variant == IBM else 1 / math.sqrt(x.size * ends(bits, role)[1])
    expression = f"vjp({x!r}, {params})"
    check_same(f"{expression}, x", got_x, np.array([row[1] for row in each]) * grad)
    by_step = float(sum(row[2] * Fraction(g) for row, g in zip(each, grad, strict=True))) * scale
    check_near(f"{expression}, step", got["step"], by_step, 1e-15 * (1 + abs(by_step)))
    by_beta = sum(row[3] * g for row, g in zip(each, grad, strict=True)) * (scale if variant == "public" else 1)
    check_near(f"{expression}, beta", got["beta"], by_beta, 1e-15 * (1 + abs(by_beta)))


@given(st.data(), st.sampled_from(["activation", "signed_activation"]), st.integers(1, 8), steps, betas)
def test_the_offset_learns_from_clipped_elements_only(data, role, bits, step, beta):
    """Those on the ends count as clipped."""
    p = 2**bits - 1
    params = lsqplus.Params(step, beta, bits, role)
    q = data.draw(st.lists(st.integers(1, 32 * p - 1), min_size=1, max_size=8))
    grad_x, grads = lsqplus.vjp(np.array(q) / 32 * step + beta, params, np.ones(len(q)))
    assert grads["beta"] == 0, "all of them lie inside"
    assert (grad_x == 1).all()
    for outside, end in [(-3, 0), (0, 0), (p, p), (p + 0.25, p), (p + 99, p)]:
        grad_x, grads = lsqplus.vjp([outside * step + beta], params, [1.0])
        got = (float(grad_x[0]), float(grads["beta"]))
        assert got == (0, 1), f"gradients for x and beta at level {outside}: {got}"
        check_near(f"gradient for step at level {outside}", grads["step"], end / math.sqrt(p), 1e-15 * p)


@given(st.data(), dtypes, st.integers(1, 8), steps)
def test_without_offset_it_is_lsq(data, dtype, bits, step):
    for role in ("activation", "weight")[: 1 + (bits > 1)]:
        x = data.draw(arrays(dtype))
        ours, theirs = lsqplus.Params(step, 0.0, bits, role), lsq.Params(step, bits, role)
        for name in ("forward", "codes"):
            options = {"training": True} if name == "forward" else {}
            got, want = (getattr(m, name)(x, p, **options) for m, p in [(lsqplus, ours), (lsq, theirs)])
            check_same(f"{name}({x!r}, {ours})", got, want)
        (got_x, got), (want_x, want) = lsqplus.vjp(x, ours, cotangents(x)), lsq.vjp(x, theirs, cotangents(x))
        check_same(f"gradient of {ours} for {x!r}", got_x, want_x)
        check_same(f"gradient of {ours} for its step", got["step"], want["step"])


# IBM's code


@pytest.mark.parametrize("role", ["weight", "activation", "signed_activation"])
def test_ibms_code_has_levels_around_the_offset_for_weights_and_activations_alike(role):
    """2 bits: -2 ... 1 times s, and beta. Clipped elements give s their level, and beta 1, without a factor."""
    params = lsqplus.Params(0.5, 3.0, 2, role, IBM)
    assert lsqplus.levels(params).tolist() == [2, 2.5, 3, 3.5]
    assert "beta" in lsqplus.METHOD.learned(role, IBM)
    assert lsqplus.integer_grid(params) is None
    for x, by_x, by_step, by_beta in [
        (-9, 0, -2, 1), (2, 0, -2, 1), (2.125, 1, -0.25, 0), (2.25, 1, -0.5, 0), (2.75, 1, 0.5, 0), (3.375, 1, 0.25, 0),
        (3.5, 0, 1, 1), (9, 0, 1, 1),
    ]:  # fmt: skip
        got_x, got = lsqplus.vjp([float(x)] * 4, params, [0.0, 0.0, 2.0, 0.0])
        assert (got_x[2], got["step"], got["beta"]) == (2 * by_x, 2 * by_step, 2 * by_beta), f"at {x}"


@pytest.mark.parametrize(("role", "bits"), ROLES)
@given(x=st.lists(numbers, min_size=2, max_size=8, unique=True))
def test_ibms_code_starts_with_levels_that_span_the_data(role, bits, x):
    low, high = Fraction(min(x)), Fraction(max(x))
    step = (high - low) / (2**bits - 1)
    got = lsqplus.init(x, bits, role, variant=IBM)
    check_near("step", got.step, float(step), 1e-15 * float(step))
    check_near("beta", got.beta, float(low + 2 ** (bits - 1) * step), 1e-15 * 200)
    check_near("ends", lsqplus.levels(got)[[0, -1]], [min(x), max(x)], 1e-15 * 200)


# The starting values


def test_weights_start_with_three_deviations():
    w = np.array([1.0, 2.0, 3.0])  # mean 2, unbiased deviation 1: max(|2 - 3|, |2 + 3|) = 5
    for bits in range(2, 9):
        for variant, whole in [("paper", 2 ** (bits - 1)), ("public", 2**bits - 1)]:
            params = lsqplus.init(w, bits, "weight", variant=variant)
            check_near(f"init({w}, {bits}, {variant}).step", params.step, 5 / whole, 1e-15)
            assert params.beta == 0
            check_same("the same, mirrored", lsqplus.init(-w, bits, "weight", variant=variant).step, params.step)


def least_error(x, n):
    """The least squared error that any s and beta leave: over all ascending codes of the sorted numbers."""
    x, count, found = [Fraction(v) for v in sorted(x)], len(x), []
    mean = sum(x) / count
    for cuts in itertools.combinations_with_replacement(range(count + 1), n):
        codes = [sum(i >= cut for cut in cuts) for i in range(count)]
        middle = Fraction(sum(codes), count)
        spread = sum((c - middle) ** 2 for c in codes)
        shared = sum((c - middle) * (v - mean) for c, v in zip(codes, x, strict=True))
        found.append(sum((v - mean) ** 2 for v in x) - (shared * shared / spread if spread else 0))
    return float(min(found))


def spanning(x, bits, role):
    return lsqplus.Params((max(x) - min(x)) / (2**bits - 1), min(x), bits, role)


@given(
    st.lists(numbers, min_size=2, max_size=8, unique=True),
    st.integers(1, 8),
    st.sampled_from(["activation", "signed_activation"]),
)
def test_activations_start_no_worse_than_with_the_range(x, bits, role):
    got = lsqplus.squared_error(x, lsqplus.init(x, bits, role))
    assert got <= lsqplus.squared_error(x, spanning(x, bits, role))
    public = lsqplus.init(x, bits, role, variant="public")
    assert (public.step, public.beta) == ((max(x) - min(x)) / (2**bits - 1), min(x))


@given(st.lists(numbers, min_size=2, max_size=9, unique=True))
def test_at_1_bit_activations_start_with_the_least_error_that_there_is(x):
    got = lsqplus.squared_error(x, lsqplus.init(x, 1, "activation"))
    check_near(f"squared error of init({x}, 1)", got, least_error(x, 1), 1e-9 * len(x) * max(map(abs, x)) ** 2)


@given(st.lists(numbers, min_size=2, max_size=9, unique=True), st.integers(2, 8))
def test_the_start_of_activations_is_a_place_where_neither_step_gains(x, bits):
    """The fit to the codes of the result, by numpy's own least squares, is the result (or the range was kept)."""
    params = lsqplus.init(x, bits, "activation")
    if params == spanning(x, bits, "activation"):
        return
    codes = lsqplus.codes(x, params)
    (step, beta), *_ = np.linalg.lstsq(np.stack([codes, np.ones(len(x))], 1), np.array(x), rcond=None)
    fitted = float(np.square(codes * step + beta - x).sum())
    gained = lsqplus.squared_error(x, params) - fitted
    assert gained <= 1e-8 * np.var(x) * len(x), f"init({x}, {bits}) = {params} can gain {gained}"


def test_for_few_numbers_the_start_is_nearly_the_best():
    """Over 60 sets of 7 numbers at 2 bits: within 3 % of their variation, and for most the best itself."""
    rng = np.random.default_rng(3)
    gaps = []
    for i in range(60):
        x = rng.standard_normal(7) if i % 2 else np.abs(rng.standard_t(2, 7))
        error = lsqplus.squared_error(x, lsqplus.init(x, 2, "signed_activation"))
        gaps.append((error - least_error(x, 3)) / (np.var(x) * x.size))
    assert min(gaps) > -1e-9
    assert max(gaps) < 0.03
    assert np.median(gaps) < 1e-9


def test_five_numbers_that_scaling_the_range_does_not_serve():
    """Scaling s and beta together leaves 1.2; the two means are 10.4 and 13."""
    x = [10, 10.2, 10.4, 11, 13]
    params = lsqplus.init(x, 1, "activation")
    check_near("squared error", lsqplus.squared_error(x, params), 0.56, 1e-12)
    check_near("beta", params.beta, 10.4, 1e-12)
    check_near("step", params.step, 2.6, 1e-12)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_large_batch_is_searched_as_a_whole(bits):
    """Heavy tails: the range alone would be far too wide. No step of a coarse search around the result gains."""
    x = np.abs(np.random.default_rng(0).standard_t(3, 50_000))
    params = lsqplus.init(x, bits, "activation")
    error = lsqplus.squared_error(x, params)
    assert error < (0.75 if bits < 8 else 0.95) * lsqplus.squared_error(x, spanning(x, bits, "activation"))
    for factor, shift in itertools.product((0.8, 0.9, 1.0, 1.1, 1.25), (-0.25, 0.0, 0.25)):
        other = lsqplus.Params(params.step * factor, params.beta + shift * params.step, bits, "activation")
        assert error <= lsqplus.squared_error(x, other) * (1 + 1e-9), f"{other} is better than {params}"


@given(st.lists(numbers, min_size=2, max_size=8, unique=True), st.integers(1, 8), st.integers(-20, 20))
def test_the_start_of_activations_moves_and_scales_with_them(x, bits, exponent):
    x, factor = np.array(x), 2.0**exponent
    params = lsqplus.init(x, bits, "activation")
    scaled, order = lsqplus.init(x * factor, bits, "activation"), lsqplus.init(x[::-1], bits, "activation")
    assert (scaled.step, scaled.beta) == (params.step * factor, params.beta * factor)
    assert order == params


def test_a_range_that_is_the_grid_stays():
    for beta, step in [(-1.0, 0.5), (2.0, 1.0)]:
        x = beta + step * np.arange(4)
        params = lsqplus.init(x, 2, "activation")
        assert (params.step, params.beta) == (step, beta)


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize(("share", "stays"), [(0.8, True), (1.25, False)])
def test_the_range_stays_until_a_billionth_of_the_variation_is_gained(bits, share, stays):
    """Two more numbers a little inside leave an error in any case; a range that ends between them leaves less."""
    n = 2**bits - 1
    inside = math.sqrt(share * 1e-9 * np.var([0, *range(n + 1), n]) * (n + 3))
    x = [0.0, inside, *range(1, n), n - inside, float(n)]
    gained = (2 * inside**2 - least_error(x, n)) / (np.var(x) * len(x))
    check_near("gain of the best, in billionths", 1e9 * gained, share, 0.1)
    params = lsqplus.init(x, bits, "activation")
    assert (params == spanning(x, bits, "activation")) == stays, f"init({x}, {bits}) = {params}"
    check_near("step", params.step, 1 if stays else 1 - inside / n, inside / 10)


# What is refused


@pytest.mark.parametrize("x", [[], [2.0], [2.0, 2.0], [0.0, 0.0], [0.0, math.nan], [0.0, math.inf], [-1e308, 1e308]])
@pytest.mark.parametrize("role", ["weight", "activation", "signed_activation"])
def test_data_without_a_range_are_refused(x, role):
    with pytest.raises(ValueError, match="range of x must be finite, with values that differ, got"):
        lsqplus.init(x, 2, role)


@pytest.mark.parametrize(("name", "value"), [("step", 0.0), ("step", -1.0), ("step", 1e-31), ("beta", math.nan)])
def test_parameters_that_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be (from 1e-30 to 1e\\+30|finite), got"):
        lsqplus.Params(**({"step": 1.0, "beta": 0.0} | {name: value}), bits=2, role="activation")


@given(shape=vectors, channels=st.integers(1, 3))
def test_elements_that_share_a_step_are_counted(shape, channels):
    """N: of the weights those of a channel, of activations those of one image; p of 2-bit weights is 1."""
    x = np.zeros((channels, *shape))
    weight = lsqplus.Params(np.ones((channels, 1)), np.zeros((channels, 1)), 2, "weight")
    check_near("scale for weights", lsqplus.gradient_scale(x, weight), 1 / math.sqrt(shape[0]), 1e-15)
    activation = lsqplus.Params(1.0, 0.0, 2, "activation")
    check_near("scale for activations", lsqplus.gradient_scale(x, activation), 1 / math.sqrt(3 * shape[0]), 1e-15)


def test_an_input_that_is_broadcast_gets_the_sum_of_its_gradients():
    params, x, grad = (
        lsqplus.Params([[1.0], [0.25]], [[0.0], [0.0]], 2, "weight"),
        [[0.6, -0.3]],
        np.array([[1.0, 2.0], [4.0, 8.0]]),
    )
    grad_x, grads = lsqplus.vjp(x, params, grad)
    assert grad_x.tolist() == [[1, 10]]
    assert all(value.shape == (2, 1) for value in grads.values())


def test_the_gradient_scale_counts_the_elements_of_a_channel():
    params = lsqplus.Params(np.ones((3, 1, 1)), np.zeros((3, 1, 1)), 2, "activation")
    check_near("gradient_scale", lsqplus.gradient_scale(np.zeros((2, 3, 4, 4)), params), 1 / math.sqrt(16 * 3), 1e-16)


def test_public_code_counts_all_and_lets_the_ends_pass():
    public = lsqplus.Params(np.ones((3, 1, 1)), np.zeros((3, 1, 1)), 2, "activation", "public")
    check_near("gradient_scale", lsqplus.gradient_scale(np.zeros((2, 3, 4, 4)), public), 1 / math.sqrt(96 * 3), 1e-16)
    for variant, passes in {"paper": 0, "public": 1}.items():
        params = lsqplus.Params(0.5, -1.0, 2, "activation", variant)
        for end in (0, 3):
            grad_x, grads = lsqplus.vjp([end * 0.5 - 1], params, [1.0])
            got = (float(grad_x[0]), float(grads["beta"]) != 0, float(grads["step"]) != 0)
            assert got == (passes, not passes, not passes and end == 3), f"{variant} at level {end}: {got}"


def test_ties_go_to_even_in_all_variants():
    """Not away from zero, as in one public code: 0.5 and 2.5 would go to 1 and 3."""
    for variant in VARIANTS:
        params = lsqplus.Params(1.0, 0.0, 3, "activation", variant)
        assert lsqplus.forward([0.5, 1.5, 2.5], params, training=True).tolist() == [0, 2, 2]
