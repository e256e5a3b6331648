"""The suite's Figure S3: straight-through in disguise, the distance to it as the rate falls."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_tables import disguise, figures
from paper_tables.cells import Cell
from paper_tables.figures import DAQ_WEIGHTS, HUES, STE, Dashes
from paper_tables.jobs import Job
from paper_tables.tables import Measured, Options

TITLE = "Straight-through in disguise"
CAPTION = (
    "Distance of DAQ's weights, mapped by M, from straight-through weights after equal rate times steps, in standard "
    "deviations of the weights, at the whole rate, a half and a quarter (ResNet-8 on digits, ResNet-20 on CIFAR-10). "
    "With M and alpha it should halve with the rate, as long as no code differs: filled points, where none does. "
    "Chaos: two runs of DAQ begun 1e-6 apart, for comparison."
)
ARMS: dict[str, tuple[str, Dashes]] = {
    "M and alpha": (DAQ_WEIGHTS, "solid"),
    "alpha alone": (HUES["teal"], figures.DASHED),
    "neither": (HUES["plum"], figures.DASH_DOT),
    "chaos": (STE, figures.DOTTED),
}


def jobs(options: Options) -> list[Job]:
    """Return the jobs of the table."""
    return disguise.jobs(options)


@figures.styled
def draw(options: Options, measured: Measured) -> Figure:
    """Draw a row for each network, and in it a panel for each kernel and size of steps."""
    rows: dict[str | None, list[Cell]] = {}
    for job in disguise.jobs(options):
        cell = measured[job.place]
        if cell.stands:
            rows.setdefault(job.profile, []).append(cell)
    figure = Figure(figsize=(10, 3.8 * max(len(rows), 1)), layout="constrained")
    if not rows:
        figure.text(0.5, 0.5, "nothing is recorded", ha="center")
        return figure
    for part, found in zip(figure.subfigures(len(rows), 1, squeeze=False)[:, 0], rows.values(), strict=True):
        panels = part.subplots(1, len(found), sharey=True, squeeze=False)[0]
        for axes, cell in zip(panels, found, strict=True):
            _panel(axes, cell, named=axes is figure.axes[0])
        panels[0].set_ylabel("distance (deviations)")
    return figure


def _panel(axes: Axes, cell: Cell, *, named: bool) -> None:
    axes.set_title(f"{cell.row}, {cell.column}".replace(", ", ",\n"))
    axes.set_yscale("log")
    axes.set_xscale("log", base=2)
    for arm, (color, dashes) in ARMS.items():
        distances, codes = cell.detail[arm], cell.detail[f"{arm}, codes"]
        assert isinstance(distances, tuple)
        assert isinstance(codes, tuple)
        rates = [1 / halving for halving in disguise.HALVINGS[: len(distances)]]
        axes.plot(rates, distances, color=color, linestyle=dashes)
        for rate, distance, off in zip(rates, distances, codes, strict=True):
            axes.plot([rate], [distance], "o", color=color, markerfacecolor="none" if off else color, markersize=5)
        if named:
            figures.write(axes, arm, 1.0, distances[0], color, dx=4, dy=-10 if arm == "neither" else 9)
    axes.set_xlim(1.15, 0.22)
    axes.set_xticks([1 / halving for halving in disguise.HALVINGS], ["1", "1/2", "1/4"])
    axes.set_xlabel("rate")


if __name__ == "__main__":
    raise SystemExit(figures.main_for("S3"))
