"""The training harness: recipes, batches, and runs of networks that take milliseconds."""

import copy
import dataclasses
import math
import multiprocessing
import os
import random
import shutil
import signal
import tomllib
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.utils import counters

from reference import dasr as dasr_names
from reference import registry
from tests.strategies import NIGHTLY, QUICK
from tests.torchimpl import networks
from tests.torchimpl.networks import fingerprint, images, small
from torchimpl.checkpoints import NORMALIZATIONS
from torchimpl.data.cifar10 import DataError, Split
from torchimpl.layers import QuantizedLayer
from torchimpl.models import ACTIVATIONS, NETWORKS
from torchimpl.quantizers.base import Quantizer
from torchimpl.timing import lowest_bits
from torchimpl.training import batches, trainer
from torchimpl.training import recipe as recipes
from torchimpl.training.batches import Batches
from torchimpl.training.recipe import recipe

CPU = torch.device("cpu")
FEW = 96  # training images
PROFILES = recipes.profiles()


@pytest.fixture(scope="session")
def forks():
    """Processes that have torch imported already, one for each start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([networks.HERE])
    return context


@pytest.fixture(autouse=True)
def _same_random_numbers():
    """Training seeds torch's own generator."""
    with torch.random.fork_rng(devices=[]):
        yield


def trained(made, count=FEW, **options):
    return trainer.train(made, images("train", count), images("test", 50), **options)


def differing(one, other):
    """Names of the tensors of two networks that are not the same to the bit."""
    return [name for name in one | other if not torch.equal(one[name], other[name])]


# Recipes


@pytest.mark.parametrize("profile", PROFILES)
def test_every_field_of_a_profile_has_a_source_or_the_value_of_one_that_has(profile):
    known = tomllib.loads(recipes.FILE.read_text())
    profiles, sources = known["profiles"], known["sources"]
    for name, value in profiles[profile].items():
        where = profile
        while name not in sources[where]:
            assert where in recipes.INHERITED, f"{profile}: {name} has no source"
            where = recipes.INHERITED[where]
            assert profiles[where][name] == value, f"{profile}: {name} has no source, and differs from {where}'s"
        assert recipes.source(recipe(profile), name) == sources[where][name] != ""
    assert sources[profile].keys() <= profiles[profile].keys()


def test_what_methods_add_has_a_source():
    known = tomllib.loads(recipes.FILE.read_text())
    assert known["methods"]
    for name, fields in known["methods"].items():
        made = recipe("embedded", method=name, bits=lowest_bits(name))
        assert {field: recipes.source(made, field) for field in fields} == known["sources"][name]
        assert made.penalty == fields["penalty"]
    assert recipe("embedded", method="daq", bits=(1, 1)).penalty == 0
    assert known["sources"].keys() == {*known["profiles"], *known["methods"]}


def test_the_protocol_of_the_paper():
    """DAQ, Section 4.1."""
    made = recipe("cifar10")
    assert (made.network, made.images) == ("resnet20", "cifar10")
    assert (made.epochs, made.batch, made.rate, made.weight_decay, made.quantizer_rate) == (400, 256, 0.01, 1e-4, 1e-4)


REFUSED = [
    ("images", "imagenet", "one of cifar10, digits"),
    ("activation", "tanh", "one of relu, hardtanh"),
    ("precision", "float16", "one of float32, bfloat16"),
    ("network", "resnet50", "package.module:function"),
    ("epochs", 0, "a whole number from 1"),
    ("epochs", 1.5, "a whole number from 1"),
    ("batch", 1, "a whole number from 2"),
    ("batch", True, "a whole number from 2"),
    ("crop", -1, "a whole number from 0"),
    ("seed", -1, "a whole number from 0"),
    ("seed", 2**31, "a whole number from 0"),
    ("rate", -0.1, "from 0"),
    ("rate", math.nan, "from 0"),
    ("momentum", 1.1, "from 0"),
    ("weight_decay", math.inf, "from 0"),
    ("quantizer_rate", -1e-4, "from 0"),
    ("penalty", -1.0, "from 0"),
    ("method", "nn", "daq"),
]


@pytest.mark.parametrize(("name", "value", "admitted"), REFUSED)
def test_a_field_that_is_refused_is_named_with_its_value_and_what_is_admitted(name, value, admitted):
    with pytest.raises(ValueError, match=name) as error:
        recipe("embedded", **{name: value})
    assert str(value) in str(error.value)
    assert admitted in str(error.value)


def test_an_unknown_profile_or_field_is_refused():
    with pytest.raises(ValueError, match=r"smoke, embedded, cifar10-short, cifar10.*'imagenet'"):
        recipe("imagenet")
    with pytest.raises(ValueError, match=r"quantizer_rate.*'rates'"):
        recipe("embedded", rates=0.1)


# Batches


def numbered(count, channels=1, size=4, seed=0):
    """Random images, each with its own label."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, channels, size, size), np.uint8)
    return Split(pixels, np.arange(count), "")


def epoch(split, made, number=0, rank=0, ranks=1):
    return list(Batches(split, made, CPU, rank, ranks).epoch(number))


@given(
    count=st.integers(2, 60),
    batch=st.integers(2, 64),
    ranks=st.integers(1, 4),
    seed=st.integers(0, 99),
    number=st.integers(0, 5),
)
def test_each_image_comes_once_an_epoch_and_ranks_share_each_batch(count, batch, ranks, seed, number):
    batch *= ranks
    split, made = numbered(count), recipe("smoke", batch=batch, seed=seed)
    whole = epoch(split, made, number)
    assert len(whole) == len(Batches(split, made, CPU)) == math.ceil(count / batch)
    assert sorted(int(label) for _, labels in whole for label in labels) == list(range(count))
    assert all(len(labels) == batch for _, labels in whole[:-1])
    parts = [epoch(split, made, number, rank, ranks) for rank in range(ranks)]
    used = count - count % batch % ranks
    assert {len(part) for part in parts} == {len(Batches(split, made, CPU, 0, ranks))} == {math.ceil(used / batch)}
    for (pixels, labels), *own in zip(whole, *parts, strict=False):
        assert len({len(y) for _, y in own}) == 1
        found = {int(y): x for xs, ys in own for x, y in zip(xs, ys, strict=True)}
        assert len(found) == len(labels) - len(labels) % ranks
        assert set(found) <= set(labels.tolist())
        assert all(torch.equal(found[int(y)], x) for x, y in zip(pixels, labels, strict=True) if int(y) in found)


def test_ranks_must_divide_the_batch():
    with pytest.raises(ValueError, match="batch must be a multiple of the 3 ranks, got 4"):
        Batches(numbered(8), recipe("smoke", batch=4), CPU, 0, 3)


def windows(image, crop):
    """Every image that cropping and mirroring can give, by (top, left, mirrored): lists of lists of pixels."""
    channels, size, _ = image.shape

    def pixel(c, row, column):
        inside = 0 <= row < size and 0 <= column < size
        return int(image[c, row, column]) if inside else 0

    return {
        (top, left, mirrored): [
            [
                [pixel(c, i + top - crop, left - crop + (size - 1 - j if mirrored else j)) for j in range(size)]
                for i in range(size)
            ]
            for c in range(channels)
        ]
        for top in range(2 * crop + 1)
        for left in range(2 * crop + 1)
        for mirrored in (False, True)
    }


@pytest.mark.parametrize(("crop", "flip", "channels"), [(1, False, 1), (2, True, 3), (0, True, 1), (0, False, 3)])
def test_images_are_cropped_mirrored_and_normalised(crop, flip, channels):
    split, seen = numbered(40, channels), []
    made = recipe("smoke", batch=16, crop=crop, flip=flip, normalize="cifar10")
    mean, std = NORMALIZATIONS["cifar10"]
    possible = [windows(image, crop) for image in split.images]
    for number in range(6):
        for pixels, labels in epoch(split, made, number):
            assert pixels.dtype == torch.float32
            assert pixels.is_contiguous(memory_format=torch.channels_last)
            for image, label in zip(pixels, labels, strict=True):
                back = [
                    [[round((float(v) * std[c] + mean[c]) * 255, 2) for v in row] for row in image[c]]
                    for c in range(channels)
                ]
                ways = [way for way, window in possible[int(label)].items() if window == back]
                assert len(ways) == 1, f"image {int(label)} is none of its windows"
                seen += ways
    places = set(range(2 * crop + 1))
    assert {top for top, _, _ in seen} == {left for _, left, _ in seen} == places
    share = sum(mirrored for _, _, mirrored in seen) / len(seen)
    assert share == 0 if not flip else abs(share - 0.5) < 4.5 * 0.5 / math.sqrt(len(seen))


def test_batches_depend_on_seed_and_epoch_only():
    split = numbered(30)

    def pixels(seed, number, before=()):
        there = Batches(split, recipe("smoke", batch=8, seed=seed), CPU)
        for other in before:
            next(there.epoch(other))
        return torch.cat([x for x, _ in there.epoch(number)])

    first = pixels(1, 2)
    assert torch.equal(first, pixels(1, 2, before=(0, 1, 5)))
    assert not torch.equal(first, pixels(1, 3))
    assert not torch.equal(first, pixels(2, 2))
    assert not torch.equal(pixels(1, 2), pixels(2, 1))


@pytest.mark.parametrize("name", batches.HELD_OUT)
def test_images_held_out_are_training_images_that_do_not_train(name, monkeypatch):
    count = 50_000 if name == "cifar10" else 1297
    everything = {
        "train": Split(np.zeros((count, 1, 1, 1), np.uint8), np.arange(count), "train"),
        "test": Split(np.zeros((9, 1, 1, 1), np.uint8), np.arange(-9, 0), "test"),
    }
    monkeypatch.setattr(batches.cifar10, "load", lambda folder, split: everything[split])
    monkeypatch.setattr(batches.digits, "load", lambda split: everything[split])
    training, held_out = batches.splits(name, "a folder", held_out=True)
    assert len(held_out.labels) == batches.HELD_OUT[name]
    assert sorted([*training.labels, *held_out.labels]) == list(range(count))
    assert np.array_equal(held_out.labels, batches.splits(name, "a folder", held_out=True)[1].labels)
    assert [len(split.labels) for split in batches.splits(name, "a folder")] == [count, 9]


def test_without_a_folder_cifar10_is_asked_for():
    with pytest.raises(DataError, match="CIFAR-10 is needed"):
        batches.splits("cifar10", None)


# One run


def by_hand(made, count):
    """Softmax regression from zeros by SGD with momentum and decay, its rate on a cosine to 0: numpy, float64."""
    weights, velocity = np.zeros((10, 65)), np.zeros((10, 65))
    source = Batches(images("train", count), made, CPU)
    steps, done, losses = made.epochs * len(source), 0, []
    for number in range(made.epochs):
        found = []
        for pixels, labels in source.epoch(number):
            x = np.column_stack([pixels.flatten(1).double().numpy(), np.ones(len(labels))])
            scores = np.exp(x @ weights.T)
            chances = scores / scores.sum(1, keepdims=True)
            right = np.eye(10)[labels.numpy()]
            found.append(-np.log((chances * right).sum(1)).mean())
            gradient = (chances - right).T @ x / len(labels) + made.weight_decay * weights
            velocity = made.momentum * velocity + gradient
            weights = weights - made.rate * 0.5 * (1 + math.cos(math.pi * done / steps)) * velocity
            done += 1
        losses.append(np.mean(found))
    return weights, losses


@pytest.mark.parametrize("accumulate", [1, 3])
def test_softmax_regression_is_trained_as_by_hand(accumulate):
    made = small("linear", epochs=3, rate=0.1, momentum=0.8, weight_decay=0.05)
    state = trained(made, 90, accumulate=accumulate)
    weights, losses = by_hand(made, 90)
    found = torch.cat([state.model["1.weight"], state.model["1.bias"][:, None]], 1)
    assert found.numpy() == pytest.approx(weights, abs=2e-6)
    assert state.loss == pytest.approx(losses, abs=1e-5)
    assert (state.epochs, len(state.correct), state.undefined, state.diverged) == (3, 3, [0] * 3, "")
    test = images("test", 50)
    x = (test.images.reshape(50, 64) / 255 - 0.5) / 0.5
    right = (np.column_stack([x, np.ones(50)]) @ weights.T).argmax(1) == test.labels
    assert state.correct[-1] == right.sum()


def test_parts_of_a_batch_add_up_to_the_whole_with_its_penalty():
    made = small("plain", "pact", options={"bits": (None, 2)}, penalty=0.5, quantizer_rate=0.1)
    whole, parts = trained(made, 64), trained(made, 64, accumulate=4)
    for name, value in whole.model.items():
        assert parts.model[name].numpy() == pytest.approx(value.numpy(), abs=1e-4), name
    assert parts.loss == pytest.approx(whole.loss, abs=1e-4)


def test_a_seed_fixes_the_bits_and_another_differs():
    for made in (small(method="daq", options={"bits": (1, 1)}), small("dropping")):
        one, same = trained(made), trained(made)
        assert networks.fingerprint(one) == networks.fingerprint(same)
        other = trained(dataclasses.replace(made, seed=1))
        assert networks.fingerprint(one) != networks.fingerprint(other)
    first, second = (trainer.build(small(seed=seed)).state_dict() for seed in (0, 1))
    assert {name for name in first if first[name].dim() > 1} <= set(differing(first, second))


def test_images_may_come_from_a_loader():
    """One that has no images in memory, as far as the trainer can see."""

    class Elsewhere:
        def __init__(self, split, made):
            self.batches = batches.Batches(split, made, CPU)

        def __len__(self):
            return len(self.batches)

        def epoch(self, number):
            yield from self.batches.epoch(number)

    made = small(method="daq", options={"bits": (1, 1)})
    loaded = trainer.train(made, Elsewhere(images("train", FEW), made), images("test", 50))
    assert networks.fingerprint(loaded) == networks.fingerprint(trained(made))


def test_the_start_s_weights_are_used():
    full = trained(small())
    made = small(method="daq", options={"bits": (1, 1)}, rate=0.0, quantizer_rate=0.0, epochs=1)
    state = trained(made, start=full.model)
    for name, parameter in trainer.build(small()).named_parameters():
        assert torch.equal(state.model[name], full.model[name]), name
        assert not torch.equal(parameter, full.model[name]), name


def test_a_start_of_another_network_is_refused():
    with pytest.raises(ValueError, match="another"):
        trainer.build(small(options={"width": 3}), {"0.weight": torch.zeros(3, 1, 3, 3), "more.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"1\.weight, 1\.bias"):
        trainer.build(small(), {"0.weight": torch.zeros(4, 1, 3, 3)})


@pytest.mark.parametrize("method", ["lsqplus", "daq"])
def test_parameters_of_quantizers_and_scales_go_to_adam_without_decay(method):
    made = recipe("embedded", method=method, bits=(2, 2), weight_decay=0.25)
    model = trainer.build(made)
    sgd, adam = trainer.optimizers(model, made)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    of = [{names[id(p)] for group in each.param_groups for p in group["params"]} for each in (sgd, adam)]
    assert of[0] | of[1] == set(names.values())
    assert not of[0] & of[1]
    assert of[1] == {name for name in names.values() if "quantizer" in name or name.endswith("scale")}
    assert any(name.endswith("conv1.scale") for name in of[1]) is (method == "daq")  # of a layer's outputs
    assert {type(sgd), type(adam)} == {torch.optim.SGD, torch.optim.Adam}
    assert [g["weight_decay"] for each in (sgd, adam) for g in each.param_groups] == [0.25, 0]
    assert len(trainer.optimizers(trainer.build(recipe("embedded")), made)) == 1


def test_rates_follow_a_cosine_to_zero_for_both_optimizers():
    """Against torch's own schedule."""
    made = small(method="lsq", options={"bits": (2, 2)}, rate=0.3, quantizer_rate=0.02)
    model = trainer.build(made)
    own = trainer.optimizers(model, made)
    theirs = [torch.optim.lr_scheduler.CosineAnnealingLR(each, 10) for each in trainer.optimizers(model, made)]
    for step in range(11):
        trainer.schedule(model, own, made, step / 10)
        expected = [each.get_last_lr()[0] for each in theirs]
        assert [each.param_groups[0]["lr"] for each in own] == pytest.approx(expected, abs=1e-12)
        for each in theirs:
            each.optimizer.step()
            each.step()
    assert [each.param_groups[0]["lr"] for each in own] == pytest.approx([0, 0], abs=1e-15)


def test_the_schedule_is_that_of_the_whole_run(monkeypatch):
    told, shares, real = [], [], trainer.schedule

    def schedule(model, optimize, made, share):
        shares.append(share)
        real(model, optimize, made, share)

    monkeypatch.setattr(trainer, "schedule", schedule)
    trained(small(epochs=3), progress=told.append)
    assert shares == pytest.approx([i / 9 for i in range(9)])
    assert told == pytest.approx([i / 9 for i in range(10)])


@pytest.mark.parametrize(("method", "bits"), [("dsq", (1, 1)), ("pact", (None, 2))])
def test_penalties_enter_the_loss(method, bits):
    """Alpha's gradient grows by the coefficient times that of its square."""
    found = []
    for coefficient in (0.0, 0.75):
        made = small(method=method, options={"bits": bits}, penalty=coefficient)
        model = trainer.build(made)
        pixels, labels = next(Batches(images("train", FEW), made, CPU).epoch(0))
        model(pixels)
        quantizers = [part for part in model.modules() if isinstance(part, Quantizer)]
        alphas = [part.alpha.item() for part in quantizers]
        assert trainer.penalty(model).item() == pytest.approx(sum(alpha**2 for alpha in alphas))
        loss = trainer.step(model, model, [torch.optim.SGD(model.parameters(), 0.0)], made, pixels, labels)
        found.append([float(loss), *(float(part.alpha.grad) for part in quantizers)])
    (loss, *plain), (penalised, *more) = found
    assert penalised - loss == pytest.approx(0.75 * sum(alpha**2 for alpha in alphas), rel=1e-5)
    for alpha, one, other in zip(alphas, plain, more, strict=True):
        assert other - one == pytest.approx(0.75 * 2 * alpha, rel=1e-4)


def buffers(state, name):
    return [value.item() for key, value in state.model.items() if key.split(".")[-1] == name]


def test_annealing_goes_from_2_to_48(monkeypatch):
    seen = []

    def pause(real=trainer.step):
        def step(whole, model, *rest):
            seen.append(float(model[3].weight_quantizer.beta))
            return real(whole, model, *rest)

        return step

    monkeypatch.setattr(trainer, "step", pause())
    made = small(method="dasr", options={"bits": (1, 1), "variant": "kernel", "annealed": True})
    state = trained(made)
    assert seen == pytest.approx([2 + 46 * i / 6 for i in range(6)])
    assert buffers(state, "beta") == [48.0, 48.0]


def test_irnets_surrogate_ends_at_its_steepest():
    state = trained(small(method="irnet", options={"bits": (1, None)}))
    assert buffers(state, "t") == pytest.approx([10.0])


# A run that is resumed


def test_a_run_goes_on_from_any_epoch_to_the_same_bits():
    made = small(method="dasr", epochs=4, options={"bits": (1, 1), "variant": "kernel", "annealed": True})
    kept = []
    whole = trained(made, keep=lambda state: kept.append(copy.deepcopy(state)))
    assert [state.epochs for state in kept] == [1, 2, 3, 4]
    for state in kept:
        assert networks.fingerprint(trained(made, state=state)) == networks.fingerprint(whole)


KILLS = 20 if NIGHTLY else 3


def test_a_run_that_is_killed_and_started_again_ends_with_the_same_bits(tmp_path, forks):
    moment = random.Random()
    epochs = max(8, KILLS)
    made = small(method="lsq", options={"bits": (2, 2)}, epochs=epochs)
    killed = 0
    for _ in range(KILLS):
        receive, send = forks.Pipe(duplex=False)
        process = forks.Process(target=networks.run, args=(made, tmp_path, send))
        process.start()
        send.close()
        wanted = moment.uniform(0, 0.7)
        try:
            while receive.recv() < wanted:
                pass
            process.join(moment.uniform(0, 0.005))
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        killed += process.exitcode == -signal.SIGKILL  # it may have been faster
    assert killed
    ended = networks.run(made, tmp_path)
    assert ended == networks.run(made, tmp_path / "another")
    assert ended == networks.run(made, tmp_path)  # read


# Divergence


def test_divergence_is_a_result_with_its_reason():
    state = trained(small("plain", rate=1e3, epochs=5))
    last = state.epochs
    assert last < 5
    assert state.diverged in {f"the loss is {v} at step {i} of epoch {last}" for v in ("nan", "inf") for i in (1, 2, 3)}
    assert [math.isfinite(loss) for loss in state.loss] == [True] * (last - 1) + [False]
    assert (len(state.correct), state.undefined[-1]) == (last, 50)
    again = trained(small("plain", rate=1e3, epochs=5), state=copy.deepcopy(state))
    assert networks.fingerprint(again) == networks.fingerprint(state)


def test_a_loss_of_another_rank_is_not_called_one_s_own(monkeypatch):
    monkeypatch.setattr(trainer, "mean_over_ranks", lambda value: value * math.nan)
    assert trained(small("plain")).diverged == "the mean loss of epoch 1 is nan"


@pytest.mark.parametrize("method", registry.methods())
def test_rates_that_are_far_too_large_are_no_failure(method):
    made = small("plain", method, options={"bits": lowest_bits(method)}, rate=1e3, quantizer_rate=1e3)
    state = trained(made)
    assert state.epochs == len(state.loss) == len(state.correct) >= 1
    assert bool(state.diverged) is not all(map(math.isfinite, state.loss))


def test_a_soft_argmax_that_is_far_too_steep_is_no_failure():
    made = recipe("smoke", method="dasr", bits=(1, 1), options={"variant": "soft_argmax", "beta": 150}, batch=32)
    state = trained(made)
    assert state.epochs == 1
    assert bool(state.diverged) is not math.isfinite(state.loss[0])


# Several processes


def test_two_ranks_make_the_steps_of_one_and_end_alike(tmp_path, forks):
    both = [small("plain"), small(method="lsq", options={"bits": (2, 2)})]
    processes = [forks.Process(target=networks.of_two_ranks, args=(rank, both, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    for i, made in enumerate(both):
        one, other = (torch.load(tmp_path / f"rank{rank}-{i}.pt") for rank in range(2))
        parameters = [name for name, _ in trainer.build(made).named_parameters()]
        assert [name for name in parameters if not torch.equal(one[name], other[name])] == []
        assert one["alone"] == (i + 1) * made.epochs * 3  # of each step's two parts, one is each rank's own
    alone, found = trained(both[0]), torch.load(tmp_path / "rank1-0.pt")
    for name, value in alone.model.items():
        assert found[name].numpy() == pytest.approx(value.numpy(), abs=1e-5), name
    assert found["correct"] == alone.correct


# Compiled


def test_compiled_steps_do_what_others_do_and_go_on_to_the_bit(monkeypatch):
    """By day without the compiler's last stage, which takes seconds, and a C++ compiler."""
    if QUICK or not shutil.which("c++"):
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    made = small("plain", "daq", options={"bits": (1, 1)}, epochs=3)
    compiled, states = trainer.Device(compiled=True), []
    usual = trained(made, 80)  # the last batch is smaller
    ended = trained(made, 80, device=compiled, keep=lambda state: states.append(copy.deepcopy(state)))
    assert ended.loss == pytest.approx(usual.loss, abs=1e-4)
    for name, value in usual.model.items():
        if value.is_floating_point():
            assert ended.model[name].numpy() == pytest.approx(value.numpy(), abs=1e-3), name
    assert fingerprint(trained(made, 80, device=compiled, state=states[0])) == fingerprint(ended)


def test_a_process_compiles_as_many_networks_as_it_trains(monkeypatch):
    """All of a class share their code, which torch compiles a few times only."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    compiled = []
    for seed in range(6):
        counters["frames"].clear()
        trained(recipe("smoke", seed=seed, batch=32), 80, device=trainer.Device(compiled=True))  # 3 batches: 32, 32, 16
        compiled.append(dict(counters["frames"]))
    assert compiled == [{"total": 2, "ok": 2}] * 6


def test_a_device_may_be_named_as_torch_names_it():
    made = small(epochs=1)
    assert len({fingerprint(trained(made, device=one)) for one in ("cpu", torch.device("cpu"), trainer.CPU)}) == 1


# Rehearsals and digests


def test_a_rehearsal_repeats_and_tells_a_constant_of_the_method(monkeypatch):
    made = small(method="dasr", options={"bits": (1, 1), "variant": "kernel", "annealed": True}, epochs=50, batch=8)
    both = images("train", 300), images("test", 50)
    first = trainer.rehearsal(made, *both)
    assert trainer.rehearsal(made, *both) == first
    assert len(first[0]) == 64
    assert math.isfinite(first[1])
    assert 0 <= first[2] <= 50
    monkeypatch.setattr(dasr_names, "ANNEALED", (2.0, 47.0))
    assert trainer.rehearsal(made, *both)[0] != first[0]


def test_a_rehearsal_is_twenty_steps_over_the_whole_schedule(monkeypatch):
    shares, real = [], trainer.schedule
    monkeypatch.setattr(trainer, "schedule", lambda *a: (shares.append(a[-1]), real(*a)))
    trainer.rehearsal(small(epochs=50, batch=8), images("train", 300), images("test", 50))
    assert shares == pytest.approx([i / 20 for i in range(20)])


def test_digests_tell_bits():
    weights = torch.arange(24.0).reshape(2, 3, 2, 2)
    base = {"model": {"a": weights, "b": torch.tensor(1.0)}, "steps": [1, 2]}
    same = {"steps": (1, 2), "model": {"b": torch.tensor(1.0), "a": weights.clone(memory_format=torch.channels_last)}}
    assert trainer.digest(base) == trainer.digest(same)
    changed = [weights.double(), weights.reshape(2, 3, 4), torch.nextafter(weights, weights + 1), -(-weights + 0.0)]
    others = [{**base, "model": {**base["model"], "a": value}} for value in changed]
    others += [{**base, "steps": [2, 1]}, {**base, "model": {"a": weights, "c": torch.tensor(1.0)}}]
    others += [{**base, "model": {"a": weights, "b": torch.tensor(-1.0)}}]
    assert len({trainer.digest(each) for each in (base, *others)}) == 1 + len(others)


# Tested as in training


def test_quantizers_compute_as_in_training_and_all_else_is_tested():
    made = small(method="dasr", options={"bits": (1, 1), "variant": "kernel", "beta": 4.0})
    state = trained(made)
    model = trainer.build(made)
    model.load_state_dict(state.model)
    pixels = torch.rand(7, 1, 8, 8)
    rounded = model.eval()(pixels)
    soft = trainer.AsInTraining(model).eval()(pixels)
    for part in model.modules():
        assert part.training is isinstance(part, Quantizer | QuantizedLayer)
    assert not torch.allclose(rounded, soft)
    model.eval()
    for part in (model[3], model[3].weight_quantizer, model[3].input_quantizer):
        part.training = True
    assert torch.equal(model(pixels), soft)
    assert differing(model.state_dict(), state.model) == []  # batch normalisations are tested


# Every method


BITS = {"pact": (None, 2)}  # at 1 bit its first range, 10, leaves nothing but zeros
RISES = {"qnet": pytest.mark.xfail(reason="its staircase hardens faster than it learns: the loss rises", strict=True)}


@pytest.mark.parametrize("method", [pytest.param(name, marks=RISES.get(name, ())) for name in registry.methods()])
def test_every_method_lowers_the_loss_at_its_lowest_bits(method):
    bits, activation = BITS.get(method, lowest_bits(method)), "hardtanh" if method == "irnet" else "relu"
    made = recipe("embedded", method=method, bits=bits, epochs=2, batch=16, activation=activation)
    state = trained(made, 320 if method in RISES else 160)  # what is to fail must not pass for want of steps
    assert state.diverged == ""
    assert state.undefined == [0, 0]
    assert state.loss[1] < state.loss[0] - 0.05


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_network_has_the_activation_that_is_said(network, activation):
    made = recipe("embedded", network=network, activation=activation)
    assert trainer.build(made).activation is ACTIVATIONS[activation]


def test_bfloat16_is_for_convolutions_only():
    made = small(method="daq", options={"bits": (1, 1)}, precision="bfloat16")
    state = trained(made)
    assert state.diverged == ""
    assert {value.dtype for value in state.model.values() if value.is_floating_point()} == {torch.float32}
    assert networks.fingerprint(state) != networks.fingerprint(trained(dataclasses.replace(made, precision="float32")))
