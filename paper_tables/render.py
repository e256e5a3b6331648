"""Tables for the terminal. Nothing is computed here, nothing is cut, and what a table says is text, never markup."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from paper_tables.cells import Cell
from paper_tables.tables import Table

MARKS = {
    "reproduced": "✓",
    "matches": "✓",
    "same": "✓",
    "holds": "✓",
    "by definition": "≡",
    "contradicted": "✗",
    "fails": "✗",
    "released file differs": "≠",
    "differs": "≠",
    "undecided": "?",
    "vacuous": "∅",
    "not testable": "–",
    "modelled": "~",
    "stale": "stale",
    "not run": "·",
}
WRONG = ("contradicted", "fails")
STYLES = {
    "✓": "green",
    "✗": "bold red",
    "≠": "yellow",
    "≡": "dim",
    "?": "yellow",
    "∅": "yellow",
    "–": "dim",
    "~": "cyan",
    "stale": "yellow",
    "·": "dim",
}


def number(value: float | None) -> str:
    """Format a measured number: up to four significant digits, small errors in scientific notation.

    >>> number(0.0), number(85.62), number(8.9e-16), number(121.245), number(91.5)
    ('0', '85.62', '9e-16', '121.2', '91.5')
    """
    if value is None:
        return ""
    return f"{value:.0e}" if 0 < abs(value) < 1e-3 else f"{value:.4g}"


def measured_text(cell: Cell) -> str:
    """Return the measured value as shown: accuracies with two decimals, and what compares two with a sign."""
    if cell.measured is not None and cell.unit == "percent":
        return f"{cell.measured:.2f}"
    if cell.measured is not None and cell.compares:
        return f"{cell.measured:+.2f}"
    return number(cell.measured)


def verdict(cell: Cell) -> str:
    """Return the verdict that a cell is marked with, or an empty string."""
    return cell.claim_verdict or cell.value_verdict or ""


def summary(cell: Cell) -> str:
    """Return a cell in one phrase: printed, measured, mark."""
    parts = [part for part in (cell.reported, measured_text(cell)) if part]
    mark = MARKS.get(verdict(cell), "")
    return " → ".join(parts) + ("" if mark == "·" and parts else f" {mark}".rstrip()) + star(cell)


def star(cell: Cell) -> str:
    """Return the mark of a number that was measured in an earlier run, and still counts."""
    return "*" if cell.recorded and cell.value_verdict != "stale" else ""


def grid(table: Table) -> tuple[list[str], dict[str, dict[str, Cell]]]:
    """Arrange a table's cells: its columns, and for each row its cells by column."""
    present = {cell.column: None for cell in table.cells}
    columns = [column for column in table.columns if column in present] or list(present)
    rows: dict[str, dict[str, Cell]] = {}
    for cell in table.cells:
        rows.setdefault(cell.row, {})[cell.column] = cell
    return columns, rows


def heading(table: Table) -> str:
    """Return the title of a table, with its number if it has one."""
    return f"Table {table.name}: {table.title}" if table.name.isdigit() else table.title


def show(table: Table, console: Console) -> None:
    """Print a table, and what it says in sentences; of a long list, the sentences and how many lines there are."""
    console.print(Text(heading(table), "bold"))
    console.print(Text(table.intro, "dim"))
    if table.shown is not None:
        console.print(Text(f"{totals([table]) or 'nothing to judge'}; every line is in the report"))
    elif table.layout == "grid":
        for part in _grid_tables(table, console):
            console.print(part)
            console.print()
    else:
        console.print(_list_table(table, console))
        console.print()
    for sentence in table.wrong:
        console.print(Text.assemble(("✗", "bold red"), " ", sentence))
    for sentence in table.findings:
        console.print(Text.assemble(("→", "bold"), " ", sentence))
    console.print()


def listing(title: str, *columns: str) -> RichTable:
    """Return an empty table with borders, in which a long word goes on in the next line."""
    made = RichTable(title=title, title_justify="left")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


GAP = 2  # columns of the terminal between two columns of a table
# rich's own stand-in where there is no Unicode has borders, which take width.
PLAIN_HEAD = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


def _plain_table(console: Console) -> RichTable:
    line = PLAIN_HEAD if console.options.ascii_only else box.SIMPLE_HEAD
    return RichTable(box=line, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")


def _grid_tables(table: Table, console: Console) -> Iterator[RichTable]:
    """Yield a grid in as many parts, one below the other, as it takes for all its columns to fit."""
    width = console.width
    columns, rows = grid(table)
    longest = max((cell_len(row) for row in rows), default=0)
    first = min(max(longest, len("method")), max(width // 3, len("method")))
    widths = {column: _width(column, rows.values()) for column in columns}
    for part in _parts(widths, width - first - GAP):
        shown = _plain_table(console)
        shown.add_column("method", min_width=first, overflow="fold")
        for column in part:
            fits = widths[column] + GAP <= width - first - GAP
            shown.add_column(Text(column), justify="right", no_wrap=fits, min_width=widths[column] if fits else None)
            shown.columns[-1].overflow = "fold"
        for row, found in rows.items():
            shown.add_row(Text(row), *(_styled(found.get(column)) for column in part))
        yield shown


def _width(column: str, rows: Iterable[Mapping[str, Cell]]) -> int:
    """Return how wide a column must be for none of its numbers, nor its title, to be broken."""
    return max([cell_len(column), *(cell_len(summary(found[column])) for found in rows if column in found)])


def _parts(widths: Mapping[str, int], room: int) -> Iterator[list[str]]:
    """Divide columns, in their order, into parts that fit; a column that is too wide by itself is a part."""
    part: list[str] = []
    for column in widths:
        if part and sum(widths[other] + GAP for other in (*part, column)) > room:
            yield part
            part = []
        part.append(column)
    if part:
        yield part


def _list_table(table: Table, console: Console) -> RichTable:
    columns = _list_columns(table)
    shown = _plain_table(console)
    shown.add_column("statement", overflow="fold")
    for name in columns:
        shown.add_column(name, justify="right" if name == "measured" else "left", overflow="fold")
    shown.add_column("", overflow="fold")
    previous = ""
    for cell in table.cells:
        statement, previous = ("" if cell.row == previous else cell.row), cell.row
        mark = MARKS.get(verdict(cell), "")
        entries = [Text(text(cell)) for text in columns.values()]
        shown.add_row(Text(statement), *entries, Text(mark + star(cell), STYLES.get(mark, "")))
    return shown


def _list_columns(table: Table) -> dict[str, Callable[[Cell], str]]:
    """Return the columns of a list that say anything, with what they show of a cell."""
    columns: dict[str, Callable[[Cell], str]] = {
        "where": lambda cell: cell.column,
        "printed": lambda cell: cell.reported or "",
        "measured": lambda cell: number(cell.measured),
    }
    texts = {name: {text(cell) for cell in table.cells} for name, text in columns.items()}
    fewest = {"where": 2}  # a single place is said by the table's title
    return {name: text for name, text in columns.items() if len(texts[name] - {"", "0"}) >= fewest.get(name, 1)}


def _styled(cell: Cell | None) -> Text:
    if cell is None:
        return Text("")
    return Text(summary(cell), STYLES.get(MARKS.get(verdict(cell), ""), ""))


def show_not_run(tables: Sequence[Table], console: Console) -> None:
    """Print what was not run: why, and the command that would."""
    groups = not_run(tables)
    if groups:
        console.print(Text("Not run", "bold"))
    for (name, reason, command), count in groups.items():
        numbers = f"{count} {'number' if count == 1 else 'numbers'}"
        console.print(Text(f"  Table {name}, {numbers}: {reason}"))
        if command:
            console.print(Text(f"    {command}"), soft_wrap=True)


def show_totals(tables: Sequence[Table], console: Console) -> None:
    """Print the marks that were used, and how often; nothing where there is nothing to mark."""
    if not totals(tables):
        return
    console.print(Text(f"\n{legend(tables)}", "dim"))
    console.print(Text(totals(tables), "bold"))


def not_run(tables: Iterable[Table]) -> dict[tuple[str, str, str | None], int]:
    """Count the cells that were not run, by table, reason and command."""
    groups: dict[tuple[str, str, str | None], int] = {}
    for table in tables:
        for cell in unanswered(table):
            if cell.value_verdict in ("not run", "stale"):
                key = (table.name, cell.reason, cell.command)
                groups[key] = groups.get(key, 0) + 1
    return groups


def unanswered(table: Table) -> list[Cell]:
    """Return the cells of a table but those not run whose printed number another line sets beside a measurement."""
    measured = Counter((cell.column, cell.reported or "") for cell in table.cells if cell.reported and cell.stands)
    found = []
    for cell in table.cells:
        number = cell.column, cell.reported or ""
        if cell.value_verdict == "not run" and measured[number]:
            measured[number] -= 1
        else:
            found.append(cell)
    return found


def legend(tables: Iterable[Table]) -> str:
    """Explain the marks that `tables` show."""
    used = {verdict(cell) for table in tables for cell in table.cells}
    marks = "  ".join(f"{mark} {name}" for name, mark in MARKS.items() if name in used and mark != name)
    recorded = "* recorded: measured earlier, with the sources and data as they are now, or a rehearsal vouches for it"
    return f"printed → measured;  {marks};  {recorded}"


def totals(tables: Iterable[Table]) -> str:
    """Return the verdicts of all tables, counted, in one line."""
    counts: dict[str, int] = {}
    for table in tables:
        for name, count in table.counts().items():
            counts[name] = counts.get(name, 0) + count
    return ", ".join(f"{counts[name]} {name}" for name in MARKS if name in counts)
