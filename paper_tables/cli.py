"""The command line: which tables, with which data, and what the exit status means."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import shlex
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table as RichTable
from rich.text import Text

from paper_tables import cells, render, tables
from paper_tables.tables import FIGURES, SCRIPTS, InputError, Options, Output, folder, guarded, writing
from reference import registry
from torchimpl import files

SUBCOMMANDS = {name: f"paper_tables.{name}" for name in ("checkpoint", "claim", "gate")}

EPILOG = """\
Without names, every table and figure is regenerated. What needs data that are not given is listed as not run, with the
command that would run it.

  --data DIR         CIFAR-10 in one of its official layouts, or QUANTGAP_DATA
                     (python -m torchimpl.data.cifar10 DIR downloads it)
  --checkpoints DIR  the three checkpoints that DAQ's authors released, or QUANTGAP_CHECKPOINTS
                     (folder "results" of cvlab-yonsei/DAQ on GitHub)

Results: tables on the terminal, one JSON file a number in OUT/cells, pictures in OUT/figures, and the report:
OUT/report.html, one file with everything in it, and OUT/report.md, one page.
What is measured is written to OUT/measured number by number, and not measured again while all that shapes it is the
same: a run that was stopped goes on where it was.

Subcommands, for anybody's numbers and quantizers:
  quantgap checkpoint --help     the accuracy of a checkpoint, against a claim
  quantgap claim --help          is one printed accuracy better than another? A table's arithmetic?
  quantgap gate --help           a quantizer of yours: what every quantizer meets, and a method it claims to be

"quantgap" is the installed command; without installation, "python -m paper_tables" is the same.

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
        prog=tables.program(),
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
        help=f"one or more of {', '.join(FIGURES)}",
    )
    result.add_argument("--list", action="store_true", help="list the tables and what they need, and stop")
    result.add_argument("--list-methods", action="store_true", help="list the quantizers of the suite, and stop")
    result.add_argument("--data", metavar="DIR", help="folder with CIFAR-10")
    result.add_argument("--checkpoints", metavar="DIR", help="folder with the released checkpoints")
    result.add_argument(
        "--profile",
        metavar="NAME",
        default="embedded",
        help="how long networks are trained, and on what: smoke, embedded (default; on digits that come with "
        "scikit-learn), cifar10-short or cifar10",
    )
    result.add_argument("--seeds", metavar="N", type=_count, default=3, help="training runs a cell (default: 3)")
    result.add_argument(
        "--workers", metavar="N", type=_count, default=os.cpu_count() or 1, help="runs at once (default: one a core)"
    )
    result.add_argument("--ray", metavar="ADDRESS", help="train on a Ray cluster: its address, auto, or local")
    result.add_argument("--device", default="cpu", help="where networks are trained: cpu (default), cuda, cuda:1, ...")
    result.add_argument("--compile", action="store_true", help="train through torch.compile: faster, after a minute")
    result.add_argument("--tune", action="store_true", help="run what takes long, too: --list says what needs it")
    result.add_argument("--out", metavar="DIR", default="out", help="where results go (default: out)")
    result.add_argument(
        "--record", action="store_true", help="also write to results/ what takes data to measure, and the figures"
    )
    result.add_argument(
        "--again",
        action="store_true",
        help="measure even what is recorded; a network whose training has ended in OUT is tested again only",
    )
    result.add_argument("--strict", action="store_true", help="exit with 1 if anything printed is contradicted")
    result.add_argument("--open", action="store_true", help="show the report in a browser when it is done")
    result.add_argument("--quiet", action="store_true", help="no tables and no progress bars")
    return result


def _count(text: str) -> int:
    """Parse a whole number from 1 to 1000."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 1000, got {text!r}")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Regenerate the chosen tables and figures; write them, then show them."""
    out = Output()
    if arguments.list or arguments.list_methods:
        out.print(_list_methods() if arguments.list_methods else _list_tables())
        return 0
    for name in arguments.table:
        tables.check("table", name, SCRIPTS)
    for number in arguments.figure:
        tables.check("figure", number, FIGURES)
    # torch and matplotlib take seconds to import, for which --list-methods or a mistyped name need not wait
    from paper_tables import figures, jobs, report
    from torchimpl.training import recipe, store

    if arguments.profile not in recipe.profiles():
        raise InputError(f"--profile must be one of {', '.join(recipe.profiles())}, got {arguments.profile!r}")
    if not arguments.ray:  # whose machines look at their own devices
        try:
            store.check_device(arguments.device, compiled=arguments.compile)
        except ValueError as error:
            raise InputError(str(error)) from None
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
        device=arguments.device,
        compiled=arguments.compile,
        tune=arguments.tune or None,
    )
    if options.ray:
        options = _for_a_cluster(options)
    everything = not (arguments.table or arguments.figure)
    scripts = [tables.script(name) for name in dict.fromkeys(SCRIPTS if everything else arguments.table)]
    numbers = list(dict.fromkeys(FIGURES if everything else arguments.figure))
    drawn = [figures.script(number) for number in numbers]
    with writing(destination):
        destination.mkdir(parents=True, exist_ok=True)
    found, measured = jobs.regenerate(scripts, options, drawn)  # all of them, before any is shown
    with writing(destination):
        for used in (destination, destination / "figures", *(destination / "cells" / table.name for table in found)):
            files.sweep(used)
        pictures = {number: figures.save(number, destination / "figures", options, measured) for number in numbers}
        for table in found:
            cells.write(destination / "cells", table.cells)
        drawings = [
            report.Figure(number, script.TITLE, script.CAPTION, pictures[number][1].read_bytes())
            for number, script in zip(numbers, drawn, strict=True)
        ]
        page = report.write(destination, found, drawings, report.about(command=_command(arguments)))
    if arguments.record:
        with writing(cells.RESULTS, "--record"):
            files.sweep(cells.RESULTS / "figures")
            for picture, _ in pictures.values():
                files.write_atomic(cells.RESULTS / "figures" / picture.name, picture.read_bytes())
    if not arguments.quiet:
        for table in found:
            render.show(table, out)
        render.show_not_run(found, out)
        render.show_totals(found, out)
        given = [name for name in ("data", "checkpoints") if getattr(arguments, name)]
        for sentence in jobs.unused(given, jobs.needed(scripts, options, drawn) if given else [], options):
            out.print(sentence, highlight=False, markup=False)
        for picture, _ in pictures.values() if not found else ():
            out.print(Text(str(picture)), soft_wrap=True)
        out.print(Text(f"Report: {page}"), soft_wrap=True)
    if arguments.open:
        webbrowser.open(page.resolve().as_uri())
    contradicted = any(set(render.WRONG) & table.counts().keys() for table in found)
    return 1 if arguments.strict and contradicted else 0


def _for_a_cluster(options: Options) -> Options:
    """Name folders by their whole paths: a cluster's tasks have another working directory."""
    if ":" in options.device:
        raise InputError(f"--device {options.device}: on a cluster each run has a card of its own: say cuda")
    there = {name: path for name in ("data", "checkpoints", "out") if (path := getattr(options, name))}
    return dataclasses.replace(options, **{name: path.resolve() for name, path in there.items()})


def _command(arguments: argparse.Namespace) -> str:
    """Return the options that shaped what is shown; folders are nobody's business but the user's."""
    words = ["quantgap"]
    for option in ("table", "figure"):
        if value := getattr(arguments, option):
            words += [f"--{option}", *value]
    for option in ("data", "checkpoints"):
        if getattr(arguments, option):
            words += [f"--{option}", "DIR"]
    return shlex.join([*words, "--profile", arguments.profile, "--seeds", str(arguments.seeds)])


def _list_tables() -> RichTable:
    from paper_tables import figures

    listed = render.listing("Tables and figures", "name", "what", "needs")
    for name in SCRIPTS:
        script = tables.script(name)
        listed.add_row(name, script.TITLE, script.NEEDS)
    for number in FIGURES:
        listed.add_row(f"figure {number}", figures.script(number).TITLE, "nothing")
    return listed


def _list_methods() -> RichTable:
    listed = render.listing("Methods", "name", "quantizes, to bits", "variants", "source")
    for method in registry.methods().values():
        roles = [f"{role} {_span(admitted)}" for role, admitted in method.bits.items()]
        roles += [f"but not {role} {bits} as {variant}" for role, bits, variant in method.undefined]
        listed.add_row(method.name, "\n".join(roles), "\n".join(method.variants), method.source)
    return listed


def _span(admitted: range) -> str:
    return str(admitted[0]) if len(admitted) == 1 else f"{admitted[0]}-{admitted[-1]}"
