"""Soft-to-hard quantization: the softmax over distances, its gradients, the hard limit, the first codebook."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import soft_to_hard
from reference.soft_to_hard import Params
from tests import oracles
from tests.oracles import check_near, check_same, exact
from tests.strategies import arrays_of, cotangents, dtypes, vectors

numbers = st.integers(-32, 32).map(lambda k: k / 8)
sigmas = st.sampled_from([0.25, 1.0, 4.0, 30.0])


@st.composite
def cases(draw, max_bits=3):
    """Codebooks in any order, with equal centres among them at times."""
    bits = draw(st.integers(1, max_bits))
    centers = draw(st.lists(numbers, min_size=2**bits, max_size=2**bits))
    role, variant = draw(st.sampled_from(["weight", "activation"])), draw(st.sampled_from(soft_to_hard.METHOD.variants))
    return Params(centers, bits, role, draw(sigmas), variant)


def shares(x, centers, sigma):
    """The softmax as it is defined, for one decimal number."""
    e = [oracles.exp(-sigma * (x - c) ** 2) for c in centers]
    return [v / sum(e) for v in e]


def soft(x, centers, sigma):
    return sum(phi * c for phi, c in zip(shares(x, centers, sigma), centers, strict=True))


@given(cases(), st.lists(numbers, min_size=1, max_size=3), dtypes)
def test_training_is_the_softmax_over_squared_distances(p, x, dtype):
    x, centers = np.array(x, dtype), [exact(c) for c in p.centers]
    phi = np.array([[float(v) for v in shares(exact(v), centers, exact(p.sigma))] for v in x]).T
    bound = 32 * np.finfo(dtype).eps * (1 + p.sigma * 8 * np.ptp(p.centers))
    check_near(f"assignments({x!r}, {p})", soft_to_hard.assignments(x, p), phi, bound)
    want = np.array([float(soft(exact(v), centers, exact(p.sigma))) for v in x])
    got = soft_to_hard.forward(x, dataclasses.replace(p, variant="paper"), training=True)
    check_near(f"forward({x!r}, {p})", got, want, bound * (1 + np.ptp(p.centers)))


@given(cases(8), st.data(), dtypes)
def test_assignments_sum_to_one(p, data, dtype):
    x = data.draw(arrays_of(st.floats(-40, 40, width=32) | st.sampled_from([-math.inf, math.inf]), dtype, vectors))
    phi = soft_to_hard.assignments(x, p)
    assert phi.shape == (2**p.bits, *x.shape)
    check_near("sum", phi.sum(axis=0), np.ones(x.shape), 2**p.bits * np.finfo(dtype).eps)


@given(cases(), st.lists(numbers, min_size=1, max_size=3))
def test_gradients_are_the_derivatives_of_the_softmax(p, x):
    x, centers, sigma = np.array(x), [exact(c) for c in p.centers], exact(p.sigma)
    grad = cotangents(x)
    got_x, got = soft_to_hard.vjp(x, p, grad)
    by_x = [float(oracles.derivative(lambda w: soft(w, centers, sigma), exact(v))) for v in x]
    check_near("x", got_x, grad * by_x, 1e-11)
    for j, c in enumerate(centers):

        def moved(value, j=j):
            others = [*centers[:j], value, *centers[j + 1 :]]
            return sum(exact(g) * soft(exact(v), others, sigma) for g, v in zip(grad, x, strict=True))

        check_near(f"centre {j}", got["centers"][j], float(oracles.derivative(moved, c)), 1e-10)


@given(cases(), st.lists(numbers, min_size=1, max_size=4))
def test_the_slope_is_twice_sigma_times_the_variance(p, x):
    x = np.array(x)
    phi = soft_to_hard.assignments(x, p)
    mean = phi.T @ p.centers
    variance = phi.T @ p.centers**2 - mean**2
    check_near("slope", soft_to_hard.vjp(x, p, np.ones(x.shape))[0], 2 * p.sigma * variance, 1e-10)


@given(cases(), st.lists(numbers, min_size=1, max_size=4))
def test_test_mode_has_the_nearest_centre_and_ties_go_down(p, x):
    want = [min(sorted(p.centers), key=lambda c: abs(v - c)) for v in x]  # the first of two is the lower one
    for variant in soft_to_hard.METHOD.variants:
        each = dataclasses.replace(p, variant=variant)
        check_same(f"{x}", soft_to_hard.forward(np.array(x), each, training=False), np.array(want))
    hard = dataclasses.replace(p, variant="imgcomp-cvpr")
    check_same("hard in training, too", soft_to_hard.forward(np.array(x), hard, training=True), np.array(want))


@given(cases(), st.lists(numbers, min_size=1, max_size=4))
def test_soft_goes_to_hard(p, x):
    x = np.array([v for v in x if soft_to_hard.threshold_distance(v, p) > 1e-6])
    sharp = dataclasses.replace(p, sigma=1e6, variant="paper")
    check_near(f"{x!r}", *(soft_to_hard.forward(x, sharp, training=t) for t in (True, False)), 1e-12)


def test_half_way_between_two_centres_it_is_their_mean_however_hard():
    """So that the gap does not close there; and the slope grows without end: sigma times half the squared distance."""
    for sigma in (1.0, 100.0, 1e4):
        p = Params([0.0, 1.0], 1, "weight", sigma)
        assert soft_to_hard.forward([0.5], p, training=True)[0] == 0.5
        assert soft_to_hard.vjp([0.5], p, [1.0])[0][0] == sigma / 2


def test_what_the_released_code_computes():
    """quantize(x, centers, sigma=1) of imgcomp-cvpr, in numpy: softmax of -sigma |x - c|^2, and argmax."""
    x, centers = np.array([-1.5, -0.2, 0.4, 3.0]), np.array([1.0, -2.0, 0.25, -0.5])
    dist = np.square(np.abs(x[:, None] - centers))
    e = np.exp(-dist)
    want_soft = (e / e.sum(1, keepdims=True)) @ centers
    want_hard = centers[np.argmax(-1e7 * dist, 1)]
    p = Params(centers, 2, "activation", 1.0)
    check_near("soft", soft_to_hard.forward(x, p, training=True), want_soft, 1e-15)
    released = dataclasses.replace(p, variant="imgcomp-cvpr")
    check_same("hard", soft_to_hard.forward(x, released, training=True), want_hard)


def test_the_first_codebook():
    """Lloyd's iteration by hand: at 0, 2, 4, 6 are the data 0, 1 | 2 | 5 (halfway, and so below) | 6."""
    p = soft_to_hard.init([5.0, 0.0, 2.0, 1.0, 6.0], 2, "activation")
    check_near("centers", p.centers, [0.5, 2.0, 5.0, 6.0], 1e-12)
    check_near("sigma", p.sigma, 1.0 / (5.5 / 3) ** 2, 1e-12)


@given(st.integers(0, 999), st.integers(1, 8))
def test_first_centres_differ(seed, bits):
    """Also where there are more of them than data."""
    x = np.random.default_rng(seed).standard_normal(20)
    assert (np.diff(soft_to_hard.init(x, bits, "weight").centers) > 0).all()


def test_the_schedule_is_exponential():
    got = [soft_to_hard.annealed_hardness(share) for share in (0, 0.25, 0.5, 1)]
    check_near("hardness", got, [1, 10**0.25, 10**0.5, 10], 1e-10)
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="progress must be a number from 0 to 1"):
            soft_to_hard.annealed_hardness(bad)


@given(st.integers(0, 99), st.integers(1, 3))
def test_the_gap_falls_as_it_hardens(seed, bits):
    x = np.random.default_rng(seed).standard_normal(200)
    p = soft_to_hard.init(x, bits, "weight")
    gaps = [soft_to_hard.gap(x, dataclasses.replace(p, sigma=p.sigma * factor)) for factor in (1, 10, 100)]
    assert gaps[0] > gaps[1] > gaps[2]


@pytest.mark.parametrize("centers", [[1.0], [1.0, 2.0, 3.0], [[1.0, 2.0]], [1.0, math.nan], [1.0, math.inf]])
def test_centres_that_are_refused(centers):
    with pytest.raises(ValueError, match="centers must be"):
        Params(centers, 1, "weight")
