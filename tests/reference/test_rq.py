"""RQ: probabilities of the grid points, the relaxed sample and its gradients, limits; Algorithm 1's small number."""

import dataclasses
import itertools
import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import rq
from tests import oracles
from tests.oracles import check_near, check_same, exact
from tests.strategies import arrays_of, cotangents, dtypes, vectors

ROLES = ["weight", "activation", "signed_activation"]
numbers = st.floats(-4, 4, width=32)
noises = st.integers(0, 999)


@st.composite
def cases(draw, max_bits=3):
    """Parameters, with noise from a third of a level to two levels."""
    role = draw(st.sampled_from(ROLES))
    bits = draw(st.integers(min(rq.METHOD.admitted(role)), max_bits))
    alpha = draw(st.sampled_from([0.5, 1.0, 0.75]))
    beta = draw(st.sampled_from([0.0, 0.25, -0.5])) if role == "signed_activation" else 0.0
    sigma = alpha * draw(st.sampled_from([0.25, 0.375, 1.0, 2.0]))
    temperature = draw(st.sampled_from([1.0, 0.5, 2.0]))
    return rq.Params(alpha, sigma, bits, role, beta, temperature, draw(st.sampled_from(rq.METHOD.variants)))


def grid_points(p):
    low = 0 if p.role == "activation" else -(2 ** (p.bits - 1))
    return [exact(p.alpha) * k + exact(p.beta) for k in range(low, low + 2**p.bits)]


def cdf(z):
    return 1 / (1 + oracles.exp(-z))


def probabilities(x, p, fuzz=Decimal(0), alpha=None, beta=None, sigma=None):
    """Eq. 3 and 4 as they are printed, for one decimal number, with the noise's distribution truncated to the grid."""
    alpha, sigma = exact(p.alpha) if alpha is None else alpha, exact(p.sigma) if sigma is None else sigma
    beta = exact(p.beta) if beta is None else beta
    points = [alpha * k + beta for k in range(rq.lowest(p.bits, p.role), rq.lowest(p.bits, p.role) + 2**p.bits)]
    ends = [points[0] - alpha / 2, *(g + alpha / 2 for g in points)]
    c = [cdf((r - x) / sigma) for r in ends]
    whole = c[-1] - c[0] + len(points) * fuzz
    return points, [(b - a + fuzz) / whole for a, b in itertools.pairwise(c)]


def relaxed(x, p, noise, **moved):
    """Eq. 5 for one decimal number."""
    points, pi = probabilities(x, p, **moved)
    t = exact(p.temperature)
    weights = [oracles.exp((q.ln() + exact(u)) / t) for q, u in zip(pi, noise, strict=True)]
    return sum(w * g for w, g in zip(weights, points, strict=True)) / sum(weights)


@given(cases(), st.lists(numbers, min_size=1, max_size=3), dtypes)
def test_probabilities_are_eq_3_and_4(p, x, dtype):
    x = np.array(x, dtype)
    got = rq.probabilities(x, p)
    want = np.array([[float(q) for q in probabilities(exact(v), p)[1]] for v in x]).T
    # The exponents are known to eps times their size.
    size = (np.abs(x).max() + 5) / float(p.sigma)
    check_near(f"probabilities({x!r}, {p})", got, want, 8 * np.finfo(dtype).eps * (1 + size))


@given(cases(8), st.data(), dtypes)
def test_probabilities_sum_to_one_and_the_nearest_has_the_largest(p, data, dtype):
    x = data.draw(arrays_of(st.floats(-40, 40, width=32) | st.sampled_from([-math.inf, math.inf]), dtype, vectors))
    pi = rq.probabilities(x, p)
    assert pi.shape == (2**p.bits, *x.shape)
    assert (pi >= 0).all()
    check_near("sum", pi.sum(axis=0), np.ones(x.shape), 2**p.bits * np.finfo(dtype).eps)
    clear = rq.threshold_distance(x, p) > 1e-3
    inside = clear & (np.abs(x) < 20)
    assert np.array_equal(pi.argmax(axis=0)[inside], rq.codes(x, p)[inside])


@given(cases(), st.lists(numbers, min_size=1, max_size=3), noises)
def test_training_is_eq_5(p, x, seed):
    x = np.array(x)
    noise = rq.gumbel(x.shape, p.bits, seed)
    got = rq.forward(x, dataclasses.replace(p, variant="paper"), training=True, noise=noise)
    want = [float(relaxed(exact(v), p, noise[:, i])) for i, v in enumerate(x)]
    check_near(f"forward({x!r}, {p})", got, want, 1e-13)


@given(cases(), st.lists(numbers, min_size=1, max_size=3), noises)
def test_gradients_are_the_derivatives_of_eq_5_with_the_noise_fixed(p, x, seed):
    x = np.array(x)
    noise, grad = rq.gumbel(x.shape, p.bits, seed), cotangents(x)
    got_x, got = rq.vjp(x, p, grad, noise=noise)
    by_x = [oracles.derivative(lambda w, i=i: relaxed(w, p, noise[:, i]), exact(v)) for i, v in enumerate(x)]
    check_near("x", got_x, grad * np.array(by_x, float), 1e-11)
    for name in rq.METHOD.learnable:

        def moved(value, name=name):
            outputs = [relaxed(exact(v), p, noise[:, i], **{name: value}) for i, v in enumerate(x)]
            return sum(exact(g) * y for g, y in zip(grad, outputs, strict=True))

        want = float(oracles.derivative(moved, exact(getattr(p, name))))
        check_near(name, got[name], want, 1e-10 * (1 + abs(want)))


@given(cases(8), st.data(), noises)
def test_without_noise_of_the_input_training_rounds(p, data, seed):
    """The limit of sigma to 0: all probability is at the nearest point, whatever the other noise is."""
    x = data.draw(arrays_of(numbers, np.float64, vectors))
    x = x[rq.threshold_distance(x, p) > 0.05]
    sharp = dataclasses.replace(p, sigma=np.asarray(p.alpha * 1e-4), temperature=1.0)
    want = rq.forward(x, p, training=False)
    for noise in (None, rq.gumbel(x.shape, p.bits, seed)):
        got = rq.forward(x, sharp, training=True, noise=noise)
        far = abs(x) > np.abs(rq.levels(p)).max() + 0.4 * float(p.alpha)  # see test_an_infinite_input
        check_near(f"{x!r}", got[~far], want[~far], 1e-9)


def test_at_temperature_1_without_noise_it_is_the_mean():
    p = rq.Params(0.5, 0.25, 2, "weight")
    x = np.linspace(-2, 2, 9)
    want = (rq.probabilities(x, p) * rq.levels(p)[:, None]).sum(axis=0)
    check_near("mean", rq.forward(x, p, training=True), want, 1e-15)


def test_a_cold_relaxation_samples_with_the_probabilities():
    """As lambda goes to 0, z is a grid point, with the frequency pi: the Gumbel trick; 6 deviations of 40,000 draws."""
    count = 40_000
    p = rq.Params(1.0, 0.5, 2, "activation", temperature=0.01)
    x = np.full(count, 1.2)
    noise = rq.gumbel(x.shape, 2, seed=1)
    cold = rq.forward(x, p, training=True, noise=noise)
    hard = rq.forward(x, dataclasses.replace(p, variant="straight_through"), training=True, noise=noise)
    assert np.isin(hard, rq.levels(p)).all()
    assert (np.abs(cold - hard) < 0.01).mean() > 0.95  # the others' two largest logits differ by less than 0.05
    found = np.array([(hard == level).mean() for level in rq.levels(p)])
    pi = rq.probabilities(x[:1], p)[:, 0]
    check_near("frequencies", found, pi, 6 * np.sqrt(pi * (1 - pi) / count))


@given(cases(), st.lists(numbers, min_size=1, max_size=4), noises)
def test_rq_st_has_the_gradient_of_the_relaxed_sample(p, x, seed):
    x = np.array(x)
    noise, grad = rq.gumbel(x.shape, p.bits, seed), cotangents(x)
    soft, hard = (rq.vjp(x, dataclasses.replace(p, variant=v), grad, noise=noise) for v in rq.METHOD.variants)
    check_same("x", hard[0], soft[0])
    for name in rq.METHOD.learnable:
        check_same(name, hard[1][name], soft[1][name])


def test_an_infinite_input_is_not_quite_at_the_end():
    """What is left of the noise above the grid decays as e^(-k alpha/sigma), from the last cell inwards."""
    p = rq.Params(1.0, 0.5, 2, "activation")
    got = rq.probabilities([math.inf, 1e6], p)
    geometric = np.exp(2.0 * np.arange(4))
    for column in got.T:
        check_near("probabilities", column, geometric / geometric.sum(), 1e-12)
    assert rq.forward([math.inf], p, training=False)[0] == 3.0
    assert rq.forward([math.inf], p, training=True)[0] < 2.9


def test_algorithm_1_puts_what_is_far_outside_in_the_middle():
    """Its epsilon is more than what is left of the noise there, and all grid points become as probable."""
    p = rq.Params(1.0, 0.1, 2, "activation")
    x = exact(9.0)
    for fuzz in (1e-6, 1e-3):
        want = [float(q) for q in probabilities(x, p, fuzz=exact(fuzz))[1]]
        check_near("probabilities", rq.probabilities([9.0], p, fuzz=fuzz)[:, 0], want, 1e-12)
        check_near("all alike", rq.probabilities([9.0], p, fuzz=fuzz)[:, 0], [0.25] * 4, 1e-9)
    assert rq.forward([9.0], p, training=True)[0] > 2.999


def test_ties_go_up_in_test():
    """Section 2.1: alpha floor(x / alpha + 1/2)."""
    check_same("ties", rq.codes([-1.5, -0.5, 0.5, 1.5], rq.Params(1.0, 0.3, 2, "weight")), np.array([1, 2, 3, 3]))


@pytest.mark.parametrize("role", ROLES)
def test_first_values(role):
    x = np.abs(np.arange(-4.0, 5)) if role == "activation" else np.arange(-4.0, 5)
    p = rq.init(x, 3, role)
    deviation = math.sqrt(sum((v - x.mean()) ** 2 for v in x) / (len(x) - 1))
    check_near("farther end", np.abs(rq.levels(p)).max(), 3 * deviation, 1e-12)
    check_near("sigma", p.sigma, p.alpha / 3, 1e-15)
    assert p.beta == 0


def test_noise_that_is_refused():
    p = rq.Params(1.0, 0.3, 1, "activation")
    with pytest.raises(ValueError, match=r"shape of noise must be \(2, 3\): .*, got \(3, 2\)"):
        rq.forward([0.0, 0.0, 0.0], p, training=True, noise=np.zeros((3, 2)))
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="noise must be finite numbers"):
            rq.vjp([0.0], p, [1.0], noise=[[bad], [0.0]])
    with pytest.raises(ValueError, match="noise must be None in test mode"):
        rq.forward([0.0], p, training=False, noise=np.zeros((2, 1)))


@pytest.mark.parametrize("temperature", [0, -1, 1e3, math.nan])
def test_temperatures_that_are_refused(temperature):
    with pytest.raises(ValueError, match=f"temperature must be a number from 0.01 to 100, got {temperature}"):
        rq.Params(1.0, 0.3, 2, "weight", temperature=temperature)
