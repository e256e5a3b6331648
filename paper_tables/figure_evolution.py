"""The suite's Figure S4: DSQ while it trains, beside the straight-through estimator."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from paper_tables import evolution, figures
from paper_tables.cells import Cell
from paper_tables.evolution import FIXED, LEARNED, STE
from paper_tables.figures import DSQ, HUES, Dashes
from paper_tables.jobs import Job
from paper_tables.tables import Measured, Options
from reference import dsq

TITLE = "DSQ while it trains"
CAPTION = (
    "2/2-bit networks on digits, means of seeds. Left: alpha, which must fall if the soft quantizer is to become the "
    "standard one. Middle: the error of quantized weights, with l and u learned and with those of the first batch. "
    "Right: the training loss, a thin line for each seed."
)
LOSSES: dict[str, tuple[str, Dashes]] = {LEARNED: (DSQ, "solid"), STE: (figures.STE, figures.DASHED)}


def jobs(options: Options) -> list[Job]:
    """Return the jobs of the table."""
    return evolution.jobs(options)


@figures.styled
def draw(options: Options, measured: Measured) -> Figure:
    """Draw alpha, error and loss by epoch."""
    found = {job.place.row: measured[job.place] for job in evolution.jobs(options)}
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    diverged = [arm for arm, cell in found.items() if "diverged" in cell.detail]
    if diverged or not all(cell.stands for cell in found.values()):
        said = f"{', '.join(diverged)} diverged" if diverged else "nothing is recorded"
        figure.text(0.5, 0.5, said, ha="center")
        return figure
    alpha, error, loss = figure.subplots(1, 3)
    for role, color, dashes in (("weights", HUES["teal"], "solid"), ("activations", HUES["plum"], figures.DASHED)):
        _line(alpha, (dsq.INITIAL_ALPHA, *_by_epoch(found[LEARNED], f"alpha of {role}")), role, color, dashes, first=0)
    for arm, name, dashes in ((LEARNED, "learned", "solid"), (FIXED, "fixed", figures.DASHED)):
        _line(error, _by_epoch(found[arm], "error"), name, DSQ if arm == LEARNED else HUES["olive"], dashes)
    for arm, (color, style) in LOSSES.items():
        curves = evolution.losses(found[arm])
        for curve in curves:
            loss.plot(range(1, len(curve) + 1), curve, color=color, linewidth=0.6, alpha=0.6)
        _line(loss, tuple(np.mean(curves, axis=0).tolist()), arm, color, style)
    alpha.set_ylabel("alpha (median over layers)")
    error.set_ylabel("relative squared error of weights")
    error.set_ylim(bottom=0)
    loss.set_ylabel("training loss")
    loss.set_ylim(bottom=0)
    for axes in (alpha, error, loss):
        axes.set_xlabel("epochs")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _by_epoch(cell: Cell, name: str) -> tuple[float, ...]:
    values = cell.detail[name]
    assert isinstance(values, tuple)
    return values


def _line(axes: Axes, values: tuple[float, ...], name: str, color: str, dashes: Dashes, *, first: int = 1) -> None:
    """Draw a curve over epochs, and write its name at its end."""
    axes.plot(range(first, first + len(values)), values, color=color, linestyle=dashes)
    figures.write(axes, name, first + len(values) - 1, values[-1], color, dx=6)


if __name__ == "__main__":
    raise SystemExit(figures.main_for("S4"))
