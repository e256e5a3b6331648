"""Where runs are kept: one file a run, written after each epoch, so that a run that was killed goes on where it was."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import json
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reference import registry
from torchimpl import checkpoints, files, sources, timing
from torchimpl.data.cifar10 import Split
from torchimpl.training import bfloat16, trainer
from torchimpl.training.recipe import Recipe
from torchimpl.training.trainer import CPU, Device, State, as_device

SCHEMA = 2
MAX_BYTES = 64 * 2**30  # of a file of our own: weights and the states of their optimizers


def identify(recipe: Recipe, start: Recipe | None = None) -> str:
    """Return a hash of a recipe, of that of its start, and of what the sources mean: the suite's, and one's own."""
    own = recipe.network.partition(":")[0] if ":" in recipe.network else ""
    methods = list(registry.methods()) if own else [recipe.method]  # one's own may have any
    found = [
        json.dumps([recipe.as_json(), start and start.as_json()], sort_keys=True),
        sources.meaning([trainer.__name__, *itertools.chain(*map(sources.method_modules, methods))]),
        sources.meaning_of_own(own) if own else "",
    ]
    return hashlib.sha256("\0".join(found).encode()).hexdigest()


def here(key: str, *splits: Split, device: Device = CPU) -> str:
    """Return a run's key with what else fixes its bits: images, torch's version, threads, the kind of device."""
    seen = hashlib.sha256()
    for split in splits:
        for array in (split.images, split.labels):
            seen.update(f"{array.shape} {array.dtype} ".encode())
            seen.update(np.ascontiguousarray(array).data)
    kind = device._replace(name=device.name.partition(":")[0])
    return f"{key} {seen.hexdigest()} torch {torch.__version__}, {torch.get_num_threads()} threads, {kind}"


def check_device(name: str, *, compiled: bool = False) -> Device:
    """Return a device that is here, and for which steps can be compiled, if they are to be.

    Raises
    ------
    ValueError
        If it is none, or is not here.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # the latter where torch was built without it
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from None
    if compiled:
        try:
            torch.compile(lambda x: x + 1)(torch.zeros(2, device=name))
        except Exception as error:  # whatever the compiler lacks: torch documents no exception types
            why = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ValueError(f"--compile: torch.compile does not work here: {why}") from None
    return Device(name, compiled)


def path_of(folder: Path, recipe: Recipe, key: str) -> Path:
    """Return the file of a run: readable, and another for every key."""
    options = " ".join(f"{name} {value}" for name, value in recipe.options.items())
    bits = "-".join("32" if b is None else str(b) for b in recipe.bits)
    words = f"{recipe.profile} {recipe.method or recipe.activation} {bits} {options} seed {recipe.seed}"
    slug = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
    return folder / f"{slug[:80]}.{hashlib.sha256(key.encode()).hexdigest()[:12]}.pt"


def run(
    recipe: Recipe,
    folder: Path,
    training: Split,
    test: Split,
    *,
    start: Callable[[], Mapping[str, Tensor]] | None = None,
    key_of: Callable[[Recipe], str] = identify,
    device: Device | str | torch.device = CPU,
    again: bool = False,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[State, Path]:
    """Train a network, go on with its training, or read it if it has ended.

    Two processes that want the same run train it once: one waits for the other.

    Parameters
    ----------
    recipe : Recipe
    folder : Path
        Where runs are kept.
    training, test : Split
    start : callable, optional
        Returns the state of the full-precision network to start from; called only if the run has not begun. By
        default weights are new.
    key_of : callable
        Names what a run rests on, but for what `here` adds: the images, torch's version, the threads and the kind of
        device. A file with another key is another run's.
    device : Device or torch's
    again : bool
        Whether to train from the beginning, whatever the file holds.
    progress : callable
        Is told the share of the run that is done; not called if the run has ended before.

    Returns
    -------
    State, Path
        The end of the run, and its file.

    Raises
    ------
    CheckpointError
        If the file of this run is damaged, or another's.
    OSError
        If it cannot be written.
    """
    device = as_device(device)
    key = here(key_of(recipe), training, test, device=device)
    path = path_of(folder, recipe, key)
    with files.locked(path.with_suffix(".lock")):
        files.sweep(folder)
        state = read(path, key) if path.exists() and not again else State()
        if state.epochs == recipe.epochs or state.diverged:
            return state, path
        weights = start() if start and not state.epochs else None

        def keep(now: State) -> None:
            write(path, key, now)

        with warnings.catch_warnings(), bfloat16.products(device.name):
            warnings.filterwarnings("ignore", ".*its values are NaN")  # of every layer: the state says it once
            ended = trainer.train(
                recipe, training, test, start=weights, state=state, device=device, keep=keep, progress=progress,
                pause=timing.wait_for_quiet,
            )  # fmt: skip
        return ended, path


def write(path: Path, key: str, state: State) -> None:
    """Write a run's file, whole or not at all."""
    content = io.BytesIO()
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    torch.save({"schema": SCHEMA, "key": key, **fields}, content)
    files.write_atomic(path, content.getvalue())


def read(path: Path, key: str) -> State:
    """Read a run's file.

    Raises
    ------
    CheckpointError
        If it is damaged, of another version or another run's; it says that the file can be deleted.
    """
    remedy = "delete it, to train again"
    content: Any
    try:
        content, _ = checkpoints.read_content(path, most=MAX_BYTES)
    except checkpoints.CheckpointError as error:
        raise checkpoints.CheckpointError(f"{error}; {remedy}") from None
    names = {field.name for field in dataclasses.fields(State)}
    if not isinstance(content, dict) or content.keys() != names | {"schema", "key"} or content["schema"] != SCHEMA:
        raise checkpoints.CheckpointError(f"{path}: no state of a run in the format {SCHEMA}; {remedy}")
    if content["key"] != key:
        raise checkpoints.CheckpointError(f"{path}: holds another run; {remedy}")
    return State(**{name: content[name] for name in names})
