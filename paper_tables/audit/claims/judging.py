"""What a judgement of a claim is: a function of the evidence that returns a verdict and a reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from paper_tables.cells import Cell
from paper_tables.reported import ReportedTable

Verdict: TypeAlias = Literal["holds", "fails", "by definition", "undecided", "vacuous", "not testable"]
VERDICTS: tuple[Verdict, ...] = ("holds", "fails", "by definition", "undecided", "vacuous", "not testable")
Judged: TypeAlias = tuple[Verdict, str]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What claims are judged by, beside the functions of the reference.

    Attributes
    ----------
    tables : mapping of str to ReportedTable
        The printed tables, by number.
    code : mapping of str to Cell
        What the released code and checkpoints were found to do (`paper_tables.audit.code`), by row.
    arm : mapping of (str, str) to Cell
        What the kernels for ARM execute, beside other engines (`paper_tables.arm_speed`), by row and column.
    """

    tables: Mapping[str, ReportedTable]
    code: Mapping[str, Cell]
    arm: Mapping[tuple[str, str], Cell] = field(default_factory=dict)


Judgement: TypeAlias = Callable[[Evidence], Judged]


class Judgements:
    """The judgements of one topic, by claim; an instance is the decorator that adds to it.

    >>> judges = Judgements()
    >>> @judges("one-claim", "another-claim")
    ... def both(evidence: Evidence) -> Judged:
    ...     return "vacuous", "Nothing to compare with."
    >>> sorted(judges.by_claim)
    ['another-claim', 'one-claim']
    """

    def __init__(self) -> None:
        self.by_claim: dict[str, Judgement] = {}

    def __call__(self, *claims: str) -> Callable[[Judgement], Judgement]:
        """Register a judgement for `claims`; raises ValueError where one has a judgement already."""

        def register(judgement: Judgement) -> Judgement:
            for claim in claims:
                if claim in self.by_claim:
                    raise ValueError(f"the claim {claim!r} is judged twice")
                self.by_claim[claim] = judgement
            return judgement

        return register


def decide(condition: bool, reason: str) -> Judged:
    """Return "holds" or "fails" with a reason that states numbers and suits both."""
    return ("holds" if condition else "fails"), reason


def shown(value: float) -> str:
    """Format a computed number: three significant digits, and 0 for what finite differences cannot tell from it.

    >>> shown(0.65082), shown(3e-9), shown(1.0)
    ('0.651', '0', '1')
    """
    return "0" if abs(value) < 1e-8 else f"{value:.3g}"


def span(values: tuple[float, float]) -> str:
    """Format a range, the smaller number first.

    >>> span((1.1258, 0.4341))
    '0.434 to 1.13'
    """
    return f"{shown(min(values))} to {shown(max(values))}"
