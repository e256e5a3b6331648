"""Audit anybody's printed accuracies: one comparison, or a whole table in TOML."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from rich.markup import escape

from paper_tables import cells, render, tables
from paper_tables.audit import arithmetic, significance
from paper_tables.reported import TableError, load_table
from paper_tables.tables import InputError, Output, parse_percent, writing

DESCRIPTION = """\
Is one accuracy better than another by more than the choice of test images explains? Either two numbers,

  quantgap claim --accuracy 85.8 --against 85.4 --images 10000

or a table, of which every printed difference is checked as well:

  quantgap claim --table FILE.toml
"""
EPILOG = """\
A table looks like this; the files in paper_tables/reported are examples. A value is a number, or a table with the
printed difference from the baseline column, and the mark of models that are quantized in all layers:

  paper = "Mine"
  table = "1"
  title = "ResNet-20 on CIFAR-10"
  source = "preprint, Table 1"
  unit = "percent"
  images = 10000                     # test images behind each accuracy
  baseline = "FP"                    # optional: the column that differences are taken from
  ours = "Ours"                      # the row that is compared with all others
  columns = ["FP", "1/1"]

  [[rows]]
  method = "Ours"
  [rows.values]
  "FP" = 91.4
  "1/1" = { value = 85.8, difference = -5.6 }

  [[rows]]
  method = "Theirs"
  [rows.values]
  "FP" = 91.7
  "1/1" = { value = 85.4, difference = -6.3, fully_quantized = true }

holds: better beyond the 95 % interval of the difference, corrected for the number of comparisons (Bonferroni);
fails: worse beyond it; undecided: the interval contains 0. The interval (Newcombe) treats the two networks' errors as
independent, which makes it too wide if both saw the same images, and knows nothing of other training runs, which
makes it too narrow.

Exit status: 0 done; 1 with --strict, a comparison fails or a difference is wrong; 2 bad input; 3 a failure of the
suite.
"""


def parser() -> argparse.ArgumentParser:
    """Build the parser."""
    result = argparse.ArgumentParser(
        prog=f"{tables.program()} claim",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--accuracy", metavar="PERCENT", help="the accuracy claimed to be better")
    result.add_argument("--against", metavar="PERCENT", help="the accuracy it is compared with")
    result.add_argument("--images", metavar="N", help="test images behind each")
    result.add_argument(
        "--comparisons", metavar="N", default="1", help="how many such comparisons are made (default: 1)"
    )
    result.add_argument("--table", metavar="FILE", help="a table in TOML")
    result.add_argument("--out", metavar="DIR", help="with --table: also write the results there, as JSON")
    result.add_argument("--strict", action="store_true", help="exit with 1 if anything claimed is contradicted")
    return result


def main(arguments: Sequence[str]) -> int:
    """Audit what is given; returns the exit status."""
    given = parser().parse_args(arguments)
    numbers = [given.accuracy, given.against, given.images]
    if given.table is not None and not any(numbers):
        contradicted = _audit_table(given.table, given.out)
    elif all(numbers) and given.table is None:
        contradicted = _audit_pair(
            parse_percent("--accuracy", given.accuracy),
            parse_percent("--against", given.against),
            _count("--images", given.images),
            _count("--comparisons", given.comparisons),
        )
    else:
        raise InputError("give either --accuracy, --against and --images, or --table")
    return 1 if given.strict and contradicted else 0


def _count(name: str, text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,8}", text, re.ASCII):
        raise InputError(f"{name} must be a whole number from 1 to 999999999, got {text!r}")
    return int(text)


def _audit_pair(ours: Decimal, theirs: Decimal, images: int, comparisons: int) -> bool:
    """Judge one comparison; returns whether it fails."""
    low, high = significance.difference_interval(ours, theirs, images, comparisons)
    verdict = significance.judge(ours - theirs, (low, high))
    needed = significance.smallest_significant((ours + theirs) / 2, images)
    out = Output(soft_wrap=True, highlight=False)
    corrected = f", corrected for {comparisons} comparisons" if comparisons > 1 else ""
    out.print(f"{ours} % against {theirs} %, {images} test images each: {ours - theirs:+} points")
    out.print(f"95 % interval of the difference{corrected}: {low:+.2f} to {high:+.2f} points")
    out.print(f"{render.MARKS[verdict]} better: {verdict}. One comparison at this accuracy takes {needed:.2f} points.")
    out.print("Unpaired: too wide if both saw the same images. One run each: too narrow if other seeds differ.")
    return verdict == "fails"


def _audit_table(path: str, out: str | None) -> bool:
    """Judge a user's table; returns whether anything in it is contradicted."""
    try:
        table = load_table(path)
    except TableError as error:
        raise InputError(str(error)) from None
    except OSError as error:
        raise InputError(f"--table {path}: {error.strerror}") from None
    sections = [arithmetic.audit([table]), significance.audit([table])]
    sections = [dataclasses.replace(section, shown=None) for section in sections]
    console = Output()
    for section in sections:
        if section.cells:
            render.show(section, console)
        else:
            console.print(escape(f"{section.title}: nothing to judge in {path}\n"), highlight=False)
    if out:
        with writing(Path(out)):
            for section in sections:
                cells.write(Path(out), section.cells)
    return any(set(render.WRONG) & section.counts().keys() for section in sections)
