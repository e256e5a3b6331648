"""Claims on other papers' methods, as far as the suite holds them: STE, LSQ, QIL, PACT, DSQ, RQ and SHVQ.

What is judged is the suite's reference, which was held against public code where there is any (each method's file says
which). Each function judges the claims named above it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm

from paper_tables.audit.claims.judging import Evidence, Judged, Judgements, Verdict, decide, shown
from reference import dsq, lsq, pact, qil, rq, soft_to_hard, ste
from reference.grid import Array, Role

judges = Judgements()

BITS = 3
EXACT = 1e-6
LEARNERS: dict[str, tuple[Any, Role]] = {  # as the paper cites them: [11], [22], [8], [12]
    "LSQ": (lsq, "weight"),
    "QIL": (qil, "weight"),
    "PACT": (pact, "activation"),
    "DSQ": (dsq, "weight"),
}


@dataclass(frozen=True)
class Slopes:
    """A quantizer over normally distributed inputs.

    Attributes
    ----------
    name : str
    outputs : int
        How many different ones there are.
    falls : int
        How often the output falls as the input rises.
    least : float
        Of the gradients that reach an input, in absolute value and units of the greatest.
    """

    name: str
    outputs: int
    falls: int
    least: float


def inputs(role: Role) -> Array:
    """Normally distributed inputs, in order; after a ReLU if they are activations."""
    x = np.asarray(norm.ppf((np.arange(4096) + 0.5) / 4096))
    return x if role == "weight" else np.maximum(x, 0)


def slopes() -> Iterator[Slopes]:
    """Look at each method that learns intervals or clipping ranges."""
    for name, (method, role) in LEARNERS.items():
        x = inputs(role)
        params = method.init(x, BITS, role)
        y = method.forward(x, params, training=True)
        gradient, _ = method.vjp(x, params, np.ones_like(x))
        used = np.abs(gradient[gradient != 0])
        falls = int(np.count_nonzero(np.diff(y) < 0))
        yield Slopes(name, np.unique(y).size, falls, float(used.min() / used.max()))


@judges("intro-ste-replaces-derivative", "related-ste-avoids-vanishing", "related-ste-rounding-forward")
def ste_rounds(_: Evidence) -> Judged:
    params = ste.Params(np.asarray(0.0), np.asarray(7.0), BITS, "weight")
    x = np.linspace(0, 7, 4097)
    nearest = [round(value) for value in x.tolist()]  # Python's, ties to even
    codes = ste.codes(x, params)
    gradient, _grads = ste.vjp(x[1:-1], params, np.ones(x.size - 2))
    off = int(np.abs(codes - nearest).max())
    spread = float(np.abs(gradient - gradient[0]).max())
    return decide(
        off == 0 and spread == 0 and gradient[0] > 0,
        f"Of {x.size} inputs within the clip range, the codes of the suite's STE are {off} away from Python's round, "
        f"and its gradients for them differ by {shown(spread)}: the identity, up to the scale of the grid.",
    )


@judges("intro-staircase", "related-intervals-use-rounding")
def staircases(_: Evidence) -> Judged:
    found = list(slopes())
    facts = ", ".join(f"{one.name} {one.outputs}" for one in found)
    return decide(
        all(one.outputs <= 2**BITS and one.falls == 0 for one in found),
        f"At {BITS} bits {inputs('weight').size} inputs have so few different outputs, which never fall as the input "
        f"rises: {facts}.",
    )


@judges("learners-use-ste")
def learners(_: Evidence) -> Judged:
    found = list(slopes())
    identity = {one.name: one.least > 1 - EXACT for one in found}
    verdict: Verdict = "holds" if all(identity.values()) else "undecided" if any(identity.values()) else "fails"
    facts = ", ".join(f"{one.name} {shown(one.least)}" for one in found)
    return (
        verdict,
        "The least gradient that an input gets within the range, in units of the greatest: "
        f"{facts}. Where that is 1 the rounding is passed by as the identity is, which is the STE. DSQ rounds forward "
        "too and uses a soft quantizer's derivative instead: an STE in the sense of the paper's Section 2, not in that "
        "of its Abstract.",
    )


def of_rq() -> tuple[rq.Params, Array]:
    """RQ's parameters for normally distributed weights, and these."""
    x = inputs("weight")
    return rq.init(x, BITS, "weight"), x


@judges("related-rq-samples", "related-gumbel-relaxes", "related-rq-stochastic")
def rq_draws(_: Evidence) -> Judged:
    params, x = of_rq()
    shares = rq.probabilities(x, params)
    off = float(np.abs(shares.sum(axis=0) - 1).max())
    draws = [rq.forward(x, params, training=True, noise=rq.gumbel(x.shape, BITS, seed)) for seed in (0, 1)]
    gradients = [rq.vjp(x, params, np.ones_like(x), noise=rq.gumbel(x.shape, BITS, seed))[0] for seed in (0, 1)]
    tests = [rq.forward(x, params, training=False) for _ in range(2)]
    differ, differ_in_test = (float(np.abs(np.subtract(*some)).max() / params.alpha) for some in (draws, tests))
    least = min(float(gradient.min()) for gradient in gradients)
    return decide(
        off < EXACT and differ > EXACT and differ_in_test == 0 and least > 0,
        f"In the suite's RQ each input has probabilities of the {len(shares)} grid points of {BITS} bits, which sum to "
        f"1 (to {off:.0e}); a softmax of them and Gumbel noise gives the output in training, so that two draws differ "
        f"by up to {shown(differ)} levels, and gradients are positive, {shown(least)} or more. In test there is no "
        f"noise, and the outputs of two runs differ by {shown(differ_in_test)}.",
    )


@judges("related-shvq-codebook", "related-rq-shvq-gap")
def soft_codebooks(_: Evidence) -> Judged:
    params, x = of_rq()
    noise = rq.gumbel(x.shape, BITS)
    in_training, in_test = rq.forward(x, params, training=True, noise=noise), rq.forward(x, params, training=False)
    relaxed = float(np.abs(in_training - in_test).mean() / params.alpha)
    codebook = soft_to_hard.init(x, BITS, "weight")
    spacing = soft_to_hard.spacing(codebook.centers)
    soft, hard = (soft_to_hard.forward(x, codebook, training=training) for training in (True, False))
    softened = float(np.abs(soft - hard).mean() / spacing)
    used = np.unique(hard).size
    return decide(
        used == len(codebook.centers) and min(relaxed, softened) > EXACT,
        f"Outputs in training and in test differ on average by {shown(relaxed)} of a level with RQ, its noise among "
        f"it, and by {shown(softened)} of the codewords' mean distance with soft-to-hard quantization (SHVQ [1]) as it "
        f"begins, whose {used} codewords at {BITS} bits are assigned by a softmax in training and are the only outputs "
        "in test.",
    )
