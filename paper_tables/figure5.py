"""DAQ's Figure 5: the derivatives at the adaptive temperature, and how DAQ's slope compares with others.

After the caption and the text; the picture itself was not at hand. gamma and sigma, which the paper does not
name here, are those of Figure 4: 2 and 1. The comparison takes both widths of Section 4.1, sigma = 1 for weights and 2
for activations. The alphas of DSQ are this suite's choice: its initial 0.2, and one on either side.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_tables import figures
from paper_tables.figure4 import BETAS, GAMMA, LINES, SIGMA, plot_one_cell, samples
from paper_tables.figures import DAQ_ACTIVATIONS, DAQ_WEIGHTS, DSQ, STE, Curves, Dashes
from reference import daq, daq_theory, dsq, grid, ste

TITLE = "Derivatives at the adaptive temperature, beside other slopes"

ALPHAS = (0.4, 0.2, 0.05)
ROLES: tuple[grid.Role, ...] = ("weight", "activation")


def curves() -> Curves:
    """Everything plotted: phi' at fixed beta, its samples, phi' at beta*, and the slopes of DAQ, STE and DSQ."""
    x = figures.inputs(0, 1)
    found: Curves = {}
    for beta in BETAS:
        found[f"phi', beta = {beta:g}"] = (x, daq.kernel_soft_argmax_slope(x, beta, sigma=SIGMA))
        at = samples(beta)
        found[f"samples, beta* = {beta:g}"] = (at, daq.kernel_soft_argmax_slope(at, beta, sigma=SIGMA))
    beta_star = daq.adaptive_temperature(x, gamma=GAMMA, sigma=SIGMA)
    found["phi', beta*"] = (x, daq.kernel_soft_argmax_slope(x, beta_star, sigma=SIGMA))

    for role in ROLES:
        found[f"DAQ, {role}"] = (x, daq.slope(x, gamma=GAMMA, sigma=daq.SIGMA[role]))
    found["STE"] = (x, ste.slope(x))
    for alpha in ALPHAS:
        found[f"DSQ, alpha = {alpha:g}"] = (x, dsq.slope(x, alpha=alpha))
    return found


def _caption() -> str:
    means = [daq_theory.mean_slope(gamma=GAMMA, sigma=daq.SIGMA[role]) for role in ROLES]
    released = [daq_theory.mean_slope(gamma=GAMMA, sigma=daq.SIGMA[role], variant="released") for role in ROLES]
    return (
        "Left, after the paper's caption: the gradient at each input (circle) is taken from the derivative of the phi "
        "of its own temperature (broken lines); together they make up the grey line. The paper does not say that this "
        "is not the derivative of the grey line of Figure 4, which is 0 but for a jump, nor that training uses "
        f"{daq_theory.combine_ste_ratio(GAMMA):.3f} times it, as f is differentiated too. Right, not in the paper: the "
        "slope that training uses, a hyperbolic cotangent of the distance to the transition point, beside the 1 of the "
        "straight-through estimator (STE) and the sech^2 of DSQ, its formula from public code and memory, for several "
        "alphas. STE and DSQ have mean 1 over a "
        f"cell; DAQ has {means[0]:.2f} for weights and {means[1]:.2f} for activations (with the released kernel "
        f"{released[0]:.2f} and {released[1]:.2f}), which changes the size of its gradients."
    )


CAPTION = _caption()


@figures.styled
def draw() -> Figure:
    """Draw the paper's figure on the left, the slopes of DAQ, STE and DSQ on the right."""
    found = curves()
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        axes.set_xlim(0, 1)

    left.set_title("The paper's figure: one cell")
    left.set_ylabel("slope of the soft assignment (levels per level)")
    left.set_ylim(0, 1)
    plot_one_cell(left, found, "phi'", r"\phi'")
    figures.legend_below(left, columns=2)

    right.set_title("Not in the paper: beside other slopes")
    right.set_xlabel(figures.INPUT_LABEL)
    right.set_ylabel("slope used in the backward pass (levels per level)")
    right.set_ylim(0, 5)
    right.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    for role, color, dashes in zip(ROLES, (DAQ_WEIGHTS, DAQ_ACTIVATIONS), ("solid", figures.DASHED), strict=True):
        mean = daq_theory.mean_slope(gamma=GAMMA, sigma=daq.SIGMA[role])
        label = f"DAQ, {role}s ({mean:.2f})"
        figures.plot(right, found, f"DAQ, {role}", label=label, color=color, linestyle=dashes, linewidth=2.4)
    figures.plot(right, found, "STE", label="STE (1)", color=STE, linewidth=1.4)
    dashes_of: tuple[Dashes, ...] = (figures.DASH_DOT_DOT, figures.DASH_DOT, figures.DOTTED)
    for alpha, dashes in zip(ALPHAS, dashes_of, strict=True):
        label = rf"DSQ, $\alpha$ = {alpha:g} (1)"
        figures.plot(right, found, f"DSQ, alpha = {alpha:g}", label=label, color=DSQ, linestyle=dashes)
    _labels(left, right, found)
    figures.legend_below(right, columns=2, title="slope (its mean over the cell)")
    return figure


def _labels(left: Axes, right: Axes, found: Curves) -> None:
    """Write beside each line what it is."""
    for beta in BETAS:
        figures.label(left, found, f"phi', beta = {beta:g}", rf"$\beta$ = {beta:g}", 1.0, LINES[beta][0], dx=3)
    words = rf"$\gamma$ = {GAMMA:g}, $\sigma$ = {SIGMA:g}"
    left.text(0.97, 0.97, words, transform=left.transAxes, ha="right", va="top", fontsize=9)
    figures.label(right, found, "DAQ, weight", "DAQ, weights", 0.02, DAQ_WEIGHTS, dy=-9)
    figures.label(right, found, "DAQ, activation", "DAQ, activations", 0.53, DAQ_ACTIVATIONS, dx=6)
    figures.label(right, found, "STE", "STE", 0.93, STE, dy=7, ha="center", dx=0)
    for i, (alpha, at) in enumerate(zip(reversed(ALPHAS), (0.38, 0.34, 0.27), strict=True)):
        name, text = f"DSQ, alpha = {alpha:g}", rf"DSQ, $\alpha$ = {alpha:g}"
        figures.label(right, found, name, text, at, DSQ, leader=(0.04, 2.35 - 0.3 * i))
    words = (
        rf"$\gamma$ = {GAMMA:g}; $\sigma$ = {daq.SIGMA['weight']:g} (weights), "
        f"{daq.SIGMA['activation']:g} (activations)"
        "\nDSQ: its formula from public code and memory"
    )
    right.text(0.97, 0.97, words, transform=right.transAxes, ha="right", va="top", fontsize=9)


if __name__ == "__main__":
    raise SystemExit(figures.main_for("5"))
