"""Claims on temperatures: the quantizer gap that a fixed one leaves, the adaptive one, and Eq. 9 to 11.

Each function judges the claims named above it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from paper_tables.audit.claims.judging import Evidence, Judged, Judgements, decide, shown
from paper_tables.audit.claims.quantizer import EXACT, SIGMAS, WEIGHTS, half_cell, sigmoid_gap
from paper_tables.equations import KERNEL_BETAS, difference_quotient, inside_cells, with_edges
from reference import daq, daq_theory, grid, qnet

judges = Judgements()

ANNEALING = (2.0, 48.0)  # Section 4.3


def settings() -> Iterator[tuple[float, daq.Variant]]:
    """The paper's widths of the kernel, with both formulas of it."""
    for sigma in SIGMAS.values():
        for variant in daq.VARIANTS:
            yield sigma, variant


# ---------------------------------------------------------------------------------------------------------------------
# The quantizer gap at fixed temperatures
# ---------------------------------------------------------------------------------------------------------------------


@judges(
    "abstract-soft-causes-gap",
    "intro-soft-discrete-at-inference",
    "abstract-soft-rounding-at-test",
    "related-soft-outputs-differ",
    "intro-raised-temperature-relieves-gap",
)
def sigmoid_leaves_a_gap(_: Evidence) -> Judged:
    low, high = sigmoid_gap(4.0), sigmoid_gap(100.0)
    edges = with_edges()
    largest = float(np.abs(qnet.soft(edges, temperature=100.0) - qnet.hard(edges)).max())
    return decide(
        low - EXACT > high > 0,
        f"Trained with QNet's sigmoids and tested with the rounding, outputs differ by {shown(low)} of a level on "
        f"average at T = 4 and {shown(high)} at T = 100; at the transition point the gap stays {shown(largest)}.",
    )


@judges("related-qnet-transforms-gradually")
def qnet_is_annealed(_: Evidence) -> Judged:
    temperatures = [qnet.annealed_temperature(progress) for progress in np.linspace(0, 1, 11)]
    gaps = [sigmoid_gap(temperature) for temperature in temperatures]
    return decide(
        gaps == sorted(gaps, reverse=True) and gaps[-1] < 0.1 * gaps[0],
        f"QNet's paper raises T linearly with the epoch, for ResNets from {temperatures[0]:g} to "
        f"{temperatures[-1]:g}; over that the mean distance of its staircase from the rounding falls steadily, from "
        f"{shown(gaps[0])} to {shown(gaps[-1])} of a level.",
    )


@judges(
    "figure3-discrepancy-near-transition",
    "figure3-temperature-reduces-discrepancy",
    "small-temperature-gap",
    "small-temperature-near-transition",
    "large-temperature-alleviates-gap",
)
def gap_of_fixed_temperature(_: Evidence) -> Judged:
    largest = [daq_theory.fixed_beta_gap(beta, sigma=WEIGHTS) for beta in KERNEL_BETAS]
    small = daq.kernel_soft_argmax(half_cell(), KERNEL_BETAS[0], sigma=WEIGHTS)
    return decide(
        bool(np.all(np.diff(small) > 0)) and largest == sorted(largest, reverse=True),
        f"At beta = {KERNEL_BETAS[0]:g} phi is {shown(float(small[0]))} of a level from the rounding at a level and "
        f"{shown(float(small[-1]))} at the transition point (sigma = {WEIGHTS:g}); up to beta = {KERNEL_BETAS[-1]:g} "
        f"the latter falls to {shown(largest[-1])}.",
    )


@judges("fixed-temperature-either-problem")
def either_problem(_: Evidence) -> Judged:
    betas = np.linspace(0.5, 200, 400)

    def least_slope(beta: float) -> float:
        return float(daq.kernel_soft_argmax_slope(half_cell(), beta, sigma=WEIGHTS).min())

    gapless = [float(beta) for beta in betas if daq_theory.fixed_beta_gap(float(beta), sigma=WEIGHTS) <= 0.01]
    alive = [float(beta) for beta in betas if least_slope(float(beta)) >= 0.1]
    return decide(
        not set(gapless) & set(alive),
        f"A gap below 1 % of a level needs beta = {min(gapless):g} or more, where the slope at a level is "
        f"{least_slope(min(gapless)):.0e}; a slope of 0.1 everywhere needs {max(alive):g} or less, where the gap is "
        f"{shown(daq_theory.fixed_beta_gap(max(alive), sigma=WEIGHTS))} (sigma = {WEIGHTS:g}).",
    )


@judges("annealing-approaches-rounding")
def annealing(_: Evidence) -> Judged:
    gaps = {
        name: [daq_theory.fixed_beta_gap(beta, sigma=sigma) for beta in ANNEALING] for name, sigma in SIGMAS.items()
    }
    return decide(
        all(last < 0.1 * first for first, last in gaps.values()),
        "The largest gap falls, from beta = 2 to 48, "
        + " and ".join(
            f"from {shown(first)} to {shown(last)} of a level ({name})" for name, (first, last) in gaps.items()
        )
        + ".",
    )


@judges("table6-fourth-column-not-quantized", "table6-caption-full-precision-values")
def not_quantized(_: Evidence) -> Judged:
    x = inside_cells()[inside_cells() < 1]  # one bit
    fixed = [np.unique(daq.kernel_soft_argmax(x, beta, sigma=WEIGHTS)).size for beta in KERNEL_BETAS]
    adaptive = np.unique(daq.discretize(x, sigma=WEIGHTS).round(12) + 0.0).size
    return decide(
        min(fixed) > 2 == adaptive,
        f"At 1 bit, {x.size} inputs give {min(fixed)} or more different outputs at the fixed temperatures of Table 6, "
        f"and {adaptive} at beta* after Eq. 10.",
    )


# ---------------------------------------------------------------------------------------------------------------------
# The adaptive temperature and Eq. 9 to 11
# ---------------------------------------------------------------------------------------------------------------------


@judges(
    "intro-controller-by-distance",
    "controller-raises-near-transition",
    "controller-lowers-far-from-transition",
    "scores-become-similar",
    "temperature-increases-near-transition",
    "temperature-decreases-away",
    "different-function-per-input",
    "figure4-sampling-from-different-functions",
)
def temperature_grows(_: Evidence) -> Judged:
    x = half_cell()
    grows = True
    for sigma, variant in settings():
        s_f, s_c = daq.weighted_scores(x, sigma=sigma, variant=variant)
        beta = daq.adaptive_temperature(x, sigma=sigma, variant=variant)
        grows &= bool(np.all(np.diff(np.abs(s_f - s_c)) < 0) and np.all(np.diff(beta) > 0))
    s_f, s_c = (score[[0, -1]] for score in daq.weighted_scores(x, sigma=WEIGHTS))
    apart = np.abs(s_f - s_c)
    temperatures = daq_theory.adaptive_temperature_range(sigma=WEIGHTS)
    return decide(
        grows,
        f"From a level to the transition point the two scores' difference falls steadily, from {shown(apart[0])} to "
        f"{shown(apart[1])}, and beta* rises from {shown(temperatures[0])} to {shown(temperatures[1])} (weights; "
        "likewise for activations and for the released kernel).",
    )


@judges("temperature-increase-alleviates-gap")
def rising_temperature_helps(_: Evidence) -> Judged:
    low, _high = daq_theory.adaptive_temperature_range(sigma=WEIGHTS)
    fixed = daq_theory.fixed_beta_gap(low, sigma=WEIGHTS)
    return decide(
        daq.lambda_() < fixed,
        f"At the transition point phi(x; beta*) is lambda = {shown(daq.lambda_())} from the rounding; with the "
        f"temperature of a level, {shown(low)}, it would be {shown(fixed)}.",
    )


@judges("figure4-x1-temperature-4", "figure4-x2-temperature-6")
def figure_4(_: Evidence) -> Judged:
    """That an input takes the function of its own temperature is Eq. 7; what could fail is that 4 and 6 occur."""
    named = (4.0, 6.0)
    ranges = {}
    for name, sigma in SIGMAS.items():
        for variant in daq.VARIANTS:
            beta = daq.adaptive_temperature(half_cell(), sigma=sigma, variant=variant)
            ranges[f"{name}, {variant} kernel"] = float(beta.min()), float(beta.max())
    reached = [name for name, (low, high) in ranges.items() if all(low <= beta <= high for beta in named)]
    points = {beta: daq_theory.distance_at_temperature(beta, sigma=WEIGHTS) for beta in named}
    found = [float(daq.adaptive_temperature(t, sigma=WEIGHTS)) for t in points.values()]
    right = max(abs(a - b) for a, b in zip(found, named, strict=True)) < EXACT
    listed = "; ".join(f"{shown(low)} to {shown(high)} ({name})" for name, (low, high) in ranges.items())
    return (
        "by definition" if reached and right else "fails",
        "x_1 and x_2 are the inputs at which beta* is "
        + " and ".join(f"{beta:g}, {shown(t)} from a level" for beta, t in points.items())
        + f" (sigma = {WEIGHTS:g}); an input takes the function of its own temperature. What could fail is that there "
        f"are such inputs: beta* runs from {listed}.",
    )


@judges(
    "equation9-two-values",
    "equation9-lambda",
    "figure4-single-discrete-function",
    "summary-offsets-of-lambda",
)
def equation_9(_: Evidence) -> Judged:
    x = with_edges()
    worst = 0.0
    for sigma, variant in settings():
        for gamma in (0.5, daq.GAMMA, 8.0):
            beta = daq.adaptive_temperature(x, gamma=gamma, sigma=sigma, variant=variant)
            phi = daq.kernel_soft_argmax(x, beta, sigma=sigma, variant=variant)
            offset = np.where(x - np.floor(x) <= 0.5, 1, -1) / (math.exp(gamma) + 1)
            worst = max(worst, float(np.abs(phi - (grid.round_half_down(x) + offset)).max()))
    return decide(
        worst < EXACT,
        f"phi(x; beta*) is q_f + lambda up to the transition point and q_c - lambda beyond it, with lambda = "
        f"1/(e^gamma + 1) = {shown(daq.lambda_())} for gamma = {daq.GAMMA:g}: to {worst:.0e} of a level, for both "
        "widths and formulas of the kernel and three gammas.",
    )


@judges("equation9-transition-point")
def transition_point(_: Evidence) -> Judged:
    q_f, q_c = (float(level) for level in daq.nearest_levels(0.25))
    q_t = (q_f + q_c) / 2
    f, c = (float(daq.distance_score(q_t, q)) for q in (q_f, q_c))
    changes = f == c and float(grid.round_half_down(np.nextafter(q_t, 1))) == q_c
    return (
        "by definition" if changes else "fails",
        f"At {q_t:g}, halfway, both distance scores are {shown(f)}, and the rounding changes there.",
    )


@judges(
    "gradient-from-own-function",
    "figure5-gradients-of-x1-x2",
    "figure5-gradients-by-own-temperature",
    "gradients-by-different-functions",
)
def gradients_of_own_functions(_: Evidence) -> Judged:
    x = inside_cells()
    beta = daq.adaptive_temperature(x, sigma=WEIGHTS)
    own = difference_quotient(lambda y: daq.kernel_soft_argmax(y, beta, sigma=WEIGHTS), x)
    ratio = daq.slope(x, sigma=WEIGHTS) / own
    return decide(
        float(ratio.max() - ratio.min()) < 1e-5,
        "The gradient used is that of each input's function at its own temperature, times "
        f"{shown(float(ratio.mean()))} for every input: the factor 1/(1 - 2 lambda) of Eq. 10.",
    )


@judges(
    "overview-nearest",
    "abstract-both-gap",
    "abstract-controller-addresses-gap",
    "intro-daq-gap",
    "intro-controller-addresses-gap",
    "contribution-controller",
    "related-daq-gap",
    "related-daq-deterministic",
    "related-adaptive-gap",
    "table1-gap",
    "controller-minimizes-gap",
    "equation11-rescaled",
    "equation11-exactly-the-rounding",
    "free-from-quantizer-gap",
    "table7-controller-gap",
    "conclusion-gap",
)
def no_gap(_: Evidence) -> Judged:
    worst = {}
    for dtype in (np.float64, np.float32):
        x = with_edges().astype(dtype)
        rounded = grid.round_half_down(x)
        worst[dtype.__name__] = max(
            float(np.abs(daq.discretize(x, sigma=sigma, variant=variant) - rounded).max())
            for sigma, variant in settings()
        )
    return decide(
        worst["float64"] < EXACT,
        f"f(phi(x; beta*)), what training computes, and the rounding of test time differ by at most "
        f"{worst['float64']:.0e} of a level in float64 and {worst['float32']:.0e} in float32, at {with_edges().size} "
        "inputs with all levels and ties, for both widths and formulas of the kernel.",
    )


@judges(
    "figure2-nearest",
    "intro-same-output-as-rounding",
    "related-adaptive-no-discrepancy",
    "table1-same-output-as-rounding",
)
def dasr_itself_has_no_gap(evidence: Evidence) -> Judged:
    x = with_edges()
    phi = daq.kernel_soft_argmax(x, daq.adaptive_temperature(x, sigma=WEIGHTS), sigma=WEIGHTS)
    off = float(np.abs(phi - grid.round_half_down(x)).max())
    rescaled, _ = no_gap(evidence)
    return (
        "holds" if off < EXACT else "undecided" if rescaled == "holds" else "fails",
        f"Of DASR with beta* itself, which the sentence names, it is not true: phi(x; beta*) is lambda = {shown(off)} "
        "off at every input (Eq. 9). After the rescaling f of Eq. 10, which the sentence leaves out, it is.",
    )
