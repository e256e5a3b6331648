"""What the modules with a clip range on the uniform grid share, beyond the contract."""

import contextlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import check_near, check_same
from tests.strategies import any_clip_ranges, bit_widths, clip_ranges, definitions, dtypes, inputs, roles, sample
from tests.torchimpl.modules import (
    REFERENCE,
    gradients,
    layouts,
    quantizer,
    reference,
    tensor,
    uniform_method,
    uniform_variant,
    without_loops,
)
from torchimpl.quantizers import build, quantizer_class

every_definition = definitions(REFERENCE)

# The same bits as the reference


@uniform_variant
@given(data=st.data(), dtype=dtypes, bits=bit_widths, role=roles, clip_range=clip_ranges() | any_clip_ranges())
def test_forward_has_the_references_bits(method, variant, data, dtype, bits, role, clip_range):
    x = data.draw(inputs(*clip_range, bits, dtype, nan=True))
    module, params = reference(method, bits, role, *clip_range, variant=variant)
    ours = quantizer(method, bits, role, *clip_range, variant=variant)
    want = module.forward(x, params, training=False)
    soft_in_training = variant in getattr(module, "SOFT", ())
    for training in (False,) if soft_in_training else (False, True):
        got = ours.train(training)(tensor(x)).detach().numpy()
        check_same(f"{ours}({x!r}), clip range {clip_range}, training={training}", got, want)


@uniform_variant
@pytest.mark.parametrize("clip_range", [(-3.0, 3.0), (-2.75, 2.9375), (0.0, 0.8125)])
@pytest.mark.parametrize("bits", range(1, 9))
def test_forward_has_the_references_bits_on_and_around_every_tie(method, variant, clip_range, bits):
    """In both types, as loops compute in the one and torch's own operations in the other."""
    n = 2**bits - 1
    module, params = reference(method, bits, "activation", *clip_range, variant=variant)
    ours = quantizer(method, bits, "activation", *clip_range, variant=variant).eval()
    for dtype in (np.float32, np.float64):
        low, high = map(dtype, clip_range)
        ties = low + (high - low) * np.arange(2 * n + 1, dtype=dtype) / dtype(2 * n)
        x = np.concatenate([np.nextafter(ties, dtype(-9)), ties, np.nextafter(ties, dtype(9))])
        want = module.forward(x, params, training=False)
        check_same(f"{ours} with clip range {clip_range}", ours(tensor(x)).detach().numpy(), want)


@uniform_variant
@given(data=st.data(), dtype=dtypes, bits=bit_widths, role=roles, clip_range=clip_ranges())
def test_codes_are_the_references(method, variant, data, dtype, bits, role, clip_range):
    x = data.draw(inputs(*clip_range, bits, dtype))
    module, params = reference(method, bits, role, *clip_range, variant=variant)
    ours = quantizer(method, bits, role, *clip_range, variant=variant)
    q = ours.codes(tensor(x))
    check_same(f"{ours}.codes({x!r}), clip range {clip_range}", q.numpy(), module.codes(x, params))
    want = module.decode(q.numpy().astype(np.float32), params)
    check_same(f"{ours}.decode({q.numpy()!r})", ours.decode(q).numpy(), want)


@uniform_variant
@pytest.mark.parametrize("bits", range(1, 9))
def test_every_tie(method, variant, bits):
    n = 2**bits - 1
    x = np.arange(2 * n + 1) / 2
    module, params = reference(method, bits, "activation", 0.0, float(n), variant=variant)
    ours = quantizer(method, bits, "activation", 0.0, n, variant=variant)
    check_same(f"{ours}.codes({x!r})", ours.codes(tensor(x)).numpy(), module.codes(x, params))


@uniform_method
@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_shape_type_and_memory(method, shape, dtype):
    ours = quantizer(method, 2, "weight").eval()  # values between levels vary in their last bits
    x = torch.randn(shape, dtype=dtype)
    want = ours(x)
    assert (want.shape, want.dtype) == (x.shape, dtype)
    for name, view in layouts(x).items():
        leaf = view.detach().requires_grad_()
        got = ours(leaf)
        check_same(f"{ours}({name})", got.detach().float().numpy(), want.detach().float().numpy())
        got.sum().backward()
        assert (leaf.grad.shape, leaf.grad.dtype) == (x.shape, dtype)


@uniform_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "ends",
    [(1.0, 1.0), (1.0, -1.0), (0.0, math.nan), (0.0, math.inf), (-math.inf, 0.0), (-math.inf, math.inf), (-3e38, 3e38)],
)
def test_a_clip_range_that_is_empty_or_not_finite_gives_nan(method, ends, dtype):
    ours = quantizer(method, 2, "weight", *ends)
    x = torch.linspace(-2, 2, 9, dtype=dtype)
    if ends != (-3e38, 3e38) or dtype == torch.float32:  # float64 holds that width
        for training in (False, True):
            got = ours.train(training)(x)
            assert got.isnan().all(), f"{ours} with clip range {ends} gives {got}"
    with pytest.raises(ValueError, match=r"clip range \(lower, upper\) must be finite with lower < upper, got "):
        ours.codes(x)


# Gradients (how large they are is each method's matter)


@uniform_method
def test_no_gradient_outside_the_clip_range(method):
    ours = quantizer(method, 2, "weight")
    found = gradients(ours, np.array([-math.inf, -1.01, -1.0, 1.0, 1.01, math.inf]), np.ones(6))
    assert (found["x"] != 0).tolist() == [False, False, True, True, False, False]


# Gradients at NaN, and of half precision: what holds for all methods of the suite, on this grid or not


def initialized(name, bits, role, variant, data):
    module = quantizer_class(name)(bits, role, variant=variant)
    module.initialize(data)
    return module.eval()


@every_definition
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_stays_nan_in_the_backward_pass(name, role, variant, widths, dtype):
    """Through the compiled kernels, which take float32, and torch's own operations."""
    for bits in widths:
        data = tensor(sample(4, role))
        module = initialized(name, bits, role, variant, data)
        if hasattr(REFERENCE[name], "observe") and role == "weight":
            continue  # each gradient depends on all elements
        for switched in (contextlib.nullcontext, without_loops):
            x = data.to(dtype, copy=True)
            x[1, 2] = math.nan
            module.zero_grad()
            leaf = x.requires_grad_()
            with switched():
                module(leaf).backward(torch.ones_like(leaf).cumsum(-1))
            assert leaf.grad.isnan().nonzero().tolist() == [[1, 2]], f"{module}: the gradient for x is {leaf.grad}"
            for key, value in module.named_parameters():
                assert value.grad.isnan().all(), f"{module}: the gradient for {key} is {value.grad}"


@pytest.mark.parametrize(
    ("name", "role"),
    [(name, role) for name, module in REFERENCE.items() for role in module.METHOD.bits if module.METHOD.learned(role)],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_of_a_large_batch_in_half_precision_are_finite(name, role, dtype):
    """Sums of a million, here of 16 for each element, are beyond float16; parameters and their gradients are float32.

    At 2 bits at most: outside of compiled loops RQ and soft-to-hard hold 2^bits numbers for each element.
    """
    data = torch.randn(16, 64, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.25
    data = (data.relu() if role == "activation" else data).to(dtype)
    bits = max(b for b in REFERENCE[name].METHOD.bits[role] if b <= 2)
    module = initialized(name, bits, role, None, data[:4].float())
    found = []
    for x in (data, data.float()):
        module.zero_grad()
        module(x).backward(torch.full_like(x, 16))
        found.append({key: value.grad.clone() for key, value in module.named_parameters()})
    for key, value in found[0].items():
        assert value.isfinite().all()
        want = found[1][key]
        check_near(f"{module}: gradient of {key}", value.numpy(), want.numpy(), 0.02 * want.abs().numpy())


# Initialisation


@uniform_method
@pytest.mark.parametrize(
    "batch", [[], [1.0], [0.1] * 7, [0.1] * 1000, [0.0, math.nan], [0.0, math.inf]], ids=lambda batch: str(batch[:8])
)
def test_a_first_batch_without_spread_is_refused(method, batch):
    ours = quantizer_class(method)(2, "signed_activation").train()
    with pytest.raises(
        ValueError, match=r"of the first batch must be (positive and finite|of finite values that differ)"
    ):
        ours(torch.tensor(batch))
    assert not bool(ours.initialized)
    ours(torch.tensor([-1.0, 1.0]))  # a later batch may do
    assert bool(ours.initialized)


def test_standardised_weights_need_no_batch():
    for method in ("daq", "ste"):
        ours = quantizer_class(method)(2, "weight").eval()
        ours(torch.rand(3))
        assert (ours.lower.item(), ours.upper.item()) == (-3, 3)


@uniform_method
def test_the_lower_end_after_a_relu_is_not_learned(method):
    for role, learned in [("activation", False), ("weight", True), ("signed_activation", True)]:
        ours = quantizer_class(method)(2, role)
        assert ("lower" in dict(ours.named_parameters())) == learned
        assert "lower" in ours.state_dict()


# What is built, and what is refused


def test_unknown_methods_are_refused():
    for name in ["", "DAQ", "grid"]:
        with pytest.raises(ValueError, match=rf"method must be one of apot, daq, .*, got {name!r}"):
            build(name, bits=2, role="weight")
