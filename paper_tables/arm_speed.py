"""DSQ's second claim: speed on ARM. What each convolution of ResNet-18 executes, at 8, 4, 3, 2 bits and 1 bit."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any

from arm import build, count
from paper_tables import arm_time, cells, keys, reported
from paper_tables.cells import Cell, Place
from paper_tables.jobs import Job
from paper_tables.tables import Measured, Options, Table

TITLE = "Convolutions of ResNet-18 on ARM: instructions counted, cycles modelled"
NEEDS = (
    "ziglang and unicorn (pip install quantgap[arm]), about a minute, once; on a 64-bit ARM host it takes times, too"
)
COMMAND = "python -m paper_tables --table arm"
BASELINE = "8/8"
WIDTHS = {"/".join(map(str, width)): width for width in count.WIDTHS}
CLAIMED = ("4/4", "3/3", "2/2")  # DSQ: "2 to 4-bit"
CLAIM = "dsq-1-7-times-ncnn"
SUM, CYCLES, KEPT, STORED, WALL = (
    "sum",
    "sum, A53 cycles",
    "weights in memory",
    "weights stored",
    "sum, wall time",
)
STRAW_MAN = 1.25  # times the instructions of the suite's own plain 8-bit kernel

INTRO = (
    "The 19 convolutions of ResNet-18 behind its first, for one image of 224 x 224 pixels, as W/A bits of weights and "
    "activations: millions of executed instructions of 64-bit ARM (ARMv8.0-A), counted under emulation, exactly and "
    "repeatably. Packing the activations and requantizing the sums to as many bits are included; weights are packed "
    "ahead of time. 8/8 is the suite's own baseline, weights in two's complement; below, they are DAQ's odd integers. "
    "Cycles are a model, no time: the least that a Cortex-A53 needs to issue these instructions, two a cycle and among "
    "them one 128-bit NEON operation. Ratios are of instructions, another engine's over the suite's. DSQ's abstract "
    "reports up to 1.7 times the speed of 8-bit NCNN at 2 to 4 bits: the best of the suite's widths from 2 to 4 bits "
    "is judged by that against three engines and the baseline, each for itself. A win over an engine that a plain "
    "8-bit kernel beats by a quarter, without fewer bits, is one over a straw man, and counts for none."
)
PROTOCOL = "batch 1, packing of activations and requantization included, counted under emulation"


@dataclass(frozen=True)
class Engine:
    """Another engine's 8-bit convolutions, of the same 19 layers: counted once, elsewhere, under emulation as here.

    Attributes
    ----------
    name : str
    instructions : int
        In millions.
    cycles : str
        In millions: Cortex-A53, by a model that also counts what cannot be issued together; not this table's.
    what : str
    """

    name: str
    instructions: int
    cycles: str
    what: str


ENGINES = (
    Engine("NCNN 2019", 637, "496", "its 8-bit convolutions of March 2019, DSQ's time"),
    Engine("NCNN 2026, GEMM", 420, "463 to 476", "its 8-bit matrix multiplication, without a transform"),
    Engine("NCNN 2026, default", 188, "181 to 188", "what it runs by itself: Winograd's F(4, 3) where that applies"),
)
OWN = Engine("the suite's 8/8", 0, "", "the same frame, 8-bit operands")
ON_OTHER_CORES = (
    "Cores with SDOT (ARMv8.2: Cortex-A55, A76 and later) multiply and add 16 products of 8 bits in one instruction: "
    "there 2- to 4-bit kernels of 8-bit lanes, at 10 to 16 products an instruction, win nothing over 8 bits, and only "
    "1/1 and 1/2 by counting bits do (43 and 21). On Cortex-A57 and A72 8-bit MLA runs at half its rate."
)


def reported_ratio() -> Decimal:
    """Return what DSQ's abstract reports, up to: 1.7.

    >>> reported_ratio()
    Decimal('1.7')
    """
    (claim,) = (claim for claim in reported.claims() if claim.id == CLAIM)
    found = re.search(r"up to (\d+\.\d+)x speed up", claim.text)
    assert found is not None
    return Decimal(found[1])


REPORTED = reported_ratio()


def layers() -> dict[str, list[count.Layer]]:
    """Return the convolutions, those of one shape together, under the name of the first and their number."""
    alike: dict[tuple[int, ...], list[count.Layer]] = {}
    for layer in count.resnet18():
        alike.setdefault(layer.key, []).append(layer)
    return {f"{same[0].name} x{len(same)}": same for same in alike.values()}


def jobs(options: Options) -> list[Job]:
    """Return a job for each shape of layer and width; on an ARM host also for times, which are this machine's."""
    sources = hashlib.sha256(b"\0".join(path.name.encode() + b"\0" + path.read_bytes() for path in build.sources()))
    found = []
    for row, same in layers().items():
        for column, bits in WIDTHS.items():
            weights = "signed" if column == BASELINE else "odd"
            key = keys.key(["arm.count"], sources=sources.hexdigest(), layer=same[0].key, bits=bits, weights=weights)
            measure = partial(_measure, same[0], bits, weights)
            found.append(Job(_place(row, column), "million instructions", key, COMMAND, measure, ("kernels",)))
    if build.on_arm():
        machine = {"hardware": cells.hardware(), "sources": sources.hexdigest()}
        for column, seconds in _timers().items():
            key = keys.key(["arm.count"], column=column, **machine)
            found.append(Job(_place(WALL, column), "ms", key, COMMAND, partial(_time, seconds)))
    return found


def run(options: Options, measured: Measured) -> Table:
    """Show the counts, add them up, and judge the reported ratio against each engine."""
    counted = shown(options, measured)
    return Table(
        "arm",
        TITLE,
        INTRO,
        tuple([*counted, *compared(counted)]),
        findings=_findings(compared(counted)),
        columns=(*WIDTHS, arm_time.PEER),
    )


def shown(options: Options, measured: Measured) -> list[Cell]:
    """Return what was counted and timed, each with its basis."""
    return [_shown(measured[job.place]) for job in jobs(options)]


def compared(counted: Sequence[Cell]) -> list[Cell]:
    """Return sums and ratios, if all layers were counted at all widths; else none."""
    times = {row: len(same) for row, same in layers().items()}
    found = {(cell.row, cell.column): cell for cell in counted if cell.row in times}
    if len(found) < len(times) * len(WIDTHS) or any(cell.value_verdict != "modelled" for cell in found.values()):
        return []
    total = {column: _sum_of(found, times, column, "instructions") / 1e6 for column in WIDTHS}
    result = []
    for row, unit, amount in (
        (SUM, "million instructions", total.__getitem__),
        (CYCLES, "million cycles", lambda column: _sum_of(found, times, column, "cycles") / 1e6),
        (KEPT, "MB", lambda column: _sum_of(found, times, column, "weight bytes") / 1e6),
        (STORED, "MB", lambda column: _sum_of(found, times, column, "weights") * WIDTHS[column][0] / 8e6),
    ):
        reason = {
            SUM: "each layer as often as it occurs",
            CYCLES: "the least to issue these instructions; no time",
            KEPT: "with what the kernels add to the sums; those of 2 to 4 bits are unpacked to bytes",
            STORED: "codes without gaps, as they are stored",
        }[row]
        result += [
            _computed(row, column, unit, amount(column), "modelled" if row in (SUM, CYCLES) else None, reason)
            for column in WIDTHS
        ]
    for engine in (*ENGINES, OWN):
        result += _against(engine, total)
    return result


def _against(engine: Engine, total: Mapping[str, float]) -> list[Cell]:
    """How many times the suite's instructions an engine executes, at each width; the best is judged."""
    theirs = engine.instructions or total[BASELINE]
    cycles = f", {engine.cycles} M A53 cycles by another model" if engine.cycles else ""
    said = f"{theirs:.0f} M instructions{cycles}: {engine.what}"
    row = f"over {engine.name}"
    found = {
        column: _computed(row, column, "ratio", theirs / total[column], "modelled", said)
        for column in WIDTHS
        if engine.instructions or column != BASELINE
    }
    best = max(CLAIMED, key=lambda column: theirs / total[column])
    verdict, why = judge(theirs / total[best], theirs / total[BASELINE] if engine.instructions else 0.0)
    found[best] = dataclasses.replace(
        found[best], reported=str(REPORTED), claim_verdict=verdict, reason=f"{why}; {said}"
    )
    return list(found.values())


def judge(ratio: float, against_own: float) -> tuple[str, str]:
    """Judge the reported ratio against one engine.

    Parameters
    ----------
    ratio : float
        Of the engine's instructions to those of the best of the suite's 2- to 4-bit kernels.
    against_own : float
        Of the engine's instructions to those of the suite's plain 8-bit kernel; 0 for that kernel itself.

    Returns
    -------
    verdict : {"holds", "fails", "vacuous"}
    why : str

    >>> judge(2.4, 1.1)[0], judge(1.1, 0.5)[0], judge(3.6, 1.66)[0], judge(1.6501, 0.0)[0], judge(1.6499, 0.0)[0]
    ('holds', 'fails', 'vacuous', 'holds', 'fails')
    """
    reached = ratio >= float(REPORTED - Decimal("0.05"))
    if against_own > STRAW_MAN and reached:
        return "vacuous", (
            f"a straw man: the suite's plain 8-bit kernel executes {against_own:.2f} times fewer instructions, too"
        )
    return ("holds", f"{REPORTED} is reached") if reached else ("fails", f"{REPORTED} is not reached")


def _findings(found: Sequence[Cell]) -> tuple[str, ...]:
    if not found:
        return (ON_OTHER_CORES,)
    value = {(cell.row, cell.column): cell.measured or 0.0 for cell in found}
    sums = ", ".join(f"{value[SUM, column]:.0f} M at {column}" for column in WIDTHS)
    against = "; ".join(f"{cell.row} {cell.measured:.2f} ({cell.claim_verdict})" for cell in judged(found).values())
    old, own = value[f"over {ENGINES[0].name}", BASELINE], value[f"over {OWN.name}", "2/2"]
    return (
        f"Instructions: {sums}. The best of 2 to 4 bits, where {REPORTED} is reported: {against}.",
        f"Than NCNN in March 2019 a plain 8-bit kernel alone takes {old:.2f} times fewer instructions, and 2 bits take "
        f"{own:.2f} times fewer than that kernel. A win over the former is one over a straw man.",
        ON_OTHER_CORES,
    )


def judged(found: Sequence[Cell]) -> dict[str, Cell]:
    """Return the cells that the reported ratio is judged by, by engine."""
    return {cell.row.removeprefix("over "): cell for cell in found if cell.claim_verdict}


def _place(row: str, column: str) -> Place:
    return Place("DSQ", "arm", row, column)


def _measure(
    layer: count.Layer, bits: tuple[int, int], weights: str, progress: Callable[[float], None]
) -> dict[str, Any]:
    found = count.count_layer(layer, bits, weights=weights)
    total = found.total
    return {
        "measured": round(total.instructions / 1e6, 3),
        "protocol": PROTOCOL,
        "detail": {
            "instructions": total.instructions,
            "cycles": total.cycles,
            "neon": total.neon,
            "requantization": found.requantization.instructions,
            "weight bytes": found.weight_bytes,
            "weights": layer.inputs * layer.outputs * layer.kernel**2,
            "compiler": f"ziglang {importlib.metadata.version('ziglang')}",
        },
    }


def _timers() -> dict[str, Callable[[], float]]:
    """What takes the time of all layers on this machine, by column."""
    every = count.resnet18()
    found: dict[str, Callable[[], float]] = {
        column: partial(arm_time.kernels_seconds, every, bits) for column, bits in WIDTHS.items()
    }
    if arm_time.has_peer():
        found[arm_time.PEER] = partial(arm_time.peer_seconds, every)
    return found


def _time(seconds: Callable[[], float], progress: Callable[[float], None]) -> dict[str, Any]:
    return {"measured": float(f"{1e3 * seconds():.4g}"), "protocol": arm_time.PROTOCOL}


def _shown(cell: Cell) -> Cell:
    """Mark a count as modelled, with its basis."""
    if cell.value_verdict is not None or cell.measured is None:
        return cell
    if cell.row == WALL:
        return dataclasses.replace(cell, reason="this machine's; no verdict on another")
    detail = {name: float(amount) for name, amount in cell.detail.items() if isinstance(amount, int | float)}
    reason = (
        f"{detail['neon'] / 1e6:.2f} M of them NEON operations on data, {detail['requantization'] / 1e6:.2f} M for "
        f"requantization; at least {detail['cycles'] / 1e6:.2f} M A53 cycles; {detail['weight bytes']:,.0f} bytes of "
        "weights"
    )
    return dataclasses.replace(cell, value_verdict="modelled", reason=reason)


def _sum_of(found: Mapping[tuple[str, str], Cell], times: Mapping[str, int], column: str, name: str) -> float:
    return sum(n * float(found[row, column].detail[name]) for row, n in times.items())  # type: ignore[arg-type, misc]


def _computed(row: str, column: str, unit: str, value: float, verdict: str | None, reason: str) -> Cell:
    return Cell(
        **_place(row, column)._asdict(),
        unit=unit,
        measured=float(f"{value:.4g}"),
        protocol=PROTOCOL,
        value_verdict=verdict,
        reason=reason,
    )


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("arm"))
