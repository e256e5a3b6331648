"""APoT's module: its layers standardise weights and have no scale; first values. The rest is in test_contract.py."""

import numpy as np
import pytest
import torch

from reference import apot, grid
from tests.oracles import check_near
from torchimpl.layers import QuantConv2d
from torchimpl.quantizers.apot import APoT, magnitudes


@pytest.mark.parametrize("bits", range(1, 6))
def test_magnitudes_are_the_references(bits):
    assert tuple(magnitudes(bits)) == (apot.magnitudes(bits, "activation") if bits > 1 else (0, 1))


@pytest.mark.parametrize("variant", apot.METHOD.variants)
def test_a_layer_standardises_its_weights_and_has_no_scale(variant):
    torch.manual_seed(0)
    layer = QuantConv2d(3, 4, 3, method="apot", bits=(3, 3), variant=variant)
    assert layer.scale is None
    torch.nn.init.normal_(layer.weight, 0.3, 0.1)
    layer.train()(torch.rand(2, 3, 5, 5))
    params = apot.init([], 3, "weight", variant=variant)
    want = apot.forward(grid.standardize(layer.weight.detach().numpy()), params, training=True)
    check_near("weights", layer.quantized_weight().detach().numpy(), want, 1e-6)
    assert np.unique(want).size == 7


@pytest.mark.parametrize(("variant", "first"), [("paper", 8.0), ("imagenet", 6.0), ("cifar10", 8.0)])
def test_the_first_threshold(variant, first):
    assert APoT(2, "activation", variant=variant).alpha.item() == first
    assert APoT(2, "weight", variant=variant).alpha.item() == 3.0


def test_a_layer_of_powers_of_two_computes_with_integers():
    layer = QuantConv2d(3, 4, 3, method="apot", bits=(5, 5))
    assert layer.is_integral
    assert (layer.weight_quantizer.largest_integer, layer.input_quantizer.largest_integer) == (48, 100)
