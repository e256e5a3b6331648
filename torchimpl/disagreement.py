"""On which images one of two networks is right and the other wrong: what a paired comparison of them rests on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from torchimpl.evaluation import normalize


@torch.no_grad()
def right(
    model: nn.Module,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    batch_size: int = 250,
    progress: Callable[[int], None] | None = None,
) -> npt.NDArray[np.bool_]:
    """Say of each image whether its largest logit is that of the label.

    Parameters
    ----------
    model : Module
        Maps (N, 3, H, W) to logits; it is put into test mode.
    images : ndarray of uint8, shape (N, 3, H, W)
    labels : ndarray of int64, shape (N,)
    mean, std : tuple of float
        See `torchimpl.evaluation.normalize`.
    progress : callable, optional
        Called with the number of images done since the last call.

    Returns
    -------
    ndarray of bool, shape (N,)
        False where a logit is NaN or infinite.

    Raises
    ------
    ValueError
        If there are not as many labels as images.
    """
    if len(images) != len(labels):
        raise ValueError(f"labels must be as many as the {len(images)} images, got {len(labels)}")
    model.eval()
    device = next((parameter.device for parameter in model.parameters()), None)
    found = np.zeros(len(labels), bool)
    for start in range(0, len(images), batch_size):
        batch = slice(start, start + batch_size)
        logits = model(normalize(images[batch], mean, std).to(device)).cpu()
        found[batch] = (logits.isfinite().all(1) & (logits.argmax(1) == torch.from_numpy(labels[batch]))).numpy()
        if progress is not None:
            progress(len(labels[batch]))
    return found


def discordant(first: npt.ArrayLike, second: npt.ArrayLike) -> tuple[int, int]:
    """Count the images that only the first network has right, and those that only the second has.

    >>> discordant([True, True, False, True], [True, False, True, False])
    (2, 1)
    """
    a, b = np.asarray(first, bool), np.asarray(second, bool)
    return int((a & ~b).sum()), int((b & ~a).sum())
