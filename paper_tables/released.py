"""Public networks for CIFAR-10: what their authors claim of them, and what their files give.

`python -m paper_tables.released DIR` fetches the files into DIR/others; with ``--checkpoints DIR`` they are measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import http.client
import sys
import tomllib
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, partial
from pathlib import Path
from typing import Any

from rich.progress import track

from paper_tables import keys, table5, verdicts
from paper_tables.cells import Cell, Place
from paper_tables.jobs import Job
from paper_tables.tables import InputError, Measured, Options, Table, console, guarded, writing
from torchimpl import checkpoints, files, sources
from torchimpl.data import cifar10

TITLE = "Public networks for CIFAR-10: claimed and measured"
NEEDS = "--data (CIFAR-10) and --checkpoints, with the folder `others` that `python -m paper_tables.released` fetches"
COMMAND = "python -m paper_tables --table released --data DIR --checkpoints DIR"
FETCH = "python -m paper_tables.released DIR"
ACCURACY = "accuracy"
OURS = "cvlab-yonsei/DAQ"
MOST_BYTES = 16 * 2**20
SECONDS = 60  # without a byte, after which a download is given up
INTRO = (
    "Networks whose files their authors made public, evaluated on all 10,000 test images, normalised as their authors "
    "did, beside the accuracy that is claimed of the very file. *Matches*: within half a unit of the last digit. DAQ's "
    "three are those of Table 5: their paper may have printed other runs."
)


@dataclass(frozen=True)
class Network:
    """An entry of ``released.toml``."""

    name: str
    repository: str
    commit: str
    path: str
    sha256: str
    arch: str
    normalization: str
    claimed: str
    where: str
    method: str | None = None
    bits: str | None = None
    note: str = ""

    def said(self, reason: str) -> str:
        """Add where the accuracy is claimed, and what is known of a difference."""
        return "; ".join(filter(None, [reason, f"claimed in {self.where}", self.note]))

    @property
    def address(self) -> str:
        """Where the file is public."""
        return f"https://raw.githubusercontent.com/{self.repository}/{self.commit}/{self.path}"

    @property
    def row(self) -> str:
        """Its name in the table."""
        return f"{self.name}, {self.bits or 'full precision'} ({self.repository})"

    def file(self, folder: Path) -> Path:
        """Where the file lies in a folder of networks of others."""
        return folder / self.repository / self.path


@cache
def networks() -> tuple[Network, ...]:
    """Read which networks there are."""
    text = Path(__file__).with_name("released.toml").read_text(encoding="utf-8")
    return tuple(Network(**entry) for entry in tomllib.loads(text)["network"])


def jobs(options: Options) -> list[Job]:
    """Return a job for each network, those of Table 5 among them."""
    found = table5.released_jobs(options)
    for network in networks():
        key = keys.key(
            [*keys.ACCURACY, *sources.method_modules(network.method)],
            checkpoint=network.sha256,
            arch=network.arch,
            bits=network.bits,
            normalization=network.normalization,
            images=cifar10.SHA256["test"],
        )
        measure = partial(_measure, network, options.data, options.others)
        place = Place(network.repository, "released", network.row, ACCURACY)
        found.append(Job(place, "percent", key, COMMAND, measure, ("data", "others")))
    return found


def _measure(
    network: Network, data: Path | None, folder: Path | None, progress: Callable[[float], None]
) -> dict[str, Any]:
    """Evaluate a network over the test images."""
    assert folder is not None  # the job needs it
    bits = checkpoints.parse_bits(network.bits) if network.bits else (None, None)
    arguments = (network.arch, network.method, bits)
    try:
        found = table5.evaluated(data, network.file(folder), network.sha256, arguments, network.normalization, progress)
    except InputError as error:
        raise InputError(f"{error}; `{FETCH}` fetches it") from None
    return found | {
        "protocol": f"released file, {network.arch}, normalization {network.normalization}, all 10,000 test images",
        "detail": {"address": network.address, "sha256": network.sha256},
    }


def run(options: Options, measured: Measured) -> Table:
    """Set what was measured beside what is claimed."""
    found = []
    for column, cell in table5.released_cells(measured).items():
        row = f"ResNet-20, {'full precision' if column == 'FP' else column} ({OURS})"
        found.append(dataclasses.replace(cell, paper=OURS, table="released", row=row, column=ACCURACY))
    for network in networks():
        found.append(_judged(measured[Place(network.repository, "released", network.row, ACCURACY)], network))
    return Table("released", TITLE, INTRO, tuple(found), layout="list")


def _judged(cell: Cell, network: Network) -> Cell:
    """Set a measured accuracy beside the claimed one."""
    cell = dataclasses.replace(cell, reported=network.claimed)
    if cell.value_verdict is not None or cell.measured is None or cell.images is None:
        return cell
    correct = round(cell.measured * cell.images / 100)
    verdict, reason = verdicts.judge_released(correct, cell.images, Decimal(network.claimed))
    return dataclasses.replace(cell, value_verdict=verdict, reason=network.said(reason))


def fetch(network: Network, folder: Path) -> bool:
    """Download a network's file into a folder, unless it is there; returns whether it was downloaded.

    Raises
    ------
    InputError
        If it cannot be had, or is not the file that is known: then nothing is written.
    """
    place = network.file(folder)
    if place.is_file() and hashlib.sha256(place.read_bytes()).hexdigest() == network.sha256:
        return False
    try:
        with urllib.request.urlopen(network.address, timeout=SECONDS) as response:  # noqa: S310 - https, see address
            content = response.read(MOST_BYTES)
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        raise InputError(f"{network.address} cannot be downloaded: {' '.join(str(cause).split())}") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != network.sha256:
        raise InputError(f"{network.address}: has sha256 {digest}, not {network.sha256}; not kept")
    with writing(folder, "DIR"):
        files.write_atomic(place, content)
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch what is missing, print where it is, and return the exit status: 0, or 2 with one line."""
    parser = argparse.ArgumentParser(
        prog="python -m paper_tables.released",
        description="Download the public networks of the table `released` (20 MB) into DIR/others, and check "
        "each file. What is there and right is not downloaded again.",
        epilog="Exit status: 0; 2 where a file cannot be had, or is another.",
    )
    parser.add_argument("dir", metavar="DIR", type=Path, help="the folder that --checkpoints is to name")
    folder = parser.parse_args(arguments).dir / "others"

    def run_all() -> int:
        for network in track(networks(), "fetching", console=console, transient=True, disable=not console.is_terminal):
            fetch(network, folder)
        print(folder)
        return 0

    return guarded(run_all)


if __name__ == "__main__":
    sys.exit(main())
