"""The accuracy of a checkpoint over CIFAR-10's test images, against what is claimed of it."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

from rich.markup import escape
from rich.progress import Progress
from torch import nn

from paper_tables import cells, keys, render, runs, tables, verdicts
from paper_tables.cells import Cell, Measurement
from paper_tables.tables import InputError, Output, folder, writing
from reference import registry
from torchimpl import checkpoints, evaluation, files, sources
from torchimpl.checkpoints import NORMALIZATIONS
from torchimpl.data import cifar10
from torchimpl.models import ACTIVATIONS, ARCHITECTURES
from torchimpl.training import trainer

TABLE = "checkpoint"
RELEASED, RELEASED_WITH = "resnet20_released", "imagenet"

DESCRIPTION = """\
Measure the test accuracy of a checkpoint of a known network on CIFAR-10, all 10,000 test images, and judge a claim.

  resnet20           ResNet-20 in the usual public layouts: classifier "linear" or "fc", shortcuts of option A or
                     B ("shortcut" or "downsample"), with or without a leading "module."
  resnet20_released  the network of DAQ's released code

Method, bit-widths and activation are yours to say: a file does not record them, and wrong ones give a wrong accuracy.
The file may be a state_dict, or a dict that holds one, in torch's formats or safetensors; or what training keeps under
out/training, of which it is said if it is a recorded run. It is read as tensors and plain containers only: a file that
holds anything else is refused.
"""
EPILOG = """\
The claim is reproduced if the accuracy is within half a unit of its last digit, else contradicted, with the
difference in images. How images were normalised is not in a file either: without --normalize the usual ways are tried,
one after the other, until one has the claimed accuracy; the claim is contradicted only if none has, and the best one is
then shown. Only the network of DAQ's released code brings its own: imagenet.

Exit status: 0 done; 1 with --strict, the claim is contradicted; 2 bad input; 3 a failure of the suite.
"""


def parser() -> argparse.ArgumentParser:
    """Build the parser."""
    result = argparse.ArgumentParser(
        prog=f"{tables.program()} checkpoint",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--arch", required=True, choices=list(ARCHITECTURES))
    result.add_argument("--weights", required=True, metavar="FILE")
    result.add_argument("--data", metavar="DIR", help="folder with CIFAR-10, or QUANTGAP_DATA")
    result.add_argument(
        "--method",
        metavar="NAME[,NAME]",
        help="quantizer, or one of weights and one of inputs, such as dorefa,pact; without, full precision",
    )
    result.add_argument("--bits", metavar="W/A", help="bit-widths of weights and activations, such as 1/1 or 2/32")
    result.add_argument(
        "--activation",
        choices=list(ACTIVATIONS),
        help="default: relu, or hardtanh where inputs are quantized to signs (irnet)",
    )
    result.add_argument(
        "--normalize",
        metavar="HOW",
        help=f"one of {', '.join(NORMALIZATIONS)}, or means and deviations as M,M,M/S,S,S "
        "(default: the usual ones are tried; imagenet for resnet20_released)",
    )
    result.add_argument("--claim", metavar="PERCENT", help="claimed accuracy, with its printed decimals, such as 91.20")
    result.add_argument("--out", metavar="DIR", help="also write the result there, as JSON")
    result.add_argument("--strict", action="store_true", help="exit with 1 if the claim is contradicted")
    result.add_argument("--quiet", action="store_true", help="no progress bar")
    return result


def main(arguments: Sequence[str]) -> int:
    """Measure and judge; returns the exit status."""
    given = parser().parse_args(arguments)
    claim = None if given.claim is None else tables.parse_percent("--claim", given.claim)
    names = [given.normalize or RELEASED_WITH] if given.normalize or given.arch == RELEASED else list(NORMALIZATIONS)
    try:
        method = _methods(given.method)
        both = () if method is None else (method, method) if isinstance(method, str) else method
        bits = _bits(given.method, given.bits)
        tried = {name: checkpoints.parse_normalization(name) for name in names}
        data = _data_folder(given.data)
        checkpoint = checkpoints.read(given.weights)
        model = checkpoints.load(checkpoint, given.arch, method, bits, given.activation)
        test = cifar10.load(data, "test")
    except ValueError as error:
        raise InputError(str(error)) from None
    if given.out:
        with writing(Path(given.out)):
            Path(given.out).mkdir(parents=True, exist_ok=True)
            files.sweep(Path(given.out) / TABLE)
    weights = trainer.digest(checkpoint.state)
    recorded = _recorded(weights)
    start = time.perf_counter()
    counts = _measure(model, test, tried, claim, Path(given.weights).name, quiet=given.quiet)
    seconds = time.perf_counter() - start
    images = len(test.labels)
    if min(count.undefined for count in counts.values()) == images:
        raise InputError(f"{given.weights}: the network answers NaN for every image: its parameters overflow")
    taken = _taken(counts, images, claim)
    correct, undefined = counts[taken]
    verdict, reason = (None, f"{correct} of {images} images are right")
    if claim is not None:
        verdict, reason = verdicts.judge_accuracy(correct, images, claim)
    if undefined:
        reason += f"; {undefined} images have no answer (NaN or infinity) and count as wrong"
    if len(tried) > 1:
        reason += f"; {_said(counts, images, tried)}; --normalize sets it"
    mean, std = tried[taken]
    several = f", entry {checkpoint.entry} (it also holds {checkpoint.others})" if checkpoint.others else ""
    activation = next(name for name, function in ACTIVATIONS.items() if function is model.activation)
    network = given.arch if activation == "relu" else f"{given.arch} with {activation}"
    if recorded:
        said = f"{recorded.row}, {recorded.column}: {recorded.measured:g} %, {recorded.protocol}"
        reason += f"; its weights are those of the recorded run {said}"
    cell = Cell(
        paper="",
        table=TABLE,
        row=Path(given.weights).name,
        column=given.bits or "FP",
        unit="percent",
        reported=given.claim,
        measured=float(verdicts.accuracy(correct, images)),
        ci95=verdicts.accuracy_interval(correct, images),
        runs=1,
        images=images,
        protocol=f"{network}, {given.method or 'full precision'}, normalization {taken}{several}",
        value_verdict=verdict,
        reason=reason,
        detail={"weights": weights, "sha256": checkpoint.sha256},
        seconds=round(seconds, 1),
        hardware=cells.hardware(),
        versions=cells.versions(),
        key=keys.key(
            [*keys.ACCURACY, *itertools.chain(*map(sources.method_modules, both))],
            arch=given.arch,
            activation=activation,
            method=both,
            checkpoint=checkpoint.sha256,
            bits=bits,
            normalization=[mean, std],
            images=test.sha256,
        ),
    )
    _show(cell)
    if given.out:
        with writing(Path(given.out)):
            cells.write(Path(given.out), [cell])
    return 1 if given.strict and verdict == "contradicted" else 0


def _recorded(weights: str) -> Measurement | None:
    """Find the recorded run whose weights have this digest."""
    for path in sorted((cells.RESULTS / runs.TABLE).glob("*.json")):
        try:
            found = cells.read(path, Measurement)
        except (OSError, ValueError) as error:
            raise InputError(f"{error}; restore it from the repository") from None
        if found.detail.get("weights") == weights:
            return found
    return None


def _methods(text: str | None) -> str | tuple[str, str] | None:
    """Parse "NAME", for weights and inputs, or "NAME,NAME", for either."""
    if text is None:
        return None
    names = text.split(",")
    unknown = sorted(set(names) - set(registry.methods()))
    if unknown or len(names) > 2:
        known = ", ".join(registry.methods())
        raise InputError(f"--method must be one of {known}, or two of them, as in dorefa,pact; got {text!r}")
    return names[0] if len(names) == 1 else (names[0], names[1])


def _measure(
    model: nn.Module,
    test: cifar10.Split,
    tried: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]],
    claim: Decimal | None,
    name: str,
    *,
    quiet: bool,
) -> dict[str, evaluation.Count]:
    """Count the right answers for one normalization after the other, until one has the claimed accuracy."""
    counts: dict[str, evaluation.Count] = {}
    images = len(test.labels)
    with Progress(console=tables.console, disable=quiet, transient=True) as progress:
        task = progress.add_task("", total=images * len(tried))
        for how, (mean, std) in tried.items():
            progress.update(task, description=escape(f"{name}, {how}"))
            counts[how] = evaluation.count_correct(
                model, test.images, test.labels, mean=mean, std=std, progress=lambda done: progress.advance(task, done)
            )
            if claim is not None and verdicts.matches_printed(verdicts.accuracy(counts[how].correct, images), claim):
                break
    return counts


def _taken(counts: Mapping[str, evaluation.Count], images: int, claim: Decimal | None) -> str:
    """Return the normalization that has the claimed accuracy, or else the best accuracy."""
    for how, count in counts.items():
        if claim is not None and verdicts.matches_printed(verdicts.accuracy(count.correct, images), claim):
            return how
    return max(counts, key=lambda how: counts[how].correct)


def _said(counts: Mapping[str, evaluation.Count], images: int, tried: Collection[str]) -> str:
    """Say which normalization has which accuracy, and which were not tried."""
    found = ", ".join(f"{how} {verdicts.accuracy(count.correct, images):.2f} %" for how, count in counts.items())
    rest = ", ".join(how for how in tried if how not in counts)
    return f"normalizations tried: {found}" + (f" (not {rest})" if rest else "")


def _bits(method: str | None, text: str | None) -> tuple[int | None, int | None]:
    if (method is None) != (text is None):
        raise InputError("--method and --bits go together: both for a quantized network, neither for full precision")
    bits = checkpoints.parse_bits(text) if text else (None, None)
    if method and bits == (None, None):
        raise InputError("--bits 32/32 is full precision: leave --method and --bits out")
    return bits


def _data_folder(value: str | None) -> Path:
    found = folder("data", value)
    if found is None:
        raise InputError("no CIFAR-10: give --data DIR (python -m torchimpl.data.cifar10 DIR downloads it)")
    return found


def _show(cell: Cell) -> None:
    low, high = cell.ci95 or (0.0, 0.0)
    out = Output(soft_wrap=True, highlight=False)
    out.print(escape(f"{cell.row}: {cell.protocol}, {cell.seconds:.0f} s"))
    out.print(f"accuracy {cell.measured:.2f} %, 95 % interval {low:.2f} to {high:.2f}")
    mark = render.MARKS.get(cell.value_verdict or "", "")
    if cell.value_verdict:
        out.print(f"claim {cell.reported} %: {cell.value_verdict} {mark}. {escape(cell.reason)}")
    else:
        out.print(escape(cell.reason))
