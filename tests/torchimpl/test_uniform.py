"""What the modules with a clip range on the uniform grid share, beyond the contract."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import check_same
from tests.strategies import any_clip_ranges, bit_widths, clip_ranges, dtypes, inputs, roles
from tests.torchimpl.modules import (
    gradients,
    layouts,
    quantizer,
    reference,
    tensor,
    uniform_method,
    uniform_variant,
)
from torchimpl.quantizers import build, quantizer_class

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
    n = 2**bits - 1
    ties = np.float32(clip_range[0]) + np.float32(clip_range[1] - clip_range[0]) * np.arange(2 * n + 1, dtype="f4") / (
        2 * n
    )
    x = np.concatenate([np.nextafter(ties, np.float32(-9)), ties, np.nextafter(ties, np.float32(9))])
    module, params = reference(method, bits, "activation", *clip_range, variant=variant)
    ours = quantizer(method, bits, "activation", *clip_range, variant=variant)
    want = module.forward(x, params, training=False)
    check_same(f"{ours} with clip range {clip_range}", ours.eval()(tensor(x)).detach().numpy(), want)


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


@uniform_method
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


@uniform_method
def test_no_gradient_outside_the_clip_range(method):
    ours = quantizer(method, 2, "weight")
    found = gradients(ours, np.array([-math.inf, -1.01, -1.0, 1.0, 1.01, math.inf]), np.ones(6))
    assert (found["x"] != 0).tolist() == [False, False, True, True, False, False]


# Initialisation


@uniform_method
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


# Saving, copying, compiling, parametrizing


# What is built, and what is refused


def test_unknown_methods_are_refused():
    for name in ["", "DAQ", "grid"]:
        with pytest.raises(ValueError, match=rf"method must be one of daq, .*, got {name!r}"):
            build(name, bits=2, role="weight")
