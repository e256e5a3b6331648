"""DAQ's Table 3: ResNet-34 on ImageNet. Nothing of it is measured: it takes ImageNet and trained networks."""

from __future__ import annotations

from paper_tables import reported
from paper_tables.tables import Options, Table, not_run

TITLE = "ResNet-34 on ImageNet (printed numbers only)"
NEEDS = "ImageNet, which the suite does not train on"


def run(options: Options) -> Table:
    """List the printed numbers, each not run."""
    table = reported.tables()["3"]
    return not_run(table, f"{table.source}.", lambda method: WHY if method == table.ours else WHY_OTHERS)


WHY = "DAQ's authors released no network for ImageNet, and the suite does not train on it"
WHY_OTHERS = "a rival's number, as the DAQ paper prints it"

if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("3"))
