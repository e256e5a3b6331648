"""Integer layers on the kernels: from a network's codes to a network's codes, equal to the simulation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from arm import deployment, kernels
from reference.requantization import IntegerLayer, Thresholds
from tests.arm.convolutions import layers, needs_emulator
from tests.oracles import check_same
from tests.torchimpl.modules import block_and_input, calibrated_block
from torchimpl import checkpoints, evaluation
from torchimpl.data import cifar10
from torchimpl.deployment import integer_block

pytestmark = needs_emulator


@given(layers())
def test_kernels_compute_what_the_reference_computes(case):
    layer, x = case
    check_same(f"{layer} of {x.tolist()}", deployment.run(layer, x).astype(np.int64), layer.run(x))


@given(layers())
@settings(max_examples=5)
def test_counts_include_the_requantization(case):
    layer, x = case
    packed = deployment.pack(layer)
    image = np.ascontiguousarray(np.moveaxis(x, 1, 3))
    sums, counts = kernels.conv2d(image, packed.packed, stride=layer.stride, padding=layer.padding, count=True)
    _, all_counts = packed.run(image)
    if layer.thresholds is None:
        assert all_counts == counts
    else:
        _, more = kernels.requantize(sums, layer.thresholds.values, falling=layer.thresholds.falling, count=True)
        assert all_counts.instructions == counts.instructions + more.instructions > counts.instructions


@pytest.mark.parametrize(("method", "bits"), [("daq", (1, 1)), ("daq", (2, 2)), ("lsq", (3, 4)), ("qil", (3, 2))])
def test_a_block_of_a_calibrated_network(method, bits):
    block, x = calibrated_block(bits, 2, method=method)
    check_block(block, x)


@pytest.mark.parametrize("name", ["layer1.0", "layer2.0", "layer3.2"])
def test_blocks_of_the_released_network(name, cifar10_root, checkpoint_root):
    """From the checkpoint that DAQ's authors released to packed kernels, on test images."""
    checkpoint = checkpoints.read(checkpoint_root / "cifar10_W1A1.pth")
    model = checkpoints.load(checkpoint, "resnet20_released", "daq", (1, 1))
    images = cifar10.load(cifar10_root, "test").images[:4]
    block, x = block_and_input(model, name, evaluation.normalize(images, *checkpoints.NORMALIZATIONS["imagenet"]))
    check_block(block, x)
    assert deployment.pack(integer_block(block).first).packed.kernel == "popcount"


def check_block(block, x):
    """Codes between the convolutions, sums and outputs are the simulation's, to the bit."""
    deployed = integer_block(block)
    with torch.no_grad():
        inner = block.activation(block.bn1(block.conv1(x)))
        codes = block.conv2.input_quantizer.codes(inner).numpy()
        want = block(x)
    got = deployment.run(deployed.first, deployed.input_codes(x))
    check_same("codes between", got.astype(np.int64), codes)
    assert len(np.unique(codes)) > 1
    check_same("sums", deployment.run(deployed.second, got).astype(np.int64), deployed.second.run(codes))
    check_same("outputs", deployed.run(x, deployment.run).numpy(), want.numpy())


# What is refused


def layer_of(integers, bits, thresholds=None):
    codes = np.array(integers, np.int64).reshape(-1, 1, 1, 1)
    lowest = int(codes.min())
    return IntegerLayer((codes - lowest).astype(np.uint8), lowest, 1, bits, thresholds=thresholds)


def test_integers_decide_on_the_grid():
    """Symmetric grids, which leave a code out, are in two's complement; 1 bit is odd."""
    for integers, bits, weights, want in [
        ([-1, 0, 1], 2, "signed", [1, 2, 3]),
        ([-2, -1, 0, 1], 2, "signed", [0, 1, 2, 3]),
        ([-1, 1], 1, "odd", [0, 1]),
        ([-1, 0], 1, "signed", [0, 1]),
        ([-3, 3], 3, "odd", [2, 5]),
    ]:
        layer = layer_of(integers, (bits, 2)) if max(integers) - min(integers) < 2**bits else None
        if layer is None:  # odd integers, whose codes are half as far apart
            codes = (np.array(integers).reshape(-1, 1, 1, 1) - min(integers)) // 2
            layer = IntegerLayer(codes.astype(np.uint8), min(integers), 2, (bits, 2))
        packed = deployment.pack(layer).packed
        assert packed.weights == weights
        expected = kernels.pack_weights(np.array(want).reshape(-1, 1, 1, 1), bits=(bits, 2), weights=weights)
        assert packed == expected


def test_layers_without_kernels_are_refused():
    for integers in ([0, 3], [0, 2], [-4, -1]):
        with pytest.raises(ValueError, match="weights must be odd and at most 3, or from -2 to 1, of 2 bits"):
            deployment.pack(layer_of(integers, (2, 2)))
    for values, message in [
        ([[0, 2**31, 2**31]], "largest threshold must be at most 2147483647"),
        ([[0, 1]], r"thresholds a channel must be 2\^bits - 1"),
        ([list(range(511))], r"thresholds a channel must be 2\^bits - 1"),
    ]:
        thresholds = Thresholds(np.array(values), np.array([False]))
        with pytest.raises(ValueError, match=message):
            deployment.pack(layer_of([0], (2, 2), thresholds))
