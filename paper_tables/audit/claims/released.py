"""Claims on the recipe that the code and the checkpoints released with the DAQ paper can contradict."""

from __future__ import annotations

from paper_tables.audit.claims.judging import Evidence, Judged, Judgement, Judgements
from reference import daq

judges = Judgements()

MISSING = (
    "The released ResNet-20 checkpoints tell, in their optimizers' state and BatchNorm's counters; this needs --data "
    "and --checkpoints (see README)."
)


def by_code(*rows: str, says: str = "") -> Judgement:
    """Judge by rows of the comparison of paper and released code; `says` is what the paper says, if no number."""

    def judgement(evidence: Evidence) -> Judged:
        found = [cell for name, cell in evidence.code.items() if name.rsplit(", ", 1)[0] in rows]
        verdicts = {cell.value_verdict for cell in found}
        if "contradicted" not in verdicts and verdicts != {"reproduced"}:
            return "not testable", MISSING
        printed = says or ", ".join(dict.fromkeys(f"{cell.row.rsplit(', ')[0]} {cell.reported}" for cell in found))
        facts = "; ".join(f"{cell.row}: {cell.measured:g} ({cell.reason})" for cell in found)
        return "fails" if "contradicted" in verdicts else "holds", f"The paper says: {printed}. Released is {facts}."

    return judgement


judges("sgd-rate-resnets")(by_code("learning rate of the weights"))
judges("adam-rate-quantization-parameters")(by_code("learning rate of the quantizers"))
judges("no-decay-on-quantization-parameters")(by_code("weight decay of the quantizers"))
judges("resnet20-recipe")(by_code("epochs", "batch size", "weight decay of the weights"))
judges("initialized-from-full-precision")(by_code("batch size", says="training begins from full-precision models"))
judges("sigma-is-1-and-2")(
    by_code(
        "kernel at the farther level",
        says=f"a kernel of standard deviation {daq.SIGMA['weight']:g} for weights, {daq.SIGMA['activation']:g} for "
        "activations",
    )
)
