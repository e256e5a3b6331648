"""Tasks that workers run, and parents of workers: what tests start in processes of their own."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from paper_tables import executors, tables
from paper_tables.cells import Measurement, Place
from paper_tables.tables import InputError

HERE = "tests.paper_tables.work"


def place(name: str) -> Place:
    return Place("P", "work", name, "column")


def measure(name: str, progress: Any) -> Measurement:
    """Report half, and measure how many threads there are."""
    progress(0.5)
    return Measurement(**place(name)._asdict(), unit=str(os.getpid()), measured=float(torch.get_num_threads()))


def refuse(name: str, progress: Any) -> Measurement:
    raise InputError(f"{name}: cannot be used")


def be_killed(name: str, progress: Any) -> None:
    """End as a process does that took too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def stay(folder: Path, name: str, seconds: float, progress: Any) -> None:
    """Say who runs this, and stay: without a word, as a long test of a network does."""
    (folder / f"{name}.{os.getpid()}").touch()
    time.sleep(seconds)
    (folder / f"{name}.ended").touch()


def parent(folder: Path, context: Any) -> None:
    """Have two workers at work, one for a moment; guarded as the command line is."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell runs the tests in the background
    executors.multiprocessing.get_context = lambda kind: context  # processes that have torch already
    tasks = {place(name): partial(stay, folder, name, seconds) for name, seconds in (("short", 0.0), ("long", 60.0))}

    def action() -> int:
        list(executors.beside(2)(tasks, lambda place, share: None))
        return 0

    with (folder / "stderr").open("w") as stream:
        tables.console.file = stream
        status = tables.guarded(action)
    (folder / "status").write_text(str(status))
