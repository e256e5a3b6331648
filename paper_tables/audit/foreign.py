"""Public quantizers at the gate: what each has of what the suite's own meet, and a witness where it has not.

Which they are, and how they are called, is data (``foreign.toml``). They are tried where their packages are installed,
``tox -e foreign``, and what was found is recorded with the versions. A witness is three lines that need nothing of this
suite: the quantizer, an input, and what is asked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import io
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from paper_tables import keys
from paper_tables.cells import Cell, Place
from paper_tables.jobs import Job
from paper_tables.tables import InputError, Measured, Options, Table
from reference import contract
from reference.gate import Gate
from reference.verdicts import WRONG, Row
from torchimpl import sources
from torchimpl.handover import of_torch

TITLE = "Public quantizers, held to the contract"
NEEDS = "brevitas, torchao and onnxruntime (tox -e foreign); otherwise what is recorded"
DATA = Path(__file__).with_suffix(".toml")
COMMAND = "tox -e foreign"
PROPERTIES = "properties"
INTRO = (
    "What the suite asks of its own quantizers, asked of others as they come from PyPI: *same* where a property "
    "holds, *differs* where it does not, with the smallest input that was found and three lines that show it. A "
    "difference is one from this contract, not necessarily a mistake: some are choices, and whoever relies on the "
    "property should know them. Values and gradients of those with a step size are set beside LSQ's."
)
ASKED = {  # what the third line asks, by property; default: the values
    "idempotence": "print(q(x), q(q(x)))",
    "type": "print(q(x).dtype)",
    "signed zero": "print(q(-0.0 * x.abs()), q(0.0 * x.abs()))",
    "infinities": "print(q(x * 0 + float('inf')), q(x * 0 - float('inf')))",
    "0-d": "print(q(x).shape)",
    "empty": "print(q(x).shape)",
    "shape": "print([q(x.reshape(s)).shape for s in ((-1, 1), (1, 1, -1))])",
    "order": "print(q(x), q(x.flip(-1)))",
    "each for itself": "print(q(x), q(x[..., :1]))",
    "repeated calls": "print(q(x), q(x))",
    "input kept": "q(x); print(x)",
}
GRADIENT = "print(torch.autograd.grad(q(x).sum(), x))"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A public quantizer, as ``foreign.toml`` has it."""

    name: str
    package: str
    setup: str
    bits: int
    dtypes: tuple[str, ...]
    method: str | None = None
    role: Any = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, float] = field(default_factory=dict)
    surrogate: str | None = None
    shape: tuple[int, ...] | None = None
    statistics: bool = False
    gradient: bool = True


@cache
def data() -> tuple[dict[str, str], tuple[Entry, ...]]:
    """Return the packages' versions, and the quantizers."""
    content = tomllib.loads(DATA.read_text(encoding="utf-8"))
    entries = []
    for given in content["quantizers"]:
        options: dict[str, Any] = {("method" if name == "as" else name): value for name, value in given.items()}
        lists = {name: tuple(value) for name, value in options.items() if isinstance(value, list)}
        entries.append(Entry(**options | lists))
    return content["packages"], tuple(entries)


def subject(entry: Entry) -> contract.Quantizer:
    """Build a quantizer and hand it over; its package must be installed."""
    names = _set_up(entry)
    parameters = {name: names[of] for name, of in entry.parameters.items()} | dict(entry.constants)
    return of_torch(
        names["q"],
        bits=entry.bits,
        parameters=parameters or None,
        dtypes=entry.dtypes,
        gradient=entry.gradient,
        surrogate=None if entry.surrogate is None else eval(entry.surrogate, names),  # noqa: S307 - our own file
        name=entry.name,
        role=entry.role,
        shape=entry.shape,
        from_whole_tensor=entry.statistics,
    )


def _set_up(entry: Entry) -> dict[str, Any]:
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        exec(entry.setup, names)  # noqa: S102 - our own file, in which the setup is what a user writes
    return names


def lines(entry: Entry, row: Row) -> tuple[str, str, str]:
    """Return three lines that show what a row says."""
    numbers = row.witness.replace("'nan'", "float('nan')").replace("'inf'", "float('inf')").replace("'-", "-'")
    gradient = "gradient" in row.name
    if row.name == "nan":  # in the place of the first
        numbers = "[float('nan')" + numbers[min(numbers.find(c) for c in ",]" if c in numbers) :]
    numbers = {"empty": "[]", "0-d": numbers.strip("[]").partition(",")[0]}.get(row.name, numbers)
    if entry.shape is not None:
        numbers = f"[{numbers}]"
    parameter = row.name.rpartition("gradient for ")[2] if ": gradient for " in row.name else "x"
    if parameter != "x":
        numbers += " * 13"
    grad = ", requires_grad=True" if gradient else ""
    third = ASKED.get(row.name, "print(q(x))")
    if gradient:
        third = GRADIENT if parameter == "x" else GRADIENT.replace(", x)", f", {entry.parameters.get(parameter, 'x')})")
    first = entry.setup if "import torch" in entry.setup else f"import torch; {entry.setup}"
    return first, f"x = torch.tensor({numbers}, dtype=torch.{row.dtype}{grad})", third


def printed(three: tuple[str, str, str]) -> str:
    """Run three lines; return what they print, or the error that they end with."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
        try:
            exec("\n".join(three), {})  # noqa: S102 - see above
        except Exception as error:
            return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return said.getvalue().strip()


def jobs(options: Options) -> list[Job]:
    """Return a job for each quantizer."""
    versions, entries = data()
    found = []
    for entry in entries:
        roots = ["reference.gate", "torchimpl.handover", *sources.method_modules(entry.method)]
        settings = {name: value for name, value in vars(entry).items()}
        key = keys.key(roots, entry=settings, version=versions[entry.package], torch=versions["torch"])
        place = Place("public code", "foreign", entry.name, PROPERTIES)
        found.append(Job(place, "properties", key, COMMAND, partial(_measure, entry), needs=("foreign",)))
    return found


def _measure(entry: Entry, progress: Callable[[float], None]) -> dict[str, Any]:
    """Try every property; the number is how many do not hold."""
    versions, _ = data()
    for package in ("torch", entry.package):
        installed = importlib.metadata.version(package).partition("+")[0]
        if installed != versions[package]:
            raise InputError(
                f"{package} {installed} is installed, and {versions[package]} is what is tried: see {DATA.name}"
            )
    gate = Gate(subject(entry), entry.method, role=entry.role)
    rows = []
    for i, case in enumerate(gate.cases):
        rows.append(gate.run(case))
        progress((i + 1) / len(gate.cases))
    wrong = [row for row in rows if row.verdict in WRONG]
    detail: dict[str, str] = {"version": versions[entry.package]}
    detail["holding"] = "; ".join(row.id for row in rows if row.verdict == "holds")
    if gate.kin is not None:
        detail["held to"] = gate.kin.title
    for row in wrong:
        three = lines(entry, row)
        detail[row.id] = row.said
        detail[f"{row.id}, witness"] = "\n".join(three)
        detail[f"{row.id}, prints"] = printed(three)
    return {
        "measured": len(wrong),
        "protocol": f"{entry.package} {versions[entry.package]}, torch {versions['torch']}, on the CPU",
        "detail": detail,
    }


def run(options: Options, measured: Measured) -> Table:
    """Show what does not hold of each quantizer, and how much does."""
    _, entries = data()
    found = [
        cell
        for entry in entries
        for cell in _cells(entry, measured[Place("public code", "foreign", entry.name, PROPERTIES)])
    ]
    return Table("foreign", TITLE, INTRO, tuple(found), findings=_findings(found), layout="list")


def _cells(entry: Entry, cell: Cell) -> Iterator[Cell]:
    """A line for each property that does not hold in some type, and one for all that do."""
    if cell.measured is None or cell.value_verdict is not None:
        yield cell
        return
    wrong: dict[str, list[str]] = {}
    for key in cell.detail:
        if f"{key}, witness" in cell.detail:
            name, _, dtype = key.rpartition("-")
            wrong.setdefault(name, []).append(dtype)
    for name, dtypes in wrong.items():
        key = f"{name}-{dtypes[0]}"
        said, prints = cell.detail[key], cell.detail[f"{key}, prints"]
        where = f" ({', '.join(dtypes)})" if len(entry.dtypes) > 1 else ""
        reason = f"{said}{where}. In three lines, which print {prints}:\n{cell.detail[f'{key}, witness']}"
        yield dataclasses.replace(
            cell, column=name, measured=None, detail={}, value_verdict="differs", reason=reason, unit=""
        )
    holding = str(cell.detail["holding"]).split("; ")
    names = [name for name in dict.fromkeys(one.rpartition("-")[0] for one in holding) if name not in wrong]
    like = f", as {cell.detail['held to']}" if "held to" in cell.detail else ""
    yield dataclasses.replace(
        cell,
        column=f"{len(names)} further properties",
        measured=None,
        detail={},
        value_verdict="same",
        reason=f"{', '.join(names)}; in {', '.join(entry.dtypes)}{like}",
        unit="",
    )


def _findings(cells: list[Cell]) -> tuple[str, ...]:
    lost = [cell.row for cell in cells if cell.column == "nan" and cell.value_verdict == "differs"]
    if not lost:
        return ()
    return (f"NaN is lost by {len(lost)} of {len(data()[1])}: {'; '.join(lost)}.",)


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("foreign"))
