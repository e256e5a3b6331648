"""Claims on the recipe, judged by the code and the checkpoints released with the DAQ paper.

One rule for all: where what was released agrees, the claim *holds*; where it does not, it is *undecided*, since the
numbers printed may be of other runs, with other code, and a released file refutes no sentence on those.
"""

from __future__ import annotations

from paper_tables.audit.claims.judging import Evidence, Judged, Judgement, Judgements
from paper_tables.cells import Cell
from reference import daq

judges = Judgements()

AGREES, DIFFERS = {"same", "matches"}, {"differs", "released file differs"}
MISSING = (
    "The released ResNet-20 checkpoints tell, in their optimizers' state and BatchNorm's counters; this needs --data "
    "and --checkpoints (see README)."
)


def by_code(*rows: str, says: str = "", note: str = "") -> Judgement:
    """Judge by rows of the comparison of paper and released code.

    Parameters
    ----------
    rows : str
        Without the bit-widths that some end with.
    says : str
        What the paper says, if no number.
    note : str
        A sentence to add.
    """

    def judgement(evidence: Evidence) -> Judged:
        by_row = {name: cell for name, cell in evidence.code.items() if name.rsplit(", ", 1)[0] in rows}
        found = list(by_row.values())
        verdicts = {cell.value_verdict for cell in found}
        whole = {name.rsplit(", ", 1)[0] for name in by_row} == set(rows)
        if not whole or not (verdicts & DIFFERS or verdicts <= AGREES):
            return "not testable", MISSING
        printed = says or ", ".join(dict.fromkeys(f"{cell.row.rsplit(', ')[0]} {cell.reported}" for cell in found))
        facts = "; ".join(map(_fact, found))
        said = f"The paper says: {printed}. Released is {facts}."
        if verdicts & DIFFERS:
            return "undecided", f"{said} The printed numbers may be of other runs. {note}".rstrip()
        return "holds", f"{said} {note}".rstrip()

    return judgement


def _fact(cell: Cell) -> str:
    number = "" if cell.measured is None else f"{cell.measured:g} "
    return f"{cell.row}: {number}({cell.reason})"


ONE_NETWORK = "What is released is ResNet-20; the sentence is on all networks."

judges("sgd-rate-resnets")(by_code("learning rate of the weights"))
judges("adam-rate-quantization-parameters")(by_code("learning rate of the quantizers"))
judges("no-decay-on-quantization-parameters")(by_code("weight decay of the quantizers"))
judges("resnet20-recipe")(by_code("epochs", "batch size", "weight decay of the weights"))
judges("cosine-annealing")(by_code("cosine schedule"))
judges("initialized-from-full-precision")(
    by_code("start of training", "batch size", says="training begins from full-precision models", note=ONE_NETWORK)
)
judges("fine-tunes-directly")(
    by_code(
        "start of training",
        "batch size",
        says="quantized networks are fine-tuned from full-precision ones directly",
        note="BatchNorm's counters leave room for no training at other bit-widths in between.",
    )
)
judges("first-and-last-layers-kept")(by_code("layers without a quantizer", note=ONE_NETWORK))
judges("gamma-is-2")(by_code("gamma"))
judges("weights-standardized")(by_code("standardised weights"))
judges("weight-bounds-at-3")(by_code("first bounds of the weights"))
judges("relu-lower-bound-zero")(
    by_code("lower bound of the inputs", "learned lower bounds of the inputs", "first upper bound of the inputs")
)
judges("cifar10-splits")(
    by_code(
        "splits of CIFAR-10",
        note="The trainer also tracks the best accuracy on the test images (cifar10_train.py:160); which epoch the "
        "printed numbers are of is not said.",
    )
)
judges("sigma-is-1-and-2")(
    by_code(
        "kernel at the farther level",
        says=f"a kernel of standard deviation {daq.SIGMA['weight']:g} for weights, {daq.SIGMA['activation']:g} for "
        "activations",
        note="What the code calls sigma is 1 and 2; the deviation of its Gaussian is less by the factor sqrt(2).",
    )
)
