"""Accuracy against the length of the schedule: do orderings that a short one shows outlast a longer one?"""

from __future__ import annotations

import dataclasses

import numpy as np

from paper_tables import runs, trained
from paper_tables.cells import Place
from paper_tables.jobs import Job
from paper_tables.tables import Measured, Options, Table
from torchimpl.training.recipe import Recipe

TITLE = "Accuracy against the length of the schedule"
NEEDS = "--tune (it takes long), and --data (CIFAR-10) but for training on digits"
CONTENDERS = (runs.DAQ, runs.DAQ_RELEASED, runs.STE, runs.IRNET)  # IR-Net: the best rival that Table 5 prints at 1/1
EPOCHS = (3, 10, 30)
SEEDS = {"embedded": 3, "cifar10-short": 1}
IMAGES = {"embedded": "digits", "cifar10-short": "CIFAR-10"}
INTRO = (
    "1/1-bit networks trained for 3, 10 and 30 epochs, each from the full-precision network of the same seed, with the "
    "rates that were sought for the profile's own length (table tuning), a cosine over the whole schedule, and nothing "
    "else changed. The paper trains for 400. IR-Net has Hardtanh in the place of ReLU, and a start of its own."
)


def jobs(options: Options) -> list[Job]:
    """Return a job for each contender, length and profile."""
    found = []
    for profile, seeds in SEEDS.items():
        for contender in CONTENDERS:
            for epochs in EPOCHS:
                place = Place("DAQ", "schedule", contender.name, f"{IMAGES[profile]}, {epochs} epochs")
                made = [_recipe(contender, profile, epochs, seed) for seed in range(seeds)]
                found.append(runs.job_of_seeds(place, made, options))
    return found


def _recipe(contender: runs.Contender, profile: str, epochs: int, seed: int) -> Recipe:
    return dataclasses.replace(contender.recipe(profile, "1/1", seed), epochs=epochs)


def accuracies(options: Options, measured: Measured) -> dict[str, dict[runs.Contender, dict[int, tuple[float, ...]]]]:
    """Return what seeds gave, by profile, contender and epochs."""
    found: dict[str, dict[runs.Contender, dict[int, tuple[float, ...]]]] = {}
    for profile in SEEDS:
        for contender in CONTENDERS:
            for epochs in EPOCHS:
                place = Place("DAQ", "schedule", contender.name, f"{IMAGES[profile]}, {epochs} epochs")
                cell = measured.get(place)
                if cell is not None and cell.measured is not None and cell.value_verdict != "stale":
                    values = cell.detail["accuracies"]
                    assert isinstance(values, tuple)
                    found.setdefault(profile, {}).setdefault(contender, {})[epochs] = values
    return found


def run(options: Options, measured: Measured) -> Table:
    """Show the means, and say whether the order of DAQ and its rivals changes with the length."""
    shown = [runs.with_seeds(measured[job.place]) for job in jobs(options)]
    columns = tuple(f"{images}, {epochs} epochs" for images in IMAGES.values() for epochs in EPOCHS)
    return Table("schedule", TITLE, INTRO, tuple(shown), findings=tuple(_findings(options, measured)), columns=columns)


def _findings(options: Options, measured: Measured) -> list[str]:
    """Say how far DAQ is ahead of each other by length, where there are several seeds, and what of it may be chance."""
    said = []
    for profile, by_contender in accuracies(options, measured).items():
        whole = {c: values for c, values in by_contender.items() if len(values) == len(EPOCHS)}
        if len(whole) < len(CONTENDERS) or SEEDS[profile] < 2:
            continue
        for other in CONTENDERS[1:]:
            differences = [
                np.subtract(whole[runs.DAQ][epochs], whole[other][epochs]) for epochs in EPOCHS
            ]  # paired by seed
            spread = trained.pooled([list(some) for some in differences])
            half = trained.half_width(spread, SEEDS[profile])
            listed = ", ".join(f"{some.mean():+.1f}" for some in differences)
            said.append(
                f"{IMAGES[profile]}: DAQ less {other.name} after {', '.join(map(str, EPOCHS))} epochs: {listed} points "
                f"(95 % interval: +/-{half:.1f} each)."
            )
    return said


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("schedule"))
