"""Jobs: a cell that is measured is one, and one runner measures what is not recorded, writing each cell as it ends."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from paper_tables import cells, executors, keys
from paper_tables.cells import Cell, Detail, Measurement, Place
from paper_tables.executors import Task
from paper_tables.tables import InputError, Measured, Options, Table, console, writing
from torchimpl import files

NEEDED = {
    "data": "--data (CIFAR-10)",
    "tune": "--tune (it takes long)",
    "checkpoints": "--checkpoints (the files DAQ's authors released)",
    "others": "--checkpoints with the folder `others` (python -m paper_tables.released DIR fetches it)",
    "foreign": "brevitas, torchao and onnxruntime (tox -e foreign)",
    "kernels": "ziglang and unicorn (pip install quantgap[arm])",
}
OPTIONS = {"tune": "--tune", "data": "--data DIR", "checkpoints": "--checkpoints DIR"}
SPEED_OVER = 3600.0  # seconds; the time left is told from the speed of the last hour


@dataclass(frozen=True)
class Job:
    """A cell to be measured.

    Attributes
    ----------
    place : Place
        Where the number stands.
    unit : str
    key : str
        Of everything that shapes the number: see `keys.key`.
    command : str
        What measures it.
    measure : callable
        ``measure(progress)`` returns `measured`, `protocol` and what else it knows of the fields of a `Measurement`;
        it calls ``progress`` with the part of its work that is done, from 0 to 1. It can be pickled.
    needs : tuple of str
        The fields and properties of `Options` that it needs; what needs none is this machine's, and stays out of
        ``results/``.
    profile : str or None
        It is measured only if this profile of training was asked for; None: whichever was.
    parallel : bool
        Whether others may run beside it; one that is timed, or uses all cores, is alone.
    rehearse : callable or None
        ``rehearse(found)`` tells whether a measurement that was made with other sources, but the same configuration,
        still stands: it returns what that adds to its detail, "vouched" with the reason among it, else nothing.
    """

    place: Place
    unit: str
    key: str
    command: str
    measure: Callable[[Callable[[float], None]], Mapping[str, Any]]
    needs: tuple[str, ...] = ()
    profile: str | None = None
    parallel: bool = False
    rehearse: Callable[[Measurement], Mapping[str, Detail]] | None = None

    def run(self, progress: Callable[[float], None]) -> Measurement:
        """Measure, and add when, where and with what."""
        progress(0.0)
        start = time.perf_counter()
        found = self.measure(progress)
        taken = {"seconds": round(time.perf_counter() - start, 3)}  # unless what measures knows better
        return Measurement(
            **self.place._asdict(),
            **(taken | dict(found)),
            unit=self.unit,
            key=self.key,
            hardware=cells.hardware(),
            versions=cells.versions(),
        )

    def vouch(self, found: Measurement, progress: Callable[[float], None]) -> Measurement | None:
        """Return a measurement that was made with other sources as one with this key, if a rehearsal lets it stand."""
        assert self.rehearse is not None
        progress(0.0)
        added = self.rehearse(found)
        return dataclasses.replace(found, key=self.key, detail={**found.detail, **added}) if added else None

    def matches(self, found: Measurement | None) -> bool:
        """Whether what was found is a measurement of this very job: the same number, by the same key."""
        return found is not None and (found.place, found.unit, found.key) == (self.place, self.unit, self.key)


def command_of(table: str, needs: Sequence[str], profile: str | None = None) -> str:
    """Return the command that measures what needs these options.

    >>> command_of("5", ("data",), "cifar10")
    'python -m paper_tables --table 5 --profile cifar10 --data DIR'
    """
    chosen = [f"--profile {profile}"] if profile else []
    return " ".join(["python -m paper_tables --table", table, *chosen, *(OPTIONS[name] for name in needs)])


def run(jobs: Iterable[Job], options: Options) -> Measured:
    """Measure what is not recorded and can be, writing each measurement as it ends.

    They go to ``options.out/measured``, and with ``options.record`` to ``results/`` too. What is recorded in either
    with the same key is not measured again, unless ``options.again``.

    Returns
    -------
    mapping of Place to Cell
        As they are to be judged: with the verdict "stale" if recorded with another key, "not run" if not recorded,
        and None if measured.

    Raises
    ------
    InputError
        If a recorded file is damaged (before anything is measured or written), what is given cannot be used, or a
        file cannot be written. What was measured until then is kept.
    """
    wanted = _by_place(jobs)
    found = {place: recorded(job, options) for place, job in wanted.items()}
    waiting = [
        job
        for place, job in wanted.items()
        if _asked_for(job, options) and (options.again or not job.matches(found[place]))
    ]
    doubtful = [
        (job, old)
        for place, job in wanted.items()
        if job.rehearse and (old := found[place]) and not job.matches(old)
        if keys.same_configuration(old.key, job.key)
        if not {*missing(job, options)} - {"tune"} and not options.again  # a rehearsal takes seconds
    ]
    for table in {place.table for place in wanted}:
        files.sweep(options.out / "measured" / table)
        files.sweep(cells.RESULTS / table)
    if options.record:
        for place, job in wanted.items():
            if job.matches(found[place]) and job not in waiting:
                _record(job, found[place])

    def keep(tasks: Mapping[Place, Task], words: str) -> set[Place]:
        kept = set()
        for place, measurement in _executed(tasks, wanted, options, words):
            if measurement is None:
                continue
            with writing(options.out):
                cells.write(options.out / "measured", [measurement])
            if options.record:
                _record(wanted[place], measurement)
            found[place] = measurement
            kept.add(place)
        return kept

    stand = keep({job.place: partial(job.vouch, old) for job, old in doubtful}, "rehearsed")
    measured = keep({job.place: job.run for job in waiting if job.place not in stand}, "measured")
    return {place: shown(job, found[place], recorded=place not in measured) for place, job in wanted.items()}


def _executed(
    tasks: Mapping[Place, Task], jobs: Mapping[Place, Job], options: Options, words: str
) -> Iterator[tuple[Place, Measurement | None]]:
    """Execute tasks, those first that must be alone, and yield each result as it ends."""
    alone = {place: task for place, task in tasks.items() if not jobs[place].parallel}
    beside = {place: task for place, task in tasks.items() if jobs[place].parallel}
    spread = executors.beside(options.workers)
    if options.ray:
        spread = executors.on_ray(options.ray, options.device, compiled=options.compiled)
    with Bars(len(tasks), options.quiet, words) as bars:
        for execute, some in ((executors.in_turn, alone), (spread, beside)):
            for place, measurement in execute(some, bars.report):
                bars.ended(place)
                yield place, measurement


def needed(scripts: Sequence[ModuleType], options: Options, figures: Sequence[ModuleType] = ()) -> list[Job]:
    """Return the jobs of tables and figures."""
    return [job for script in (*scripts, *figures) if hasattr(script, "jobs") for job in script.jobs(options)]


def unused(given: Iterable[str], wanted: Iterable[Job], options: Options) -> list[str]:
    """Say of each folder in `given`, such as "data", that no job was measured with it, and why: a sentence each."""
    sentences = []
    jobs_of = list(wanted)
    for name in given:
        users = _by_place(job for job in jobs_of if name in job.needs)
        if any(_asked_for(job, options) for job in users.values()):
            continue
        lacking = sorted({other for job in users.values() for other in missing(job, options)})
        profiles = sorted({job.profile for job in users.values() if job.profile} - {options.profile})
        others = [NEEDED[other] for other in lacking] + ([f"--profile {' or '.join(profiles)}"] if profiles else [])
        numbers = f"{len(users)} number{'s' * (len(users) != 1)}"
        need = "need" + "s" * (len(users) == 1)
        why = f"the {numbers} that {need} it {need} {' and '.join(others)} too"
        sentences.append(
            f"--{name} was not used to measure: {why if users else 'nothing that was asked for needs it'}."
        )
    return sentences


def regenerate(
    scripts: Sequence[ModuleType], options: Options, figures: Sequence[ModuleType] = ()
) -> tuple[list[Table], Measured]:
    """Measure what tables and figures need, all together, then build and judge the tables."""
    measured = run(needed(scripts, options, figures), options)
    found = [script.run(options, measured) if hasattr(script, "jobs") else script.run(options) for script in scripts]
    return found, measured


def recorded(job: Job, options: Options) -> Measurement | None:
    """Return what is recorded of a job, in ``results/`` or else ``options.out``.

    That with its key, if there is one; else one that a rehearsal could let stand, with the same configuration.

    Raises
    ------
    InputError
        If a file cannot be read, or holds anything but a measurement of this number.
    """
    found = [_read(folder, job.place) for folder in (cells.RESULTS, options.out / "measured")]
    there = [one for one in found if one is not None]
    order = (job.matches, lambda one: keys.same_configuration(one.key, job.key), lambda one: True)
    return next((one for suits in order for one in there if suits(one)), None)


def _read(folder: Path, place: Place) -> Measurement | None:
    path = folder / place.table / place.filename
    remedy = f"`git checkout {path}` or delete it" if folder == cells.RESULTS else "delete it, to measure again"
    try:
        found = cells.read(path, Measurement)
        if found.measured is None:
            raise ValueError(f"{path}: damaged: measured must be a number, got None")
        return dataclasses.replace(found, detail=_Details(found.detail, f"{path}: damaged", remedy))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; {remedy}") from None
    except ValueError as error:
        raise InputError(f"{error}; {remedy}") from None


class _Details(dict[str, Detail]):
    """What a file holds beside its number; where that lacks what somebody looks up, it says so of the file."""

    def __init__(self, found: Mapping[str, Detail] | Iterable[tuple[str, Detail]], what: str = "", remedy: str = ""):
        super().__init__(found)
        self._what, self._remedy = what, remedy

    def __missing__(self, name: str) -> Detail:
        raise InputError(f"{self._what}: detail has no {name!r}; {self._remedy}")


def _record(job: Job, measurement: Measurement | None) -> None:
    """Write a measurement to ``results/``, if it is one that belongs there and does not stand there."""
    if measurement and job.needs and _read(cells.RESULTS, job.place) != measurement:
        with writing(cells.RESULTS, "--record"):
            cells.write(cells.RESULTS, [measurement])


def _by_place(jobs: Iterable[Job]) -> dict[Place, Job]:
    """Return one job for each place: of those for the same, which have the same key, the one with fewer conditions."""
    found: dict[Place, Job] = {}
    for job in jobs:
        other = found.setdefault(job.place, job)
        if other.key != job.key:
            raise ValueError(f"two jobs for {job.place} have different keys")
        if set(job.needs) < set(other.needs):
            found[job.place] = job
    return found


def _asked_for(job: Job, options: Options) -> bool:
    return not missing(job, options) and job.profile in (None, options.profile)


def missing(job: Job, options: Options) -> list[str]:
    """Return what a job needs and is not given."""
    return [name for name in job.needs if getattr(options, name) is None]


def shown(job: Job, found: Measurement | None, *, recorded: bool) -> Cell:
    """Join a job with what was found; the table adds what is printed, and the verdict on what was measured."""
    asked = [NEEDED[name] for name in job.needs]
    if job.profile and (job.profile != Options.profile or not asked):
        asked.append(f"--profile {job.profile}")
    needs = f"needs {' and '.join(asked)}; see README"
    if found is None:
        return Cell(
            **job.place._asdict(),
            unit=job.unit,
            key=job.key,
            value_verdict="not run",
            reason=needs,
            command=job.command,
        )
    fields = {field.name: getattr(found, field.name) for field in dataclasses.fields(Measurement)}
    cell = Cell(**fields, recorded=recorded, command=job.command)
    if job.matches(found):
        return cell
    reason = f"recorded with other sources, configuration or data; {needs}"
    return dataclasses.replace(cell, value_verdict="stale", reason=reason)


class Bars:
    """Two bars of progress: over all jobs, with the time left, and within the one that reported last."""

    def __init__(self, jobs: int, quiet: bool, words: str = "measured") -> None:
        self._words = words
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=quiet or not jobs or not console.is_terminal,
            transient=True,
            speed_estimate_period=SPEED_OVER,
        )
        self._jobs = jobs
        self._done = 0
        self._parts: dict[Place, float] = {}
        self._all = self._progress.add_task("", total=jobs)
        self._one = self._progress.add_task("", total=1.0)
        self._update()

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def report(self, place: Place, part: float) -> None:
        """Show that a job has done a part of its work."""
        self._parts[place] = part
        words = escape(f"table {place.table}: {place.row}, {place.column}")
        self._progress.update(self._one, completed=part, description=words)
        self._update()

    def ended(self, place: Place) -> None:
        """Show that a job has ended."""
        self._parts.pop(place, None)
        self._done += 1
        self._update()

    def _update(self) -> None:
        description = f"{self._done} of {self._jobs} {self._words}"
        self._progress.update(self._all, completed=self._done + sum(self._parts.values()), description=description)
