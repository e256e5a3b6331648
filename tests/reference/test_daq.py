"""DAQ against its equations in scalar decimal arithmetic."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reference import daq, dasr, grid
from tests import oracles
from tests.oracles import check_near, check_same, elementwise, eps, exact
from tests.strategies import (
    FEW,
    bit_widths,
    clip_ranges,
    cotangents,
    daq_options,
    dtypes,
    finite_inputs,
    gammas,
    inputs,
    kernels,
    layouts,
    normalized,
    roles,
    sigmas,
    variants,
)

betas = st.floats(0, 200) | st.floats(*daq.BETA_RANGE)


def least_score_distance(options: dict) -> float:
    """|s_f - s_c| where it is least, at the transition point."""
    s_f, s_c = oracles.scores(oracles.HALF, sigma=options["sigma"], variant=options["variant"])
    return float(s_f - s_c)


# Numbers of the paper


@pytest.mark.parametrize(
    ("expression", "want"),
    [
        ("lambda_(2.0)", 0.1192),
        ("kappa(1.0)", 0.6065),
        ("kappa(1.0, 'released')", 0.3679),
    ],
)
def test_stated_numbers(expression, want):
    got = eval(f"daq.{expression}", {"daq": daq})
    assert abs(got - want) <= 0.5001e-4, f"daq.{expression} = {got}, stated {want}"


def test_constants_of_section_4_1():
    assert daq.GAMMA == 2
    assert (daq.SIGMA["weight"], daq.SIGMA["activation"], daq.SIGMA["signed_activation"]) == (1, 2, 2)


# Section 3.2, function by function. A score errs by 3 eps: one exponential (2 eps, say) of a distance, one product.


@given(st.data(), dtypes)
def test_nearest_levels(data, dtype):
    x = data.draw(normalized(dtype))
    q_f, q_c = daq.nearest_levels(x)
    check_same(f"nearest_levels({x!r})[0]", q_f, np.array([math.floor(v) for v in x], dtype))
    check_same(f"nearest_levels({x!r})[1]", q_c, q_f + dtype(1))


@given(st.data(), dtypes, st.integers(0, 255))
def test_distance_score(data, dtype, q):
    x = data.draw(normalized(dtype))
    want = elementwise(lambda v: oracles.exp(-abs(v - q)), x)
    # |x - q| is up to 255 and rounded to eps/2 of itself, which the exponential turns into that much relative error.
    bound = (2 + np.abs(x - q)) * eps(x) * want + np.finfo(dtype).tiny
    check_near(f"distance_score({x!r}, {q})", daq.distance_score(x, q), want, bound)


@given(kernels)
def test_kernel(options):
    kappa = float(oracles.kappa(**options))
    exponent = 2 * daq.kernel_exponent(**options)
    # The exponent, up to 10^4, errs by 2 eps relative; below 1e-300 doubles lose digits.
    bound = (4 + 2 * exponent) * 2.3e-16 * kappa + 1e-300
    check_near(f"kappa({options})", daq.kappa(**options), kappa, bound)
    got = daq.kernel([0.0, 1.0, 2.0], 1.0, **options)
    check_near(f"kernel([0, 1, 2], 1, {options})", got, [kappa, 1, kappa], bound)
    assert got[1] == 1


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_an_infinite_sigma_is_no_kernel(variant):
    assert daq.kappa(math.inf, variant) == 1
    assert daq.kernel([0.0, 1.0], 0.0, sigma=math.inf, variant=variant).tolist() == [1, 1]


@given(st.data(), dtypes, kernels)
def test_weighted_scores(data, dtype, options):
    x = data.draw(normalized(dtype))
    for i, got in enumerate(daq.weighted_scores(x, **options)):
        want = elementwise(lambda v, i=i: oracles.scores(v, **options)[i], x)
        bound = (4 + 4 * daq.kernel_exponent(**options)) * eps(x) * want + np.finfo(dtype).tiny
        check_near(f"weighted_scores({x!r}, {options})[{i}]", got, want, bound)


@given(st.data(), dtypes, kernels | st.just({"sigma": math.inf, "variant": "paper"}), betas)
@example(data=None, dtype=np.float64, options={"sigma": 1.0, "variant": "paper"}, beta=24.0)
def test_kernel_soft_argmax(data, dtype, options, beta):
    x = np.linspace(0, 3, 25, dtype=dtype) if data is None else data.draw(normalized(dtype))
    _, q_c = daq.nearest_levels(x)
    beta_x = exact(dtype(beta))
    # The two scores err by 6 eps together, the exponent by beta times that (never by more than the whole jump of
    # 1), the probabilities by 4 eps more, relative to a level.
    bound = np.minimum(1, 6 * beta * eps(x)) + 4 * eps(x) * q_c
    want = elementwise(lambda v: oracles.phi(v, beta_x, **options), x)
    check_near(f"kernel_soft_argmax({x!r}, {beta}, {options})", daq.kernel_soft_argmax(x, beta, **options), want, bound)
    scores = daq.weighted_scores(x, **options)
    m_f, m_c = daq.distance_probability(scores, dtype(beta))
    assert ((m_f >= 0) & (m_c >= 0)).all()
    check_near(f"m_f + m_c at {x!r}", m_f + m_c, np.ones_like(x), 2 * eps(x))


@given(st.data(), bit_widths, kernels, st.floats(0, 100))
@settings(max_examples=FEW)
def test_soft_argmax_over_the_full_grid(data, bits, options, beta):
    x = data.draw(normalized(np.float64, top=2**bits - 1, shape=st.just((2,))))
    got = daq.full_grid_kernel_soft_argmax(x, beta, bits=bits, **options)
    want = elementwise(lambda v: oracles.phi_of_all_levels(v, exact(beta), bits=bits, **options), x)
    # As above, over 2^bits levels: each probability errs by 6 beta eps and the sum's roundings, times a level.
    bound = (6 * beta + 2**bits + 8) * eps(x) * 2**bits
    check_near(f"full_grid_kernel_soft_argmax({x!r}, {beta}, bits={bits}, {options})", got, want, bound)


@given(st.data(), dtypes, kernels, st.floats(0, 200))
def test_slope_at_a_fixed_temperature(data, dtype, options, beta):
    x = data.draw(normalized(dtype))
    beta_x = exact(dtype(beta))
    want = elementwise(lambda v: oracles.phi_slope(v, beta_x, **options), x)
    # beta m_f m_c (s_f + s_c): the exponent errs by 6 beta eps, and m_f m_c by as much relative.
    bound = (12 * beta + 12 + 4 * daq.kernel_exponent(**options)) * eps(x) * want + 1e-30
    got = daq.kernel_soft_argmax_slope(x, beta, **options)
    check_near(f"kernel_soft_argmax_slope({x!r}, {beta}, {options})", got, want, bound)


@pytest.mark.parametrize("beta", [-1.0, 1e9, math.inf, math.nan, [1.0, -1.0]])
def test_temperatures_that_are_refused(beta):
    calls = [daq.kernel_soft_argmax, daq.kernel_soft_argmax_slope]
    for end in daq.BETA_RANGE:
        assert np.isfinite(daq.kernel_soft_argmax([0.2, 0.3], end, sigma=1.0)).all()
    for call in [*calls, lambda *a, **k: daq.full_grid_kernel_soft_argmax(*a, bits=2, **k)]:
        with pytest.raises(ValueError, match=r"beta must be a number from 0 to 1e\+0\d, got"):
            call([0.2, 0.3], beta, sigma=1.0)


# Section 3.3


@given(st.data(), dtypes, daq_options)
def test_adaptive_temperature(data, dtype, options):
    x = data.draw(normalized(dtype))
    want = elementwise(lambda v: oracles.temperature(v, **options), x)
    # The difference of the scores errs by 8 eps in all, which counts relative to the difference.
    bound = (8 / least_score_distance(options) + 4) * eps(x) * want
    check_near(f"adaptive_temperature({x!r}, {options})", daq.adaptive_temperature(x, **options), want, bound)


@given(gammas)
def test_lambda(gamma):
    want = float(oracles.lambda_(gamma))
    bound = 4 * 2.3e-16 * want + 1e-300
    check_near(f"lambda_({gamma})", daq.lambda_(gamma), want, bound)


def literal_bound(x: np.ndarray, gamma: float) -> np.ndarray:
    """Error of f(phi(x; beta*)) as computed.

    beta* is divided by the very difference of scores that it multiplies, so that only gamma comes back, within 2 eps;
    m_f and m_c then err by 2 gamma eps m_f m_c < eps, and by 3 eps of their own. Their mean with the levels errs by
    6 eps q_c at most, and f divides that by 1 - 2 lambda = tanh(gamma/2).
    """
    return 8 * eps(x) * (np.floor(x.astype(np.float64)) + 1) / math.tanh(gamma / 2)


@given(st.data(), dtypes, daq_options)
@example(data=None, dtype=np.float64, options={"gamma": 2.0, "sigma": 1.0, "variant": "paper"})
def test_eq_9_for_every_gamma_sigma_x(data, dtype, options):
    x = np.arange(0, 8, 0.125, dtype=dtype) if data is None else data.draw(normalized(dtype))
    want = elementwise(lambda v: oracles.assignment(v, options["gamma"]), x)
    beta = daq.adaptive_temperature(x, **options)
    kernel = {name: options[name] for name in ("sigma", "variant")}
    got = daq.kernel_soft_argmax(x, beta, **kernel)
    bound = literal_bound(x, options["gamma"]) * math.tanh(options["gamma"] / 2)
    check_near(f"kernel_soft_argmax({x!r}, beta*, {options})", got, want, bound)
    stated = daq.adaptive_assignment(x, gamma=options["gamma"])
    check_near(f"adaptive_assignment({x!r}, {options['gamma']})", stated, want, 2 * eps(x) * (1 + want))


@given(st.data(), dtypes, daq_options)
@example(data=None, dtype=np.float32, options={"gamma": 2.0, "sigma": 1.0, "variant": "released"})
def test_eq_11_for_every_gamma_sigma_x(data, dtype, options):
    x = np.arange(0, 8, 0.125, dtype=dtype) if data is None else data.draw(normalized(dtype))
    got = daq.discretize(x, **options)
    want = elementwise(oracles.nearest, x)
    check_near(f"discretize({x!r}, {options})", got, want, literal_bound(x, options["gamma"]))
    assert got.dtype == dtype


@pytest.mark.parametrize("gamma", daq.GAMMA_RANGE)
@pytest.mark.parametrize("sigma", daq.SIGMA_RANGE)
@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_eq_11_at_the_ends_of_the_admitted_range(gamma, sigma, variant, dtype):
    x = np.arange(0, 3.25, 0.25, dtype=dtype)
    got = daq.discretize(x, gamma=gamma, sigma=sigma, variant=variant)
    check_near(f"discretize({x!r}, {gamma}, {sigma}, {variant})", got, np.ceil(x - 0.5), literal_bound(x, gamma))


@given(st.data(), dtypes, gammas)
def test_rescale(data, dtype, gamma):
    y = data.draw(normalized(dtype, top=3))
    q_t = np.floor(y) + dtype(0.5)
    want = elementwise(lambda v: oracles.rescale(v, oracles.floor(v) + oracles.HALF, gamma), y)
    # The quotient errs by 2 eps, the sum by eps/2 of the result.
    bound = 3 * eps(y) * (np.abs(want - q_t) + np.abs(want))
    check_near(f"rescale({y!r}, q_t, gamma={gamma})", daq.rescale(y, q_t, gamma=gamma), want, bound)


# The slope. Its argument 1/2 - t + c is a sum of positive terms, t being exact, and errs by 2 eps relative; so does
# coth of it, whose condition number is at most 1. tanh (4 eps), division and constant make 8.
SLOPE_ERROR = 8


@given(st.data(), dtypes, daq_options)
@example(data=None, dtype=np.float64, options={"gamma": 2.0, "sigma": 1.0, "variant": "paper"})
@example(data=None, dtype=np.float64, options={"gamma": 2.0, "sigma": 2.0, "variant": "released"})
def test_slope_is_the_derivative_with_the_temperature_held_fixed(data, dtype, options):
    x = np.arange(0, 4, 0.125, dtype=dtype) if data is None else data.draw(normalized(dtype))
    want = elementwise(lambda v: oracles.daq_slope(v, **options), x)
    got = daq.slope(x, **options)
    tiny = float(np.finfo(dtype).tiny)  # gamma/(2 sinh gamma) vanishes in float32 from gamma = 90
    check_near(f"slope({x!r}, {options})", got, want, SLOPE_ERROR * eps(x) * want + tiny)
    assert got.dtype == dtype


@given(st.data(), daq_options)
def test_without_holding_it_fixed_the_slope_is_zero(data, options):
    """The realised function is a staircase; oracle against oracle, so that the word "frozen" above means something."""
    x = exact(data.draw(st.floats(0.01, 0.49) | st.floats(0.51, 0.99)))
    assert abs(oracles.derivative(lambda v: oracles.daq(v, **options, at=v), x)) < 1e-9


@given(st.data(), dtypes, daq_options)
def test_slope_numba_equals_slope_up_to_the_last_bits_of_tanh(data, dtype, options):
    x = data.draw(normalized(dtype))
    want = elementwise(lambda v: oracles.daq_slope(v, **options), x)
    for name, view in {"as it is": x, **layouts(x)}.items():
        got = daq.slope_numba(view, **options)
        assert got.dtype == dtype
        bound = SLOPE_ERROR * eps(x) * want + float(np.finfo(dtype).tiny)
        check_near(f"slope_numba({name} {x!r}, {options})", got, want, bound)


@pytest.mark.parametrize("function", [daq.slope, daq.slope_numba])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_slopes_of_nan_and_of_nothing(function, dtype):
    got = function(np.array([math.nan, 0.25], dtype), sigma=1.0)
    assert np.isnan(got).tolist() == [True, False]
    for shape in [(0,), (2, 0), ()]:
        got = function(np.zeros(shape, dtype), sigma=1.0)
        assert (got.shape, got.dtype) == (shape, dtype)


@given(gammas)
def test_slope_factor(gamma):
    g = exact(gamma)
    want = float(g / (oracles.exp(g) - oracles.exp(-g)))
    check_near(f"slope_factor({gamma})", daq.slope_factor(gamma), want, 1e-12 * want + 1e-300)


# The contract's functions, as far as they are DAQ's own (the shared part is in test_registry.py)


@given(st.data(), dtypes, bit_widths, roles, clip_ranges(), daq_options)
def test_training_gives_what_test_gives(data, dtype, bits, role, clip_range, options):
    params = daq.Params(*clip_range, bits, role, **options)
    x = data.draw(inputs(*clip_range, bits, dtype, nan=True))
    want = daq.forward(x, params, training=False)
    got = daq.forward(x, params, training=True)
    assert got.dtype == dtype
    finite = ~np.isnan(x)
    check_same(f"isnan(forward({x!r}, {params}))", np.isnan(got), ~finite)
    # Eq. 2 divides the error of the integer by n, and doubles it for weights.
    normalized = grid.normalize(x, *clip_range, bits)
    bound = literal_bound(normalized, options["gamma"]) * grid.output_scale(role) / (2**bits - 1) + 2 * eps(x)
    check_near(f"forward({x!r}, {params}, training=True)", got[finite], want[finite], bound[finite])


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ties_go_down_in_test_and_in_training(bits, dtype):
    n = 2**bits - 1
    x = np.arange(n, dtype=dtype) + dtype(0.5)
    params = daq.Params(0.0, n, bits, "activation")
    check_same(f"codes({x!r}, {params})", daq.codes(x, params), np.arange(n))
    check_same(
        f"forward({x!r}, {params})", daq.forward(x, params, training=False), np.arange(n, dtype=dtype) / dtype(n)
    )
    got = daq.forward(x, params, training=True)
    check_near(f"forward({x!r}, {params}, training=True)", got, np.arange(n) / n, literal_bound(x, 2.0) / n)


@pytest.mark.parametrize("sigma", [1.0, 2.0])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_the_literal_form_in_float32_equals_the_integer_to_2_4e_7(sigma, variant):
    """For up to 2 bits at gamma = 2: twice the eps of float32."""
    x = np.linspace(0, 3, 3001, dtype=np.float32)
    got = daq.discretize(x, sigma=sigma, variant=variant)
    check_near(f"discretize(x, sigma={sigma}, variant={variant!r})", got, elementwise(oracles.nearest, x), 2 * eps(x))


mild_options = st.fixed_dictionaries({"gamma": st.floats(1e-3, 20), "sigma": sigmas, "variant": variants})


@given(st.data(), dtypes, bit_widths, roles, clip_ranges(), mild_options)  # e^-20 beside 1 leaves 20 of 50 digits
def test_vjp_is_the_gradient_of_the_frozen_surrogate(data, dtype, bits, role, clip_range, options):
    x = data.draw(finite_inputs(*clip_range, bits, dtype))
    params = daq.Params(*clip_range, bits, role, **options)
    grad = cotangents(x)
    got_x, got_ends = daq.vjp(x, params, grad)

    low, high = map(exact, clip_range)
    each = [
        oracles.quantized(lambda y, at: oracles.daq(y, **options, at=at), exact(v), low, high, bits, role) for v in x
    ]
    want = {name: np.array([float(g[name]) for g in each]) * grad for name in ("x", "lower", "upper")}
    # Beside the slope's own error: the normalised input errs by 2 n eps, which moves the slope by that over the
    # argument of coth, at least c (its condition number is at most 1). Products and quotients make 4 more.
    c = daq.kernel_exponent(options["sigma"], options["variant"])
    distance = elementwise(lambda v: abs(v - oracles.nearest(v)), grid.normalize(x, *clip_range, bits))
    relative = (SLOPE_ERROR + 4 + 4 * 2**bits / (0.5 - distance + c)) * eps(x)
    tiny = float(np.finfo(dtype).tiny) * 2**8
    expression = f"vjp({x!r}, {params}, {grad!r})"
    check_near(f"{expression} x", got_x, want["x"], relative * np.abs(want["x"]) + tiny)
    total = (relative * np.abs(want["x"])).sum() + x.size * eps(x) * np.abs(want["x"]).sum() + tiny
    for end in ("lower", "upper"):
        check_near(f"{expression} {end}", got_ends[end], want[end].sum(), total)


def test_init_takes_the_papers_sigma():
    x = [0.0, 1.0, 2.0]
    assert daq.init(x, 2, "weight") == daq.Params(-3.0, 3.0, 2, "weight", 2.0, 1.0, "paper")
    assert daq.init(x, 2, "activation") == daq.Params(0.0, 3.0, 2, "activation", 2.0, 2.0, "paper")
    assert daq.init(x, 2, "signed_activation") == daq.Params(-3.0, 3.0, 2, "signed_activation", 2.0, 2.0, "paper")
    assert daq.init(x, 2, "weight", gamma=3.0, sigma=0.5, variant="released") == daq.Params(
        -3.0, 3.0, 2, "weight", 3.0, 0.5, "released"
    )


@pytest.mark.parametrize(
    ("name", "values", "admitted"),
    [
        ("gamma", [0, -1, math.nan, math.inf, 1e-4, 1001, None, "x"], "a number from 0.001 to 1000"),
        ("sigma", [0, -1, math.nan, math.inf, 1e-3, 101, None, "x"], "a number from 0.01 to 100"),
        ("variant", ["", "Paper", 1], "one of paper, released"),
    ],
)
def test_parameters_that_are_refused(name, values, admitted):
    for value in values:
        if (name, value) == ("sigma", None):  # of parameters it means the paper's
            continue
        with pytest.raises(ValueError, match=f"{name} must be {admitted}, got {value!r}"):
            daq.Params(-1.0, 1.0, 2, "weight", **{name: value})
    for function in [daq.discretize, daq.slope, daq.slope_numba, daq.adaptive_temperature]:
        for value in values:
            with pytest.raises(ValueError, match=f"{name} must be {admitted}, got {value!r}"):
                print(function, name, value, function([0.25], **{"sigma": 1.0, name: value}))


@pytest.mark.parametrize("method", [daq, dasr])
def test_parameters_without_a_width_have_the_papers_for_their_role(method):
    for role in ("weight", "activation", "signed_activation"):
        bounds = (0.0 if role == "activation" else -3.0, 3.0)
        assert method.Params(*bounds, 2, role).sigma == method.init([0.0, 1.0, 2.0], 2, role).sigma == daq.SIGMA[role]
        assert method.Params(*bounds, 2, role, sigma=0.5).sigma == 0.5
