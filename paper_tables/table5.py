"""DAQ's Table 5: ResNet-20 on CIFAR-10. The authors' three released checkpoints, over the 10,000 test images."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path

from rich.progress import Progress

from paper_tables import cells, reported, verdicts
from paper_tables.cells import Cell
from paper_tables.tables import InputError, Options, Table, console, not_run_cell
from torchimpl import checkpoints, evaluation
from torchimpl.data import cifar10

TITLE = "ResNet-20 on CIFAR-10: the released checkpoints, measured"
NEEDS = "--data (CIFAR-10) and --checkpoints (the three files that DAQ's authors released)"
COMMAND = "python -m paper_tables --table 5 --data DIR --checkpoints DIR"


@dataclass(frozen=True)
class Released:
    """A checkpoint in the folder `results` of the authors' repository, cvlab-yonsei/DAQ on GitHub."""

    filename: str
    sha256: str
    bits: tuple[int | None, int | None]


RELEASED = {
    "FP": Released("cifar10_fp.pth", "992dd27379c66f3ddf43109ae1b29cada412a582b2ec77de319538f606fb16ab", (None, None)),
    "1/1": Released("cifar10_W1A1.pth", "300e9e57c2ed76da12dadbfe598bda29baa7ffad2c88183110c6e5a7af4c9773", (1, 1)),
    "1/32": Released(
        "cifar10_W1A32.pth", "f24a5e82849c126fd338c764af9c16caa85db92c2c499e3813cbb56349000b78", (1, None)
    ),
}

INTRO = (
    "The paper's accuracies beside those of the checkpoints its authors released, in the network they released "
    "(not quite ResNet-20), with rounding at test time. The released files are the last epoch of one run each."
)
PROTOCOL = "released checkpoint, released network, ImageNet mean and deviation, rounding, all 10,000 test images"
OTHERS = "a rival's number, as the DAQ paper prints it; no checkpoint of it is known to the suite"


def run(options: Options) -> Table:
    """Evaluate the checkpoints if data and checkpoints are given; otherwise show what is recorded, or not run.

    Raises
    ------
    InputError
        If data or a checkpoint is missing, corrupt, or not the released one.
    """
    table = reported.tables()["5"]
    ours = table.row(table.ours).values
    blanks = {column: _blank(table, column) for column in RELEASED}
    if options.data and options.checkpoints:
        measured = _measure(options.data, options.checkpoints, blanks, options.quiet)
    else:
        measured = {column: cells.recorded(blank) for column, blank in blanks.items()}
    found = []
    for row in table.rows:
        for column, printed in row.values.items():
            is_ours = row.method == table.ours and column in RELEASED
            cell = measured[column] if is_ours else not_run_cell(table, row.method, column, printed, OTHERS)
            found.append(cell)
    wrong = [_finding(measured[column], ours[column].value) for column in RELEASED]
    off = [cell for cell in measured.values() if cell.value_verdict == "contradicted" and cell.measured is not None]
    if {Decimal(str(cell.measured)) > Decimal(cell.reported or "NaN") for cell in off} == {True, False}:
        wrong.append(
            "One checkpoint is below what is printed and one above. If the paper printed each run's best epoch on the "
            "test images, no last epoch could be above it; if it printed the last, these are other runs."
        )
    return Table("5", table.title, INTRO, tuple(found), wrong=tuple(filter(None, wrong)), columns=table.columns)


def _blank(table: reported.ReportedTable, column: str) -> Cell:
    """Return the cell of a released checkpoint before it is measured."""
    released = RELEASED[column]
    missing = "needs --data (CIFAR-10) and --checkpoints (the files DAQ's authors released); see README"
    cell = not_run_cell(table, table.ours, column, table.row(table.ours).values[column], missing)
    return dataclasses.replace(
        cell,
        command=COMMAND,
        source_sha256=cells.source_digest(
            (
                "torchimpl.checkpoints",
                "torchimpl.evaluation",
                "torchimpl.data.cifar10",
                "torchimpl.quantizers.daq",
            ),
            checkpoint=released.sha256,
            bits=released.bits,
            normalization="imagenet",
            images=cifar10.SHA256["test"],
        ),
    )


def _measure(data: Path, folder: Path, blanks: dict[str, Cell], quiet: bool) -> dict[str, Cell]:
    """Evaluate the three checkpoints; everything is read and checked before the first image is classified."""
    try:
        test = cifar10.load(data, "test")
        models = {}
        for column, released in RELEASED.items():
            path = folder / released.filename
            checkpoint = checkpoints.read(path, sha256=released.sha256)
            method = None if released.bits == (None, None) else "daq"
            models[column] = checkpoints.load(checkpoint, "resnet20_released", method, released.bits)
    except (cifar10.DataError, checkpoints.CheckpointError) as error:
        raise InputError(str(error)) from None
    mean, std = checkpoints.NORMALIZATIONS["imagenet"]
    measured = {}
    with Progress(console=console, disable=quiet, transient=True) as progress:
        for column, model in models.items():
            task = progress.add_task(f"table 5, {RELEASED[column].filename}", total=len(test.labels))
            start = time.perf_counter()
            correct = evaluation.count_correct(
                model, test.images, test.labels, mean=mean, std=std, progress=partial(progress.advance, task)
            )
            measured[column] = _judged(blanks[column], correct, len(test.labels), time.perf_counter() - start)
    return measured


def _judged(blank: Cell, correct: int, images: int, seconds: float) -> Cell:
    verdict, reason = verdicts.judge_accuracy(correct, images, Decimal(blank.reported or "NaN"))
    return dataclasses.replace(
        blank,
        measured=float(verdicts.accuracy(correct, images)),
        ci95=verdicts.accuracy_interval(correct, images),
        images=images,
        seeds=1,
        selection="last",
        protocol=PROTOCOL,
        value_verdict=verdict,
        reason=reason,
        seconds=round(seconds, 1),
        hardware=cells.hardware(),
        versions=cells.versions(),
    )


def _finding(cell: Cell, printed: Decimal | str) -> str:
    if cell.value_verdict != "contradicted" or cell.measured is None or cell.images is None:
        return ""
    return f"{cell.column}: the paper prints {printed} %; with the released checkpoint {cell.reason.split('; ')[-1]}."


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("5"))
