"""The suite's Figure S2: what the shape of DAQ's slope does, and what its level does, which compounds with depth."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from paper_tables import depth, figures
from paper_tables.cells import Cell
from paper_tables.figures import DAQ_ACTIVATIONS, HUES, STE, Dashes
from paper_tables.jobs import Job
from paper_tables.tables import Measured, Options

TITLE = "Shape and level of the slope, through depth"
CAPTION = (
    "Left: gradients of the weights of ResNet-20's quantized layers, with DAQ's kernels over flat slopes of level 1, "
    "equal forward passes. Right: accuracy with each shape and level, each at the best of a grid of rates, on digits "
    "and (those arms that were trained on it) on CIFAR-10; dots are seeds, bars their means."
)
KERNELS: dict[str, tuple[str, Dashes]] = {
    "paper": (DAQ_ACTIVATIONS, "solid"),
    "released": (HUES["teal"], figures.DASHED),
}
LINE_WIDTHS = {"before fine-tuning": 2.4, "released network": 1.2}


def jobs(options: Options) -> list[Job]:
    """Return the jobs of the table."""
    return depth.jobs(options)


@figures.styled
def draw(options: Options, measured: Measured) -> Figure:
    """Draw the gradients by layer, and the arms that were trained."""
    found = [cell for job in depth.jobs(options) if (cell := measured[job.place]).stands]
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    gradients = [cell for cell in found if cell.unit == "ratio"]
    arms: dict[str, list[Cell]] = {}
    for cell in found:
        if cell.unit == "percent":
            arms.setdefault(cell.column, []).append(cell)
    if not gradients and not arms:
        figure.text(0.5, 0.5, "nothing is recorded", ha="center")
        return figure
    widths = [1.0, *(1.15 / len(arms) for _ in arms)]
    left, *right = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    _gradients(left, gradients)
    ordered: list[str] = []  # by accuracy in the first panel, and below them what is in later ones only
    for cells in arms.values():
        ordered[:0] = [c.row for c in sorted(cells, key=lambda c: c.measured or 0.0) if c.row not in ordered]
    for axes, (column, cells) in zip(right, arms.items(), strict=True):
        _arms(axes, column, cells, ordered)
        axes.tick_params(labelleft=axes is right[0])
    return figure


def _gradients(axes: Axes, cells: list[Cell]) -> None:
    axes.set_title("gradient over that of flat slopes")
    axes.set_xlabel("quantized layer")
    axes.set_yscale("log")
    axes.axhline(1, color=STE, linewidth=0.8)
    for cell in cells:
        kernel = next(name for name in KERNELS if f"{name} kernel" in cell.row)
        color, dashes = KERNELS[kernel]
        ratios = cell.detail["by layer"]
        assert isinstance(ratios, tuple)
        layers = np.arange(1, len(ratios) + 1)
        axes.plot(layers, ratios, color=color, linestyle=dashes, linewidth=LINE_WIDTHS[cell.column])
        below = kernel == "released" and cell.column == "released network"  # the two lie on each other
        figures.write(axes, f"{kernel}, {cell.column}", 1.0, ratios[0], color, dx=6, dy=-18 if below else 8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _arms(axes: Axes, column: str, cells: list[Cell], ordered: list[str]) -> None:
    axes.set_title(f"accuracy (%)\n{column}")
    for cell in cells:
        y = ordered.index(cell.row)
        values = cell.detail["at the best rate"]
        assert isinstance(values, tuple)
        color = next((KERNELS[name][0] for name in KERNELS if name in cell.row), STE)
        filled = color if cell.row.startswith("coth") else "none"
        axes.plot(values, [y] * len(values), "o", color=color, markerfacecolor=filled, markersize=5)
        mean = float(np.mean(values))
        axes.plot([mean, mean], [y - 0.3, y + 0.3], color=color)
    axes.set_yticks(range(len(ordered)), ordered, fontsize=8.5)
    axes.set_ylim(-0.6, len(ordered) - 0.4)


if __name__ == "__main__":
    raise SystemExit(figures.main_for("S2"))
