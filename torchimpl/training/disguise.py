"""DAQ's weights as straight-through weights in disguise.

Schoenbauer et al. (arXiv 2405.05171): gradient descent on weights whose quantizer has a slope g behaves, to first order
in the rate, like straight-through descent on M(w) with M' = alpha / g and the rate times alpha, where alpha is g's
harmonic mean over a cell. For DAQ's slope all of it is in closed form (`reference.daq_theory`): M fixes levels and
transition points, so that both networks compute the same from the same codes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from reference import daq_theory
from torchimpl.calibration import calibrate
from torchimpl.layers import QuantizedLayer
from torchimpl.models import NETWORKS
from torchimpl.quantizers.base import SETTINGS, Quantizer
from torchimpl.quantizers.ste import STE
from torchimpl.statistics import standardize


def build(network: str, variant: str, images: Tensor, bits: int = 1) -> nn.Module:
    """Build a network for the exact experiment: calibrated once, then everything but weights is frozen.

    The weights are those that the quantizers see: standardised once, with statistics that then stay. Activations have
    the straight-through estimator. In float64.

    Parameters
    ----------
    network : str
        In `torchimpl.models.NETWORKS`.
    variant : {"paper", "released"}
        Of DAQ's kernel.
    images : Tensor
        The batch to calibrate with.
    bits : int
        Of weights and activations.
    """
    options: dict[str, Any] = {"weight_options": {"variant": variant}, "input_options": {"variant": "half_down"}}
    model = calibrate(NETWORKS[network](("daq", "ste"), (bits, bits), **options).double(), images)
    for layer in _layers(model):
        with torch.no_grad():
            layer.weight.copy_(standardize(layer.weight))
        layer.standardized = False
        if layer.scale is not None:
            layer.scale.requires_grad_(False)
    for part in model.modules():
        if isinstance(part, Quantizer):
            part.requires_grad_(False)
    return model


def _layers(model: nn.Module) -> list[QuantizedLayer]:
    return [layer for layer in model.modules() if isinstance(layer, QuantizedLayer)]


def disguised(layer: QuantizedLayer) -> Tensor:
    """Return M of a layer's weights: within the clip range cell by cell, outside as they are."""
    quantizer = layer.weight_quantizer
    lower, upper, n = float(quantizer.lower), float(quantizer.upper), quantizer.n
    w = layer.weight.detach()
    x = ((w - lower) / (upper - lower) * n).numpy()
    mapped = daq_theory.straight_through_map(x, **_parameters(quantizer))
    return torch.where((w > lower) & (w < upper), torch.from_numpy(mapped) / n * (upper - lower) + lower, w)


def _parameters(quantizer: Any) -> dict[str, Any]:
    return {"gamma": quantizer.gamma, "sigma": quantizer.sigma, "variant": quantizer.variant}


def straight_through(model: nn.Module, *, mapped: bool = True) -> nn.Module:
    """Return a copy whose weights have the straight-through estimator; `mapped`: and begin at M of the model's."""
    other = copy.deepcopy(model)
    for layer, own in zip(_layers(other), _layers(model), strict=True):
        if mapped:
            with torch.no_grad():
                layer.weight.copy_(disguised(own))
        quantizer = own.weight_quantizer
        plain = STE(quantizer.bits, "weight", variant="half_down").double()
        plain.load_state_dict({k: v for k, v in quantizer.state_dict().items() if k != SETTINGS})
        layer.weight_quantizer = plain.requires_grad_(False).train(quantizer.training)
    return other


def descend(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], rate: float, quantized_rate: float) -> None:
    """Plain gradient descent: no momentum, no decay, and a rate of its own for quantized weights."""
    weights = [layer.weight for layer in _layers(model)]
    chosen = {id(weight) for weight in weights}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    optimizer = torch.optim.SGD([{"params": others, "lr": rate}, {"params": weights, "lr": quantized_rate}])
    model.train()
    for images, labels in batches:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


BESIDE = 1e-6  # deviations, by which a control begins beside


class Distance(NamedTuple):
    """How far two networks are apart: of their weights, in deviations, and of their codes, as a share."""

    weights: float
    codes: float


def distance(model: nn.Module, other: nn.Module, *, mapped: bool = True) -> Distance:
    """Compare M of one network's weights (or these themselves) with another's weights, and the codes of both."""
    pairs = list(zip(_layers(model), _layers(other), strict=True))
    first = [disguised(a) if mapped else a.weight.detach() for a, _ in pairs]
    squares = sum(float((w - b.weight.detach()).square().sum()) for w, (_, b) in zip(first, pairs, strict=True))
    count = sum(a.weight.numel() for a, _ in pairs)
    with torch.no_grad():
        differ = sum(int((a.quantized_weight() != b.quantized_weight()).sum()) for a, b in pairs)
    return Distance(math.sqrt(squares / count), differ / count)


def compare(
    model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], rate: float, quantized_rate: float
) -> dict[str, Distance]:
    """Train a DAQ network, its disguise, and controls, on the same batches.

    Parameters
    ----------
    model : Module
        From `build`.
    batches : sequence of (Tensor, Tensor)
        Images and labels of each step.
    rate, quantized_rate : float
        Of the other parameters, and of quantized weights, which are in units of their first deviation.

    Returns
    -------
    dict of str to Distance
        From M of DAQ's weights: of the disguise ("M and alpha"). From DAQ's weights: of straight-through weights
        ("neither"), with alpha alone ("alpha alone"), of the same run begun 1e-6 beside ("chaos"), and of the
        beginning ("moved").
    """
    alpha = daq_theory.harmonic_mean_slope(**_parameters(_layers(model)[0].weight_quantizer))
    trained = copy.deepcopy(model)
    descend(trained, batches, rate, quantized_rate)
    found = {}
    for name, mapped, factor in (("M and alpha", True, alpha), ("alpha alone", False, alpha), ("neither", False, 1.0)):
        other = straight_through(model, mapped=mapped)
        descend(other, batches, rate, quantized_rate * factor)
        found[name] = distance(trained, other, mapped=mapped)
    beside = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    for layer in _layers(beside):
        noise = torch.randn(layer.weight.shape, generator=generator, dtype=layer.weight.dtype)
        layer.weight.data += BESIDE * noise
    descend(beside, batches, rate, quantized_rate)
    return {
        **found,
        "chaos": distance(trained, beside, mapped=False),
        "moved": distance(trained, model, mapped=False),
    }
