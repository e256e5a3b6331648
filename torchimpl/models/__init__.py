"""Networks of the papers' tables, and a small one for images that need no download."""

from torchimpl.models.resnet import ResNet, needs_signs, resnet8, resnet20, resnet20_released

ARCHITECTURES = {"resnet20": resnet20, "resnet20_released": resnet20_released}  # for CIFAR-10
NETWORKS = {**ARCHITECTURES, "resnet8": resnet8}

__all__ = ["ARCHITECTURES", "NETWORKS", "ResNet", "needs_signs", "resnet8", "resnet20", "resnet20_released"]
