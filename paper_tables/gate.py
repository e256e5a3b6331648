"""The gate: anybody's quantizer, held to what every quantizer meets, and to a method of the suite."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.text import Text

import quantgap_gate
from paper_tables import in_the_way, render, tables
from paper_tables.tables import InputError, Output
from reference import registry
from reference.verdicts import WRONG, NoSubject, Report

DESCRIPTION = """\
Is a quantizer right? In a file of yours, say mine.py, a function that takes nothing hands it over:

  import torch
  from torchimpl import contract

  def quantizer():
      step = torch.tensor(0.5, requires_grad=True)
      return contract.of_torch(lambda x: my_quantize(x, step), bits=2, parameters={"step": step})

and the gate finds the inputs, tries every property at them, and compares values, codes and gradients with a method of
the suite:

  quantgap gate mine:quantizer --as lsq

The same as tests: python -m pytest --pyargs reference.conformance --implementation mine:quantizer --as lsq
"""
EPILOG = """\
Without --as, gradients are compared with the surrogate that of_torch is given, if it is. Parameters are named as the
method's are: {parameters}.

holds; fails, with the smallest input that was found, and the call that runs it again; raises (its own error); hangs;
not applicable, exempt or expected, with the reason; stale: expected to fail, and holds. Expected failures are a file:

  [expected]
  "nan" = "NaN becomes the lowest level; known to its authors"
  "type-float16" = "float32 comes back"
  [exempt]
  "idempotence" = "levels lie in [-1, 1], whatever the clip range"

Exit status: 0 all is well; 1 something is not; 2 bad input; 3 a failure of the suite.
"""
STYLES = {"holds": "green", "expected": "dim", "exempt": "dim", "not applicable": "dim"}


def parser() -> argparse.ArgumentParser:
    """Build the parser."""
    named = ", ".join(
        f"{name} {' '.join(method.learnable)}" for name, method in registry.methods().items() if method.learnable
    )
    result = argparse.ArgumentParser(
        prog=f"{tables.program()} gate",
        description=DESCRIPTION,
        epilog=EPILOG.format(parameters=named),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("implementations", nargs="+", metavar="PKG.MODULE:FACTORY", help="what returns the quantizer")
    for name, options in quantgap_gate.OPTIONS.items():
        result.add_argument(name, **options)
    result.add_argument("--quiet", action="store_true", help="show only what is wrong")
    return result


def main(arguments: Sequence[str]) -> int:
    """Try each implementation; returns the exit status."""
    given = parser().parse_args(arguments)
    if other := in_the_way.found(here=True):
        raise InputError(other)
    out = Output(soft_wrap=True, highlight=False)
    status = 0
    for name in given.implementations:
        try:
            report = quantgap_gate.gate(name, given).run_all()
        except NoSubject as error:
            tables.console.print(Text.assemble(("error:", "bold red"), f" {error}"), soft_wrap=True, highlight=False)
            status = 2
            continue
        show(name, report, out, quiet=given.quiet)
        status = max(status, 0 if report.ok else 1)
    return status


def show(name: str, report: Report, out: Output, *, quiet: bool) -> None:
    """Print a report."""
    rows = [row for row in report.rows if not quiet or row.verdict in WRONG]
    if rows:
        listed = render.listing("", "property", "verdict", "what was found")
        for row in rows:
            style = STYLES.get(row.verdict, "bold red")
            listed.add_row(Text(row.id), Text(row.verdict, style), Text(row.said))
        Output(highlight=False).print(listed)
    for row in report.wrong:
        if row.again:
            out.print(Text(f"again: {row.again}"))
    if report.kin:
        out.print(Text(f"held to {report.kin}"))
        for other, words in report.others.items():
            out.print(Text(f"  {other}: {words}", "dim"))
    out.print(Text(f"{name}: {report.summary}", "bold"))
