"""What a table script is: its name, its options, its result."""

from __future__ import annotations

import codecs
import errno
import importlib
import importlib.util
import io
import os
import re
import sys
import traceback
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import IO, Any, Literal, TypeAlias

from rich.console import Console
from rich.markup import escape

from paper_tables.cells import Cell, Place
from paper_tables.reported import Printed, ReportedTable

# Each script defines TITLE (a line), NEEDS (what it needs to run in full) and run(options) -> Table. One that shows
# what takes measuring defines jobs(options) -> Sequence[Job], and run(options, measured) -> Table.
SCRIPTS = {
    "1": "paper_tables.table1",
    "2": "paper_tables.table2",
    "3": "paper_tables.table3",
    "4": "paper_tables.table4",
    "5": "paper_tables.table5",
    "6": "paper_tables.table6",
    "7": "paper_tables.table7",
    "equations": "paper_tables.equations",
    "released": "paper_tables.released",
    "arithmetic": "paper_tables.audit.arithmetic",
    "significance": "paper_tables.audit.significance",
    "claims": "paper_tables.audit.claims",
    "code": "paper_tables.audit.code",
    "divergence": "paper_tables.audit.divergence",
    "foreign": "paper_tables.audit.foreign",
    "cost": "paper_tables.cost",
    "arm": "paper_tables.arm_speed",
    "tuning": "paper_tables.tuning",
    "schedule": "paper_tables.schedule",
    "protocol": "paper_tables.protocol",
    "constants": "paper_tables.constants",
    "evolution": "paper_tables.evolution",
    "depth": "paper_tables.depth",
    "disguise": "paper_tables.disguise",
}
FIGURES = {  # see `paper_tables.figures`
    "3": "paper_tables.figure3",
    "4": "paper_tables.figure4",
    "5": "paper_tables.figure5",
    "6": "paper_tables.figure6",
    "S1": "paper_tables.figure_schedule",  # the suite's own
    "S2": "paper_tables.figure_depth",
    "S3": "paper_tables.figure_disguise",
    "S4": "paper_tables.figure_evolution",
}


INSTALLED = "quantgap"  # the command that an installation has


class Output(Console):
    """Standard output, or standard error, where :text: is no picture. `guarded` tells that its reader has left."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(emoji=False, **settings)

    def on_broken_pipe(self) -> None:
        """Raise the error that is being handled."""
        raise


console = Output(stderr=True)  # progress and errors; results go to standard output


def program() -> str:
    """Return the name that this was called by: the installed command, or the module."""
    return INSTALLED if Path(sys.argv[0]).stem == INSTALLED else "python -m paper_tables"


# What a stream that has no Unicode is given in the place of a character.
PLAIN = {
    "✓": "+", "✗": "x", "→": ">", "∅": "0", "–": "-", "—": "-", "−": "-", "·": ".", "…": "...", "±": "+/-", "≠": "!=",
    "≤": "<=", "≥": ">=", "×": "x", "†": "^", "’": "'", "“": '"', "”": '"', "λ": "lambda", "β": "beta", "γ": "gamma",
    "σ": "sigma", "κ": "kappa", "α": "alpha", "φ": "phi", "²": "^2", "√": "sqrt",
}  # fmt: skip


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Stand in for characters that an encoding has not: see `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = "".join(map(_plain_character, error.object[error.start : error.end]))
    return text, error.end


def _plain_character(character: str) -> str:
    bare = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return PLAIN.get(character) or bare or "?"


codecs.register_error("quantgap", _plain)


class InputError(ValueError):
    """What the user gave cannot be used; the message is one line."""


@dataclass(frozen=True)
class Options:
    """What the command line says.

    Attributes
    ----------
    data : Path or None
        Folder with CIFAR-10.
    checkpoints : Path or None
        Folder with the released checkpoints.
    out : Path
        Where results go.
    record : bool
        Whether what takes data to measure also goes to ``results/``.
    again : bool
        Whether to measure even what is recorded.
    quiet : bool
        No progress bars.
    profile : str
        How long networks are trained, and on what: see `torchimpl.training.recipe.profiles`.
    seeds : int
        Training runs a cell, with seeds 0, 1, ...
    workers : int
        Processes that train side by side.
    ray : str or None
        Address of a Ray cluster that trains instead.
    device : str
        On which networks are trained.
    compiled : bool
        Whether they are trained through torch.compile.
    tune : bool or None
        Whether to run what takes long, too, such as seeking rates; None: no.
    """

    data: Path | None = None
    checkpoints: Path | None = None
    out: Path = Path("out")
    record: bool = False
    again: bool = False
    quiet: bool = False
    profile: str = "embedded"
    seeds: int = 3
    workers: int = 1
    ray: str | None = None
    device: str = "cpu"
    compiled: bool = False
    tune: bool | None = None

    @property
    def kernels(self) -> str | None:
        """What builds the ARM kernels and runs them counted, if it is installed."""
        packages = ("ziglang", "unicorn")
        return " and ".join(packages) if all(map(importlib.util.find_spec, packages)) else None

    @property
    def others(self) -> Path | None:
        """Folder with the public networks of others, where there is one: see `paper_tables.released`."""
        folder = self.checkpoints / "others" if self.checkpoints else None
        return folder if folder and folder.is_dir() else None

    @property
    def foreign(self) -> str | None:
        """Whose quantizers are tried, if all are installed."""
        packages = ("brevitas", "torchao", "onnx", "onnxruntime")
        return ", ".join(packages) if all(map(importlib.util.find_spec, packages)) else None


Measured: TypeAlias = Mapping[Place, Cell]
"""What was found of each job, by its place: see `jobs.run`."""


@dataclass(frozen=True)
class Table:
    """A regenerated table.

    Attributes
    ----------
    name, title : str
    intro : str
        What is set beside what, in one paragraph.
    cells : tuple of Cell
        In the order of the table.
    wrong : tuple of str
        What does not hold of what is printed, a sentence each.
    findings : tuple of str
        What else the numbers say.
    layout : {"grid", "list"}
        Rows by columns, or a line a cell.
    columns : tuple of str
        Order of a grid's columns.
    shown : tuple of str, optional
        Of a long list, the verdicts whose lines the report shows unfolded; the terminal shows sentences only.
    """

    name: str
    title: str
    intro: str
    cells: tuple[Cell, ...]
    wrong: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    layout: Literal["grid", "list"] = "grid"
    columns: tuple[str, ...] = ()
    shown: tuple[str, ...] | None = None

    def counts(self) -> dict[str, int]:
        """Count the verdicts, value and claim verdicts together."""
        found: dict[str, int] = {}
        for cell in self.cells:
            for verdict in (cell.value_verdict, cell.claim_verdict):
                if verdict:
                    found[verdict] = found.get(verdict, 0) + 1
        return found


def guarded(action: Callable[[], int]) -> int:
    """Turn what can go wrong into an exit status: bad input is one line, a failure of the suite a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="quantgap")
    try:
        try:
            return action()
        finally:
            if sys.stdout is not None:  # it may have been closed before this began
                sys.stdout.flush()
    except SystemExit:  # argparse's own; what it wrote may wait in a buffer that cannot be emptied
        try:
            if sys.stderr is not None:
                sys.stderr.flush()
        except OSError:
            _discard(sys.stderr)
        raise
    except InputError as error:
        return _refuse(str(error))
    except BrokenPipeError:  # the reader has what it wanted, as `head` has: the status of what SIGPIPE ends
        _discard(sys.stdout)
        return 141
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            return _failed()
        _discard(sys.stdout)
        return _refuse(f"standard output: {error.strerror}")
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except Exception:
        return _failed()


def _refuse(message: str) -> int:
    _say(f"[bold red]error:[/bold red] {escape(message)}")
    return 2


def _failed() -> int:
    text = escape(traceback.format_exc().rstrip())
    _say(f"{text}\n[bold red]failure of the suite[/bold red], not of your input: please report the above")
    return 3


def _say(text: str) -> None:
    """Write to standard error, if that is there, and has room and a reader: the status says as much."""
    try:
        console.print(text, highlight=False, soft_wrap=True)
    except OSError:
        _discard(sys.stderr)


def _discard(stream: IO[str]) -> None:
    """Let what is left for a stream go nowhere, so that the interpreter does not fail over it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def folder(name: str, value: str | None) -> Path | None:
    """Return a folder given by option or environment variable.

    Raises
    ------
    InputError
        If it is not a folder.
    """
    option, variable = f"--{name} ", f"QUANTGAP_{name.upper()}"
    if not value:
        option, value = f"{variable}=", os.environ.get(variable)
    if not value:
        return None
    path = Path(value).expanduser()
    if not path.is_dir():
        raise InputError(f"{option}{value}: no such folder")
    return path


@contextmanager
def writing(destination: Path, option: str = "--out") -> Iterator[None]:
    """Turn a refusal of the file system into InputError, which names the option that asked for the writing."""
    try:
        yield
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise InputError(f"{option} {destination}: {error.strerror}{where}") from None


def script(name: str) -> ModuleType:
    """Import the script of a table; raises InputError for a name that there is none of."""
    check("table", name, SCRIPTS)
    return importlib.import_module(SCRIPTS[name])


def check(what: str, name: str, known: Collection[str]) -> None:
    """Raise InputError unless the table or figure `name` is among the `known` ones."""
    if name not in known:
        raise InputError(f"{what} must be one of {', '.join(known)}, got {name!r}")


def parse_percent(option: str, text: str) -> Decimal:
    """Parse an accuracy given to `option`, keeping its printed decimals.

    >>> parse_percent("--claim", "91.20")
    Decimal('91.20')

    Raises
    ------
    InputError
        If it is not a number from 0 to 100 of at most six decimals.
    """
    if not re.fullmatch(r"\d{1,3}(\.\d{1,6})?", text, re.ASCII) or Decimal(text) > 100:
        raise InputError(
            f"{option} must be a percentage from 0 to 100 of at most 6 decimals, such as 91.2, got {text!r}"
        )
    return Decimal(text)


def printed_text(printed: Printed) -> str:
    """Return a printed value as text, with its decimals and its mark, a dagger for models quantized in all layers."""
    value = printed.value if isinstance(printed.value, str) else f"{printed.value:f}"
    return value + ("†" if printed.fully_quantized else "")


def not_run_cell(table: ReportedTable, method: str, column: str, printed: Printed, why: str) -> Cell:
    """Build the cell of a printed number that the suite does not measure, and say why."""
    return Cell(
        paper=table.paper,
        table=table.table,
        row=method,
        column=column,
        unit=table.unit_of(column),
        reported=printed_text(printed),
        images=table.images,
        value_verdict="not run",
        reason=why,
    )


def not_run(table: ReportedTable, intro: str, why: Callable[[str], str]) -> Table:
    """Build a table of which nothing is measured; ``why(method)`` gives the reason for a row."""
    return Table(
        name=table.table,
        title=table.title,
        intro=intro,
        cells=tuple(
            not_run_cell(table, row.method, column, printed, why(row.method))
            for row in table.rows
            for column, printed in row.values.items()
        ),
        columns=table.columns,
    )
