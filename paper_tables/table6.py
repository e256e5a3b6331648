"""DAQ's Table 6: argmax operators and temperatures, 1/1-bit ResNet-20 on CIFAR-10. Not yet measured: it takes training.

What the table is about, the gap between a soft assignment at a fixed temperature and the rounding, is computed without
training in `paper_tables.equations`.
"""

from __future__ import annotations

from paper_tables import reported
from paper_tables.tables import Options, Table, not_run

TITLE = "Argmax operators and temperatures (printed numbers only)"
NEEDS = "training runs, which the suite does not have yet"
WHY = "takes training runs on CIFAR-10, which the suite does not have yet; its gaps are in the table of equations"


def run(options: Options) -> Table:
    """List the printed numbers, each not run."""
    table = reported.tables()["6"]
    return not_run(table, f"{table.source}.", lambda _: WHY)


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("6"))
