"""Tables for the terminal, and the Markdown report. Nothing is computed here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from paper_tables.cells import Cell
from paper_tables.tables import Table


@dataclass(frozen=True)
class Figure:
    """A figure as the report shows it; its pictures lie in ``figures/`` beside the report."""

    number: str
    title: str
    caption: str


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
    console.print(f"[bold]{escape(heading(table))}[/bold]", highlight=False)
    console.print(f"[dim]{escape(table.intro)}[/dim]", highlight=False)
    if table.shown is not None:
        console.print(f"{totals([table])}; every line is in the report", highlight=False)
    else:
        console.print(_grid_table(table) if table.layout == "grid" else _list_table(table))
    for sentence in table.wrong:
        console.print(f"[bold red]✗[/bold red] {escape(sentence)}", highlight=False)
    for sentence in table.findings:
        console.print(f"[bold]→[/bold] {escape(sentence)}", highlight=False)
    console.print()


def _plain_table() -> RichTable:
    return RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")


def _grid_table(table: Table) -> RichTable:
    columns, rows = grid(table)
    shown = _plain_table()
    shown.add_column("method")  # wraps, so that no number is cut
    for column in columns:
        widest = max((len(summary(found[column])) for found in rows.values() if column in found), default=0)
        shown.add_column(escape(column), justify="right", no_wrap=True, min_width=max(len(column), widest))
    for row, found in rows.items():
        shown.add_row(escape(row), *(_styled(found.get(column)) for column in columns))
    return shown


def _list_table(table: Table) -> RichTable:
    columns = _list_columns(table)
    shown = _plain_table()
    shown.add_column("statement")
    for name in columns:
        shown.add_column(name, justify="right" if name == "measured" else "left")
    shown.add_column("")
    previous = ""
    for cell in table.cells:
        statement, previous = ("" if cell.row == previous else cell.row), cell.row
        mark = MARKS.get(verdict(cell), "")
        entries = [escape(text(cell)) for text in columns.values()]
        shown.add_row(escape(statement), *entries, Text(mark + star(cell), STYLES.get(mark, "")))
    return shown


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
        how = f"\n    {escape(command)}" if command else ""
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


def legend(tables: Iterable[Table]) -> str:
    """Explain the marks that `tables` show."""
    used = {verdict(cell) for table in tables for cell in table.cells}
    marks = "  ".join(f"{mark} {name}" for name, mark in MARKS.items() if name in used and mark != name)
    return f"printed → measured;  {marks};  * recorded: measured earlier, with the sources and data as they are now"


def totals(tables: Iterable[Table]) -> str:
    """Return the verdicts of all tables, counted, in one line."""
    counts: dict[str, int] = {}
    for table in tables:
        for name, count in table.counts().items():
            counts[name] = counts.get(name, 0) + count
    return ", ".join(f"{counts[name]} {name}" for name in MARKS if name in counts)


def report(tables: Sequence[Table], figures: Sequence[Figure] = ()) -> str:
    """Return the Markdown report: what does not hold first, then contents, and a section a table and a figure."""
    lines = ["# What holds of DAQ and DSQ", "", OPENING, "", f"Lines by verdict: {totals(tables)}.", ""]
    lines += ["## What does not hold", "", *_sentences(tables, lambda table: table.wrong)]
    lines += ["", "## What else the numbers say", "", *_sentences(tables, lambda table: table.findings)]
    lines += ["", "## Contents", ""]
    lines += [f"- [{_escape(heading(table))}](#{_anchor(table)})" for table in tables]
    lines += [f"- [Figure {figure.number}: {_escape(figure.title)}](#figure-{figure.number})" for figure in figures]
    lines += ["- [Not run](#not-run)", "- [How to read this report](#how-to-read-this-report)"]
    for table in tables:
        lines += [
            "",
            f'<a id="{_anchor(table)}"></a>',
            "",
            f"## {_escape(heading(table))}",
            "",
            _escape(table.intro),
            "",
        ]
        lines += _markdown_grid(table) if table.layout == "grid" else _markdown_list(table)
    for figure in figures:
        lines += [
            "",
            f'<a id="figure-{figure.number}"></a>',
            "",
            f"## Figure {figure.number}: {_escape(figure.title)}",
            "",
        ]
        lines += [f"![Figure {figure.number}](figures/figure{figure.number}.png)", "", _escape(figure.caption)]
    lines += ["", "## Not run", ""]
    for (name, reason, command), count in not_run(tables).items():
        how = f": `{command}`" if command else ""
        lines.append(f"- Table {name}, {count} {'number' if count == 1 else 'numbers'}: {_escape(reason)}{how}")
    lines += ["", "## How to read this report", "", *HOW_TO_READ]
    return "\n".join(lines) + "\n"


OPENING = (
    "Distance-aware Quantization (DAQ, ICCV 2021) and Differentiable Soft Quantization (DSQ, ICCV 2019) train neural "
    "networks with weights and activations of a few bits. This report sets what they print beside what is computed and "
    "measured here; [how to read it](#how-to-read-this-report) is at its end."
)
HOW_TO_READ = """\
Every number links to its cell, a JSON file with all that is known of it: as printed, as measured, how, on what, and, if
measuring takes long, a hash of the sources and data that shaped it.

- ✓ *reproduced*: within half a unit of the last printed digit; for a formula, the worst error over a dense grid is
  below the accuracy of the computation it is compared with. ✗ *contradicted*: not so.
- ✓ *matches*, ≠ *released file differs*: a released file beside the printed number of a training run, which may have
  been another run. ✓ *same*, ≠ *differs*: what the released code does beside what the paper says.
- ✓ *holds*, ✗ *fails*: a claim in words. ≡ *by definition*: nothing could come out otherwise. ? *undecided*: within
  chance, or two fair readings disagree. ∅ *vacuous*: there is nothing to compare with.
  – *not testable*: the reason says what it would take.
- A printed number alone, or ·, is *not run*: the section of that name says why, and the command that would.
  \\* *recorded*: measured earlier, with the sources and data as they are now. *stale*: measured earlier, with
  others.""".splitlines()


def _sentences(tables: Iterable[Table], of: Callable[[Table], tuple[str, ...]]) -> list[str]:
    """List sentences under the title of their table; one that has a single sentence is one line."""
    lines = []
    for table in tables:
        link = f"[{_escape(heading(table))}](#{_anchor(table)})"
        sentences = [_escape(sentence) for sentence in of(table)]
        if len(sentences) == 1:
            lines.append(f"- {link}: {sentences[0]}")
        elif sentences:
            lines += [f"- {link}:", *(f"  - {sentence}" for sentence in sentences)]
    return lines or ["- Nothing."]


def _markdown_grid(table: Table) -> list[str]:
    columns, rows = grid(table)
    lines = [_line(["method", *columns]), _line(["---", *["---:"] * len(columns)])]
    for row, found in rows.items():
        lines.append(_line([_escape(row), *(_linked(table, found.get(column)) for column in columns)]))
    measured = [cell for cell in table.cells if cell.measured is not None and cell.reported is not None]
    return [*lines, "", *(f"- {_escape(f'{cell.row}, {cell.column}: {_basis(cell)}')}" for cell in measured)]


def _markdown_list(table: Table) -> list[str]:
    """Return a list's lines; of a long one those that matter, and all of them folded."""
    if table.shown is None:
        return _markdown_lines(table, table.cells)
    some = [cell for cell in table.cells if verdict(cell) in table.shown]
    folded = ["<details>", f"<summary>All {len(table.cells)} lines</summary>", ""]
    return [
        *(_markdown_lines(table, some) if some else []),
        "",
        *folded,
        *_markdown_lines(table, table.cells),
        "",
        "</details>",
    ]


def _markdown_lines(table: Table, cells: Sequence[Cell]) -> list[str]:
    columns = _list_columns(table)
    lines = [_line(["statement", *columns, "verdict", "basis"]), _line(["---"] * (len(columns) + 3))]
    for cell in cells:
        entries = [_escape(text(cell)) for text in columns.values()]
        words = f"{MARKS.get(verdict(cell), '')} {verdict(cell) or 'measured'}{star(cell)}".strip()
        shown = _linked(table, cell, words)
        lines.append(_line([_escape(cell.row), *entries, shown, _escape(cell.reason)]))
    return lines


def _basis(cell: Cell) -> str:
    interval = f" 95 % interval {cell.ci95[0]:.2f} to {cell.ci95[1]:.2f}." if cell.ci95 else ""
    recorded = " (recorded)" if star(cell) else ""
    return f"{verdict(cell)}; {cell.reason}.{interval} Protocol: {cell.protocol}{recorded}."


def _linked(table: Table, cell: Cell | None, text: str | None = None) -> str:
    """Return a cell's text as a link to its file, which is written beside the report."""
    if cell is None:
        return ""
    return f"[{_escape(text or summary(cell) or '–')}](cells/{table.name}/{cell.place.filename})"


def _escape(text: str) -> str:
    r"""Keep Markdown from reading a formula as emphasis, a table's border or HTML.

    >>> print(_escape("beta* s_f < |x|"))
    beta\* s\_f &lt; \|x\|
    """
    return re.sub(r"([*_|`\[\]\\])", r"\\\1", text).replace("<", "&lt;")


def _line(entries: Iterable[str]) -> str:
    return "| " + " | ".join(entries) + " |"


def _anchor(table: Table) -> str:
    return f"table-{table.name}"
