"""Networks of the papers' tables, and a small one for images that need no download."""

from collections.abc import Callable, Mapping
from functools import partial

from torchimpl.models.resnet import (
    ACTIVATIONS,
    ResNet,
    needs_signs,
    resnet,
    resnet8,
    resnet20,
    resnet20_apot,
    resnet20_released,
)

ARCHITECTURES: Mapping[str, Callable[..., ResNet]] = {  # for CIFAR-10
    "resnet20": resnet20,
    **{f"resnet{depth}": partial(resnet, depth) for depth in (32, 44, 56)},
    "resnet20_released": resnet20_released,
    "resnet20_apot": resnet20_apot,
}
NETWORKS: Mapping[str, Callable[..., ResNet]] = {
    **ARCHITECTURES,
    "resnet8": resnet8,
    "resnet8_released": partial(resnet8, released=True),
}

__all__ = [
    "ACTIVATIONS",
    "ARCHITECTURES",
    "NETWORKS",
    "ResNet",
    "needs_signs",
    "resnet",
    "resnet8",
    "resnet20",
    "resnet20_apot",
    "resnet20_released",
]
