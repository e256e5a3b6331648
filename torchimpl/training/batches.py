"""Training images in memory, on the device where they are used, and augmented a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from reference import checks
from torchimpl.checkpoints import NORMALIZATIONS
from torchimpl.data import cifar10, digits
from torchimpl.data.cifar10 import Split
from torchimpl.training.recipe import Recipe

HELD_OUT = {"cifar10": 5000, "digits": 297}  # of the training images, for choosing rates
_DEAL = 1  # seed of the order in which training images are dealt to those that train and those held out


def splits(images: str, data: Path | None, *, held_out: bool = False) -> tuple[Split, Split]:
    """Return the images that train and those that test; `held_out`: the latter are some of the training images.

    Raises
    ------
    DataError
        If CIFAR-10 is not in the folder `data`.
    """

    def load(split: str) -> Split:
        if images == "digits":
            return digits.load(split)
        if data is None:
            raise cifar10.DataError("CIFAR-10 is needed, and no folder was given")
        return cifar10.load(data, split)

    train = load("train")
    if not held_out:
        return train, load("test")
    order = np.random.default_rng(_DEAL).permutation(len(train.labels))
    test, rest = order[: HELD_OUT[images]], np.sort(order[HELD_OUT[images] :])
    return tuple(Split(train.images[chosen], train.labels[chosen], train.sha256) for chosen in (rest, test))  # type: ignore[return-value]


class Loader(Protocol):
    """Where batches come from, in memory or not.

    What a batch holds depends on the seed, the epoch's number and its place in it, and on nothing before: a run that is
    resumed goes on with the same batches.
    """

    def __len__(self) -> int:
        """Steps an epoch."""

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield an epoch's batches: normalised images (N, C, H, W), float32, channels last, and labels (N,)."""


class Batches:
    """The training images of one rank, in memory, in a new order each epoch, cropped and mirrored at random.

    Parameters
    ----------
    split : Split
    recipe : Recipe
        Its `batch` is what all ranks see in a step together.
    device : torch.device
    rank, ranks : int
        Which part of each batch is this process's. All parts are of the same size: of a last, smaller batch what does
        not divide is left out.

    Raises
    ------
    ValueError
        If the ranks do not divide the batch.
    """

    def __init__(self, split: Split, recipe: Recipe, device: torch.device, rank: int = 0, ranks: int = 1) -> None:
        if recipe.batch % ranks:
            raise checks.refuse("batch", recipe.batch, f"a multiple of the {ranks} ranks")
        self.recipe, self.rank, self.ranks = recipe, rank, ranks
        self.used = len(split.labels) - len(split.labels) % recipe.batch % ranks
        pad = recipe.crop
        padded = np.pad(split.images, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        self.padded = torch.from_numpy(padded).to(device)
        self.labels = torch.from_numpy(split.labels).to(device)
        self.size = split.images.shape[-1]
        channels = split.images.shape[1]
        mean, std = NORMALIZATIONS[recipe.normalize]
        shape = (1, channels, 1, 1)
        self.scale = 1 / (255 * torch.tensor(std[:channels], device=device).view(shape))
        self.shift = (torch.tensor(mean[:channels], device=device) / torch.tensor(std[:channels], device=device)).view(
            shape
        )

    def __len__(self) -> int:
        """Steps an epoch: the last batch may be smaller."""
        return -(-self.used // self.recipe.batch)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield an epoch's batches: normalised images (N, C, H, W), float32, channels last, and labels (N,)."""
        # numpy draws, since its streams are the same on every device
        draw = np.random.default_rng([self.recipe.seed, number])
        order = draw.permutation(len(self.labels))
        places = 2 * self.recipe.crop + 1
        top, left = draw.integers(0, places, (2, len(order)))
        mirrored = draw.random(len(order)) < (0.5 if self.recipe.flip else 0.0)
        chances = [torch.from_numpy(a).to(self.padded.device) for a in (order, top, left, mirrored)]
        for start in range(0, self.used, self.recipe.batch):
            own = slice(start + self.rank, min(start + self.recipe.batch, self.used), self.ranks)
            yield self._batch(*(a[own] for a in chances))

    def _batch(self, chosen: Tensor, top: Tensor, left: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
        steps = torch.arange(self.size, device=chosen.device)
        rows = top[:, None] + steps
        columns = left[:, None] + torch.where(mirrored[:, None], self.size - 1 - steps, steps)
        pixels = self.padded[chosen[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # (N, H, W, C)
        return pixels.movedim(-1, 1) * self.scale - self.shift, self.labels[chosen]
