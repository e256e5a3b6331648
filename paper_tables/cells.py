"""A result cell: one number of a table, as printed and as measured, with everything that says how it came about.

Cells are written as JSON, one file each. A committed cell (below ``results/``) is shown in place of a run only while
the sources, the configuration and the data that shaped it are unchanged; otherwise it is shown as stale.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SCHEMA = 1
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
_PACKAGES = ("reference", "torchimpl", "paper_tables")


@dataclass(frozen=True)
class Cell:
    """One number of a table. Accuracies are in percent.

    Attributes
    ----------
    paper, table, row, column : str
        Where it stands.
    unit : str
    reported : str or None
        As printed, with its decimals; None where the paper prints nothing.
    measured : float or None
    ci95 : tuple of float, or None
        95 % interval of the measured value for the population that the images or seeds are drawn from.
    seeds, images : int or None
        Over how many training runs, on how many test images.
    selection : str or None
        Which epoch: "last", or "best on test".
    protocol : str
        What was done, in words.
    value_verdict : str or None
        reproduced, contradicted, modelled, not run, stale; None where no verdict can be given (`reason` says why).
    claim_verdict : str or None
        holds, fails, undecided, vacuous, not testable.
    reason : str
        What the verdicts rest on.
    command : str or None
        What would measure this cell; None if the suite cannot.
    seconds : float or None
        Wall-clock time.
    hardware, versions : mapping of str to str
    source_sha256 : str
        Hash of everything that shapes the number: see `source_digest`.
    """

    paper: str
    table: str
    row: str
    column: str
    unit: str
    source_sha256: str
    protocol: str = ""
    reported: str | None = None
    measured: float | None = None
    ci95: tuple[float, float] | None = None
    seeds: int | None = None
    images: int | None = None
    selection: str | None = None
    value_verdict: str | None = None
    claim_verdict: str | None = None
    reason: str = ""
    command: str | None = None
    seconds: float | None = None
    hardware: Mapping[str, str] = dataclasses.field(default_factory=dict)
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def filename(self) -> str:
        """Name of the cell's file: readable, and unique by a hash of where the cell stands."""
        place = "\n".join((self.paper, self.table, self.row, self.column))
        words = re.sub(r"[^a-z0-9]+", "-", f"{self.row} {self.column}".lower()).strip("-")
        return f"{words[:48].rstrip('-')}.{hashlib.sha256(place.encode()).hexdigest()[:8]}.json"


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write `content` to `path`, text as UTF-8, whole or not at all; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content if isinstance(content, bytes) else content.encode())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write(folder: Path, cells: Iterable[Cell]) -> None:
    """Write each cell to ``folder/table/file.json``."""
    for cell in cells:
        text = json.dumps(dataclasses.asdict(cell), indent=1, ensure_ascii=False, allow_nan=False)
        write_atomic(folder / cell.table / cell.filename, text + "\n")


def read(path: Path) -> Cell:
    """Read a cell.

    Raises
    ------
    ValueError
        If the file is not a cell of this schema.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']!r}, this suite reads {SCHEMA}")
        if content.get("ci95") is not None:
            low, high = content["ci95"]
            content["ci95"] = (float(low), float(high))
        return Cell(**content)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a result cell: {error}") from None


def recorded(cell: Cell, folder: Path = RESULTS) -> Cell:
    """Return the committed result in place of `cell`, which was not run; `cell` itself if there is none.

    The committed result stands only if its `source_sha256` is that of `cell`; if not, it is marked stale.
    """
    path = folder / cell.table / cell.filename
    if not path.is_file():
        return cell
    found = read(path)
    if found.source_sha256 == cell.source_sha256:
        return dataclasses.replace(found, protocol=f"{found.protocol} (recorded)", command=cell.command)
    return dataclasses.replace(
        cell,
        measured=found.measured,
        value_verdict="stale",
        reason=f"recorded with other sources, configuration or data; {cell.reason}",
    )


@cache
def _imports(path: Path) -> frozenset[Path]:
    """Return the files of this project that the file `path` imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    found: set[Path] = set()
    for name in names:
        if name.split(".")[0] in _PACKAGES:
            base = ROOT.joinpath(*name.split("."))
            found.update(file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file())
    return frozenset(found)


def source_digest(modules: Iterable[str], **configuration: Any) -> str:
    """Hash everything that shapes a number.

    That is: the sources of `modules` and of everything of this project that they import, and `configuration`
    (settings, digests of data), which must be JSON. Versions of numpy or torch are provenance, not part of the hash.

    Modules that are found by name at run time, as quantizers are, must be named among `modules`.
    """
    waiting = [ROOT.joinpath(*name.split(".")).with_suffix(".py") for name in modules]
    waiting = [path if path.is_file() else path.with_suffix("") / "__init__.py" for path in waiting]
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting.extend(_imports(path))
    digest = hashlib.sha256()
    for path in sorted(seen):
        digest.update(f"{path.relative_to(ROOT)}\n{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    digest.update(json.dumps(configuration, sort_keys=True).encode())
    return digest.hexdigest()


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
    model = platform.processor() or "unknown"
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        match = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
        model = match.group(1).strip() if match else model
    except OSError:
        pass
    return {"machine": platform.machine(), "processor": model, "cores": str(os.cpu_count())}
