"""IR-Net against its definition in decimal arithmetic; finite differences pass through mean and deviation."""

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from reference import irnet
from tests.oracles import check_near, check_same, derivative, exact, tanh
from tests.strategies import arrays_of, cotangents, dtypes, shapes, vectors

steepness = st.sampled_from([1e-3, 0.1, 1.0, 10.0]) | st.floats(1e-3, 10)
weights = st.lists(st.integers(-64, 64).map(lambda n: n / 16), min_size=3, max_size=8).filter(lambda w: len({*w}) > 1)


def standardized(w):
    """w-hat of decimal numbers: unbiased, not detached."""
    mean = sum(w) / len(w)
    std = (sum((v - mean) ** 2 for v in w) / (len(w) - 1)).sqrt()
    return [(v - mean) / std for v in w]


def exponent(w):
    """The whole number next to log2 of the mean magnitude: from 2^(s - 1/2) to 2^(s + 1/2)."""
    squared = (sum(map(abs, standardized(w))) / len(w)) ** 2
    assume(all(abs(squared / Decimal(2) ** (2 * s + 1) - 1) > 1e-9 for s in range(-9, 1)))
    return next(s for s in range(-9, 2) if squared < Decimal(2) ** (2 * s + 1))


@given(weights, dtypes)
def test_libra_pb(w, dtype):
    w, decimals = np.array(w, dtype), [exact(v) for v in w]
    s, y = exponent(decimals), standardized(decimals)
    params = irnet.init(w, 1, "weight")
    assert params.exponent == s
    got = irnet.forward(w, params, training=True)
    clear = np.array([v == 0 or abs(v) > 1e-5 for v in y])  # a mean that is rounded may lie on the other side
    want = np.array([2.0**s if v >= 0 else -(2.0**s) for v in y], dtype)
    sure = clear if np.mean(w.astype(np.float64)) * 2**20 % 1 == 0 else clear & np.array([v != 0 for v in y])
    check_same(f"forward({w!r})", got[sure], want[sure])
    assert set(np.abs(got).tolist()) == {2.0**s}, "two levels"
    check_same("levels", irnet.levels(params), np.array([-(2.0**s), 2.0**s]))
    hat = irnet.standardized(w.astype(np.float64), params)
    check_near("mean of w-hat", hat.mean(), 0, 1e-13)
    check_near("deviation of w-hat", hat.std(ddof=1), 1, 1e-13)


def test_the_sign_of_zero_is_positive():
    """As 0, it would be a third level."""
    w = np.array([-1.0, 0.0, 1.0])
    assert irnet.forward(w, irnet.init(w, 1, "weight"), training=True).tolist() == [-0.5, 0.5, 0.5]
    params = irnet.Params(1, "signed_activation")
    assert irnet.forward([-0.0, 0.0, -1e-300], params, training=True).tolist() == [1, 1, -1]
    assert irnet.codes([-0.0, 0.0, -1e-300], params).tolist() == [1, 1, 0]


def test_the_scale_is_the_nearest_power_of_two():
    """Of mean |w-hat|, which is at most 1: 1/2 for heavy tails, less for heavier ones."""
    for n, want in [(4, 0), (8, -1), (40, -2), (1000, -4)]:  # one of n differs: 2 sqrt((n - 1)/n) / sqrt(n), about
        w = np.zeros(n)
        w[0] = 1
        assert irnet.init(w, 1, "weight").exponent == want, n


@given(weights, st.integers(-8, 8), st.integers(-16, 16))
def test_shift_and_scale_do_not_matter(w, power, shift):
    w = np.array(w)
    exponent([exact(v) for v in w])  # not near a tie
    y = irnet.standardized(w, irnet.init(w, 1, "weight"))
    moved = w * 2.0**power + shift
    got = irnet.forward(moved, irnet.init(moved, 1, "weight"), training=True)
    want = irnet.forward(w, irnet.init(w, 1, "weight"), training=True)
    clear = np.abs(y) > 1e-9
    check_same("forward", got[clear], want[clear])


def entropy(signs):
    p = np.mean(signs > 0)
    return 0.0 if p in (0, 1) else -(p * math.log2(p) + (1 - p) * math.log2(1 - p))


@pytest.mark.parametrize("mean", [0.0, 3.0, -10.0])
def test_the_signs_of_symmetric_weights_have_an_entropy_of_1_bit(mean):
    """Also where plain signs would have (almost) none, as all weights are on one side of 0."""
    w = mean + np.random.default_rng(0).standard_normal(4096)
    got = irnet.forward(w, irnet.init(w, 1, "weight"), training=True)
    # p is within 5/(2 sqrt N) of 1/2, and 1 - H < 2 / ln 2 (p - 1/2)^2 (1 + small)
    assert entropy(got) > 1 - 3 * (5 / (2 * math.sqrt(4096))) ** 2
    if abs(mean) > 2:
        assert entropy(np.sign(w)) < 0.05


# EDE


@given(st.floats(0, 1), st.sampled_from([(0.1, 10.0), (1e-3, 10.0)]))
def test_ede(progress, ends):
    low, high = map(Decimal, map(str, ends))
    want = low * (Decimal(progress) * (high / low).ln()).exp()
    t, k = irnet.ede(progress, t_min=ends[0], t_max=ends[1])
    check_near("t", t, float(want), 1e-14 * t)
    check_near("k", k, float(max(1 / want, Decimal(1))), 1e-14 * k)


def test_ede_from_the_identity_to_the_sign():
    one = irnet.Params(1, "signed_activation", t=0.1)
    check_near("slope near 0", irnet.vjp([-0.5, 0.0, 0.5], one, np.ones(3))[0], np.ones(3), 3e-3)
    for t in (1e-3, 0.1, 1.0, 3.0, 10.0):
        params = irnet.Params(1, "signed_activation", t=t)
        y = np.linspace(-3, 3, 61)
        slope = irnet.vjp(y, params, np.ones(61))[0]
        check_near(f"peak at t={t}", slope.max(), max(1.0, t), 1e-14 * max(1, t))
        assert slope.argmax() == 30
        check_near(f"area at t={t}", np.trapezoid(slope, y), 2 * max(1 / t, 1) * math.tanh(3 * t), 1e-3 * max(1, t**2))
    assert slope[[0, -1]].max() < 1e-20


@given(weights, steepness)
def test_gradients_pass_through_mean_and_deviation(w, t):
    w, grad = np.array(w), cotangents(np.array(w))
    decimals = [exact(v) for v in w]
    scale, k = Decimal(2) ** exponent(decimals), max(1 / exact(t), Decimal(1))

    def loss(i, v):
        moved = standardized([*decimals[:i], v, *decimals[i + 1 :]])
        return scale * k * sum(exact(g) * tanh(exact(t) * y) for g, y in zip(grad, moved, strict=True))

    want = [float(derivative(lambda v, i=i: loss(i, v), decimals[i])) for i in range(len(w))]
    got = irnet.vjp(w, irnet.init(w, 1, "weight", t=t), grad)[0]
    size = max(1, t) * grad.sum() / w.std()
    check_near(f"vjp({w!r}, t={t})", got, want, 1e-13 * size)
    # shifting or scaling all weights changes nothing
    check_near("sum of the gradient", got.sum(), 0, 1e-13 * size)
    check_near("gradient along w", got @ (w - w.mean()), 0, 1e-12 * size)


@given(st.data(), dtypes, steepness)
def test_activations(data, dtype, t):
    x = data.draw(arrays_of(st.floats(-9, 9, width=32) | st.just(-0.0), dtype, shapes))
    params = irnet.Params(1, "signed_activation", t=t)
    check_same("forward", irnet.forward(x, params, training=True), np.where(x < 0, -1, 1).astype(dtype))
    assert irnet.observe(x, params) is params
    grad = cotangents(x)
    slope = [float(max(1 / exact(t), Decimal(1)) * exact(t) * (1 - tanh(exact(t) * exact(v)) ** 2)) for v in x.ravel()]
    error = 16 * max(1, t) * np.finfo(dtype).eps * grad
    check_near("vjp", irnet.vjp(x, params, grad)[0], np.reshape(slope, x.shape) * grad, error)


# Channels; bad input


@given(st.data())
def test_a_channel_has_statistics_of_its_own(data):
    w = data.draw(arrays_of(st.floats(-4, 4, width=32), np.float64, st.just((3, 2, 3))))
    assume(all(np.ptp(row) > 1e-3 for row in w))
    both, grad = irnet.init(w, 1, "weight", channels=True), cotangents(w)
    assert np.shape(both.mean) == np.shape(both.std) == np.shape(both.exponent) == (3, 1, 1)
    for c in range(3):
        one = irnet.init(w[c], 1, "weight")
        check_same("forward", irnet.forward(w, both, training=True)[c], irnet.forward(w[c], one, training=True))
        check_near("vjp", irnet.vjp(w, both, grad)[0][c], irnet.vjp(w[c], one, grad[c])[0], 1e-9 * grad.sum() / one.std)
    assert irnet.levels(both).shape == (2, 3, 1, 1)


def test_levels_far_from_the_mean_of_the_weights_are_not_kept():
    """Levels lie about 0, whatever the mean is: quantizing them with the same statistics gives the lower one only."""
    params = irnet.init([9.0, 10.0, 11.0], 1, "weight")
    assert irnet.forward(irnet.levels(params), params, training=False).tolist() == [-0.5, -0.5]


def test_what_is_refused():
    for w in ([], [1.0], [0.0, 0.0], [0.1] * 7, [1.0, math.nan, 2.0], [1.0, math.inf]):
        with pytest.raises(ValueError, match="standard deviation of x must be positive and finite"):
            irnet.init(w, 1, "weight")
    with pytest.raises(ValueError, match="standard deviation of x must be"):
        irnet.init([[1.0, 2.0], [3.0, 3.0]], 1, "weight", channels=True)
    for w in (1.0, np.zeros((0, 3))):
        with pytest.raises(ValueError, match=r"shape of x must be \(C, ...\), with a channel at least"):
            irnet.init(w, 1, "weight", channels=True)
    with pytest.raises(ValueError, match="shape of x must be"):
        irnet.observe(np.ones((4, 3)), irnet.init([[1.0, 2.0], [3.0, 4.0]], 1, "weight", channels=True))
    for t in (0.0, -1.0, math.nan, math.inf, None):
        with pytest.raises(ValueError, match="t must be a number"):
            irnet.Params(1, "weight", t=t)
    for name, value in (("std", 0.0), ("std", -1.0), ("mean", math.nan), ("exponent", math.inf),
                        ("exponent", 0.5), ("exponent", 101.0), ("exponent", [[0.0], [-101.0]])):  # fmt: skip
        with pytest.raises(ValueError, match=f"{name} must be"):
            irnet.Params(1, "weight", **{name: value})
    for progress in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="progress must be a number from 0 to 1"):
            irnet.ede(progress)


@given(st.data())
def test_nan_and_infinity(data):
    w = data.draw(arrays_of(st.floats(-4, 4, width=32), np.float32, vectors))
    params = irnet.Params(1, "weight", mean=0.5, std=2.0, exponent=-1.0)
    odd = np.concatenate([w, np.array([math.nan, math.inf, -math.inf], np.float32)])
    check_same("forward", irnet.forward(odd, params, training=True)[-3:], np.array([math.nan, 0.5, -0.5], np.float32))
