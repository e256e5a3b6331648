"""DAQ's Figure 6: test accuracy during training, for the ways round the quantizer gap that Table 7 compares."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from paper_tables import figures, runs, trained
from paper_tables.figures import ANNEALING, COMBINED_STE, DAQ_WEIGHTS, STE, TEMPERATURES, Dashes
from paper_tables.jobs import Job
from paper_tables.runs import Contender
from paper_tables.tables import Measured, Options

TITLE = "Test accuracy during training"
CAPTION = (
    "After the paper's caption: accuracy on the test images after each epoch, tested by rounding, 1/1-bit networks. A "
    "panel for each protocol that was run: lines are means over seeds (how many, in brackets), as far as all of them "
    "were trained, shaded from the least to the greatest. The paper gives no temperature for the combined STE; drawn "
    "are one in the middle of Table 6's, and beta*, where each slope is the controller's over 1.313."
)
LINES: dict[Contender, tuple[str, Dashes, str]] = {
    runs.DAQ: (DAQ_WEIGHTS, "solid", "controller (DAQ)"),
    runs.COMBINED_ADAPTIVE: (COMBINED_STE, figures.DASH_DOT_DOT, r"combined STE, $\beta^*$"),
    runs.COMBINED[12]: (TEMPERATURES[12.0], figures.DASHED, r"combined STE, $\beta$ = 12"),
    runs.ANNEALED: (ANNEALING, figures.DASH_DOT, r"annealing, $\beta$ from 2 to 48"),
    runs.STE: (STE, figures.DOTTED, "STE"),
}


def jobs(options: Options) -> list[Job]:
    """Return a job for each run that is drawn, and for the full-precision networks that they start from."""
    return runs.jobs(options, (runs.FULL_PRECISION, *LINES), ("FP", "1/1"))


def curves(options: Options, measured: Measured) -> dict[str, dict[Contender, np.ndarray]]:
    """Accuracy after each epoch, by profile and contender: arrays of shape (seeds, epochs)."""
    found: dict[str, dict[Contender, np.ndarray]] = {}
    for profile in dict.fromkeys([options.profile, *runs.LONG]):
        for contender in LINES:
            lines = runs.curves(runs.found(measured, contender, "1/1", profile, range(options.seeds)))
            if lines.size:
                found.setdefault(profile, {})[contender] = lines
    return found


@figures.styled
def draw(options: Options, measured: Measured) -> Figure:
    """Draw a panel for each profile that has runs."""
    found = curves(options, measured)
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    if not found:
        figure.text(0.5, 0.5, "no run is recorded", ha="center")
        return figure
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (profile, by_contender) in zip(panels, found.items(), strict=True):
        _panel(axes, profile, by_contender)
    panels[0].set_ylabel("test accuracy (%)")
    return figure


def _panel(axes: Axes, profile: str, by_contender: dict[Contender, np.ndarray]) -> None:
    axes.set_title(trained.LABELS[profile])
    axes.set_xlabel("epoch")
    ends: dict[Contender, float] = {}
    for contender, accuracy in by_contender.items():
        color, dashes, label = LINES[contender]
        epochs = np.arange(1, accuracy.shape[1] + 1)
        mean = accuracy.mean(axis=0)
        axes.plot(epochs, mean, color=color, linestyle=dashes, label=label, marker="o" if len(epochs) == 1 else "")
        axes.fill_between(epochs, accuracy.min(axis=0), accuracy.max(axis=0), color=color, alpha=0.15)
        ends[contender] = float(mean[-1])
    longest = max(accuracy.shape[1] for accuracy in by_contender.values())
    axes.set_xlim(*((1, longest) if longest > 1 else (0.5, 1.5)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(*axes.get_ylim())
    low, high = axes.get_ylim()
    for contender, at in figures.apart(ends, 0.055 * (high - low), top=high).items():
        color, _, label = LINES[contender]
        figures.write(axes, f"{label} ({len(by_contender[contender])})", axes.get_xlim()[1], at, color, dx=5)


if __name__ == "__main__":
    raise SystemExit(figures.main_for("6"))
