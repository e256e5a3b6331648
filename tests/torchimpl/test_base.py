"""What every quantizer module does alike: the reference's bits, initialisation, saving, compiling, what is refused."""

import copy
import io
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize

from reference import grid
from tests.oracles import check_near, check_same
from tests.strategies import any_clip_ranges, bit_widths, clip_ranges, cotangents, dtypes, inputs, roles
from tests.torchimpl.modules import (
    REFERENCE,
    every_method,
    every_variant,
    gradients,
    layouts,
    quantizer,
    reference,
    tensor,
)
from torchimpl.quantizers import build, quantizer_class

# The same bits as the reference


@every_variant
@given(data=st.data(), dtype=dtypes, bits=bit_widths, role=roles, clip_range=clip_ranges() | any_clip_ranges())
def test_forward_has_the_references_bits(method, variant, data, dtype, bits, role, clip_range):
    x = data.draw(inputs(*clip_range, bits, dtype, nan=True))
    module, params = reference(method, bits, role, *clip_range, variant=variant)
    ours = quantizer(method, bits, role, *clip_range, variant=variant)
    want = module.forward(x, params, training=False)
    for training in (False, True):
        got = ours.train(training)(tensor(x)).detach().numpy()
        check_same(f"{ours}({x!r}), clip range {clip_range}, training={training}", got, want)


@every_variant
@pytest.mark.parametrize("clip_range", [(-3.0, 3.0), (-2.75, 2.9375), (0.0, 0.8125)])
@pytest.mark.parametrize("bits", range(1, 9))
def test_forward_has_the_references_bits_on_and_around_every_tie(method, variant, clip_range, bits):
    n = 2**bits - 1
    ties = np.float32(clip_range[0]) + np.float32(clip_range[1] - clip_range[0]) * np.arange(2 * n + 1, dtype="f4") / (
        2 * n
    )
    x = np.concatenate([np.nextafter(ties, np.float32(-9)), ties, np.nextafter(ties, np.float32(9))])
    module, params = reference(method, bits, "activation", *clip_range, variant=variant)
    ours = quantizer(method, bits, "activation", *clip_range, variant=variant)
    want = module.forward(x, params, training=False)
    check_same(f"{ours} with clip range {clip_range}", ours(tensor(x)).detach().numpy(), want)


@every_variant
@given(data=st.data(), dtype=dtypes, bits=bit_widths, role=roles, clip_range=clip_ranges())
def test_codes_are_the_references(method, variant, data, dtype, bits, role, clip_range):
    x = data.draw(inputs(*clip_range, bits, dtype))
    module, params = reference(method, bits, role, *clip_range, variant=variant)
    ours = quantizer(method, bits, role, *clip_range, variant=variant)
    q = ours.codes(tensor(x))
    check_same(f"{ours}.codes({x!r}), clip range {clip_range}", q.numpy(), module.codes(x, params))
    want = module.decode(q.numpy().astype(np.float32), params)
    check_same(f"{ours}.decode({q.numpy()!r})", ours.decode(q).numpy(), want)


@every_variant
@pytest.mark.parametrize("bits", range(1, 9))
def test_every_tie(method, variant, bits):
    n = 2**bits - 1
    x = np.arange(2 * n + 1) / 2
    module, params = reference(method, bits, "activation", 0.0, float(n), variant=variant)
    ours = quantizer(method, bits, "activation", 0.0, n, variant=variant)
    check_same(f"{ours}.codes({x!r})", ours.codes(tensor(x)).numpy(), module.codes(x, params))


@every_method
@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_shape_type_and_memory(method, shape, dtype):
    ours = quantizer(method, 2, "weight")
    x = torch.randn(shape, dtype=dtype)
    want = ours(x)
    assert (want.shape, want.dtype) == (x.shape, dtype)
    for name, view in layouts(x).items():
        leaf = view.detach().requires_grad_()
        got = ours(leaf)
        check_same(f"{ours}({name})", got.detach().float().numpy(), want.detach().float().numpy())
        got.sum().backward()
        assert (leaf.grad.shape, leaf.grad.dtype) == (x.shape, dtype)


@every_method
@given(data=st.data(), bits=bit_widths, role=roles)
def test_repeated_calls_agree(method, data, bits, role):
    x = data.draw(inputs(-1, 1, bits, np.float32))
    ours = quantizer(method, bits, role)
    before = copy.deepcopy(ours.state_dict())
    grad = cotangents(x)
    first, first_grads = ours(tensor(x)).detach().numpy(), gradients(ours, x, grad)
    second, second_grads = ours(tensor(x)).detach().numpy(), gradients(ours, x, grad)
    check_same("the second call", second, first)
    for name, value in first_grads.items():
        check_same(f"the second gradient of {name}", second_grads[name], value)
    for name, value in ours.state_dict().items():
        check_same(name, value.numpy(), before[name].numpy())


@every_method
def test_nan_has_no_code(method):
    ours = quantizer(method, 2, "weight")
    with pytest.raises(ValueError, match="x must be free of NaN"):
        ours.codes(torch.tensor([0.0, math.nan]))


@every_method
@pytest.mark.parametrize("ends", [(1.0, 1.0), (1.0, -1.0), (0.0, math.nan)])
def test_an_empty_clip_range_gives_nan(method, ends):
    ours = quantizer(method, 2, "weight", *ends)
    x = torch.linspace(-2, 2, 9)
    for training in (False, True):
        got = ours.train(training)(x)
        assert got.isnan().all(), f"{ours} with clip range {ends} gives {got}"
    with pytest.raises(ValueError, match=r"clip range \(lower, upper\) must be lower < upper, got "):
        ours.codes(x)


# Gradients (how large they are is each method's matter)


@every_variant
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("role", grid.ROLES)
def test_every_learnable_parameter_receives_a_gradient(method, variant, bits, role):
    ours = quantizer_class(method)(bits, role, variant=variant).train()
    ours(torch.linspace(-1, 2, 31))  # sets the clip range
    x = np.linspace(-9.137, 9.261, 157)  # inside and on both sides of it, on no special point
    found = gradients(ours, x, cotangents(x))
    learnable = set(REFERENCE[method].METHOD.learnable) - ({"lower"} if role == "activation" else set())
    assert set(dict(ours.named_parameters())) == learnable
    for name in learnable:
        assert abs(found[name]) > 1e-6, f"gradient of {name} is {found[name]}"
    assert (found["x"] != 0).any()


@every_method
def test_no_gradient_outside_the_clip_range(method):
    ours = quantizer(method, 2, "weight")
    found = gradients(ours, np.array([-math.inf, -1.01, -1.0, 1.0, 1.01, math.inf]), np.ones(6))
    assert (found["x"] != 0).tolist() == [False, False, True, True, False, False]


# Initialisation


@every_method
@pytest.mark.parametrize("role", grid.ROLES)
def test_the_first_batch_sets_the_clip_range(method, role):
    x = np.random.default_rng(7).normal(0.3, 2, (4, 3)).astype(np.float32)
    ours = quantizer_class(method)(2, role).train()
    ours(tensor(x))
    want = REFERENCE[method].init(x.astype(np.float64), 2, role)
    expression = f"clip range of {ours}"
    # float32 deviations of 12 numbers differ by a few eps from float64's.
    check_near(expression, [ours.lower.item(), ours.upper.item()], [want.lower, want.upper], 20 * 1.2e-7 * want.upper)
    before = ours.lower.item(), ours.upper.item()
    ours(tensor(10 * x))
    assert (ours.lower.item(), ours.upper.item()) == before, "the second batch sets nothing"
    assert bool(ours.initialized)


@every_method
@pytest.mark.parametrize(
    "batch", [[], [1.0], [0.1] * 7, [0.1] * 1000, [0.0, math.nan], [0.0, math.inf]], ids=lambda batch: str(batch[:8])
)
def test_a_first_batch_without_spread_is_refused(method, batch):
    ours = quantizer_class(method)(2, "signed_activation").train()
    with pytest.raises(ValueError, match=r"of the first batch must be (positive and finite|finite values that differ)"):
        ours(torch.tensor(batch))
    assert not bool(ours.initialized)
    ours(torch.tensor([-1.0, 1.0]))  # a later batch may do
    assert bool(ours.initialized)


@every_method
def test_test_mode_before_the_first_batch_is_refused(method):
    ours = quantizer_class(method)(2, "activation").eval()
    with pytest.raises(RuntimeError, match="has no clip range yet: run one batch in training mode"):
        ours(torch.rand(3))
    ours.initialize(torch.rand(3))
    ours(torch.rand(3))


def test_standardised_weights_need_no_batch():
    for method in ("daq", "ste"):
        ours = quantizer_class(method)(2, "weight").eval()
        ours(torch.rand(3))
        assert (ours.lower.item(), ours.upper.item()) == (-3, 3)


@every_method
def test_the_lower_end_after_a_relu_is_not_learned(method):
    for role, learned in [("activation", False), ("weight", True), ("signed_activation", True)]:
        ours = quantizer_class(method)(2, role)
        assert ("lower" in dict(ours.named_parameters())) == learned
        assert "lower" in ours.state_dict()


# Saving, copying, compiling, parametrizing


def through_a_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def loaded(ours):
    fresh = quantizer_class(ours.method)(ours.bits, ours.role)
    fresh.load_state_dict(through_a_file(ours.state_dict()))
    return fresh


@every_method
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda q: pickle.loads(pickle.dumps(q)), loaded])
@pytest.mark.parametrize("ready", [False, True])
def test_copies_behave_alike(method, copied, ready):
    ours = quantizer_class(method)(3, "signed_activation").train()
    x = torch.randn(20)
    if ready:
        ours(x)
    other = copied(ours)
    assert bool(other.initialized) == ready
    for training in (True, False):
        check_same(f"copy of {ours}", *(m.train(training)(2 * x).detach().numpy() for m in (other, ours)))
    with torch.no_grad():
        other.upper.add_(1)
    assert other.upper != ours.upper, "a copy has parameters of its own"


@every_method
def test_parametrize(method):
    conv = nn.Conv2d(2, 3, 3)
    plain = conv.weight.detach().clone()
    parametrize.register_parametrization(conv, "weight", quantizer(method, 2, "weight"))
    ours = conv.parametrizations.weight[0]
    check_same("conv.weight", conv.weight.detach().numpy(), ours(plain).detach().numpy())
    conv(torch.randn(1, 2, 5, 5)).square().sum().backward()
    assert conv.parametrizations.weight.original.grad.abs().sum() > 0
    assert ours.upper.grad.abs() > 0


@every_variant
@pytest.mark.parametrize("role", ["weight", "activation"])
def test_compiles_without_a_graph_break(method, variant, role):
    torch.compiler.reset()
    ours = quantizer(method, 2, role, variant=variant)
    compiled = torch.compile(ours, fullgraph=True, backend="eager")
    x = torch.linspace(-2, 2, 17)
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    for run, leaf in zip((ours, compiled), leaves, strict=True):
        run(leaf).square().sum().backward()
    check_same(f"compiled {ours}", compiled(x).detach().numpy(), ours(x).detach().numpy())
    check_same(f"gradient of compiled {ours}", leaves[1].grad.numpy(), leaves[0].grad.numpy())


@every_method
def test_compiling_before_the_first_batch_is_refused(method):
    torch.compiler.reset()
    ours = quantizer_class(method)(2, "activation").train()
    with pytest.raises(RuntimeError):  # the compiler wraps the message
        torch.compile(ours, fullgraph=True, backend="eager")(torch.rand(3))
    assert not bool(ours.initialized)


# What is built, and what is refused


@every_method
def test_full_precision(method):
    x = torch.tensor([-7.0, math.nan, 0.3])
    assert isinstance(build(method, bits=None, role="weight"), nn.Identity)
    ours = quantizer_class(method)(None, "weight").eval()
    assert ours(x) is x
    with pytest.raises(ValueError, match=r"bits must be .*full precision has no codes"):
        ours.codes(x)


@every_method
def test_build_by_name(method):
    ours = build(method, bits=2, role="weight")
    assert type(ours) is quantizer_class(method)
    assert ours.method == method
    assert ours.variant == REFERENCE[method].METHOD.variants[0]
    assert f"bits=2, role=weight, variant={ours.variant}" in repr(ours)


def test_unknown_methods_are_refused():
    for name in ["", "DAQ", "grid"]:
        with pytest.raises(ValueError, match=rf"method must be one of daq, .*, got {name!r}"):
            build(name, bits=2, role="weight")


@every_method
def test_parameters_that_are_refused(method):
    make = quantizer_class(method)
    for bits in [0, 9, -1, 2.0, True, "2"]:
        with pytest.raises(ValueError, match=rf"bits must be a whole number from 1 to 8.*, got {bits!r}"):
            make(bits, "weight")
    for role in ["", "weights"]:
        with pytest.raises(ValueError, match=rf"role must be one of weight, .*, got {role!r}"):
            make(2, role)
    for variant in ["", "Paper"]:
        with pytest.raises(ValueError, match=rf"variant must be one of .*, got {variant!r}"):
            make(2, "weight", variant=variant)
