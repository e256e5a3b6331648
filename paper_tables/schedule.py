"""Accuracy against the length of the schedule: do orderings that a short one shows outlast a longer one?"""

from __future__ import annotations

import dataclasses

from paper_tables import arms, runs, scatter, trained, verdicts
from paper_tables.cells import Cell, Place
from paper_tables.jobs import Job, command_of
from paper_tables.tables import Measured, Options, Table
from torchimpl.training.recipe import Recipe

TITLE = "Accuracy against the length of the schedule"
NEEDS = "--tune (it takes long), and --data (CIFAR-10) but for training on digits"
WIDTH = "1/1"
CONTENDERS = (runs.DAQ, runs.DAQ_RELEASED, runs.STE, runs.IRNET)  # IR-Net: the best rival that Table 5 prints at 1/1
SEEDS = {"embedded": dict.fromkeys((3, 10, 30), 3), "cifar10-short": {3: 3, 6: 3, 10: 3, 30: 1}}  # by epochs
OF_TABLES = ("cifar10-short", 6)  # the runs of Table 5, which differ from the others in their length only
IMAGES = {"embedded": "digits", "cifar10-short": "CIFAR-10"}
INTRO = (
    "1/1-bit networks trained for 3, 10 and 30 epochs, each from the full-precision network of the same seed, with "
    "the rates of the profile whatever the length (table tuning; on CIFAR-10 they were sought in one epoch), a cosine "
    "over the whole schedule, and nothing else changed. On CIFAR-10 the runs of Table 5 stand beside them, which have "
    "6 epochs. The paper trains for 400. IR-Net has Hardtanh in the place of ReLU, and a start of its own. "
    "Of one seed, or where no two arms learn, there is no interval."
)


def jobs(options: Options) -> list[Job]:
    """Return a job for each contender, length and profile, and those of the tables' runs."""
    return [
        runs.job_of_seeds(_place(contender, profile, epochs), _recipes(contender, profile, epochs), options)
        for profile, by_length in SEEDS.items()
        for contender in CONTENDERS
        for epochs in by_length
        if (profile, epochs) != OF_TABLES
    ] + _jobs_of_tables(options)


def _jobs_of_tables(options: Options) -> list[Job]:
    """Return the jobs of the tables' runs; for this table they are trained with --tune only, as its own are."""
    profile, epochs = OF_TABLES
    found = [
        runs.job(options, contender, WIDTH, profile, made.seed)
        for contender in CONTENDERS
        for made in _recipes(contender, profile, epochs)
    ]
    needs = ("tune", *runs.needs_of(profile))
    return [dataclasses.replace(job, needs=needs, command=command_of("schedule", needs, profile)) for job in found]


def _place(contender: runs.Contender, profile: str, epochs: int) -> Place:
    return Place("DAQ", "schedule", contender.name, f"{IMAGES[profile]}, {epochs} epochs")


def _recipes(contender: runs.Contender, profile: str, epochs: int) -> list[Recipe]:
    seeds = range(SEEDS[profile][epochs])
    return [dataclasses.replace(contender.recipe(profile, WIDTH, seed), epochs=epochs) for seed in seeds]


def _cells(measured: Measured) -> dict[tuple[str, runs.Contender, int], Cell]:
    """Return what there is by profile, contender and epochs: of the tables' runs their mean, if all of them stand."""
    found = {}
    for profile, by_length in SEEDS.items():
        for contender in CONTENDERS:
            for epochs in by_length:
                if (profile, epochs) == OF_TABLES:
                    cell = _mean(contender, measured)
                else:
                    cell = runs.with_seeds(measured[_place(contender, profile, epochs)])
                found[profile, contender, epochs] = cell
    return found


def _mean(contender: runs.Contender, measured: Measured) -> Cell:
    """Return the mean of the tables' runs of a contender."""
    made = _recipes(contender, *OF_TABLES)
    cells = [measured[runs.place(contender, WIDTH, OF_TABLES[0], one.seed)] for one in made]
    mean = Cell(**_place(contender, *OF_TABLES)._asdict(), unit="percent", command=cells[0].command)
    if wanting := [cell for cell in cells if not cell.stands]:
        return dataclasses.replace(mean, value_verdict=wanting[0].value_verdict, reason=wanting[0].reason)
    accuracies = tuple(float(cell.measured or 0.0) for cell in cells)
    differing = trained.unlike(cells)
    return dataclasses.replace(
        mean,
        **runs.result_of_seeds(made, accuracies, cells[0].images or 0),
        recorded=all(cell.recorded for cell in cells),
        reason=f"{runs.by_seed(accuracies)}{runs.vouched(cells)}{differing and f'; runs differ in {differing}'}",
        seconds=round(sum(cell.seconds or 0.0 for cell in cells), 3),
        detail={"accuracies": accuracies},
    )


def accuracies(measured: Measured) -> dict[str, dict[runs.Contender, dict[int, tuple[float, ...]]]]:
    """Return what seeds gave, by profile, contender and epochs."""
    found: dict[str, dict[runs.Contender, dict[int, tuple[float, ...]]]] = {}
    for (profile, contender, epochs), cell in _cells(measured).items():
        if cell.stands:
            values = cell.detail["accuracies"]
            assert isinstance(values, tuple)
            found.setdefault(profile, {}).setdefault(contender, {})[epochs] = values
    return found


def run(options: Options, measured: Measured) -> Table:
    """Show the means, and say whether the order of DAQ and its rivals changes with the length."""
    columns = tuple(
        f"{IMAGES[profile]}, {epochs} epochs" for profile, by_length in SEEDS.items() for epochs in by_length
    )
    return Table(
        "schedule", TITLE, INTRO, tuple(_cells(measured).values()), findings=tuple(_findings(measured)), columns=columns
    )


def _findings(measured: Measured) -> list[str]:
    """Say how far DAQ is ahead of each other by length, and what of it may be chance."""
    said = []
    for profile, by_contender in accuracies(measured).items():
        lengths = [e for e in SEEDS[profile] if all(e in by_contender.get(one, {}) for one in CONTENDERS)]
        if not lengths:
            continue
        differences: dict[str, list[str]] = {other.name: [] for other in CONTENDERS[1:]}
        chances = {(other, epochs): 1.0 for epochs in SEEDS[profile] for other in differences}
        halves = []
        for epochs in lengths:  # each has a scatter of its own
            found = arms.paired({one.name: by_contender[one][epochs] for one in CONTENDERS}, runs.DAQ.name)
            half = scatter.half_width(found.spread, len(by_contender[runs.DAQ][epochs]))
            halves.append(f"+/-{half:.1f}" if found.spread.known else "none")
            for other in differences:
                dead = " (hardly learned)" if {other, runs.DAQ.name} & found.dead else ""
                differences[other].append(f"{-found.means[other]:+.1f}{dead}")
                chances[other, epochs] = found.chances[other]
        adjusted = dict(zip(chances, verdicts.holm(list(chances.values())), strict=True))
        for other, by_length in differences.items():
            said.append(
                f"{IMAGES[profile]}: DAQ less {other} after {', '.join(map(str, lengths))} epochs: "
                f"{', '.join(by_length)} points (95 % intervals: {', '.join(halves)})."
            )
        beyond: dict[str, list[str]] = {}
        for (other, epochs), p in adjusted.items():
            if p <= scatter.LEVEL:
                beyond.setdefault(other, []).append(str(epochs))
        listed = "; ".join(f"{other} after {' and '.join(some)} epochs" for other, some in beyond.items())
        said.append(
            f"{IMAGES[profile]}: of these differences "
            + (f"those from {listed} are" if beyond else "none is")
            + f" beyond chance (least p = {min(adjusted.values()):.2g}, adjusted for {len(adjusted)})."
        )
    return said


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("schedule"))
