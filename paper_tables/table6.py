"""DAQ's Table 6: argmax operators and temperatures, 1/1-bit ResNet-20 on CIFAR-10, each row trained.

Every row is DAQ with another training function, with DAQ's rates. A fixed temperature leaves a gap between training
and test: what a network scores with the training function kept ("DASR") and with rounding is measured on the same runs.
What can be said of the gap without training is in `paper_tables.equations`.
"""

from __future__ import annotations

import numpy as np

from paper_tables import reported, runs, trained
from paper_tables.jobs import Job
from paper_tables.tables import Measured, Options, Table, not_run_cell
from paper_tables.trained import Entry, Ordering

TITLE = "Argmax operators and temperatures, trained"
NEEDS = "nothing for training on digits; --data (CIFAR-10) for the other profiles"
INTRO = (
    "As printed, and as trained by the suite, all with the rates of DAQ (table tuning) and the paper's kernel, kappa = "
    "exp(-1/(2 sigma^2)). Rounding: tested as a quantizer. DASR: the training function kept at test time, so that with "
    "a fixed temperature nothing is quantized."
)
WHY = "it takes training by the paper's protocol; what the suite trains for it has rows of its own"
ROUNDING, DASR = "Rounding", "DASR"
ADAPTIVE = "kernel soft argmax, beta* (adaptive)"
CONTENDERS = {
    **{contender.name: contender for contender in (*runs.SOFT_ARGMAX.values(), *runs.KERNEL.values())},
    ADAPTIVE: runs.DAQ,
}
ENTRIES = {
    (row, column): Entry(contender, "1/1", column, measure, row)
    for row, contender in CONTENDERS.items()
    for column, measure in ((ROUNDING, "last"), (DASR, "as in training"))
}


def _drop(name: str) -> Entry:
    return Entry(CONTENDERS[name], "1/1", ROUNDING, "drop")


def _falling_drops(operator: str, betas: tuple[int, ...]) -> list[Ordering]:
    names = [f"{operator}, beta = {beta}" for beta in betas]
    return [
        Ordering(
            f"drop of {operator}: beta = {low} over {high}",
            _drop(a),
            _drop(b),
            ("drop-decreases-with-temperature",) if operator == "soft argmax" else (),
        )
        for a, b, low, high in zip(names, names[1:], betas, betas[1:], strict=False)
    ]


ORDERINGS = (
    *(
        Ordering(
            f"beta* over {row}",
            ENTRIES[ADAPTIVE, ROUNDING],
            ENTRIES[row, ROUNDING],
            ("adaptive-best-result",),
        )
        for row in CONTENDERS
        if row != ADAPTIVE
    ),
    *_falling_drops("soft argmax", (10, 20, 60)),
    *_falling_drops("kernel soft argmax", (4, 8, 12, 24)),
    Ordering(
        "drop: soft argmax, beta = 60 over kernel, beta = 24",
        _drop("soft argmax, beta = 60"),
        _drop("kernel soft argmax, beta = 24"),
        ("kernel-handles-gap-better", "kernel-much-smaller-temperature"),
    ),
    Ordering(
        "training function: soft argmax, beta = 10 over 60",
        ENTRIES["soft argmax, beta = 10", DASR],
        ENTRIES["soft argmax, beta = 60", DASR],
        ("soft-argmax-degrades-without-gap",),
    ),
    Ordering(
        "training function: kernel, beta = 4 over 24",
        ENTRIES["kernel soft argmax, beta = 4", DASR],
        ENTRIES["kernel soft argmax, beta = 24", DASR],
        ("beta-24-degrades",),
    ),
)


def jobs(options: Options) -> list[Job]:
    """Return a job for each training run; those of full precision are where they begin."""
    return runs.jobs(options, (runs.FULL_PRECISION, *CONTENDERS.values()), ("FP", "1/1"))


def run(options: Options, measured: Measured) -> Table:
    """Set the trained rows beside the printed ones."""
    table = reported.tables()["6"]
    printed = tuple(
        not_run_cell(table, row.method, column, value, WHY)
        for row in table.rows
        for column, value in row.values.items()
    )
    entries = tuple(ENTRIES.values())
    unprinted = [sentence for profile in trained.LABELS if (sentence := _unprinted(options, measured, profile))]
    return Table(
        "6",
        table.title,
        INTRO,
        (*printed, *trained.cells(table, entries, ORDERINGS, options, measured)),
        findings=(*unprinted, *trained.findings(entries, options, measured)),
        columns=table.columns,
    )


def _unprinted(options: Options, measured: Measured, profile: str) -> str:
    """Say what came of the row that has no numbers, as the paper failed to train it."""
    row, before = ("soft argmax, beta = 150", "soft argmax, beta = 60")
    values = {
        (name, measure): Entry(CONTENDERS[name], "1/1", "", measure).runs(measured, profile, options.seeds).values
        for name in (row, before)
        for measure in ("last", "as in training", "drop")
    }
    seeds = set.intersection(*map(set, values.values()))
    if not seeds:
        return ""
    means = {which: float(np.mean([by_seed[seed] for seed in seeds])) for which, by_seed in values.items()}
    diverged = ENTRIES[row, DASR].runs(measured, profile, options.seeds).diverged
    ended = "ended early" if diverged else "trained to the end"
    return (
        f"{row}, which the paper could not train, {ended} on {trained.LABELS[profile]}: "
        f"{means[row, 'as in training']:.1f} % with the training function, {means[row, 'last']:.1f} % with rounding. "
        f"The drop is {means[row, 'drop']:.1f} points, at beta = 60 {means[before, 'drop']:.1f}."
    )


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("6"))
