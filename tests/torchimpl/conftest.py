"""Quantizers that draw noise in training are tested without it, as every method is; ``draws_noise`` asks for it."""

import pytest

from torchimpl.quantizers import base


@pytest.fixture(autouse=True)
def no_noise(request):
    if request.node.get_closest_marker("draws_noise"):
        yield
        return
    with base.noiseless():
        yield
