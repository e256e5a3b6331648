"""DSQ in training: networks that keep the clip range of the first batch, and what is looked at after each epoch."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import nn

from torchimpl.layers import QuantizedLayer
from torchimpl.models import NETWORKS
from torchimpl.quantizers.base import Quantizer
from torchimpl.quantizers.dsq import DSQ


def with_fixed_bounds(network: str, method: str, bits: int, **options: Any) -> nn.Module:
    """Build a network whose quantizers do not learn `lower` and `upper`.

    Parameters
    ----------
    network : str
        In `torchimpl.models.NETWORKS`.
    method, **options
        Of the quantizers.
    bits : int
        Of weights and activations.

    Examples
    --------
    >>> quantizer = with_fixed_bounds("resnet8", "dsq", 2).layer1[0].conv1.weight_quantizer
    >>> [name for name, p in quantizer.named_parameters() if p.requires_grad]
    ['alpha']
    """
    model = NETWORKS[network](method, (bits, bits), **options)
    for part in model.modules():
        if isinstance(part, Quantizer):
            for name in ("lower", "upper"):
                getattr(part, name).requires_grad_(False)
    return model


@torch.no_grad()
def weight_errors(model: nn.Module) -> list[float]:
    """Return the squared error of each layer's quantized weights, over the sum of their squares.

    >>> from torchimpl import calibrate
    >>> from torchimpl.layers import QuantLinear
    >>> layer = QuantLinear(2, 1, bias=False, method="ste", bits=(2, None), standardized=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, -1.2]]))
    >>> [round(error, 4) for error in weight_errors(calibrate(layer, torch.rand(4, 2)))]
    [0.4551]
    """
    found = []
    for layer in model.modules():
        if isinstance(layer, QuantizedLayer):
            w, quantizer = layer.raw_weight(), layer.weight_quantizer
            training = quantizer.training
            quantized = quantizer.eval()(w)
            quantizer.train(training)
            found.append(float((quantized - w).square().sum() / w.square().sum()))
    return found


def look(model: nn.Module) -> dict[str, float]:
    """Return the mean of `weight_errors`, and of DSQ the median alpha of weights and of activations.

    >>> from torchimpl import calibrate
    >>> model = calibrate(with_fixed_bounds("resnet8", "dsq", 2), torch.rand(8, 1, 8, 8))
    >>> sorted(look(model))
    ['alpha of activations', 'alpha of weights', 'error']
    """
    found = {"error": statistics.fmean(weight_errors(model))}
    alphas: dict[str, list[float]] = {"weight": [], "activation": []}
    for part in model.modules():
        if isinstance(part, DSQ):
            alphas[part.role].append(float(part.alpha.detach()))
    return found | {f"alpha of {role}s": statistics.median(some) for role, some in alphas.items() if some}
