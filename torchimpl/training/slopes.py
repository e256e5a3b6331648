"""Shape and level of a slope, apart: networks that differ in the backward pass of their activations only.

DAQ's kernel sets both: how the slope varies over a cell, and how large it is. Levels multiply from layer to layer. Here
a quantizer's slope is multiplied by a constant, so that shape and level can be crossed. Everything else is the same in
all arms: forward pass, quantizer of the weights (straight-through), clip ranges and scales, which are not learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from reference import checks
from torchimpl.layers import QuantizedLayer
from torchimpl.models import NETWORKS
from torchimpl.quantizers.base import Quantizer

SHAPES: Mapping[str, tuple[str, str]] = {  # method and variant of the activations' quantizer
    "flat": ("ste", "half_down"),
    "coth, paper": ("daq", "paper"),
    "coth, released": ("daq", "released"),
}


def methods(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the methods of a network that `with_slopes` or `with_gain` builds with these options.

    >>> methods({"network": "resnet8", "method": "dasr", "gain": 1.3}), methods({"network": "resnet8", "shape": "flat"})
    (('dasr',), ('ste', 'daq'))
    """
    own = [options["method"]] if "method" in options else [method for method, _ in SHAPES.values()]
    return tuple(dict.fromkeys(own))


class _ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


def with_slopes(network: str, shape: str, factor: float, bits: int = 1) -> nn.Module:
    """Build a network whose activations have slopes of a shape, times a factor.

    Parameters
    ----------
    network : str
        In `torchimpl.models.NETWORKS`.
    shape : str
        In `SHAPES`.
    factor : float
        What the slopes are multiplied by.
    bits : int
        Of weights and activations.

    Raises
    ------
    ValueError
        If there is no such network or shape, or the factor is not positive.

    Examples
    --------
    >>> type(with_slopes("resnet8", "coth, paper", 0.8).layer1[0].conv1.input_quantizer).__name__
    'DAQ'
    """
    if network not in NETWORKS:
        raise checks.refuse("network", network, f"one of {', '.join(NETWORKS)}")
    if shape not in SHAPES:
        raise checks.refuse("shape", shape, f"one of {', '.join(SHAPES)}")
    factor = checks.check_scalar("factor", factor, 1e-6, 1e6)
    method, variant = SHAPES[shape]
    options: dict[str, Any] = {"weight_options": {"variant": "half_down"}, "input_options": {"variant": variant}}
    model = NETWORKS[network](("ste", method), (bits, bits), **options)
    for layer in model.modules():
        if isinstance(layer, QuantizedLayer):
            layer.input_quantizer.register_forward_pre_hook(
                lambda _, inputs: (_ScaledGradient.apply(inputs[0], factor),)  # type: ignore[no-untyped-call]
            )
            if layer.scale is not None:
                layer.scale.requires_grad_(False)
        elif isinstance(layer, Quantizer):
            layer.requires_grad_(False)
    return model


def with_gain(network: str, method: str, gain: float, **options: Any) -> nn.Module:
    """Build a 1/1-bit network whose quantizers' gradients, for inputs and clip ranges alike, are multiplied by `gain`.

    DASR with rounding forward and its slope at beta* backward, with the gain coth(gamma/2), is DAQ.

    Parameters
    ----------
    network : str
        In `torchimpl.models.NETWORKS`.
    method, **options
        Of the quantizers.
    gain : float

    Examples
    --------
    >>> model = with_gain("resnet8", "dasr", 1.313, variant="combined_ste_adaptive")
    >>> type(model.layer1[0].conv1.weight_quantizer).__name__
    'DASR'
    """
    gain = checks.check_scalar("gain", gain, 1e-6, 1e6)
    model = NETWORKS[network](method, (1, 1), **options)
    for part in model.modules():
        if isinstance(part, Quantizer):
            part.register_forward_hook(lambda _, __, output: _ScaledGradient.apply(output, gain))  # type: ignore[no-untyped-call]
    return model


def gradient_norms(model: nn.Module, images: Tensor, labels: Tensor) -> list[float]:
    """Return the norm of the loss's gradient for the weights of each quantized layer, in order, in training mode."""
    model.train()
    weights = [layer.weight for layer in model.modules() if isinstance(layer, QuantizedLayer)]
    loss = nn.functional.cross_entropy(model(images), labels)
    return [float(gradient.norm()) for gradient in torch.autograd.grad(loss, weights)]
