"""PROFIT's freezing of layers, in the order in which their outputs shift. Formulas are in `reference.duq`.

Held against the authors' code, github.com/EunhyeokPark/PROFIT. A whole schedule, where `step` and `train` are the
caller's own:

    average = dict.fromkeys(quantized_weights(model), 0.0)
    for images, labels in batches:  # some epochs, to measure
        before = quantized_weights(model)
        step(model, images, labels)
        for name, found in output_statistics(model, images, before).items():
            average[name] = average_shift(average[name], activation_shift(*found))
    for names in freezing_order(average):
        train(model)
        freeze(model, names)
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from reference import checks, grid
from torchimpl.calibration import all_else_unchanged
from torchimpl.layers import QuantizedLayer
from torchimpl.quantizers.base import Quantizer

Statistics: TypeAlias = tuple[grid.Array, grid.Array, grid.Array, grid.Array]


@torch.no_grad()
def quantized_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights of each layer with quantized weights, on their levels, by the layer's name in `model`.

    Parameters
    ----------
    model : Module
        With initialised quantizers. Its modes are afterwards what they were.
    """
    with _test_mode(model):
        return {name: layer.quantized_weight() for name, layer in _quantized_layers(model).items()}


@torch.no_grad()
def output_statistics(model: nn.Module, images: Tensor, before: Mapping[str, Tensor]) -> dict[str, Statistics]:
    """Mean and variance of each layer's outputs: with its quantized weights from `before`, and with those it has now.

    Both outputs are of the same inputs, those that the layer has now; so the other layers' updates don't count. The
    model is run once, as the code runs it: in training mode, so that batch normalisations take the statistics of the
    batch. Quantized layers are in test mode, on their levels. Afterwards modes, running statistics and random numbers
    are what they were. Of a layer that runs several times, the last run counts.

    Parameters
    ----------
    model : Module
        With initialised quantizers.
    images : Tensor
        One batch.
    before : mapping of str to Tensor
        `quantized_weights`, before an update.

    Returns
    -------
    dict of str to (ndarray, ndarray, ndarray, ndarray)
        By the names in `before`: mean and variance before, mean and variance now, of each channel, float64 of shape
        (C,), as `reference.duq.activation_shift` takes them. Variances are unbiased.

    Raises
    ------
    ValueError
        If a name is no layer of `model` with quantized weights.
    """
    layers = _layers_named(model, before)
    found: dict[str, Statistics] = {}

    def hook_of(name: str) -> Any:
        def hook(layer: Any, inputs: tuple[Tensor], output: Tensor) -> None:
            x = layer.input_quantizer(inputs[0])
            old, new = (_statistics(_outputs(layer, x, w), layer) for w in (before[name], layer.quantized_weight()))
            found[name] = (*old, *new)

        return hook

    hooks = [layer.register_forward_hook(hook_of(name)) for name, layer in layers.items()]
    try:
        with all_else_unchanged(model):
            model.train()
            for layer in model.modules():
                if isinstance(layer, QuantizedLayer | Quantizer):
                    layer.eval()
            model(images)
    finally:
        for handle in hooks:
            handle.remove()
    return found


def freeze(model: nn.Module, names: Collection[str]) -> None:
    """Stop the training of some layers: of ``weight``, and of ``bias`` where there is one.

    The rest goes on learning, as in the code: quantizers, those of frozen weights too, whose levels therefore still
    move; output scales; batch normalisations. Gradients already there are dropped: an optimizer would go on applying
    them, with momentum and weight decay.

    Parameters
    ----------
    model : Module
    names : collection of str
        As in `quantized_weights`.

    Raises
    ------
    ValueError
        If one of them is no layer of `model` with quantized weights; then none is frozen.
    """
    for layer in _layers_named(model, names).values():
        for parameter in (layer.weight, layer.bias):
            if parameter is not None:
                parameter.requires_grad_(False)
                parameter.grad = None


def _quantized_layers(model: nn.Module) -> dict[str, Any]:
    """Layers with quantized weights, by name, in the model's order."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, QuantizedLayer) and isinstance(layer.weight_quantizer, Quantizer)
    }


def _layers_named(model: nn.Module, names: Collection[str]) -> dict[str, Any]:
    """Layers with quantized weights that have these names. Raises ValueError if there is none of a name."""
    layers = _quantized_layers(model)
    for name in names:
        if name not in layers:
            raise checks.refuse(
                "name", name, f"a layer with quantized weights (there are {', '.join(layers) or 'none'})"
            )
    return {name: layers[name] for name in names}


def _outputs(layer: Any, x: Tensor, w: Tensor) -> Tensor:
    """What a layer makes of a quantized input, with these quantized weights."""
    w = w if layer.scale is None else w * layer.scale.abs()
    found = layer.linear_map(x, w)
    return found if layer.bias is None else found + layer.bias.view(layer.channel_shape)


def _statistics(output: Tensor, layer: QuantizedLayer) -> tuple[grid.Array, grid.Array]:
    """Mean and unbiased variance of each channel, in float64; of a constant one 0."""
    rows = output.double().movedim(-len(layer.channel_shape), 0).flatten(1)
    varies = rows.amin(1) < rows.amax(1)  # equal values can have a rounded mean
    return rows.mean(1).cpu().numpy(), torch.where(varies, rows.var(1), 0.0).cpu().numpy()


@contextmanager
def _test_mode(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training
