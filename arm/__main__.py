"""The command line: ``python -m arm SUBCOMMAND``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

SUBCOMMANDS = {"count": "arm.count", "export": "arm.export"}  # and what each does: its own --help

USAGE = """\
usage: python -m arm SUBCOMMAND [--help] ...

  count   the instructions that convolutional layers execute, under emulation on any host
  export  C headers of packed weights and thresholds, for a build of your own
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 2 for bad input, or that of the signal that ended it."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        try:
            return run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader has what it wanted, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor shall the interpreter fail over the rest
        return 141
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def run(arguments: Sequence[str]) -> int:
    """Run a subcommand, or show which there are."""
    if arguments and arguments[0] in SUBCOMMANDS:
        return int(importlib.import_module(SUBCOMMANDS[arguments[0]]).main(arguments[1:]))
    asked = arguments in (["--help"], ["-h"])
    print(USAGE, end="", file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main())
