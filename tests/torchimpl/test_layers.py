"""Quantized layers against Eq. 3 written out, and the rule by which their scale starts."""

import contextlib
import copy
import inspect
import io
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from reference import grid, registry
from tests.oracles import check_near, check_same
from tests.torchimpl.modules import PAIRS, every_method, every_variant, fit, input_role, tensor
from torchimpl import calibrate, layers
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
    bits, pair = fit(method, bits), PAIRS[method]
    options = {"input_role": input_role(method)} | options
    geometry = {"kernel_size": 3, "stride": 1, "padding": 1, "dilation": 1, "groups": 1, "bias": False} | (
        geometry or {}
    )
    torch.manual_seed(seed)
    layer = QuantConv2d(4, 6, **geometry, method=pair, bits=bits, **options).double()
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    return layer, x.relu() if options["input_role"] == "activation" else x, geometry


def scale_of(layer):
    """The output scale, 1 where the method has none."""
    return 1.0 if layer.scale is None else abs(layer.scale.item())


def linear_part(geometry):
    return {name: geometry[name] for name in ("stride", "padding", "dilation", "groups")}


# Eq. 3


@every_method
@given(geometry=geometries, bits=bit_pairs, seed=st.integers(0, 99))
@example(geometry={}, bits=(1, None), seed=0)
@settings(max_examples=10)  # each is some thousand sums in Python
def test_convolution(method, geometry, bits, seed):
    layer, x, geometry = convolution(bits, method, geometry, seed)
    layer.train()(x)
    got = layer.eval()(x).detach().numpy()
    w_q, x_q = layer.quantized_weight().detach().numpy(), layer.input_quantizer(x).detach().numpy()
    want = convolve(x_q, w_q, **linear_part(geometry)) * scale_of(layer)
    if geometry["bias"]:
        want = want + layer.bias.detach().numpy()[:, None, None]
    # Sums of 36 products at most.
    bound = 40 * EPS * (1 + convolve(abs(x_q), abs(w_q), **linear_part(geometry)) * scale_of(layer))
    check_near(f"{layer}", got, want, bound)


@every_method
def test_the_weights_used_are_quantized_and_standardised_where_the_method_has_it(method):
    layer, x, _ = convolution((2, 2), method)
    layer(x)
    w, known = layer.weight.detach().numpy(), registry.method(PAIRS[method][0])
    weights_or_inputs = (fit(method, (2, None)), fit(method, (None, 2)))
    assert layer.standardized == known.standardized
    alone, of_inputs = (QuantLinear(2, 2, method=PAIRS[method], bits=pair).standardized for pair in weights_or_inputs)
    assert (alone, of_inputs) == (known.standardized, False)
    used = grid.standardize(w) if known.standardized else w
    want = layer.weight_quantizer.eval()(tensor(used)).detach().numpy()
    layer.eval()
    check_near(f"quantized_weight of {layer}", layer.quantized_weight().detach().numpy(), want, 4 * EPS * abs(want))


@every_method
def test_channelwise_weights(method):
    layer, x, _ = convolution((2, 2), method)
    known = registry.method(PAIRS[method][0])
    if not known.channelwise:
        with contextlib.suppress(ValueError):  # where a set of parameters a channel is not offered
            layer, _, _ = convolution((2, 2), method, channelwise=True)
            assert any(value.shape == (6, 1, 1, 1) for value in layer.weight_quantizer.parameters())
        return
    layer(x)
    values = layer.eval().quantized_weight().detach()
    with torch.no_grad():
        layer.weight[0] *= 7
    changed = layer.quantized_weight().detach()
    check_same("the other channels", changed[1:].numpy(), values[1:].numpy())


@every_method
@pytest.mark.parametrize("bias", [False, True])
def test_linear(method, bias):
    torch.manual_seed(1)
    bits = fit(method, (2, 2))
    layer = QuantLinear(5, 3, bias, method=PAIRS[method], bits=bits, input_role=input_role(method)).double()
    x = torch.rand(2, 4, 5, dtype=torch.float64)
    layer.train()(x)
    got = layer.eval()(x).detach().numpy()
    w_q, x_q = layer.quantized_weight().detach().numpy(), layer.input_quantizer(x).detach().numpy()
    want = np.array([[[math.fsum(a * w_q[o]) for o in range(3)] for a in row] for row in x_q]) * scale_of(layer)
    if bias:
        want = want + layer.bias.detach().numpy()
    check_near(f"{layer}", got, want, 20 * EPS * (1 + abs(want)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("scale", [0.5, -0.5])
def test_the_scale_counts_by_its_absolute_value(scale, training):
    layer, x, _ = convolution()
    layer(x)
    layer.train(training)
    with torch.no_grad():
        layer.scale.fill_(1.0)
        one = layer(x)
        layer.scale.fill_(scale)
    check_same(f"scale {scale}", layer(x).detach().numpy(), 0.5 * one.numpy())  # halving is exact


def test_weights_that_are_not_standardised():
    layer, x, _ = convolution(standardized=False)
    layer(x)
    want = layer.weight_quantizer(layer.weight)
    check_same("quantized_weight", layer.quantized_weight().detach().numpy(), want.detach().numpy())


@every_method
def test_signed_inputs(method):
    if "signed_activation" not in registry.method(PAIRS[method][1]).roles:
        with pytest.raises(ValueError, match="role must be one of"):
            convolution((2, 2), method, input_role="signed_activation")
        return
    layer, x, _ = convolution((2, 2), method, input_role="signed_activation")
    layer(x)
    assert layer.weight_quantizer.role == "weight"
    assert layer.input_quantizer.role == "signed_activation"
    assert (layer.eval().input_quantizer(x) < 0).any() or registry.method(PAIRS[method][1]).standardized


@pytest.mark.parametrize(("bits", "kinds"), [((1, None), (False, True)), ((None, 2), (True, False))])
def test_full_precision_on_one_side(bits, kinds):
    layer, x, _ = convolution(bits)
    layer(x)
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
    known = zip(PAIRS[method], bits, strict=True)
    has_one = any(registry.method(name).output_scale for name, b in known if b is not None)
    assert (layer.scale is not None) == has_one
    quantized = []
    if has_one:
        hooked = layer.linear_map  # what the layer itself sees: in training, soft quantizers are not on the levels
        layer.linear_map = lambda x, w: quantized.append((x, w)) or hooked(x, w)
    layer.train()(x)
    if not has_one:
        return
    x_q, w_q = (value.detach().numpy() for value in quantized[0])
    full = abs(convolve(x.numpy(), layer.weight.detach().numpy(), **linear_part(geometry))).mean()  # not standardised
    magnitude = abs(convolve(x_q, w_q, **linear_part(geometry))).mean()
    want = full / magnitude if magnitude > 0 else 1
    check_near(f"scale of {layer}", layer.scale.item(), want, 1e-12 * want)
    before = layer.scale.item()
    layer(3 * x)
    assert layer.scale.item() == before, "the second batch sets nothing"


def test_weights_that_are_all_equal_are_refused_at_the_first_batch():
    layer, x, _ = convolution()
    with torch.no_grad():
        layer.weight.fill_(0.1)
    with pytest.raises(ValueError, match=r"standard deviation of the weights must be positive: .*, got 0\.0"):
        layer.train()(x)
    assert not bool(layer.scale_initialized)


@every_variant
@pytest.mark.parametrize("standardized", [None, True])
def test_a_first_batch_with_weights_of_zeros_is_refused_or_means_something(method, variant, standardized):
    """It never makes NaN of them, and what it says has the layer's shape, and which of its quantizers it is."""
    options = {"weight_options": {"variant": variant}} if "weight" in registry.method(method).bits else {}
    bits = fit(method, (2, 2))
    layer = QuantConv2d(3, 2, 3, method=PAIRS[method], bits=bits, input_role=input_role(method),
                        standardized=standardized, **options)  # fmt: skip
    with torch.no_grad():
        layer.weight.fill_(0)
    x = torch.rand(2, 3, 5, 5)
    try:
        out = layer.train()(x)
    except ValueError as error:
        of_quantizer = rf"{type(layer.weight_quantizer).__name__}\(bits={bits[0]}, role=weight, .*\): "
        whose = "" if layer.standardized else of_quantizer
        want = rf"QuantConv2d\(3, 2, kernel_size=\(3, 3\), .*\): {whose}.* must be .*, got"
        assert re.match(want, str(error))  # noqa: PT017 - either answer will do
        with torch.no_grad():
            layer.weight[0, 0, 0] = torch.tensor([1.0, -2.0, 0.5])
            layer.weight[1, 0, 0] = torch.tensor([0.1, -0.3, 0.2])
        out = layer(x)
    assert out.isfinite().all()


def test_weights_are_looked_at_in_the_first_batch_only_and_nothing_is_set_again():
    layer = QuantConv2d(3, 2, 3, method=("daq", "dorefa"), bits=(2, 2), standardized=False).train()
    with torch.no_grad():
        layer.weight_quantizer.upper.fill_(0.25)
    layer(torch.rand(2, 3, 5, 5))
    assert layer.weight_quantizer.upper.item() == 0.25
    calibrate(layer, torch.rand(2, 3, 5, 5))
    assert layer.weight_quantizer.upper.item() == 0.25
    layer = QuantConv2d(3, 2, 3, method="dorefa", bits=(2, 2)).train()
    layer(torch.rand(2, 3, 5, 5))
    with torch.no_grad():
        layer.weight.fill_(0)
    assert layer(torch.rand(2, 3, 5, 5)).isnan().all()


def test_inputs_that_do_not_do_are_said_with_the_layer_and_the_quantizer():
    layer = QuantLinear(3, 2, method="lsq", bits=(2, 4)).train()
    want = r"^QuantLinear\(in_features=3, out_features=2, bias=True\): LSQ\(bits=4, role=activation, variant=paper\): "
    with pytest.raises(ValueError, match=want + "mean magnitude of the first batch must be"):
        layer(torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"^mean magnitude"):
        layer.input_quantizer.initialize(torch.zeros(4))


@pytest.mark.parametrize("x", [torch.full((1, 4, 6, 5), math.nan), torch.zeros(0, 4, 6, 5)])
def test_a_first_batch_that_tells_no_scale_is_refused(x):
    layer = QuantConv2d(4, 6, 3, method=("daq", "pact"), bits=(2, 2))
    with pytest.raises(ValueError, match="mean magnitude of the first batch's outputs must be finite"):
        layer.train()(x)
    assert not bool(layer.scale_initialized)


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
    with pytest.raises(RuntimeError, match="has no first values: only a batch in training mode"):
        layer.eval()(x)
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
    parts = (layer.weight_quantizer, layer.input_quantizer)
    if all(bool(q.initialized) for q in parts) and bool(layer.scale_initialized):  # needs no batch
        layer.eval()(x)
        return
    with pytest.raises(RuntimeError, match="has no first values: only a batch in training mode"):
        layer.eval()(x)


# Training and test


@every_method
@pytest.mark.parametrize("bits", [(1, 1), (2, 2), (4, 3), (1, None), (None, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_test_mode_gives_what_training_gives(method, bits, dtype):
    """Where the quantizers have no quantizer gap: DAQ's claim, and not that of soft assignment or sigmoids.

    Training rounds every product and every sum of values; test mode rounds a few factors of an exact sum.
    """
    layer, x, geometry = convolution(bits, method)
    layer, x = layer.to(dtype), x.to(dtype)
    layer.train()(x)
    want = copy.deepcopy(layer)(2 * x).detach().numpy()
    w_q, x_q = layer.eval().quantized_weight().detach().numpy(), layer.input_quantizer(2 * x).detach().numpy()
    got = layer(2 * x).detach().numpy()
    magnitude = convolve(abs(x_q), abs(w_q), **linear_part(geometry)) * scale_of(layer)
    reference = registry.module(method)
    if reference.METHOD.variants[0] in getattr(reference, "SOFT", ()):
        assert abs(got - want).max() > 1e-3
    else:
        check_near(f"{layer} in test mode", got, want, 45 * torch.finfo(dtype).eps * magnitude)


@every_method
def test_every_parameter_receives_a_gradient(method):
    layer, x, _ = convolution((2, 2), method, {"bias": True})
    layer(x)
    layer(20 * x).square().sum().backward()  # PACT's clip range, from 0 to 10, knows no data
    for name, value in layer.named_parameters():
        assert value.grad.abs().sum() > 1e-9, f"gradient of {name} is {value.grad}"


@every_method
def test_saving_and_copying(method):
    layer, x, _ = convolution((2, 2), method)
    layer.train()(x)
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    fresh, _, _ = convolution((2, 2), method, seed=5)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    for other in (fresh, copy.deepcopy(layer)):
        want = layer.eval()(3 * x)
        check_same("copy", other.eval()(3 * x).detach().numpy(), want.detach().numpy())


@every_method
def test_compiles_without_a_graph_break(method):
    torch.compiler.reset()
    layer, x, _ = convolution((2, 2), method)
    layer.train()(x)
    got = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="eager")(x)
    check_same("compiled", got.detach().numpy(), layer(x).detach().numpy())


def test_compiling_before_the_first_batch_is_refused():
    torch.compiler.reset()
    layer, x, _ = convolution((1, None))  # the weights' quantizer is ready, the scale is not
    with pytest.raises(RuntimeError):
        torch.compile(layer.train(), fullgraph=True, backend="eager")(x)
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


@pytest.mark.parametrize("kind", [f"Conv{kind}{axes}d" for kind in ("", "Transpose") for axes in (1, 2, 3)])
def test_a_layer_that_is_built_is_what_becomes_of_a_plain_one(kind):
    options = {"weight_options": {"variant": "mqbench"}, "input_options": {"variant": "lsq-net"}}
    options |= {"method": "lsq", "bits": (3, 4), "variant": "paper"}  # what both are, if not told otherwise
    ours, geometry, made = getattr(layers, f"Quant{kind}"), {"stride": 2, "padding": 1, "groups": 2}, []
    x = torch.rand(3, 2, *[5] * int(kind[-2]))
    for build in (lambda: ours(2, 4, 3, **geometry, **options), lambda: getattr(nn, kind)(2, 4, 3, **geometry)):
        torch.manual_seed(0)
        made.append(build())
    ours.prepare(made[1], **options)()
    built, become = (calibrate(layer, x).eval() for layer in made)
    assert repr(built) == repr(become)
    assert (built.weight_quantizer.variant, built.input_quantizer.variant) == ("mqbench", "lsq-net")
    check_same("outputs", built(x).detach().numpy(), become(x).detach().numpy())


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
    with pytest.raises(ValueError, match="method must be one of apot, daq"):
        make(method="?", bits=(2, 2))
    with pytest.raises(ValueError, match=r"bits must be a whole number from 1 to 8.*, got 9"):
        make(bits=(2, 9))
    with pytest.raises(ValueError, match="role must be one of weight"):
        make(bits=(2, 2), input_role="relu")
