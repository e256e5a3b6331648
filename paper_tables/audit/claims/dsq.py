"""Claims about DSQ: those of its abstract, and what the DAQ paper says of it. The formulas are from memory.

Each function judges the claims named above it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from scipy.stats import norm

from paper_tables.audit.claims import gradients
from paper_tables.audit.claims.judging import Evidence, Judged, Judgements, Verdict, decide, shown
from paper_tables.audit.claims.quantizer import BITS, EXACT, sigmoid_gap
from paper_tables.audit.claims.tables import TABLES, Pair, value, wins
from paper_tables.equations import difference_quotient, inside_cells
from reference import dsq, grid
from reference.grid import Array

judges = Judgements()

FROM_MEMORY = "DSQ is judged as the suite's reference states it, from memory of its paper."
BEFORE_DSQ = (8, 49, 51)  # citations of methods published before 2019, the year of DSQ (ICCV 2019)
BESIDE_DSQ = (22, 36, 47)  # of the same year: QIL and QNet (CVPR 2019), RQ (ICLR 2019)
LEARNING_RATE, STEPS = 0.5, 200  # of plain gradient descent on l and u


@judges("related-dsq-discrete-forward", "related-dsq-no-gap")
def no_gap(_: Evidence) -> Judged:
    off = max(far_from_the_nearest(bits, role) for bits in BITS for role in grid.ROLES)
    x = inside_cells()
    top = grid.top_code(2)
    params = dsq.Params(np.asarray(0.0), np.asarray(float(top)), 2, "weight")
    inside = x[x < top]
    gradient, _grads = dsq.vjp(inside, params, np.ones_like(inside))
    soft = difference_quotient(lambda y: dsq.soft(y, alpha=dsq.INITIAL_ALPHA), inside)
    used = np.abs(gradient - soft).max()
    return decide(
        off == 0 and used < gradients.ZERO,
        "By definition training and test are one function. At 1 to 8 bits its outputs, and what the integer codes of "
        f"a network at test time decode to, are {shown(off)} away from the nearest of the 2^b levels, found by search "
        f"among them; and the derivative used is that of the soft quantizer (to {used:.0e}). {FROM_MEMORY}",
    )


@judges("intro-soft-gap", "related-soft-rounding-at-inference")
def soft_quantizers_with_dsq(_: Evidence) -> Judged:
    sigmoid = sigmoid_gap(4.0)
    off = max(far_from_the_nearest(bits, role) for bits in BITS for role in grid.ROLES)
    gaps = [sigmoid > EXACT, off > 0]
    verdict: Verdict = "holds" if all(gaps) else "undecided" if any(gaps) else "fails"
    return verdict, (
        f"True of QNet's sigmoids, whose outputs in training and in test differ by {shown(sigmoid)} of a level on "
        "average at T = 4. But DSQ [12], of tanh functions, which the sentence is on too, rounds in training: its "
        f"outputs are {shown(off)} away from the nearest level in both. The paper's Section 2 says so itself: "
        f'"This alleviates the quantizer gap problem at inference". {FROM_MEMORY}'
    )


def far_from_the_nearest(bits: int, role: grid.Role) -> float:
    """Largest distance of DSQ's outputs, in training, at test time and decoded, from the nearest level, in levels."""
    top = grid.top_code(bits)
    params = dsq.Params(np.asarray(0.0), np.asarray(float(top)), bits, role)  # levels 0, 1 ... top, exactly
    x = np.linspace(-1, top + 1, 64 * (top + 2) + 1)
    nearest = np.abs(x[:, None] - np.arange(top + 1.0)).argmin(axis=1)  # the lower of two that are equally near
    outputs = [dsq.forward(x, params, training=training) for training in (True, False)]
    decoded = dsq.decode(dsq.codes(x, params), params)
    return max(float(np.abs(output - nearest).max()) for output in (*outputs, decoded))


@judges("related-dsq-mismatch")
def mismatch(_: Evidence) -> Judged:
    found = gradients.dsq_mismatch()
    return decide(
        found > gradients.ZERO,
        f"The derivative used is {shown(found)} away on average from that of the hard quantizer, which the forward "
        f"pass computes, as the STE's is ({shown(gradients.ste_mismatch())}); DAQ, measured alike, has "
        f"{shown(gradients.daq_mismatch(gradients.WEIGHTS))} for weights and "
        f"{shown(gradients.daq_mismatch(gradients.ACTIVATIONS))} for activations. {FROM_MEMORY}",
    )


@judges("dsq-accurate-gradients")
def accurate_gradients(_: Evidence) -> Judged:
    x = inside_cells()
    ours, stes = gradients.dsq_mismatch(), gradients.ste_mismatch()
    soft = float(np.abs(dsq.soft(x, alpha=dsq.INITIAL_ALPHA) - dsq.hard(x)).mean())
    identity = float(np.abs(x - grid.round_half_down(x)).mean())
    closer, steeper = soft < identity, ours < stes - gradients.ZERO
    verdict: Verdict = "undecided" if closer != steeper else "holds" if closer else "fails"
    return verdict, (
        f"Two fair measures against the STE: the derivative is as far from the staircase's ({shown(ours)} against "
        f"{shown(stes)} on average, for every alpha), the function that it is taken of is nearer to the "
        f"staircase ({shown(soft)} against {shown(identity)} of a level at alpha = {dsq.INITIAL_ALPHA:g}). "
        f"{FROM_MEMORY}"
    )


def losses(x: Array, bits: int, variant: str) -> Sequence[float]:
    """Mean squared quantization error of `x` before gradient descent, with DSQ's gradients, on l and u, and after it.

    STEPS + 1 numbers: the first of the initial l and u, then one after each step.
    """
    params = dsq.init(x, bits, "weight", variant=variant)
    error = dsq.forward(x, params, training=True) - x
    found = [float((error**2).mean())]
    for _ in range(STEPS):
        _, gradient = dsq.vjp(x, params, 2 * error / x.size)
        low = params.lower - LEARNING_RATE * gradient["lower"]
        high = params.upper - LEARNING_RATE * gradient["upper"]
        params = dsq.Params(low, high, bits, "weight", params.alpha, variant)
        error = dsq.forward(x, params, training=True) - x
        found.append(float((error**2).mean()))
    return found


@judges("dsq-less-quantization-loss")
def quantization_loss(_: Evidence) -> Judged:
    x = norm.ppf((np.arange(1024) + 0.5) / 1024)
    found = {(variant, bits): losses(x, bits, variant) for variant in dsq.METHOD.variants for bits in (1, 2, 4)}
    facts = ", ".join(
        f"{shown(loss[0])} to {shown(loss[-1])} ({variant}, {bits} bit)" for (variant, bits), loss in found.items()
    )
    return decide(
        all(loss[-1] < loss[0] for loss in found.values()),
        f"For normally distributed weights, {STEPS} steps along DSQ's gradients of l and u (of the hard output, as in "
        "public code, or of the soft one), from the least and the greatest weight, lower the mean squared error: "
        f"{facts}. What training on a task does to it is in the table evolution, on digits.",
    )


@judges("dsq-less-memory")
def less_memory(_: Evidence) -> Judged:
    weights = np.linspace(-1, 1, 4096, dtype=np.float32)
    ratios = []
    for bits in (1, 2, 4):
        codes = dsq.codes(weights, dsq.Params(np.asarray(-1.0), np.asarray(1.0), bits, "weight"))
        packed = np.packbits((codes[:, None] >> np.arange(bits)) & 1)
        ratios.append(weights.nbytes / packed.nbytes)
    return (
        "by definition" if min(ratios) > 1 else "fails",
        "Codes of b bits are less than 32-bit numbers: packed codes of 1, 2 and 4 bits take "
        f"{', '.join(f'{ratio:g}' for ratio in ratios)} times less memory than 32-bit weights, in the layers that "
        "are quantized.",
    )


# ---------------------------------------------------------------------------------------------------------------------
# DSQ's abstract, as far as the DAQ paper's tables print DSQ
# ---------------------------------------------------------------------------------------------------------------------


def _against(evidence: Evidence, citations: Collection[int]) -> list[Pair]:
    """DSQ against other methods, where a table prints both in a column and they are like for like."""
    found = []
    for name in TABLES:
        table = evidence.tables[name]
        own = next(row for row in table.rows if row.method == "DSQ")
        for row in table.rows:
            for column in row.values.keys() & own.values.keys() - {table.baseline}:
                mine, theirs = own.values[column], row.values[column]
                if row.citation in citations and mine.fully_quantized == theirs.fully_quantized:
                    first, second = value(mine), value(theirs)
                    if first is not None and second is not None and table.images:
                        what = f"DSQ against {row.method}, Table {name}, {column}"
                        found.append(Pair(what, column, first, second, table.images))
    return sorted(found, key=lambda pair: (pair.difference, pair.what))


def _contemporaries(evidence: Evidence) -> str:
    some = _against(evidence, BESIDE_DSQ)
    ahead = [pair for pair in some if pair.difference < 0]
    said = f" ({'; '.join(f'{pair.what}, {pair.difference:+}' for pair in ahead)})" if ahead else ""
    return (
        "These are DSQ's numbers as the DAQ paper quotes them, against methods published before 2019. Of "
        f"{len(some)} against methods of its own year, which it need not have known, {len(ahead)} are behind{said}."
    )


def _second_hand(evidence: Evidence, judged: Judged, _: Sequence[Pair]) -> Judged:
    """Numbers that another paper quotes, of experiments that the abstract does not name, refute nothing."""
    verdict, said = judged
    return ("undecided" if verdict == "fails" else verdict), said


@wins(judges, "dsq-consistently-outperforms", note=_contemporaries, then=_second_hand)
def dsq_consistently(evidence: Evidence) -> list[Pair]:
    return _against(evidence, BEFORE_DSQ)


@wins(
    judges,
    "dsq-others-degrade",
    note="(Numbers quoted in the DAQ paper, of methods published before 2019, in 1/1, 1/2 and 2/2. "
    "Severe is taken for more than noise.)",
)
def others_degrade(evidence: Evidence) -> list[Pair]:
    found = []
    for name in TABLES:
        table = evidence.tables[name]
        for row in table.rows:
            base = value(row.values.get(table.baseline or ""))
            for column in ("1/1", "1/2", "2/2"):
                quantized = value(row.values.get(column))
                if row.citation in BEFORE_DSQ and base is not None and quantized is not None and table.images:
                    what = f"{row.method}, Table {name}, FP against {column}"
                    found.append(Pair(what, column, base, quantized, table.images))
    return found
