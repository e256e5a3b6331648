"""Straight-through weights in disguise: to first order in the rate, and only with M and alpha."""

import copy
import itertools

import pytest
import torch

from torchimpl.calibration import calibrate
from torchimpl.data.cifar10 import Split
from torchimpl.layers import QuantizedLayer
from torchimpl.statistics import standardize
from torchimpl.training import batches, disguise, trainer
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


def compared(model, steps, rate, quantized_rate):
    """Distances of the exact experiment, by arm."""

    def train(one, factor):
        disguise.descend(one, steps, rate, factor * quantized_rate)

    return {arm: distance for arm, (_, distance) in disguise.compare(model, train).items()}


def test_the_distance_falls_with_the_rate_and_by_no_other_map(model, steps):
    found = [compared(model, steps[: 3 * k], 0.02 / k, 1.0 / k) for k in (1, 2, 4)]
    exact = [by_arm["M and alpha"].weights for by_arm in found]
    assert not any(by_arm["M and alpha"].codes for by_arm in found)
    assert all(1.6 < a / b < 2.5 for a, b in itertools.pairwise(exact))
    for by_arm in found:
        for arm in ("alpha alone", "neither"):
            assert by_arm["moved"].weights / 5 < by_arm[arm].weights < 5 * by_arm["moved"].weights
            assert by_arm[arm].weights > 100 * by_arm["M and alpha"].weights


# The real recipe


@pytest.fixture(scope="module")
def in_earnest(steps):
    """A network that learns everything, with the standardised weights of one in full precision."""
    torch.manual_seed(0)
    full = trainer.build(recipe("embedded")).state_dict()
    return disguise.learning("resnet8", "paper", steps[0][0].float(), full), full


def test_what_trains_in_earnest_begins_in_full_precision_and_learns_all(in_earnest, steps):
    model, full = in_earnest
    assert all(torch.equal(model.state_dict()[name], value) for name, value in full.items() if name.endswith("weight"))
    assert all(parameter.requires_grad for parameter in model.parameters())
    other = disguise.straight_through(model)
    assert all(parameter.requires_grad for parameter in other.parameters())
    assert disguise.distance(model, other) == (pytest.approx(0, abs=1e-6), 0.0)
    with torch.no_grad():
        images = steps[0][0].float()
        torch.testing.assert_close(model.train()(images), other.train()(images))
    layers = [part for part in model.modules() if isinstance(part, QuantizedLayer)]
    assert torch.equal(disguise.seen(layers[0]), standardize(layers[0].weight.detach()))


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_a_small_step_moves_the_disguise_as_it_moves_what_it_disguises(variant, steps):
    """By M, to first order: the rate is felt in the unit of the raw weights, and alpha times less."""
    torch.manual_seed(0)
    full = trainer.build(recipe("embedded")).state_dict()
    model = disguise.learning("resnet8", variant, steps[0][0].float(), full).double()
    training, _ = batches.splits("digits", None)
    few = Split(training.images[:32], training.labels[:32], training.sha256)
    made = recipe("embedded", rate=1e-4, quantizer_rate=1e-12, weight_decay=0.0, batch=32, epochs=1, crop=0)
    source = batches.Batches(few, made, torch.device("cpu"))
    source.scale, source.shift = source.scale.double(), source.shift.double()
    layers = [part for part in model.modules() if isinstance(part, QuantizedLayer)]
    before = [disguise.disguised(layer) for layer in layers]
    found = disguise.compare(model, lambda one, factor: disguise.follow(one, made, source, factor))
    moved = [part for part in found["moved"][0].modules() if isinstance(part, QuantizedLayer)]
    squares = sum(float((disguise.disguised(a) - b).square().sum()) for a, b in zip(moved, before, strict=True))
    step = (squares / sum(b.numel() for b in before)) ** 0.5
    assert found["M and alpha"][1].weights < 0.1 * step  # standardisation of M(w) projects another direction out
    assert found["alpha alone"][1].weights > 1.5 * found["M and alpha"][1].weights
    assert found["neither"][1].weights > 0.3 * step


def test_by_the_recipe_is_as_the_trainer_trains(steps):
    """But for the rate of quantized weights, which a factor of 0 holds still but for nothing."""
    training, test = batches.splits("digits", None)
    few = Split(training.images[:96], training.labels[:96], training.sha256)
    made = recipe("embedded", method="ste", bits=(1, 1), epochs=2, batch=16, precision="float32")
    source = batches.Batches(few, made, torch.device("cpu"))
    expected = trainer.train(made, few, test).model
    for factor in (1.0, 0.0):
        model = trainer.channels_last(trainer.build(made))
        calibrate(model, next(source.epoch(0))[0])
        before = copy.deepcopy(model.state_dict())
        disguise.follow(model, made, source, factor)
        weights = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, QuantizedLayer)}
        for name, value in model.state_dict().items():
            if name.endswith("weight") or name.endswith("upper"):
                still = name in weights and factor == 0
                assert torch.equal(value, before[name]) == still
                if factor == 1:
                    torch.testing.assert_close(value, expected[name])
