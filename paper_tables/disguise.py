"""Is DAQ on weights a straight-through estimator in disguise? The theorem, tried; and where it ends."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from paper_tables import keys
from paper_tables.cells import Cell, Place
from paper_tables.jobs import Job
from paper_tables.tables import Measured, Options, Table
from torchimpl.data import digits
from torchimpl.training import batches, disguise
from torchimpl.training.recipe import recipe

TITLE = "DAQ's weights as straight-through weights in disguise"
NEEDS = "--tune (it takes minutes)"
INTRO = (
    "Schoenbauer et al. (arXiv 2405.05171): weights with a slope train, to first order in the rate, as "
    "straight-through weights M(w) at the rate times alpha. For DAQ, M and alpha are closed forms. A ResNet-8 at 1/1 "
    "on digits, plain gradient descent, all but the weights frozen; the same batches for all. Distances are root mean "
    "squares over weights, in their deviations, after equal rate times steps: what the theorem neglects must shrink "
    "with the rate, as long as no code differs. A code that falls otherwise is beyond the theorem: a single one moves "
    "all gradients. Beside it, a run begun 1e-6 away (chaos), and how far the weights moved."
)
STEPS = 10  # at the first of the rates
OTHERS_RATE = 0.02
HALVINGS = (1, 2, 4)
QUANTIZED_RATES = {"small steps": 1.0, "large steps": 100.0}  # in squared deviations of the weights
ARMS = ("M and alpha", "alpha alone", "neither", "chaos", "moved")
VARIANTS = ("paper", "released")


def jobs(options: Options) -> list[Job]:
    """Return a job for each kernel and size of steps."""
    found = []
    for variant in VARIANTS:
        for size, rate in QUANTIZED_RATES.items():
            key = keys.key(
                ["torchimpl.training.disguise", "torchimpl.training.batches", *keys.method_modules("daq")],
                variant=variant,
                rates=[OTHERS_RATE, rate],
                steps=[STEPS, HALVINGS],
                images=digits.SHA256,
            )
            place = Place("DAQ", "disguise", f"{variant} kernel", size)
            measure = partial(_measure, variant, rate)
            command = "python -m paper_tables --table disguise --tune"
            found.append(Job(place, "deviations", key, command, measure, ("tune",), parallel=True))
    return found


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
        found[halving] = disguise.compare(model, steps[: STEPS * halving], OTHERS_RATE / halving, rate / halving)
        progress((i + 1) / len(HALVINGS))
    detail: dict[str, Any] = {}
    for arm in ARMS:
        detail[arm] = tuple(found[halving][arm].weights for halving in HALVINGS)
        detail[f"{arm}, codes"] = tuple(found[halving][arm].codes for halving in HALVINGS)
    return {
        "measured": detail["M and alpha"][-1],
        "protocol": f"{STEPS} steps at the whole rate, {STEPS * HALVINGS[-1]} at a quarter of it",
        "detail": detail,
    }


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
            distances, codes = (cell.detail[name] for name in (arm, f"{arm}, codes"))
            assert isinstance(distances, tuple)
            assert isinstance(codes, tuple)
            halved = " → ".join(f"{distance:.1e}" for distance in distances)
            found.append(
                dataclasses.replace(
                    cell,
                    row=f"{cell.row}, {arm}",
                    measured=distances[-1],
                    reason=f"rate whole, half, quarter: {halved}; codes that differ: {100 * codes[-1]:.2f} %",
                )
            )
        exact, off = cell.detail["M and alpha"], cell.detail["M and alpha, codes"]
        assert isinstance(exact, tuple)
        assert isinstance(off, tuple)
        if not any(off):
            falls = ", ".join(f"{a / b:.2f}" for a, b in itertools.pairwise(exact))
            said.append(
                f"{cell.row}, {cell.column}: no code differs, and the distance falls with the rate, by {falls} for "
                "each halving: the theorem holds to first order."
            )
        else:
            said.append(
                f"{cell.row}, {cell.column}: codes differ ({100 * off[-1]:.2f} % at the least rate), and the distance "
                f"is {exact[-1]:.1e}, of a run begun 1e-6 beside {_last(cell, 'chaos'):.1e}, of straight-through "
                f"weights without M and alpha {_last(cell, 'neither'):.1e}."
            )
    return Table("disguise", TITLE, INTRO, tuple(found), findings=tuple(said), layout="list")


def _last(cell: Cell, name: str) -> float:
    values = cell.detail[name]
    assert isinstance(values, tuple)
    return values[-1]


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("disguise"))
