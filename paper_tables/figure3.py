"""DAQ's Figure 3: soft assignments at fixed temperatures, and their derivatives.

After the caption and the text; the picture itself was not at hand. The text names the temperatures 4 and 24; 8 and 12
are the others of Table 6. It names neither the kernel's width (here that of weights, sigma = 1) nor the temperature of
the sigmoid. Three are drawn: 4 and 24, the numbers of the softest and of the sharpest soft assignment, and one whose
mean distance from the rounding is about that of beta = 4. QNet sums a sigmoid for each step of its grid; drawn is a
cell in the middle of many.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_tables import figures
from paper_tables.figures import BLACK, PALE, TEMPERATURES, Curves, Dashes
from reference import daq, daq_theory, grid, qnet

TITLE = "Soft assignments at fixed temperatures, and their slopes"

SIGMA = daq.SIGMA["weight"]
VARIANTS: tuple[daq.Variant, ...] = ("paper", "released")
EQUAL_GAP = 10.15
SIGMOIDS: dict[float, Dashes] = {4.0: figures.DASHED, EQUAL_GAP: figures.DASH_DOT, 24.0: "solid"}

LINES: dict[float, tuple[str, Dashes]] = {
    4.0: (TEMPERATURES[4.0], figures.DASHED),
    8.0: (TEMPERATURES[8.0], figures.DASH_DOT),
    12.0: (TEMPERATURES[12.0], figures.DASH_DOT_DOT),
    24.0: (TEMPERATURES[24.0], figures.DOTTED),
}
BETAS = tuple(LINES)
RELEASED_DASHES: dict[float, Dashes] = {4.0: "solid", 12.0: figures.DOTTED}
COMPARED_BETAS = tuple(RELEASED_DASHES)  # with both kernels


def curves() -> Curves:
    """Every plotted line: x in [0, 1], and phi, its slope, the sigmoids, their slope, or the rounding."""
    x = figures.inputs(0, 1)
    found = {"rounding": (x, grid.round_half_down(x))}
    for temperature in SIGMOIDS:
        name = f"sigmoids, T = {temperature:g}"
        found[name] = (x, qnet.soft(x, temperature=temperature))
        found[f"slope of {name}"] = (x, qnet.slope(x, temperature=temperature))
    for variant in VARIANTS:
        for beta in BETAS if variant == "paper" else COMPARED_BETAS:
            name = f"phi, beta = {beta:g}, {variant}"
            found[name] = (x, daq.kernel_soft_argmax(x, beta, sigma=SIGMA, variant=variant))
            found[f"slope of {name}"] = (x, daq.kernel_soft_argmax_slope(x, beta, sigma=SIGMA, variant=variant))
    return found


def mean_gap(name: str) -> float:
    """Mean distance of a line from the rounding, over the cell."""
    found = curves()
    x, y = found[name]
    inside = ~np.isnan(x)
    return float(np.trapezoid(np.abs(y - found["rounding"][1])[inside], x[inside]))


def _caption() -> str:
    jump = daq_theory.fixed_beta_jumps(24, sigma=SIGMA)[1]
    slope, wide = (
        daq_theory.fixed_beta_transition_slope(24, sigma=sigma) for sigma in (SIGMA, daq.SIGMA["activation"])
    )
    gaps = {variant: daq_theory.fixed_beta_gap(4, sigma=SIGMA, variant=variant) for variant in VARIANTS}
    means = [mean_gap(f"sigmoids, T = {temperature:g}") for temperature in SIGMOIDS]
    return (
        "Left, after the paper's caption: the larger the temperature beta, the nearer phi is to the rounding and, "
        "near the levels, the smaller its slope, by orders of magnitude (logarithmic axis); the paper does not say "
        f"that phi jumps at x = 1/2, at beta = 24 by {jump:.2f}, so that its slope vanishes even there: it is "
        f"{slope:.3f}, against {24 / 4:g} of the sigmoids of T = 24, which have no jump. Middle: QNet's sigmoids, "
        "whose temperature the paper does not name; on average they are "
        f"{means[0]:.2f}, {means[1]:.2f} and {means[2]:.2f} of a level from the rounding at T = "
        f"{', '.join(f'{temperature:g}' for temperature in SIGMOIDS)}, and phi at beta = 4 is "
        f"{daq_theory.fixed_beta_mean_gap(4, sigma=SIGMA):.2f}: which of the two is nearer is a matter of T. "
        "Right, not in the paper: at the same beta the kernel of the released code, exp(-1/sigma^2) at distance one in "
        "place of exp(-1/(2 sigma^2)), brings phi nearer to the rounding (at beta = 4 to within "
        f"{gaps['released']:.2f} in place of {gaps['paper']:.2f}) and makes its slope smaller. sigma = {SIGMA:g}, as "
        f"for weights; with 2, as for activations, the slope at x = 1/2 and beta = 24 is {wide:.2f}, not small."
    )


CAPTION = _caption()


@figures.styled
def draw() -> Figure:
    """Draw phi above its slope: the paper's figure, the sigmoids, the two kernels."""
    found = curves()
    figure = Figure(figsize=(12, 7.2), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True, sharey="row")
    titles = (
        rf"The paper's figure: fixed temperatures, $\sigma$ = {SIGMA:g}",
        "Sigmoids of several temperatures",
        "Not in the paper: the released kernel",
    )
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title)
        figures.plot(axes, found, "rounding", color=PALE, linewidth=5)
    panels[0, 0].set_ylabel(r"soft assignment $\phi(x;\beta)$ (levels)")
    panels[1, 0].set_ylabel(r"slope $\phi'(x;\beta)$ (levels per level)")
    panels[1, 0].set_yscale("log")
    panels[1, 0].set_ylim(1e-7, 2e1)
    for axes in panels.flat:
        axes.set_xlim(0, 1)
        axes.axvline(0.5, color="0.75", linewidth=0.8, zorder=0)
    for axes in panels[1]:
        axes.set_xlabel(figures.INPUT_LABEL)

    left, middle, right = panels.T
    for beta, (color, dashes) in LINES.items():
        _pair(left, found, f"phi, beta = {beta:g}, paper", rf"$\beta$ = {beta:g}", color, dashes)
    for temperature, dashes in SIGMOIDS.items():
        _pair(middle, found, f"sigmoids, T = {temperature:g}", f"$T$ = {temperature:g}", BLACK, dashes)
    _pair(middle, found, "phi, beta = 4, paper", r"$\beta$ = 4", LINES[4.0][0], LINES[4.0][1], width=2.6)
    for beta in COMPARED_BETAS:
        color, dashes = LINES[beta]
        _pair(right, found, f"phi, beta = {beta:g}, paper", rf"$\beta$ = {beta:g}, paper", color, dashes)
        label = rf"$\beta$ = {beta:g}, released"
        _pair(right, found, f"phi, beta = {beta:g}, released", label, color, RELEASED_DASHES[beta], width=2.6)
    _labels(panels, found)
    return figure


def _pair(
    axes: tuple[Axes, Axes], found: Curves, name: str, label: str, color: str, dashes: Dashes, width: float = 1.8
) -> None:
    """Draw a function above, and its slope below."""
    for one, curve in zip(axes, (name, f"slope of {name}"), strict=True):
        figures.plot(one, found, curve, label=label, color=color, linestyle=dashes, linewidth=width)


def _labels(panels: np.ndarray, found: Curves) -> None:
    """Write beside each line what it is, where the lines of its panel are apart."""
    above: dict[str, Any] = {"x": 0.5, "ha": "right", "dx": -5}  # left of the transition point nothing runs up here
    for beta in BETAS:
        text, color = rf"$\beta$ = {beta:g}", LINES[beta][0]
        y = _after_jump(found, f"phi, beta = {beta:g}, paper")
        figures.write(panels[0, 0], text, y=y, color=color, dy={24.0: 2, 12.0: -3}.get(beta, 0), **above)
        figures.label(
            panels[1, 0], found, f"slope of phi, beta = {beta:g}, paper", text, 0.16, color, ha="center", dx=0
        )
    figures.write(panels[0, 0], "rounding", 0.98, 1.0, BLACK, ha="right", dx=0, leader=(0.97, 0.55))
    for (temperature, at), there in zip(
        zip(SIGMOIDS, (0.75, 0.53, 0.455), strict=True), ((0.8, 0.62), (0.7, 0.42), (0.52, 0.25)), strict=True
    ):
        name, text = f"sigmoids, T = {temperature:g}", f"$T$ = {temperature:g}"
        figures.label(panels[0, 1], found, name, text, at, BLACK, leader=there)
    for temperature, at in zip(SIGMOIDS, (0.9, 0.14, 0.15), strict=True):
        name, text = f"slope of sigmoids, T = {temperature:g}", f"$T$ = {temperature:g}"
        figures.label(panels[1, 1], found, name, text, at, BLACK, ha="center", dx=0)
    color = LINES[4.0][0]
    figures.write(panels[0, 1], r"$\beta$ = 4", y=_after_jump(found, "phi, beta = 4, paper"), color=color, **above)
    figures.label(panels[1, 1], found, "slope of phi, beta = 4, paper", r"$\beta$ = 4", 0.75, color, dx=-8, dy=-11)
    for beta in COMPARED_BETAS:
        for variant, at in zip(VARIANTS, (0.22, 0.78), strict=True):
            name, text, color = f"phi, beta = {beta:g}, {variant}", rf"$\beta$ = {beta:g}, {variant}", LINES[beta][0]
            dy = {"released": 3, "paper": -3}[variant]
            figures.write(panels[0, 2], text, y=_after_jump(found, name), color=color, dy=dy, **above)
            figures.label(panels[1, 2], found, f"slope of {name}", text, at, color, ha="center", dx=0)


def _after_jump(found: Curves, name: str) -> float:
    """The value of a line just above the transition point."""
    x, y = found[name]
    return float(y[np.flatnonzero(x > 0.5)[0]])


if __name__ == "__main__":
    raise SystemExit(figures.main_for("3"))
