"""DAQ's module: its closed form against the reference, the paper's literal computation against both."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reference import daq, daq_theory, grid
from tests.oracles import check_near, check_same, elementwise, eps, nearest
from tests.strategies import bit_widths, clip_ranges, cotangents, daq_options, dtypes, finite_inputs, normalized, roles
from tests.torchimpl.modules import gradients, layouts, quantizer, tensor
from torchimpl.quantizers.daq import DAQ, daq_closed_form, daq_literal

PAPER = {"gamma": 2.0, "sigma": 1.0, "variant": "paper"}
RELEASED = {"gamma": 2.0, "sigma": 1.0, "variant": "released"}


def literal(x: torch.Tensor, n: int, options: dict) -> torch.Tensor:
    """Q by the literal form, on the clip range [0, n], for n = 2^bits - 1."""
    ends = torch.zeros((), dtype=x.dtype), torch.full((), n, dtype=x.dtype)
    kappa = daq.kappa(options["sigma"], options["variant"])
    return daq_literal(x, *ends, n, False, options["gamma"], kappa) * n


def literal_error(x: np.ndarray, options: dict) -> np.ndarray:
    """Error of `literal`, in units of eps.

    As for the reference, 8 (q + 1) before Eq. 10 divides by tanh(gamma/2). Besides, beta s is rounded before the
    scores are subtracted: the exponent errs by beta, the probability by a quarter of that. Eq. 2 and back add 2.
    """
    beta = daq_theory.adaptive_temperature_range(**options)[1]
    return (8 * (np.floor(x) + 1) + beta / 4) / math.tanh(options["gamma"] / 2) + 2 * (np.floor(x) + 1)


def away_from_ties(x: np.ndarray, clip_range: tuple, bits: int) -> np.ndarray:
    """Where two orders of Eq. 1's arithmetic, each within 2 n eps, round to the same integer."""
    normalized_x = grid.normalize(x, *clip_range, bits)
    return np.abs(normalized_x - np.floor(normalized_x) - 0.5) > 4 * 2**bits * eps(x)


def relative_error(x: np.ndarray, clip_range: tuple, bits: int, options: dict) -> np.ndarray:
    """Relative error of the gradients for x in one of the three implementations, in units of eps.

    8 for the slope itself (see tests/reference/test_daq.py) and 4 for products and quotients; 2 n for the normalised
    input, over the argument of coth.
    """
    c = daq.kernel_exponent(options["sigma"], options["variant"])
    t = elementwise(lambda v: abs(v - nearest(v)), grid.normalize(x, *clip_range, bits))
    return 12 + 2 * 2**bits / (0.5 - t + c)


def check_gradients(expression, got, want, x, relative):
    """Compare gradients for x element by element, those for l and u as sums of such elements."""
    tiny = 2.0**-118  # 2^8 times the least normal float32, which the factor 1/width can be
    bound = relative * eps(x) * np.abs(want["x"]) + tiny
    check_near(f"{expression}: gradient of x", got["x"], want["x"], bound)
    # The parameters are float32, and so is the gradient that they receive.
    total = bound.sum() + (x.size * eps(x) + eps(np.float32(1))) * np.abs(want["x"]).sum()
    for end in set(got) - {"x"}:
        check_near(f"{expression}: gradient of {end}", got[end], want[end], total)


# The closed form


@given(st.data(), dtypes, bit_widths, roles, clip_ranges(), daq_options)
def test_gradients_are_the_references(data, dtype, bits, role, clip_range, options):
    x = data.draw(finite_inputs(*clip_range, bits, dtype))
    ours = quantizer("daq", bits, role, *clip_range, **options)
    got = gradients(ours, x, cotangents(x))
    grad_x, ends = daq.vjp(x, daq.Params(*clip_range, bits, role, **options), cotangents(x))
    relative = 2 * relative_error(x, clip_range, bits, options)
    check_gradients(f"{ours} at {x!r}, {clip_range}", got, {"x": grad_x, **ends}, x, relative)


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("role", grid.ROLES)
def test_the_defaults_are_the_papers(variant, role):
    ours = quantizer("daq", 2, role, variant=variant)
    assert (ours.gamma, ours.sigma, ours.literal) == (2, 1 if role == "weight" else 2, False)
    x = np.array([-1.0, -2 / 3, 0.2, 1.0])
    grad_x, _ = daq.vjp(x, daq.Params(-1.0, 1.0, 2, role, 2.0, ours.sigma, variant), np.ones(4))
    check_near(f"gradient of {ours}", gradients(ours, x, np.ones(4))["x"], grad_x, 1e-13 * grad_x)


@given(st.data(), dtypes, bit_widths, clip_ranges((3, 1)))
def test_a_clip_range_per_channel(data, dtype, bits, clip_range):
    x = data.draw(finite_inputs(*clip_range, bits, dtype, shape=st.just((2, 3, 4))))
    params = daq.Params(*clip_range, bits, "weight")
    leaves = [tensor(v).requires_grad_() for v in (x, *clip_range)]
    for view in layouts(leaves[0]).values():
        got = daq_closed_form(view, *leaves[1:], 2**bits - 1, True, 2.0, 0.25)
        want = daq.forward(x, params, training=False)
        check_same(f"daq_closed_form({x!r}, {clip_range})", got.detach().numpy(), want)
    got.backward(tensor(cotangents(x)))
    grad_x, ends = daq.vjp(x, params, cotangents(x))
    relative = 2 * (12 + 2 * 2**bits / 0.25)  # `relative_error` at its largest, c being 1/4
    check_near("gradient of x", leaves[0].grad.numpy(), grad_x, relative * eps(x) * np.abs(grad_x))
    for leaf, end in zip(leaves[1:], ("lower", "upper"), strict=True):
        bound = (relative + x.size) * eps(x) * np.abs(grad_x).sum()
        check_near(f"gradient of {end}", leaf.grad.numpy(), ends[end], bound)


# The literal form


@given(st.data(), dtypes, daq_options)
@example(data=None, dtype=np.float32, options=PAPER)
@example(data=None, dtype=np.float64, options=RELEASED)
def test_eq_11(data, dtype, options):
    x = np.arange(0, 7, 0.125, dtype=dtype) if data is None else data.draw(normalized(dtype))
    x = np.round(x * 512) / dtype(512)  # then n x / n is x again
    got = literal(tensor(x), 255, options).numpy()
    want = elementwise(nearest, x)
    check_near(f"literal({x!r}, {options})", got, want, literal_error(x, options) * eps(x))


@pytest.mark.parametrize("gamma", daq.GAMMA_RANGE)
@pytest.mark.parametrize("sigma", daq.SIGMA_RANGE)
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_the_literal_form_at_the_ends_of_the_admitted_range(gamma, sigma, variant):
    x = torch.linspace(0, 3, 13, dtype=torch.float64, requires_grad=True)
    options = {"gamma": gamma, "sigma": sigma, "variant": variant}
    ours = quantizer("daq", 2, "activation", 0, 3, **options, literal=True)
    got, at = ours(x) * 3, x.detach().numpy()
    check_near(f"{ours}", got.detach().numpy(), np.ceil(at - 0.5), literal_error(at, options) * eps(at))
    got.sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("role", ["weight", "activation"])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_autograd_of_the_literal_form_is_the_closed_form_to_4e_15(role, variant):
    """At gamma = 2; levels (from the right) and transition points included."""
    x = torch.linspace(0, 1, 257, dtype=torch.float64, requires_grad=True)
    options = {"gamma": 2.0, "sigma": daq.SIGMA[role], "variant": variant}
    (got,) = torch.autograd.grad(literal(x, 1, options).sum(), x)
    want = daq.slope(x.detach().numpy(), **options)
    check_near(f"autograd of literal(x, {options})", got.numpy(), want, 4e-15 * want)


@given(st.data(), bit_widths, roles, clip_ranges(), daq_options)
@example(data=None, bits=2, role="weight", clip_range=(-1.0, 1.0), options=PAPER)
@example(data=None, bits=2, role="activation", clip_range=(-1.0, 1.0), options=RELEASED)
def test_literal_and_closed_form_train_alike(data, bits, role, clip_range, options):
    x = np.linspace(-1.2, 1.2, 97) if data is None else data.draw(finite_inputs(*clip_range, bits, np.float64))
    x = x[away_from_ties(x, clip_range, bits)]
    closed = quantizer("daq", bits, role, *clip_range, **options)
    as_stated = quantizer("daq", bits, role, *clip_range, **options, literal=True)
    expression = f"{as_stated} at {x!r}, {clip_range}"
    values = [module(tensor(x)).detach().numpy() for module in (as_stated, closed)]
    n = 2**bits - 1
    bound = (literal_error(np.asarray(n), options) + 2) * eps(x) * grid.output_scale(role) / n
    check_near(expression, *values, bound)
    check_same(f"{expression}, in test mode", as_stated.eval()(tensor(x)).detach().numpy(), values[1])

    got, want = (gradients(module.train(), x, cotangents(x)) for module in (as_stated, closed))
    # beta* has the relative error of a difference of scores, 8 eps over the least difference, and m_f m_c that of the
    # exponent, beta eps; where m is 1 in floating point, autograd subtracts it from 1. 1 - 2 lambda = tanh(gamma/2)
    # is a difference, too.
    beta = daq_theory.adaptive_temperature_range(**options)[1]
    relative = 2 * relative_error(x, clip_range, bits, options) + 8 * beta / options["gamma"] + 4 * beta
    relative += 2 / math.tanh(options["gamma"] / 2)
    smallest = 8 * eps(x) * beta * 4 * n / float(clip_range[1] - clip_range[0])
    bound = relative * eps(x) * np.abs(want["x"]) + smallest
    check_near(f"{expression}: gradient of x", got["x"], want["x"], bound)
    for end in set(got) - {"x"}:
        total = 2 * bound.sum() + (x.size * eps(x) + 1.2e-7) * np.abs(want["x"]).sum()
        check_near(f"{expression}: gradient of {end}", got[end], want[end], total)


@given(st.permutations(range(9)), dtypes, daq_options)
@settings(max_examples=10)
def test_no_element_changes_another(order, dtype, options):
    """An element near a tie has a large temperature; a softmax that subtracts the tensor's maximum drags the rest."""
    x = np.array([0.0, 0.1, 0.25, 0.49, 0.5, 0.51, 0.75, 0.9, 1.0], dtype)
    together = literal(tensor(x[list(order)]), 1, options).numpy()
    alone = np.array([literal(tensor(x[i : i + 1]), 1, options).item() for i in order], dtype)
    # exp may differ in its last bit between vector and scalar loops, which Eq. 10 divides by tanh(gamma/2).
    check_near(f"literal({x[list(order)]}, {options})", together, alone, 8 * eps(x) / math.tanh(options["gamma"] / 2))


def test_the_literal_form_is_finite_where_the_released_code_was_not():
    """float32, wide kernels: there sigma = 7.3 at gamma = 2 gave NaN."""
    x = torch.linspace(0, 1, 1001, requires_grad=True)
    for sigma in [7.3, 10.0, 100.0]:
        for gamma in [2.0, 8.0, 80.0]:
            got = literal(x, 1, {"gamma": gamma, "sigma": sigma, "variant": "released"})
            (slope,) = torch.autograd.grad(got.sum(), x)
            assert got.isfinite().all()
            assert slope.isfinite().all(), f"gamma={gamma}, sigma={sigma}: {slope[~slope.isfinite()]}"


def test_the_literal_form_compiles_without_a_graph_break():
    torch.compiler.reset()
    ours = quantizer("daq", 2, "weight", literal=True)
    x = torch.linspace(-1.2, 1.2, 25)
    got = torch.compile(ours, fullgraph=True, backend="eager")(x)
    check_same(f"compiled {ours}", got.detach().numpy(), ours(x).detach().numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_literal_form_keeps_the_type(dtype):
    x = torch.linspace(-1, 1, 9, dtype=dtype)
    assert quantizer("daq", 2, "weight", literal=True)(x).dtype == dtype


def test_gradients_at_nan_in_the_literal_form():
    found = gradients(quantizer("daq", 2, "weight", literal=True), np.array([0.2, math.nan]), np.ones(2))
    assert np.isnan(found["x"]).tolist() == [False, True]
    assert np.isnan(found["lower"])
    assert np.isnan(found["upper"])


@pytest.mark.parametrize("training", [False, True])
def test_nan_and_infinity_in_the_literal_form(training):
    x = torch.tensor([math.nan, -math.inf, math.inf])
    got = quantizer("daq", 2, "weight", literal=True).train(training)(x).detach()
    assert got[0].isnan()
    # 8 eps 4/3 of the integer, twice over n for weights
    check_near("literal at +-inf", got[1:].numpy(), [-1, 1], 8 * 4 / 3 * 2 * 1.2e-7 / math.tanh(1))


# As an operator of torch


def test_the_operator_broadcasts_what_it_quantizes():
    """To the shape of a range per channel; other shapes, types and strides are the contract's."""
    ends = [torch.full((3, 1), end, requires_grad=True) for end in (-1.0, 1.0)]
    x = torch.randn(4, requires_grad=True)
    torch.library.opcheck(torch.ops.quantgap.daq.default, (x, *ends, 3, True, 2.0, 0.25))


# What is refused


@pytest.mark.parametrize(
    ("name", "values", "admitted"),
    [
        ("gamma", [0, -1, math.nan, math.inf, 1001, None], "a number from 0.001 to 1000"),
        ("sigma", [0, -1, math.nan, math.inf, 101], "a number from 0.01 to 100"),
    ],
)
def test_parameters_that_are_refused(name, values, admitted):
    for value in values:
        with pytest.raises(ValueError, match=f"{name} must be {admitted}, got {value}"):
            DAQ(2, "weight", **{name: value})


def test_repr():
    assert repr(DAQ(2, "weight", literal=True)) == (
        "DAQ(bits=2, role=weight, variant=paper, gamma=2, sigma=1, literal)"
    )


@pytest.mark.parametrize("bounds", [(1.0, 1.0), (2.0, 1.0), (0.0, math.inf)])
def test_an_empty_clip_range_gives_nan_in_either_form(bounds):
    for literally in (False, True):
        ours = quantizer("daq", 2, "signed_activation", *bounds, literal=literally)
        with pytest.warns(UserWarning, match="lower < upper"):
            assert ours(torch.linspace(-1, 3, 9)).isnan().all()
