"""Pictures inside the report: matplotlib's SVG, with names of their own and colours that follow the theme."""

from __future__ import annotations

import re
from html import escape

from paper_tables import figures
from paper_tables.report.views import Figure

# Colours of the pictures, by the CSS variable that stands for each; the style sheet has two values for every one.
VARIABLES = {
    "#ffffff": "paper",
    "#000000": "ink",
    **{color.lower(): f"hue-{name}" for name, color in figures.HUES.items()},
}


def inline(figure: Figure) -> str:
    """Return a figure as an SVG element to stand inside the report.

    Raises
    ------
    ValueError
        If it is not matplotlib's: anything that could run or load is refused.
    """
    text = figure.svg.decode("utf-8")
    start = text.find("<svg")
    if start < 0 or re.search(r"<script|<foreignObject|\bon\w+\s*=", text[start:], re.IGNORECASE):
        raise ValueError(f"figure {figure.number} is no plain SVG")
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text[start:], flags=re.DOTALL)  # styles would be the page's
    prefix = f"figure{figure.number}-"
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}\1)", text)
    text = re.sub(r"#[0-9a-fA-F]{6}\b", lambda found: _themed(found[0]), text)
    head, _, rest = text.partition(">")
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    label = escape(f"Figure {figure.number}: {figure.title}. The caption says what to see.")
    return f'{head} role="img" aria-label="{label}" class="picture">{rest}'


def _themed(color: str) -> str:
    variable = VARIABLES.get(color.lower())
    if variable:
        return f"var(--{variable})"
    channels = {color[i : i + 2] for i in (1, 3, 5)}
    return "var(--rule)" if len(channels) == 1 else color  # greys are grids and other faint lines
