"""Networks of the papers' tables, and a small one for images that need no download."""

from functools import partial

from torchimpl.models.resnet import ResNet, needs_signs, resnet, resnet8, resnet20, resnet20_apot, resnet20_released

ARCHITECTURES = {  # for CIFAR-10
    "resnet20": resnet20,
    **{f"resnet{depth}": partial(resnet, depth) for depth in (32, 44, 56)},
    "resnet20_released": resnet20_released,
    "resnet20_apot": resnet20_apot,
}
NETWORKS = {**ARCHITECTURES, "resnet8": resnet8}

__all__ = ["ARCHITECTURES", "NETWORKS", "ResNet", "needs_signs", "resnet", "resnet8", "resnet20", "resnet20_apot", "resnet20_released"]
