"""Is DAQ on weights a straight-through estimator in disguise? The theorem, tried; and where it ends."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from paper_tables import keys, runs
from paper_tables.cells import Cell, Place
from paper_tables.jobs import Job, command_of
from paper_tables.tables import Measured, Options, Table
from torchimpl import sources
from torchimpl.data import cifar10, digits
from torchimpl.training import batches, disguise, trainer
from torchimpl.training.recipe import Recipe, recipe
from torchimpl.training.trainer import Device

TABLE = "disguise"
CPU = torch.device("cpu")
TITLE = "DAQ's weights as straight-through weights in disguise"
NEEDS = (
    "--tune (it takes minutes, of ResNet-20 hours, on the CPU, and begins anew if it was stopped), and --data "
    "(CIFAR-10) for ResNet-20"
)
INTRO = (
    "Schoenbauer et al. (arXiv 2405.05171): weights with a slope train, to first order in the rate, as "
    "straight-through weights M(w) at the rate times alpha. For DAQ, M and alpha are closed forms. ResNet-8 on digits "
    "and ResNet-20 on CIFAR-10, at 1/1, plain gradient descent, all but the weights frozen; the same batches for all. "
    "Distances are root mean squares over weights, in their deviations, after equal rate times steps: what the "
    "theorem neglects must shrink with the rate, as long as no code differs. A code that falls otherwise is beyond "
    "the theorem: a single one moves all gradients. Beside it, a run begun 1e-6 away (chaos), and how far the weights "
    "moved. Last, the recipe by which the tables train, with momentum, decay, and ranges and scales that learn, from "
    "full precision: there nothing is promised, and what the distance has over that of the run begun beside is the "
    "departure from the theorem. Activations are straight-through in all of it, so that none of these networks is the "
    "tables' DAQ."
)
PROFILES = {"embedded": "digits", "cifar10-short": "CIFAR-10"}
BATCHES = {"embedded": 64, "cifar10-short": 16}  # as many pixels, times 3
STEPS = 10  # at the first of the rates
OTHERS_RATE = 0.02
HALVINGS = (1, 2, 4)
FALLS = 1.5  # times for each halving of the rate, at least: 2 where only the first order is left
RECIPE_HALVINGS = {"embedded": HALVINGS, "cifar10-short": (1,)}  # five networks each, for hours
RECIPE_EPOCHS = {"cifar10-short": 3}
QUANTIZED_RATES = {"small steps": 1.0, "large steps": 100.0}  # in squared deviations of the weights
RECIPE = "the tables' recipe"
ARMS = ("M and alpha", "alpha alone", "neither", "chaos", "moved")
VARIANTS = ("paper", "released")


def jobs(options: Options) -> list[Job]:
    """Return a job for each network, kernel and way to train."""
    return [job for profile in PROFILES for variant in VARIANTS for job in _jobs(options, profile, variant)]


def _jobs(options: Options, profile: str, variant: str) -> list[Job]:
    made, halvings = _recipe(profile, variant), RECIPE_HALVINGS[profile]
    exact = recipe(profile, crop=0, flip=False, batch=BATCHES[profile])
    own = {} if profile == "embedded" else {"exact": exact.as_json()}  # those of digits are recorded without
    ways: dict[str, tuple[Any, dict[str, Any]]] = {
        size: (
            partial(_measure, exact, variant, rate, options.data),
            {"rates": [OTHERS_RATE, rate], "steps": [STEPS, HALVINGS], **own},
        )
        for size, rate in QUANTIZED_RATES.items()
    }
    ways[RECIPE] = (
        partial(
            _measure_recipe, variant, made, halvings, options.data, options.out / runs.TABLE, runs.device_of(options)
        ),
        {"recipe": runs.configuration(made), "rates": halvings},
    )
    found = []
    for way, (measure, settings) in ways.items():
        key = keys.key(
            ["torchimpl.training.disguise", *sources.method_modules("daq"), *sources.method_modules("ste")],
            variant=variant,
            images=(cifar10 if made.images == "cifar10" else digits).SHA256,
            **settings,
        )
        place = Place(
            "DAQ", TABLE, f"{variant} kernel", way if profile == "embedded" else f"{way}, {PROFILES[profile]}"
        )
        needs = ("tune", *runs.needs_of(profile))
        command = command_of(TABLE, needs, profile)
        found.append(Job(place, "deviations", key, command, measure, needs, profile, parallel=True))
    return found


def _recipe(profile: str, variant: str) -> Recipe:
    contender = runs.DAQ if variant == "paper" else runs.DAQ_RELEASED
    made = contender.recipe(profile, "1/1", 0)
    return dataclasses.replace(made, epochs=RECIPE_EPOCHS.get(profile, made.epochs), precision="float32")


def _measure(
    made: Recipe, variant: str, rate: float, data: Path | None, progress: Callable[[float], None]
) -> dict[str, Any]:
    """Descend by a rate in steps that are all alike, and by ones that are more by as much as the rate is less."""
    training, _ = runs.splits(made.images, data)
    source = batches.Batches(training, made, CPU)
    in_turn = itertools.chain.from_iterable(source.epoch(epoch) for epoch in itertools.count())
    most = STEPS * max(HALVINGS)
    steps = [(images.double().contiguous(), labels) for images, labels in itertools.islice(in_turn, most)]
    torch.manual_seed(0)
    model = disguise.build(made.network, variant, steps[0][0])
    found = {}
    for i, halving in enumerate(HALVINGS):

        def train(one: nn.Module, factor: float, halving: int = halving) -> None:
            disguise.descend(one, steps[: STEPS * halving], OTHERS_RATE / halving, factor * rate / halving)

        found[halving] = disguise.compare(model, train)
        progress((i + 1) / len(HALVINGS))
    return _result(found) | {"protocol": f"{STEPS} steps at the whole rate, {STEPS * HALVINGS[-1]} at a quarter of it"}


def _measure_recipe(
    variant: str,
    made: Recipe,
    halvings: Sequence[int],
    data: Path | None,
    folder: Path,
    device: Device,
    progress: Callable[[float], None],
) -> dict[str, Any]:
    """Train by the tables' recipe, and by ones that are longer by as much as their rates are less."""
    with runs.input_errors(folder):
        training, test = runs.splits(made.images, data)
        first = runs.first_of(made)
        assert first is not None
        start = runs.train(first, folder, training, test, device).model
    model = disguise.learning(made.network, variant, next(batches.Batches(training, made, CPU).epoch(0))[0], start)
    found, accuracies = {}, {}
    for i, halving in enumerate(halvings):
        slower = dataclasses.replace(
            made,
            rate=made.rate / halving,
            quantizer_rate=made.quantizer_rate / halving,
            epochs=made.epochs * halving,
        )
        source = batches.Batches(training, slower, CPU)

        def train(one: nn.Module, factor: float, slower: Recipe = slower, source: batches.Batches = source) -> None:
            disguise.follow(one, slower, source, factor)

        found[halving] = disguise.compare(model, train)
        accuracies[halving] = {
            arm: 100 * trainer.test_accuracy(network, test, slower)[0] / len(test.labels)
            for arm, (network, _) in found[halving].items()
        }
        progress((i + 1) / len(halvings))
    result = _result(found)
    for arm in ARMS:
        result["detail"][f"{arm}, accuracy"] = tuple(accuracies[halving][arm] for halving in halvings)
    longer = "; at a half and a quarter of the rates twice and four times that" if len(halvings) > 1 else ""
    return result | {"protocol": f"{runs.protocol(made)}{longer}"}


def _result(found: Mapping[int, Mapping[str, tuple[nn.Module, disguise.Distance]]]) -> dict[str, Any]:
    detail: dict[str, Any] = {}
    for arm in ARMS:
        detail[arm] = tuple(runs.as_json(one[arm][1].weights) for one in found.values())
        detail[f"{arm}, codes"] = tuple(one[arm][1].codes for one in found.values())
    return {"measured": detail["M and alpha"][-1], "detail": detail}


def run(options: Options, measured: Measured) -> Table:
    """Show the distances, by kernel, size of steps and rate, and whether the theorem's shrinks."""
    cells = [measured[job.place] for job in jobs(options)]
    rows = [row for cell in cells for row in (_rows(cell) if cell.stands else [cell])]
    said = tuple(f"{cell.row}, {cell.column}{_said(cell)}" for cell in cells if cell.stands)
    return Table(TABLE, TITLE, INTRO, tuple(rows), findings=said, layout="list")


def _rows(cell: Cell) -> list[Cell]:
    """Return a row for each arm, with its distance at the least rate."""
    rows = []
    for arm in ARMS:
        distances, codes = (_values(cell, name) for name in (arm, f"{arm}, codes"))
        halved = " → ".join(f"{distance:.1e}" for distance in distances)
        rates = ", ".join(("whole", "half", "quarter")[: len(distances)])
        reason = f"rate {rates}: {halved}; codes that differ: {100 * codes[-1]:.2f} %"
        if f"{arm}, accuracy" in cell.detail:
            of = "DAQ" if arm == "moved" else "this"
            reason += f"; accuracy of {of}: {_values(cell, f'{arm}, accuracy')[-1]:.1f} %"
        rows.append(dataclasses.replace(cell, row=f"{cell.row}, {arm}", measured=distances[-1], reason=reason))
    return rows


def _said(cell: Cell) -> str:
    """Say whether the theorem's distance shrinks with the rate, or what came of the tables' recipe."""
    exact, off = _values(cell, "M and alpha"), _values(cell, "M and alpha, codes")
    if diverged := [arm for arm in ARMS if min(_values(cell, arm)) < 0]:
        return f": {', '.join(diverged)} diverged: nothing is to be said."
    if cell.column.startswith(RECIPE):
        rates = "the rates, half and a quarter" if len(exact) > 1 else "the rates"
        lines = [f"{arm} {_lines(cell, arm)} ({_lines(cell, f'{arm}, codes', 100)} % of codes)" for arm in ARMS]
        beside = " → ".join(f"{a / b:.1f}" for a, b in zip(exact, _values(cell, "chaos"), strict=True))
        return (
            f", one seed, at {rates}: {'; '.join(lines)}. The "
            f"disguise is {beside} times as far as the run begun beside. "
            f"Accuracies: DAQ {_lines(cell, 'moved, accuracy')} %, its disguise "
            f"{_lines(cell, 'M and alpha, accuracy')}, begun beside {_lines(cell, 'chaos, accuracy')}."
        )
    if not any(off):
        falls = [a / b for a, b in itertools.pairwise(exact)]
        holds = min(falls) >= FALLS
        return (
            f": no code differs, and the distance {'falls' if holds else 'does not fall'} "
            f"with the rate, by {', '.join(f'{fall:.2f}' for fall in falls)} for each halving: the theorem "
            f"{'holds' if holds else 'does not hold'} to first order."
        )
    return (
        f": codes differ ({100 * off[-1]:.2f} % at the least rate), and the distance "
        f"is, at the rate, half and a quarter, {_lines(cell, 'M and alpha')}, of a run begun 1e-6 beside "
        f"{_lines(cell, 'chaos')}, of straight-through weights without M and alpha {_lines(cell, 'neither')}."
    )


def _values(cell: Cell, name: str) -> tuple[float, ...]:
    values = cell.detail[name]
    assert isinstance(values, tuple)
    return values


def _lines(cell: Cell, name: str, times: float = 1.0) -> str:
    return " → ".join(f"{times * value:.3g}" for value in _values(cell, name))


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("disguise"))
