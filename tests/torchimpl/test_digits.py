"""scikit-learn's digits: which images train and which test, and that others are refused."""

import numpy as np
import pytest
from sklearn import datasets

from torchimpl.data import digits
from torchimpl.data.cifar10 import DataError


def test_every_digit_is_in_one_split_once():
    given = datasets.load_digits()
    pairs = zip(given.images, given.target, strict=True)
    expected = sorted((int(label), *(15 * image.astype(int)).ravel()) for image, label in pairs)
    found = []
    for split, size in digits.SIZES.items():
        images, labels, sha256 = (getattr(digits.load(split), name) for name in ("images", "labels", "sha256"))
        assert (images.shape, images.dtype, labels.dtype) == ((size, 1, 8, 8), np.uint8, np.int64)
        assert sha256 == digits.SHA256[split]
        assert np.bincount(labels, minlength=10).min() > 0.07 * size  # all ten in each
        found += [(int(label), *map(int, image.ravel())) for image, label in zip(images, labels, strict=True)]
    assert sorted(found) == expected


def test_the_splits_are_drawn_once_and_for_all():
    one, same = digits.load("train"), digits.load("train")
    assert np.array_equal(one.images, same.images)
    assert np.array_equal(one.labels, same.labels)
    assert one.labels[:500].tolist() != sorted(one.labels[:500].tolist())


def test_another_split_is_refused():
    with pytest.raises(DataError, match=r"'valid'.*'train' and 'test'"):
        digits.load("valid")


@pytest.mark.parametrize("split", digits.SIZES)
@pytest.mark.parametrize("what", ["images", "target"])
def test_other_digits_are_refused(split, what, monkeypatch):
    given = datasets.load_digits()
    changed = given[what].copy()
    changed += 1 - 2 * (changed > 0)
    monkeypatch.setattr(datasets, "load_digits", lambda: type(given)(**{**given, what: changed}))
    with pytest.raises(DataError, match=f"the {split} digits have sha256 .*, expected {digits.SHA256[split]}"):
        digits.load(split)
