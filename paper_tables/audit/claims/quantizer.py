"""Claims on nearest levels, distance scores and the soft assignment. Each function judges the claims named above it.

Words of degree without a number ("accurately", "well", "very close") are judged against what the paper compares DASR
with: the sigmoid and the plain soft argmax. The reason has the number.
"""

from __future__ import annotations

import itertools
import math
from functools import cache

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

from paper_tables.audit.claims.judging import Evidence, Judged, Judgements, Verdict, decide, shown
from paper_tables.equations import KERNEL_BETAS, SOFT_ARGMAX_BETAS, with_edges
from reference import daq, daq_theory, grid, qnet
from reference.grid import Array

judges = Judgements()

SIGMAS = {"weights": daq.SIGMA["weight"], "activations": daq.SIGMA["activation"]}
WEIGHTS = SIGMAS["weights"]
EXACT = 1e-12  # of computations in float64
BITS = range(1, grid.MAX_BITS + 1)


def half_cell() -> Array:
    """Inputs from a level, x = 0, to a transition point, x = 1/2."""
    return with_edges()[with_edges() <= 0.5]


def sigmoid_gap(temperature: float) -> float:
    """Mean distance of QNet's sum of sigmoids from the rounding, by quadrature over u = T |x - 1/2|.

    Over a grid of x it would be wrong where the sigmoid is steeper than the grid is fine. Beyond u = 40, where less
    than e^-40 / T should be left, it is integrated apart.

    >>> round(sigmoid_gap(4.0), 4), round(sigmoid_gap(10_000.0) * 10_000 / 2, 4)  # towards 2 ln(2) / T
    (0.2356, 0.6931)
    """

    def both_sides(u: float) -> float:
        x = np.array([0.5 - u / temperature, 0.5 + u / temperature])
        return float(np.abs(qnet.soft(x, temperature=temperature) - grid.round_half_down(x)).sum())

    end = temperature / 2
    parts = itertools.pairwise((0.0, min(end, 40.0), end))
    return sum(float(quad(both_sides, *part)[0]) for part in parts) / temperature


@cache
def equal_temperature(beta: float, sigma: float) -> float:
    """The temperature at which sigmoids are as near to the rounding, on average, as phi at `beta`."""
    wanted = daq_theory.fixed_beta_mean_gap(beta, sigma=sigma)
    return float(brentq(lambda temperature: sigmoid_gap(temperature) - wanted, 0.1, 1e5))


def equal_slope_temperature(beta: float, sigma: float) -> float | None:
    """The temperature at which sigmoids are as steep at a transition point as phi at `beta`; None if none is so flat.

    Their sum is a straight line, of slope 1, as the temperature goes to 0, and steeper the higher it is.
    """
    wanted = daq_theory.fixed_beta_transition_slope(beta, sigma=sigma)

    def excess(temperature: float) -> float:
        return float(qnet.slope(0.5, temperature=temperature)) - wanted

    return float(brentq(excess, 1.0, 1e5)) if excess(1.0) < 0 else None


# ---------------------------------------------------------------------------------------------------------------------
# Nearest levels and scores
# ---------------------------------------------------------------------------------------------------------------------


@judges(
    "abstract-assignment-problem",
    "figure1-nearest-by-argmin",
    "intro-rounding-is-argmin",
    "dasr-rounding-is-nearest",
    "dasr-nearest-by-argmin",
    "assignment-argmax-of-two",
    "conclusion-assignment-problem",
)
def nearest(_: Evidence) -> Judged:
    differ = inputs = 0
    for bits in BITS:
        levels = np.arange(2.0**bits)
        x = np.linspace(0, levels[-1], 64 * (levels.size - 1) + 1)
        rounded = grid.round_half_down(x)
        differ += int(np.count_nonzero(np.abs(x[:, None] - levels).argmin(axis=1) != rounded))
        q_f, q_c = daq.nearest_levels(x)
        by_score = np.where(daq.distance_score(x, q_c) > daq.distance_score(x, q_f), q_c, q_f)
        differ += int(np.count_nonzero(by_score != rounded))
        inputs += x.size
    return decide(
        differ == 0,
        f"Among {inputs} inputs of 1 to 8 bits, the level of least distance, and that of the two nearest with the "
        f"greater distance score, differ from the rounding in {differ} cases (with ties, where two levels are equally "
        "near, counted down).",
    )


@judges("score-increases-with-closeness")
def score_grows(_: Evidence) -> Judged:
    scores = daq.distance_score(np.linspace(4, 0, 1025), 0.0)
    return (
        "by definition" if np.all(np.diff(scores) > 0) else "fails",
        f"exp(-|x - q|) grows at every step from a distance of 4 levels ({shown(float(scores[0]))}) to none "
        f"({shown(float(scores[-1]))}).",
    )


@judges("score-cost-exponential", "score-two-nearest-suffice")
def score_cost(_: Evidence) -> Judged:
    scores = [grid.levels(bits, "activation").size for bits in BITS]
    x = np.linspace(0, 3, 1537)[:-1]
    beta = daq.adaptive_temperature(x, sigma=WEIGHTS)
    every = daq.full_grid_kernel_soft_argmax(x, beta, bits=2, sigma=WEIGHTS)
    change = float(np.abs(every - daq.kernel_soft_argmax(x, beta, sigma=WEIGHTS)).max())
    doubles = all(after == 2 * before for before, after in itertools.pairwise(scores))
    return (
        "by definition" if doubles else "fails",
        f"An input has {scores[0]} scores at 1 bit and {scores[-1]} at 8, doubling with each bit, and 2 at any "
        f"bit-width if only the two nearest count. It is more than a saving: over all levels of 2 bits phi(x; beta*) "
        f"is up to {shown(change)} of a level away from Eq. 9.",
    )


@judges("score-levels-one-apart")
def one_apart(_: Evidence) -> Judged:
    after_relu = np.maximum(norm.ppf((np.arange(4096) + 0.5) / 4096), 0)
    x = grid.normalize(after_relu, *grid.initial_clip_range(after_relu, "activation"), 2)
    apart = np.ceil(x) - np.floor(x)
    equal = 100 * float(np.mean(apart != 1))
    return decide(
        equal == 0,
        f"At a level floor and ceil coincide: q_c - q_f is {shown(float(apart.min()))}, the two scores are one, and "
        f"beta* divides by 0. Such inputs are common, since every clipped one is at a level, zeros after a ReLU among "
        f"them: {equal:.0f} % of normally distributed activations. What works is q_c = q_f + 1.",
    )


@judges("overview-levels", "overview-scaled-ranges")
def level_set(_: Evidence) -> Judged:
    x = np.linspace(-1.5, 1.5, 8193)
    complete, ends = True, set()
    for bits in BITS:
        for role in ("weight", "activation"):
            params = daq.Params(np.asarray(-1.0), np.asarray(1.0), bits, role, sigma=WEIGHTS)
            complete &= np.array_equal(np.unique(daq.codes(x, params)), np.arange(2**bits))
            values = daq.forward(x, params, training=False)
            ends.add((role, float(values.min()), float(values.max())))
    return decide(
        complete and ends == {("weight", -1.0, 1.0), ("activation", 0.0, 1.0)},
        "At 1 to 8 bits the codes found are exactly 0 to 2^b - 1, and the values run "
        + " and ".join(f"from {low:g} to {high:g} ({role}s)" for role, low, high in sorted(ends, reverse=True))
        + ".",
    )


# ---------------------------------------------------------------------------------------------------------------------
# The kernel and the soft assignment
# ---------------------------------------------------------------------------------------------------------------------


@judges("assignment-kernel-grows", "assignment-kernel-suppresses-other")
def kernel(_: Evidence) -> Judged:
    near = float(daq.kernel(0.0, 0.0, sigma=WEIGHTS))
    far = {name: daq.kappa(sigma) for name, sigma in SIGMAS.items()}
    return (
        "by definition" if near == 1 and all(value < near for value in far.values()) else "fails",
        f"The kernel is {near:g} at the nearest level, so that its score is kept, and at the other "
        + " and ".join(f"{shown(value)} ({name})" for name, value in far.items())
        + ".",
    )


@judges("assignment-one-clear-peak")
def one_peak(_: Evidence) -> Judged:
    beta = KERNEL_BETAS[0]

    def smallest(sigma: float) -> float:
        scores = daq.weighted_scores(half_cell(), sigma=sigma)
        return float(daq.distance_probability(scores, beta)[0].min())

    peaks = {name: smallest(sigma) for name, sigma in SIGMAS.items()}
    return (
        "by definition" if min(peaks.values()) > 0.5 else "fails",
        "Since the kernel is less at the other level, the nearest level's probability is above a half: at least "
        + " and ".join(f"{shown(value)} ({name})" for name, value in peaks.items())
        + f" at beta = {beta:g}, the transition point included ({shown(smallest(math.inf))} there without kernel).",
    )


@judges(
    "intro-dasr-accurate",
    "dasr-very-close-to-nearest",
    "assignment-approximates-argmax",
    "assignment-argmax-well",
    "conclusion-dasr-approximates-rounding",
)
def more_accurate_than_sigmoid(_: Evidence) -> Judged:
    better = True
    for beta in KERNEL_BETAS:
        for sigma in SIGMAS.values():
            same_slope = equal_slope_temperature(beta, sigma)
            rivals = [sigmoid_gap(T) for T in (beta, same_slope) if T is not None]
            mean, largest = (
                daq_theory.fixed_beta_mean_gap(beta, sigma=sigma),
                daq_theory.fixed_beta_gap(beta, sigma=sigma),
            )
            better &= largest < 0.5 and mean < min(rivals)
    first, last = KERNEL_BETAS[0], KERNEL_BETAS[-1]
    gaps = {
        (beta, name): shown(daq_theory.fixed_beta_gap(beta, sigma=sigma))
        for beta in (first, last)
        for name, sigma in SIGMAS.items()
    }
    return decide(
        better,
        f"phi is at most {gaps[first, 'weights']} of a level from the rounding at beta = {first:g} and "
        f"{gaps[last, 'weights']} at {last:g} (weights; for activations {gaps[first, 'activations']} and "
        f"{gaps[last, 'activations']}; lambda = {shown(daq.lambda_())} at beta*, 0 after Eq. 10). Sigmoids are up to "
        "half a level away at every temperature; on average they are farther too, at T = beta and, where there is one, "
        "at the T of equal slope at the transition point.",
    )


@judges("assignment-more-accurate-than-sigmoid")
def nearer_than_sigmoids(_: Evidence) -> Judged:
    first, last = KERNEL_BETAS[0], KERNEL_BETAS[-1]
    means = {
        (beta, name): daq_theory.fixed_beta_mean_gap(beta, sigma=sigma)
        for beta in KERNEL_BETAS
        for name, sigma in SIGMAS.items()
    }
    largest = max(daq_theory.fixed_beta_gap(beta, sigma=sigma) for beta in KERNEL_BETAS for sigma in SIGMAS.values())
    alike = largest < 0.5 and all(gap < sigmoid_gap(beta) for (beta, _name), gap in means.items())
    steeper = all(means[first, name] < sigmoid_gap(last) for name in SIGMAS)
    verdict: Verdict = "holds" if alike and steeper else "undecided" if alike else "fails"
    listed = " and ".join(f"{shown(means[first, name])} ({name})" for name in SIGMAS)
    return (
        verdict,
        f"At equal temperatures it does: on average phi is {listed} of a level from the rounding at beta = {first:g}, "
        f"sigmoids {shown(sigmoid_gap(first))} at T = {first:g}, and half a level at the transition point at any T. On "
        f"average it is a matter of T: sigmoids of T = {last:g} are {shown(sigmoid_gap(last))} away, nearer than phi "
        f"at {first:g}.",
    )


@judges("assignment-much-smaller-temperature")
def much_smaller_temperature(_: Evidence) -> Judged:
    equal = {beta: equal_temperature(beta, WEIGHTS) for beta in (KERNEL_BETAS[0], KERNEL_BETAS[-1])}
    activations = equal_temperature(KERNEL_BETAS[0], SIGMAS["activations"])
    slopes = {name: equal_slope_temperature(KERNEL_BETAS[0], sigma) for name, sigma in SIGMAS.items()}
    much_higher = all(2 * KERNEL_BETAS[0] <= T for T in slopes.values() if T is not None)
    ratios = [*(T / beta for beta, T in equal.items()), activations / KERNEL_BETAS[0]]
    verdict: Verdict = "holds" if min(ratios) >= 2 and much_higher else "undecided"
    return (
        verdict if min(ratios) > 1 else "fails",
        "To be as near to the rounding on average sigmoids need "
        + " and ".join(f"T = {T:.4g} for beta = {beta:g}" for beta, T in equal.items())
        + f" (weights; {activations:.2g} for {KERNEL_BETAS[0]:g} with the kernel of activations), and their largest "
        f"gap stays half a level at any T. As steep as phi at beta = {KERNEL_BETAS[0]:g} at the transition point they "
        "are at "
        + " and ".join(f"no T ({name})" if T is None else f"T = {shown(T)} ({name})" for name, T in slopes.items())
        + ".",
    )


@judges("related-kernel-soft-argmax-more-accurate")
def more_accurate_than_soft_argmax(_: Evidence) -> Judged:
    betas = sorted({*KERNEL_BETAS, *SOFT_ARGMAX_BETAS})
    better = all(
        gap(beta, sigma=sigma) < gap(beta, sigma=math.inf)
        for beta in betas
        for sigma in SIGMAS.values()
        for gap in (daq_theory.fixed_beta_gap, daq_theory.fixed_beta_mean_gap)
    )
    beta = KERNEL_BETAS[0]
    return decide(
        better,
        f"At every beta of Table 6 the kernel brings phi nearer to the rounding, at worst and on average: at beta = "
        f"{beta:g} from {shown(daq_theory.fixed_beta_mean_gap(beta, sigma=math.inf))} to "
        f"{shown(daq_theory.fixed_beta_mean_gap(beta, sigma=WEIGHTS))} of a level on average, and from "
        f"{shown(daq_theory.fixed_beta_gap(beta, sigma=math.inf))} to "
        f"{shown(daq_theory.fixed_beta_gap(beta, sigma=WEIGHTS))} at worst.",
    )


@judges("related-soft-argmax-limit")
def soft_argmax_limit(_: Evidence) -> Judged:
    means = [daq_theory.fixed_beta_mean_gap(beta, sigma=math.inf) for beta in SOFT_ARGMAX_BETAS]
    largest = daq_theory.fixed_beta_gap(SOFT_ARGMAX_BETAS[-1], sigma=math.inf)
    return decide(
        means == sorted(means, reverse=True) and means[-1] < 0.1 * means[0],
        f"From beta = {SOFT_ARGMAX_BETAS[0]:g} to {SOFT_ARGMAX_BETAS[-1]:g} the mean distance from the argmax falls "
        f"from {shown(means[0])} to {shown(means[-1])} of a level; at the transition point itself it stays "
        f"{shown(largest)}, whatever the temperature.",
    )


@judges("related-no-sigmoid-or-tanh")
def is_a_sigmoid(_: Evidence) -> Judged:
    x = with_edges()
    worst = 0.0
    for beta in KERNEL_BETAS:
        s_f, s_c = daq.weighted_scores(x, sigma=WEIGHTS)
        sigmoid = np.floor(x) + 1 / (1 + np.exp(-beta * (s_c - s_f)))
        worst = max(worst, float(np.abs(sigmoid - daq.kernel_soft_argmax(x, beta, sigma=WEIGHTS)).max()))
    return (
        "holds" if worst > EXACT else "undecided",
        "No sigmoid of x, as QNet has; but a softmax over two scores is the sigmoid of their difference: phi is "
        f"q_f + sigmoid(beta (s(q_c) - s(q_f))), to {worst:.0e} of a level at every temperature of Table 6.",
    )


@judges("temperature-shapes-assignment")
def temperature_matters(_: Evidence) -> Judged:
    found = [float(daq.kernel_soft_argmax(0.25, beta, sigma=WEIGHTS)) for beta in KERNEL_BETAS]
    return decide(
        len(set(found)) == len(found),
        f"A quarter of the way between two levels phi is {shown(found[0])} at beta = {KERNEL_BETAS[0]:g} and "
        f"{found[-1]:.1e} at {KERNEL_BETAS[-1]:g}.",
    )
