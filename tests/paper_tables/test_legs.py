"""Compound verdicts: each condition broken alone, in one setting alone, changes the verdict."""

import numpy as np
import pytest

from paper_tables.audit import claims
from paper_tables.audit.claims import dsq as about_dsq
from paper_tables.audit.claims import gradients, quantizer, tables, temperature
from paper_tables.audit.claims.judging import Evidence
from reference import daq, daq_theory, dsq, grid, lsq, pact, qil, qnet, rq, soft_to_hard, ste

JUDGES = claims.judgements()
W, A = 1.0, 2.0  # widths of the kernel for weights and activations
NOISE = np.random.default_rng(0)
SLOPE, SOFT = daq.kernel_soft_argmax_slope, daq.kernel_soft_argmax


def where(condition, right, wrong):
    """Another function where `condition` of its arguments is true."""
    return lambda *args, **named: (wrong if condition(*args, **named) else right)(*args, **named)


def constant(value):
    return lambda *args, **named: value


def for_sigma(function, sigma, wrong):
    return where(lambda *args, **named: named["sigma"] == sigma, function, wrong)


def in_setting(function, sigma, variant, wrong):
    return where(
        lambda *args, **named: (named["sigma"], named.get("variant", "paper")) == (sigma, variant), function, wrong
    )


def dented(x, beta, *, sigma):
    """The slope, but for one input in the middle."""
    found = np.array(SLOPE(x, beta, sigma=sigma))
    if found.ndim:
        found[found.size // 2] = 0
    return found


def closed_temperature(x, *, gamma=2.0, sigma, variant="paper"):
    """beta* by its closed form, whatever becomes of the scores."""
    return daq_theory.adaptive_temperature_at(np.abs(x - np.rint(x)), gamma=gamma, sigma=sigma, variant=variant)


def swapped_scores(x, *, sigma, variant="paper", right=daq.weighted_scores):
    s_f, s_c = right(x, sigma=sigma, variant=variant)
    return s_f[::-1], s_c[::-1]


def one_in(bits, role, function, change):
    """Change the outputs for one bit-width and role."""

    def wrong(x, params, **named):
        found = function(x, params, **named)
        return change(found) if (params.bits, params.role) == (bits, role) else found

    return wrong


def only(training, function):
    def wrong(x, params, **named):
        found = function(x, params, **named)
        return found + 1e-9 if named["training"] == training and params.bits == 8 else found

    return wrong


def steeper(x, params, grad, right=dsq.vjp):
    gradient, others = right(x, params, grad)
    return gradient * 1.001, others


def packed(array):
    return np.zeros(10**6 if array.shape[1] == 4 else 10, np.uint8)


NO_AGREEMENT = [(gradients, "agreements", lambda sigma: {0.1: 0.1, 0.5: 0.9})]
BY_SETTING = [(sigma, variant) for sigma in (W, A) for variant in daq.VARIANTS]

# claim, what is changed (module, name, instead), the verdict then
BREAKS = {
    "argmin alone": (
        "figure1-nearest-by-argmin",
        [(grid, "round_half_down", np.ceil), (daq, "distance_score", lambda x, q: np.where(q - x < 1, q, -1.0))],
        "fails",
    ),
    "scores alone": ("figure1-nearest-by-argmin", [(daq, "distance_score", lambda x, q: np.abs(x - q))], "fails"),
    "a jump of 2": (
        "intro-zero-derivative",
        [(grid, "round_half_down", lambda x, right=grid.round_half_down: 2 * right(x))],
        "fails",
    ),
    "a slope between jumps": (
        "intro-zero-derivative",
        [(grid, "round_half_down", lambda x, f=grid.round_half_down: f(x) + np.clip(np.asarray(x) % 1, 0.1, 0.3))],
        "fails",
    ),
    "a slope of the map itself": ("summary-gradient-computable", [(daq, "discretize", lambda x, **_: x)], "fails"),
    "phi jumps, f does not": (
        "assignment-differentiable", [(daq, "discretize", lambda x, **_: np.zeros(2))], "undecided",
    ),
    "f jumps, phi does not": (
        "assignment-differentiable", [(daq_theory, "fixed_beta_jumps", constant((0.0, 0.0)))], "undecided",
    ),
    **{
        f"phi jumps, and its slope at beta = {beta} is another's": (
            "assignment-differentiable",
            [(
                daq, "kernel_soft_argmax_slope",
                where(lambda x, b, beta=beta, **_: b == beta, SLOPE, lambda x, b, *, sigma: SLOPE(x, b, sigma=2.0)),
            )],
            "fails",
        )
        for beta in (4, 24)
    },
    "phi jumps at one temperature": (
        "assignment-differentiable",
        [
            (daq, "discretize", lambda x, **_: np.zeros(2)),
            (daq_theory, "fixed_beta_jumps", lambda beta, **_: (0.0, float(beta == 8))),
        ],
        "undecided",
    ),
    "nothing jumps": (
        "assignment-differentiable",
        [
            (daq, "discretize", lambda x, **_: np.zeros(2)),
            (daq_theory, "fixed_beta_jumps", constant((0.0, 0.0))),
        ],
        "holds",
    ),
    "the sigmoid's slope at a level": (
        "related-soft-unstable",
        [(qnet, "slope", where(lambda x, **_: x == 0, qnet.slope, lambda x, *, temperature: temperature))],
        "fails",
    ),
    "the sigmoid's slope in the middle": (
        "related-soft-unstable",
        [(qnet, "slope", where(lambda x, **_: x == 0.5, qnet.slope, lambda x, *, temperature: 1 / temperature))],
        "fails",
    ),
    "the soft argmax's slope at a level": (
        "soft-argmax-unstable",
        [(daq, "kernel_soft_argmax_slope", where(lambda x, *_, **__: x == 0, SLOPE, lambda x, beta, **_: beta))],
        "fails",
    ),
    "the soft argmax's slope in the middle": (
        "soft-argmax-unstable",
        [(daq, "kernel_soft_argmax_slope", where(lambda x, *_, **__: x == 0.5, SLOPE, lambda x, beta, **_: 1 / beta))],
        "fails",
    ),
    "no small slope at a level": (
        "beta-24-vanishing",
        [(daq, "kernel_soft_argmax_slope", lambda x, beta, *, sigma: SLOPE(x, beta, sigma=sigma) + (beta == 24) / 99)],
        "fails",
    ),
    "no steady rise": ("beta-24-vanishing", [(daq, "kernel_soft_argmax_slope", dented)], "fails"),
    "mismatch of neither": ("conclusion-mismatch", [(gradients, "daq_mismatch", constant(0.0))], "holds"),
    "mismatch of weights alone": (
        "conclusion-mismatch",
        [(gradients, "daq_mismatch", lambda sigma, per_input=False: float(sigma == W and not per_input))],
        "undecided",
    ),
    "mismatch of activations alone": (
        "conclusion-mismatch",
        [(gradients, "daq_mismatch", lambda sigma, per_input=False: float(sigma == A and not per_input))],
        "undecided",
    ),
    "mismatch of weights, per input too": (
        "conclusion-mismatch",
        [(gradients, "daq_mismatch", lambda sigma, per_input=False: float(sigma == W)), *NO_AGREEMENT],
        "fails",
    ),
    "mismatch per input too, but slopes that agree better": (
        "conclusion-mismatch", [(gradients, "daq_mismatch", constant(1.0))], "undecided",
    ),
    **{
        f"slopes that agree better, but for sigma = {sigma:g}": (
            "conclusion-mismatch",
            [
                (gradients, "daq_mismatch", constant(1.0)),
                (gradients, "agreements", lambda s, sigma=sigma: {0.1: 0.9 * (s != sigma), 0.5: 1.0}),
            ],
            "fails",
        )
        for sigma in (W, A)
    },
    "mismatch of activations, per input too": (
        "conclusion-mismatch",
        [(gradients, "daq_mismatch", lambda sigma, per_input=False: float(sigma == A)), *NO_AGREEMENT],
        "fails",
    ),
    "the sigmoid has a mismatch": (
        "abstract-soft-alleviates-mismatch", [(gradients, "sigmoid_mismatch", constant(1.0))], "fails",
    ),
    "the tanh has a mismatch": ("abstract-soft-alleviates-mismatch", [(dsq, "slope", constant(1.0))], "fails"),
    "neither DSQ nor sigmoid has a mismatch": (
        "soft-quantizers-alleviate-mismatch", [(gradients, "dsq_mismatch", constant(0.0))], "holds",
    ),
    "DSQ has one, and a slope that agrees worse": (
        "soft-quantizers-alleviate-mismatch", [(gradients, "dsq_agreements", lambda: {0.1: 0.5, 0.5: 0.9})], "fails",
    ),
    "DSQ has one, and a slope that agrees better somewhere": (
        "soft-quantizers-alleviate-mismatch",
        [(gradients, "dsq_agreements", lambda: {0.1: 0.7, 0.5: 0.9})],
        "undecided",
    ),
    "both have one, and DSQ's slope agrees better": (
        "soft-quantizers-alleviate-mismatch", [(gradients, "sigmoid_mismatch", constant(1.0))], "fails",
    ),
    "the sigmoid has one, DSQ has not": (
        "soft-quantizers-alleviate-mismatch",
        [(gradients, "dsq_mismatch", constant(0.0)), (gradients, "sigmoid_mismatch", constant(1.0))],
        "fails",
    ),
    "codes incomplete": (
        "overview-levels", [(daq, "codes", one_in(3, "weight", daq.codes, lambda q: np.minimum(q, 6)))], "fails",
    ),
    "weights beyond 1": (
        "overview-levels", [(daq, "forward", one_in(5, "weight", daq.forward, lambda y: 2 * y))], "fails",
    ),
    "activations from -1": (
        "overview-levels", [(daq, "forward", one_in(5, "activation", daq.forward, lambda y: 2 * y - 1))], "fails",
    ),
    "the kernel's peak": ("assignment-kernel-grows", [(daq, "kernel", constant(0.9))], "fails"),
    "sigmoid less steep": (
        "intro-dasr-accurate",
        [(quantizer, "sigmoid_gap", where(lambda T: T in (4, 8, 12, 24), quantizer.sigmoid_gap, constant(0.0)))],
        "fails",
    ),
    "sigmoid of equal slope": (
        "intro-dasr-accurate",
        [(quantizer, "sigmoid_gap", where(lambda T: T not in (4, 8, 12, 24), quantizer.sigmoid_gap, constant(0.0)))],
        "fails",
    ),
    "temperatures alone": (
        "assignment-much-smaller-temperature",
        [(quantizer, "equal_temperature", lambda beta, sigma: 9 * beta)],
        "undecided",
    ),
    "temperatures and slope": (
        "assignment-much-smaller-temperature",
        [
            (quantizer, "equal_temperature", lambda beta, sigma: 9 * beta),
            (daq_theory, "fixed_beta_transition_slope", constant(99.0)),
        ],
        "holds",
    ),
    "means that rise once": (
        "related-soft-argmax-limit",
        [(daq_theory, "fixed_beta_mean_gap", lambda beta, **_: {10: 0.1, 20: 0.2, 60: 0.01, 150: 0.001}[beta])],
        "fails",
    ),
    "means that fall by little": (
        "related-soft-argmax-limit",
        [(daq_theory, "fixed_beta_mean_gap", lambda beta, **_: 0.1 - beta / 1e4)],
        "fails",
    ),
    "no gap at a high temperature": (
        "abstract-soft-causes-gap", [(temperature, "sigmoid_gap", lambda T: 0.3 if T == 4 else 0.0)], "fails",
    ),
    "a larger gap at a high temperature": (
        "abstract-soft-causes-gap", [(temperature, "sigmoid_gap", lambda T: T)], "fails",
    ),
    "no soft quantizer has a gap": ("intro-soft-gap", [(about_dsq, "sigmoid_gap", constant(0.0))], "fails"),
    "DSQ has a gap, too": ("intro-soft-gap", [(about_dsq, "far_from_the_nearest", constant(0.1))], "holds"),
    "sigmoids are farther at any temperature": (
        "assignment-more-accurate-than-sigmoid", [(quantizer, "sigmoid_gap", constant(0.3))], "holds",
    ),
    "sigmoids are nearer at one temperature": (
        "assignment-more-accurate-than-sigmoid",
        [(quantizer, "sigmoid_gap", where(lambda T: T == 8, quantizer.sigmoid_gap, constant(0.0)))],
        "fails",
    ),
    "half a level at a transition point": (
        "assignment-more-accurate-than-sigmoid",
        [(daq_theory, "fixed_beta_gap", for_sigma(daq_theory.fixed_beta_gap, A, constant(0.5)))],
        "fails",
    ),
    "RQ's probabilities do not sum to 1": (
        "related-rq-stochastic", [(rq, "probabilities", lambda x, params: np.full((8, x.size), 0.1))], "fails",
    ),
    "RQ draws the same twice": (
        "related-rq-stochastic", [(rq, "gumbel", lambda shape, bits, seed=0: np.zeros((2**bits, *shape)))], "fails",
    ),
    "RQ draws in test, too": (
        "related-rq-stochastic",
        [(rq, "forward", lambda x, params, training, noise=None: NOISE.normal(size=x.shape))],
        "fails",
    ),
    "RQ has a negative gradient": (
        "related-rq-stochastic", [(rq, "vjp", lambda x, params, grad, noise: (-grad, {}))], "fails",
    ),
    "RQ without a gap": (
        "related-rq-shvq-gap", [(rq, "forward", lambda x, params, training, noise=None: np.zeros(x.shape))], "fails",
    ),
    "soft-to-hard without a gap": (
        "related-rq-shvq-gap",
        [(soft_to_hard, "forward", lambda x, params, training: soft_to_hard._nearest(x, params))],
        "fails",
    ),
    "a codeword that is not used": (
        "related-rq-shvq-gap",
        [(soft_to_hard, "init", lambda x, bits, role: soft_to_hard.Params(np.arange(8.0) - 2, bits, role, sigma=1.0))],
        "fails",
    ),
    "QNet's gap rises once": (
        "related-qnet-transforms-gradually",
        [(temperature, "sigmoid_gap", where(lambda T: T == 140, temperature.sigmoid_gap, constant(0.3)))],
        "fails",
    ),
    "QNet's gap falls by little": (
        "related-qnet-transforms-gradually", [(temperature, "sigmoid_gap", lambda T: 0.3 - T / 1e4)], "fails",
    ),
    "phi does not rise": (
        "small-temperature-gap", [(daq, "kernel_soft_argmax", lambda x, *_, **__: np.zeros(np.shape(x)))], "fails",
    ),
    "the gap rises with the temperature": (
        "small-temperature-gap", [(daq_theory, "fixed_beta_gap", lambda beta, **_: beta)], "fails",
    ),
    "quantized at beta*: not": (
        "table6-caption-full-precision-values", [(daq, "discretize", lambda x, **_: x)], "fails",
    ),
    "the scores at the middle": (
        "equation9-transition-point",
        [(daq, "distance_score", lambda x, q: np.exp(-2 * np.abs(x - q)) if q else np.exp(-np.abs(x - q)))],
        "fails",
    ),
    "the rounding at the middle": ("equation9-transition-point", [(grid, "round_half_down", np.floor)], "fails"),
    "DASR is the rounding": (
        "table1-same-output-as-rounding",
        [(daq, "kernel_soft_argmax", lambda x, *_, **__: grid.round_half_down(x))],
        "holds",
    ),
    "a gap after the rescaling": (
        "table1-same-output-as-rounding", [(temperature, "no_gap", constant(("fails", "")))], "fails",
    ),
    "DSQ in training": ("related-dsq-no-gap", [(dsq, "forward", only(True, dsq.forward))], "fails"),
    "DSQ at test time": ("related-dsq-no-gap", [(dsq, "forward", only(False, dsq.forward))], "fails"),
    "DSQ's codes": (
        "related-dsq-no-gap", [(dsq, "codes", one_in(2, "activation", dsq.codes, lambda q: q[::-1]))], "fails",
    ),
    "DSQ's rounding itself": ("related-dsq-no-gap", [(dsq, "hard", lambda x: np.floor(np.asarray(x) + 0.5))], "fails"),
    "DSQ's gradient": ("related-dsq-no-gap", [(dsq, "vjp", steeper)], "fails"),
    "DSQ nearer, and less off": ("dsq-accurate-gradients", [(gradients, "dsq_mismatch", constant(0.5))], "holds"),
    "DSQ neither": ("dsq-accurate-gradients", [(dsq, "soft", lambda x, **_: x)], "fails"),
    "DSQ less off alone": (
        "dsq-accurate-gradients",
        [(gradients, "dsq_mismatch", constant(0.5)), (dsq, "soft", lambda x, **_: x)],
        "undecided",
    ),
    "one bit-width is no smaller": ("dsq-less-memory", [(np, "packbits", packed)], "fails"),
    "other classes": ("cifar10-size", [(tables.cifar10, "CLASSES", 100)], "fails"),
    "no training images": (
        "cifar10-size", [(tables.cifar10, "SPLITS", {**tables.cifar10.SPLITS, "train": ("one",)})], "fails",
    ),
    "more test images": (
        "cifar10-size", [(tables.cifar10, "SPLITS", {**tables.cifar10.SPLITS, "test": ("one", "two")})], "fails",
    ),
    **{
        f"a vanishing slope at {sigma:g}, {claim}": (
            claim,
            [(daq_theory, "slope_range", for_sigma(daq_theory.slope_range, sigma, constant((0.0, 1.0))))],
            "fails",
        )
        for sigma in (W, A)
        for claim in ("summary-gradient-computable", "controller-no-vanishing")
    },
    **{
        f"a mismatch per input at {sigma:g}": (
            "table1-same-dasr-both-passes",
            [(gradients, "daq_mismatch", lambda s, per_input=False, sigma=sigma: float(per_input and s == sigma))],
            "fails",
        )
        for sigma in (W, A)
    },
    **{
        f"an exploding slope at {sigma:g}": (
            "assignment-no-exploding-gradient",
            [(
                daq_theory, "fixed_beta_transition_slope",
                for_sigma(daq_theory.fixed_beta_transition_slope, sigma, lambda beta, **_: beta),
            )],
            "fails",
        )
        for sigma in (W, A)
    },
    **{
        f"no kernel at {sigma:g}": (
            "assignment-kernel-grows",
            [(daq, "kappa", where(lambda s, *_, sigma=sigma: s == sigma, daq.kappa, constant(1.0)))],
            "fails",
        )
        for sigma in (W, A)
    },
    **{
        f"no peak at {sigma:g}": (
            "assignment-one-clear-peak",
            [(
                daq, "weighted_scores",
                for_sigma(daq.weighted_scores, sigma, lambda x, **_: (np.zeros(x.shape), np.zeros(x.shape))),
            )],
            "fails",
        )
        for sigma in (W, A)
    },
    **{
        f"DASR alone at {beta}, {sigma:g}": (
            "dasr-mismatch",
            [(
                daq, "kernel_soft_argmax_slope",
                where(
                    lambda x, b, *, sigma, beta=beta, other=sigma: (b, sigma) == (beta, other),
                    SLOPE, lambda x, b, *, sigma: SLOPE(x, b, sigma=sigma) + 0.01,
                ),
            )],
            "fails",
        )
        for beta, sigma in ((4, W), (24, W), (8, A))
    },
    **{
        f"{name} at {beta}, {sigma:g}, {claim}": (
            claim,
            [(
                daq_theory, name,
                where(
                    lambda b, *, sigma, beta=beta, other=sigma: (b, sigma) == (beta, other),
                    getattr(daq_theory, name), constant(0.5),
                ),
            )],
            "fails",
        )
        for claim in ("intro-dasr-accurate", "related-kernel-soft-argmax-more-accurate")
        for name in ("fixed_beta_gap", "fixed_beta_mean_gap")
        for beta, sigma in ((4, W), (24, A), (12, W))
    },
    **{
        f"a sigmoid's temperature at {beta}, {sigma:g}": (
            "assignment-much-smaller-temperature",
            [(
                quantizer, "equal_temperature",
                where(lambda b, s, beta=beta, sigma=sigma: (b, s) == (beta, sigma), quantizer.equal_temperature,
                      constant(1.0)),
            )],
            "fails",
        )
        for beta, sigma in ((4, W), (24, W), (4, A))
    },
    **{
        f"annealing at {sigma:g}": (
            "annealing-approaches-rounding",
            [(daq_theory, "fixed_beta_gap", for_sigma(daq_theory.fixed_beta_gap, sigma, constant(0.3)))],
            "fails",
        )
        for sigma in (W, A)
    },
    **{
        f"two outputs at beta = {beta}": (
            "table6-caption-full-precision-values",
            [(
                daq, "kernel_soft_argmax",
                where(lambda x, b, beta=beta, **_: np.ndim(b) == 0 and b == beta, SOFT,
                      lambda x, *_, **__: grid.round_half_down(x)),
            )],
            "fails",
        )
        for beta in (4, 8, 12, 24)
    },
    **{
        f"scores at {sigma:g}, {variant}": (
            "temperature-increases-near-transition",
            [
                (daq, "weighted_scores", in_setting(daq.weighted_scores, sigma, variant, swapped_scores)),
                (daq, "adaptive_temperature", closed_temperature),
            ],
            "fails",
        )
        for sigma, variant in BY_SETTING
    },
    **{
        f"temperature at {sigma:g}, {variant}": (
            "temperature-increases-near-transition",
            [(
                daq, "adaptive_temperature",
                in_setting(daq.adaptive_temperature, sigma, variant, lambda x, **_: np.ones(x.shape)),
            )],
            "fails",
        )
        for sigma, variant in BY_SETTING
    },
    **{
        f"Eq. 9 at {sigma:g}, {variant}, {gamma:g}": (
            "equation9-lambda",
            [(
                daq, "adaptive_temperature",
                where(
                    lambda x, *, gamma, sigma, variant, at=(gamma, sigma, variant): (gamma, sigma, variant) == at,
                    daq.adaptive_temperature, lambda x, **_: np.full(x.shape, 5.0),
                ),
            )],
            "fails",
        )
        for (sigma, variant), gamma in zip(BY_SETTING, (0.5, 2.0, 8.0, 0.5), strict=True)
    },
    **{
        f"a gap at {sigma:g}, {variant}": (
            "conclusion-gap",
            [(daq, "discretize", in_setting(daq.discretize, sigma, variant, lambda x, **_: x))],
            "fails",
        )
        for sigma, variant in BY_SETTING
    },
    **{
        f"Fig. 4 at {beta:g}": (
            "figure4-x1-temperature-4",
            [(
                daq_theory, "distance_at_temperature",
                where(lambda b, beta=beta, **_: b == beta, daq_theory.distance_at_temperature, constant(0.3)),
            )],
            "fails",
        )
        for beta in (4.0, 6.0)
    },
    "beta* never as high as 6": (
        "figure4-x2-temperature-6",
        [
            (daq, "adaptive_temperature", lambda x, right=daq.adaptive_temperature, **n: np.minimum(right(x, **n), 5)),
            (daq_theory, "distance_at_temperature", lambda beta, **_: 0.1),
        ],
        "fails",
    ),
    "a method with more levels": (
        "related-intervals-use-rounding",
        [(lsq, "forward", lambda x, params, **_: np.asarray(x))],
        "fails",
    ),
    "a method that falls": (
        "related-intervals-use-rounding",
        [(qil, "forward", lambda x, params, right=qil.forward, **n: -right(x, params, **n))],
        "fails",
    ),
    "no STE among the learners": (
        "learners-use-ste",
        [(m, "vjp", lambda x, params, grad: (np.linspace(1, 2, x.size), {})) for m in (lsq, qil, pact)],
        "fails",
    ),
    "every learner an STE": (
        "learners-use-ste", [(dsq, "vjp", lambda x, params, grad: (np.ones(x.size), {}))], "holds",
    ),
    "one learner an STE no more": (
        "learners-use-ste",
        [(lsq, "vjp", lambda x, params, grad: (np.linspace(1, 2, x.size), {}))],
        "undecided",
    ),
    "an STE that rounds up": (
        "related-ste-rounding-forward", [(ste, "codes", lambda x, params: np.ceil(x).astype(int))], "fails",
    ),
    "an STE with a slope": (
        "related-ste-rounding-forward",
        [(ste, "vjp", lambda x, params, grad: (np.linspace(1, 2, x.size), {}))],
        "fails",
    ),
    **{
        f"no less loss at {bits} bits, {variant}": (
            "dsq-less-quantization-loss",
            [(
                about_dsq, "losses",
                where(lambda x, b, v, at=(bits, variant): (b, v) == at, about_dsq.losses, constant([1.0, 1.0])),
            )],
            "fails",
        )
        for bits in (1, 2, 4)
        for variant in ("hard", "soft")
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def fresh():
    """Empty the caches of the functions measured, before and after."""
    cached = (
        gradients.daq_mismatch, gradients.ste_mismatch, gradients.agreements, gradients.ste_agreements,
        quantizer.equal_temperature,
    )  # fmt: skip
    cached = tuple(function for function in cached if hasattr(function, "cache_clear"))
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@pytest.mark.parametrize("name", BREAKS)
def test_each_leg_counts(name, monkeypatch):
    claim, changes, verdict = BREAKS[name]
    for module, function, instead in changes:
        monkeypatch.setattr(module, function, instead)
    with np.errstate(all="ignore"):
        assert JUDGES[claim](Evidence({}, {}))[0] == verdict
