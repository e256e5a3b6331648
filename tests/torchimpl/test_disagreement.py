"""On which images one of two networks is right, image by image."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from torchimpl import disagreement, evaluation

IMAGES = np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1) * 30
PLAIN = {"mean": (0.0,), "std": (1.0,)}


class Table(nn.Module):
    """Answers an image by its number."""

    def __init__(self, logits):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))
        self.logits = torch.tensor(logits)

    def forward(self, x):
        assert not self.training
        return self.logits[(x.flatten() * 255 / 30).round().long()]


@given(st.lists(st.integers(0, 2), min_size=7, max_size=7), st.lists(st.integers(0, 2), min_size=7, max_size=7))
def test_right_is_the_label_of_the_largest_logit(answers, labels):
    logits = [[float(k == answer) for k in range(3)] for answer in answers]
    done = []
    labels = np.array(labels)
    found = disagreement.right(Table(logits), IMAGES, labels, batch_size=3, progress=done.append, **PLAIN)
    assert found.tolist() == [a == b for a, b in zip(answers, labels, strict=True)]
    assert found.sum() == evaluation.count_correct(Table(logits), IMAGES, labels, **PLAIN).correct
    assert done == [3, 3, 1]


def test_what_is_not_finite_is_not_right():
    logits = [[0.0, float("nan")], [float("inf"), 0.0], [1.0, 0.0]] + [[0.0, 1.0]] * 4
    labels = np.array([1, 0, 0, 0, 0, 0, 1])
    found = disagreement.right(Table(logits), IMAGES, labels, **PLAIN)
    assert found.tolist() == [False, False, True, False, False, False, True]


def test_labels_must_be_as_many():
    with pytest.raises(ValueError, match="labels must be as many as the 7 images, got 2"):
        disagreement.right(Table([[0.0]] * 7), IMAGES, np.array([0, 0]), **PLAIN)


@given(st.lists(st.tuples(st.booleans(), st.booleans())))
def test_discordant(both):
    first, second = [a for a, _ in both], [b for _, b in both]
    assert disagreement.discordant(first, second) == (both.count((True, False)), both.count((False, True)))


def test_images_go_where_the_network_is():
    class Elsewhere(Table):
        def forward(self, x):
            assert x.device == self.unused.device
            return self.logits[: len(x)]

    network = Elsewhere([[1.0, 0.0]] * 7)
    network.unused = nn.Parameter(torch.zeros((), device="meta"))
    assert disagreement.right(network, IMAGES, np.zeros(7, int), **PLAIN).all()
