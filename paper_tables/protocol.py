"""What the paper says and what its released code does, apart and together: kernel, rate, network, normalisation."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np

from paper_tables import keys, runs, trained
from paper_tables.cells import Cell, Place
from paper_tables.jobs import Job
from paper_tables.tables import Measured, Options, Table
from torchimpl.training.recipe import Recipe, recipe

TITLE = "The paper's protocol and the released code's, apart and together"
NEEDS = "--tune (it takes long), and --data (CIFAR-10) but for training on digits"
PAPER = "as the paper says"
TOGETHER = "all four, as the released code"
CHANGES: dict[str, dict[str, Any]] = {  # fields of the recipe, of which the released code has others
    "the released kernel": {"options": {"variant": "released"}},
    "rate 0.1": {"rate": 0.1},
    "the released network": {"network": "{}_released"},
    "ImageNet's normalisation": {"normalize": "imagenet"},
}
ARMS = {PAPER: {}, **CHANGES, TOGETHER: {name: value for fields in CHANGES.values() for name, value in fields.items()}}
SEEDS = {"embedded": 3, "cifar10-short": 1, "cifar10": 3}
INTRO = (
    "1/1-bit DAQ as the paper says (a kernel exp(-d^2/(2 sigma^2)), rate 0.01 for weights, ResNet-20, usual "
    "normalisation), with each thing that the released code has otherwise (exp(-d^2/sigma^2), rate 0.1, a BatchNorm "
    "before the classifier and none behind the first convolution, ImageNet's mean and deviation), and with all four. "
    "On digits the network is the small ResNet, with the same change. Quantizers learn at 0.0001 (Section 4.1) in "
    "every row; each run starts from the full-precision network of its kind, normalisation and seed."
)


def _recipe(arm: str, profile: str, seed: int) -> Recipe:
    paper = recipe("cifar10")
    made = runs.DAQ.recipe(profile, "1/1", seed, tuned=False)
    changes = {name: v.format(made.network) if name == "network" else v for name, v in ARMS[arm].items()}
    return dataclasses.replace(made, **{"rate": paper.rate, "quantizer_rate": paper.quantizer_rate} | changes)


def jobs(options: Options) -> list[Job]:
    """Return a job for each arm and profile."""
    found = []
    for profile, seeds in SEEDS.items():
        for arm in ARMS:
            made = [_recipe(arm, profile, seed) for seed in range(seeds)]
            found.append(
                Job(
                    Place("DAQ", "protocol", arm, _column(profile)),
                    "percent",
                    keys.key(["torchimpl.training.trainer"], runs=[runs.key_of(one) for one in made]),
                    f"python -m paper_tables --table protocol --tune --profile {profile}",
                    partial(runs.measure_seeds, made, options.data, options.out / "protocol", options.device),
                    ("tune",) if profile == "embedded" else ("tune", "data"),
                    profile,
                    parallel=True,
                    rehearse=partial(runs.rehearse_first, made[0], options.data),
                )
            )
    return found


def _column(profile: str) -> str:
    return trained.LABELS[profile]


def run(options: Options, measured: Measured) -> Table:
    """Show the means, and what each change is worth."""
    shown = [runs.with_seeds(measured[job.place]) for job in jobs(options)]
    said = [sentence for profile in SEEDS for sentence in _findings(profile, measured)]
    columns = tuple(map(_column, SEEDS))
    return Table("protocol", TITLE, INTRO, tuple(shown), findings=tuple(said), columns=columns)


def _findings(profile: str, measured: Measured) -> list[str]:
    """Say what each change adds to the paper's protocol, paired by seed, and whether together they add their sum."""
    values: dict[str, Cell] = {arm: measured[Place("DAQ", "protocol", arm, _column(profile))] for arm in ARMS}
    if SEEDS[profile] < 2 or any(cell.measured is None or cell.value_verdict == "stale" for cell in values.values()):
        return []
    accuracies = {arm: np.asarray(cell.detail["accuracies"]) for arm, cell in values.items()}
    added = {arm: accuracies[arm] - accuracies[PAPER] for arm in (*CHANGES, TOGETHER)}
    spread = trained.spread_of_differences([dict(enumerate(some)) for some in accuracies.values()])
    half = trained.half_width(spread, SEEDS[profile])
    listed = ", ".join(f"{arm} {some.mean():+.1f}" for arm, some in added.items())
    alone = sum(float(added[arm].mean()) for arm in CHANGES)
    return [
        f"{_column(profile)}: against the paper's protocol, {listed} points (95 % interval: +/-{half:.1f} each); the "
        f"four changes alone would add up to {alone:+.1f}."
    ]


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("protocol"))
