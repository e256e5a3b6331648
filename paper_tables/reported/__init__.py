"""What the papers print: their tables and claims as data, each with its source, and no judgement on any of it.

``table1.toml`` to ``table7.toml`` are the tables of the DAQ paper and, at the same time, the format in which a table of
one's own is handed in. ``claims_daq.toml`` and ``claims_dsq.toml`` hold the sentences that claim something;
``irnet_readme.toml`` holds what IR-Net's authors print of a setting that DAQ's tables leave out.
Printed decimals survive: numbers are `Decimal`, so that 70.0 stays 70.0.
"""

import os
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

_HERE = Path(__file__).parent
_MAX_BYTES = 1 << 20
_MAX_LINE = 2000  # tomllib needs time quadratic in the length of a dotted key; a bound on the line bounds it
_PLACES = 12  # digits admitted on either side of the point: differences stay exact in 28 digits of Decimal
_PERCENT = {"%", "percent", "percents", "per cent", "percentage", "pct"}  # accuracies, which must not go unjudged
_DEPTH = 6  # no admitted field lies deeper than rows[i].values.column.value

_Where = tuple[str | int, ...]
_Checks = Mapping[str, Callable[[object, _Where], object]]


class TableError(ValueError):
    """A table or claims file is malformed; the one-line message names file, line, field, value and what is admitted."""


@dataclass(frozen=True)
class Printed:
    """One cell as printed.

    Attributes
    ----------
    value : Decimal or str
        The number, or the words in a column of unit "text".
    difference : Decimal or None
        The number in parentheses: the difference from the row's baseline column.
    fully_quantized : bool
        Whether the cell carries the mark (a dagger in DAQ) of models quantized in all their layers.
    deviation : Decimal or None
        Standard deviation over runs, where it is printed.
    runs : int or None
        Training runs that the number is the mean of.
    """

    value: Decimal | str
    difference: Decimal | None = None
    fully_quantized: bool = False
    deviation: Decimal | None = None
    runs: int | None = None


@dataclass(frozen=True)
class Row:
    """One row as printed: ``values`` by column, without the columns that print "-"."""

    method: str
    citation: int | None
    note: str | None
    values: Mapping[str, Printed]


@dataclass(frozen=True)
class ReportedTable:
    """One table as printed.

    Attributes
    ----------
    paper, table, title, source : str
        Where it stands; ``title`` in own words.
    unit, units : str, mapping of str to str
        Unit of all columns, and of those that have another: "percent", "text" (words), or any other name.
    images : int or None
        Test images behind each accuracy; None where there are no accuracies.
    baseline : str or None
        The column that printed differences are taken from.
    ours : str
        The row (its ``method``) that is compared with all others.
    columns, rows : tuple
        In printed order.
    """

    paper: str
    table: str
    title: str
    source: str
    unit: str
    units: Mapping[str, str]
    images: int | None
    baseline: str | None
    ours: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def unit_of(self, column: str) -> str:
        """Return the unit of a column.

        >>> tables()["7"].unit_of("Time/iters"), tables()["7"].unit_of("Top-1 accuracy")
        ('ms', 'percent')
        """
        return self.units.get(column, self.unit)

    def row(self, method: str) -> Row:
        """Return the row of a method; KeyError where there is none.

        >>> tables()["2"].row("RQ").values["4/4"]
        Printed(value=Decimal('62.5'), difference=Decimal('-7.0'), fully_quantized=True, deviation=None, runs=None)
        """
        return {row.method: row for row in self.rows}[method]


@dataclass(frozen=True)
class Claim:
    """A sentence as printed; ``part`` says which of its claims is meant where it makes several."""

    id: str
    paper: str
    source: str
    text: str
    part: str | None
    topic: str


def printed_decimals(value: Decimal) -> int:
    """Return the number of decimals that a number is printed with.

    Raises
    ------
    ValueError
        For NaN and infinities.

    Examples
    --------
    >>> printed_decimals(Decimal("70.0")), printed_decimals(Decimal("-3.85")), printed_decimals(Decimal(7))
    (1, 2, 0)
    """
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int):
        raise ValueError(f"{value} has no decimals; admitted: a finite number")
    return max(0, -exponent)


@cache
def tables() -> Mapping[str, ReportedTable]:
    """Return the DAQ paper's tables by their number.

    >>> list(tables())
    ['1', '2', '3', '4', '5', '6', '7']
    """
    return MappingProxyType({table.table: table for table in map(load_table, sorted(_HERE.glob("table?.toml")))})


@cache
def irnet_readme() -> ReportedTable:
    """Return what IR-Net's authors print beside their code, by bit-width and network.

    >>> irnet_readme().row("1/1").values["ResNet-20"].value
    Decimal('86.5')
    """
    return load_table(_HERE / "irnet_readme.toml")


@cache
def claims() -> tuple[Claim, ...]:
    """Return the claims of the DAQ paper, then those of DSQ's abstract, section by section.

    >>> claims()[0].paper, claims()[0].source
    ('DAQ', 'Abstract')
    """
    return tuple(claim for name in ("claims_daq.toml", "claims_dsq.toml") for claim in _load_claims(_HERE / name))


def load_table(path: str | os.PathLike[str]) -> ReportedTable:
    """Read a table in the format of the files of this folder, checking everything.

    Parameters
    ----------
    path : path
        A UTF-8 file of at most 1 MiB, in lines of at most 2000 characters.

    Raises
    ------
    TableError
        At the first mistake found in the file.
    OSError
        Where the file cannot be read.

    Examples
    --------
    >>> load_table(Path(__file__).with_name("table6.toml")).baseline
    'DASR'
    """
    file = _File(path)
    texts = dict.fromkeys(("paper", "table", "title", "source", "unit", "ours"), file.text)
    optional = {"images": file.count, "baseline": file.text, "units": file.table}
    top = file.fields(file.data, (), {**texts, "columns": file.array, "rows": file.array}, optional)
    columns: list[str] = []
    for index, entry in enumerate(top["columns"]):
        column = file.text(entry, ("columns", index))
        if column in columns:
            file.fail(("columns", index), f"{_shown(column)} is listed twice", "each column once")
        columns.append(column)
    units = file.fields(top["units"] or {}, ("units",), {}, dict.fromkeys(columns, file.text))
    top["units"] = {column: unit for column, unit in units.items() if unit is not None}
    places: list[tuple[_Where, str]] = [(("units", column), unit) for column, unit in top["units"].items()]
    for where, unit in [(("unit",), top["unit"]), *places]:
        if unit != "percent" and unit.strip().casefold() in _PERCENT:
            file.refuse(unit, where, 'the word "percent" for accuracies')
    if top["baseline"] is not None:
        file.member(top["baseline"], ("baseline",), columns)
    rows: dict[str, Row] = {}
    for index, entry in enumerate(top["rows"]):
        at: _Where = ("rows", index)
        optional = {"citation": file.count, "note": file.text}
        row = Row(**file.fields(entry, at, {"method": file.text, "values": file.table}, optional))
        if row.method in rows:
            file.fail((*at, "method"), f"{_shown(row.method)} has a row already", "one row a method")
        values = {}
        for column, cell in row.values.items():
            where = (*at, "values", column)
            file.member(column, where, columns)
            values[column] = file.printed(cell, where, top["units"].get(column, top["unit"]))
            if values[column].difference is not None and top["baseline"] is None:
                file.fail((*where, "difference"), "is from no column", 'a difference beside a key "baseline"')
        rows[row.method] = replace(row, values=values)
    file.member(top["ours"], ("ours",), rows)
    return ReportedTable(**{**top, "columns": tuple(columns), "rows": tuple(rows.values())})


def _load_claims(path: Path) -> list[Claim]:
    file = _File(path)
    top = file.fields(file.data, (), {"paper": file.text, "claims": file.array})
    required = dict.fromkeys(("id", "source", "text", "topic"), file.text)
    found: dict[str, Claim] = {}
    for index, entry in enumerate(top["claims"]):
        at: _Where = ("claims", index)
        claim = Claim(paper=top["paper"], **file.fields(entry, at, required, {"part": file.text}))
        if claim.id in found:
            file.fail((*at, "id"), f"{_shown(claim.id)} is taken", "an id of its own")
        found[claim.id] = claim
    return list(found.values())


class _File:
    """A TOML file, and the checks whose errors name a line of it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        with open(path, "rb") as file:
            raw = file.read(_MAX_BYTES + 1)  # never more, whatever the path leads to
        if len(raw) > _MAX_BYTES:
            self.fail(raw.count(b"\n") + 1, f"more than {_MAX_BYTES} bytes", f"at most {_MAX_BYTES}")
        try:
            self.source = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            self.fail(raw.count(b"\n", 0, error.start) + 1, f"byte 0x{raw[error.start]:02x}", "UTF-8 text")
        lines = self.source.split("\n")
        for number, line in enumerate(lines, 1):
            if len(line) > _MAX_LINE:
                self.fail(number, f"{len(line)} characters in a line", f"at most {_MAX_LINE}")
        try:
            self.data = tomllib.loads(self.source, parse_float=_decimal)
        except RecursionError:
            number = 1 + max(range(len(lines)), key=lambda index: lines[index].count("[") + lines[index].count("{"))
            self.fail(number, f"{_shown(lines[number - 1].strip())} nests too deeply", "the nesting of this format")
        except ValueError as error:
            message, _, place = str(error).partition(" (at ")  # "line 3, column 7)" or "end of document)"
            position = re.match(r"line (\d+)", place)
            number = int(position[1]) if position else len(self.source.rstrip("\n").split("\n"))
            self.fail(number, f"{message}, in {_shown(lines[number - 1].strip())}", "TOML 1.0")

    def fail(self, where: _Where | int, problem: str, admitted: str) -> NoReturn:
        """Raise at a line, or at the line of a field, or of what it is part of where it is missing."""
        line, field = where, "file"
        if not isinstance(where, int):
            lines = _lines(self.source)
            line = next((lines[where[:end]] for end in range(len(where), 0, -1) if where[:end] in lines), 1)
            names = (f".{name}" if re.fullmatch(r"[\w-]{1,60}", str(name)) else f".{_shown(name)}" for name in where)
            field = "".join(names).lstrip(".")
        raise TableError(f"{self.path}:{line}: {field}: {problem}; admitted: {admitted}") from None

    def refuse(self, node: object, where: _Where, admitted: str) -> NoReturn:
        self.fail(where, f"{_shown(node)} is refused", admitted)

    def fields(self, node: object, where: _Where, required: _Checks, optional: _Checks | None = None) -> dict[str, Any]:
        """Return the checked values of a table's keys, None for optional ones that are absent."""
        checks = {**required, **(optional or {})}
        table = self.table(node, where)
        for key in table:
            self.member(key, (*where, key), checks)
        for key in required:
            if key not in table:
                self.fail((*where, key), "is missing", "the keys " + ", ".join(checks))
        return {key: check(table[key], (*where, key)) if key in table else None for key, check in checks.items()}

    def member(self, name: str, where: _Where, known: Collection[str]) -> None:
        if name not in known:
            self.fail(where, f"{_shown(name)} is unknown", f"one of {_shown(', '.join(known))}")

    def table(self, node: object, where: _Where) -> dict[str, object]:
        return node if isinstance(node, dict) else self.refuse(node, where, "a table")

    def array(self, node: object, where: _Where) -> list[object]:
        return node if isinstance(node, list) and node else self.refuse(node, where, "an array that is not empty")

    def text(self, node: object, where: _Where) -> str:
        # printable, so that nothing in a file can steer the terminal that shows it
        if isinstance(node, str) and node.strip() and node.isprintable():
            return node
        self.refuse(node, where, "a non-empty string of printable characters")

    def count(self, node: object, where: _Where) -> int:
        if isinstance(node, int) and not isinstance(node, bool) and 0 < node < 10**_PLACES:
            return node
        self.refuse(node, where, f"a positive integer of at most {_PLACES} digits")

    def mark(self, node: object, where: _Where) -> bool:
        return node if isinstance(node, bool) else self.refuse(node, where, "true or false")

    def number(self, node: object, where: _Where, low: int | None) -> Decimal:
        """Check a number; with ``low`` a percentage, from there to 100."""
        if isinstance(node, int | Decimal) and not isinstance(node, bool):
            number = Decimal(node)
            plain = number.is_finite() and number.adjusted() < _PLACES and printed_decimals(number) <= _PLACES
            if plain and (low is None or low <= number <= 100):
                return number
        span = f"of at most {_PLACES} digits on either side of the point" if low is None else f"from {low} to 100"
        self.refuse(node, where, f"a finite number {span}")

    def printed(self, node: object, where: _Where, unit: str) -> Printed:
        """Check a cell: a value, or a table with more about it."""
        percent = unit == "percent"
        value = self.text if unit == "text" else lambda node, where: self.number(node, where, 0 if percent else None)
        optional: dict[str, Callable[[object, _Where], object]] = {"fully_quantized": self.mark}
        if unit != "text":
            optional["difference"] = lambda node, where: self.number(node, where, -100 if percent else None)
            optional["deviation"] = lambda node, where: self.number(node, where, 0)
            optional["runs"] = self.count
        if not isinstance(node, dict):
            return Printed(value(node, where))
        cell = self.fields(node, where, {"value": value}, optional)
        if cell.get("deviation") is not None and (cell["runs"] or 0) < 2:
            self.fail((*where, "deviation"), "is of no runs", 'a deviation beside a key "runs", 2 or more')
        return Printed(
            cell["value"],
            cell.get("difference"),
            bool(cell["fully_quantized"]),
            cell.get("deviation"),
            cell.get("runs"),
        )


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent beyond Decimal's own: refused later, where the line is known
        return Decimal("Infinity")


def _shown(value: object) -> str:
    """Return one short line for whatever a file holds."""
    if isinstance(value, dict | list):
        return f"{'a table' if isinstance(value, dict) else 'an array'} of {len(value)}"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 100 else text[:97] + "..."


_TOKEN = re.compile(
    r'''"""(?:\\.|[^\\])*?"{3,5}|"(?:\\.|[^"\\])*"|'''
    r"""'''.*?'{3,5}|'[^']*'|#[^\n]*|[ \t]+|\n|[\[\]{}=,.]|[^\s\[\]{}=,.#"']+""",
    re.DOTALL,
)


def _lines(source: str) -> dict[_Where, int]:
    """Map the path of every key and array element to the line it begins on, in a text that tomllib has accepted."""
    found: dict[_Where, int] = {}
    last: dict[_Where, int] = {}  # of every [[array of tables]], the index of its newest element
    tokens: list[tuple[str, int]] = []
    line = 1
    for match in _TOKEN.finditer(source):
        if match[0][0] not in " \t#":
            tokens.append((match[0], line))
        line += match[0].count("\n")
    tokens.reverse()  # the next token is the last of the list

    def key(where: _Where, end: str) -> _Where:
        while (token := tokens.pop())[0] != end:
            if token[0] != ".":
                name = next(iter(tomllib.loads(token[0] + "=0")))
                where = ((*where, last[where], name) if where in last else (*where, name))[:_DEPTH]
                found.setdefault(where, token[1])
        return where

    def value(where: _Where) -> None:
        opening, index = tokens.pop()[0], 0
        if opening in ("[", "{"):
            while (token := tokens[-1])[0] not in ("]", "}"):
                if token[0] in (",", "\n"):
                    tokens.pop()
                elif opening == "{":
                    value(key(where, "="))
                else:
                    element = (*where, index)[:_DEPTH]
                    found.setdefault(element, token[1])
                    value(element)
                    index += 1
            tokens.pop()
        else:
            while tokens and tokens[-1][0] not in (",", "\n", "]", "}"):
                tokens.pop()

    table: _Where = ()
    while tokens:
        word, line = tokens[-1]
        if word == "\n":
            tokens.pop()
        elif word == "[":
            tokens.pop()
            double = tokens[-1][0] == "[" and bool(tokens.pop())
            table = key((), "]")
            if double:
                tokens.pop()
                last[table] = last.get(table, -1) + 1
                table = (*table, last[table])
                found[table] = line
        else:
            value(key(table, "="))
    return found
