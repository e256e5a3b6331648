"""DAQ's Table 7: the temperature controller against annealing and against STE combined with DASR, trained and timed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from paper_tables import cells, keys, reported, runs, trained
from paper_tables.cells import Cell, Place
from paper_tables.jobs import Job
from paper_tables.runs import Contender
from paper_tables.tables import Measured, Options, Table, not_run_cell
from paper_tables.trained import Entry, Ordering
from torchimpl import sources, timing

TITLE = "The temperature controller against annealing and combined STE, trained and timed"
NEEDS = "nothing for training on digits, and half a minute for timing; --data (CIFAR-10) for the other profiles"
INTRO = (
    "As printed, and as trained by the suite, all with the rates of DAQ (table tuning) and the paper's kernel. The "
    "paper gives no temperature for the combined STE, so several are run. Each slope of combined STE at beta* is "
    "DAQ's over coth(1) = 1.313: DAQ is itself a combined STE. With its slopes multiplied back the two differ by "
    "rounding alone, then by single codes: how far apart they come out says what chance does."
)
WHY = "it takes training by the paper's protocol, on its card; what the suite measures for it has rows of its own"
ACCURACY, TIME = "Top-1 accuracy", "Time/iters"
CONTROLLER = "Temperature Controller"
BATCH = 32
PRINTED_ROWS: dict[Contender, str] = {
    runs.DAQ: CONTROLLER,
    runs.ANNEALED: "Annealing",
    **dict.fromkeys((*runs.COMBINED.values(), runs.COMBINED_ADAPTIVE, runs.COMBINED_WITH_GAIN), "Combine STE"),
}
ENTRIES = {contender: Entry(contender, "1/1", ACCURACY, printed_row=row) for contender, row in PRINTED_ROWS.items()}
ORDERINGS = tuple(
    Ordering(f"controller over {other.name}", ENTRIES[runs.DAQ], ENTRIES[other], ("controller-large-margin",))
    for other in ENTRIES
    if other not in (runs.DAQ, runs.COMBINED_WITH_GAIN)  # which is DAQ, but for rounding
)
TIMED = {
    "Annealing": runs.ANNEALED,
    "Combine STE": runs.COMBINED[12],
    CONTROLLER: runs.DAQ,
}
FORMS = {"closed form": {}, "by autograd": {"literal": True}}


def jobs(options: Options) -> list[Job]:
    """Return a job for each training run, and one for each form in which the alternatives are timed by turns."""
    found = runs.jobs(options, (runs.FULL_PRECISION, *ENTRIES), ("FP", "1/1"))
    for form, extra in FORMS.items():
        key = keys.key(
            ["torchimpl.timing", *sources.method_modules("daq"), *sources.method_modules("dasr")],
            form=extra,
            batch=BATCH,
            hardware=cells.hardware(),
            versions=cells.versions(),
            threads=torch.get_num_threads(),
        )
        command = "python -m paper_tables --table 7 --again"
        found.append(Job(_place(form), "ms", key, command, partial(_measure, extra)))
    return found


def _place(form: str) -> Place:
    return Place("DAQ", "7", f"time of a step, {form}", TIME)


def _measure(extra: dict[str, Any], progress: Callable[[float], None]) -> dict[str, Any]:
    """Time the alternatives by turns; the cell's number is the controller's."""
    steps = {
        name: timing.training_step(contender.method, (1, 1), batch=BATCH, **contender.options, **extra)
        for name, contender in TIMED.items()
    }
    rounds = timing.by_turns(steps, rounds=9)
    medians = {name: 1000 * times[len(times) // 2] for name, times in rounds.items()}
    quartiles = {
        f"{name}, {end} quartile": 1000 * times[int(share * (len(times) - 1))]
        for name, times in rounds.items()
        for end, share in (("lower", 0.25), ("upper", 0.75))
    }
    return {
        "measured": medians[CONTROLLER],
        "protocol": f"a step of ResNet-20 at 1/1, batch {BATCH}, float32, CPU, {torch.get_num_threads()} threads",
        "detail": medians | quartiles,
    }


def run(options: Options, measured: Measured) -> Table:
    """Set the trained rows and the times beside the printed ones."""
    table = reported.tables()["7"]
    printed = tuple(
        not_run_cell(table, row.method, column, value, WHY)
        for row in table.rows
        for column, value in row.values.items()
    )
    entries = tuple(ENTRIES.values())
    times = [cell for form in FORMS for cell in _times(form, measured[_place(form)])]
    return Table(
        "7",
        table.title,
        INTRO,
        (*printed, *trained.cells(table, entries, ORDERINGS, options, measured), *times),
        findings=(
            *trained.findings(entries, options, measured),
            *filter(None, (_during_training(options, measured, profile) for profile in trained.LABELS)),
            *(_slower(measured[_place(form)], form) for form in FORMS),
        ),
        columns=table.columns,
    )


def _during_training(options: Options, measured: Measured, profile: str) -> str:
    """Say after how many epochs the controller is ahead of each other row."""
    own = ENTRIES[runs.DAQ].runs(measured, profile, options.seeds).cells
    said = []
    for other in (ordering.less for ordering in ORDERINGS):
        others = other.runs(measured, profile, options.seeds).cells
        if seeds := sorted(own.keys() & others.keys()):
            curves = runs.curves([some[seed] for some in (own, others) for seed in seeds])
            ours, theirs = curves[: len(seeds)].mean(axis=0), curves[len(seeds) :].mean(axis=0)
            ahead = f"after {int((ours > theirs).sum())} of {len(ours)} epochs"
            said.append(f"{other.contender.name}: {ahead} ({len(seeds)} seed{'s' * (len(seeds) != 1)})")
    return (
        f"{trained.LABELS[profile]}, tested by rounding after each epoch (Figure 6 draws it, and STE, which is no row "
        f"here): on average over seeds the controller is ahead of {'; '.join(said)}."
        if said
        else ""
    )


def _times(form: str, cell: Cell) -> list[Cell]:
    printed = reported.tables()["7"]
    found = []
    for name in TIMED:
        low, high = (float(cell.detail[f"{name}, {end} quartile"]) for end in ("lower", "upper"))  # type: ignore[arg-type]
        found.append(
            dataclasses.replace(
                cell,
                row=f"{name}, {form}",
                measured=float(cell.detail[name]),  # type: ignore[arg-type]
                reported=f"{printed.row(name).values[TIME].value}",
                reason=f"half of the times are from {low:.0f} to {high:.0f} ms; printed for an RTX 2080Ti: no verdict",
            )
        )
    return found


def _slower(cell: Cell, form: str) -> str:
    """Say what the controller costs, if the spread of times lets it be said."""
    own = [float(cell.detail[f"{CONTROLLER}, {end} quartile"]) for end in ("lower", "upper")]  # type: ignore[arg-type]
    said = []
    for name in TIMED:
        if name == CONTROLLER:
            continue
        other = [float(cell.detail[f"{name}, {end} quartile"]) for end in ("lower", "upper")]  # type: ignore[arg-type]
        ratio = float(cell.detail[CONTROLLER]) / float(cell.detail[name])  # type: ignore[arg-type]
        apart = own[0] > other[1] or own[1] < other[0]
        said.append(f"{ratio:.2f} times {name.lower()}'s" + ("" if apart else " (within the spread)"))
    return f"A step with the controller, {form}, takes {' and '.join(said)}; printed are 1.04 and 1.03."


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("7"))
