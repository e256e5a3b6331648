"""What the report shows of tables and cells, arranged; templates lay it out. No table is known by its name here."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

from markupsafe import Markup, escape

from paper_tables import render, reported
from paper_tables.cells import Cell
from paper_tables.render import verdict
from paper_tables.reported import Printed, ReportedTable
from paper_tables.tables import Table, printed_text

HERE = Path(__file__).parent

Kind: TypeAlias = Literal["good", "bad", "open", "none"]
KINDS: dict[str, Kind] = {
    "reproduced": "good",
    "holds": "good",
    "matches": "good",
    "same": "good",
    "contradicted": "bad",
    "fails": "bad",
    "undecided": "open",
    "vacuous": "open",
    "stale": "open",
    "differs": "open",
    "released file differs": "open",
}
OPEN_FIRST = ("fails", "contradicted", "undecided", "vacuous")  # the order in which judgements are listed


@dataclass(frozen=True)
class Figure:
    """A figure as the report shows it.

    Attributes
    ----------
    number, title, caption : str
    svg : bytes
        The picture, as matplotlib writes it.
    """

    number: str
    title: str
    caption: str
    svg: bytes


@dataclass(frozen=True)
class About:
    """When, from which sources, and on what the report was made: text, in the order in which it is shown."""

    facts: Mapping[str, str]


def kind(name: str) -> Kind:
    """Return what a verdict is: good, bad, open, or none of these.

    >>> kind("holds"), kind("fails"), kind("undecided"), kind("not run")
    ('good', 'bad', 'open', 'none')
    """
    return KINDS.get(name, "none")


def anchor(cell: Cell) -> str:
    """Return the id of a cell in the report: readable, and unique by the hash of its file's name."""
    return f"cell-{_slug(cell.table)}-{cell.place.filename.removesuffix('.json').replace('.', '-')}"


def table_anchor(table: Table) -> str:
    """Return the id of a table in the report."""
    return f"table-{_slug(table.name)}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def interval(cell: Cell) -> str:
    """Return a cell's 95 % interval as text, or an empty string."""
    if cell.ci95 is None:
        return ""
    places = 2 if cell.unit in ("percent", "points") else None
    ends = [render.number(end) if places is None else f"{end:.{places}f}" for end in cell.ci95]
    return " to ".join(ends)


def provenance(cell: Cell) -> dict[str, str]:
    """Return where a number comes from, by name, what is empty left out."""
    found = {
        "unit": cell.unit,
        "how": cell.protocol,
        "training runs": str(cell.runs or ""),
        "seeds": ", ".join(map(str, cell.seeds or ())),
        "test images": f"{cell.images:,}" if cell.images else "",
        "epoch": cell.selection or "",
        "recorded": "in an earlier run" if cell.recorded else "",
        "took": f"{cell.seconds:,.4g} s" if cell.seconds else "",
        "hardware": ", ".join(cell.hardware.values()),
        "versions": ", ".join(f"{name} {version}" for name, version in cell.versions.items()),
        "key": cell.key or "",
        "command": cell.command or "",
    }
    return {name: text for name, text in found.items() if text}


def tooltip(cell: Cell) -> str:
    """Return what is shown of a cell where the pointer rests on it."""
    lines = [
        f"printed {cell.reported}" if cell.reported else "",
        f"measured {render.measured_text(cell)}" + (f" (95 %: {interval(cell)})" if cell.ci95 else "")
        if cell.measured is not None
        else "",
        verdict(cell),
        cell.reason,
    ]
    return "\n".join(filter(None, lines))


# ---------------------------------------------------------------------------------------------------------------------
# The papers' tables as printed
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Number:
    """A printed number with what stands beside it; any of it may be missing. `dash`: the paper prints a dash."""

    text: str = ""
    dash: bool = False
    difference: str = ""
    cell: Cell | None = None
    difference_cell: Cell | None = None


@dataclass(frozen=True)
class Row:
    """A row of a printed table; `note` is shown in the place of numbers where there are none."""

    method: str
    note: str
    numbers: tuple[Number, ...]


@dataclass(frozen=True)
class AsPrinted:
    """A table of the paper: its rows as printed, and the rows that the suite adds."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    added: tuple[Row, ...]

    @property
    def parts(self) -> tuple[AsPrinted, ...]:
        """The paper's rows and the suite's each for itself, where they have no column in common."""
        own = {c for row in self.added for c, one in zip(self.columns, row.numbers, strict=True) if one.cell}
        printed = {c for row in self.rows for c, one in zip(self.columns, row.numbers, strict=True) if one.text}
        if not own or not printed or own & printed:
            return (self,)
        return self._only(printed, self.rows, ()), self._only(own, (), self.added)

    def _only(self, columns: Collection[str], rows: Iterable[Row], added: Iterable[Row]) -> AsPrinted:
        kept = [i for i, column in enumerate(self.columns) if column in columns]

        def cut(row: Row) -> Row:
            return Row(row.method, row.note, tuple(row.numbers[i] for i in kept))

        return AsPrinted(tuple(self.columns[i] for i in kept), tuple(map(cut, rows)), tuple(map(cut, added)))


def as_printed(table: Table, everything: Iterable[Cell]) -> AsPrinted | None:
    """Set a table's cells into the table that the paper prints; None for one that no paper prints.

    A cell elsewhere whose row is the method and whose column is "Table N, column" is about the number in parentheses.
    """
    printed = reported.tables().get(table.name)
    if printed is None:
        return None
    own = {(cell.row, cell.column): cell for cell in table.cells}
    about = {
        (cell.row, cell.column): cell
        for cell in everything
        if cell.table != table.name and cell.paper == printed.paper and cell.unit == "points"
    }
    rows = tuple(_printed_row(printed, row, own, about) for row in printed.rows)
    known = {(row.method, column) for row in printed.rows for column in row.values}
    rest = [cell for cell in table.cells if (cell.row, cell.column) not in known and not cell.compares]
    columns = tuple(dict.fromkeys([*printed.columns, *table.columns, *(cell.column for cell in rest)]))
    used = [column for column in columns if column in printed.columns or any(cell.column == column for cell in rest)]
    return AsPrinted(tuple(used), tuple(_filled(row, printed.columns, used) for row in rows), _grid_rows(rest, used))


def _printed_row(
    table: ReportedTable,
    row: reported.Row,
    own: Mapping[tuple[str, str], Cell],
    about: Mapping[tuple[str, str], Cell],
) -> Row:
    def number(column: str) -> Number:
        value = row.values.get(column)
        if value is None:
            return Number(dash=bool(row.values))
        return Number(
            printed_text(value),
            difference=_difference(value),
            cell=own.get((row.method, column)),
            difference_cell=about.get((row.method, f"Table {table.table}, {column}")),
        )

    return Row(row.method, row.note or "", tuple(number(column) for column in table.columns))


def _difference(value: Printed) -> str:
    if value.difference is None:
        return ""
    return f"({value.difference:+f})".replace("-", "−")


def _filled(row: Row, columns: Sequence[str], used: Sequence[str]) -> Row:
    by_column = dict(zip(columns, row.numbers, strict=True))
    return Row(row.method, row.note, tuple(by_column.get(column, Number()) for column in used))


def _grid_rows(cells: Iterable[Cell], columns: Sequence[str]) -> tuple[Row, ...]:
    rows: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        rows.setdefault(cell.row, {})[cell.column] = cell
    return tuple(
        Row(method, "", tuple(Number(cell=found[c]) if c in found else Number() for c in columns))
        for method, found in rows.items()
    )


def grid(table: Table) -> AsPrinted:
    """Arrange the cells of a table that no paper prints, rows by columns."""
    columns, _ = render.grid(table)
    return AsPrinted(tuple(columns), (), _grid_rows(table.cells, columns))


# ---------------------------------------------------------------------------------------------------------------------
# Comparisons with intervals
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Forest:
    """Comparisons on one axis: a point each, and an interval if it is known, as shares of the width from 0 to 100."""

    title: str
    anchor: str
    first: tuple[ForestRow, ...]
    rest: tuple[ForestRow, ...]
    zero: float
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class ForestRow:
    """One comparison; `cut` says whether it goes on beyond the axis, on the left or on the right."""

    cell: Cell
    low: float
    point: float
    high: float
    cut: tuple[bool, bool]


def forest(table: Table, first: str = "") -> Forest | None:
    """Lay out a table's comparisons; rows that match the pattern `first` stand open, if there are any."""
    cells = [cell for cell in table.cells if cell.compares]
    if not cells:
        return None
    ends = [end for cell in cells for end in (*_ends(cell), 0.0)]
    low, high, step = axis(_bulk(ends))
    span = high - low

    def share(value: float) -> float:
        return round(100 * min(max((value - low) / span, 0.0), 1.0), 2)

    rows = []
    for cell in cells:
        start, end = _ends(cell)
        rows.append(ForestRow(cell, share(start), share(cell.measured or 0.0), share(end), (start < low, end > high)))
    opened = tuple(row for row in rows if first and re.search(first, row.cell.row)) or tuple(rows)
    rest = tuple(row for row in rows if row not in opened)
    count = round(span / step)
    ticks = tuple((share(low + i * step), f"{low + i * step:+g}".replace("-", "−")) for i in range(count + 1))
    ticks = tuple((at, "0" if text in ("+0", "−0") else text) for at, text in ticks)
    return Forest(render.heading(table), table_anchor(table), opened, rest, share(0.0), ticks)


def _ends(cell: Cell) -> tuple[float, float]:
    """Return the ends of a cell's interval; where none is known, both are the number itself."""
    return cell.ci95 or (cell.measured or 0.0, cell.measured or 0.0)


def _bulk(ends: Sequence[float]) -> tuple[float, float]:
    """Return a range that shows nearly all, so that one wide interval does not press the others together."""
    ordered = sorted(ends)
    middle = ordered[len(ordered) // 20 : len(ordered) - len(ordered) // 20]
    return 1.5 * min(0.0, middle[0]), 1.5 * max(0.0, middle[-1])


def axis(span: tuple[float, float]) -> tuple[float, float, float]:
    """Return round ends of an axis that holds `span`, and the step of its ticks: four to eight.

    >>> axis((-1.3, 4.4))
    (-2.0, 5.0, 1.0)
    """
    least = max(span[1] - span[0], 1e-9) / 7
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))
    low, high = step * math.floor(span[0] / step), step * math.ceil(span[1] / step)
    return low, max(high, low + step), step


# ---------------------------------------------------------------------------------------------------------------------
# Sentences grouped by what they rest on
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judgement:
    """Sentences with one verdict for one reason."""

    verdict: str
    reason: str
    cells: tuple[Cell, ...]

    @property
    def papers(self) -> tuple[str, ...]:
        """The papers that the sentences stand in."""
        return tuple(dict.fromkeys(cell.paper for cell in self.cells))

    @property
    def places(self) -> tuple[str, ...]:
        """Where in the papers they stand: section, table, abstract."""
        return tuple(dict.fromkeys(map(place, self.cells)))


def place(cell: Cell) -> str:
    """Return where a sentence stands, less the paper's name.

    >>> place(Cell(paper="DAQ", table="claims", row="...", column="DAQ, Section 3.2", unit=""))
    'Section 3.2'
    """
    return cell.column.removeprefix(f"{cell.paper}, ")


def section_of(where: str) -> str:
    """Return the section that a place belongs to, without its part.

    >>> section_of("Section 3.2, below Eq. 7"), section_of("Abstract")
    ('Section 3.2', 'Abstract')
    """
    return where.partition(",")[0].partition(" (")[0].strip()


def judgements(table: Table) -> list[Judgement]:
    """Group a table's cells by verdict and reason; those that do not hold come first."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in table.cells:
        groups.setdefault((verdict(cell), cell.reason), []).append(cell)
    found = [Judgement(name, reason, tuple(cells)) for (name, reason), cells in groups.items()]
    order = {name: i for i, name in enumerate(dict.fromkeys((*OPEN_FIRST, *KINDS)))}
    return sorted(found, key=lambda one: order.get(one.verdict, len(order)))


# ---------------------------------------------------------------------------------------------------------------------
# Sections
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Section:
    """A section of the report, as `layout.toml` has it.

    Attributes
    ----------
    id, title, intro : str
    shows : str
        How its tables are shown: "tables", "comparisons", "lines", "judgements", "figures" or "mechanism".
    tables, figures : tuple of str
        Which are in it, by name.
    first : str
        Pattern of the rows that a comparison shows unfolded.
    schedules : bool
        Whether it says how networks were trained.
    """

    id: str
    title: str
    intro: str = ""
    shows: str = "lines"
    tables: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    first: str = ""
    schedules: bool = False


@dataclass(frozen=True)
class Filled:
    """A section with what there is of it."""

    section: Section
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()


@cache
def layout() -> tuple[Section, ...]:
    """Return the sections, in order."""
    entries: list[dict[str, Any]] = tomllib.loads((HERE / "layout.toml").read_text(encoding="utf-8"))["sections"]
    for entry in entries:
        entry.update({name: tuple(entry[name]) for name in ("tables", "figures") if name in entry})
    return tuple(Section(**entry) for entry in entries)


def filled(tables: Sequence[Table], figures: Sequence[Figure]) -> list[Filled]:
    """Put every table and figure into its section; one that no section names is in the last that shows lines."""
    named = {name for section in layout() for name in section.tables}
    drawn = {number for section in layout() for number in section.figures}
    spare = next(section for section in reversed(layout()) if section.shows == "lines" and not section.tables)
    found = []
    for section in layout():
        last = section is spare
        order = {name: i for i, name in enumerate(section.tables)}
        own = [table for table in tables if table.name in order or (last and table.name not in named)]
        own_figures = [f for f in figures if f.number in section.figures or (last and f.number not in drawn)]
        own.sort(key=lambda table: order.get(table.name, len(order)))
        own_figures.sort(key=lambda f: section.figures.index(f.number) if f.number in section.figures else 99)
        found.append(Filled(section, tuple(own), tuple(own_figures)))
    return found


def without(found: Filled) -> bool:
    """Whether there is nothing in a section."""
    return not found.tables and not found.figures


# ---------------------------------------------------------------------------------------------------------------------
# Scope, and what is not checked
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scope:
    """How much of what is printed was looked at.

    Attributes
    ----------
    printed, measured : int
        Numbers that the regenerated tables print, and how many of them have a measurement beside them.
    differences, checked : int
        Differences in parentheses, and how many of them were recomputed.
    judged : mapping of str to mapping of str to int
        By table, how many lines have which verdict.
    """

    printed: int
    measured: int
    differences: int
    checked: int
    judged: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def scope(tables: Sequence[Table]) -> Scope:
    """Count what is printed, measured, recomputed and judged."""
    everything = [cell for table in tables for cell in table.cells]
    numbers = []
    for table in tables:
        printed = as_printed(table, everything)
        if printed is not None:
            again = {
                (cell.column, (cell.reported or "").rstrip("†"))
                for cell in table.cells
                if cell.reported and cell.stands
            }
            for row in printed.rows:
                for column, number in zip(printed.columns, row.numbers, strict=True):
                    if re.fullmatch(r"[\d.]+†?", number.text):
                        place_of = column, number.text.rstrip("†")
                        numbers.append((number, place_of in again))
                        again.discard(place_of)
    differences = [number for number, _ in numbers if number.difference]
    return Scope(
        len(numbers),
        sum(measured for _, measured in numbers),
        len(differences),
        sum(n.difference_cell is not None and n.difference_cell.value_verdict is not None for n in differences),
        {render.heading(table): counted for table in tables if (counted := judged(render.unanswered(table)))},
    )


def judged(cells: Iterable[Cell]) -> dict[str, int]:
    """Count cells by verdict, in the order of the marks."""
    found: dict[str, int] = {}
    for cell in cells:
        if name := verdict(cell):
            found[name] = found.get(name, 0) + 1
    order = [*KINDS, *render.MARKS]
    return dict(sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def plural(count: int, noun: str) -> str:
    """Return a count with its noun.

    >>> plural(1, "number"), plural(1200, "number")
    ('1 number', '1,200 numbers')
    """
    return f"{count:,} {noun}{'s' * (count != 1)}"


@dataclass(frozen=True)
class Unmeasured:
    """Numbers that were not measured for one reason, and the command that would."""

    tables: tuple[str, ...]
    count: int
    reason: str
    command: str


def unmeasured(tables: Sequence[Table]) -> list[Unmeasured]:
    """Group what was not measured by why, and what it would take."""
    groups: dict[tuple[str, str], dict[str, int]] = {}
    for (name, reason, command), count in render.not_run(tables).items():
        groups.setdefault((reason, command or ""), {})[name] = count
    return [
        Unmeasured(tuple(counts), sum(counts.values()), reason, command) for (reason, command), counts in groups.items()
    ]


def emphasis(text: str) -> Markup:
    """Return a text for HTML in which *word* is emphasised, and everything else stands as it is.

    >>> emphasis("*holds* for beta* < 4 * 2")
    Markup('<em>holds</em> for beta* &lt; 4 * 2')
    """
    return Markup(re.sub(r"\*([A-Za-z][A-Za-z ]*[A-Za-z])\*", r"<em>\1</em>", str(escape(text))))  # noqa: S704


def mechanism() -> list[dict[str, Any]]:
    """Return the equations that state the mechanism: number, formula, what it is, in words."""
    data = tomllib.loads((HERE / "mechanism.toml").read_text(encoding="utf-8"))
    equations: list[dict[str, Any]] = data["equations"]
    return equations


def about_equation(number: int, tables: Iterable[Table]) -> list[Cell]:
    """Return the cells that check an equation: their column or row names it, "Eq. 9", say, or "Eq. 10, 11"."""
    found = []
    for table in tables:
        for cell in table.cells:
            named = re.match(r"(?:derived \()?Eq\. (\d+(?:(?:, | to |-)\d+)*)", cell.column)
            if named and number in _numbers(named[1]):
                found.append(cell)
    return found


def _numbers(text: str) -> set[int]:
    """Return the numbers that a list names.

    >>> sorted(_numbers("10, 11")), sorted(_numbers("4 to 6"))
    ([10, 11], [4, 5, 6])
    """
    found: set[int] = set()
    for part in text.split(", "):
        ends = [int(end) for end in re.split(r" to |-", part)]
        found.update(range(ends[0], ends[-1] + 1))
    return found
