"""Is DAQ on weights a straight-through estimator in disguise? The theorem, tried; and where it ends."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from paper_tables import keys, runs
from paper_tables.cells import Cell, Place
from paper_tables.jobs import Job
from paper_tables.tables import Measured, Options, Table
from torchimpl import sources
from torchimpl.data import digits
from torchimpl.training import batches, disguise, trainer
from torchimpl.training.recipe import Recipe, recipe
from torchimpl.training.trainer import Device

CPU = torch.device("cpu")
TITLE = "DAQ's weights as straight-through weights in disguise"
NEEDS = "--tune (it takes minutes)"
INTRO = (
    "Schoenbauer et al. (arXiv 2405.05171): weights with a slope train, to first order in the rate, as "
    "straight-through weights M(w) at the rate times alpha. For DAQ, M and alpha are closed forms. A ResNet-8 at 1/1 "
    "on digits, plain gradient descent, all but the weights frozen; the same batches for all. Distances are root mean "
    "squares over weights, in their deviations, after equal rate times steps: what the theorem neglects must shrink "
    "with the rate, as long as no code differs. A code that falls otherwise is beyond the theorem: a single one moves "
    "all gradients. Beside it, a run begun 1e-6 away (chaos), and how far the weights moved. Last, the recipe by which "
    "the tables train, with momentum, decay, and ranges and scales that learn, from full precision: there nothing is "
    "promised, and what the distance has over that of the run begun beside is the departure from the theorem. "
    "Activations are straight-through in all of it, so that none of these networks is the tables' DAQ."
)
STEPS = 10  # at the first of the rates
OTHERS_RATE = 0.02
HALVINGS = (1, 2, 4)
QUANTIZED_RATES = {"small steps": 1.0, "large steps": 100.0}  # in squared deviations of the weights
RECIPE = "the tables' recipe"
ARMS = ("M and alpha", "alpha alone", "neither", "chaos", "moved")
VARIANTS = ("paper", "released")


def jobs(options: Options) -> list[Job]:
    """Return a job for each kernel and way to train."""
    found = []
    for variant in VARIANTS:
        made = _recipe(variant)
        ways: dict[str, tuple[Any, dict[str, Any]]] = {
            size: (partial(_measure, variant, rate), {"rates": [OTHERS_RATE, rate], "steps": [STEPS, HALVINGS]})
            for size, rate in QUANTIZED_RATES.items()
        }
        ways[RECIPE] = (
            partial(_measure_recipe, variant, made, options.out / "disguise", runs.device_of(options)),
            {"recipe": runs.configuration(made), "rates": HALVINGS},
        )
        for column, (measure, settings) in ways.items():
            key = keys.key(
                ["torchimpl.training.disguise", *sources.method_modules("daq"), *sources.method_modules("ste")],
                variant=variant,
                images=digits.SHA256,
                **settings,
            )
            place = Place("DAQ", "disguise", f"{variant} kernel", column)
            command = "python -m paper_tables --table disguise --tune"
            found.append(Job(place, "deviations", key, command, measure, ("tune",), parallel=True))
    return found


def _recipe(variant: str) -> Recipe:
    contender = runs.DAQ if variant == "paper" else runs.DAQ_RELEASED
    return contender.recipe("embedded", "1/1", 0)


def _measure(variant: str, rate: float, progress: Callable[[float], None]) -> dict[str, Any]:
    training, _ = batches.splits("digits", None)
    made = recipe("embedded", crop=0)
    source = batches.Batches(training, made, torch.device("cpu"))
    steps = [
        (images.double().contiguous(), labels)
        for epoch in range(-(-STEPS * max(HALVINGS) // len(source)))
        for images, labels in source.epoch(epoch)
    ]
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
    variant: str, made: Recipe, folder: Path, device: Device, progress: Callable[[float], None]
) -> dict[str, Any]:
    """Train by the tables' recipe, and by ones that are longer by as much as their rates are less."""
    with runs.input_errors(folder):
        training, test = batches.splits("digits", None)
        first = runs.first_of(made)
        assert first is not None
        start = runs.train(first, folder, training, test, device).model
    model = disguise.learning(made.network, variant, next(batches.Batches(training, made, CPU).epoch(0))[0], start)
    found, accuracies = {}, {}
    for i, halving in enumerate(HALVINGS):
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
        progress((i + 1) / len(HALVINGS))
    result = _result(found)
    for arm in ARMS:
        result["detail"][f"{arm}, accuracy"] = tuple(accuracies[halving][arm] for halving in HALVINGS)
    return result | {
        "protocol": f"{runs.protocol(made)}; at a half and a quarter of the rates twice and four times that"
    }


def _result(found: Mapping[int, Mapping[str, tuple[nn.Module, disguise.Distance]]]) -> dict[str, Any]:
    detail: dict[str, Any] = {}
    for arm in ARMS:
        detail[arm] = tuple(found[halving][arm][1].weights for halving in HALVINGS)
        detail[f"{arm}, codes"] = tuple(found[halving][arm][1].codes for halving in HALVINGS)
    return {"measured": detail["M and alpha"][-1], "detail": detail}


def run(options: Options, measured: Measured) -> Table:
    """Show the distances, by kernel, size of steps and rate, and whether the theorem's shrinks."""
    found: list[Cell] = []
    said = []
    for job in jobs(options):
        cell = measured[job.place]
        if cell.measured is None or cell.value_verdict is not None:
            found.append(cell)
            continue
        for arm in ARMS:
            distances, codes = (_values(cell, name) for name in (arm, f"{arm}, codes"))
            halved = " → ".join(f"{distance:.1e}" for distance in distances)
            reason = f"rate whole, half, quarter: {halved}; codes that differ: {100 * codes[-1]:.2f} %"
            if f"{arm}, accuracy" in cell.detail:
                of = "DAQ" if arm == "moved" else "this"
                reason += f"; accuracy of {of}: {_values(cell, f'{arm}, accuracy')[-1]:.1f} %"
            found.append(dataclasses.replace(cell, row=f"{cell.row}, {arm}", measured=distances[-1], reason=reason))
        exact, off = _values(cell, "M and alpha"), _values(cell, "M and alpha, codes")
        if cell.column == RECIPE:
            lines = [f"{arm} {_lines(cell, arm)} ({_lines(cell, f'{arm}, codes', 100)} % of codes)" for arm in ARMS]
            beside = " → ".join(f"{a / b:.1f}" for a, b in zip(exact, _values(cell, "chaos"), strict=True))
            said.append(
                f"{cell.row}, {cell.column}, one seed, at the rates, half and a quarter: {'; '.join(lines)}. The "
                f"disguise is {beside} times as far as the run begun beside. "
                f"Accuracies: DAQ {_lines(cell, 'moved, accuracy')} %, its disguise "
                f"{_lines(cell, 'M and alpha, accuracy')}, begun beside {_lines(cell, 'chaos, accuracy')}."
            )
        elif not any(off):
            falls = ", ".join(f"{a / b:.2f}" for a, b in itertools.pairwise(exact))
            said.append(
                f"{cell.row}, {cell.column}: no code differs, and the distance falls with the rate, by {falls} for "
                "each halving: the theorem holds to first order."
            )
        else:
            said.append(
                f"{cell.row}, {cell.column}: codes differ ({100 * off[-1]:.2f} % at the least rate), and the distance "
                f"is, at the rate, half and a quarter, {_lines(cell, 'M and alpha')}, of a run begun 1e-6 beside "
                f"{_lines(cell, 'chaos')}, of straight-through weights without M and alpha {_lines(cell, 'neither')}."
            )
    return Table("disguise", TITLE, INTRO, tuple(found), findings=tuple(said), layout="list")


def _values(cell: Cell, name: str) -> tuple[float, ...]:
    values = cell.detail[name]
    assert isinstance(values, tuple)
    return values


def _lines(cell: Cell, name: str, times: float = 1.0) -> str:
    return " → ".join(f"{times * value:.3g}" for value in _values(cell, name))


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("disguise"))
