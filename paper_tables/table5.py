"""DAQ's Table 5: ResNet-20 on CIFAR-10. The authors' three released checkpoints, and every method trained alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from paper_tables import keys, reported, runs, trained, verdicts
from paper_tables.cells import Cell, Place
from paper_tables.jobs import Job
from paper_tables.reported import Printed
from paper_tables.tables import InputError, Measured, Options, Table, not_run_cell, printed_text
from paper_tables.trained import Entry, Ordering
from torchimpl import checkpoints, evaluation, sources
from torchimpl.data import cifar10

TITLE = "ResNet-20 on CIFAR-10: the released checkpoints, measured, and the methods trained"
NEEDS = (
    "nothing for training on digits; --data (CIFAR-10) and --checkpoints (the three files that DAQ's authors released)"
)
COMMAND = "python -m paper_tables --table 5 --data DIR --checkpoints DIR"


@dataclass(frozen=True)
class Released:
    """A checkpoint in the folder `results` of the authors' repository, cvlab-yonsei/DAQ on GitHub."""

    filename: str
    sha256: str
    bits: tuple[int | None, int | None]
    selection: str | None = "last"  # None: the file has no schedule that would tell


RELEASED = {
    "FP": Released(
        "cifar10_fp.pth", "992dd27379c66f3ddf43109ae1b29cada412a582b2ec77de319538f606fb16ab", (None, None), None
    ),
    "1/1": Released("cifar10_W1A1.pth", "300e9e57c2ed76da12dadbfe598bda29baa7ffad2c88183110c6e5a7af4c9773", (1, 1)),
    "1/32": Released(
        "cifar10_W1A32.pth", "f24a5e82849c126fd338c764af9c16caa85db92c2c499e3813cbb56349000b78", (1, None)
    ),
}

INTRO = (
    "The paper's accuracies beside those of the checkpoints its authors released, in the network they released (not "
    "quite ResNet-20), with rounding at test time. Each file is of one run; the two quantized ones are its last "
    "epoch, where their schedules end, and of the full-precision one nothing tells which epoch it is. A file that "
    "differs from what is printed refutes nothing, since the number may be of another run. Below them what the suite "
    "trains: each method from the same full-precision network, with the same schedule and seeds, and rates from one "
    "grid (table tuning), on CIFAR-10 in one epoch on 20,000 images; the papers' 400 epochs have the paper's rates. "
    "Rates were sought at 1/1, LQ-Nets' at 1/32 and LSQ's at 2/2, and are used at all bit-widths: at another, an "
    "ordering says as well how far a method's rates carry over. Nothing is concluded of a method whose best rate lies "
    "at an edge of the grid. IR-Net takes signs, so that its 1/1 network has Hardtanh in place of ReLU and a start of "
    "its own, trained with the rates of the ReLU's: it is not like for like."
)
PROTOCOL = "released checkpoint, released network, ImageNet mean and deviation, rounding, all 10,000 test images"
PRINTED_ROWS = {
    runs.FULL_PRECISION: "Ours",
    runs.DAQ: "Ours",
    runs.DAQ_RELEASED: "Ours",
    runs.DOREFA: "DoReFa",
    runs.LQNETS: "LQ-Net",
    runs.DSQ: "DSQ",
    runs.IRNET: "IRNet",
}
ENTRIES = {
    (contender, width): Entry(contender, width, width, printed_row=PRINTED_ROWS.get(contender, ""))
    for contender in runs.MAIN
    for width in contender.widths
}
RIVALS = {
    "1/1": (runs.DOREFA, runs.DSQ, runs.IRNET, runs.STE),
    "1/32": (runs.DOREFA, runs.LQNETS, runs.DSQ, runs.IRNET, runs.STE),
    "2/2": (runs.STE, runs.LSQ),
}
ORDERINGS = tuple(
    Ordering(
        f"DAQ over {rival.name}",
        ENTRIES[runs.DAQ, width],
        ENTRIES[rival, width],
        (f"cifar10-outperforms-{width.replace('/', '-')}",) if ENTRIES[rival, width].printed_row else (),
    )
    for width, rivals in RIVALS.items()
    for rival in rivals
) + tuple(
    Ordering("the paper's kernel over the released one", ENTRIES[runs.DAQ, width], ENTRIES[runs.DAQ_RELEASED, width])
    for width in ("1/1", "1/32")
)
DIFFERS = "released file differs"
OTHERS = "a rival's number, as the DAQ paper prints it; no checkpoint of it is known to the suite"


def jobs(options: Options) -> list[Job]:
    """Return a job for each released checkpoint, and for each training run."""
    return released_jobs(options) + runs.jobs(options, runs.MAIN)


def released_jobs(options: Options) -> list[Job]:
    """Return a job for each released checkpoint."""
    table = reported.tables()["5"]
    found = []
    for column, released in RELEASED.items():
        method = None if released.bits == (None, None) else "daq"
        key = keys.key(
            [*keys.ACCURACY, *sources.method_modules(method)],
            checkpoint=released.sha256,
            bits=released.bits,
            normalization="imagenet",
            images=cifar10.SHA256["test"],
        )
        measure = partial(_measure, options.data, options.checkpoints, released, method)
        place = Place(table.paper, table.table, table.ours, column)
        found.append(Job(place, table.unit_of(column), key, COMMAND, measure, ("data", "checkpoints")))
    return found


def run(options: Options, measured: Measured) -> Table:
    """Judge the released checkpoints' accuracies and the training runs; rivals' numbers are listed as printed."""
    table = reported.tables()["5"]
    ours = released_cells(measured)
    found = tuple(
        ours[column] if row.method == table.ours else not_run_cell(table, row.method, column, printed, OTHERS)
        for row in table.rows
        for column, printed in row.values.items()
    )
    said = [sentence for cell in ours.values() if (sentence := _finding(cell))]
    last = [cell for cell in ours.values() if cell.selection == "last"]
    off = [cell for cell in last if cell.value_verdict == DIFFERS and cell.measured is not None]
    if {Decimal(str(cell.measured)) > Decimal(cell.reported or "NaN") for cell in off} == {True, False}:
        said.append(
            "One checkpoint is below what is printed and one above. If the paper printed each run's best epoch on the "
            "test images, no last epoch could be above it; if it printed the last, these are other runs."
        )
    entries = tuple(ENTRIES.values())
    return Table(
        "5",
        table.title,
        INTRO,
        (*found, *trained.cells(table, entries, ORDERINGS, options, measured)),
        findings=(*said, *trained.findings(entries, options, measured)),
        columns=(*table.columns, "2/2"),
    )


def released_cells(measured: Measured) -> dict[str, Cell]:
    """Return what was measured of each released checkpoint, judged beside what is printed, by column."""
    table = reported.tables()["5"]
    return {
        column: _judged(measured[Place(table.paper, table.table, table.ours, column)], printed)
        for column, printed in table.row(table.ours).values.items()
    }


def _measure(
    data: Path | None, folder: Path | None, released: Released, method: str | None, progress: Callable[[float], None]
) -> dict[str, Any]:
    """Evaluate a checkpoint over the test images."""
    assert folder is not None  # the job needs it
    arguments = ("resnet20_released", method, released.bits)
    found = evaluated(data, folder / released.filename, released.sha256, arguments, "imagenet", progress)
    return found | {"selection": released.selection, "protocol": PROTOCOL}


def evaluated(
    data: Path | None,
    file: Path,
    sha256: str,
    arguments: tuple[str, str | None, tuple[int | None, int | None]],
    normalization: str,
    progress: Callable[[float], None],
) -> dict[str, Any]:
    """Evaluate a released file over the test images; `arguments` are those of `checkpoints.load`.

    Raises
    ------
    InputError
        If data or file are missing, corrupt, or not the released ones.
    """
    assert data is not None  # the job needs it
    try:
        test = cifar10.load(data, "test")
        model = checkpoints.load(checkpoints.read(file, sha256=sha256), *arguments)
    except (cifar10.DataError, checkpoints.CheckpointError) as error:
        raise InputError(str(error)) from None
    mean, std = checkpoints.parse_normalization(normalization)
    images = len(test.labels)
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        progress(done / images)

    correct, _ = evaluation.count_correct(model, test.images, test.labels, mean=mean, std=std, progress=advance)
    return {
        "measured": float(verdicts.accuracy(correct, images)),
        "ci95": verdicts.accuracy_interval(correct, images),
        "runs": 1,
        "images": images,
    }


def _judged(cell: Cell, printed: Printed) -> Cell:
    """Set a measured accuracy beside the printed one."""
    selection = cell.selection and RELEASED[cell.column].selection
    cell = dataclasses.replace(cell, reported=printed_text(printed), selection=selection)
    if cell.value_verdict is not None or cell.measured is None or cell.images is None:
        return cell
    assert isinstance(printed.value, Decimal)
    correct = round(cell.measured * cell.images / 100)
    verdict, reason = verdicts.judge_released(correct, cell.images, printed.value)
    return dataclasses.replace(cell, value_verdict=verdict, reason=reason)


def _finding(cell: Cell) -> str:
    if cell.value_verdict != DIFFERS:
        return ""
    _, interval, counted = cell.reason.split("; ")
    return f"{cell.column}: the paper prints {cell.reported} %; with the released checkpoint {counted}; {interval}."


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("5"))
