"""Straight-through weights in disguise: to first order in the rate, and only with M and alpha."""

import copy
import itertools

import pytest
import torch

from torchimpl.layers import QuantizedLayer
from torchimpl.training import batches, disguise
from torchimpl.training.recipe import recipe


@pytest.fixture(scope="module")
def steps():
    training, _ = batches.splits("digits", None)
    source = batches.Batches(training, recipe("embedded", crop=0), torch.device("cpu"))
    return [(images[:16].double().contiguous(), labels[:16]) for images, labels in source.epoch(0)][:12]


@pytest.fixture(scope="module", params=["paper", "released"])
def model(request, steps):
    torch.manual_seed(0)
    return disguise.build("resnet8", request.param, steps[0][0])


def test_the_disguise_computes_the_same(model, steps):
    other = disguise.straight_through(model)
    assert torch.equal(model(steps[0][0]), other(steps[0][0]))
    assert disguise.distance(model, other) == (pytest.approx(0, abs=1e-15), 0.0)


@pytest.mark.parametrize("bits", [1, 3])
def test_the_disguise_has_the_levels_and_the_clip_range_whatever_they_are(bits, steps):
    images = steps[0][0]
    model = disguise.build("resnet8", "paper", images, bits)
    other = copy.deepcopy(model)
    for layer in (part for part in other.modules() if isinstance(part, QuantizedLayer)):
        layer.weight_quantizer.lower.fill_(-2.5)
        layer.weight_quantizer.upper.fill_(1.5)
    assert not torch.equal(model(images), other(images))
    assert torch.equal(disguise.straight_through(other)(images), other(images))


def test_the_distance_falls_with_the_rate_and_by_no_other_map(model, steps):
    found = [disguise.compare(model, steps[: 3 * k], 0.02 / k, 1.0 / k) for k in (1, 2, 4)]
    exact = [by_arm["M and alpha"].weights for by_arm in found]
    assert not any(by_arm["M and alpha"].codes for by_arm in found)
    assert all(1.6 < a / b < 2.5 for a, b in itertools.pairwise(exact))
    for by_arm in found:
        for arm in ("alpha alone", "neither"):
            assert by_arm["moved"].weights / 5 < by_arm[arm].weights < 5 * by_arm["moved"].weights
            assert by_arm[arm].weights > 100 * by_arm["M and alpha"].weights
