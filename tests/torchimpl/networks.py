"""Networks and runs that take milliseconds, for tests of training; what runs in processes of its own is here, too."""

from __future__ import annotations

import dataclasses
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchimpl.data import digits
from torchimpl.data.cifar10 import Split
from torchimpl.layers import QuantConv2d
from torchimpl.training import store, trainer
from torchimpl.training.recipe import Recipe, recipe

HERE = "tests.torchimpl.networks"
TINY = {"width": 4}


def linear() -> nn.Module:
    """Softmax regression of 8x8 images, from weights and biases of 0."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def plain(method: str | None = None, **options: Any) -> nn.Module:
    """Two convolutions without normalisation; the second quantized, if there is a method."""
    second = QuantConv2d(4, 4, 3, method=method, **options) if method else nn.Conv2d(4, 4, 3)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))


def tiny(method: str | None = None, width: int = 4, **options: Any) -> nn.Module:
    """Two convolutions with normalisation; the second quantized, if there is a method."""
    conv = partial(QuantConv2d, method=method, **options) if method else nn.Conv2d
    second = conv(width, width, 3, bias=False)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        second, nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(16 * width, 10),
    )  # fmt: skip


def dropping() -> nn.Module:
    """A network that draws numbers itself."""
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))


@cache
def images(split: str, count: int) -> Split:
    """The first of the digits."""
    found = digits.load(split)
    return Split(found.images[:count], found.labels[:count], found.sha256)


def small(network: str = "tiny", method: str | None = None, **fields: Any) -> Recipe:
    """A recipe of a network of this file: 2 epochs in batches of 32; `options` are the network's."""
    options = fields.pop("options", {}) | ({"method": method} if method else {})
    given = {"network": f"{HERE}:{network}", "options": options, "epochs": 2, "batch": 32, **fields}
    return recipe("smoke", **given)


def run(made: Recipe, folder: Path, reports: Any = None) -> str:
    """Run, or go on with a run, of 96 images; reports each step. Returns a digest of how it ended."""
    state, _ = store.run(
        made, folder, images("train", 96), images("test", 50), progress=reports.send if reports else lambda share: None
    )
    return fingerprint(state)


def fingerprint(state: trainer.State) -> str:
    """Digest all of a state but the time that it took."""
    names = {field.name for field in dataclasses.fields(state)} - {"seconds"}
    return trainer.digest({name: getattr(state, name) for name in names})


def of_two_ranks(rank: int, recipes: list[Recipe], folder: Path) -> None:
    """Train as one of two ranks, each batch in two parts, all but the first compiled, and write what came of it."""
    torch.set_num_threads(1)
    torch.compile = partial(torch.compile, backend="aot_eager")  # in this process, which ends
    alone, real = [], torch.nn.parallel.DistributedDataParallel.no_sync
    torch.nn.parallel.DistributedDataParallel.no_sync = lambda self: alone.append(1) or real(self)
    address = f"file://{folder}/meet"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    try:
        for i, made in enumerate(recipes):
            state = trainer.train(
                made,
                images("train", 96),
                images("test", 50),
                accumulate=2,
                device=trainer.Device(compiled=i > 0),
            )
            torch.save({**state.model, "correct": state.correct, "alone": len(alone)}, folder / f"rank{rank}-{i}.pt")
    finally:
        torch.distributed.destroy_process_group()
