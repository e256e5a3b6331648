"""Every claim of the DAQ paper and of DSQ's abstract, with a verdict and the numbers that it rests on.

A claim *holds* or *fails*; it is true *by definition* where nothing else could come out; it is *undecided* where a
comparison lies within 95 % noise, two fair measures disagree, or what was released differs (the paper's numbers may be
of other runs); *vacuous* where there is nothing to compare with, and *not testable* where nothing that the suite has
could contradict it: the reason then says what could. Every number is computed when this runs, from the reference
functions or from the printed tables; one judgement serves all the sentences that say the same thing.

The judgements stand, by topic, in the files beside this one, each with its rule on top: `quantizer` (words of
degree are judged against the alternatives that the paper names), `temperature`, `gradients` (gradient
mismatch by the paper's own definition of it), `tables` (accuracy by what is printed, with its sampling noise),
`ablation`, `dsq`, `deployment`, `methods`, `released` and `untestable`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from paper_tables import arm_speed, reported
from paper_tables.audit import code
from paper_tables.audit.claims import (
    ablation,
    deployment,
    dsq,
    gradients,
    methods,
    quantizer,
    released,
    tables,
    temperature,
    untestable,
)
from paper_tables.audit.claims.judging import VERDICTS, Evidence, Judged, Judgement
from paper_tables.cells import Cell
from paper_tables.jobs import Job
from paper_tables.reported import Claim
from paper_tables.tables import Measured, Options, Table

TITLE = "Every claim of the papers, judged"
NEEDS = "nothing; some claims need --checkpoints and --data, as for Table 5, or what the table arm needs"
INTRO = (
    "Each sentence that claims something, as printed. Accuracies are judged by the printed numbers and the 95 % noise "
    "of the test images, with Holm's correction, once; what the equations imply by evaluating the reference on dense "
    "grids. One rule for all sentences on the state of the art: the best rival that prints a number and is like for "
    "like is beaten beyond noise in every setting of the tables that the sentence is on; a loss beyond noise refutes "
    'it, unless it says "various" or names no settings, and at least two bit-widths of two benchmarks or '
    "architectures are won as printed. By definition: nothing else could come out. Undecided: within noise, two fair "
    "measures or readings disagree, or what was released differs. Vacuous: nothing to compare with. Not testable: the "
    "basis says what it would take."
)
TOPICS: tuple[ModuleType, ...] = (
    quantizer,
    temperature,
    gradients,
    tables,
    ablation,
    deployment,
    dsq,
    methods,
    released,
    untestable,
)

# What the report says first, of claims that do not hold: in a few words, and the claim whose reason is given.
HEADLINES = {
    "DAQ alleviates the gradient mismatch": "conclusion-mismatch",
    "DAQ is the state of the art consistently": "state-of-the-art-consistently",
    "DAQ outperforms the state of the art significantly, on standard benchmarks": "abstract-significantly",
    "DAQ outperforms the state of the art on CIFAR-10 in 1/1": "cifar10-outperforms-1-1",
    "DAQ outperforms IRNet in 1/1": "beats-irnet-1-1",
    "DAQ outperforms the state of the art on ResNet-34 in 1/1": "resnet34-outperforms-1-1",
    "DAQ is better than quantizers that learn intervals": "better-than-interval-learners",
    "Raising the temperature reduces the drop from 76.2 to 3.8": "drop-from-76-2-to-3-8",
    "The drop decreases with the temperature, in the first four rows": "drop-decreases-with-temperature",
    "The kernel handles the gap better even at a much smaller temperature": "kernel-much-smaller-temperature",
    "DASR maintains differentiability": "assignment-differentiable",
    "DASR uses no sigmoid": "related-no-sigmoid-or-tanh",
    "floor and ceil are one apart": "score-levels-one-apart",
    "Soft quantizers [12, 36, 47] alleviate the gradient mismatch": "soft-quantizers-alleviate-mismatch",
    "DSQ consistently outperforms the state of the art": "dsq-consistently-outperforms",
    "DSQ at 2 to 4 bits is up to 1.7 times as fast as 8-bit NCNN on ARM": "dsq-1-7-times-ncnn",
}


def judgements() -> dict[str, Judgement]:
    """Return the judgement of every claim.

    Raises
    ------
    ValueError
        If a claim has no judgement or two, or a judgement no claim.
    """
    found: dict[str, Judgement] = {}
    for topic in TOPICS:
        if twice := found.keys() & topic.judges.by_claim.keys():
            raise ValueError(f"claims judged in two files: {', '.join(sorted(twice))}")
        found.update(topic.judges.by_claim)
    if wrong := found.keys() ^ {claim.id for claim in reported.claims()}:
        raise ValueError(f"claims without judgement, or judgements without claim: {', '.join(sorted(wrong))}")
    return found


def gather(options: Options, measured: Measured) -> Evidence:
    """Collect what claims are judged by: the printed tables, and what was found of released code and of kernels."""
    found = (*code.kernel_cells(), *code.read_cells(), *code.judged(options, measured))
    counted = arm_speed.shown(options, measured)
    arm = {(cell.row, cell.column): cell for cell in (*counted, *arm_speed.compared(counted))}
    return Evidence(reported.tables(), {cell.row: cell for cell in found}, arm)


def judge(evidence: Evidence) -> dict[str, Judged]:
    """Judge every claim, in the papers' order; each judgement is computed once."""
    by_claim = judgements()
    results = {judgement: judgement(evidence) for judgement in dict.fromkeys(by_claim.values())}
    return {claim.id: results[by_claim[claim.id]] for claim in reported.claims()}


def audit(evidence: Evidence) -> Table:
    """Build the table of all claims from the evidence."""
    judged = judge(evidence)
    found = tuple(_cell(claim, judged[claim.id]) for claim in reported.claims())
    return Table(
        "claims",
        TITLE,
        INTRO,
        found,
        wrong=tuple(
            _headline(words, claim, judged) for words, claim in HEADLINES.items() if judged[claim][0] == "fails"
        ),
        findings=(
            counts(judged),
            *(
                _headline(words, claim, judged)
                for words, claim in HEADLINES.items()
                if judged[claim][0] in ("undecided", "vacuous")
            ),
        ),
        layout="list",
        shown=("fails", "undecided", "vacuous"),
    )


def jobs(options: Options) -> list[Job]:
    """Return the jobs that claims are judged by: those of the tables `code` and `arm`."""
    return [*code.jobs(options), *arm_speed.jobs(options)]


def run(options: Options, measured: Measured) -> Table:
    """Judge every claim."""
    return audit(gather(options, measured))


def counts(judged: Mapping[str, Judged]) -> str:
    """Count the verdicts, in a sentence.

    >>> counts({"a": ("holds", "..."), "b": ("fails", "..."), "c": ("holds", "...")})
    'Of 3 claims, 2 hold, 1 fail, 0 are true by definition, 0 undecided, 0 vacuous and 0 not testable.'
    """
    verdicts = [verdict for verdict, _ in judged.values()]
    hold, fail, definition, undecided, vacuous, untestable = (verdicts.count(verdict) for verdict in VERDICTS)
    return (
        f"Of {len(verdicts)} claims, {hold} hold, {fail} fail, {definition} are true by definition, {undecided} "
        f"undecided, {vacuous} vacuous and {untestable} not testable."
    )


def _headline(words: str, claim: str, judged: Mapping[str, Judged]) -> str:
    """Say what became of a claim, in how many places it is made, and why."""
    verdict, reason = judged[claim]
    places = sum(other == judged[claim] for other in judged.values())
    return f"{words}: {verdict} ({'1 claim' if places == 1 else f'{places} claims'}). {reason}"


def _cell(claim: Claim, judged: Judged) -> Cell:
    verdict, reason = judged
    return Cell(
        paper=claim.paper,
        table="claims",
        row=claim.text + (f" [{claim.part}]" if claim.part else ""),
        column=f"{claim.paper}, {claim.source}",
        unit="",
        protocol=f"claim {claim.id}",
        claim_verdict=verdict,
        reason=reason,
    )


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("claims"))
