"""Integers inside: in test mode a quantized layer is the convolution in int64, whatever computes it."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reference import integer, registry
from tests.oracles import check_near, check_same
from tests.torchimpl.modules import PAIRS, REFERENCE, VARIANTS, every_method, every_variant, fit, input_role, threads
from torchimpl.contract import reference_params
from torchimpl.layers import QuantConv2d, QuantLinear
from torchimpl.quantizers import build, quantizer_class

INTEGRAL = [
    name
    for name in REFERENCE
    if all(
        build(method, bits=b, role=role).is_integral
        for method, role, b in zip(PAIRS[name], ("weight", input_role(name)), fit(name, (2, 2)), strict=True)
    )
]
integral_method = pytest.mark.parametrize("method", INTEGRAL)
GEOMETRIES = st.fixed_dictionaries(
    {
        "kernel_size": st.sampled_from([1, 3]),
        "stride": st.integers(1, 2),
        "padding": st.integers(0, 2),
        "dilation": st.integers(1, 2),
        "groups": st.sampled_from([1, 2]),
    }
)


def layer_and_batch(method, bits, geometry=None, *, channels=(4, 6), seed=0, bias=False):
    """A layer with first values, in test mode, and a batch with what occurs: zeros, ends, values far outside."""
    torch.manual_seed(seed)
    geometry = geometry or {"kernel_size": 3, "padding": 1}
    options = {"method": PAIRS[method], "bits": fit(method, bits), "input_role": input_role(method)}
    layer = QuantConv2d(*channels, **geometry, bias=bias, **options)
    x = torch.randn(3, channels[0], 7, 6)
    x = x.relu() if input_role(method) == "activation" else x
    layer.train()(x)
    return layer.eval(), 3 * x


def test_most_methods_have_integers():
    assert set(INTEGRAL) >= {"daq", "dasr", "ste", "dorefa", "pact", "lsq", "duq", "irnet", "qil", "qnet"}


# The quantizers' integers


@every_variant
def test_values_are_a_unit_times_integers(method, variant):
    """And the unit is the reference's; codes number the integers."""
    known = REFERENCE[method].METHOD
    for bits, role, _ in [row for row in known.defined() if row[2] == variant]:
        module = quantizer_class(method)(bits, role, variant=variant)
        x = torch.randn(200, generator=torch.Generator().manual_seed(bits))
        x = x.abs() if role == "activation" else x
        module.initialize(x)
        module.eval()
        x = torch.cat([3 * x, torch.tensor([0.0, -0.0])])
        k = module.integers(x)
        q = module.codes(x).numpy()
        by_codes = np.array(module.table)[q] if module.table else module.lowest + module.stride * q
        check_same(f"{module}: integers by codes", k.long().numpy(), by_codes)
        assert (k.abs() <= module.largest_integer).all()
        params = reference_params(module)
        if hasattr(REFERENCE[method], "observe"):
            params = REFERENCE[method].observe(x.numpy().astype(np.float64), params)
        own = REFERENCE[method].integer_grid(params)
        assert module.is_integral == (own is not None)
        if own is not None:
            assert (module.lowest, module.stride, module.table) == (own.lowest, own.stride, own.table)
            unit = torch.as_tensor(module.unit(x)).detach().numpy()
            check_near(f"unit of {module}", np.float64(unit).reshape(own.unit.shape), own.unit, 4e-7 * own.unit)
            check_near(f"{module}", module(x).detach().numpy(), unit * k.numpy(), 4e-7 * np.abs(unit) * 256)


@every_variant
def test_integers_have_the_type_of_the_input_and_no_gradient(method, variant):
    role = REFERENCE[method].METHOD.roles[0]
    bits = max(b for b, r, v in REFERENCE[method].METHOD.defined() if (r, v) == (role, variant))
    module = quantizer_class(method)(bits, role, variant=variant)
    module.initialize(torch.linspace(0.1, 2, 50) if role == "activation" else torch.linspace(-2, 2, 50))
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        x = torch.linspace(-1, 2, 64, dtype=dtype).requires_grad_()
        k = module.eval().integers(x)
        assert (k.dtype, k.requires_grad) == (dtype, False)
        if dtype != torch.float64:
            check_same(f"{module}, {dtype}", k.float().numpy(), module.integers(x.detach().float()).numpy())


# Layers against int64


def int64_sums(layer, x):
    """The convolution of the layer's integers by the oracle."""
    w = layer.weight if not layer.standardized else (layer.weight - layer.weight.mean()) / layer.weight.std()
    x_int, w_int = layer.input_quantizer.integers(x), layer.weight_quantizer.integers(w)
    named = {name: getattr(layer, name) for name in ("stride", "padding", "dilation")}
    return integer.convolve(x_int.long().numpy(), w_int.long().numpy(), **named, groups=layer.groups)


def factor_of(layer, x):
    """What sums are multiplied by, in float32."""
    w = layer.weight if not layer.standardized else (layer.weight - layer.weight.mean()) / layer.weight.std()
    unit = torch.as_tensor(layer.weight_quantizer.unit(w)).detach().reshape(-1, 1, 1)
    factor = unit * layer.input_quantizer.unit(x)
    if isinstance(layer.weight_quantizer.unit(w), float) and isinstance(layer.input_quantizer.unit(x), float):
        factor = layer.weight_quantizer.unit(w) * layer.input_quantizer.unit(x)  # not rounded to float32
    return factor if layer.scale is None else factor * layer.scale.detach().abs()


@integral_method
@given(geometry=GEOMETRIES, bits=st.tuples(st.integers(1, 8), st.integers(1, 8)), seed=st.integers(0, 99))
@example(geometry={"kernel_size": 3, "padding": 1}, bits=(1, 1), seed=0)
@settings(max_examples=10)
def test_a_layer_is_the_convolution_in_int64(method, geometry, bits, seed):
    layer, x = layer_and_batch(method, bits, geometry, seed=seed)
    with torch.no_grad():
        got = layer(x)
        sums = int64_sums(layer, x)
        assert np.abs(sums).max() <= layer.largest_sum() <= integer.EXACT_IN_FLOAT32
        want = torch.from_numpy(sums).float() * factor_of(layer, x)
        check_same(f"{layer}", got.numpy(), want.numpy())


@integral_method
@pytest.mark.parametrize("bits", [(1, 1), (2, 2), (3, 4), (8, 8)])
def test_nothing_changes_the_bits(method, bits):
    """Batch splits, layout, threads, the library behind, gradients wanted or not."""
    layer, x = layer_and_batch(method, bits, channels=(70, 12))
    with torch.no_grad():
        want = layer(x)
        ways = {
            "split": lambda: torch.cat([layer(part) for part in x.split(1)]),
            "channels last": lambda: layer(x.contiguous(memory_format=torch.channels_last)).contiguous(),
            "weights channels last": lambda: copy.deepcopy(layer).to(memory_format=torch.channels_last)(x),
        }
        for name, way in ways.items():
            check_same(f"{layer}: {name}", way().contiguous().numpy(), want.numpy())
        with torch.backends.mkldnn.flags(enabled=False):
            check_same(f"{layer}: without oneDNN", layer(x).numpy(), want.numpy())
            with torch.backends.nnpack.flags(enabled=False):
                check_same(f"{layer}: torch's own loops", layer(x).numpy(), want.numpy())
        with threads(3):
            check_same(f"{layer}: three threads", layer(x).numpy(), want.numpy())
    check_same(f"{layer}: with gradients", layer(x).detach().numpy(), want.numpy())


@integral_method
def test_compiling_changes_no_bit(method):
    """Nor with sums that float32 does not hold."""
    made = [layer_and_batch(method, bits, channels=(70, 12)) for bits in ((1, 1), (8, 8))]
    layers, batches = zip(*made, strict=True)

    def run(layers, batches):
        return [layer(x) for layer, x in zip(layers, batches, strict=True)]

    torch.compiler.reset()
    with torch.no_grad():
        found = torch.compile(run, fullgraph=True, backend="eager")(layers, batches)
        for layer, got, want in zip(layers, found, run(layers, batches), strict=True):
            check_same(f"compiled {layer}", got.numpy(), want.numpy())


def test_algorithms_with_fractions_are_kept_out():
    """Winograd's, which torch has on a CPU without oneDNN, is wrong by fractions in the plain convolution."""
    torch.manual_seed(0)
    layer = QuantConv2d(64, 64, 3, padding=1, method="lsq", bits=(4, 4), bias=False)
    x = torch.rand(32, 64, 32, 32)
    with torch.no_grad():
        layer.train()(x)
        want = layer.eval()(x)
        x_int, w_int = layer.input_quantizer.integers(x), layer.weight_quantizer.integers(layer.weight)
        with torch.backends.mkldnn.flags(enabled=False):
            plain = torch.nn.functional.conv2d(x_int, w_int, padding=1)
            check_same("without oneDNN", layer(x).numpy(), want.numpy())
        if torch.backends.nnpack.is_available() and torch.equal(plain, plain.round()):
            pytest.skip("torch's build for this machine does not use NNPACK's Winograd here")


@integral_method
def test_bfloat16_rounds_the_exact_sum_once(method):
    layer, x = layer_and_batch(method, (2, 2), channels=(40, 6))
    with torch.no_grad():
        x = x.bfloat16().float()
        sums = torch.from_numpy(int64_sums(layer, x)).float()
        want = (sums.bfloat16().float() * factor_of(layer, x)).bfloat16()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            check_same(f"{layer} in bfloat16", layer(x).float().numpy(), want.float().numpy())
            check_same(f"{layer} in bfloat16", layer(x.bfloat16()).float().numpy(), want.float().numpy())


@pytest.mark.parametrize("channels", [32, 64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_holds_what_it_can(dtype, channels):
    """Sums that float16 would round, or that are infinite there, are taken in float32, or if need be in float64."""
    layer, x = layer_and_batch("lsq", (8, 8), channels=(channels, 4))
    assert (layer.largest_sum() <= integer.EXACT_IN_FLOAT32) == (channels == 32)
    with torch.no_grad():
        x = 3 * x.to(dtype)
        layer.weight.data = layer.weight.abs().to(dtype).float()
        assert int64_sums(layer, x.float()).max() > 65504
        sums = torch.from_numpy(int64_sums(layer, x.float())).float()
        want = (sums * factor_of(layer, x.float())).to(dtype)
        with torch.autocast("cpu", dtype=dtype):
            got = layer(x)
    if dtype == torch.bfloat16:  # the sum itself is rounded, too
        check_near("bfloat16", got.float().numpy(), want.float().numpy(), 2**-7 * want.float().abs().numpy())
    else:
        check_same("float16", got.float().numpy(), want.float().numpy())


def test_sums_that_float32_cannot_hold_are_right():
    """Every product extreme and of one sign: 255 * 255 * 288 is beyond 2^24, and odd."""
    layer = QuantConv2d(288, 2, 1, method="daq", bits=(8, 8), bias=False)
    assert layer.largest_sum() == 255 * 255 * 288 > integer.EXACT_IN_FLOAT32
    with torch.no_grad():
        layer.weight.copy_(torch.randn(2, 288, 1, 1) + 20 * torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
        layer.weight_quantizer.lower.fill_(-0.1)
        layer.weight_quantizer.upper.fill_(0.1)
        x = torch.rand(1, 288, 2, 2)
        layer.train()(x)
        layer.eval()
        x = torch.full((1, 288, 2, 2), 1e3)
        x[0, 0] = layer.input_quantizer.upper * 254 / 255
        sums = int64_sums(layer, x)
        assert np.abs(sums).max() == 255 * 255 * 287 + 255 * 254
        check_same("float64", layer(x).numpy(), (torch.from_numpy(sums).float() * factor_of(layer, x)).numpy())


def test_sums_that_nothing_holds_are_refused(monkeypatch):
    layer, x = layer_and_batch("lsq", (8, 8))
    monkeypatch.setattr(type(layer.weight_quantizer), "largest_integer", 2**31)
    with torch.no_grad(), pytest.raises(ValueError, match=r"largest sum of products must be at most 2\^53.*, got \d+"):
        layer(x)


@integral_method
def test_linear(method):
    torch.manual_seed(1)
    layer = QuantLinear(50, 7, method=PAIRS[method], bits=fit(method, (3, 3)), input_role=input_role(method))
    x = torch.randn(2, 9, 50)
    x = x.relu() if input_role(method) == "activation" else x
    layer.train()(x)
    layer.eval()
    with torch.no_grad():
        w = layer.weight if not layer.standardized else (layer.weight - layer.weight.mean()) / layer.weight.std()
        x_int, w_int = layer.input_quantizer.integers(x), layer.weight_quantizer.integers(w)
        sums = torch.from_numpy(integer.multiply(x_int.long().numpy(), w_int.long().numpy())).float()
        factor = torch.as_tensor(factor_of(layer, x))
        want = sums * (factor.reshape(-1) if factor.numel() > 1 else factor.reshape(())) + layer.bias
        check_same(f"{layer}", layer(x).numpy(), want.numpy())
        check_same(f"{layer} row by row", torch.stack([layer(row) for row in x.unbind(1)], 1).numpy(), want.numpy())


@every_method
def test_gradients_in_test_mode_are_those_of_values(method):
    layer, x = layer_and_batch(method, (2, 2))
    layer.double()
    grad = torch.randn_like(layer(x.double()))
    leaves = [x.double().requires_grad_() for _ in range(2)]
    layer(leaves[0]).backward(grad)
    got = [leaves[0].grad, *(p.grad.clone() for p in layer.parameters())]
    layer.zero_grad()
    layer._from_values(leaves[1]).backward(grad)
    for g, w in zip(got, [leaves[1].grad, *(p.grad for p in layer.parameters())], strict=True):
        check_near(f"{layer}: gradient in test mode", g.numpy(), w.numpy(), 1e-12 * (1 + abs(w).max().item()))


def test_what_is_not_a_unit_times_integers_is_a_layer_of_floats():
    for options in ({"method": ("lqnets", "lqnets"), "bits": (2, 2)}, {"bits": (2, None)}, {"bits": (None, 2)}):
        assert not QuantConv2d(4, 4, 3, **options).is_integral
    by_input_channel = {"shape": (4, 1, 1)}
    layer = QuantConv2d(4, 4, 3, method=("lsq", "pact"), bits=(2, 2), input_options=by_input_channel)
    assert not layer.is_integral
    layer.train()(torch.rand(1, 4, 5, 5))
    assert layer.eval()(torch.rand(1, 4, 5, 5)).isfinite().all()
    assert QuantConv2d(4, 4, 3, method=("lsq", "pact"), bits=(2, 2), channelwise=True).is_integral


@pytest.mark.parametrize("name", [name for name, _ in dict.fromkeys(VARIANTS)])
def test_whoever_adds_a_method_says_whether_it_has_integers(name):
    assert isinstance(registry.module(name).METHOD.name, str)
    assert callable(registry.module(name).integer_grid)
