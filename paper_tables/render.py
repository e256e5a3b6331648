"""Tables for the terminal, and the Markdown report. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from paper_tables.cells import Cell
from paper_tables.tables import Table

MARKS = {
    "reproduced": "✓",
    "holds": "✓",
    "contradicted": "✗",
    "fails": "✗",
    "undecided": "?",
    "vacuous": "∅",
    "not testable": "–",
    "modelled": "~",
    "stale": "stale",
    "not run": "·",
}
STYLES = {
    "✓": "green",
    "✗": "bold red",
    "?": "yellow",
    "∅": "yellow",
    "–": "dim",
    "~": "cyan",
    "stale": "yellow",
    "·": "dim",
}
LEGEND = "printed → measured;  ✓ reproduced  ✗ contradicted  · not run  (recorded) measured earlier, sources unchanged"


def number(value: float | None) -> str:
    """Format a measured number: up to four significant digits, small errors in scientific notation.

    >>> number(0.0), number(85.62), number(8.9e-16), number(121.245), number(91.5)
    ('0', '85.62', '8.9e-16', '121.2', '91.5')
    """
    if value is None:
        return ""
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.4g}"


def measured_text(cell: Cell) -> str:
    """Return the measured value as shown: accuracies with two decimals."""
    if cell.measured is not None and cell.unit == "percent":
        return f"{cell.measured:.2f}"
    return number(cell.measured)


def verdict(cell: Cell) -> str:
    """Return the verdict that a cell is marked with, or an empty string."""
    return cell.claim_verdict or cell.value_verdict or ""


def summary(cell: Cell) -> str:
    """Return a cell in one phrase: printed, measured, mark."""
    parts = [part for part in (cell.reported, measured_text(cell)) if part]
    recorded = " (recorded)" if cell.protocol.endswith("(recorded)") else ""
    mark = MARKS.get(verdict(cell), "")
    return " → ".join(parts) + (mark if mark == "·" else f" {mark}".rstrip()) + recorded


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
    """Print a table."""
    console.print(f"[bold]{escape(heading(table))}[/bold]", highlight=False)
    shown = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    if table.layout == "grid":
        names, rows = grid(table)
        shown.add_column("method", no_wrap=True)
        for column in names:
            shown.add_column(column, justify="right", no_wrap=True)
        for row, found in rows.items():
            shown.add_row(row, *(_styled(found.get(column)) for column in names))
    else:
        lines = [cell for cell in table.cells if table.shown is None or verdict(cell) in table.shown]
        columns = _list_columns(table)
        shown.add_column("statement")
        for name in columns:
            shown.add_column(name, justify="right" if name == "measured" else "left")
        shown.add_column("")
        previous = ""
        for cell in lines:
            mark = MARKS.get(verdict(cell), "")
            statement, previous = ("" if cell.row == previous else cell.row), cell.row
            entries = [text(cell) for text in columns.values()]
            shown.add_row(statement, *entries, Text(mark, STYLES.get(mark, "")))
    console.print(shown)
    if table.shown is not None:
        console.print(f"[dim]{len(lines)} of {len(table.cells)} lines; the report has all[/dim]", highlight=False)
    for finding in table.findings:
        console.print(f"[bold]→[/bold] {escape(finding)}", highlight=False)
    console.print()


def _list_columns(table: Table) -> dict[str, Callable[[Cell], str]]:
    """Return the columns of a list that tell its lines apart, with what they show of a cell."""
    columns: dict[str, Callable[[Cell], str]] = {
        "where": lambda cell: cell.column,
        "printed": lambda cell: cell.reported or "",
        "measured": lambda cell: number(cell.measured),
    }
    return {name: text for name, text in columns.items() if len({text(cell) for cell in table.cells} - {"", "0"}) > 1}


def _styled(cell: Cell | None) -> Text:
    if cell is None:
        return Text("")
    return Text(summary(cell), STYLES.get(MARKS.get(verdict(cell), ""), ""))


def show_not_run(tables: Sequence[Table], console: Console) -> None:
    """Print what was not run: why, and the command that would."""
    groups = not_run(tables)
    if groups:
        console.print("[bold]Not run[/bold]")
    for (name, reason, command), count in groups.items():
        how = f"\n    {command}" if command else ""
        console.print(
            f"  Table {name}, {count} {'number' if count == 1 else 'numbers'}: {escape(reason)}{how}", highlight=False
        )


def not_run(tables: Iterable[Table]) -> dict[tuple[str, str, str | None], int]:
    """Count the cells that were not run, by table, reason and command."""
    groups: dict[tuple[str, str, str | None], int] = {}
    for table in tables:
        for cell in table.cells:
            if cell.value_verdict in ("not run", "stale"):
                key = (table.name, cell.reason, cell.command)
                groups[key] = groups.get(key, 0) + 1
    return groups


def totals(tables: Iterable[Table]) -> str:
    """Return the verdicts of all tables, counted, in one line."""
    counts: dict[str, int] = {}
    for table in tables:
        for name, count in table.counts().items():
            counts[name] = counts.get(name, 0) + count
    return ", ".join(f"{counts[name]} {name}" for name in MARKS if name in counts)


def report(tables: Sequence[Table]) -> str:
    """Return the Markdown report: findings first, then contents, a section a table, and what was not run."""
    lines = ["# What holds of DAQ and DSQ", "", totals(tables) + ".", "", "## Findings", ""]
    for table in tables:
        lines += [f"- [{_reference(table)}](#{_anchor(table)}): {finding}" for finding in table.findings]
    lines += ["", "## Contents", ""]
    lines += [f"- [{heading(table)}](#{_anchor(table)})" for table in tables]
    for table in tables:
        lines += ["", f'<a id="{_anchor(table)}"></a>', "", f"## {heading(table)}", "", table.intro, ""]
        lines += _markdown_grid(table) if table.layout == "grid" else _markdown_list(table)
    lines += ["", "## Not run", ""]
    for (name, reason, command), count in not_run(tables).items():
        how = f" `{command}`" if command else ""
        lines.append(f"- Table {name}, {count} of its numbers: {reason}.{how}")
    return "\n".join(lines) + "\n"


def _markdown_grid(table: Table) -> list[str]:
    columns, rows = grid(table)
    lines = [_line(["method", *columns]), _line(["---", *["---:"] * len(columns)])]
    for row, found in rows.items():
        lines.append(_line([row, *(_linked(table, found.get(column)) for column in columns)]))
    measured = [cell for cell in table.cells if cell.measured is not None and cell.reported is not None]
    return [*lines, "", *(f"- {cell.row}, {cell.column}: {_basis(cell)}" for cell in measured)]


def _markdown_list(table: Table) -> list[str]:
    columns = _list_columns(table)
    lines = [_line(["statement", *columns, "verdict", "basis"]), _line(["---"] * (len(columns) + 3))]
    for cell in table.cells:
        entries = [text(cell) for text in columns.values()]
        lines.append(_line([cell.row, *entries, _linked(table, cell, verdict(cell) or "measured"), cell.reason]))
    return lines


def _basis(cell: Cell) -> str:
    interval = f" 95 % interval {cell.ci95[0]:.2f} to {cell.ci95[1]:.2f}." if cell.ci95 else ""
    return f"{verdict(cell)}. {cell.reason}.{interval} Protocol: {cell.protocol}."


def _linked(table: Table, cell: Cell | None, text: str | None = None) -> str:
    """Return a cell's text as a link to its file, which is written beside the report."""
    if cell is None:
        return ""
    return f"[{text or summary(cell) or '–'}](cells/{table.name}/{cell.filename})"


def _line(entries: Iterable[str]) -> str:
    return "| " + " | ".join(entry.replace("|", "\\|") for entry in entries) + " |"


def _anchor(table: Table) -> str:
    return f"table-{table.name}"


def _reference(table: Table) -> str:
    return f"Table {table.name}" if table.name.isdigit() else table.title
