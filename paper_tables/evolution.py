"""DSQ while it trains: does it approach the standard quantizer, lower its error, and train more evenly than the STE?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from paper_tables import keys, runs, trained
from paper_tables.cells import Cell, Place
from paper_tables.jobs import Job, command_of
from paper_tables.tables import Measured, Options, Table
from reference import dsq
from torchimpl import sources
from torchimpl.training import bounds, trainer
from torchimpl.training.recipe import Recipe, recipe
from torchimpl.training.trainer import Device, State

TITLE = "DSQ while it trains"
NEEDS = "--tune (it takes long)"
PROFILE = "embedded"
SEEDS = 3
LEARNED, FIXED, STE = ARMS = ("DSQ", "DSQ, fixed l and u", "STE")
INTRO = (
    "2/2-bit networks on digits, from the same full-precision networks and with the same rates: DSQ as published "
    "(hard outputs, alpha, l and u learned; its loss drives alpha down, how strongly was not at hand: here by 0.0001 "
    "alpha^2), with l and u as the first batch sets them, and the straight-through estimator. By epoch: alpha, which "
    "tells the soft quantizer's shape (towards 0 the rounding, towards 1 the identity; 0.2 at first); its mean "
    "distance from the hard one (the largest is half a level for any alpha, at a transition point, where it is "
    "steepest); the error of quantized weights; and the training loss."
)


def _recipe(arm: str, seed: int) -> Recipe:
    fields: dict[str, Any] = {"method": "ste" if arm == STE else "dsq", "bits": (2, 2)}
    if arm == STE:
        fields["options"] = {"variant": "half_down"}
    made = recipe(PROFILE, seed=seed, **fields)
    if arm == FIXED:
        own = {"network": made.network, "method": "dsq", "bits": 2}
        made = dataclasses.replace(made, network="torchimpl.training.bounds:with_fixed_bounds", options=own)
    return made


def _place(arm: str) -> Place:
    return Place("DSQ", "evolution", arm, trained.LABELS[PROFILE])


def jobs(options: Options) -> list[Job]:
    """Return a job for each arm."""
    found = []
    for arm in ARMS:
        made = [_recipe(arm, seed) for seed in range(SEEDS)]
        modules = ["torchimpl.training.trainer", "torchimpl.training.bounds", *sources.method_modules(made[0].method)]
        found.append(
            Job(
                _place(arm),
                "percent",
                keys.key(modules, runs=[one.as_json() for one in made], start=runs.configuration(_first(made[0]))),
                command_of("evolution", ("tune",), PROFILE),
                partial(_measure, made, options.out / runs.TABLE, runs.device_of(options)),
                ("tune",),
                PROFILE,
                parallel=True,
                rehearse=partial(runs.rehearse, made[0], partial(runs.splits, made[0].images, None)),
            )
        )
    return found


def _first(made: Recipe) -> Recipe:
    first = runs.first_of(made)
    assert first is not None
    return first


def _measure(made: list[Recipe], folder: Path, device: Device, progress: Callable[[float], None]) -> dict[str, Any]:
    """Train with each seed, and look at the network after each epoch."""
    accuracies, losses, seen, ended = [], {}, [], []
    with runs.input_errors(folder):
        training, test = runs.splits(made[0].images, None)
        for i, one in enumerate(made):
            start = runs.train(_first(one), folder, training, test, device).model
            epochs: list[dict[str, float]] = []

            def keep(now: State, one: Recipe = one, to: list[dict[str, float]] = epochs) -> None:
                model = trainer.build(one)
                model.load_state_dict(now.model)
                to.append(bounds.look(model))

            state = trainer.train(one, training, test, start=start, device=device, keep=keep)
            accuracies.append(100 * state.correct[-1] / len(test.labels))
            losses[f"loss, seed {one.seed}"] = tuple(loss for loss in state.loss if math.isfinite(loss))
            seen.append(epochs)
            ended += [f"seed {one.seed}: {state.diverged}"] if state.diverged else []
            progress((i + 1) / len(made))
    curves: dict[str, Any] = {"diverged": "; ".join(ended)}
    if not ended:
        curves = {n: tuple(np.mean([[e[n] for e in some] for some in seen], axis=0).tolist()) for n in seen[0][0]}
    return runs.result_of_seeds(made, accuracies, len(test.labels)) | {
        "detail": {
            "accuracies": tuple(accuracies),
            "device": str(device),
            **losses,
            **curves,
            **runs.rehearsal(made[0], training, test),
        }
    }


def distance(alpha: float) -> float:
    """Return the mean distance between the soft and the hard quantizer over a cell, in levels.

    >>> round(distance(0.2), 3), round(distance(1e-6), 3)
    (0.209, 0.048)
    """
    x, alpha = (np.arange(2000) + 0.5) / 2000, float(np.clip(alpha, *dsq.ALPHA_RANGE))
    return float(np.abs(dsq.soft(x, alpha=alpha) - dsq.hard(x)).mean())


def run(options: Options, measured: Measured) -> Table:
    """Show accuracies, and say what happened by epoch."""
    found = {arm: measured[_place(arm)] for arm in ARMS}
    shown = [runs.with_seeds(cell) for cell in found.values()]
    columns = (trained.LABELS[PROFILE],)
    return Table("evolution", TITLE, INTRO, tuple(shown), findings=_findings(found), columns=columns)


def _findings(found: Mapping[str, Cell]) -> tuple[str, ...]:
    if not all(cell.stands for cell in found.values()):
        return ()
    if said := tuple(f"{arm} diverged: {c.detail['diverged']}." for arm, c in found.items() if "diverged" in c.detail):
        return said
    own, fixed = found[LEARNED].detail, found[FIXED].detail

    def ends(name: str, detail: Mapping[str, Any] = own) -> str:
        return f"{detail[name][0]:.3g} after the first epoch, {detail[name][-1]:.3g} after the last"

    at_first, at_last = (distance(own["alpha of weights"][i]) for i in (0, -1))  # type: ignore[arg-type, index]
    rises = {arm: rising(cell) for arm, cell in found.items()}
    steps = SEEDS * (len(losses(found[LEARNED])[0]) - 1)
    return (
        f"alpha of weights: {ends('alpha of weights')}; of activations: {ends('alpha of activations')} (0.2 at first).",
        "Mean distance of the soft from the hard quantizer of weights, in levels, at that alpha: "
        f"{at_first:.3g} and {at_last:.3g} ({distance(dsq.INITIAL_ALPHA):.3g} at first).",
        f"Relative squared error of quantized weights, l and u learned: {ends('error')}; "
        f"fixed: {ends('error', fixed)}.",
        f"Of {steps} steps from one epoch to the next the training loss rises in "
        + ", ".join(f"{count} ({arm})" for arm, count in rises.items())
        + "; in the end it is "
        + ", ".join(f"{np.mean([some[-1] for some in losses(cell)]):.3g} ({arm})" for arm, cell in found.items())
        + ".",
    )


def losses(cell: Cell) -> list[tuple[float, ...]]:
    """Return the training loss by epoch, a tuple for each seed."""
    return [cell.detail[f"loss, seed {seed}"] for seed in cell.seeds or ()]  # type: ignore[misc]


def rising(cell: Cell) -> int:
    """Count the epochs, over all seeds, whose loss is above that of the epoch before."""
    return sum(int((np.diff(some) > 0).sum()) for some in losses(cell))


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("evolution"))
