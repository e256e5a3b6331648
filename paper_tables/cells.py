"""What a file of results holds: a measurement, as recorded, or a cell, as shown: joined with what is printed.

Both are JSON, one file each. A recorded measurement knows nothing of printed numbers or verdicts: these are joined and
judged whenever it is shown.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

from torchimpl import files

SCHEMA = 2
ROOT = Path(__file__).resolve().parent.parent
# What is recorded: of a checkout, its own folder; of an installation, the copy that came with it.
RESULTS = ROOT / "results" if (ROOT / "results").is_dir() else ROOT / "paper_tables" / "recorded"
VECTORS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")  # by which libraries choose kernels

Detail: TypeAlias = float | str | tuple[float, ...]


class Place(NamedTuple):
    """Where a number stands."""

    paper: str
    table: str
    row: str
    column: str

    @property
    def filename(self) -> str:
        """Name of its file: readable, and unique by a hash of the place."""
        words = re.sub(r"[^a-z0-9]+", "-", f"{self.row} {self.column}".lower()).strip("-")
        return f"{words[:48].rstrip('-')}.{hashlib.sha256(chr(10).join(self).encode()).hexdigest()[:8]}.json"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was measured of one number, and how. Accuracies are in percent.

    What judging needs beside `measured` is here too: how many images were right follows from `measured` and `images`,
    and `detail` holds what else was found.

    Attributes
    ----------
    schema : int
    paper, table, row, column : str
        Where it stands.
    unit : str
    measured : float or None
        None only in a cell that shows no measurement.
    ci95 : tuple of float, or None
        95 % interval for the population that the images or seeds are drawn from.
    runs : int or None
        Over how many training runs; a released file is of one.
    seeds : tuple of int, or None
        Their seeds, where known.
    images : int or None
        On how many test images.
    selection : str or None
        Which epoch: "last", or "best on test".
    protocol : str
        What was done, in words.
    detail : mapping of str to float, str or tuple of float
        What was found beside the number: what the sentence that explains it needs, or a curve that it is the end of.
    seconds : float or None
        Wall-clock time.
    hardware, versions : mapping of str to str
    key : str or None
        Hash of everything that shapes the number: see `keys.key`. None for what is computed whenever it is shown.
    """

    schema: int = SCHEMA
    paper: str
    table: str
    row: str
    column: str
    unit: str
    measured: float | None = None
    ci95: tuple[float, float] | None = None
    runs: int | None = None
    seeds: tuple[int, ...] | None = None
    images: int | None = None
    selection: str | None = None
    protocol: str = ""
    detail: Mapping[str, Detail] = dataclasses.field(default_factory=dict)
    seconds: float | None = None
    hardware: Mapping[str, str] = dataclasses.field(default_factory=dict)
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    key: str | None = None

    @property
    def place(self) -> Place:
        """Where it stands."""
        return Place(self.paper, self.table, self.row, self.column)


@dataclass(frozen=True, kw_only=True)
class Cell(Measurement):
    """One number of a table as shown: a measurement, if there is one, beside what is printed, and judged.

    Attributes
    ----------
    reported : str or None
        As printed, with its decimals; None where the paper prints nothing.
    recorded : bool
        Whether it was measured in an earlier run.
    value_verdict : str or None
        reproduced, contradicted; matches, released file differs (a released file beside what is printed of a training
        run); same, differs (released code beside the paper); by definition, modelled, not run, stale; None where no
        verdict can be given (`reason` says why).
    claim_verdict : str or None
        holds, fails, by definition, undecided, vacuous, not testable.
    reason : str
        What the verdicts rest on.
    command : str or None
        What would measure this cell; None if the suite cannot, or computes it whenever it is shown.
    """

    reported: str | None = None
    recorded: bool = False
    value_verdict: str | None = None
    claim_verdict: str | None = None
    reason: str = ""
    command: str | None = None

    @property
    def stands(self) -> bool:
        """Whether it has a number that is not stale."""
        return self.measured is not None and self.value_verdict != "stale"

    @property
    def compares(self) -> bool:
        """Whether it is a difference of two accuracies, and judged."""
        return self.unit == "points" and self.claim_verdict is not None


def write(folder: Path, found: Iterable[Measurement]) -> None:
    """Write each measurement or cell to ``folder/table/file.json``."""
    for one in found:
        text = json.dumps(dataclasses.asdict(one), indent=1, ensure_ascii=False, allow_nan=False)
        files.write_atomic(folder / one.table / one.place.filename, text + "\n")


Kind = TypeVar("Kind", bound=Measurement)


def read(path: Path, kind: type[Kind]) -> Kind:
    """Read a measurement, or a cell.

    Raises
    ------
    ValueError
        If the file is not one of this schema, or is in another one's place; the message is one line that names it.
    OSError
        If there is no such file, or it cannot be read.
    """
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError(f"holds a {type(content).__name__}, not an object")
        if content.get("schema") != SCHEMA:
            raise ValueError(f"schema must be {SCHEMA}, got {content.get('schema')!r}")
        fields = {field.name: str(field.type) for field in dataclasses.fields(kind)}
        if wrong := fields.keys() ^ content.keys():
            name = min(wrong)
            raise ValueError(f"field {name!r} is {'missing' if name in fields else 'unknown'}")
        found = kind(**{name: _parse(name, annotation, content[name]) for name, annotation in fields.items()})
        if found.unit == "percent" and not 0 <= (found.measured or 0) <= 100:
            raise ValueError(f"measured must be from 0 to 100 percent, got {found.measured:g}")
        if (path.parent.name, path.name) != (found.table, found.place.filename):
            raise ValueError(f"holds another number: table {found.table}, {found.row!r}, {found.column!r}")
        return found
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged, or no {kind.__name__.lower()}: {error}") from None


def _parse(name: str, annotation: str, value: Any) -> Any:
    """Turn what JSON holds into what a field is annotated with; raises ValueError if it is anything else."""
    kind = annotation.removesuffix(" | None")
    if value is None and kind != annotation:
        return None
    admits, make = _ADMITTED[kind]
    if not admits(value):
        raise ValueError(f"{name} must be {kind}, got {str(value)[:60]!r}")
    return make(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_detail(value: object) -> bool:
    return _is_text(value) or _is_number(value) or (isinstance(value, list) and all(map(_is_number, value)))


# By annotation: what is admitted, and what is made of it.
_ADMITTED: dict[str, tuple[Callable[[Any], bool], Callable[[Any], Any]]] = {
    "str": (_is_text, str),
    "bool": (lambda value: isinstance(value, bool), bool),
    "int": (_is_count, int),
    "float": (_is_number, float),
    "tuple[float, float]": (
        lambda value: (
            isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)) and value == sorted(value)
        ),
        lambda value: tuple(map(float, value)),
    ),
    "tuple[int, ...]": (lambda value: isinstance(value, list) and all(map(_is_count, value)), tuple),
    "Mapping[str, str]": (lambda value: isinstance(value, dict) and all(map(_is_text, value.values())), dict),
    "Mapping[str, Detail]": (
        lambda value: isinstance(value, dict) and all(map(_is_detail, value.values())),
        lambda value: {name: tuple(v) if isinstance(v, list) else v for name, v in value.items()},
    ),
}


@cache
def versions() -> dict[str, str]:
    """Return the versions that bear on a result."""
    found = {"python": platform.python_version()}
    for name in ("numpy", "numba", "scipy", "torch"):
        found[name] = importlib.metadata.version(name)
    return found


@cache
def hardware() -> dict[str, str]:
    """Return what the machine is, without its name."""
    try:
        model = _processor(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        model = ""
    return {
        "machine": platform.machine(),
        "processor": model or platform.processor() or "unknown",
        "cores": str(os.cpu_count()),
    }


def _processor(info: str) -> str:
    """Tell processors apart that give other bits, from Linux's /proc/cpuinfo; empty if it names none.

    Hosts of virtual machines call several generations by one name, and hide instructions.
    """
    lines = (line.partition(":") for line in info.partition("\n\n")[0].splitlines())  # of the first core
    found = {name.strip(): value.strip() for name, _, value in lines}
    told = [f"{name} {found[name]}" for name in ("cpu family", "model", "CPU implementer", "CPU part") if name in found]
    flags = found.get("flags", found.get("Features", "")).split()
    inside = ", ".join([*told, *(flag for flag in VECTORS if flag in flags)])
    return f"{found.get('model name', '')} ({inside})".lstrip() if inside else found.get("model name", "")
