"""ResNets for small images: ResNet-20 for CIFAR-10, as published and as DAQ's authors released it, and a smaller one.

Source: He et al.: Deep Residual Learning for Image Recognition, CVPR 2016, Section 4.2; and the code released with
DAQ, whose network differs in two places (see `resnet20_released`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn
from torch.nn import functional as F

from reference import registry
from torchimpl.layers import QuantConv2d

Shortcut: TypeAlias = Literal["A", "B"]
MakeConv: TypeAlias = Callable[..., nn.Conv2d]
Function: TypeAlias = Callable[[Tensor], Tensor]
Methods: TypeAlias = str | tuple[str, str] | None
ACTIVATIONS: Mapping[str, Function] = {"relu": F.relu, "hardtanh": F.hardtanh}


class ZeroPadShortcut(nn.Module):
    """Option A of the paper: every second pixel, and zero channels, half of them on each side."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, out_channels, ceil(H/2), ceil(W/2))."""
        missing = self.out_channels - x.shape[1]
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, missing // 2, missing - missing // 2))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        shortcut: Shortcut,
        conv: MakeConv,
        activation: Function,
        projection: MakeConv,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.conv1 = conv(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv(out_channels, out_channels, 3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 and shortcut == "A":
            self.shortcut = ZeroPadShortcut(out_channels)
        elif stride != 1:
            projected = projection(in_channels, out_channels, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projected, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(residual + shortcut), or another function of it."""
        out = self.activation(self.bn1(self.conv1(x)))
        return self.activation(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet for small images: three stages of 16, 32 and 64 channels.

    Parameters
    ----------
    blocks : int
        Blocks a stage: 3 for ResNet-20.
    in_channels : int
        Of the images: 3 for colours.
    classes : int
        Outputs.
    shortcut : {"A", "B"}
        Where a stage begins: zero padding, or a 1x1 convolution with BatchNorm.
    released : bool
        See `resnet20_released`.
    conv : callable
        Builds the convolutions within the blocks; the first convolution and the classifier stay in full precision.
    activation : callable
        `relu` as published; `hardtanh` for methods that take the sign of what a convolution gets.
    projection : callable
        Builds the convolutions of shortcuts of option B.
    """

    def __init__(
        self,
        blocks: int,
        classes: int,
        shortcut: Shortcut,
        released: bool,
        conv: MakeConv,
        activation: Function,
        in_channels: int = 3,
        projection: MakeConv = nn.Conv2d,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.Identity() if released else nn.BatchNorm2d(16)
        channels = [16, *[16] * blocks, *[32] * blocks, *[64] * blocks]
        stages = []
        for stage in range(3):
            first = stage * blocks
            stages.append(
                nn.Sequential(
                    *(
                        BasicBlock(
                            channels[i],
                            channels[i + 1],
                            2 if stage and i == first else 1,
                            shortcut,
                            conv,
                            activation,
                            projection,
                        )
                        for i in range(first, first + blocks)
                    )
                )
            )
        self.layer1, self.layer2, self.layer3 = stages
        self.bn2 = nn.BatchNorm1d(64) if released else nn.Identity()
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to logits (N, classes)."""
        x = self.activation(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.bn2(x.mean((2, 3))))


def _conv(method: Methods, bits: tuple[int | None, int | None], options: dict[str, Any]) -> MakeConv:
    return nn.Conv2d if method is None else partial(QuantConv2d, method=method, bits=bits, **options)


def needs_signs(method: Methods, bits: tuple[int | None, int | None]) -> bool:
    """Whether the inputs are quantized by a method that knows signed ones only: there must be no ReLU before it.

    >>> needs_signs("irnet", (1, 1)), needs_signs(("irnet", "pact"), (1, 2)), needs_signs("irnet", (1, None))
    (True, False, False)
    """
    if method is None or bits[1] is None:
        return False
    for_inputs = registry.method(method if isinstance(method, str) else method[1])
    return "signed_activation" in for_inputs.roles and "activation" not in for_inputs.roles


def _activation(method: Methods, bits: tuple[int | None, int | None]) -> Function:
    return ACTIVATIONS["hardtanh" if needs_signs(method, bits) else "relu"]


def resnet(
    depth: int,
    method: Methods = None,
    bits: tuple[int | None, int | None] = (None, None),
    *,
    classes: int = 10,
    shortcut: Shortcut = "A",
    activation: Function | None = None,
    **options: Any,
) -> ResNet:
    """ResNet-20, -32, -44, -56, ... as published; with `method`, the convolutions within the blocks are quantized.

    Behind a ReLU all signs are +: the default of `activation` is `relu`, but `hardtanh` for methods that know signed
    inputs only, such as IR-Net.

    Raises
    ------
    ValueError
        If `depth` is not 6 n + 2.

    >>> sum(p.numel() for p in resnet(56).parameters())
    853018
    """
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"depth must be 6 n + 2 with n at least 1, such as 20, got {depth}")
    activation = activation or _activation(method, bits)
    conv = _conv(method, bits, options)
    return ResNet((depth - 2) // 6, classes, shortcut, released=False, conv=conv, activation=activation)


def resnet20(method: Methods = None, bits: tuple[int | None, int | None] = (None, None), **options: Any) -> ResNet:
    """ResNet-20 as published: `resnet` of depth 20, with its options.

    >>> sum(p.numel() for p in resnet20().parameters())
    269722
    >>> import torch
    >>> resnet20("daq", (1, 1))(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    return resnet(20, method, bits, **options)


def resnet20_apot(
    method: Methods = None,
    bits: tuple[int | None, int | None] = (None, None),
    *,
    classes: int = 10,
    activation: Function | None = None,
    **options: Any,
) -> ResNet:
    """The network of APoT's released code: shortcuts of option B, whose convolutions are quantized as well.

    The first convolution and the classifier have weights of 8 bits there, which are plain numbers here: a checkpoint
    of that code is rounded when it is loaded.
    """
    activation, conv = activation or _activation(method, bits), _conv(method, bits, options)
    return ResNet(3, classes, "B", released=False, conv=conv, activation=activation, projection=conv)


def resnet8(
    method: Methods = None,
    bits: tuple[int | None, int | None] = (None, None),
    *,
    classes: int = 10,
    activation: Function | None = None,
    released: bool = False,
    **options: Any,
) -> ResNet:
    """ResNet-20 with one block a stage, for grey images such as 8x8 digits; 6 convolutions are quantized.

    With ``released``, it differs from it as `resnet20_released` does.

    >>> sum(p.numel() for p in resnet8().parameters())
    75002
    """
    activation = activation or _activation(method, bits)
    conv = _conv(method, bits, options)
    return ResNet(1, classes, "A", released=released, conv=conv, activation=activation, in_channels=1)


def resnet20_released(
    method: Methods = None,
    bits: tuple[int | None, int | None] = (None, None),
    *,
    classes: int = 10,
    activation: Function | None = None,
    **options: Any,
) -> ResNet:
    """The network in DAQ's released code, whose checkpoints the paper's Table 5 can be tested with.

    Against ResNet-20: no BatchNorm after the first convolution (its parameters are in the checkpoints, unused), and a
    BatchNorm over the 64 features before the classifier.
    """
    activation, conv = activation or _activation(method, bits), _conv(method, bits, options)
    return ResNet(3, classes, "A", released=True, conv=conv, activation=activation)
