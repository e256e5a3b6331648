"""What each quantizer costs, and DAQ's Table 7, whose times say that its controller costs 3 to 4 % of a step."""

from __future__ import annotations

import torch
from rich.progress import track

from paper_tables import cells, reported
from paper_tables.cells import Cell
from paper_tables.tables import Options, Table, console
from reference import registry
from torchimpl import timing

TITLE = "What quantizers cost, on this machine"
NEEDS = "nothing (timings of this machine; about half a minute)"

ELEMENTS = 1 << 20
BATCH = 16
COLUMNS = ("forward", "backward", "to a copy", "kept", "ResNet-20 step")
UNITS = ("ns an element", "ns an element", "ratio", "bytes an element", "ratio")
LITERAL = "daq by autograd"
INTRO = (
    f"A quantizer of activations at 2 bits (IR-Net: 1) over {ELEMENTS:,} float32 elements: nanoseconds an element for "
    "the forward and the backward pass; their sum in units of a copy that moves the 20 bytes an element that both must "
    "move; bytes kept for the backward pass; and a training step of ResNet-20 (batch "
    f"{BATCH}, at the lowest bit-widths of the method; with Hardtanh for IR-Net) in units of the step in full "
    "precision. All alternatives "
    "take turns within one run; the numbers are medians. They are this machine's, and say nothing about another's."
)
FUSED = "one compiled pass in each direction"
WHY = {
    "dsq": "tanh in the backward pass",
    "dasr": "two exponentials and two logistic functions",
    "irnet": "tanh in the backward pass",
    "lqnets": "a codebook of levels, which is fitted in every step",
}


def run(options: Options) -> Table:
    """Time every method."""
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(ELEMENTS, generator=generator) for _ in range(2))
    quantizers = {name: timing.activation_quantizer(name, x) for name in registry.methods()}
    quantizers[LITERAL] = timing.activation_quantizer("daq", x, literal=True)
    full = timing.training_step(None, (None, None), batch=BATCH)
    digest = cells.source_digest(("paper_tables.cost", *(f"torchimpl.quantizers.{n}" for n in registry.methods())))
    found: list[Cell] = []
    steps: dict[str, float] = {}
    silent = options.quiet
    for name, quantizer in track(quantizers.items(), "cost", console=console, disable=silent, transient=True):
        method = "daq" if name == LITERAL else name
        turns = {
            "copy": timing.copy_of_20_bytes(x, grad),
            "forward": timing.forward(quantizer, x),
            "both": timing.forward_backward(quantizer, x, grad),
        }
        measured = timing.medians(turns, rounds=5, warmup=2)
        extra = {"literal": True} if name == LITERAL else {}
        own = timing.training_step(method, timing.lowest_bits(method), batch=BATCH, **extra)
        step = timing.medians({"full": full, "own": own}, rounds=3, warmup=1)
        steps[name] = step["own"] / step["full"]
        values = (
            measured["forward"] / ELEMENTS * 1e9,
            max(measured["both"] - measured["forward"], 0.0) / ELEMENTS * 1e9,
            measured["both"] / measured["copy"],
            timing.bytes_kept(quantizer, x) / ELEMENTS,
            steps[name],
        )
        reason = "differentiated by autograd" if name == LITERAL else WHY.get(name, FUSED)
        for column, unit, value in zip(COLUMNS, UNITS, values, strict=True):
            found.append(_cell(name, column, unit, value, reason, digest))
    found += _table_7(steps, digest)
    return Table("cost", TITLE, INTRO, tuple(found), findings=_findings(found), columns=COLUMNS)


def _cell(row: str, column: str, unit: str, value: float, reason: str, digest: str, printed: str | None = None) -> Cell:
    return Cell(
        paper="DAQ",
        table="cost",
        row=row,
        column=column,
        unit=unit,
        reported=printed,
        measured=float(f"{value:.3g}"),
        protocol=f"CPU, float32, {torch.get_num_threads()} threads, medians of one run",
        reason=reason,
        hardware=cells.hardware(),
        versions=cells.versions(),
        source_sha256=digest,
    )


def _table_7(steps: dict[str, float], digest: str) -> list[Cell]:
    """The controller's step in units of its alternatives', beside the ratio of the printed times."""
    printed = {row.method: row.values["Time/iters"].value for row in reported.tables()["7"].rows}
    controller = float(printed["Temperature Controller"])
    found = []
    for other in ("Annealing", "Combine STE"):
        ratio = controller / float(printed[other])
        for ours, how in ((LITERAL, "by autograd"), ("daq", "closed form")):
            reason = f"{controller} ms over {printed[other]} ms on an RTX 2080Ti; another machine, hence no verdict"
            row = f"Table 7, controller over {other.lower()}, {how}"
            value = steps[ours] / steps["dasr"]
            found.append(_cell(row, "ResNet-20 step", "ratio", value, reason, digest, printed=f"{ratio:.3f}"))
    return found


def _findings(found: list[Cell]) -> tuple[str, ...]:
    value = {(cell.row, cell.column): cell.measured or 0.0 for cell in found}
    both = {row: value[row, "forward"] + value[row, "backward"] for row, column in value if column == "forward"}
    return (
        f"DAQ's closed form takes {both['daq']:.2f} ns an element and its literal computation {both[LITERAL]:.0f}: "
        f"{both[LITERAL] / both['daq']:.0f} times as much. The straight-through estimator takes {both['ste']:.2f}.",
        f"In units of the full-precision step, a training step takes {value['daq', 'ResNet-20 step']:.2f} with the "
        f"closed form and {value[LITERAL, 'ResNet-20 step']:.2f} with the literal computation.",
    )


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("cost"))
