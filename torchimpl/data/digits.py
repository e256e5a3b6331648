"""scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels that come with the package.

Source: Alpaydin, Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998 (test set).
"""

from __future__ import annotations

import hashlib

import numpy as np

from torchimpl.data.cifar10 import DataError, Split

__all__ = ["SHA256", "SIZES", "load"]

SIZES = {"train": 1297, "test": 500}
SHA256 = {
    "train": "c95be538619b5428ab44179d6fbcf716d989266ae4f702494e8cd1a1f3a77494",
    "test": "4c0db69af67d6171c095556c292103fe2ce9b7d49e34ea278ec548e0aaba7404",
}
_SPLIT = 0  # seed of the order in which images are dealt to the splits: the package has no split of its own


def load(split: str) -> Split:
    """Read one split.

    Parameters
    ----------
    split : {"train", "test"}
        1,297 or 500 images, drawn once and for all: writers are not told apart, so both splits have all of them.

    Returns
    -------
    Split
        Images of shape (N, 1, 8, 8): grey values, 0 to 16, times 15.

    Raises
    ------
    DataError
        If `split` is neither, or the package's digits are others.

    Examples
    --------
    >>> load("test").images.shape
    (500, 1, 8, 8)
    """
    from sklearn.datasets import load_digits  # it takes a second to import

    if split not in SIZES:
        raise DataError(f"split is {split!r}, but the digits have 'train' and 'test'")
    digits = load_digits()
    order = np.random.default_rng(_SPLIT).permutation(len(digits.target))
    chosen = order[: SIZES["train"]] if split == "train" else order[SIZES["train"] :]
    images = (digits.images[chosen] * 15).astype(np.uint8)[:, None]
    labels = digits.target[chosen].astype(np.int64)
    digest = hashlib.sha256(np.column_stack([labels.astype(np.uint8), images.reshape(len(images), -1)]).tobytes())
    if digest.hexdigest() != SHA256[split]:
        raise DataError(f"the {split} digits have sha256 {digest.hexdigest()}, expected {SHA256[split]}")
    return Split(images, labels, digest.hexdigest())
