"""On how many test images exactly one of two released networks is right: the discordant pairs of McNemar's test."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from paper_tables import keys, table5
from paper_tables.cells import Cell, Place
from paper_tables.jobs import Job
from paper_tables.tables import InputError, Measured, Options
from torchimpl import checkpoints, disagreement, sources
from torchimpl.data import cifar10

COMMAND = "python -m paper_tables --table significance --data DIR --checkpoints DIR"
PAIRS = tuple(itertools.combinations(table5.RELEASED, 2))


def jobs(options: Options) -> list[Job]:
    """Return a job for each pair of released networks."""
    found = []
    for pair in PAIRS:
        released = [table5.RELEASED[column] for column in pair]
        key = keys.key(
            ["torchimpl.disagreement", *keys.ACCURACY, *sources.method_modules("daq")],
            checkpoints=[one.sha256 for one in released],
            normalization="imagenet",
            images=cifar10.SHA256["test"],
        )
        place = Place("DAQ", "significance", f"right in only one of the released {pair[0]} and {pair[1]}", "CIFAR-10")
        measure = partial(_measure, options.data, options.checkpoints, pair)
        found.append(Job(place, "images", key, COMMAND, measure, ("data", "checkpoints")))
    return found


def _measure(
    data: Path | None, folder: Path | None, pair: tuple[str, str], progress: Callable[[float], None]
) -> dict[str, Any]:
    """Count the test images on which exactly one of two released networks is right."""
    assert data is not None  # the job needs it
    assert folder is not None
    mean, std = checkpoints.NORMALIZATIONS["imagenet"]
    answers = []
    done = 0
    try:
        test = cifar10.load(data, "test")
        images = len(test.labels)

        def advance(more: int) -> None:
            nonlocal done
            done += more
            progress(done / images / 2)

        for released in (table5.RELEASED[column] for column in pair):
            method = None if released.bits == (None, None) else "daq"
            checkpoint = checkpoints.read(folder / released.filename, sha256=released.sha256)
            model = checkpoints.load(checkpoint, "resnet20_released", method, released.bits)
            answers.append(disagreement.right(model, test.images, test.labels, mean=mean, std=std, progress=advance))
    except (cifar10.DataError, checkpoints.CheckpointError) as error:
        raise InputError(str(error)) from None
    first, second = disagreement.discordant(*answers)
    return {
        "measured": float(first + second),
        "runs": 1,
        "images": images,
        "protocol": table5.PROTOCOL,
        "detail": {"first alone": float(first), "second alone": float(second)},
    }


def measured_cells(options: Options, measured: Measured) -> list[Cell]:
    """Show the disagreement of each pair of released networks."""
    found = []
    for job in jobs(options):
        cell = measured[job.place]
        if cell.value_verdict is None and cell.measured is not None and cell.images:
            share = 100 * cell.measured / cell.images
            only = [cell.detail[name] for name in ("first alone", "second alone")]
            reason = f"{share:.1f} % of {cell.images} test images; {only[0]:g} the one, {only[1]:g} the other"
            cell = dataclasses.replace(cell, reason=reason)
        found.append(cell)
    return found
