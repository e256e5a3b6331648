"""The suite's Figure S1: accuracy against the length of the schedule."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from paper_tables import figures, reported, runs, schedule
from paper_tables.figures import DAQ_WEIGHTS, HUES, STE, Dashes
from paper_tables.jobs import Job
from paper_tables.tables import Measured, Options

TITLE = "Accuracy against the length of the schedule"
CAPTION = (
    "1/1-bit networks, last epoch. Points are seeds, lines their means. On CIFAR-10 what is printed of 400 epochs "
    "stands at the right, unfilled."
)
LINES: dict[runs.Contender, tuple[str, Dashes, str]] = {
    runs.DAQ: (DAQ_WEIGHTS, "solid", "DAQ"),
    runs.DAQ_RELEASED: (HUES["teal"], figures.DASH_DOT, "DAQ, released kernel"),
    runs.STE: (STE, figures.DOTTED, "STE"),
    runs.IRNET: (HUES["plum"], figures.DASHED, "IR-Net"),
}
PRINTED = {runs.DAQ: "Ours", runs.IRNET: "IRNet"}  # rows of Table 5
FULL = 400


def jobs(options: Options) -> list[Job]:
    """Return the jobs of the table."""
    return schedule.jobs(options)


@figures.styled
def draw(options: Options, measured: Measured) -> Figure:
    """Draw a panel for each profile that has runs."""
    found = schedule.accuracies(measured)
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    if not found:
        figure.text(0.5, 0.5, "no run is recorded", ha="center")
        return figure
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (profile, by_contender) in zip(panels, found.items(), strict=True):
        axes.set_title(schedule.IMAGES[profile])
        if profile != "embedded":
            _printed(axes)
        _panel(axes, by_contender)
        axes.set_xscale("log")
        ticks = [*schedule.SEEDS[profile], *([FULL] if profile != "embedded" else [])]
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([str(tick) for tick in ticks])
        axes.set_xlabel("epochs (log scale)")
        axes.margins(x=0.02)
    panels[0].set_ylabel("test accuracy (%)")
    return figure


def _panel(axes: Axes, by_contender: dict[runs.Contender, dict[int, tuple[float, ...]]]) -> None:
    ends: dict[str, float] = {}
    for contender, by_epochs in by_contender.items():
        color, dashes, label = LINES[contender]
        epochs = sorted(by_epochs)
        means = [float(np.mean(by_epochs[count])) for count in epochs]
        axes.plot(epochs, means, color=color, linestyle=dashes, label=label)
        for count in epochs:
            axes.plot([count] * len(by_epochs[count]), by_epochs[count], "o", color=color, markersize=3.5, alpha=0.7)
        ends[label] = means[-1]
    colors = {label: color for color, _, label in LINES.values()}
    low, high = axes.get_ylim()
    last = max(epochs for by_epochs in by_contender.values() for epochs in by_epochs)
    for label, at in figures.apart(ends, 0.055 * (high - low), top=high).items():
        figures.write(axes, label, last, at, colors[label], dx=14)


def _printed(axes: Axes) -> None:
    """Mark what Table 5 prints at 1/1."""
    for contender, row in PRINTED.items():
        value = reported.tables()["5"].row(row).values["1/1"].value
        axes.plot([FULL], [float(value)], "o", markerfacecolor="none", color=LINES[contender][0], markersize=6)


if __name__ == "__main__":
    raise SystemExit(figures.main_for("S1"))
