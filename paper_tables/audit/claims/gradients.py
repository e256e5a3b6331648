"""Claims on gradients: the mismatch between the two passes, and gradients that vanish or explode.

The rule for *gradient mismatch* is the paper's own. It says of the straight-through estimator (STE) that it "replaces
the zero derivative of the rounding with that of an identity function, which causes a gradient mismatch" (Abstract),
and of DSQ that a discrete forward pass with the derivative of a soft quantizer has the mismatch too (Section 2). So
the derivative used backward is compared with that of the map from input to output that the forward pass realises.

DAQ realises the rounding (Eq. 11) and uses the derivative of another function. Its mismatch is 0 only against the
function of each input with the temperature frozen; but the STE's is 0 as well against the function of each input with
its offset frozen, ``y + (round(x) - x)``, so that this reading tells no two methods apart. A third measure leaves out
how large a slope is: its agreement with the derivative of the staircase smoothed by Gaussian noise
(`paper_tables.agreement`), by which DAQ's is better for narrow noise and the STE's for wide noise. Claims about DAQ, or
about both problems at once, are therefore undecided; claims about DASR alone, which Section 3.2 uses with a fixed
temperature, hold. Whether DAQ's slope trains better than the identity is another question, and takes training.

*Differentiable* has two readings as well: a slope almost everywhere, or continuity. Both are shown.

Each function judges the claims named above it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np

from paper_tables import agreement
from paper_tables.audit.claims.judging import Evidence, Judged, Judgements, Verdict, decide, shown, span
from paper_tables.equations import (
    KERNEL_BETAS,
    SOFT_ARGMAX_BETAS,
    difference_quotient,
    frozen,
    inside_cells,
    with_edges,
)
from reference import daq, daq_theory, dsq, grid, qnet, ste
from reference.grid import Array

judges = Judgements()

WEIGHTS, ACTIVATIONS = daq.SIGMA["weight"], daq.SIGMA["activation"]
ZERO = 1e-5  # resolution of the finite differences, over all the functions below
SIGMOID_TEMPERATURES = (4.0, 10.0, 60.0)


def mismatch(used: Array, forward: Callable[[Array], Array]) -> float:
    """Mean absolute difference between the derivative `used` backward and that of `forward`, over a dense grid."""
    return float(np.abs(used - difference_quotient(forward, inside_cells())).mean())


@cache
def daq_mismatch(sigma: float, *, per_input: bool = False) -> float:
    """DAQ's mismatch against the map it realises, or against each input's function with its temperature frozen."""
    x = inside_cells()
    beta = daq.adaptive_temperature(x, sigma=sigma)

    def forward(y: Array) -> Array:
        if per_input:
            return frozen(y, beta, daq.GAMMA, sigma, "paper")
        return daq.discretize(y, sigma=sigma)

    return mismatch(daq.slope(x, sigma=sigma), forward)


@cache
def ste_mismatch(*, per_input: bool = False) -> float:
    """The same two of the straight-through estimator; frozen is its offset, round(x) - x."""
    x = inside_cells()
    offset = grid.round_half_down(x) - x
    return mismatch(ste.slope(x), (lambda y: y + offset) if per_input else grid.round_half_down)


def dsq_mismatch() -> float:
    """DSQ's mismatch: hard quantizer forward, derivative of the soft one backward."""
    return mismatch(dsq.slope(inside_cells(), alpha=dsq.INITIAL_ALPHA), dsq.hard)


def sigmoid_mismatch() -> float:
    """The largest mismatch of QNet's sum of sigmoids, which serves in both passes."""
    return max(
        mismatch(qnet.slope(inside_cells(), temperature=T), lambda y, T=T: qnet.soft(y, temperature=T))  # type: ignore[misc]
        for T in SIGMOID_TEMPERATURES
    )


NARROW, WIDE = 0.1, 0.5  # noise, in levels
STE_SLOPE = np.ones(inside_cells().size)


@cache
def agreements(sigma: float) -> dict[float, float]:
    """Agreement of DAQ's slope with that of the smoothed staircase, by noise."""
    return {noise: agreement.agreement(daq.slope(inside_cells(), sigma=sigma), noise) for noise in (NARROW, WIDE)}


@cache
def ste_agreements() -> dict[float, float]:
    """The same of the STE."""
    return {noise: agreement.agreement(STE_SLOPE, noise) for noise in (NARROW, WIDE)}


def dsq_agreements() -> dict[float, float]:
    """The same of DSQ."""
    slope = dsq.slope(inside_cells(), alpha=dsq.INITIAL_ALPHA)
    return {noise: agreement.agreement(slope, noise) for noise in (NARROW, WIDE)}


def dasr_slopes(beta: float) -> Array:
    """phi'(x; beta) at a fixed temperature, over one cell with its level, x = 0, and its transition point, x = 1/2."""
    return daq.kernel_soft_argmax_slope(with_edges()[with_edges() <= 0.5], beta, sigma=WEIGHTS)


def rounding_error() -> float:
    """Largest distance between DAQ's output in training and the rounding."""
    x = with_edges()
    return max(
        float(np.abs(daq.discretize(x, sigma=s) - grid.round_half_down(x)).max()) for s in (WEIGHTS, ACTIVATIONS)
    )


# ---------------------------------------------------------------------------------------------------------------------
# Mismatch
# ---------------------------------------------------------------------------------------------------------------------


@judges(
    "abstract-rounding-not-differentiable",
    "figure1-not-trainable-end-to-end",
    "related-argmax-not-trainable",
    "intro-zero-derivative",
    "related-rounding-vanishing-gradient",
)
def zero_derivative(_: Evidence) -> Judged:
    largest = float(np.abs(difference_quotient(grid.round_half_down, inside_cells())).max())
    jump = float(np.diff(grid.round_half_down([0.5, np.nextafter(0.5, 1)]))[0])
    return decide(
        largest == 0 and jump == 1,
        f"The rounding jumps by {jump:g} at half-integers, and its derivative elsewhere is at most {shown(largest)} "
        "in absolute value: gradient descent through it alone moves nothing.",
    )


@judges("abstract-ste-mismatch", "intro-ste-mismatch")
def ste_has_it(_: Evidence) -> Judged:
    found = ste_mismatch()
    return decide(
        found > ZERO,
        f"The derivative used backward, 1, is {shown(found)} away on average from that of the rounding, which the "
        "forward pass computes. (DAQ, measured alike: "
        f"{shown(daq_mismatch(WEIGHTS))} for weights, {shown(daq_mismatch(ACTIVATIONS))} for activations.)",
    )


@judges("abstract-soft-alleviates-mismatch")
def soft_quantizers(_: Evidence) -> Judged:
    tanh = mismatch(dsq.slope(inside_cells(), alpha=dsq.INITIAL_ALPHA), lambda y: dsq.soft(y, alpha=dsq.INITIAL_ALPHA))
    return decide(
        max(sigmoid_mismatch(), tanh) < ZERO,
        "A sigmoid or tanh that serves in both passes is its own function: the derivative used is "
        f"{shown(round(max(sigmoid_mismatch(), tanh), 5))} away from that of the map realised (STE: "
        f"{shown(ste_mismatch())}).",
    )


@judges("intro-soft-alleviates-mismatch", "related-soft-continuous-both-passes", "soft-quantizers-alleviate-mismatch")
def soft_quantizers_with_dsq(_: Evidence) -> Judged:
    found, agrees, stes = dsq_mismatch(), dsq_agreements(), ste_agreements()
    sigmoid = sigmoid_mismatch() < ZERO
    better = any(agrees[noise] > stes[noise] for noise in agrees)
    verdict: Verdict = "holds" if sigmoid and found < ZERO else "undecided" if sigmoid and better else "fails"
    return (
        verdict,
        f"True of QNet's sigmoids (mismatch {shown(round(sigmoid_mismatch(), 5))}), but DSQ [12], named here too, "
        f"quantizes hard in the forward pass and has {shown(found)}, as the STE has {shown(ste_mismatch())}. The "
        'paper\'s Section 2 says so itself: "the use of STE causes the gradient mismatch". By another measure it '
        f"alleviates it: the agreement with the staircase smoothed by noise s is {agrees[NARROW]:.3f} at s = "
        f"{NARROW:g} (STE {stes[NARROW]:.3f}) and {agrees[WIDE]:.3f} at {WIDE:g} ({stes[WIDE]:.3f}).",
    )


@judges(
    "abstract-both-mismatch",
    "intro-daq-mismatch",
    "related-same-quantizer-mismatch",
    "related-daq-mismatch",
    "table1-mismatch",
    "table7-controller-mismatch",
    "conclusion-mismatch",
)
def daq_has_it(_: Evidence) -> Judged:
    weights, activations = daq_mismatch(WEIGHTS), daq_mismatch(ACTIVATIONS)
    per_input = max(daq_mismatch(sigma, per_input=True) for sigma in (WEIGHTS, ACTIVATIONS))
    realised = max(weights, activations)
    agrees = [agreements(sigma) for sigma in (WEIGHTS, ACTIVATIONS)]
    stes = ste_agreements()
    better = all(one[NARROW] > stes[NARROW] for one in agrees)
    verdict: Verdict = "holds" if realised < ZERO else "undecided" if per_input < ZERO or better else "fails"
    return (
        verdict,
        f"Readings disagree. DAQ's forward pass computes the rounding (to {rounding_error():.0e}), whose derivative "
        f"is 0, and its backward pass uses another function's: on average {shown(weights)} for weights and "
        f"{shown(activations)} for activations, where the STE uses {shown(ste_mismatch())}. Against each input's "
        f"function with its temperature frozen the mismatch is {shown(round(per_input, 5))}; so is the STE's with "
        f"its offset frozen ({shown(round(ste_mismatch(per_input=True), 5))}). Slopes agree (cosine) with the "
        f"staircase smoothed by noise s, at s = {NARROW:g}, by {agrees[0][NARROW]:.3f}, {agrees[1][NARROW]:.3f} and "
        f"{stes[NARROW]:.3f}; at s = {WIDE:g}, by {agrees[0][WIDE]:.3f}, {agrees[1][WIDE]:.3f} and {stes[WIDE]:.3f}. "
        "Whether DAQ's slope trains better takes training runs.",
    )


@judges("table1-same-dasr-both-passes", "related-same-quantizer-both-passes")
def same_function_per_input(_: Evidence) -> Judged:
    found = max(daq_mismatch(sigma, per_input=True) for sigma in (WEIGHTS, ACTIVATIONS))
    return decide(
        found < ZERO,
        "Forward and backward use the same DASR for each input, with its temperature as a constant: the derivatives "
        f"differ by {shown(round(found, 5))}. It does not follow that the map from input to output is differentiated, "
        f"whose derivative is {shown(daq_mismatch(WEIGHTS))} (weights) and {shown(daq_mismatch(ACTIVATIONS))} "
        "(activations) away on average.",
    )


@judges(
    "abstract-dasr-alleviates-mismatch",
    "intro-dasr-mismatch",
    "contribution-dasr-mismatch",
    "dasr-same-quantizer-both-passes",
    "dasr-mismatch",
)
def dasr_alone(_: Evidence) -> Judged:
    x = inside_cells()
    found = max(
        mismatch(
            daq.kernel_soft_argmax_slope(x, beta, sigma=sigma),
            lambda y, beta=beta, sigma=sigma: daq.kernel_soft_argmax(y, beta, sigma=sigma),  # type: ignore[misc]
        )
        for beta in KERNEL_BETAS
        for sigma in (WEIGHTS, ACTIVATIONS)
    )
    gaps = (
        daq_theory.fixed_beta_gap(KERNEL_BETAS[0], sigma=WEIGHTS),
        daq_theory.fixed_beta_gap(KERNEL_BETAS[-1], sigma=WEIGHTS),
    )
    return decide(
        found < ZERO,
        "DASR alone, at a fixed temperature, is the same function in both passes: between its jumps the derivatives "
        f"differ by {shown(round(found, 5))} (beta = {KERNEL_BETAS[0]:g} to {KERNEL_BETAS[-1]:g}). But then it leaves "
        f"a quantizer gap of up to {shown(gaps[0])} to {shown(gaps[1])} of a level; the temperature controller that "
        f"closes the gap brings the mismatch back ({shown(daq_mismatch(WEIGHTS))}, weights).",
    )


# ---------------------------------------------------------------------------------------------------------------------
# Differentiability
# ---------------------------------------------------------------------------------------------------------------------


@judges(
    "intro-dasr-differentiable",
    "contribution-dasr-differentiable",
    "related-daq-differentiable",
    "assignment-differentiable",
)
def differentiable(_: Evidence) -> Judged:
    jumps = [daq_theory.fixed_beta_jumps(beta, sigma=WEIGHTS)[1] for beta in KERNEL_BETAS]
    sides = daq.discretize([0.5, np.nextafter(0.5, 1)], sigma=WEIGHTS)
    adaptive = float(sides[1] - sides[0])
    x = inside_cells()
    smooth = max(
        mismatch(
            daq.kernel_soft_argmax_slope(x, beta, sigma=WEIGHTS),
            lambda y, beta=beta: daq.kernel_soft_argmax(y, beta, sigma=WEIGHTS),  # type: ignore[misc]
        )
        for beta in KERNEL_BETAS
    )
    continuous, almost_everywhere = max(*jumps, adaptive) < ZERO, smooth < ZERO
    verdict: Verdict = "undecided" if continuous != almost_everywhere else "holds" if continuous else "fails"
    return (
        verdict,
        "Two readings. A slope almost everywhere: phi has one between its jumps, the one that training uses (finite "
        f"differences: to {shown(round(smooth, 5))}). Continuity: the kernel is centred on the nearest level, which "
        f"the argmin has to find first, so phi jumps at every transition point, by {shown(jumps[0])} of a level at "
        f"beta = {KERNEL_BETAS[0]:g}, {shown(jumps[-1])} at {KERNEL_BETAS[-1]:g} and {shown(adaptive)}, as the "
        "rounding does, at beta*.",
    )


@judges("contribution-trains-end-to-end", "summary-gradient-computable", "temperature-is-a-hyperparameter")
def gradient_exists(_: Evidence) -> Judged:
    weights, activations = daq_theory.slope_range(sigma=WEIGHTS), daq_theory.slope_range(sigma=ACTIVATIONS)
    x = inside_cells()
    realised = float(np.abs(difference_quotient(lambda y: daq.discretize(y, sigma=WEIGHTS), x)).max())
    return decide(
        min(*weights, *activations) > ZERO > realised,
        f"With beta* a constant, every input within the clip range gets a gradient, of slope {span(weights)} for "
        f"weights and {span(activations)} for activations. With beta* differentiated as well the slope would be 0 "
        f"(found {realised:.0e}).",
    )


# ---------------------------------------------------------------------------------------------------------------------
# Gradients that vanish or explode
# ---------------------------------------------------------------------------------------------------------------------


@judges("intro-raised-temperature-unstable", "related-soft-vanish-or-explode", "related-soft-unstable")
def sigmoid_flow(_: Evidence) -> Judged:
    levels, middles = ([float(qnet.slope(at, temperature=T)) for T in SIGMOID_TEMPERATURES] for at in (0.0, 0.5))
    one = np.asarray(1.0)
    clamped = qnet.Params(one, one, np.arange(3) + 0.5, 2, "activation", SIGMOID_TEMPERATURES[-1], "released")
    kept = float(qnet.vjp([1.0], clamped, [1.0])[0][0])
    return decide(
        levels == sorted(levels, reverse=True) and middles == sorted(middles),
        f"From T = {SIGMOID_TEMPERATURES[0]:g} to {SIGMOID_TEMPERATURES[-1]:g} the slope of QNet's sigmoids at a "
        f"transition point grows from {shown(middles[0])} to {shown(middles[-1])} (at least T/4, without bound) and at "
        f"a level falls from {levels[0]:.2g} to {levels[-1]:.1e}. (Its released code clamps their arguments to +-"
        f"{qnet.CLAMP:g} and keeps the slope there: {kept:.1e} at an inner level of a 2-bit grid.) What that does to "
        "training takes training runs.",
    )


@judges("related-soft-argmax-unstable", "soft-argmax-unstable")
def soft_argmax_flow(_: Evidence) -> Judged:
    levels, middles = (
        [float(daq.kernel_soft_argmax_slope(at, beta, sigma=math.inf)) for beta in SOFT_ARGMAX_BETAS]
        for at in (0.0, 0.5)
    )
    return decide(
        levels == sorted(levels, reverse=True) and middles == sorted(middles),
        f"From beta = {SOFT_ARGMAX_BETAS[0]:g} to {SOFT_ARGMAX_BETAS[-1]:g} the slope of the plain soft argmax at a "
        f"transition point grows from {shown(middles[0])} to {shown(middles[-1])} (beta/(2 sqrt e), without bound) and "
        f"at a level falls from {levels[0]:.2g} to {levels[-1]:.1e}. What that does to training takes training runs.",
    )


@judges("assignment-no-exploding-gradient")
def kernel_bounds_the_slope(_: Evidence) -> Judged:
    betas = np.geomspace(0.01, 1e4, 2001)
    weights, activations, plain = (
        max(daq_theory.fixed_beta_transition_slope(float(beta), sigma=sigma) for beta in betas)
        for sigma in (WEIGHTS, ACTIVATIONS, math.inf)
    )
    return decide(
        max(weights, activations) < 0.01 * plain,
        "Over all temperatures from 0.01 to 10,000 the slope at the transition point is at its largest "
        f"{shown(weights)} with the kernel of weights and {shown(activations)} with that of activations, without "
        f"kernel {shown(plain)}; that of sigmoids is T/4 or more.",
    )


@judges(
    "figure3-vanishing-near-levels",
    "large-temperature-vanishing",
    "large-temperature-derivative-to-zero",
    "vanishing-severe-at-large-temperature",
    "beta-24-vanishing",
)
def vanishing(_: Evidence) -> Judged:
    small, large = (dasr_slopes(beta) for beta in (KERNEL_BETAS[0], KERNEL_BETAS[-1]))
    return decide(
        large[0] < 1e-3 * small[0] and bool(np.all(np.diff(large) > 0)),
        f"At beta = {KERNEL_BETAS[-1]:g} phi' falls from {shown(large[-1])} at the transition point to {large[0]:.1e} "
        f"at a level; at beta = {KERNEL_BETAS[0]:g} it is still {shown(small[0])} there. Its mean over a cell is "
        f"{shown(daq_theory.fixed_beta_mean_slope(KERNEL_BETAS[-1], sigma=WEIGHTS))} (sigma = {WEIGHTS:g}), so the "
        "gradient is small at the transition point too.",
    )


@judges(
    "controller-no-vanishing",
    "temperature-decrease-avoids-vanishing",
    "adaptive-gradients-alleviate-vanishing",
    "adaptive-addresses-vanishing",
)
def not_vanishing(_: Evidence) -> Judged:
    fixed = float(dasr_slopes(KERNEL_BETAS[-1]).min())
    weights, activations = daq_theory.slope_range(sigma=WEIGHTS), daq_theory.slope_range(sigma=ACTIVATIONS)
    return decide(
        min(weights[0], activations[0]) > 0.1,
        f"The slope at beta* is at least {shown(weights[0])} for weights and {shown(activations[0])} for activations, "
        f"at the levels, where phi' at beta = {KERNEL_BETAS[-1]:g} is {fixed:.1e}.",
    )
