"""Shape or level? DAQ's kernel sets how its slope varies over a cell, and how large it is; levels compound with depth.

First, what the kernels do to the gradient at the first quantized layer of ResNet-20, with equal forward passes. Then
training: activations' slopes of each shape, flat or a hyperbolic cotangent, at several levels, all else equal, each
over the same grid of rates. If a shape helps, it does so at every level's best rate.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from paper_tables import keys, runs, scatter, tuning
from paper_tables.cells import Cell, Detail, Measurement, Place
from paper_tables.jobs import Job, command_of
from paper_tables.table5 import RELEASED
from paper_tables.tables import InputError, Measured, Options, Table
from reference import daq, daq_theory
from torchimpl import calibrate, checkpoints, evaluation, sources
from torchimpl.data import cifar10
from torchimpl.quantizers.base import SETTINGS
from torchimpl.training import slopes
from torchimpl.training.recipe import Recipe, recipe
from torchimpl.training.trainer import Device

TITLE = "Shape and level of the slope"
NEEDS = "--tune (it takes long), and --data and --checkpoints but for training on digits"
INTRO = (
    "Networks at 1/1 that differ in the slopes of their activations only: weights are straight-through, clip ranges "
    "and scales are frozen, forward passes, start and batches are the same. A slope is flat, or DAQ's hyperbolic "
    "cotangent, multiplied so that its mean or its root mean square over a cell is the level. Each arm has the rate "
    "that is best on training images held out, with seeds of their own, of a grid that is the same for all; shown is "
    "its accuracy on the test images."
)
SIGMA = daq.SIGMA["activation"]
VARIANTS: tuple[daq.Variant, ...] = ("paper", "released")
METHODS = ("ste", "daq")
IMAGES = 256
RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
PROFILES = {"embedded": ("digits", 10, 3), "cifar10-short": ("CIFAR-10", 3, 1)}  # images, epochs and seeds
STATES = {"before fine-tuning": "FP", "released network": "1/1"}


def arms() -> dict[str, tuple[str, float]]:
    """Shape and factor of each arm, by name."""
    found = {"flat, level 1": ("flat", 1.0)}
    for variant in VARIANTS:
        mean = daq_theory.mean_slope(sigma=SIGMA, variant=variant)
        square = daq_theory.root_mean_square_slope(sigma=SIGMA, variant=variant)
        shape = f"coth, {variant}"
        found |= {
            f"{shape}, as it is": (shape, 1.0),
            f"{shape}, mean 1": (shape, 1 / mean),
            f"{shape}, root mean square 1": (shape, 1 / square),
            f"flat, mean of {variant} ({mean:.3f})": ("flat", mean),
            f"flat, root mean square of {variant} ({square:.3f})": ("flat", square),
        }
    return found


def jobs(options: Options) -> list[Job]:
    """Return a job for each gradient and each arm."""
    return [*_gradient_jobs(options), *_arm_jobs(options)]


def _gradient_jobs(options: Options) -> list[Job]:
    found = []
    for state, column in STATES.items():
        for variant in VARIANTS:
            key = keys.key(
                ["torchimpl.training.slopes", *keys.ACCURACY, *itertools.chain(*map(sources.method_modules, METHODS))],
                checkpoint=RELEASED[column].sha256,
                variant=variant,
                images=[cifar10.SHA256["train"], IMAGES],
            )
            measure = partial(_gradient, column, variant, options.data, options.checkpoints)
            place = Place("DAQ", "depth", f"gradient at the first quantized layer, {variant} kernel over flat", state)
            needs = ("data", "checkpoints")
            found.append(Job(place, "ratio", key, command_of("depth", needs), measure, needs, parallel=True))
    return found


def _gradient(
    column: str, variant: str, data: Path | None, folder: Path | None, progress: Callable[[float], None]
) -> dict[str, Any]:
    """Gradient norms of the weights of each layer, of one kernel over those of flat slopes."""
    assert data is not None
    assert folder is not None
    try:
        train = cifar10.load(data, "train")
        checkpoint = checkpoints.read(folder / RELEASED[column].filename, sha256=RELEASED[column].sha256)
        quantized = column != "FP"
        bits = (1, 1) if quantized else (None, None)
        released = checkpoints.load(checkpoint, "resnet20_released", "daq" if quantized else None, bits).state_dict()
    except (cifar10.DataError, checkpoints.CheckpointError) as error:
        raise InputError(str(error)) from None
    images = evaluation.normalize(train.images[:IMAGES], *checkpoints.NORMALIZATIONS["imagenet"])
    labels = torch.from_numpy(train.labels[:IMAGES])
    state = {name: value for name, value in released.items() if not name.endswith(SETTINGS)}  # of another method
    norms = {}
    for shape in ("flat", f"coth, {variant}"):
        model = slopes.with_slopes("resnet20_released", shape, 1.0)
        model.load_state_dict(state, strict=quantized)
        if not quantized:
            calibrate(model, images)
        norms[shape] = slopes.gradient_norms(model, images, labels)
    ratios = [ours / flat for ours, flat in zip(norms[f"coth, {variant}"], norms["flat"], strict=True)]
    return {
        "measured": ratios[0],
        "images": IMAGES,
        "protocol": "released network, one batch of training images in training mode, norms of the weights' gradients",
        "detail": {"by layer": tuple(ratios)},
    }


def _arm_jobs(options: Options) -> list[Job]:
    found = []
    for profile, (images, epochs, seeds) in PROFILES.items():
        for name, (shape, factor) in arms().items():
            made = _recipe(profile, epochs, shape, factor)
            first = runs.FULL_PRECISION.recipe(profile, "FP", 0)
            key = keys.key(
                runs.modules(made),
                recipe=made.as_json(),
                first=first.as_json(),
                rates=RATES,
                seeds=seeds,
                chosen_with=tuning.SEED,
            )
            measure = partial(_arm, made, seeds, options.data, options.out / runs.TABLE, runs.device_of(options))
            place = Place("DAQ", "depth", name, f"{images}, {epochs} epochs")
            needs = ("tune", *runs.needs_of(profile))
            command = command_of("depth", needs, profile)
            rehearse = partial(_rehearse, made, options.data)
            found.append(Job(place, "percent", key, command, measure, needs, profile, parallel=True, rehearse=rehearse))
    return found


def _recipe(profile: str, epochs: int, shape: str, factor: float) -> Recipe:
    base = recipe(profile)
    options = {"network": base.network, "shape": shape, "factor": factor}
    return dataclasses.replace(base, network="torchimpl.training.slopes:with_slopes", options=options, epochs=epochs)


def _arm(
    made: Recipe, seeds: int, data: Path | None, folder: Path, device: Device, progress: Callable[[float], None]
) -> dict[str, Any]:
    """Choose an arm's rate on images held out, and train it with that; each run starts from full precision."""
    total, ended, seconds = (len(RATES) + 1) * seeds, 0, 0.0

    def accuracy(rate: float, seed: int, splits: tuple[cifar10.Split, cifar10.Split]) -> float:
        nonlocal ended, seconds
        state = runs.train(dataclasses.replace(made, rate=rate, seed=seed), folder, *splits, device)
        ended, seconds = ended + 1, seconds + state.seconds
        progress(ended / total)
        return 100 * state.correct[-1] / len(splits[1].labels)

    with runs.input_errors(folder):
        held_out = runs.splits(made.images, data, held_out=True)
        means = [
            float(np.mean([accuracy(rate, tuning.SEED + seed, held_out) for seed in range(seeds)])) for rate in RATES
        ]
        best = RATES[int(np.argmax(means))]
        splits = runs.splits(made.images, data)
        accuracies = [accuracy(best, seed, splits) for seed in range(seeds)]
    return {
        "measured": float(np.mean(accuracies)),
        "runs": seeds,
        "seeds": tuple(range(seeds)),
        "images": len(splits[1].labels),
        "selection": "last",
        "protocol": f"{made.epochs} epochs from the full-precision network of the same seed, at the arm's best rate",
        "seconds": round(seconds, 3),
        "detail": {
            "device": str(device),
            "best rate": best,
            "rates": RATES,
            "held out": tuple(means),
            "at the best rate": tuple(accuracies),
            **runs.rehearsal(dataclasses.replace(made, rate=best), *splits),
        },
    }


def _rehearse(made: Recipe, data: Path | None, found: Measurement) -> Mapping[str, Detail]:
    """Rehearse an arm at its best rate: see `jobs.Job.rehearse`."""
    own = dataclasses.replace(made, rate=float(found.detail["best rate"]))  # type: ignore[arg-type]
    return runs.rehearse(own, partial(runs.splits, made.images, data), found)


def run(options: Options, measured: Measured) -> Table:
    """Show the gradients and the arms, and say what they say."""
    found = [_shown(measured[job.place]) for job in jobs(options)]
    return Table("depth", TITLE, INTRO, tuple(found), findings=tuple(_findings(found)), layout="list")


def _shown(cell: Cell) -> Cell:
    if not cell.stands:
        return cell
    if cell.unit == "ratio":
        ratios = cell.detail["by layer"]
        assert isinstance(ratios, tuple)
        return dataclasses.replace(cell, reason=f"from layer to layer: {', '.join(f'{ratio:.2g}' for ratio in ratios)}")
    accuracies, means = cell.detail["at the best rate"], cell.detail["held out"]
    assert isinstance(accuracies, tuple)
    assert isinstance(means, tuple)
    by_rate = ", ".join(f"{rate:g}: {mean:.1f}" for rate, mean in zip(RATES, means, strict=True))
    reason = f"{runs.by_seed(accuracies)}; on images held out, by rate: {by_rate}{runs.vouched([cell])}"
    return dataclasses.replace(cell, reason=reason)


class Pair(NamedTuple):
    """Two arms that differ in one thing only: in shape at one level, or in level at one shape."""

    differs: str
    one: str
    other: str


def pairs() -> list[Pair]:
    """Return every pair of arms that says what shape or level does: the family of the comparisons."""
    found = []
    for variant in VARIANTS:
        flat, shape = "flat, level 1", f"coth, {variant}"
        own = [name for name in arms() if name.startswith("flat") and variant in name]
        scaled = [f"{shape}, mean 1", f"{shape}, root mean square 1"]
        found += [Pair("shape", f"{shape}, as it is", level) for level in own]
        found += [Pair("shape", name, flat) for name in scaled]
        found += [Pair("level", level, flat) for level in own]
        found += [Pair("level", f"{shape}, as it is", name) for name in scaled]
    return found


def _findings(found: list[Cell]) -> list[str]:
    """Say what the kernels do to gradients; what shape does at equal level, and level at equal shape, by seed."""
    said = [_of_gradients(found, variant) for variant in VARIANTS]
    for column in dict.fromkeys(cell.column for cell in found if cell.unit == "percent"):
        here = {cell.row: cell for cell in found if cell.column == column and cell.stands}
        there = [pair for pair in pairs() if {pair.one, pair.other} <= here.keys()]
        if not there:
            continue
        best = {row: np.asarray(cell.detail["at the best rate"]) for row, cell in here.items()}
        spread = scatter.spread_of_differences([dict(enumerate(values)) for values in best.values()])
        seeds = min(map(len, best.values()))
        half = scatter.half_width(spread, seeds, comparisons=len(pairs()))
        words = []
        for differs, given in (("shape", "level"), ("level", "shape")):
            means = {
                pair: float((best[pair.one] - best[pair.other]).mean()) for pair in there if pair.differs == differs
            }
            if not means:
                continue
            beyond = [f"{pair.one} over {pair.other} ({mean:+.1f})" for pair, mean in means.items() if abs(mean) > half]
            ends = dict.fromkeys(f"{mean:+.1f}" for mean in (min(means.values()), max(means.values())))
            words.append(
                f"{differs} at equal {given} is worth {' to '.join(ends)} points"
                + (f", beyond chance in {'; '.join(beyond)}" if beyond else ", none of it beyond chance" * spread.known)
            )
        interval = f"95 % interval, for {len(pairs())} comparisons: +/-{half:.1f}" if spread.known else "no interval"
        edge = [row for row, cell in here.items() if cell.detail["best rate"] in (RATES[0], RATES[-1])]
        said.append(
            f"{column}: {'; '.join(words)} (each arm at its best rate; {interval}"
            + (f"; {len(here)} of {len(arms())} arms are there" if len(here) < len(arms()) else "")
            + f"). The best rate lies at an end of the grid in {len(edge)} of {len(here)} arms."
        )
    return list(filter(None, said))


def _of_gradients(found: list[Cell], variant: str) -> str:
    """Say by how much a kernel multiplies the gradient at the first quantized layer."""
    here = {cell.column: cell for cell in found if cell.unit == "ratio" and f", {variant} kernel" in cell.row}
    if not here or not all(cell.stands for cell in here.values()):
        return ""
    before, after = (here[state].measured for state in STATES)
    return (
        f"With the {variant} kernel the gradient at the first quantized layer is {before:.3g} times that of flat "
        f"slopes before fine-tuning, and {after:.3g} times in the released network."
    )


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("depth"))
