"""DAQ's constants gamma and sigma, on images held out of training: does it matter what the paper sets them to?"""

from __future__ import annotations

import dataclasses
from typing import Any

from paper_tables import arms, runs, trained
from paper_tables.jobs import Job
from paper_tables.tables import Measured, Options, Table
from reference import daq
from torchimpl.training.recipe import Recipe

TITLE = "DAQ's constants gamma and sigma, on images held out of training"
NEEDS = "--tune (it takes long), and --data (CIFAR-10) but for training on digits"
PAPER = "gamma = 2; sigma = 1, 2"
SEEDS = {"embedded": 3, "cifar10-short": 1}
INTRO = (
    "1/1-bit DAQ with the paper's constants (Section 4.1 sets them empirically: gamma to 2, sigma of weights to 1 and "
    "of activations to 2), with other gammas, and with both sigmas halved, doubled, and times four: accuracy on "
    "images held out of training. Outputs are the same whatever they are; gamma only multiplies gradients, and sigma "
    "shapes them. The rates are those that were chosen with the paper's constants, so that a change of the gradients' "
    "level counts as well, and chosen on these very images held out: both favour the paper's constants."
)


def _with(gamma: float = daq.GAMMA, times: float = 1.0) -> tuple[str, dict[str, Any]]:
    weight, activation = (times * daq.SIGMA[role] for role in ("weight", "activation"))
    sigmas = {"weight_options": {"sigma": weight}, "input_options": {"sigma": activation}}
    return f"gamma = {gamma:g}; sigma = {weight:g}, {activation:g}", {"gamma": gamma} | sigmas


ARMS = dict([_with(), *map(_with, (0.5, 1.0, 4.0, 8.0)), *(_with(times=t) for t in (0.5, 2.0, 4.0))])


def _recipe(arm: str, profile: str, seed: int) -> Recipe:
    made = runs.DAQ.recipe(profile, "1/1", seed)
    return dataclasses.replace(made, options={**made.options, **ARMS[arm]})


def jobs(options: Options) -> list[Job]:
    """Return a job for each arm and profile."""
    return arms.jobs_of("constants", ARMS, _recipe, SEEDS, options, held_out=True)


def run(options: Options, measured: Measured) -> Table:
    """Show the means, and how far they are from those with the paper's constants."""
    shown = [runs.with_seeds(measured[job.place]) for job in jobs(options)]
    said = []
    for profile in SEEDS:
        places = arms.places_of("constants", ARMS, profile)
        found = arms.gains({arm: measured[place] for arm, place in places.items()}, PAPER)
        if found is not None:
            said.append(f"{trained.LABELS[profile]}: against the paper's constants, {found}.")
    columns = tuple(trained.LABELS[profile] for profile in SEEDS)
    return Table("constants", TITLE, INTRO, tuple(shown), findings=tuple(said), columns=columns)


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("constants"))
