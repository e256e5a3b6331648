"""Does each printed difference equal the difference of the printed numbers?"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from paper_tables import reported
from paper_tables.cells import Cell
from paper_tables.reported import Printed, ReportedTable, printed_decimals
from paper_tables.tables import Options, Table

TITLE = "Arithmetic of the printed differences"
NEEDS = "nothing"
INTRO = (
    "Every number in parentheses against the difference of the two printed numbers it is taken from, in exact "
    "decimals, rounded to the decimals that it is printed with. A difference may also have been rounded from "
    "accuracies with more digits; what this can explain is undecided. Which of the three numbers is misprinted "
    "cannot be told from them."
)


def check(table: ReportedTable) -> list[Cell]:
    """Check every printed difference of a table.

    >>> wrong = [cell for cell in check(reported.tables()["6"]) if cell.value_verdict == "contradicted"]
    >>> [(cell.row, cell.reported, cell.measured) for cell in wrong]
    [('kernel soft argmax, beta = 24', '-3.8', -4.2)]
    """
    found = []
    for row in table.rows:
        base = row.values.get(table.baseline or "")
        for column, printed in row.values.items():
            if printed.difference is None:
                continue
            expected, verdict, reason = _judge(printed, base, table.baseline or "")
            found.append(
                Cell(
                    paper=table.paper,
                    table="arithmetic",
                    row=row.method,
                    column=f"Table {table.table}, {column}",
                    unit="points",
                    reported=f"{printed.difference:f}",
                    measured=expected,
                    protocol="exact decimals",
                    value_verdict=verdict,
                    reason=reason,
                )
            )
    return found


def _judge(printed: Printed, base: Printed | None, baseline: str) -> tuple[float | None, str | None, str]:
    """Return the difference of the printed numbers, the verdict, and why."""
    value, difference = printed.value, printed.difference
    if base is None or isinstance(base.value, str) or isinstance(value, str) or difference is None:
        return None, None, f"nothing is printed in column {baseline!r}, which the difference is taken from"
    expected = value - base.value
    sum_ = f"{value} - {base.value} = {expected}"
    half = Decimal(1).scaleb(-printed_decimals(difference)) / 2
    if expected == difference:
        return float(expected), "reproduced", sum_
    if abs(expected - difference) <= half:
        return float(expected), "reproduced", f"{sum_}, rounded to {difference}"
    # Each number is off by half a unit of its last digit at most.
    slack = sum(
        (Decimal(1).scaleb(-printed_decimals(number)) / 2 for number in (value, base.value, difference)), Decimal(0)
    )
    off = abs(expected - difference)
    explained = off <= slack
    why = "which rounding can explain" if explained else "more than rounding can explain"
    fits = f"{base.value + difference} - {base.value} or {value} - {value - difference} would fit"
    verdict = "undecided" if explained else "contradicted"
    return float(expected), verdict, f"{sum_}, printed {difference}: off by {off}, {why}; {fits}"


def audit(tables: Iterable[ReportedTable]) -> Table:
    """Check the printed differences of `tables`."""
    found = tuple(cell for table in tables for cell in check(table))
    wrong, unclear = (
        tuple(f"{cell.column}, {cell.row}: {cell.reason}." for cell in found if cell.value_verdict == verdict)
        for verdict in ("contradicted", "undecided")
    )
    judged = sum(cell.value_verdict is not None for cell in found)
    right = judged - len(wrong) - len(unclear)
    count = f"{right} of {judged} printed differences are those of the printed numbers."
    shown = ("contradicted", "undecided")
    return Table("arithmetic", TITLE, INTRO, found, wrong=wrong, findings=(*unclear, count), layout="list", shown=shown)


def run(options: Options) -> Table:
    """Check every table of the DAQ paper."""
    return audit(reported.tables().values())


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("arithmetic"))
