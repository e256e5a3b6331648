"""The command line: which tables, with which data, and what the exit status means."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table as RichTable

from paper_tables import cells, figures, jobs, render, tables
from paper_tables.tables import SCRIPTS, InputError, Options, Output, folder, guarded, writing
from reference import registry
from torchimpl import files
from torchimpl.training import recipe, store

SUBCOMMANDS = {"checkpoint": "paper_tables.checkpoint", "claim": "paper_tables.claim"}

EPILOG = """\
Without names, every table and figure is regenerated. What needs data that are not given is listed as not run, with the
command that would run it.

  --data DIR         CIFAR-10 in one of its official layouts, or QUANTGAP_DATA
                     (python -m torchimpl.data.cifar10 DIR downloads it)
  --checkpoints DIR  the three checkpoints that DAQ's authors released, or QUANTGAP_CHECKPOINTS
                     (folder "results" of cvlab-yonsei/DAQ on GitHub)

Results: tables on the terminal, one JSON file a number in OUT/cells, pictures in OUT/figures, and OUT/report.md.
What is measured is written to OUT/measured number by number, and not measured again while all that shapes it is the
same: a run that was stopped goes on where it was.

Subcommands, for anybody's numbers:
  python -m paper_tables checkpoint --help     the accuracy of a checkpoint, against a claim
  python -m paper_tables claim --help          is one printed accuracy better than another? A table's arithmetic?

Exit status: 0 done; 1 with --strict, something printed is contradicted; 2 bad input; 3 a failure of the suite.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and arguments[0] in SUBCOMMANDS:
        return guarded(lambda: importlib.import_module(SUBCOMMANDS[arguments[0]]).main(arguments[1:]))
    return guarded(lambda: run(parser().parse_args(arguments)))


def main_for(name: str) -> int:
    """Run one table's script alone."""
    return main(["--table", name, *sys.argv[1:]])


def parser() -> argparse.ArgumentParser:
    """Build the parser."""
    result = argparse.ArgumentParser(
        prog="python -m paper_tables",
        description="Regenerate the tables of the DAQ and DSQ papers: the measured number beside the printed one.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument(
        "--table", nargs="+", action="extend", metavar="NAME", default=[], help=f"one or more of {', '.join(SCRIPTS)}"
    )
    result.add_argument(
        "--figure",
        nargs="+",
        action="extend",
        metavar="N",
        default=[],
        help=f"one or more of {', '.join(figures.SCRIPTS)}",
    )
    result.add_argument("--list", action="store_true", help="list the tables and what they need, and stop")
    result.add_argument("--list-methods", action="store_true", help="list the quantizers of the suite, and stop")
    result.add_argument("--data", metavar="DIR", help="folder with CIFAR-10")
    result.add_argument("--checkpoints", metavar="DIR", help="folder with the released checkpoints")
    result.add_argument(
        "--profile",
        choices=recipe.profiles(),
        default="embedded",
        help="how long networks are trained, and on what (default: embedded, on digits that come with scikit-learn)",
    )
    result.add_argument("--seeds", metavar="N", type=_count, default=3, help="training runs a cell (default: 3)")
    result.add_argument(
        "--workers", metavar="N", type=_count, default=os.cpu_count() or 1, help="runs at once (default: one a core)"
    )
    result.add_argument("--ray", metavar="ADDRESS", help="train on a Ray cluster: its address, auto, or local")
    result.add_argument("--device", default="cpu", help="where networks are trained: cpu (default), cuda, cuda:1, ...")
    result.add_argument("--tune", action="store_true", help="with --table tuning: try the profile's grid of rates")
    result.add_argument("--out", metavar="DIR", default="out", help="where results go (default: out)")
    result.add_argument(
        "--record", action="store_true", help="also write to results/ what takes data to measure, and the figures"
    )
    result.add_argument("--again", action="store_true", help="measure even what is recorded")
    result.add_argument("--strict", action="store_true", help="exit with 1 if anything printed is contradicted")
    result.add_argument("--quiet", action="store_true", help="no tables and no progress bars")
    return result


def _count(text: str) -> int:
    """Parse a whole number from 1 to 1000."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 1000, got {text!r}")
    return int(text)


def _device(name: str) -> str:
    try:
        return store.check_device(name)
    except ValueError as error:
        raise InputError(str(error)) from None


def run(arguments: argparse.Namespace) -> int:
    """Regenerate the chosen tables and figures; write them, then show them."""
    out = Output()
    if arguments.list or arguments.list_methods:
        out.print(_list_methods() if arguments.list_methods else _list_tables())
        return 0
    destination = Path(arguments.out)
    options = Options(
        data=folder("data", arguments.data),
        checkpoints=folder("checkpoints", arguments.checkpoints),
        out=destination,
        record=arguments.record,
        again=arguments.again,
        quiet=arguments.quiet,
        profile=arguments.profile,
        seeds=arguments.seeds,
        workers=arguments.workers,
        ray=arguments.ray,
        device=_device(arguments.device),
        tune=arguments.tune or None,
    )
    everything = not (arguments.table or arguments.figure)
    scripts = [tables.script(name) for name in dict.fromkeys(SCRIPTS if everything else arguments.table)]
    numbers = list(dict.fromkeys(figures.SCRIPTS if everything else arguments.figure))
    drawn = [figures.script(number) for number in numbers]
    with writing(destination):
        destination.mkdir(parents=True, exist_ok=True)
    found, measured = jobs.regenerate(scripts, options, drawn)  # all of them, before any is shown
    shown = [render.Figure(number, script.TITLE, script.CAPTION) for number, script in zip(numbers, drawn, strict=True)]
    with writing(destination):
        for used in (destination, destination / "figures", *(destination / "cells" / table.name for table in found)):
            files.sweep(used)
        pictures = [figures.save(number, destination / "figures", options, measured)[0] for number in numbers]
        for table in found:
            cells.write(destination / "cells", table.cells)
        files.write_atomic(destination / "report.md", render.report(found, shown))
    if arguments.record:
        with writing(cells.RESULTS, "--record"):
            files.sweep(cells.RESULTS / "figures")
            for picture in pictures:
                files.write_atomic(cells.RESULTS / "figures" / picture.name, picture.read_bytes())
    if not arguments.quiet:
        for table in found:
            render.show(table, out)
        render.show_not_run(found, out)
        out.print(f"\n[dim]{render.legend(found)}[/dim]", highlight=False)
        out.print(f"[bold]{render.totals(found)}[/bold]", highlight=False)
        out.print(f"Report: {escape(str(destination / 'report.md'))}", highlight=False, soft_wrap=True)
    contradicted = any(set(render.WRONG) & table.counts().keys() for table in found)
    return 1 if arguments.strict and contradicted else 0


def _list_tables() -> RichTable:
    listed = RichTable("name", "what", "needs", title="Tables and figures", title_justify="left")
    for name in SCRIPTS:
        script = tables.script(name)
        listed.add_row(name, script.TITLE, script.NEEDS)
    for number in figures.SCRIPTS:
        listed.add_row(f"figure {number}", figures.script(number).TITLE, "nothing")
    return listed


def _list_methods() -> RichTable:
    listed = RichTable("name", "quantizes, to bits", "variants", "source", title="Methods", title_justify="left")
    for method in registry.methods().values():
        roles = [f"{role} {_span(admitted)}" for role, admitted in method.bits.items()]
        roles += [f"but not {role} {bits} as {variant}" for role, bits, variant in method.undefined]
        listed.add_row(method.name, "\n".join(roles), "\n".join(method.variants), method.source)
    return listed


def _span(admitted: range) -> str:
    return str(admitted[0]) if len(admitted) == 1 else f"{admitted[0]}-{admitted[-1]}"
