"""Networks that the suite trains: who takes part, and what a run leaves, a measurement each in the table "training".

Tables 5 to 7 and Figure 6 show what these runs say. Every contender has the same network, start, schedule and seeds;
its rates were chosen, from the same grid for all, on images held out of training (`paper_tables.tuning`).
"""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paper_tables import cells, keys, verdicts
from paper_tables.cells import Cell, Detail, Measurement, Place
from paper_tables.jobs import Job, command_of
from paper_tables.tables import InputError, Measured, Options, writing
from reference import daq_theory
from torchimpl import sources
from torchimpl.checkpoints import CheckpointError
from torchimpl.data import cifar10, digits
from torchimpl.data.cifar10 import DataError
from torchimpl.training import batches, bfloat16, slopes, store, trainer
from torchimpl.training.recipe import Recipe, recipe
from torchimpl.training.trainer import Device, State

TABLE = "training"
LONG = ("cifar10-short", "cifar10")  # profiles that need CIFAR-10, whose runs are recorded
WIDTHS: dict[str, tuple[int | None, int | None]] = {"FP": (None, None), "1/1": (1, 1), "1/32": (1, None), "2/2": (2, 2)}


# Of a rehearsal on another kind of machine: about 1.4 times what two threads, other convolutions, or a processor of
# another maker moved it. The last moved 95 rehearsals, of which 90 did not diverge, by 3e-7, 3e-5 (relative),
# 0.054 and 42.
BOUNDS = {
    "rehearsal first loss": (0.015, 0.0),  # absolute, and relative
    "rehearsal gradient": (0.0, 0.3),  # one code that falls otherwise, through 18 layers of slopes
    "rehearsal loss": (0.075, 0.0),
    "rehearsal correct": (60.0, 0.0),  # of 512; the network is hardly trained
}
OF_STEPS = ("rehearsal loss", "rehearsal correct")  # chaos, in a rehearsal that diverges
DIVERGED = 10.0  # mean loss of a rehearsal's steps; of answers by chance it is 2.3


@dataclass(frozen=True)
class Contender:
    """Who takes part, at some bit-widths.

    Attributes
    ----------
    name : str
        As the tables show it.
    method : str or None
        In the registry; None for full precision.
    widths : tuple of str
        Among `WIDTHS`.
    options : mapping
        Of its quantizers.
    activation : {"relu", "hardtanh"}
        Of the network at 1/1, and of the full-precision network that it starts from.
    network : str
        A function of ours that builds it, in place of the profile's network, whose name it is given.
    rates : str
        Whose tuned rates it has: its own, or for a variation on DAQ those of DAQ, since a row of an ablation changes
        one thing.
    """

    name: str
    method: str | None
    widths: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    activation: str = "relu"
    network: str = ""
    rates: str = ""

    def recipe(self, profile: str, width: str, seed: int, *, tuned: bool = True) -> Recipe:
        """Return the recipe of a run: the profile's, if `tuned` with the rates that were found on images held out."""
        fields: dict[str, Any] = {"method": self.method, "bits": WIDTHS[width], "options": self.options}
        if self.network:
            own = {"network": recipe(profile).network, "method": self.method, **self.options}
            fields = {"network": self.network, "options": own}
        return recipe(
            profile,
            **fields,
            activation=self.activation if width in ("FP", "1/1") else "relu",
            seed=seed,
            **(tuned_rates(self.rates or self.name, profile) if tuned else {}),
        )


FULL_PRECISION = Contender("full precision", None, ("FP",))
FULL_PRECISION_HARDTANH = Contender(
    "full precision, Hardtanh", None, ("FP",), activation="hardtanh", rates=FULL_PRECISION.name
)
DAQ = Contender("DAQ", "daq", ("1/1", "1/32", "2/2"), {"variant": "paper"})
DAQ_RELEASED = Contender("DAQ, released kernel", "daq", ("1/1", "1/32"), {"variant": "released"})
STE = Contender("STE", "ste", ("1/1", "1/32", "2/2"), {"variant": "half_down"})
DOREFA = Contender("DoReFa", "dorefa", ("1/1", "1/32"))
LQNETS = Contender("LQ-Nets", "lqnets", ("1/32",))
DSQ = Contender("DSQ", "dsq", ("1/1", "1/32"))
IRNET = Contender("IR-Net", "irnet", ("1/1", "1/32"), activation="hardtanh")
LSQ = Contender("LSQ", "lsq", ("2/2",))
MAIN = (FULL_PRECISION, FULL_PRECISION_HARDTANH, DAQ, DAQ_RELEASED, STE, DOREFA, LQNETS, DSQ, IRNET, LSQ)


def _dasr(name: str, variant: str, **options: Any) -> Contender:
    return Contender(name, "dasr", ("1/1",), {"variant": variant, **options}, rates=DAQ.name)


SOFT_ARGMAX = {beta: _dasr(f"soft argmax, beta = {beta}", "soft_argmax", beta=beta) for beta in (10, 20, 60, 150)}
KERNEL = {beta: _dasr(f"kernel soft argmax, beta = {beta}", "kernel", beta=beta) for beta in (4, 8, 12, 24)}
ANNEALED = _dasr("annealing, beta from 2 to 48", "kernel", annealed=True)
COMBINED = {beta: _dasr(f"combined STE, beta = {beta}", "combined_ste", beta=beta) for beta in (4, 12, 24)}
COMBINED_ADAPTIVE = _dasr("combined STE, beta*", "combined_ste_adaptive")
COMBINED_WITH_GAIN = dataclasses.replace(
    COMBINED_ADAPTIVE,
    name="combined STE, beta*, slopes times 1.313",
    options={"variant": "combined_ste_adaptive", "gain": daq_theory.combine_ste_ratio()},
    network="torchimpl.training.slopes:with_gain",
)
CONTENDERS = (
    *MAIN,
    *SOFT_ARGMAX.values(),
    *KERNEL.values(),
    ANNEALED,
    *COMBINED.values(),
    COMBINED_ADAPTIVE,
    COMBINED_WITH_GAIN,
)


def first_of(made: Recipe, *, tuned: bool = True) -> Recipe | None:
    """Return the recipe of the full-precision network that a run starts from: of the same network, profile and seed."""
    if made.method is None and ":" not in made.network:
        return None
    contender = FULL_PRECISION if made.activation == "relu" else FULL_PRECISION_HARDTANH
    found = contender.recipe(made.profile, "FP", made.seed, tuned=tuned)
    network = found.network if ":" in made.network else made.network
    return dataclasses.replace(found, network=network, normalize=made.normalize)


def tuned_place(name: str, profile: str) -> Place:
    """Where the tuned rates of a contender stand."""
    return Place("DAQ", "tuning", name, profile)


def tuned(name: str, profile: str) -> Measurement | None:
    """Return what is recorded of the search for a contender's rates; None where none were sought."""
    place = tuned_place(name, profile)
    try:
        return cells.read(cells.RESULTS / place.table / place.filename, Measurement)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{error}; restore it from the repository") from None


def tuned_rates(name: str, profile: str) -> dict[str, float]:
    """Return the rates recorded for a contender, and none where none were sought."""
    found = tuned(name, profile)
    return {field: float(found.detail[field]) for field in ("rate", "quantizer_rate")} if found else {}  # type: ignore[arg-type]


def at_an_edge(found: Measurement) -> str:
    """Say which of the rates that were chosen is at an edge of what was tried; empty if none is.

    The grid grows a few times only: beyond, there may be better ones.
    """
    chosen = []
    for words, name in (("weights", "rate"), ("quantizers", "quantizer_rate")):
        tried = found.detail[f"{name}s"]
        assert isinstance(tried, tuple)
        if found.detail[name] in (min(tried), max(tried)) and len(set(tried)) > 1:
            chosen.append(words)
    return f"the rate of {' and of '.join(chosen)} is at an edge of what was tried" if chosen else ""


def place(contender: Contender, width: str, profile: str, seed: int) -> Place:
    """Where the measurement of a run stands."""
    return Place("DAQ", TABLE, f"{contender.name}, {width}", f"{profile}, seed {seed}")


def key_of(made: Recipe) -> str:
    """Hash what shapes a run: the harness and the method; the recipe, that of its start, the images."""
    return keys.key(modules(made), **configuration(made))


def modules(made: Recipe) -> list[str]:
    """Return the modules that shape a run, for its key."""
    found = ["torchimpl.training.trainer", *sources.method_modules(made.method)]
    if ":" in made.network:
        found.append(made.network.partition(":")[0])
        found += [module for method in slopes.methods(made.options) for module in sources.method_modules(method)]
    return found


def configuration(made: Recipe) -> dict[str, Any]:
    """Return all that shapes a run but the sources, for its key."""
    first = first_of(made)
    images = (cifar10 if made.images == "cifar10" else digits).SHA256
    return {"recipe": made.as_json(), "start": first and first.as_json(), "images": images}


def device_of(options: Options) -> Device:
    """Return where, and how, the command line wants networks trained."""
    return Device(options.device, options.compiled)


def jobs(options: Options, contenders: Iterable[Contender], widths: Collection[str] = tuple(WIDTHS)) -> list[Job]:
    """Return a job for each run at these bit-widths, of the profile asked for and of those that may be recorded."""
    return [
        job(options, contender, width, profile, seed)
        for profile in dict.fromkeys([options.profile, *LONG])
        for contender in contenders
        for width in contender.widths
        if width in widths
        for seed in range(options.seeds)
    ]


def needs_of(profile: str) -> tuple[str, ...]:
    """Return the options that the runs of Tables 5 to 7 need in a profile; those of other tables need "tune", too."""
    return ("data",) if profile in LONG else ()


def command(profile: str, options: Options) -> str:
    """Return the command that trains the runs of Tables 5 to 7, with as many seeds as were asked for."""
    seeds = f" --seeds {options.seeds}" if options.seeds != Options.seeds else ""
    return command_of("5 6 7", needs_of(profile), profile) + seeds


def job(options: Options, contender: Contender, width: str, profile: str, seed: int) -> Job:
    """Return the job of a run."""
    made = contender.recipe(profile, width, seed)
    return Job(
        place(contender, width, profile, seed),
        "percent",
        key_of(made),
        command(profile, options),
        partial(_measure, made, options.data, options.out / TABLE, device_of(options)),
        needs=needs_of(profile),
        profile=profile,
        parallel=True,
        rehearse=partial(_rehearse, made, options.data),
    )


@cache
def splits(images: str, data: Path | None, *, held_out: bool = False) -> tuple[cifar10.Split, cifar10.Split]:
    """Return the images that train and those that test: see `torchimpl.training.batches.splits`.

    Raises
    ------
    InputError
        If CIFAR-10 is not in the folder `data`.
    """
    try:
        return batches.splits(images, data, held_out=held_out)
    except DataError as error:
        raise InputError(str(error)) from None


@contextmanager
def input_errors(folder: Path) -> Iterator[None]:
    """Turn what may be wrong with images, with files of runs, or with the folder that holds them, into InputError."""
    try:
        with writing(folder):
            yield
    except (DataError, CheckpointError) as error:
        raise InputError(str(error)) from None


def _measure(
    made: Recipe, data: Path | None, folder: Path, device: Device, progress: Callable[[float], None]
) -> dict[str, Any]:
    """Train, and say what came of it."""
    training, test = splits(made.images, data)
    with input_errors(folder):
        state = train(made, folder, training, test, device, progress)
    images = len(test.labels)
    correct = state.correct[-1]
    return {
        "measured": float(verdicts.accuracy(correct, images)),
        "ci95": verdicts.accuracy_interval(correct, images),
        "runs": 1,
        "seeds": (made.seed,),
        "images": images,
        "selection": "last",
        "protocol": protocol(made),
        "seconds": round(state.seconds, 3),
        "detail": {
            "best on test": float(verdicts.accuracy(max(state.correct), images)),
            "accuracy": tuple(float(verdicts.accuracy(c, images)) for c in state.correct),
            "loss": tuple(loss for loss in state.loss if math.isfinite(loss)),
            "undefined": float(state.undefined[-1]),
            "diverged": state.diverged,
            "as in training": _as_in_training(made, state, test),
            "recipe": json.dumps(made.as_json(), sort_keys=True),
            "weights": trainer.digest(state.model),
            "threads": float(torch.get_num_threads()),
            "device": str(device),
            **(rehearsal(made, training, test) if made.images == "cifar10" else {}),  # what is recorded
        },
    }


def job_of_seeds(place: Place, made: Sequence[Recipe], options: Options, *, held_out: bool = False) -> Job:
    """Return the job that trains with each seed: recipes that differ in nothing else.

    Parameters
    ----------
    place : Place
    made : sequence of Recipe
    options : Options
    held_out : bool
        Whether the test is on training images that are held out.
    """
    own = made[0]
    needs = ("tune", *needs_of(own.profile))
    return Job(
        place,
        "percent",
        keys.key(modules(own), runs=[configuration(one) for one in made], held_out=held_out),
        command_of(place.table, needs, own.profile),
        partial(_measure_seeds, made, held_out, options.data, options.out / TABLE, device_of(options)),
        needs,
        own.profile,
        parallel=True,
        rehearse=partial(rehearse, own, partial(splits, own.images, options.data, held_out=held_out)),
    )


def _measure_seeds(
    made: Sequence[Recipe],
    held_out: bool,
    data: Path | None,
    folder: Path,
    device: Device,
    progress: Callable[[float], None],
) -> dict[str, Any]:
    with input_errors(folder):
        training, test = splits(made[0].images, data, held_out=held_out)
        accuracies, seconds = [], 0.0
        for i, one in enumerate(made):
            state = train(one, folder, training, test, device)
            accuracies.append(100 * state.correct[-1] / len(test.labels))
            seconds += state.seconds
            progress((i + 1) / len(made))
    return result_of_seeds(made, accuracies, len(test.labels)) | {
        "seconds": round(seconds, 3),
        "detail": {"accuracies": tuple(accuracies), "device": str(device), **rehearsal(made[0], training, test)},
    }


def result_of_seeds(made: Sequence[Recipe], accuracies: Sequence[float], images: int) -> dict[str, Any]:
    """Return the mean of runs that differ in their seeds alone, as a measurement without its detail."""
    return {
        "measured": float(np.mean(accuracies)),
        "runs": len(made),
        "seeds": tuple(one.seed for one in made),
        "images": images,
        "selection": "last",
        "protocol": protocol(made[0]),
    }


def with_seeds(cell: Cell) -> Cell:
    """Say what each seed gave, of what `job_of_seeds` has measured."""
    if not cell.stands:
        return cell
    values = cell.detail["accuracies"]
    assert isinstance(values, tuple)
    return dataclasses.replace(cell, reason=f"{by_seed(values)}{vouched([cell])}")


def by_seed(values: Sequence[float]) -> str:
    """List what each seed gave.

    >>> by_seed([96.4, 97])
    'by seed: 96.40, 97.00'
    """
    return f"by seed: {', '.join(f'{value:.2f}' for value in values)}"


def vouched(cells: Sequence[Cell]) -> str:
    """Say how many of some measurements were recorded otherwise than things are now, and what lets them stand."""
    why = [str(cell.detail["vouched"]) for cell in cells if "vouched" in cell.detail]
    return "".join(f"; {why.count(each)} recorded {each}" for each in dict.fromkeys(why))


def train(
    made: Recipe,
    folder: Path,
    training: cifar10.Split,
    test: cifar10.Split,
    device: Device,
    progress: Callable[[float], None] = lambda share: None,
) -> State:
    """Train a network, and before it the one that it starts from."""
    first = first_of(made)

    def start() -> Mapping[str, Any]:
        assert first is not None
        return train(first, folder, training, test, device).model

    return store.run(
        made, folder, training, test, start=start if first else None, key_of=key_of, device=device, progress=progress
    )[0]  # fmt: skip


def rehearsal(made: Recipe, training: cifar10.Split, test: cifar10.Split) -> dict[str, Detail]:
    """Rehearse a run on the CPU; what came of it is recorded beside the run."""
    with warnings.catch_warnings(), bfloat16.products():
        warnings.filterwarnings("ignore", ".*its values are NaN")  # of every layer, where rates are too high
        found = trainer.rehearsal(made, training, test)
    numbers = {
        "rehearsal loss": found.loss,
        "rehearsal correct": float(found.correct),
        "rehearsal as in training": float(found.as_in_training),
        "rehearsal first loss": found.first_loss,
        "rehearsal gradient": found.gradient,
    }
    return {
        "rehearsal": found.digest,
        **{name: as_json(value) for name, value in numbers.items()},
        "threads": float(torch.get_num_threads()),
    }


def as_json(value: float) -> float:
    """Return a number that is never negative as JSON has it: without NaN and infinities, which are -1.

    >>> as_json(0.5), as_json(float("nan"))
    (0.5, -1.0)
    """
    return value if math.isfinite(value) else -1.0


def _rehearse(made: Recipe, data: Path | None, found: Measurement) -> Mapping[str, Detail]:
    return rehearse(made, partial(splits, made.images, data), found)


def rehearse(
    made: Recipe, splits: Callable[[], tuple[cifar10.Split, cifar10.Split]], found: Measurement
) -> Mapping[str, Detail]:
    """Rehearse a run that was recorded with other sources, with as many threads; see `jobs.Job.rehearse`."""
    if "rehearsal" not in found.detail:
        return {}
    threads = torch.get_num_threads()
    torch.set_num_threads(int(float(found.detail.get("threads", threads))))  # type: ignore[arg-type]
    try:
        return stands(found, rehearsal(made, *splits()))
    finally:
        torch.set_num_threads(threads)


def stands(found: Measurement, now: Mapping[str, Detail]) -> Mapping[str, Detail]:
    """Return what a rehearsal adds to a measurement that stands by it, or nothing.

    Everything that was recorded of the rehearsal must be the same. Where it is not, a measurement of another machine or
    with other versions stands if the rehearsal is within `BOUNDS`, which tells what fails to train, hardly more; older
    records tell too little of their machine to know it again, unless the same bits were found on this one since. If the
    recorded rehearsal diverged, its first step alone is compared.
    """
    then, here = found.detail, _machine(cells.hardware(), cells.versions())
    if all(then.get(name, value) == value for name, value in now.items()):
        compiled = ", which is not compiled," if "compiled" in str(then.get("device")) else ""
        said = f"with other sources; a rehearsal{compiled} gives the same bits"
        return {**now, "rehearsed on": here, "vouched": said}
    if here in (_machine(found.hardware, found.versions), then.get("rehearsed on")):
        return {}  # where the bits should be the same
    diverged = not 0 <= float(then.get("rehearsal loss", 0.0)) <= DIVERGED  # type: ignore[arg-type]
    for name in BOUNDS.keys() - (OF_STEPS if diverged else ()):
        absolute, relative = BOUNDS[name]
        one, other = float(now[name]), float(then.get(name, math.nan))  # type: ignore[arg-type]
        if not abs(one - other) <= absolute + relative * abs(other):
            return {}
    where = "on what may be another machine, or with other versions"
    return {"vouched": f"{where}; a rehearsal is within the bounds for that"}


def _machine(hardware: Mapping[str, str], versions: Mapping[str, str]) -> str:
    """Tell in one string what two rehearsals have to share to have the same bits."""
    return json.dumps([dict(hardware), dict(versions)], sort_keys=True)


def _as_in_training(made: Recipe, state: State, test: cifar10.Split) -> float:
    """Accuracy where quantizers compute what they do in training; -1 for full precision."""
    if first_of(made) is None:
        return -1.0
    model = trainer.build(made)
    model.load_state_dict(state.model)
    correct, _ = trainer.test_accuracy(trainer.AsInTraining(model), test, made)
    return float(verdicts.accuracy(correct, len(test.labels)))


def protocol(made: Recipe) -> str:
    """Say in words how a run was made."""
    start = " from the full-precision network of the same seed" if first_of(made) else ""
    epochs = f"{made.epochs} epoch{'s' * (made.epochs != 1)}"
    images = {"cifar10": "CIFAR-10", "digits": "scikit-learn's digits"}[made.images]
    return (
        f"{made.network} ({made.activation}) on {images}, {epochs}{start}, batch {made.batch}, SGD "
        f"{made.rate:g}, Adam {made.quantizer_rate:g} for quantizers, {made.precision}, last epoch"
    )


def found(measured: Measured, contender: Contender, width: str, profile: str, seeds: Sequence[int]) -> list[Cell]:
    """Return the runs that there are, by seed."""
    runs = [measured.get(place(contender, width, profile, seed)) for seed in seeds]
    return [cell for cell in runs if cell is not None and cell.stands]


def curves(found: Sequence[Cell]) -> np.ndarray:
    """Return the accuracy of runs after each epoch, as far as all were trained: shape (runs, epochs).

    What ended early ends the others, too: their mean would jump.
    """
    lines = [np.asarray(cell.detail["accuracy"]) for cell in found]
    shortest = min(map(len, lines), default=0)
    return np.array([line[:shortest] for line in lines])
