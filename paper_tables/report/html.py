"""``report.html``: one file with everything in it, which loads nothing."""

from __future__ import annotations

import base64
import csv
import dataclasses
import gzip
import io
import json
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from paper_tables import render
from paper_tables.cells import Cell
from paper_tables.report import pictures, views
from paper_tables.report.findings import findings
from paper_tables.report.views import About, Figure
from paper_tables.tables import Table

COLUMNS = (
    "paper", "table", "row", "column", "unit", "reported", "measured", "ci95", "value_verdict", "claim_verdict",
    "reason", "runs", "seeds", "images", "selection", "protocol", "recorded", "seconds", "key", "command",
)  # fmt: skip


def html(tables: Sequence[Table], figures: Sequence[Figure], about: About) -> str:
    """Return the report.

    Whatever a cell or a table says is text: what it holds of markup is shown as it stands.
    """
    cells = [cell for table in tables for cell in table.cells]
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            about=about.facts,
            scope=views.scope(tables),
            findings=findings(tables),
            sections=[section for section in views.filled(tables, figures) if not views.without(section)],
            tables=tables,
            cells=cells,
            as_printed=lambda table: views.as_printed(table, cells) or views.grid(table),
            equations=[{**e, "cells": views.about_equation(e["number"], tables)} for e in views.mechanism()],
            protocols=_protocols(cells),
            unmeasured=views.unmeasured(tables),
            untestable=[j for table in tables for j in views.judgements(table) if j.verdict == "not testable"],
            downloads={
                "quantgap.json.gz": _data_uri("application/gzip", gzip.compress(as_json(cells).encode(), mtime=0)),
                "quantgap.csv": _data_uri("text/csv;charset=utf-8", as_csv(cells).encode()),
            },
        )
    )


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(views.HERE / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )

    def mark(name: str) -> str:
        known = render.MARKS.get(name, {"good": "✓", "bad": "✗", "open": "≠", "none": ""}[views.kind(name)])
        return "" if known == name else known

    def raw(name: str) -> Markup:
        """Return a file of this package that is not a template: the style sheet, or the script."""
        return Markup((views.HERE / "templates" / name).read_text(encoding="utf-8"))  # noqa: S704

    def picture(figure: Figure) -> Markup:
        return Markup(pictures.inline(figure))  # noqa: S704

    functions: dict[str, Callable[..., Any]] = {
        "anchor": views.anchor,
        "table_anchor": views.table_anchor,
        "kind": views.kind,
        "verdict": render.verdict,
        "measured_text": render.measured_text,
        "heading": render.heading,
        "interval": views.interval,
        "provenance": views.provenance,
        "tooltip": views.tooltip,
        "forest": views.forest,
        "judgements": views.judgements,
        "judged": views.judged,
        "unanswered": render.unanswered,
        "place": views.place,
        "section_of": views.section_of,
        "plural": views.plural,
        "star": render.star,
        "mark": mark,
        "raw": raw,
        "picture": picture,
    }
    environment.globals.update(functions)
    environment.filters["of_verdict"] = lambda cells, names: [c for c in cells if render.verdict(c) in names]
    environment.filters["not_of_verdict"] = lambda cells, names: [c for c in cells if render.verdict(c) not in names]
    environment.filters["emphasis"] = views.emphasis
    environment.filters["map_section"] = lambda cells: [views.section_of(views.place(cell)) for cell in cells]
    environment.filters.update({name: functions[name] for name in ("anchor", "mark", "kind", "interval")})
    return environment


def _protocols(cells: Iterable[Cell]) -> list[str]:
    """Return how networks were trained, each way once."""
    return list(dict.fromkeys(cell.protocol for cell in cells if cell.runs and cell.seeds and cell.unit == "percent"))


NOTHING: tuple[object, ...] = (None, "", {})


def as_json(cells: Iterable[Cell]) -> str:
    """Return all that is known of `cells`, as JSON; fields without a value are left out."""
    known = [
        {name: value for name, value in dataclasses.asdict(cell).items() if value not in NOTHING} for cell in cells
    ]
    return json.dumps(known, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def as_csv(cells: Iterable[Cell]) -> str:
    """Return `cells` as a table of comma-separated values, a line each.

    A text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell in cells:
        writer.writerow([_entry(getattr(cell, name)) for name in COLUMNS])
    return stream.getvalue()


def _entry(value: object) -> object:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    if isinstance(value, str) and value[:1] in ("=", "@", "+", "-") and not _is_number(value):
        return f"'{value}"
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
