"""Integer networks: thresholds against the network's own computation for every sum, blocks against the simulation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from reference import exchange, integer
from reference.requantization import IntegerLayer, Thresholds, attainable
from tests.oracles import check_same
from tests.torchimpl.modules import PAIRS, block_and_input, calibrated_block, fit, input_role
from tests.torchimpl.test_integers import INTEGRAL, integral_method, layer_and_batch
from torchimpl import calibrate, checkpoints, deployment, evaluation
from torchimpl.data import cifar10
from torchimpl.deployment import integer_block, integer_layer, thresholds
from torchimpl.layers import QuantConv2d
from torchimpl.models import resnet20
from torchimpl.quantizers import build

ACTIVATIONS = {"relu": F.relu, "hardtanh": F.hardtanh, "module": nn.ReLU(), "none": None}


def normalisation(channels, seed):
    """BatchNorm in test mode with whatever training may leave: factors of both signs, 0, tiny and large ones."""
    norm = nn.BatchNorm2d(channels).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(channels, generator=generator))
        norm.bias.copy_(torch.randn(channels, generator=generator))
        norm.running_mean.copy_(torch.randn(channels, generator=generator))
        norm.running_var.copy_(torch.rand(channels, generator=generator) * 4)
        norm.weight[0] = 0.0
        norm.weight[1] = -norm.weight[1].abs()
        norm.weight[2] = 1e4  # a step
        norm.bias[3] = 1e3  # saturated
    return norm


def next_quantizer(method, bits, sample):
    quantizer = build(PAIRS[method][1], bits=fit(method, (bits, bits))[1], role=input_role(method))
    if not quantizer.has_first_values:
        quantizer.initialize(sample)
    return quantizer.eval()


def every_sum(layer):
    """All integers between the ends of each channel's sums, as rows of one length, and the ends."""
    quantizer = layer.input_quantizer
    top = 2**quantizer.bits - 1
    grid = quantizer.table or [quantizer.lowest + quantizer.stride * q for q in range(top + 1)]
    w = layer.weight_quantizer.integers(layer.raw_weight()).long().reshape(len(layer.weight), -1)
    least = [sum(min(0, int(v) * min(grid), int(v) * max(grid)) for v in row) for row in w]
    most = [sum(max(0, int(v) * min(grid), int(v) * max(grid)) for v in row) for row in w]
    widest = max(b - a for a, b in zip(least, most, strict=True))
    return np.array([np.minimum(a + np.arange(widest + 1), b) for a, b in zip(least, most, strict=True)])


@integral_method
@given(
    bits=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    activation=st.sampled_from(list(ACTIVATIONS)),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=8)
def test_every_attainable_sum_has_the_code_of_the_computation_in_floats(method, bits, activation, bias, seed):
    layer, x = layer_and_batch(method, bits, channels=(3, 6), seed=seed, bias=bias)
    norm, function = normalisation(6, seed), ACTIVATIONS[activation]
    with torch.no_grad():
        sample = norm(layer(x)) if function is None else function(norm(layer(x)))
        quantizer = next_quantizer(method, bits[1], sample if input_role(method) != "activation" else sample.abs())
        found = thresholds(layer, norm, function, quantizer)
        sums = every_sum(layer)
        # Layer by layer, as test mode has it: units, scale, bias, normalisation, activation, quantizer.
        unit = torch.as_tensor(layer.weight_quantizer.unit(layer.raw_weight())).detach()
        unit = unit.reshape(-1, 1) * layer.input_quantizer.unit(x)
        if isinstance(layer.weight_quantizer.unit(layer.raw_weight()), float):
            unit = layer.weight_quantizer.unit(layer.raw_weight()) * layer.input_quantizer.unit(x)
        out = torch.from_numpy(sums).float() * (unit if layer.scale is None else unit * layer.scale.abs())
        out = out + layer.bias[:, None] if bias else out
        out = norm(out[None, :, :, None].contiguous())
        codes = quantizer.codes(out if function is None else function(out))[0, :, :, 0].numpy()
    check_same(f"{layer}, {norm.weight}, {activation}, {quantizer}", found.codes(sums), codes)


@integral_method
@pytest.mark.parametrize("bits", [(1, 1), (2, 2), (4, 3)])
def test_a_network_s_codes_are_those_of_integer_arithmetic(method, bits):
    """No single float between the codes that go in and those that come out."""
    layer, x = layer_and_batch(method, bits, channels=(4, 6), seed=1)
    norm, function = normalisation(6, 1), F.hardtanh if input_role(method) != "activation" else F.relu
    with torch.no_grad():
        out = function(norm(layer(x)))
        quantizer = next_quantizer(method, bits[1], out)
        want = quantizer.codes(function(norm(layer(x)))).numpy()
        x_int = layer.input_quantizer.integers(x).long().numpy()
        w_int = layer.weight_quantizer.integers(layer.raw_weight()).long().numpy()
        sums = integer.convolve(x_int, w_int, padding=1)
        check_same(f"{layer}", thresholds(layer, norm, function, quantizer).codes(sums, axis=1), want)
        inputs, tables = layer.input_quantizer, layer.weight_quantizer.table or layer.input_quantizer.table
        if (inputs.lowest, inputs.stride) == (0, 1) and not tables:
            packed = integer_layer(layer, thresholds(layer, norm, function, quantizer))
            assert packed.codes.dtype == np.uint8
            assert packed.codes.max() < 2 ** packed.bits[0]
            check_same("weights", packed.weights, w_int)
            check_same(f"{layer}", packed.run(layer.input_quantizer.codes(x).numpy()), want)


def exact_layer(weight, step):
    """LSQ with powers of two: all arithmetic is exact, so that a sum can lie on a tie."""
    layer = QuantConv2d(1, len(weight), 1, bias=False, method="lsq", bits=(2, 2))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight).view(-1, 1, 1, 1))
        layer.weight_quantizer.step.fill_(1.0)
        layer.input_quantizer.step.fill_(step)
    for quantizer in (layer.weight_quantizer, layer.input_quantizer):
        quantizer.mark_initialized()
    return layer.eval()


@pytest.mark.parametrize(
    ("method", "values", "codes"), [("daq", [2, 4, 4], [0, 0, 1, 1]), ("lsq", [2, 3, 4], [0, 0, 1, 2])]
)
def test_ties_are_the_quantizer_s(method, values, codes):
    """Sums 0, 1, 2, 3 are worth 0, 1/2, 1, 3/2: DAQ rounds ties down, LSQ to the even code; 4 is no sum."""
    quantizer = build(method, bits=2, role="activation").eval()
    with torch.no_grad():
        (quantizer.step if method == "lsq" else quantizer.upper).fill_(1.0 if method == "lsq" else 3.0)
    quantizer.mark_initialized()
    found = thresholds(exact_layer([1.0, -1.0], 0.5), None, None, quantizer)
    assert found.values.tolist() == [values, [1, 1, 1]]  # of the second channel no sum is positive
    assert found.codes([[0, 1, 2, 3], [-3, -2, -1, 0]]).tolist() == [codes, [0, 0, 0, 0]]


def test_negative_and_zero_factors_of_the_normalisation():
    """Sums 0 to 3 of three channels, times 1, -1 and 0, plus 0, 3 and 2."""
    layer = exact_layer([1.0, 1.0, 1.0], 1.0)
    norm = nn.BatchNorm2d(3, eps=0.0).eval()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -1.0, 0.0]))
        norm.bias.copy_(torch.tensor([0.0, 3.0, 2.0]))
    quantizer = exact_layer([1.0], 1.0).input_quantizer
    found = thresholds(layer, norm, F.relu, quantizer)
    sums = np.tile(np.arange(4), (3, 1))
    assert found.codes(sums).tolist() == [[0, 1, 2, 3], [3, 2, 1, 0], [2, 2, 2, 2]]
    assert found.falling.tolist() == [False, True, False]
    assert found.values.tolist() == [[1, 2, 3], [2, 1, 0], [0, 0, 4]]


def test_sums_that_float32_does_not_hold():
    """8/8 bits and 300 channels: sums of up to 2^27, computed in float64 and rounded once, as the layer does."""
    layer, x = layer_and_batch("lsq", (8, 8), {"kernel_size": 3}, channels=(300, 4), seed=3)
    assert layer.largest_sum() > integer.EXACT_IN_FLOAT32
    norm = normalisation(4, 3)
    with torch.no_grad():
        quantizer = next_quantizer("lsq", 4, F.relu(norm(layer(x))))
        want = quantizer.codes(F.relu(norm(layer(x)))).numpy()
        sums = sums_of(layer, x)
        found = thresholds(layer, norm, F.relu, quantizer)
        check_same(f"{layer}", found.codes(sums, axis=1), want)
        near = np.concatenate([found.values - 1, found.values, found.values + 1], axis=1)
        near = np.clip(near, *(end[:, None] for end in attainable(w_integers(layer), 0, 255)))
        out = F.relu(norm(layer.output_of_sums(torch.from_numpy(near).double()[None, :, None])))
        check_same("at the thresholds", found.codes(near), quantizer.codes(out)[0, :, 0].numpy())


# Residual blocks


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("method", "bits"), [("daq", (1, 1)), ("daq", (2, 2)), ("lsq", (3, 4)), ("pact", (4, 1))])
def test_a_block_of_a_calibrated_network(method, bits, stride):
    if method == "pact":
        method = ("ste", "pact")
    block, x = calibrated_block(bits, stride, method=method)
    check_block(block, x)


def check_block(block, x):
    """Codes between the convolutions, and the block's outputs, are the simulation's."""
    deployed = integer_block(block)
    with torch.no_grad():
        want = block(x)
        inner = block.activation(block.bn1(block.conv1(x)))
        codes = block.conv2.input_quantizer.codes(inner).numpy()
    got = deployed.first.run(deployed.input_codes(x))
    check_same("codes between", got, codes)
    assert len(np.unique(codes)) > 1
    check_same("sums", deployed.second.run(got), sums_of(block.conv2, inner))
    check_same("outputs", deployed.run(x).numpy(), want.numpy())
    with torch.no_grad():  # the network's, in the other layout of memory
        other = block(x.contiguous(memory_format=torch.channels_last)).contiguous()
    check_same("outputs, channels last", deployed.run(x).numpy(), other.numpy())
    return deployed


def w_integers(conv):
    return conv.weight_quantizer.integers(conv.raw_weight()).long().numpy()


def sums_of(conv, inner):
    x = conv.input_quantizer.integers(inner).long().numpy()
    return integer.convolve_numba(x, w_integers(conv), stride=conv.stride, padding=conv.padding)


@pytest.mark.parametrize("name", ["layer1.0", "layer2.0", "layer3.2"])
def test_blocks_of_the_released_network(name, cifar10_root, checkpoint_root):
    """From the checkpoint that DAQ's authors released, on test images."""
    checkpoint = checkpoints.read(checkpoint_root / "cifar10_W1A1.pth")
    model = checkpoints.load(checkpoint, "resnet20_released", "daq", (1, 1))
    images = cifar10.load(cifar10_root, "test").images[:8]
    block, x = block_and_input(model, name, evaluation.normalize(images, *checkpoints.NORMALIZATIONS["imagenet"]))
    deployed = check_block(block, x)
    assert set(np.unique(deployed.first.weights)) == {-1, 1}
    sums = np.arange(-9 * 64, 9 * 64 + 1)
    lowest, highest = attainable(deployed.first.weights, 0, 1)
    for channel, (low, high) in enumerate(zip(lowest, highest, strict=True)):  # every sum that any image could have
        there = sums[(low <= sums) & (sums <= high)]
        one = torch.zeros(1, len(lowest), 1, len(there))
        one[0, channel, 0] = torch.from_numpy(there).float()
        with torch.no_grad():
            out = F.relu(block.bn1(block.conv1.output_of_sums(one)))
            codes = block.conv2.input_quantizer.codes(out)[0, channel, 0].numpy()
        own = Thresholds(deployed.first.thresholds.values[[channel]], deployed.first.thresholds.falling[[channel]])
        check_same(f"{name}, channel {channel}", own.codes(there[None])[0], codes)


def test_kernels_may_stand_in_for_the_reference():
    block, x = calibrated_block((1, 1), 1)
    deployed, calls = integer_block(block), []

    def run(layer, codes):
        calls.append((layer, codes.shape))
        return layer.run(codes)

    with torch.no_grad():
        check_same("outputs", deployed.run(x, run).numpy(), block(x).numpy())
    assert [layer for layer, _ in calls] == [deployed.first, deployed.second]


# What is refused


def test_layers_without_integers_or_first_values_are_refused():
    quantizer = exact_layer([1.0], 1.0).input_quantizer
    for bad in (
        QuantConv2d(1, 1, 1, method="daq", bits=(1, 2)).eval(),
        QuantConv2d(1, 1, 1, method="lqnets", bits=(2, 2)).eval(),
        QuantConv2d(1, 1, 1, method="lsq", bits=(2, None)).eval(),
    ):
        with pytest.raises(ValueError, match="layer must be one that computes with integers, with first values"):
            thresholds(bad, None, F.relu, quantizer)
        with pytest.raises(ValueError, match="layer must be one that computes with integers, with first values"):
            integer_layer(bad)
    with pytest.raises(ValueError, match="quantizer must be one with first values"):
        thresholds(exact_layer([1.0], 1.0), None, F.relu, build("daq", bits=2, role="activation"))
    with pytest.raises(ValueError, match="norm must be in test mode"):
        thresholds(exact_layer([1.0], 1.0), nn.BatchNorm2d(1), F.relu, quantizer)
    for norm in (nn.GroupNorm(1, 1), nn.InstanceNorm2d(1), nn.BatchNorm2d(1, track_running_stats=False)):
        with pytest.raises(ValueError, match="norm must be one with running statistics"):
            thresholds(exact_layer([1.0], 1.0), norm.eval(), F.relu, quantizer)
    assert thresholds(exact_layer([1.0], 1.0), nn.Identity().eval(), F.relu, quantizer).values.tolist() == [[1, 2, 3]]
    with pytest.raises(ValueError, match="convolutions of the block must be QuantConv2d, got 'Conv2d'"):
        integer_block(resnet20().layer1[0])
    with pytest.raises(ValueError, match="codes must be monotone in the sum"):
        thresholds(exact_layer([1.0], 1.0), None, lambda x: 3 * (x - 1).abs(), quantizer)


@pytest.mark.parametrize(
    "options", [{"groups": 2}, {"dilation": 2}, {"stride": (1, 2)}, {"padding": (0, 1)}, {"padding": "same"}]
)
def test_convolutions_that_kernels_do_not_have_are_refused(options):
    layer = QuantConv2d(2, 2, 3, method="lsq", bits=(2, 2), **options)
    calibrate(layer, torch.rand(2, 2, 9, 9))
    with pytest.raises(ValueError, match="convolution must be without dilation and groups"):
        integer_layer(layer.eval())


def test_signed_inputs_are_refused_for_kernels_and_have_thresholds():
    assert "irnet" in INTEGRAL
    layer, _ = layer_and_batch("irnet", (1, 1))
    with pytest.raises(ValueError, match="grids of weights and inputs must be an even one, and 0, 1, 2"):
        integer_layer(layer)


@pytest.mark.parametrize(
    ("codes", "bits", "message"),
    [
        (np.zeros((1, 1, 1, 1)), (1, 1), "codes must be uint8"),
        (np.zeros((1, 1), np.uint8), (1, 1), "codes must be uint8"),
        (np.full((1, 1, 1, 1), 2, np.uint8), (1, 1), "codes must be from 0 to 1, got 2"),
        (np.zeros((1, 1, 1, 1), np.uint8), (1, 9), "bits must be a whole number from 1 to 8"),
    ],
)
def test_integer_layers_that_are_refused(codes, bits, message):
    with pytest.raises(ValueError, match=message):
        IntegerLayer(codes, -1, 2, bits)


def test_inputs_and_thresholds_of_integer_layers_that_are_refused():
    codes = np.zeros((2, 1, 1, 1), np.uint8)
    layer = IntegerLayer(codes, -1, 2, (1, 2))
    for x in (np.full((1, 1, 1, 1), 4), np.full((1, 1, 1, 1), -1)):
        with pytest.raises(ValueError, match="codes of x must be from 0 to 3"):
            layer.run(x)
    with pytest.raises(ValueError, match="x must be an array of integers"):
        layer.run(np.zeros((1, 1, 1, 1)))
    with pytest.raises(ValueError, match="channels of the thresholds must be 2, got 1"):
        IntegerLayer(codes, -1, 2, (1, 2), thresholds=Thresholds(np.array([[1, 2, 3]]), np.array([False])))


# The command line


def checkpoint_of(tmp_path, method="daq", bits=(2, 2), **options):
    torch.manual_seed(0)
    model = calibrate(resnet20(method, bits, **options), torch.randn(8, 3, 16, 16)).eval()
    torch.save(model.state_dict(), tmp_path / "net.pth")
    return model, ["--checkpoint", str(tmp_path / "net.pth"), "--arch", "resnet20", "--bits", "2/2"]


@pytest.mark.parametrize("block", ["layer1.0", "layer3.0"])
def test_a_block_is_written(block, tmp_path):
    model, arguments = checkpoint_of(tmp_path)
    path = tmp_path / "block.npz"
    assert deployment.main([*arguments, "--block", block, "--size", "24", "--out", str(path)]) == 0
    found, want = exchange.read(path), integer_block(model.get_submodule(block))
    sizes = [(24, 24)] * 2 if block == "layer1.0" else [(12, 12), (6, 6)]
    assert [(name, size) for name, (_, size) in found.items()] == list(
        zip([f"{block}.conv1", f"{block}.conv2"], sizes, strict=True)
    )
    for (layer, _), own in zip(found.values(), (want.first, want.second), strict=True):
        check_same("weights", layer.weights, own.weights)
        assert (layer.stride, layer.padding, layer.bits) == (own.stride, own.padding, own.bits)
        assert (layer.thresholds is None) == (own.thresholds is None)
        if own.thresholds is not None:
            check_same("thresholds", layer.thresholds.values, own.thresholds.values)


@pytest.mark.filterwarnings("ignore:.*magnitude is negative")
def test_thresholds_are_those_of_the_activation_that_is_said(tmp_path):
    """No file tells Hardtanh from ReLU."""
    model, arguments = checkpoint_of(tmp_path, activation=torch.nn.functional.hardtanh)
    want = integer_block(model.layer1[0]).first.thresholds.values
    found = []
    for said in (["--activation", "hardtanh"], []):
        path = tmp_path / "block.npz"
        assert deployment.main([*arguments, *said, "--block", "layer1.0", "--out", str(path)]) == 0
        found.append(exchange.read(path)["layer1.0.conv1"][0].thresholds.values)
    check_same("thresholds", found[0], want)
    assert (found[1] != want).any()


def test_bad_input_is_one_line_and_status_2(tmp_path, capsys):
    _, arguments = checkpoint_of(tmp_path)
    out = ["--out", str(tmp_path / "block.npz")]
    for changed, message in [
        (["--block", "layer1.9"], "--block must be one of layer1.0, layer1.1"),
        (["--block", "layer1.0", "--bits", "1/1/1"], "bits must be W/A"),
        (["--block", "layer1.0", "--checkpoint", str(tmp_path / "none")], "no such file"),
        (["--block", "layer1.0", "--size", "0"], "--size must be a whole number from 1, got 0"),
        (["--block", "layer1.0", "--method", "none"], "method must be one of"),
        (["--block", "layer1.0", "--out", str(tmp_path / "no" / "block.npz")], "No such file or directory"),
        (["--block", "layer1.0", "--bits", "2/32"], "not a checkpoint of resnet20 with daq 2/32"),
    ]:
        assert deployment.main([*arguments, *out, *changed]) == 2, changed
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert message in captured.err
        assert captured.err.count("\n") == 1
    assert not (tmp_path / "block.npz").exists()
