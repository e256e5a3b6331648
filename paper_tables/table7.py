"""DAQ's Table 7: the temperature controller against its alternatives. Not yet measured: it takes training."""

from __future__ import annotations

from paper_tables import reported
from paper_tables.tables import Options, Table, not_run

TITLE = "Temperature controller against annealing and STE (printed numbers only)"
NEEDS = "training runs, which the suite does not have yet"
WHY = "takes training runs on CIFAR-10, which the suite does not have yet"


def run(options: Options) -> Table:
    """List the printed numbers, each not run."""
    table = reported.tables()["7"]
    return not_run(table, f"{table.source}.", lambda _: WHY)


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("7"))
