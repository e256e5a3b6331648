"""Train one network from the command line: a method of the suite by a profile's recipe, or a network of your own."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from torchimpl.checkpoints import CheckpointError, parse_bits
from torchimpl.data.cifar10 import DataError, Split
from torchimpl.models import ACTIVATIONS, needs_signs
from torchimpl.training import batches, store, trainer
from torchimpl.training.recipe import Recipe, profiles, recipe, source
from torchimpl.training.trainer import Device

EPILOG = """\
A quantized network starts from the full-precision one of the same profile and seed, which is trained first. Each epoch
is written to OUT: a run that was stopped goes on where it was, and one that has ended is only read. With other sources,
of the suite or of a package of your own, it is another run.

  python -m torchimpl.training --method daq --bits 1/1
  python -m torchimpl.training --method dasr --bits 1/1 --option variant=kernel --option beta=12
  python -m torchimpl.training --profile cifar10-short --method lsq --bits 2/2 --data DIR
  python -m torchimpl.training --method dsq --show         the recipe, and where it comes from
  python -m torchimpl.training --network my_package.models:make      a function without arguments that returns a Module

Exit status: 0 done; 2 bad input.
"""


def parser() -> argparse.ArgumentParser:
    """Build the parser."""
    result = argparse.ArgumentParser(
        prog="python -m torchimpl.training",
        description="Train one network, and test it after each epoch.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--profile", choices=profiles(), default="embedded", help="default: embedded, on digits")
    result.add_argument("--method", help="of the quantizers (python -m paper_tables --list-methods); default: none")
    result.add_argument("--bits", metavar="W/A", help="of weights and activations (default: 1/1)")
    result.add_argument(
        "--option", metavar="NAME=VALUE", action="append", default=[], help="of the quantizers; may be repeated"
    )
    result.add_argument("--network", help="instead of the profile's: its name, or package.module:function")
    result.add_argument(
        "--activation",
        choices=list(ACTIVATIONS),
        help="of the profile's network (default: relu, or what the method needs)",
    )
    for name, kind in (("epochs", int), ("batch", int), ("rate", float), ("quantizer-rate", float), ("seed", int)):
        result.add_argument(f"--{name}", type=kind, help="instead of the profile's" if name != "seed" else "default: 0")
    result.add_argument("--scratch", action="store_true", help="start a quantized network from new weights")
    result.add_argument("--data", metavar="DIR", help="folder with CIFAR-10, or QUANTGAP_DATA")
    result.add_argument("--out", metavar="DIR", default="out/training", help="where runs go (default: out/training)")
    result.add_argument("--device", default="cpu", help="cpu (default), cuda, ...")
    result.add_argument("--compile", action="store_true", help="steps through torch.compile: faster, after a minute")
    result.add_argument(
        "--again",
        action="store_true",
        help="train what has ended, or was stopped, from its beginning, but not its start",
    )
    result.add_argument("--show", action="store_true", help="show the recipe with its sources, and train nothing")
    result.add_argument("--quiet", action="store_true", help="no progress bar")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    given = parser().parse_args(arguments)
    try:
        if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
            raise ValueError("under torchrun call torchimpl.training.trainer.train in a program of your own")
        made = _recipe(given)
        if given.show:
            show(made, given)
        else:
            run(made, given, store.check_device(given.device, compiled=given.compile))
        sys.stdout.flush()
    except (ValueError, DataError, CheckpointError, ImportError) as error:
        return _refuse(str(error))
    except BrokenPipeError:  # the reader has what it wanted, as `head` has: the status of what SIGPIPE ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor shall the interpreter fail over the rest
        return 141
    except OSError as error:
        return _refuse(f"{error.filename or given.out}: {error.strerror}")
    except KeyboardInterrupt:
        how = "the same command without --again" if given.again else "the same command"
        return _refuse(f"interrupted; {how} goes on where it was", status=130)
    return 0


def _refuse(message: str, status: int = 2) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


def _recipe(given: argparse.Namespace) -> Recipe:
    options = list(map(_option, given.option))
    if twice := [name for i, (name, _) in enumerate(options) if name in dict(options[:i])]:
        raise ValueError(f"--option {twice[0]} is given twice")
    fields: dict[str, Any] = {"options": dict(options)}
    for name in ("epochs", "batch", "rate", "quantizer_rate", "seed", "network", "activation"):
        if getattr(given, name) is not None:
            fields[name] = getattr(given, name)
    if ":" in (given.network or ""):
        for name in ("method", "activation"):
            if value := getattr(given, name):
                raise ValueError(f"--{name} {value}: {given.network} makes its own; --option tells it more")
    if given.method is not None:
        bits = parse_bits(given.bits or "1/1")
        signs = needs_signs(given.method, bits)
        if signs and given.activation == "relu":
            raise ValueError(f"--activation relu: {given.method}'s inputs must have both signs, and ReLU leaves one")
        fields = {"activation": "hardtanh" if signs else "relu", **fields}
        fields |= {"method": given.method, "bits": bits}
    elif given.bits or (given.option and ":" not in (given.network or "")):
        raise ValueError(f"{'--bits' if given.bits else '--option'} is of quantizers: it needs --method")
    elif given.scratch:
        raise ValueError("--scratch is of quantized networks, it needs --method: others start from new weights")
    made = recipe(given.profile, **fields)
    if given.data and made.images != "cifar10":
        raise ValueError(f"--data {given.data}: {given.profile} trains on {made.images}, which need no folder")
    return made


def _option(text: str) -> tuple[str, Any]:
    """Parse NAME=VALUE, where VALUE is a Python literal or a word.

    >>> _option("beta=12"), _option("variant=kernel")
    (('beta', 12), ('variant', 'kernel'))
    """
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals):
        raise ValueError(f"--option must be NAME=VALUE, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def show(made: Recipe, given: argparse.Namespace) -> None:
    """Print a recipe: each field with its value and where that comes from."""
    asked = {name for name, value in vars(given).items() if value is not None}
    if given.option:
        asked.add("options")
    for name, value in made.as_json().items():
        words = "as asked for" if name in asked else source(made, name)
        if name == "activation" and name not in asked and value == "hardtanh":
            words = "the method takes signs"
        print(f"{name:15} {value!s:22} {words or 'the default'}")


def run(made: Recipe, given: argparse.Namespace, device: Device) -> None:
    """Train, and print what came of each epoch."""
    data = given.data or os.environ.get("QUANTGAP_DATA")
    training, test = batches.splits(made.images, Path(data) if data else None)
    _try(made, training)
    folder = Path(given.out)

    def ended(wanted: Recipe, start: Recipe | None, again: bool) -> Mapping[str, Any]:
        words = wanted.network if ":" in wanted.network else "full precision"
        if wanted.method is not None:
            words = f"{wanted.method} {given.bits or '1/1'}"
        with _bar(given.quiet) as bar:
            task = bar.add_task(words, total=1.0)
            trained = False

            def advance(share: float) -> None:
                nonlocal trained
                trained = True
                bar.update(task, completed=share)

            def weights() -> Mapping[str, Any]:
                assert start is not None
                return ended(start, None, again=False)

            state, path = store.run(
                wanted,
                folder,
                training,
                test,
                start=weights if start else None,
                key_of=partial(store.identify, start=start),
                device=device,
                again=again,
                progress=advance,
            )
        for epoch, (loss, correct) in enumerate(zip(state.loss, state.correct, strict=True), 1):
            print(f"{words}: epoch {epoch}, loss {loss:.4f}, test accuracy {100 * correct / len(test.labels):.2f} %")
        if state.diverged:
            print(f"{words}: ended early, {state.diverged}")
        print(f"{words}: {path}{'' if trained else ' (trained before; --again trains it anew)'}")
        return state.model

    first = None
    if made.method is not None and not given.scratch:
        first = dataclasses.replace(
            recipe(made.profile), network=made.network, activation=made.activation, seed=made.seed
        )
    ended(made, first, given.again)


def _try(made: Recipe, training: Split) -> None:
    """Refuse a network that cannot be made, or that does not take the images."""
    named = f"--network {made.network}" if made.method is None else f"--method {made.method} in {made.network}"
    try:
        trainer.first_step(dataclasses.replace(made, batch=2), training)
    except (ImportError, ValueError):
        raise  # they name what is missing, or what is admitted
    except Exception as error:  # what a network of one's own raises is its own
        why = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{named} cannot be trained: {why}") from error


def _bar(quiet: bool) -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)


if __name__ == "__main__":
    raise SystemExit(main())
