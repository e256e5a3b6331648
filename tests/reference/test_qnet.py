"""QNet: the sum of all sigmoids, in test the steps, first values; what the released code does otherwise."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from reference import qnet
from tests import oracles
from tests.oracles import check_near, check_same, elementwise, eps, exact
from tests.strategies import arrays_of, cotangents, dtypes, normalized, vectors

temperatures = st.floats(0.5, 100) | st.floats(*qnet.TEMPERATURE_RANGE)
SETS = {
    ("weight", 1, "paper"): [-1, 1],
    ("weight", 2, "paper"): [-1, 0, 1],
    ("weight", 3, "paper"): [-4, -2, -1, 0, 1, 2, 4],
    ("weight", 3, "paper_pm2"): [-2, -1, 0, 1, 2],
    ("weight", 3, "released"): [-4, -2, -1, 0, 1, 2, 4],
    ("weight", 4, "paper"): list(range(-7, 8)),
    ("weight", 5, "paper"): list(range(-15, 16)),
    ("activation", 1, "paper"): [0, 1],
    ("activation", 2, "paper"): [0, 1, 2, 3],
    ("activation", 2, "released"): [0, 1, 2, 3],
}
every_set = pytest.mark.parametrize(("role", "bits", "variant"), SETS)


def sigmoid(z):
    return 1 / (1 + oracles.exp(-z)) if z >= 0 else oracles.exp(z) / (1 + oracles.exp(z))


def soft(x, temperature):
    """The sum of sigmoid(T (x - b)) over the half-integers b, those below x less 1: its level is the zero."""
    below = oracles.floor(x)
    y = below + sigmoid(temperature * (x - below - oracles.HALF))
    for k in range(1, 3 + int(60 / temperature)):
        y += sigmoid(temperature * (x - below - oracles.HALF - k))
        y -= sigmoid(-temperature * (x - below - oracles.HALF + k))
    return y


def params(role="activation", bits=2, variant="paper", alpha=0.5, beta=2.0, temperature=5.0, biases=None):
    """Parameters with steps halfway between the integers."""
    halfway = [(a + b) / 2 for a, b in zip(SETS[role, bits, variant], SETS[role, bits, variant][1:], strict=False)]
    return qnet.Params(alpha, beta, halfway if biases is None else biases, bits, role, temperature, variant)


def staircase(u, p, temperature, clamp=None):
    """Eq. 7 before alpha: lowest + sum s_i sigmoid(T (u - b_i)), for one scaled input."""
    y = exact(min(p.integers))
    for below, above, b in zip(p.integers, p.integers[1:], p.biases, strict=False):
        z = exact(temperature) * (u - exact(b))
        z = z if clamp is None else max(min(z, exact(clamp)), -exact(clamp))
        y += int(above - below) * sigmoid(z)
    return y


# The staircase of all integers


@given(st.data(), dtypes, temperatures)
def test_soft(data, dtype, temperature):
    x = data.draw(normalized(dtype))
    t = exact(dtype(temperature))
    want = elementwise(lambda v: soft(v, t), x)
    # z = T (x - q_f - 1/2) errs by T eps/2 at most; steps are T apart, so that all answer with one quarter, and by 1.
    bound = np.minimum(1, temperature * eps(x)) + 8 * eps(x) * (1 + want + 1 / temperature)
    got = qnet.soft(x, temperature=temperature)
    check_near(f"soft({x!r}, temperature={temperature})", got, want, bound)
    assert got.dtype == dtype


@given(st.data(), dtypes, temperatures)
def test_slope(data, dtype, temperature):
    x = data.draw(normalized(dtype))
    t = exact(dtype(temperature))
    want = elementwise(lambda v: oracles.derivative(lambda w: soft_offset(w, t, v), v), x)
    bound = (16 + 2 * temperature) * eps(x) * (temperature + 1)
    check_near(f"slope({x!r}, temperature={temperature})", qnet.slope(x, temperature=temperature), want, bound)


def soft_offset(x, temperature, at):
    """`soft` with the cell of `at`, so that a finite difference does not see a change of cell: there is none."""
    below = oracles.floor(at)
    y = sigmoid(temperature * (x - below - oracles.HALF))
    for k in range(1, 3 + int(60 / temperature)):
        y += sigmoid(temperature * (x - below - oracles.HALF - k))
        y -= sigmoid(-temperature * (x - below - oracles.HALF + k))
    return y


@pytest.mark.parametrize("temperature", [0.5, 4.0, 24.0])
def test_nothing_jumps_at_a_level(temperature):
    """Where only the sigmoid of the cell is kept, output and slope jump there: .881 and 1.119 at T = 4."""
    below, above = np.nextafter(1.0, 0), 1.0
    for function, size in ((qnet.soft, 1), (qnet.slope, temperature)):
        got = function([below, above], temperature=temperature)
        check_near(f"{function.__name__} below and at 1", got[0], got[1], 1e-14 * size)


def test_at_temperature_4():
    """In the middle of a grid; at an inner level of a 2-bit grid 1.002 and .85, at its ends half the slope."""
    x = (np.arange(1 << 14) + 0.5) / (1 << 14)
    check_near("mean gap", np.abs(qnet.soft(x, temperature=4.0) - qnet.hard(x)).mean(), 0.2356, 5e-5)
    check_near("slope at a level", qnet.slope(1.0, temperature=4.0), 0.860, 5e-4)
    p = params("activation", 2, "paper", 1.0, 1.0, 4.0)
    for at in (1.0, np.nextafter(1.0, 0)):
        check_near("1", qnet.forward([at], p, training=True), [1.0025], 5e-5)
        check_near("slope at 1", qnet.vjp([at], p, [1.0])[0], [0.850], 5e-4)
    check_near("slope at 0", qnet.vjp([0.0], p, [1.0])[0], [0.4298], 5e-4)


def test_the_gap_to_the_rounding_is_half_at_every_temperature():
    for temperature in [0.1, 1.0, 100.0, 1e6]:
        assert qnet.soft(0.5, temperature=temperature) == 0.5


@given(st.data(), dtypes)
def test_hard_is_the_rounding_with_ties_down(data, dtype):
    x = data.draw(normalized(dtype))
    check_same(f"hard({x!r})", qnet.hard(x), elementwise(oracles.nearest, x).astype(dtype))


@pytest.mark.parametrize("temperature", [0, -1, 1e7, math.nan, math.inf, None])
def test_temperatures_that_are_refused(temperature):
    calls = [lambda t: qnet.soft([0.2], temperature=t), lambda t: qnet.slope([0.2], temperature=t)]
    for call in [*calls, lambda t: params(temperature=t)]:
        with pytest.raises(ValueError, match=rf"temperature must be a number from 0.1 to 1e\+06, got {temperature}"):
            call(temperature)


def test_nan_stays():
    assert np.isnan(qnet.soft([math.nan], temperature=1.0)).all()
    assert np.isnan(qnet.slope([math.nan], temperature=1.0)).all()


# Eq. 7 and 12


@every_set
@given(st.data(), dtypes, st.floats(0.5, 300, width=32))
def test_training_is_the_sum_of_all_sigmoids(role, bits, variant, data, dtype, temperature):
    p = params(role, bits, variant, temperature=temperature)
    x = data.draw(arrays_of(st.floats(-9, 9, width=32).map(dtype), dtype, vectors))
    clamp = 10 if variant == "released" else None
    want = [Fraction(staircase(2 * exact(v), p, temperature, clamp)) / 2 for v in x]
    reach = np.abs(p.biases).max() + 1
    bound = (len(p.biases) + temperature * reach) * 8 * eps(x)
    check_near(f"forward({x!r}, {p})", qnet.forward(x, p, training=True), np.array(want, float), bound)


@every_set
@given(st.data(), dtypes)
def test_test_mode_counts_the_steps_below(role, bits, variant, data, dtype):
    """Ties stay below: the step function is 0 there."""
    p = params(role, bits, variant)
    steps = st.sampled_from(p.biases.tolist()).map(lambda b: dtype(b / 2))
    x = data.draw(arrays_of(steps | st.floats(-20, 20, width=32).map(dtype), dtype, vectors))
    count = [sum(2 * Fraction(float(v)) > Fraction(b) for b in p.biases) for v in x]
    want = [SETS[role, bits, variant][c] / 2 for c in count]
    check_same(f"forward({x!r}, {p})", qnet.forward(x, p, training=False), np.array(want, dtype))
    check_same(f"codes({x!r}, {p})", qnet.codes(x, p), np.array(count))


@pytest.mark.parametrize(("role", "bits"), [("weight", 3), ("weight", 1), ("activation", 2)])
@given(st.data(), st.floats(0.5, 100, width=32))
def test_gradients_are_those_of_the_sum(role, bits, data, temperature):
    """Eq. 8 to 10 by finite differences of the oracle; steps of height 2 are among these sets."""
    p = params(role, bits, "paper", temperature=temperature)
    x = data.draw(arrays_of(st.floats(-3, 3), np.float64, vectors))
    grad = cotangents(x)
    by_x, by = qnet.vjp(x, p, grad)
    slope = [oracles.derivative(lambda u: staircase(u, p, temperature), 2 * exact(v)) for v in x]
    slope = np.array(slope, float)
    bound = 1e-13 * temperature * (1 + temperature) * grad.sum()
    check_near(f"x of {p} at {x!r}", by_x, grad * slope, bound)  # alpha beta is 1
    check_near(f"beta of {p} at {x!r}", by["beta"], (grad * slope * 0.5 * x).sum(), 4 * bound)
    total = [float(staircase(2 * exact(v), p, temperature)) for v in x]
    check_near(f"alpha of {p} at {x!r}", by["alpha"], (grad * total).sum(), bound)


# Biases


def sixteenths(count, **options):
    """Lists of so many numbers, in any order."""
    return st.lists(st.integers(-64, 64).map(lambda k: k / 16), min_size=count, max_size=count, **options)


@pytest.mark.parametrize("bits", [1, 2, 3])
@given(st.data(), st.floats(0.5, 50, width=32))
def test_each_bias_has_the_gradient_of_its_own_step(bits, data, temperature):
    """Eq. 11, wherever the biases stand; between equal ones of steps of different heights there is no derivative."""
    targets = SETS["weight", bits, "paper"]
    biases = data.draw(sixteenths(len(targets) - 1, unique=True))
    p = params("weight", bits, biases=biases, temperature=temperature)
    x = data.draw(arrays_of(st.floats(-3, 3), np.float64, vectors))
    grad = cotangents(x)

    def loss(i, b):
        """With the i-th bias at b: the height of the k-th step is at the k-th smallest."""
        places = sorted([*map(exact, biases[:i]), b, *map(exact, biases[i + 1 :])])
        total = exact(0)
        for g, v in zip(grad, x, strict=True):
            for below, above, place in zip(targets, targets[1:], places, strict=False):
                total += exact(g) * (above - below) * sigmoid(exact(temperature) * (2 * exact(v) - place)) / 2
        return total

    want = [float(oracles.derivative(lambda b, i=i: loss(i, b), exact(biases[i]))) for i in range(len(biases))]
    bound = 1e-13 * temperature * (1 + temperature) * grad.sum()
    check_near(f"biases of {p} at {x!r}", qnet.vjp(x, p, grad)[1]["biases"], want, bound)


def test_eq_11_in_numbers():
    """-alpha s T sigmoid'(T (beta x - b)) at a step, where sigmoid' is 1/4 and the others' is 0."""
    p = params("weight", 3, temperature=1000.0)  # steps at -3, -1.5, -.5, .5, 1.5, 3
    for i, (at, height) in enumerate([(-3, 2), (-1.5, 1), (-0.5, 1), (0.5, 1), (1.5, 1), (3, 2)]):
        want = np.zeros(6)
        want[i] = -0.5 * height * 1000 / 4
        check_near(f"at {at}", qnet.vjp([at / 2], p, [1.0])[1]["biases"], want, 1e-9)


def test_what_learns_the_biases():
    for variant, learned in (("paper", True), ("paper_pm2", True), ("released", False)):
        for role in ("weight", "activation"):
            assert ("biases" in qnet.METHOD.learned(role, variant)) == learned


@every_set
@given(st.data(), dtypes)
def test_wherever_the_biases_are_the_values_are_levels_and_ascend(role, bits, variant, data, dtype):
    """Biases that have passed one another are the steps of their order; what is trained goes to the same levels."""
    targets = SETS[role, bits, variant]
    biases = data.draw(sixteenths(len(targets) - 1))
    p = params(role, bits, variant, biases=biases, temperature=1e6)
    steps = st.sampled_from(biases).map(lambda b: dtype(b / 2))
    x = np.sort(data.draw(arrays_of(steps | st.floats(-9, 9, width=32).map(dtype), dtype, vectors)))
    want = [targets[sum(2 * Fraction(float(v)) > Fraction(b) for b in biases)] / 2 for v in x]
    got = qnet.forward(x, p, training=False)
    check_same(f"forward({x!r}, {p})", got, np.array(want, dtype))
    assert (np.diff(got) >= 0).all()
    check_same("levels", np.unique([*got, *qnet.levels(p)]), np.array(targets, np.float64) / 2)
    soft = qnet.forward(x, p, training=True)
    clear = qnet.threshold_distance(x.astype(np.float64), p) > 1e-3
    check_near(f"forward({x!r}, {p}) in training", soft[clear], got[clear], 5e-4 * len(biases))
    turned = params(role, bits, variant, biases=biases[::-1], temperature=1e6)
    check_same("in another order", qnet.forward(x, turned, training=True), soft)


def test_infinite_elements_give_nothing_to_beta():
    for variant in ("paper", "released"):
        alone, more = (qnet.vjp(x, params(variant=variant), 1.0) for x in ([0.25], [math.inf, -math.inf, 0.25]))
        assert more[1]["beta"] == alone[1]["beta"]


# What the released code does otherwise


def released(role="activation", bits=2, **options):
    return params(role, bits, "released", **options)


def test_the_released_sigmoid_keeps_the_slope_of_its_clamp():
    """sigmoid'(10) = 4.54e-5 for each step, however far, so that the gradient never vanishes."""
    want = 3 * 50 * float(sigmoid(exact(10)) * sigmoid(exact(-10)))
    check_near("far away", qnet.vjp([99.0], released(temperature=50.0), [1.0])[0], [want], 1e-15)
    check_near("not clamped", qnet.vjp([99.0], params(temperature=50.0), [1.0])[0], [0], 1e-300)


@given(st.floats(-2, 2), st.floats(0.5, 3000))
def test_the_released_gradient_for_weights_is_t_times_that_at_1(x, temperature):
    p = qnet.Params(0.5, 2.0, [-1.5, -1.0, -0.5, 0.5, 1.0, 1.5], 3, "weight", temperature, "released")
    used = min(temperature, 2000)
    want = sum(
        s * sigmoid(2 * exact(x) - exact(b)) * sigmoid(exact(b) - 2 * exact(x))
        for s, b in zip([2, 1, 1, 1, 1, 2], p.biases, strict=True)
    )
    got = qnet.vjp([x], p, [1.0])
    check_near(f"x = {x} of {p}", got[0], [used * float(want)], 1e-13 * used)
    check_near(f"beta of {p}", got[1]["beta"], used * float(want) * x / 2, 1e-13 * used)
    total = float(staircase(2 * exact(x), p, used, 10))
    check_near(f"alpha of {p}", got[1]["alpha"], total, 1e-13 * (1 + used))


def test_activations_of_the_released_code_have_the_derivative_at_t():
    """There y (1 - y) is right, as every step is 1 high."""
    x = np.linspace(-0.5, 2, 41)
    check_near("x", *(qnet.vjp(x, p, 1.0)[0] for p in (released(temperature=4.0), params(temperature=4.0))), 1e-3)


# Sets, first values, temperature


@every_set
def test_sets(role, bits, variant):
    assert qnet.integers(bits, role, variant).tolist() == SETS[role, bits, variant]


def lloyd(x, centers):
    """k-means in rational numbers: by turns, each number to the nearest centre (the lower of two), and their means.

    Returns centres, groups, and whether rounding could not decide: nothing was ever halfway between two means.
    """
    clear = True
    x, centers = sorted(Fraction(float(v)) for v in x), [Fraction(c) for c in centers]
    while True:
        groups = [[] for _ in centers]
        integral = all(c.denominator == 1 for c in centers)
        middles = [(a + b) / 2 for a, b in itertools.pairwise(centers)]
        clear &= integral or all(abs(v - m) > 1e-9 for v in x for m in middles)
        for v in x:
            groups[min(range(len(centers)), key=lambda c: (abs(v - centers[c]), c))].append(v)
        means = [sum(g) / len(g) if g else c for g, c in zip(groups, centers, strict=True)]
        if means == centers:
            return centers, groups, clear
        centers = means


@given(st.lists(st.integers(-64, 64).map(lambda k: k / 13), min_size=1, max_size=40), st.integers(2, 5))
@example([0.0, 0.0, 1.0], 3)  # halfway between the first centres, 0 goes down
def test_kmeans(values, count):
    start = range(-count, count, 2)
    want, _, clear = lloyd(values, start)
    assume(clear)
    check_near(f"kmeans({values}, {start})", qnet.kmeans(sorted(values), start), [float(c) for c in want], 1e-12)


@every_set
def test_first_values(role, bits, variant):
    x = np.random.default_rng(bits).standard_normal((5, 40))
    x = np.abs(x) if role == "activation" else x
    got, top = qnet.init(x, bits, role, variant=variant), max(SETS[role, bits, variant])
    q = max(abs(v) for v in x.ravel().tolist())
    check_near("beta", got.beta, 5 * top / (4 * q), 1e-15 * top)
    check_near("alpha", got.alpha * got.beta, 1, 1e-15)
    assert (got.bits, got.role, got.variant, got.temperature) == (bits, role, variant, 5)
    centers, groups, clear = lloyd((x * got.beta).ravel(), SETS[role, bits, variant])
    assert clear
    want = [float(a + b) / 2 for a, b in itertools.pairwise(centers)]
    if variant == "released":
        neighbours = zip(groups, groups[1:], want, strict=False)
        want = [float(max(a) + min(b)) / 2 if a and b else middle for a, b, middle in neighbours]
    elif role == "weight":
        middle = len(want) // 2
        want[max(middle - 1, 0) : middle + 1] = [0] if bits == 1 else [-0.05, 0.05]
    check_near(f"biases of {got}", got.biases, want, 1e-12 * top)


def test_what_is_quantized_to_0_is_at_least_as_wide_as_the_paper_has_it():
    """Where all but one of the weights are near 0, the biases of k-means are nearer to it than the two at +-0.05."""
    x = np.concatenate([np.linspace(-0.01, 0.01, 101), [9.0]])
    got = qnet.init(x, 3, "weight").biases
    assert (np.diff(got) >= 0).all()
    assert got[2:4].tolist() == [-0.05, 0.05]


def test_biases_of_one_bit_weights_are_0():
    for variant in qnet.METHOD.variants:
        assert qnet.init([1.0, 2.0, -0.5], 1, "weight", variant=variant).biases.tolist() == [0]


def test_a_boundary_of_the_released_code_lies_between_data():
    x = [0.0, 1.0, 10.0, 11.0]  # beta 3.75/11; centres .17 and 3.58 of 4
    for variant, want in {"paper": 5.5, "released": 5.5}.items():
        got = qnet.init([*x, 9.0] if variant == "released" else x, 1, "activation", variant=variant)
        check_near(variant, got.biases / got.beta, [want if variant == "paper" else 5.0], 1e-14)


@pytest.mark.parametrize("biases", [[0.0], [0.5, math.nan, 2.0], [0.5, 1.5, -math.inf], [[0.5, 1.5, 2.5]], []])
def test_biases_that_are_refused(biases):
    with pytest.raises(ValueError, match=r"biases must be (3 numbers|finite)"):
        params(biases=biases)


def test_codes_that_an_uneven_set_does_not_have_are_refused():
    p = params("weight", 3, "paper")
    assert qnet.decode([0.0, 3.0, 6.0], p).tolist() == [-2, 0, 2]
    for q in (-1.0, 7.0, 0.5, math.nan):
        with pytest.raises(ValueError, match="codes must be whole numbers from 0 to 6"):
            qnet.decode([q], p)


def test_integers_of_an_uneven_set():
    found = qnet.integer_grid(params("weight", 3, "paper"))
    assert found.integers(np.arange(7)).tolist() == [-4, -2, -1, 0, 1, 2, 4]
    assert found.largest(3) == 4


def test_the_temperature_is_raised_linearly():
    assert [qnet.annealed_temperature(p) for p in (0, 0.5, 1)] == [5, 140, 275]
    assert qnet.annealed_temperature(0.5, start=20, end=700) == 360
    for options in ({"progress": 1.1}, {"progress": math.nan}, {"progress": 0, "end": 1e9}):
        with pytest.raises(ValueError, match="must be a number from"):
            qnet.annealed_temperature(**options)
