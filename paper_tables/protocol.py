"""What the paper says and what its released code does, apart and together: kernel, rate, network, normalisation."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from paper_tables import arms, runs, scatter, trained
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
    return arms.jobs_of("protocol", ARMS, _recipe, SEEDS, options)


def run(options: Options, measured: Measured) -> Table:
    """Show the means, what each change is worth, and whether together they are worth their sum."""
    shown = {job.place: runs.with_seeds(measured[job.place]) for job in jobs(options)}
    said = []
    for profile in SEEDS:
        places = arms.places_of("protocol", ARMS, profile)
        found = arms.gains({arm: measured[place] for arm, place in places.items()}, PAPER)
        if found is not None:
            said.append(f"{trained.LABELS[profile]}: against the paper's protocol, {found}; {_together(found)}.")
            for arm in found.means:
                cell = shown[places[arm]]
                reason = f"against the paper's protocol {found.said(arm)}; {cell.reason}"
                shown[places[arm]] = dataclasses.replace(cell, reason=reason)
    columns = tuple(trained.LABELS[profile] for profile in SEEDS)
    return Table("protocol", TITLE, INTRO, tuple(shown.values()), findings=tuple(said), columns=columns)


def _together(found: arms.Gains) -> str:
    """Say whether the changes together are worth their sum."""
    alone = sum(found.means[arm] for arm in CHANGES)
    off = found.means[TOGETHER] - alone
    # All arms are compared with one: it counts as often as there are changes, less one.
    weights = [1, *([1] * len(CHANGES)), len(CHANGES) - 1]
    half = scatter.half_width(found.spread, found.seeds) * math.sqrt(sum(w**2 for w in weights) / 2)
    interval = f" +/-{half:.1f}" if found.complete else ""
    return f"the {len(CHANGES)} changes alone would add up to {alone:+.1f}; together they are {off:+.1f}{interval} off"


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("protocol"))
