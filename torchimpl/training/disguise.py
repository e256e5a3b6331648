"""DAQ's weights as straight-through weights in disguise.

Schoenbauer et al. (arXiv 2405.05171): gradient descent on weights whose quantizer has a slope g behaves, to first order
in the rate, like straight-through descent on M(w) with M' = alpha / g and the rate times alpha, where alpha is g's
harmonic mean over a cell. For DAQ's slope all of it is in closed form (`reference.daq_theory`): M fixes levels and
transition points, so that both networks compute the same from the same codes.

The theorem is about plain gradient descent with all else held fixed (`descend`). `follow` trains by a real recipe, with
momentum, decay, and clip ranges and scales that learn: what comes of it is the departure from the theorem.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
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
from torchimpl.training import trainer
from torchimpl.training.batches import Batches
from torchimpl.training.recipe import Recipe


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
    model = calibrate(_network(network, variant, bits).double(), images)
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


def learning(network: str, variant: str, images: Tensor, start: Mapping[str, Tensor]) -> nn.Module:
    """Build the same network at 1/1 as it trains in earnest: from full precision, and everything learns."""
    model = _network(network, variant, 1)
    if unexpected := model.load_state_dict(start, strict=False).unexpected_keys:
        raise ValueError(f"the full-precision network is another: only it has {', '.join(unexpected[:3])}")
    return calibrate(model, images)


def _network(network: str, variant: str, bits: int) -> nn.Module:
    options: dict[str, Any] = {"weight_options": {"variant": variant}, "input_options": {"variant": "half_down"}}
    return NETWORKS[network](("daq", "ste"), (bits, bits), **options)


def _layers(model: nn.Module) -> list[QuantizedLayer]:
    return [layer for layer in model.modules() if isinstance(layer, QuantizedLayer)]


def seen(layer: QuantizedLayer) -> Tensor:
    """Return what a layer's quantizer sees of its weights."""
    return standardize(layer.weight.detach()) if layer.standardized else layer.weight.detach()


def disguised(layer: QuantizedLayer) -> Tensor:
    """Return M of what the quantizer sees: within the clip range cell by cell, outside as it is."""
    quantizer = layer.weight_quantizer
    lower, upper, n = quantizer.lower.item(), quantizer.upper.item(), quantizer.n
    w = seen(layer)
    x = ((w - lower) / (upper - lower) * n).numpy()
    mapped = torch.from_numpy(daq_theory.straight_through_map(x, **_parameters(quantizer))).to(w.dtype)
    return torch.where((w > lower) & (w < upper), mapped / n * (upper - lower) + lower, w)


def _parameters(quantizer: Any) -> dict[str, Any]:
    return {"gamma": quantizer.gamma, "sigma": quantizer.sigma, "variant": quantizer.variant}


def straight_through(model: nn.Module, *, mapped: bool = True) -> nn.Module:
    """Return a copy whose weights have the straight-through estimator; `mapped`: and begin at M of the model's.

    Where weights are standardised, the copy standardises M of them anew, and its clip range with them: it computes the
    same, but its ranges, which are wider than the model's in units of a step of theirs, learn somewhat slower.
    """
    other = copy.deepcopy(model)
    for layer, own in zip(_layers(other), _layers(model), strict=True):
        quantizer = own.weight_quantizer
        plain = STE(quantizer.bits, "weight", variant="half_down").to(own.weight.dtype)
        plain.load_state_dict({k: v for k, v in quantizer.state_dict().items() if k != SETTINGS})
        learns = any(p.requires_grad for p in quantizer.parameters())
        layer.weight_quantizer = plain.requires_grad_(learns).train(quantizer.training)
        if mapped:
            with torch.no_grad():
                m = disguised(own)
                layer.weight.copy_(m)
                if own.standardized:
                    deviation, mean = torch.std_mean(m)
                    layer.weight.mul_(own.weight.std())  # the raw weights' unit: a step is as large as the theorem's
                    for end in (plain.lower, plain.upper):
                        end.copy_((end - mean) / deviation)
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


def follow(model: nn.Module, recipe: Recipe, source: Batches, factor: float) -> None:
    """Train by a recipe, but for `factor` times the rate of quantized weights."""
    weights = [layer.weight for layer in _layers(model)]
    chosen = {id(weight) for weight in weights}
    optimizers = trainer.optimizers(model, recipe)
    sgd = optimizers[0]
    sgd.param_groups[0]["params"] = [p for p in sgd.param_groups[0]["params"] if id(p) not in chosen]
    sgd.add_param_group({"params": weights})
    steps = recipe.epochs * len(source)
    model.train()
    for epoch in range(recipe.epochs):
        for i, (images, labels) in enumerate(source.epoch(epoch)):
            trainer.schedule(model, optimizers, recipe, (epoch * len(source) + i) / steps)
            sgd.param_groups[1]["lr"] *= factor
            trainer.step(model, model, optimizers, recipe, images, labels)


BESIDE = 1e-6  # deviations, by which a control begins beside


class Distance(NamedTuple):
    """How far two networks are apart: of their weights, in deviations, and of their codes, as a share."""

    weights: float
    codes: float


View = Callable[[QuantizedLayer], Tensor]


def distance(model: nn.Module, other: nn.Module, of: View = disguised, of_other: View = seen) -> Distance:
    """Compare M of one network's weights with another's weights, or other views of both, and the codes of both.

    Weights are compared by where they lie in their clip ranges, in deviations of the first network's.
    """
    pairs = list(zip(_layers(model), _layers(other), strict=True))
    squares = 0.0
    for a, b in pairs:
        lower, upper = (end.detach() for end in (a.weight_quantizer.lower, a.weight_quantizer.upper))
        own_lower, own_upper = (end.detach() for end in (b.weight_quantizer.lower, b.weight_quantizer.upper))
        there = (of_other(b) - own_lower) / (own_upper - own_lower) * (upper - lower) + lower
        squares += float((of(a) - there).square().sum())
    count = sum(a.weight.numel() for a, _ in pairs)
    with torch.no_grad():
        differ = sum(int((a.quantized_weight() != b.quantized_weight()).sum()) for a, b in pairs)
    return Distance(math.sqrt(squares / count), differ / count)


def compare(model: nn.Module, train: Callable[[nn.Module, float], None]) -> dict[str, tuple[nn.Module, Distance]]:
    """Train a DAQ network, its disguise, and controls.

    Parameters
    ----------
    model : Module
        From `build` or `learning`.
    train : callable
        ``train(model, factor)`` trains a network with `factor` times the rate for quantized weights, on the same
        batches each time.

    Returns
    -------
    dict of str to (Module, Distance)
        Each network, trained, and how far it is. From M of DAQ's weights: the disguise ("M and alpha"), and M of the
        weights of the same run begun 1e-6 beside ("chaos"). From DAQ's weights: straight-through weights ("neither"),
        with alpha alone ("alpha alone"), and the beginning ("moved").
    """
    alpha = daq_theory.harmonic_mean_slope(**_parameters(_layers(model)[0].weight_quantizer))
    trained = copy.deepcopy(model)
    train(trained, 1.0)
    found = {}
    for name, mapped, factor in (("M and alpha", True, alpha), ("alpha alone", False, alpha), ("neither", False, 1.0)):
        other = straight_through(model, mapped=mapped)
        train(other, factor)
        found[name] = other, distance(trained, other, disguised if mapped else seen)
    beside = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    for layer in _layers(beside):
        noise = torch.randn(layer.weight.shape, generator=generator, dtype=layer.weight.dtype)
        layer.weight.data += BESIDE * (layer.weight.data.std() if layer.standardized else 1.0) * noise
    train(beside, 1.0)
    moved = trained, distance(trained, model, seen)
    return {**found, "chaos": (beside, distance(trained, beside, of_other=disguised)), "moved": moved}
