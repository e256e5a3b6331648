"""What each quantizer costs. (The times of DAQ's Table 7 stand there.)

Every row is a measurement of its own: the method, the straight-through estimator, a copy and the step in full precision
take turns, so that a machine that is slower for a while is slower for all of them. Numbers of different rows are of
different times, and are not ranked; what is said of two is said of turns in one row, and only where half of the times
of the one lie apart from half of the other's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from paper_tables import cells, keys
from paper_tables.cells import Cell, Place
from paper_tables.jobs import Job
from paper_tables.tables import Measured, Options, Table
from reference import registry
from torchimpl import sources, timing

TITLE = "What quantizers cost, on this machine"
NEEDS = "nothing (timings of this machine; about two minutes, once)"

ELEMENTS = 1 << 20
BATCH = 16
ROUNDS = 7
LITERAL = "daq by autograd, not compiled"
STE = "ste"
INTRO = (
    f"A quantizer of activations at 2 bits (IR-Net: 1) over {ELEMENTS:,} float32 elements: nanoseconds an element for "
    "the forward pass and for both passes; both in units of the straight-through estimator's, and of a copy of the "
    "20 bytes an element that both must move, measured by turns with it; bytes kept for the backward pass; and a "
    f"training step of ResNet-20 (batch {BATCH}, at the lowest bit-widths of the method; with Hardtanh for IR-Net) in "
    "milliseconds and in units of the step in full precision, by turns too (a slash: in units of). Medians; spread "
    "is the half of the times in the middle, over the median, of the noisiest of a row. Each row is measured by "
    "itself, at another time: rows are not ranked. They are this machine's numbers, and say nothing about another's."
)
USUAL = "one compiled pass in each direction, on the CPU"
WHY = {
    "dsq": "tanh in the backward pass",
    "dasr": "two exponentials and two logistic functions",
    "irnet": "tanh in the backward pass",
    "qnet": "an exponential for each step of the staircase",
    "lqnets": "a codebook of levels, which is fitted in every step",
    "soft_to_hard": "an exponential for each centre of the codebook",
    "rq": "torch's own operations: a random number, kept for the backward pass, and two exponentials for each level",
}


BOTH = "both ns"
TO_STE = "/ STE"
TO_COPY = "/ copy"
STEP = "/ full"
COLUMNS = {  # and their units
    "forward ns": "ns an element",
    BOTH: "ns an element",
    TO_STE: "ratio",
    TO_COPY: "ratio",
    "kept B": "bytes an element",
    "step ms": "ms",
    STEP: "ratio",
    "spread %": "percent of the median",
}
MEASURE = "measured by turns"


def jobs(options: Options) -> list[Job]:
    """Return a job for each method; timings are this machine's, and so are their keys."""
    machine = {"hardware": cells.hardware(), "versions": cells.versions(), "threads": torch.get_num_threads()}
    found = []
    for name in (*registry.methods(), LITERAL):
        key = keys.key(
            ["torchimpl.timing", *sources.method_modules(_method(name)), *sources.method_modules(STE)],
            literal=name == LITERAL,
            elements=ELEMENTS,
            batch=BATCH,
            rounds=ROUNDS,
            **machine,
        )
        place = Place("DAQ", "cost", name, MEASURE)
        command = "python -m paper_tables --table cost --again"
        found.append(Job(place, "ns an element", key, command, partial(_measure, name)))
    return found


def run(options: Options, measured: Measured) -> Table:
    """Show every method's times."""
    rows = {name: measured[Place("DAQ", "cost", name, MEASURE)] for name in (*registry.methods(), LITERAL)}
    found = [cell for name, cell in rows.items() for cell in _cells(name, cell)]
    return Table("cost", TITLE, INTRO, tuple(found), findings=_findings(rows), columns=tuple(COLUMNS))


def _cells(name: str, row: Cell) -> Iterator[Cell]:
    """The columns of a row, with what they vary by."""
    time = {turn: float(row.detail[turn]) for turn in TURNS}  # type: ignore[arg-type]
    ns = 1e9 / ELEMENTS
    numbers = {
        "forward ns": time["forward"] * ns,
        BOTH: time["both"] * ns,
        TO_STE: time["both"] / time["ste"],
        TO_COPY: time["both"] / time["copy"],
        "kept B": float(row.detail["kept"]),  # type: ignore[arg-type]
        "step ms": 1000 * time["own step"],
        STEP: time["own step"] / time["full step"],
        "spread %": 100 * max((spread(row, turn)[1] - spread(row, turn)[0]) / time[turn] for turn in TURNS),
    }
    why = "differentiated by autograd, operator by operator" if name == LITERAL else WHY.get(name, USUAL)
    low, high = (ns * end for end in spread(row, "both"))
    for column, unit in COLUMNS.items():
        yield dataclasses.replace(
            row,
            column=column,
            unit=unit,
            measured=float(f"{numbers[column]:.3g}"),
            reason=f"{why}; half of the times of both passes are from {low:.3g} to {high:.3g} ns an element",
        )


def spread(row: Cell, turn: str) -> tuple[float, float]:
    """The quartiles of a turn's times, in seconds."""
    low, high = (float(row.detail[f"{turn}, {end} quartile"]) for end in ("lower", "upper"))  # type: ignore[arg-type]
    return low, high


def _method(name: str) -> str:
    return "daq" if name == LITERAL else name


TURNS = ("forward", "both", "copy", "ste", "closed form", "own step", "full step")


def _measure(name: str, progress: Callable[[float], None]) -> dict[str, Any]:
    """Time a row's alternatives by turns, passes and steps apart; its number is that of both passes."""
    method = _method(name)
    options: dict[str, Any] = {"literal": True} if name == LITERAL else {}
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(ELEMENTS, generator=generator) for _ in range(2))
    own = timing.activation_quantizer(method, x, **options)
    passes = {
        "forward": timing.forward(own, x),
        "both": timing.forward_backward(own, x, grad),
        "copy": timing.copy_of_20_bytes(x, grad),
        "ste": timing.forward_backward(timing.activation_quantizer(STE, x), x, grad),
        "closed form": timing.forward_backward(timing.activation_quantizer("daq", x), x, grad),
    }
    times = timing.by_turns(passes, rounds=ROUNDS)
    progress(0.5)
    steps = {
        "own step": timing.training_step(method, timing.lowest_bits(method), batch=BATCH, **options),
        "full step": timing.training_step(None, (None, None), batch=BATCH),
    }
    times |= timing.by_turns(steps, rounds=ROUNDS)
    detail = {turn: some[len(some) // 2] for turn, some in times.items()}
    for end, share in (("lower", 0.25), ("upper", 0.75)):
        detail |= {f"{turn}, {end} quartile": some[round(share * (len(some) - 1))] for turn, some in times.items()}
    detail["kept"] = timing.bytes_kept(timing.activation_quantizer(method, x, **options), x) / ELEMENTS
    return {
        "measured": detail["both"] / ELEMENTS * 1e9,
        "protocol": f"CPU, float32, {torch.get_num_threads()} threads, medians of {ROUNDS} rounds by turns",
        "detail": detail,
    }


def compared(row: Cell, turn: str, other: str) -> str:
    """Say how many times the one takes of the other, if half of the times of either lie apart.

    Both must be turns of one row.
    """
    (low, high), (other_low, other_high) = spread(row, turn), spread(row, other)
    ratio = float(row.detail[turn]) / float(row.detail[other])  # type: ignore[arg-type]
    apart = low > other_high or high < other_low
    return f"{ratio:.2f} times" + ("" if apart else " (within the spread)")


def _findings(rows: Mapping[str, Cell]) -> tuple[str, ...]:
    return (
        f"DAQ's closed form takes {compared(rows['daq'], 'both', 'ste')} the straight-through estimator's passes, and "
        f"a training step {compared(rows['daq'], 'own step', 'full step')} the one in full precision.",
        f"The literal computation takes {compared(rows[LITERAL], 'both', 'closed form')} the closed form's passes. It "
        "is not like for like: the closed form is one compiled loop in each direction, the literal one goes through "
        "torch's operators one by one.",
    )


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("cost"))
