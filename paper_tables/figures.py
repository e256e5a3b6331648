"""What a figure script is, how its curves are sampled, and how its picture is written.

Each script defines TITLE (a line), CAPTION (what to see in it) and draw() -> matplotlib Figure; those of the papers'
figures curves(), too: everything that is plotted, by name.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_tables import jobs
from paper_tables.tables import FIGURES, Measured, Options, check, guarded, writing
from reference.grid import Array
from torchimpl import files

Curves: TypeAlias = dict[str, tuple[Array, Array]]
Dashes: TypeAlias = str | tuple[float, tuple[float, ...]]

POINTS = 256  # a half-cell
FORMATS: dict[str, dict[str, Any]] = {  # options of savefig; no date and no name of the drawing program
    "png": {"dpi": 150, "metadata": {"Software": None}},
    "svg": {"metadata": {"Date": None, "Creator": None}},
}

# Colours that the colour-blind can tell apart (after Okabe and Ito), dark enough for text on white; lines differ by
# their dashes or width as well. A colour has one meaning in all figures.
HUES = {
    "blue": "#0063A0",
    "orange": "#A84600",
    "green": "#00694A",
    "crimson": "#B00020",
    "teal": "#00667A",
    "grey": "#5C5C5C",
    "olive": "#5E6700",
    "ochre": "#7A5B00",
    "brick": "#A3432B",
    "rose": "#B0235F",
    "wine": "#9E2F50",
    "plum": "#8A2B6B",
    "indigo": "#4B2A86",
}
BLACK = "#000000"
DAQ_WEIGHTS = HUES["blue"]  # DAQ, and of its two roles the weights
DAQ_ACTIVATIONS = HUES["orange"]
STE = HUES["grey"]
DSQ = HUES["green"]
ANNEALING = HUES["teal"]
COMBINED_STE = HUES["crimson"]  # at the adaptive temperature
TEMPERATURES = {  # fixed ones
    3.0: HUES["olive"],
    4.0: HUES["ochre"],
    6.0: HUES["brick"],
    7.0: HUES["rose"],
    8.0: HUES["wine"],
    12.0: HUES["plum"],
    24.0: HUES["indigo"],
}
PALE = "#C8C8C8"  # what other lines are compared with
DOTTED: Dashes = (0, (1, 1.2))
DASHED: Dashes = (0, (4, 1.5))
DASH_DOT: Dashes = (0, (5, 1.5, 1, 1.5))
DASH_DOT_DOT: Dashes = (0, (5, 1.5, 1, 1.5, 1, 1.5))

INPUT_LABEL = "normalised input $x$ (levels); transition point $q_t$ = 0.5"

# Set over matplotlib's defaults, so that a picture does not depend on the user's matplotlibrc.
STYLE: list[str | dict[str, Any]] = [
    "default",
    {
        "font.size": 10,
        "axes.titlesize": 10.5,
        "axes.labelsize": 10,
        "legend.fontsize": 9,
        "legend.framealpha": 1,
        "legend.handlelength": 3,
        "lines.linewidth": 1.8,
        "lines.solid_capstyle": "butt",  # a line ends where its jump is
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "0.9",
        "svg.hashsalt": "quantgap",
    },
]
styled = matplotlib.style.context(STYLE)  # decorates draw()


def script(number: str) -> ModuleType:
    """Import the script of a figure; raises InputError for a number that there is none of."""
    check("figure", number, FIGURES)
    return importlib.import_module(FIGURES[number])


def inputs(first: int, last: int) -> Array:
    """Inputs from the level `first` to the level `last`, in pieces; NaN between them keeps lines from crossing jumps.

    A piece is half a cell. The transition point belongs to the piece on its left (ties go down) and a level to the
    one on its right, as the floor has it; the other end of each is the nearest float64.

    >>> inputs(0, 1).round(3)[[0, POINTS - 1, POINTS, POINTS + 1, -1]]
    array([0. , 0.5, nan, 0.5, 1. ])
    """
    pieces = []
    for level in range(first, last):
        middle = level + 0.5
        pieces.append(np.linspace(level, middle, POINTS))
        pieces.append(np.linspace(np.nextafter(middle, level + 1), np.nextafter(level + 1, level), POINTS))
    return np.concatenate([np.append(piece, np.nan) for piece in pieces])[:-1]


def plot(axes: Axes, curves: Curves, name: str, **style: Any) -> None:
    """Draw one of `curves` as a line, under its own name unless `style` has a label."""
    x, y = curves[name]
    axes.plot(x, y, **({"label": name} | style))


def label(axes: Axes, curves: Curves, name: str, text: str, at: float, color: str, **style: Any) -> None:
    """Write `text` beside a line of `curves`, where its x is nearest to `at`; `style` moves it: dx and dy in points."""
    x, y = curves[name]
    index = int(np.nanargmin(np.abs(x - at)))
    write(axes, text, float(x[index]), float(y[index]), color, **style)


def write(
    axes: Axes,
    text: str,
    x: float,
    y: float,
    color: str,
    *,
    dx: float = 4,
    dy: float = 0,
    leader: tuple[float, float] | None = None,
    **style: Any,
) -> None:
    """Write `text` near a point of the data, on a ground that keeps it legible where lines pass below.

    With a `leader` it stands there, a point of the data too, and a thin line leads from it to the first point.
    """
    ground = {"facecolor": "#ffffff", "edgecolor": "none", "pad": 0.8}
    style = {"va": "center", "ha": "left", "fontsize": 9} | style
    more: dict[str, Any] = {"xytext": (dx, dy), "textcoords": "offset points"}
    if leader:
        line: dict[str, Any] = {"arrowstyle": "-", "color": color, "linewidth": 0.8, "shrinkA": 2, "shrinkB": 0}
        line["relpos"] = (1.0 if leader[0] < x else 0.0, 0.5)  # it leaves the text on the side of the point
        more = {"xytext": leader, "textcoords": "data", "arrowprops": line}
    axes.annotate(text, (x, y), color=color, bbox=ground, zorder=4, annotation_clip=False, **(more | style))


def apart(ends: Mapping[Any, float], least: float, top: float = np.inf) -> dict[Any, float]:
    """Move the ends of lines up, from the lowest on, and those back down that come above the top, until labels fit.

    >>> apart({"a": 1.0, "b": 1.1, "c": 5.0}, 0.5)
    {'a': 1.0, 'b': 1.5, 'c': 5.0}
    >>> apart({"a": 1.0, "b": 1.1, "c": 5.0}, 0.5, top=1.6)
    {'a': 0.6, 'b': 1.1, 'c': 1.6}
    """
    names = sorted(ends, key=lambda name: ends[name])
    up = np.maximum.accumulate([ends[name] - i * least for i, name in enumerate(names)])  # less room for each below
    rooms = top - least * np.arange(len(names))[::-1]
    return dict(zip(names, np.minimum(up + least * np.arange(len(names)), rooms).round(9).tolist(), strict=True))


def legend_below(axes: Axes, columns: int, title: str | None = None) -> None:
    """Put the legend under the axes, where it hides no curve."""
    below = (0.5, -0.15)
    axes.legend(loc="upper center", bbox_to_anchor=below, ncols=columns, title=title, borderaxespad=0, columnspacing=1)


def save(
    number: str, folder: Path, options: Options | None = None, measured: Measured | None = None
) -> tuple[Path, Path]:
    """Draw a figure and write it to ``folder/figure{number}.png`` and ``.svg``.

    `options` and `measured` are for a figure that shows what was measured, and has `jobs`.

    The same sources and the same matplotlib give the same bytes. Both are drawn before either is written.

    Raises
    ------
    InputError
        If there is no such figure.
    OSError
        If `folder` cannot be made or written.
    """
    drawn = script(number)
    figure: Figure = drawn.draw(options, measured) if hasattr(drawn, "jobs") else drawn.draw()
    pictures = [(folder / f"figure{number}.{suffix}", render(figure, suffix)) for suffix in FORMATS]
    for path, content in pictures:
        files.write_atomic(path, content)
    png, svg = (path for path, _ in pictures)
    return png, svg


@styled
def render(figure: Figure, suffix: str) -> bytes:
    """Return `figure` as a file of the format `suffix`, "png" or "svg"."""
    stream = io.BytesIO()
    figure.savefig(stream, format=suffix, **FORMATS[suffix])
    return stream.getvalue()


def main_for(number: str, arguments: Sequence[str] | None = None) -> int:
    """Run one figure's script alone; returns the exit status: 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {FIGURES[number]}",
        description=f"Draw Figure {number} as figure{number}.png and figure{number}.svg.",
    )
    parser.add_argument("--out", metavar="DIR", default="out", help="where the pictures go (default: out)")
    folder = Path(parser.parse_args(arguments).out)
    return guarded(lambda: _run(number, folder))


def _run(number: str, folder: Path) -> int:
    """Write a figure and print where it is and its caption."""
    options = Options(out=folder, workers=os.cpu_count() or 1)
    measured = jobs.run(script(number).jobs(options), options) if hasattr(script(number), "jobs") else None
    with writing(folder):
        paths = save(number, folder, options, measured)
    print(*paths, "", f"Figure {number}: {script(number).TITLE}. {script(number).CAPTION}", sep="\n")
    return 0
