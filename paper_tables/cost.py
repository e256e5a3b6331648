"""What each quantizer costs. (The times of DAQ's Table 7 stand there.)"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from paper_tables import cells, keys
from paper_tables.cells import Cell, Place
from paper_tables.jobs import Job
from paper_tables.tables import Measured, Options, Table
from reference import registry
from torchimpl import timing

TITLE = "What quantizers cost, on this machine"
NEEDS = "nothing (timings of this machine; about a minute, once)"

ELEMENTS = 1 << 20
BATCH = 16
LITERAL = "daq by autograd"
INTRO = (
    f"A quantizer of activations at 2 bits (IR-Net: 1) over {ELEMENTS:,} float32 elements: nanoseconds an element for "
    "the forward and the backward pass; their sum in units of a copy that moves the 20 bytes an element that both must "
    "move; bytes kept for the backward pass; and a training step of ResNet-20 (batch "
    f"{BATCH}, at the lowest bit-widths of the method; with Hardtanh for IR-Net) in units of the step in full "
    "precision. What a number compares takes turns within one run; the numbers are medians. They are this machine's, "
    "and say nothing about another's."
)
USUAL = "one compiled pass in each direction, on the CPU"
WHY = {
    "dsq": "tanh in the backward pass",
    "dasr": "two exponentials and two logistic functions",
    "irnet": "tanh in the backward pass",
    "qnet": "an exponential for each step of the staircase",
    "lqnets": "a codebook of levels, which is fitted in every step",
}


def jobs(options: Options) -> list[Job]:
    """Return a job for each method and column; timings are this machine's, and so are their keys."""
    machine = {"hardware": cells.hardware(), "versions": cells.versions(), "threads": torch.get_num_threads()}
    found = []
    for name in (*registry.methods(), LITERAL):
        method = _method(name)
        for column, (unit, measure) in COLUMNS.items():
            key = keys.key(
                ["torchimpl.timing", *keys.method_modules(method)],
                literal=name == LITERAL,
                elements=ELEMENTS,
                batch=BATCH,
                **machine,
            )
            place = Place("DAQ", "cost", name, column)
            found.append(Job(place, unit, key, "python -m paper_tables --table cost", partial(_measure, measure, name)))
    return found


def run(options: Options, measured: Measured) -> Table:
    """Show every method's times."""
    found = [
        dataclasses.replace(cell, reason="differentiated by autograd" if row == LITERAL else WHY.get(row, USUAL))
        for row in (*registry.methods(), LITERAL)
        for cell in (measured[Place("DAQ", "cost", row, column)] for column in COLUMNS)
    ]
    return Table("cost", TITLE, INTRO, tuple(found), findings=_findings(found), columns=tuple(COLUMNS))


def _method(name: str) -> str:
    return "daq" if name == LITERAL else name


def _measure(measure: Callable[[str], float], name: str, progress: object) -> dict[str, Any]:
    protocol = f"CPU, float32, {torch.get_num_threads()} threads, medians of one run"
    return {"measured": float(f"{measure(name):.3g}"), "protocol": protocol}


def _inputs() -> tuple[Tensor, Tensor]:
    """Return x and its gradient."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(ELEMENTS, generator=generator), torch.randn(ELEMENTS, generator=generator)


def _options(name: str) -> dict[str, Any]:
    return {"literal": True} if name == LITERAL else {}


def _times(name: str, *turns: str) -> list[float]:
    """Seconds of the passes named, by turns: "forward", "both", or "copy", of what both must move."""
    x, grad = _inputs()
    quantizer = timing.activation_quantizer(_method(name), x, **_options(name))
    known = {
        "forward": timing.forward(quantizer, x),
        "both": timing.forward_backward(quantizer, x, grad),
        "copy": timing.copy_of_20_bytes(x, grad),
    }
    measured = timing.medians({turn: known[turn] for turn in turns}, rounds=5, warmup=2)
    return [measured[turn] for turn in turns]


def _forward(name: str) -> float:
    (forward,) = _times(name, "forward")
    return forward / ELEMENTS * 1e9


def _backward(name: str) -> float:
    both, forward = _times(name, "both", "forward")
    return max(both - forward, 0.0) / ELEMENTS * 1e9


def _to_a_copy(name: str) -> float:
    both, copy = _times(name, "both", "copy")
    return both / copy


def _kept(name: str) -> float:
    x, _ = _inputs()
    return timing.bytes_kept(timing.activation_quantizer(_method(name), x, **_options(name)), x) / ELEMENTS


def _step(name: str) -> float:
    full = timing.training_step(None, (None, None), batch=BATCH)
    own = timing.training_step(_method(name), timing.lowest_bits(_method(name)), batch=BATCH, **_options(name))
    step = timing.medians({"full": full, "own": own}, rounds=3, warmup=1)
    return step["own"] / step["full"]


STEP = "ResNet-20 step"
COLUMNS: dict[str, tuple[str, Callable[[str], float]]] = {  # unit, and what measures a method
    "forward": ("ns an element", _forward),
    "backward": ("ns an element", _backward),
    "to a copy": ("ratio", _to_a_copy),
    "kept": ("bytes an element", _kept),
    STEP: ("ratio", _step),
}


def _findings(found: list[Cell]) -> tuple[str, ...]:
    value = {(cell.row, cell.column): cell.measured or 0.0 for cell in found}
    both = {row: value[row, "forward"] + value[row, "backward"] for row, column in value if column == "forward"}
    return (
        f"DAQ's closed form takes {both['daq']:.2f} ns an element and its literal computation {both[LITERAL]:.0f}: "
        f"{both[LITERAL] / both['daq']:.0f} times as much. The straight-through estimator takes {both['ste']:.2f}.",
        f"In units of the full-precision step, a training step takes {value['daq', STEP]:.2f} with the "
        f"closed form and {value[LITERAL, STEP]:.2f} with the literal computation.",
    )


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("cost"))
