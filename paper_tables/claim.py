"""Audit anybody's printed accuracies: one comparison, or a whole table in TOML."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from paper_tables import cells, render, tables
from paper_tables.audit import arithmetic, granularity, means, significance
from paper_tables.audit.means import Mean
from paper_tables.reported import TableError, load_table, printed_decimals
from paper_tables.tables import InputError, Output, parse_percent, writing

DESCRIPTION = """\
Is one accuracy better than another by more than the choice of test images explains? Either two numbers,

  quantgap claim --accuracy 85.8 --against 85.4 --images 10000

or means over training runs, with their deviations,

  quantgap claim --accuracy 91.0 --deviation 0.2 --runs 5 --against 90.5 --images 10000

or a table, of which every printed difference is checked as well:

  quantgap claim --table FILE.toml

Can an accuracy arise at all, from so many images? (The granularity test, GRIM; also of the numbers above.)

  quantgap claim --accuracy 97.35 --images 1797
"""
EPILOG = """\
A table looks like this; the files in paper_tables/reported are examples. A value is a number, or a table with the
printed difference from the baseline column, the mark of models that are quantized in all layers, and, of a mean over
training runs, their number and deviation:

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
  "1/1" = { value = 85.8, difference = -5.6, deviation = 0.2, runs = 5 }

  [[rows]]
  method = "Theirs"
  [rows.values]
  "FP" = 91.7
  "1/1" = { value = 85.4, difference = -6.3, fully_quantized = true }

holds: better beyond the 95 % interval of the difference; fails: worse beyond it; undecided: the interval contains 0.
Half a unit of the last printed digit counts on either side. Two numbers are corrected for --comparisons (Bonferroni), a
table for all that it makes (Holm). The interval for other test images (Newcombe) treats the two networks' errors as
independent, which makes it too wide if both saw the same images, and knows nothing of other training runs, which makes
it too narrow. That for other runs is Welch's t where both sides print a deviation, and else the pooled t, with the one
that is printed; it knows nothing of other images.

What R's scrutiny (GRIM) and statcheck do for psychology, this does for accuracies: whether numbers in print can be
true, and whether they say what is claimed.

Exit status: 0 done; 1 with --strict, a comparison fails, or a number or a difference cannot be right; 2 bad input; 3 a
failure of the suite.
"""


TAKES = {
    "arithmetic": "it takes numbers with a difference from a baseline",
    "significance": 'it takes unit = "percent", images, and a rival\'s number in a column of ours',
}


def parser() -> argparse.ArgumentParser:
    """Build the parser."""
    result = argparse.ArgumentParser(
        prog=f"{tables.program()} claim",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--accuracy", metavar="PERCENT", help="the accuracy claimed to be better")
    result.add_argument("--deviation", metavar="POINTS", help="its standard deviation over --runs")
    result.add_argument("--runs", metavar="N", help="training runs that it is the mean of (default: 1)")
    result.add_argument("--against", metavar="PERCENT", help="the accuracy it is compared with")
    result.add_argument("--against-deviation", metavar="POINTS", help="its standard deviation over --against-runs")
    result.add_argument("--against-runs", metavar="N", help="training runs that it is the mean of (default: 1)")
    result.add_argument("--images", metavar="N", help="test images behind each")
    result.add_argument("--comparisons", metavar="N", help="how many such comparisons are made (default: 1)")
    result.add_argument("--table", metavar="FILE", help="a table in TOML")
    result.add_argument("--out", metavar="DIR", help="with --table: also write the results there, as JSON")
    result.add_argument("--strict", action="store_true", help="exit with 1 if anything claimed is contradicted")
    return result


def main(arguments: Sequence[str]) -> int:
    """Audit what is given; returns the exit status."""
    given = parser().parse_args(arguments)
    single = [given.accuracy, given.images]
    others = [given.against, given.deviation, given.runs, given.against_deviation, given.against_runs]
    if given.table is not None and not any((*single, *others, given.comparisons)):
        contradicted = _audit_table(given.table, given.out)
    elif all(single) and given.table is None:
        if given.out is not None:
            raise InputError("--out goes with --table")
        images = _count("--images", given.images)
        first = _mean("", given.accuracy, given.deviation, given.runs)
        if given.against is None and any((*others[3:], given.comparisons)):
            raise InputError("--against-deviation, --against-runs and --comparisons go with --against")
        if given.against is None:
            contradicted = _audit_single(first, images)
        else:
            second = _mean("against", given.against, given.against_deviation, given.against_runs)
            comparisons = 1 if given.comparisons is None else _count("--comparisons", given.comparisons)
            contradicted = _audit_pair(first, second, images, comparisons)
    else:
        raise InputError(
            "give either --accuracy and --images, with --against to compare, or --table, with --out and --strict alone"
        )
    return 1 if given.strict and contradicted else 0


def _count(name: str, text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,8}", text, re.ASCII):
        raise InputError(f"{name} must be a whole number from 1 to 999999999, got {text!r}")
    return int(text)


def _mean(side: str, accuracy: str, deviation: str | None, runs: str | None) -> Mean:
    prefix = f"--{side}-" if side else "--"
    value = parse_percent(f"--{side}" if side else "--accuracy", accuracy)
    count = 1 if runs is None else _count(f"{prefix}runs", runs)
    if deviation is None:
        return Mean(value, None, count)
    if count < 2:
        raise InputError(f"{prefix}deviation goes with {prefix}runs, 2 or more")
    return Mean(value, parse_percent(f"{prefix}deviation", deviation), count)


def _output() -> Output:
    return Output(soft_wrap=True, highlight=False)


def _audit_single(one: Mean, images: int) -> bool:
    """Say whether an accuracy can arise; returns whether it cannot."""
    out = _output()
    out.print(f"{means.said(one)} %, {images} test images")
    return _granularity(one, images, out)


def _granularity(one: Mean, images: int, out: Output) -> bool:
    """Apply the granularity test; returns whether the accuracy cannot arise."""
    decimals = printed_decimals(one.value)
    if not granularity.says_something(decimals, images, one.runs):
        counted = f"{images} images" + (f" and {one.runs} runs" if one.runs > 1 else "")
        out.print(f"Granularity: every accuracy of {_plural(decimals, 'decimal')} can arise from {counted}.")
        return False
    found = granularity.nearest(one.value, images, one.runs)
    mark = render.MARKS["holds" if found.possible else "fails"]
    out.print(f"{mark} Granularity: {one.value} % {found}.")
    return not found.possible


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"


def _audit_pair(first: Mean, second: Mean, images: int, comparisons: int) -> bool:
    """Judge one comparison; returns whether anything fails."""
    ours, theirs = first.value, second.value
    out = _output()
    difference = ours - theirs
    out.print(
        f"{means.said(first)} % against {means.said(second)} %, {_plural(images, 'test image')} each: "
        f"{difference:+} points"
    )
    alone = significance.printed_interval(ours, theirs, images)
    corrected = significance.printed_interval(ours, theirs, images, comparisons)
    verdict, by_itself = (significance.judge(interval) for interval in (corrected, alone))
    out.print(f"95 % interval for other test images: {alone[0]:+.2f} to {alone[1]:+.2f} points")
    if comparisons > 1:
        out.print(f"as one of {comparisons} comparisons: {corrected[0]:+.2f} to {corrected[1]:+.2f} points")
    needed = significance.takes(
        theirs, images, decimals=printed_decimals(ours), better=difference >= 0, comparisons=comparisons
    )
    side = "above" if difference >= 0 else "below"
    takes = "No accuracy is far enough" if needed is None else f"It takes {needed} points"
    out.print(f"{render.MARKS[verdict]} better: {verdict}. {takes} {side} {theirs} %, printed so.")
    if by_itself != verdict:
        out.print(f"Alone it would count ({by_itself}), not as one of {comparisons}.")
    tips = significance.tipping(ours, theirs, images)
    if tips is not None and tips <= images:
        share = 100 * tips / images
        out.print(
            f"In a paired test: chance if exactly one of the two is right on {tips} images ({share:.1f} %) or more."
        )
    fails = [verdict == "fails"]
    found = means.compare(first, second)
    if found is not None:
        low, high = found.interval(comparisons)
        by_runs = significance.judge((low, high))
        out.print(
            f"{render.MARKS[by_runs]} better in other runs, on the same images: {by_runs}. {low:+.2f} to {high:+.2f} "
            f"points ({found.test}, {found.degrees:.1f} degrees of freedom)"
        )
        fails.append(by_runs == "fails")
    fails += [_granularity(one, images, out) for one in (first, second)]
    runs = "" if found is not None else " It knows nothing of other seeds: too narrow if they differ."
    out.print(f"The interval for images is unpaired: too wide if both saw the same images.{runs}")
    return any(fails)


def _audit_table(path: str, out: str | None) -> bool:
    """Judge a user's table; returns whether anything in it is contradicted."""
    try:
        table = load_table(path)
    except TableError as error:
        raise InputError(str(error)) from None
    except OSError as error:
        raise InputError(f"--table {path}: {error.strerror}") from None
    sections = [arithmetic.audit([table]), significance.audit([table])]
    sections += [section for section in (granularity.audit([table]), means.audit([table])) if section.cells]
    sections = [dataclasses.replace(section, shown=None) for section in sections]
    console = Output()
    for section in sections:
        if section.cells:
            render.show(section, console)
            for cell in section.cells if section.name in ("significance", "means") else ():
                console.print(escape(f"  {cell.column}: {cell.row}: {cell.reason}"), highlight=False)
            console.print()
        else:
            console.print(
                escape(f"{section.title}: nothing to judge in {path}; {TAKES[section.name]}\n"), highlight=False
            )
    if out:
        with writing(Path(out)):
            for section in sections:
                cells.write(Path(out), section.cells)
    return any(set(render.WRONG) & section.counts().keys() for section in sections)
