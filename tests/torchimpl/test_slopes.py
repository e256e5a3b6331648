"""Slopes multiplied: what stays, what is multiplied, and that combined STE with DAQ's gain is DAQ."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from reference import daq, daq_theory
from torchimpl import calibrate
from torchimpl.layers import QuantizedLayer
from torchimpl.optimization import parameter_groups
from torchimpl.training import batches, slopes, trainer
from torchimpl.training.recipe import recipe

X, Y = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 10


def built(make, *arguments, **options):
    torch.manual_seed(0)
    return calibrate(make("resnet8", *arguments, **options), X).train()


@pytest.mark.parametrize("shape", list(slopes.SHAPES))
def test_forward_passes_are_the_same_and_test_mode_computes_on_integers(shape):
    flat, other = built(slopes.with_slopes, "flat", 1.0), built(slopes.with_slopes, shape, 3.0)
    assert torch.equal(flat(X), other(X))
    assert torch.equal(flat.eval()(X), other.eval()(X))
    assert all(layer.is_integral for layer in other.modules() if isinstance(layer, QuantizedLayer))


def test_factors_multiply_from_layer_to_layer():
    """Flat slopes times f: along a path without shortcuts the gradient at layer i has f for every quantizer above."""
    norms = []
    for factor in (1.0, 2.0):
        model = built(slopes.with_slopes, "flat", factor)
        for name in ("layer1", "layer2", "layer3"):
            getattr(model, name)[0].shortcut = Zero()
        norms.append(slopes.gradient_norms(model, X, Y))
    ratios = np.divide(norms[1], norms[0])
    np.testing.assert_allclose(ratios, 2.0 ** np.arange(5, -1, -1), rtol=1e-4)


class Zero(torch.nn.Module):
    def forward(self, x):
        return 0.0


def test_nothing_but_network_parameters_learns():
    model = built(slopes.with_slopes, "coth, paper", 1.0)
    network, quantizers = (group["params"] for group in parameter_groups(model))
    assert quantizers
    assert not any(parameter.requires_grad for parameter in quantizers)
    assert all(parameter.requires_grad for parameter in network)


def test_combined_ste_with_its_gain_follows_daq():
    training, _ = batches.splits("digits", None)
    made = recipe("embedded", rate=0.03)
    steps = list(batches.Batches(training, made, torch.device("cpu")).epoch(0))[:3]
    ends = []
    for method, gain, options in (
        ("daq", 1.0, {"variant": "paper"}),
        ("dasr", daq_theory.combine_ste_ratio(), {"variant": "combined_ste_adaptive"}),
        ("dasr", 1.0, {"variant": "combined_ste_adaptive"}),
    ):
        model = built(slopes.with_gain, method, gain, **options)
        optimize = trainer.optimizers(model, made)
        for images, labels in steps:
            trainer.step(model, model, optimize, made, images, labels)
        ends.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    begun = torch.cat([p.detach().flatten() for p in built(slopes.with_gain, "daq", 1.0).parameters()])
    moved = float((ends[0] - begun).norm())
    assert float((ends[1] - ends[0]).norm()) < 1e-2 * moved
    assert float((ends[2] - ends[0]).norm()) > 1e-1 * moved


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_means_of_the_slope_are_integrals(variant, sigma):
    def slope(x):
        return float(daq.slope(np.array([x]), sigma=sigma, variant=variant)[0])

    square = quad(lambda x: slope(x) ** 2, 0, 0.5)[0] * 2
    harmonic = quad(lambda x: 1 / slope(x), 0, 0.5)[0] * 2
    assert daq_theory.root_mean_square_slope(sigma=sigma, variant=variant) == pytest.approx(square**0.5, rel=1e-9)
    assert daq_theory.harmonic_mean_slope(sigma=sigma, variant=variant) == pytest.approx(1 / harmonic, rel=1e-9)
    for x in (0.1, 0.37, 0.5, 0.8, 1.0, 2.6):
        want = quad(lambda at: 1 / slope(at % 1), np.floor(x), x, points=[np.floor(x) + 0.5], limit=200)[0] / harmonic
        got = float(daq_theory.straight_through_map(x, sigma=sigma, variant=variant))
        assert got == pytest.approx(np.floor(x) + want, abs=1e-7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet9", "flat", 1.0), "network must be one of resnet20"),
        (("resnet8", "round", 1.0), "shape must be one of flat"),
        (("resnet8", "flat", 0.0), "factor must be"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        slopes.with_slopes(*arguments)
