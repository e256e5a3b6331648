"""Quantized layers against Eq. 3 written out, and the rule by which their scale starts."""

import copy
import inspect
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from reference import grid
from tests.oracles import check_near, check_same
from tests.torchimpl.modules import REFERENCE, every_method, tensor
from torchimpl.layers import QuantConv2d, QuantLinear, standardize

geometries = st.fixed_dictionaries(
    {
        "kernel_size": st.sampled_from([1, 3]),
        "stride": st.integers(1, 2),
        "padding": st.integers(0, 2),
        "dilation": st.integers(1, 2),
        "groups": st.sampled_from([1, 2]),
        "bias": st.booleans(),
    }
)
bit_pairs = st.tuples(st.integers(1, 4) | st.none(), st.integers(1, 4) | st.none())
EPS = 2.3e-16  # the layers are run in float64


def convolve(x, w, *, stride, padding, dilation, groups):
    """The sum that a convolution is, in Python loops."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    (batch, _, height, width), (out_channels, in_group, size, _) = x.shape, w.shape
    reach = dilation * (size - 1) + 1
    out = np.zeros((batch, out_channels, (height - reach) // stride + 1, (width - reach) // stride + 1))
    for b, o, i, j in np.ndindex(*out.shape):
        first = o // (out_channels // groups) * in_group
        top, left = i * stride, j * stride
        window = x[b, first : first + in_group, top : top + reach : dilation, left : left + reach : dilation]
        out[b, o, i, j] = math.fsum((window * w[o]).ravel())
    return out


def convolution(bits=(2, 2), method="daq", geometry=None, seed=0, **options):
    """A layer in float64, and a batch for it."""
    geometry = {"kernel_size": 3, "stride": 1, "padding": 1, "dilation": 1, "groups": 1, "bias": False} | (
        geometry or {}
    )
    torch.manual_seed(seed)
    layer = QuantConv2d(4, 6, **geometry, method=method, bits=bits, **options).double()
    return layer, torch.randn(2, 4, 6, 5, dtype=torch.float64), geometry


def linear_part(geometry):
    return {name: geometry[name] for name in ("stride", "padding", "dilation", "groups")}


# Eq. 3


@every_method
@given(geometry=geometries, bits=bit_pairs, seed=st.integers(0, 99))
@example(geometry={}, bits=(1, None), seed=0)
@settings(max_examples=10)  # each is some thousand sums in Python
def test_convolution(method, geometry, bits, seed):
    layer, x, geometry = convolution(bits, method, geometry, seed)
    got = layer.train()(x.relu()).detach().numpy()
    w_q, x_q = layer.quantized_weight().detach().numpy(), layer.input_quantizer(x.relu()).detach().numpy()
    want = convolve(x_q, w_q, **linear_part(geometry)) * abs(layer.scale.item())
    if geometry["bias"]:
        want = want + layer.bias.detach().numpy()[:, None, None]
    # Sums of 36 products at most.
    bound = 40 * EPS * (1 + convolve(abs(x_q), abs(w_q), **linear_part(geometry)) * abs(layer.scale.item()))
    check_near(f"{layer}", got, want, bound)


@every_method
def test_the_weights_used_are_standardised_and_quantized(method):
    layer, x, _ = convolution((2, 2), method)
    layer(x.relu())
    w = layer.weight.detach().numpy()
    q = layer.weight_quantizer
    module = REFERENCE[method]
    params = module.Params(q.lower.item(), q.upper.item(), 2, "weight")
    want = module.forward(grid.standardize(w), params, training=False)
    check_near(f"quantized_weight of {layer}", layer.quantized_weight().detach().numpy(), want, 4 * EPS * abs(want))


@every_method
@pytest.mark.parametrize("bias", [False, True])
def test_linear(method, bias):
    torch.manual_seed(1)
    layer = QuantLinear(5, 3, bias, method=method, bits=(2, 2)).double()
    x = torch.rand(2, 4, 5, dtype=torch.float64)
    got = layer.train()(x).detach().numpy()
    w_q, x_q = layer.quantized_weight().detach().numpy(), layer.input_quantizer(x).detach().numpy()
    want = np.array([[[math.fsum(a * w_q[o]) for o in range(3)] for a in row] for row in x_q]) * layer.scale.item()
    if bias:
        want = want + layer.bias.detach().numpy()
    check_near(f"{layer}", got, want, 20 * EPS * (1 + abs(want)))


@pytest.mark.parametrize("scale", [0.5, -0.5])
def test_the_scale_counts_by_its_absolute_value(scale):
    layer, x, _ = convolution()
    layer(x.relu())
    with torch.no_grad():
        layer.scale.fill_(1.0)
        one = layer(x.relu())
        layer.scale.fill_(scale)
    check_same(f"scale {scale}", layer(x.relu()).detach().numpy(), 0.5 * one.numpy())  # halving is exact


def test_weights_that_are_not_standardised():
    layer, x, _ = convolution(standardized=False)
    layer(x.relu())
    want = layer.weight_quantizer(layer.weight)
    check_same("quantized_weight", layer.quantized_weight().detach().numpy(), want.detach().numpy())


@every_method
def test_signed_inputs(method):
    layer, x, _ = convolution((2, 2), method, input_role="signed_activation")
    layer(x)
    assert layer.input_quantizer.lower < 0 < layer.input_quantizer.upper
    assert layer.weight_quantizer.role == "weight"
    assert layer.input_quantizer.role == "signed_activation"


@pytest.mark.parametrize(("bits", "kinds"), [((1, None), (False, True)), ((None, 2), (True, False))])
def test_full_precision_on_one_side(bits, kinds):
    layer, x, _ = convolution(bits)
    layer(x.relu())
    got = isinstance(layer.weight_quantizer, nn.Identity), isinstance(layer.input_quantizer, nn.Identity)
    assert got == kinds


def test_options_reach_both_quantizers():
    layer, _, _ = convolution(variant="released", gamma=3.0, literal=True)
    for q in (layer.weight_quantizer, layer.input_quantizer):
        assert (q.variant, q.gamma, q.literal) == ("released", 3, True)
    assert (layer.weight_quantizer.sigma, layer.input_quantizer.sigma) == (1, 2)


# The scale's first value


@every_method
@given(geometry=geometries, bits=bit_pairs, seed=st.integers(0, 99))
@example(geometry={}, bits=(2, 2), seed=0)
@settings(max_examples=10)  # as above
def test_the_scale_starts_at_the_ratio_of_mean_magnitudes(method, geometry, bits, seed):
    layer, x, geometry = convolution(bits, method, geometry, seed)
    x = x.relu()
    layer.train()(x)
    w_q, x_q = layer.quantized_weight().detach().numpy(), layer.input_quantizer(x).detach().numpy()
    full = abs(convolve(x.numpy(), layer.weight.detach().numpy(), **linear_part(geometry))).mean()  # not standardised
    quantized = abs(convolve(x_q, w_q, **linear_part(geometry))).mean()
    want = full / quantized if quantized > 0 else 1
    check_near(f"scale of {layer}", layer.scale.item(), want, 1e-12 * want)
    before = layer.scale.item()
    layer(3 * x)
    assert layer.scale.item() == before, "the second batch sets nothing"


def test_a_first_batch_of_zero_codes_keeps_the_scale():
    layer = QuantLinear(2, 2, bits=(None, 1), standardized=False)
    with torch.no_grad():
        layer.input_quantizer.upper.fill_(100.0)
    layer.input_quantizer.mark_initialized()
    layer.train()(torch.tensor([[0.5, 1.0]]))  # below half of the range: code 0
    assert layer.scale.item() == 1
    assert bool(layer.scale_initialized)


def test_test_mode_sets_no_scale_and_goes_without_none():
    layer, x, _ = convolution((1, None))
    with pytest.raises(RuntimeError, match="has no output scale yet"):
        layer.eval()(x.relu())
    assert layer.scale.item() == 1
    assert not bool(layer.scale_initialized)


@pytest.mark.parametrize("training", [True, False])
def test_twice_full_precision_is_the_plain_layer(training):
    layer, x, _ = convolution((None, None))
    plain = torch.nn.functional.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding)
    check_same("outputs", layer.train(training)(x).detach(), plain.detach())


@every_method
def test_test_mode_before_the_first_batch_is_refused(method):
    layer, x, _ = convolution((2, 2), method)
    with pytest.raises(RuntimeError, match="is not initialized"):
        layer.eval()(x.relu())


# Training and test


@every_method
@pytest.mark.parametrize("bits", [(1, 1), (2, 2), (4, 3), (1, None), (None, 2)])
def test_test_mode_gives_what_training_gives(method, bits):
    layer, x, _ = convolution(bits, method)
    layer.train()(x.relu())
    want = layer(2 * x.relu())
    check_same(f"{layer} in test mode", layer.eval()(2 * x.relu()).detach().numpy(), want.detach().numpy())


@every_method
def test_every_parameter_receives_a_gradient(method):
    layer, x, _ = convolution((2, 2), method, {"bias": True}, input_role="signed_activation")
    layer(x).square().sum().backward()
    for name, value in layer.named_parameters():
        assert value.grad.abs().sum() > 1e-9, f"gradient of {name} is {value.grad}"


@every_method
def test_saving_and_copying(method):
    layer, x, _ = convolution((2, 2), method)
    layer.train()(x.relu())
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    fresh, _, _ = convolution((2, 2), method, seed=5)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    for other in (fresh, copy.deepcopy(layer)):
        want = layer(3 * x.relu())
        check_same("copy", other.train()(3 * x.relu()).detach().numpy(), want.detach().numpy())


@every_method
def test_compiles_without_a_graph_break(method):
    torch.compiler.reset()
    layer, x, _ = convolution((2, 2), method)
    layer.train()(x.relu())
    got = torch.compile(layer, fullgraph=True, backend="eager")(x.relu())
    check_same("compiled", got.detach().numpy(), layer(x.relu()).detach().numpy())


def test_compiling_before_the_first_batch_is_refused():
    torch.compiler.reset()
    layer, x, _ = convolution((1, None))  # the weights' quantizer is ready, the scale is not
    with pytest.raises(RuntimeError):
        torch.compile(layer.train(), fullgraph=True, backend="eager")(x.relu())
    assert not bool(layer.scale_initialized)


# Standardisation


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=20).filter(lambda w: max(w) - min(w) > 1e-3))
def test_standardize_is_the_references(values):
    w = np.array(values)
    want = grid.standardize(w)
    # Mean and deviation are sums of 20 numbers, in another order.
    bound = 50 * EPS * (1 + abs(want)) * (1 + abs(w).max() / w.std())
    check_near(f"standardize({w!r})", standardize(tensor(w)).numpy(), want, bound)


def test_mean_and_deviation_have_no_gradient():
    w = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64, requires_grad=True)
    v = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    (got,) = torch.autograd.grad((standardize(w) * v).sum(), w)
    check_near("gradient through standardize", got.numpy(), v.numpy() / math.sqrt(7 / 3), 4 * EPS)


# What is built, and what is refused


@pytest.mark.parametrize(("ours", "theirs"), [(QuantConv2d, nn.Conv2d), (QuantLinear, nn.Linear)])
def test_defaults_are_those_of_torch(ours, theirs):
    plain = inspect.signature(theirs).parameters
    for name, parameter in inspect.signature(ours).parameters.items():
        if name in plain:
            assert parameter.default == plain[name].default, name
    layer = ours(4, 4, *[3] * (ours is QuantConv2d), bits=(2, 2))
    assert layer.standardized
    assert layer.bias is not None
    assert layer.input_quantizer.role == "activation"


@pytest.mark.parametrize("make", [lambda **k: QuantConv2d(1, 1, 1, **k), lambda **k: QuantLinear(1, 1, **k)])
def test_parameters_that_are_refused(make):
    with pytest.raises(ValueError, match="method must be one of daq"):
        make(method="?", bits=(2, 2))
    with pytest.raises(ValueError, match=r"bits must be a whole number from 1 to 8.*, got 9"):
        make(bits=(2, 9))
    with pytest.raises(ValueError, match="role must be one of weight"):
        make(bits=(2, 2), input_role="relu")
