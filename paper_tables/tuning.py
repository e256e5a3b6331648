"""Rates of learning, sought in the same way for every contender: on images held out of training, never on test images.

Each contender has the same grid of rates for weights and for quantizers, the same schedule, start and seed, which no
reported run has. Where the best lies at an edge, the grid grows there. The tables train with what is recorded here.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from paper_tables import keys, runs, verdicts
from paper_tables.cells import Detail, Measurement
from paper_tables.jobs import Job, command_of
from paper_tables.runs import MAIN
from paper_tables.tables import Measured, Options, Table
from torchimpl import sources
from torchimpl.data.cifar10 import Split
from torchimpl.optimization import parameter_groups
from torchimpl.training import store, trainer
from torchimpl.training.recipe import Recipe
from torchimpl.training.trainer import Device

TITLE = "Rates of learning, chosen on images held out of training"
NEEDS = "--tune, and --data (CIFAR-10) for all profiles but the embedded one"
SEED = 1000  # of no reported run
RATES = (0.01, 0.03, 0.1)
QUANTIZER_RATES = (1e-4, 1e-3, 1e-2)
STEP = 10**0.5  # by which the grid of the weights grows; that of the quantizers by its square
LIMIT = 3  # times that a grid may grow to one side
PROFILES = {"embedded": 1297, "cifar10-short": 20_000}  # most training images an attempt of a quantized network sees
Pair = tuple[float, float]


def jobs(options: Options) -> list[Job]:
    """Return a job for each contender with rates of its own."""
    found = []
    for profile, images in PROFILES.items():
        for contender in MAIN:
            if contender.rates:
                continue
            made = dataclasses.replace(
                contender.recipe(profile, contender.widths[0], SEED, tuned=False), rate=0.0, quantizer_rate=0.0
            )
            epochs = made.epochs if made.method is None or profile == "embedded" else 1
            made = dataclasses.replace(made, epochs=epochs)
            first = runs.first_of(made, tuned=False)  # so that rates can be sought in any order
            key = keys.key(
                ["torchimpl.training.trainer", *sources.method_modules(made.method)],
                recipe=made.as_json(),
                first=first and first.as_json(),
                grid=[RATES, QUANTIZER_RATES, LIMIT],
                images=images,
            )
            rehearse = partial(_rehearse, made, options.data)
            measure = partial(
                _measure, made, first, images, options.data, options.out / "tuning", runs.device_of(options)
            )
            place = runs.tuned_place(contender.name, profile)
            needs = ("tune", *runs.needs_of(profile))
            command = f"{command_of('tuning', needs, profile)} --record"
            found.append(Job(place, "percent", key, command, measure, needs, profile, parallel=True, rehearse=rehearse))
    return found


def run(options: Options, measured: Measured) -> Table:
    """Show the rates that were chosen, and what they gave on the images held out."""
    found = [measured[job.place] for job in jobs(options)]
    shown = []
    for cell in found:
        if cell.stands:
            own = f", quantizers {cell.detail['quantizer_rate']:g}" if cell.detail["quantizer_rate"] else ""
            rates = f"weights {cell.detail['rate']:g}{own}"
            edge = runs.at_an_edge(cell)
            tried = len(cell.detail["accuracies"])  # type: ignore[arg-type]
            reason = f"{rates}; best of {tried}{edge and f'; {edge}'}{runs.vouched([cell])}"
            cell = dataclasses.replace(cell, reason=reason)
        shown.append(cell)
    intro = (
        "Accuracy on images held out of training with the best of a grid of rates, the same for all: for weights "
        f"{_text(RATES)}, for quantizers {_text(QUANTIZER_RATES)}, and beyond where the best lies at an edge, in "
        f"{LIMIT} rounds at most. They are sought at the first of a contender's bit-widths, and used at all: at 1/32, "
        "where no activation's slope multiplies another's, others might be better. On CIFAR-10 an attempt of a "
        f"quantized network is one epoch on {PROFILES['cifar10-short']:,} images, far less than the six on 50,000 for "
        "which its rates are used; the papers' 400 epochs have the paper's rates. These are not results: they decide "
        "with which rates the other tables train."
    )
    return Table("tuning", TITLE, intro, tuple(shown), columns=tuple(PROFILES), layout="list")


def _text(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _measure(
    made: Recipe,
    first: Recipe | None,
    images: int,
    data: Path | None,
    folder: Path,
    device: Device,
    progress: Callable[[float], None],
) -> dict[str, Any]:
    """Try the grid, and more of it while the best lies at an edge."""
    with runs.input_errors(folder):
        return _sought(made, first, images, data, folder, device, progress)


def _sought(
    made: Recipe,
    first: Recipe | None,
    images: int,
    data: Path | None,
    folder: Path,
    device: Device,
    progress: Callable[[float], None],
) -> dict[str, Any]:
    training, held_out = runs.splits(made.images, data, held_out=True)
    start: Callable[[], Mapping[str, Any]] | None = None
    if first is not None:
        weights = store.run(first, folder, training, held_out, key_of=_key, device=device)[0].model
        start = partial(dict, weights)
        training = Split(training.images[:images], training.labels[:images], training.sha256)

    tried: dict[Pair, float] = {}
    seconds: list[float] = []

    def attempt(pair: Pair) -> float:
        if pair not in tried:
            own = dataclasses.replace(made, rate=pair[0], quantizer_rate=pair[1])
            path_key = partial(_key, first=first, images=images)
            state, _ = store.run(own, folder, training, held_out, start=start, key_of=path_key, device=device)
            seconds.append(state.seconds)
            tried[pair] = 100 * state.correct[-1] / len(held_out.labels)
            progress(min(len(tried) / 9, 0.99))
        return tried[pair]

    learned = parameter_groups(trainer.build(made))[1]["params"]
    best = search(attempt, RATES, QUANTIZER_RATES if learned else (0.0,))
    made = dataclasses.replace(made, rate=best[0], quantizer_rate=best[1])
    correct = round(tried[best] * len(held_out.labels) / 100)
    pairs = sorted(tried)
    return {
        "measured": float(verdicts.accuracy(correct, len(held_out.labels))),
        "ci95": verdicts.accuracy_interval(correct, len(held_out.labels)),
        "runs": 1,
        "seeds": (SEED,),
        "images": len(held_out.labels),
        "selection": "last",
        "protocol": f"{runs.protocol(made)}; {len(training.labels)} training images; tested on images held out",
        "seconds": round(sum(seconds), 3),
        "detail": {
            "device": str(device),
            "rate": best[0],
            "quantizer_rate": best[1],
            "rates": tuple(pair[0] for pair in pairs),
            "quantizer_rates": tuple(pair[1] for pair in pairs),
            "accuracies": tuple(tried[pair] for pair in pairs),
            **runs.rehearsal(made, training, held_out),
        },
    }


def _rehearse(made: Recipe, data: Path | None, found: Measurement) -> Mapping[str, Detail]:
    """Rehearse the best attempt: see `jobs.Job.rehearse`."""
    rates: dict[str, Any] = {name: float(found.detail[name]) for name in ("rate", "quantizer_rate")}  # type: ignore[arg-type]
    splits = partial(runs.splits, made.images, data, held_out=True)
    return runs.rehearse(dataclasses.replace(made, **rates), splits, found)


def _key(made: Recipe, **more: Any) -> str:
    described = {name: value.as_json() if isinstance(value, Recipe) else value for name, value in more.items()}
    modules = ["torchimpl.training.trainer", *sources.method_modules(made.method)]
    return keys.key(modules, recipe=made.as_json(), held_out=True, **described)


def search(attempt: Callable[[Pair], float], rates: Sequence[float], others: Sequence[float]) -> Pair:
    """Return the best pair of a grid, which grows beyond an edge while the best lies there; of equals the least.

    >>> search(lambda pair: -abs(pair[0] - 0.3), (0.01, 0.03, 0.1), (0.0,))
    (0.3, 0.0)
    """
    first, second = list(rates), list(others)
    for grown in range(LIMIT + 1):
        tried = {pair: attempt(pair) for pair in itertools.product(first, second)}
        best = max(sorted(tried), key=lambda pair: tried[pair])
        longer = _grown(first, best[0], STEP), _grown(second, best[1], STEP**2)
        if longer == (first, second) or grown == LIMIT:
            break
        first, second = longer
    return best


def _grown(axis: list[float], best: float, factor: float) -> list[float]:
    """Add a value beyond the end of an axis where the best lies, if it has several."""
    if len(axis) == 1 or best not in (axis[0], axis[-1]):
        return axis
    value = float(f"{best / factor if best == axis[0] else best * factor:.1g}")
    return [value, *axis] if best == axis[0] else [*axis, value]


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("tuning"))
