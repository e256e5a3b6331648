"""DAQ's Figure 4: the outputs at the adaptive temperature, and the map that they make up.

After the caption and the text; the picture itself was not at hand. The text names the temperatures of two
samples, 4 at x_1 and 6 at x_2, but neither gamma nor sigma; here they are those of weights, gamma = 2 and sigma = 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_tables import figures
from paper_tables.figures import BLACK, DAQ_WEIGHTS, PALE, TEMPERATURES, Curves, Dashes
from reference import daq, daq_theory
from reference.grid import Array

TITLE = "Outputs at the adaptive temperature, and the map that they make up"

GAMMA, SIGMA = daq.GAMMA, daq.SIGMA["weight"]
NAMED = {4.0: "$x_1$", 6.0: "$x_2$"}  # in the paper's text
LINES: dict[float, tuple[str, Dashes]] = {
    3.0: (TEMPERATURES[3.0], figures.DASH_DOT_DOT),
    4.0: (TEMPERATURES[4.0], figures.DOTTED),
    6.0: (TEMPERATURES[6.0], figures.DASHED),
    7.0: (TEMPERATURES[7.0], figures.DASH_DOT),
}
BETAS = tuple(LINES)
LEVELS = 3  # of the staircase: 0 to 3, two bits
TANGENTS_AT = (-0.45, 0.0, 0.45)  # from each level
TANGENT_LENGTH = 0.45
SHOWN_INPUT = 1.45  # whose own function is drawn


def samples(beta: float) -> Array:
    """The two inputs in the cell [0, 1] whose adaptive temperature is `beta`; the first is x_1 for 4, x_2 for 6.

    >>> samples(4.0).round(3)
    array([0.243, 0.757])
    """
    t = daq_theory.distance_at_temperature(beta, gamma=GAMMA, sigma=SIGMA)
    return np.array([t, 1 - t])


def at_temperature(x: Array, beta: Array) -> Array:
    """f(phi(x; beta)), with `beta` given."""
    return daq.rescale(daq.kernel_soft_argmax(x, beta, sigma=SIGMA), np.floor(x) + 0.5, gamma=GAMMA)


def curves() -> Curves:
    """Everything plotted: phi at fixed beta, its samples, phi at beta*, f of that, the staircase and its tangents."""
    x = figures.inputs(0, 1)
    found: Curves = {}
    for beta in BETAS:
        found[f"phi, beta = {beta:g}"] = (x, daq.kernel_soft_argmax(x, beta, sigma=SIGMA))
        at = samples(beta)
        found[f"samples, beta* = {beta:g}"] = (at, daq.kernel_soft_argmax(at, beta, sigma=SIGMA))
    beta_star = daq.adaptive_temperature(x, gamma=GAMMA, sigma=SIGMA)
    found["phi, beta*"] = (x, daq.kernel_soft_argmax(x, beta_star, sigma=SIGMA))
    found["f(phi), beta*"] = (x, at_temperature(x, beta_star))

    beta_shown = daq.adaptive_temperature(SHOWN_INPUT, gamma=GAMMA, sigma=SIGMA)
    cell = figures.inputs(int(SHOWN_INPUT), int(SHOWN_INPUT) + 1)
    found["f(phi) of one input"] = (cell, at_temperature(cell, beta_shown))
    x = figures.inputs(0, LEVELS)
    found["staircase"] = (x, daq.discretize(x, gamma=GAMMA, sigma=SIGMA))
    at = np.array([level + t for level in range(LEVELS + 1) for t in TANGENTS_AT if 0 <= level + t <= LEVELS])
    output, slope = daq.discretize(at, gamma=GAMMA, sigma=SIGMA), daq.slope(at, gamma=GAMMA, sigma=SIGMA)
    found["points of tangency"] = (at, output)
    half = TANGENT_LENGTH / 2 / np.sqrt(1 + slope**2)
    step = np.stack([-half, half, np.full_like(half, np.nan)], axis=1)
    found["tangents"] = ((at[:, None] + step).ravel(), (output[:, None] + slope[:, None] * step).ravel())
    return found


def _caption() -> str:
    lowest, highest = daq_theory.adaptive_temperature_range(gamma=GAMMA, sigma=SIGMA)
    released = daq_theory.adaptive_temperature_range(gamma=GAMMA, sigma=SIGMA, variant="released")[1]
    least, greatest = daq_theory.slope_range(gamma=GAMMA, sigma=SIGMA)
    return (
        "Left, after the paper's caption: each input has its own temperature beta*, 4 at x_1 and 6 at x_2, and takes "
        "its output (circle) from the phi of that temperature (broken lines); all outputs lie at q_f + lambda or "
        "q_c - lambda (grey), and f moves them to the levels (black). Right, not in the paper: the map realised over "
        "several levels is the rounding, a staircase without slope, and the backward pass takes at each input the "
        "slope of that input's own function, its temperature held fixed (broken: one such function; thick: the slopes, "
        f"{least:.2f} at a level to {greatest:.2f} at a transition point), which the staircase has nowhere. "
        f"gamma = {GAMMA:g}, sigma = {SIGMA:g} and the paper's kernel, with which beta* runs from {lowest:.2f} to "
        f"{highest:.2f}; with the released kernel it ends at {released:.2f}, so that there is no x_2."
    )


CAPTION = _caption()


@figures.styled
def draw() -> Figure:
    """Draw the paper's figure on the left, the staircase with tangents on the right."""
    found = curves()
    figure = Figure(figsize=(9, 5.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        axes.set_ylabel("output (levels)")

    left.set_title("The paper's figure: one cell")
    left.set_xlim(0, 1)
    left.set_ylim(-0.04, 1.04)
    plot_one_cell(left, found, "phi", r"\phi")
    figures.plot(left, found, "f(phi), beta*", label=r"$f(\phi(x;\beta^*))$", color=BLACK)
    offset = daq.lambda_(GAMMA)
    figures.write(left, rf"$q_f + \lambda$ = {offset:.3f}", 0.53, offset, BLACK)
    figures.write(left, rf"$q_c - \lambda$ = {1 - offset:.3f}", 0.36, 1 - offset, BLACK, ha="right", dx=-4)
    figures.write(left, r"$f(\phi(x;\beta^*))$", 0.5, 1.0, BLACK, ha="right", dx=-5)
    for beta in BETAS:
        x, y = found[f"phi, beta = {beta:g}"]
        after = float(y[np.flatnonzero(x > 0.5)[0]])
        figures.write(left, rf"$\beta$ = {beta:g}", 0.5, after, LINES[beta][0], ha="right", dx=-5)
    _parameters(left)
    figures.legend_below(left, columns=2)

    right.set_title("Not in the paper: the map realised, and its slopes")
    right.set_xlabel("normalised input $x$ (levels)")
    for limit, tick in ((right.set_xlim, right.set_xticks), (right.set_ylim, right.set_yticks)):
        limit(-0.3, LEVELS + 0.3)
        tick(range(LEVELS + 1))
    figures.plot(right, found, "staircase", label=r"forward: $f(\phi(x;\beta^*))$", color=BLACK)
    tangent = r"backward: at each input, the slope of its own $f(\phi)$"
    figures.plot(right, found, "tangents", label=tangent, color=DAQ_WEIGHTS, linewidth=2.6)
    own = rf"$f(\phi(x;\beta))$ of one input, $\beta = \beta^*({SHOWN_INPUT})$"
    figures.plot(right, found, "f(phi) of one input", label=own, color=DAQ_WEIGHTS, linestyle=figures.DASHED)
    points = {"linestyle": "none", "marker": "o", "markersize": 5, "color": BLACK, "zorder": 3}
    figures.plot(right, found, "points of tangency", label="_", **points)
    figures.write(right, "forward: a staircase", 1.55, 2.0, BLACK, ha="right", dx=-4, dy=8)
    figures.write(right, "backward: the slope at each input", 2.05, 1.6, DAQ_WEIGHTS, ha="center")
    _parameters(right)
    figures.legend_below(right, columns=1)
    return figure


def _parameters(axes: Axes) -> None:
    """Say for which parameters a panel is drawn."""
    words = rf"$\gamma$ = {GAMMA:g}, $\sigma$ = {SIGMA:g}"
    axes.text(0.97, 0.03, words, transform=axes.transAxes, ha="right", va="bottom", fontsize=9)


def plot_one_cell(axes: Axes, found: Curves, name: str, symbol: str) -> None:
    """Draw `name` at each fixed beta, its samples there, and at beta*; Figure 5 does the same with phi'."""
    for beta, (color, dashes) in LINES.items():
        label = rf"${symbol}(x;\beta)$, $\beta$ = {beta:g}"
        figures.plot(axes, found, f"{name}, beta = {beta:g}", label=label, color=color, linestyle=dashes)
    figures.plot(axes, found, f"{name}, beta*", label=rf"${symbol}(x;\beta^*(x))$", color=PALE, linewidth=5, zorder=1)
    circle: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 8, "markeredgecolor": BLACK}
    for beta, (color, _) in LINES.items():
        figures.plot(axes, found, f"samples, beta* = {beta:g}", label="_", markerfacecolor=color, zorder=3, **circle)
    axes.plot([], [], label=r"inputs with $\beta^*(x) = \beta$", markerfacecolor="white", **circle)

    ticks = {0.0: "0", 0.5: "0.5", 1.0: "1"}
    for beta, label in NAMED.items():
        x, y = (values[0] for values in found[f"samples, beta* = {beta:g}"])
        ticks[x] = label
        axes.plot([x, x], [axes.get_ylim()[0], y], color=BLACK, linewidth=0.8)
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_xlabel(figures.INPUT_LABEL)


if __name__ == "__main__":
    raise SystemExit(figures.main_for("4"))
