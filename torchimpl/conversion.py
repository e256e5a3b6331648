"""Quantize somebody's network, by other layers in place of its own, or a layer's weights, by a parametrization."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from reference import grid, registry
from torchimpl.layers import Bits, QuantConv2d, QuantLinear, channel_options, check_weights, pair
from torchimpl.quantizers import build
from torchimpl.quantizers.base import Quantizer, calibrating
from torchimpl.statistics import Standardize

Layer: TypeAlias = nn.Conv2d | nn.Linear
SIGNED = "signed_activation"
# Modules of torch that read the weights of their linear layers and never call them; not every torch has the second.
READERS = tuple(getattr(nn, name) for name in ("MultiheadAttention", "LinearCrossEntropyLoss") if hasattr(nn, name))


def quantize_weight(
    layer: nn.Module,
    method: str = "daq",
    bits: int = 2,
    *,
    name: str = "weight",
    channelwise: bool | None = None,
    **options: Any,
) -> nn.Module:
    """Quantize a layer's weights by torch's parametrizations: standardised first, where the method has it.

    What the layer then computes with are the method's levels as they stand, for DAQ -1 to 1, in place of weights whose
    deviation may be a hundredth of that. A normalisation behind the layer takes that up; `QuantConv2d` and
    `QuantLinear` have a scale for it. Weights as torch draws them are uniform, none beyond 1.74 deviations: on DAQ's
    clip range, 3 deviations either way, that is two of its four 2-bit levels, until training has spread them.

    Parameters
    ----------
    layer : Module
        Any that has the parameter `name`. First values are taken from it at once, in training mode.
    method, bits, **options
        As for `torchimpl.quantizers.build`.
    name : str
        Which parameter.
    channelwise : bool, optional
        Parameters for each output channel, the first axis; by default as the method has it.

    Returns
    -------
    Module
        `layer`.

    Raises
    ------
    ValueError
        If the layer has no such parameter, it is quantized already, or a setting is refused.

    Examples
    --------
    >>> layer = quantize_weight(nn.Linear(64, 64), "daq", bits=1)
    >>> layer.weight.unique().tolist()
    [-1.0, 1.0]
    """
    if parametrize.is_parametrized(layer, name):
        raise grid.refuse(name, "a parametrized one", "a plain parameter of the layer")
    weight = dict(layer.named_parameters(recurse=False)).get(name)
    if weight is None or weight.dim() == 0:
        known = ", ".join(key for key, _ in layer.named_parameters(recurse=False)) or "it has none"
        raise grid.refuse("name", name, f"one of the layer's parameters: {known}")
    known_method = registry.method(method)
    own = channel_options(known_method, weight, channelwise)
    if own and getattr(layer, "transposed", False):
        raise grid.refuse("channelwise", channelwise, "False for a transposed convolution: its first axis is the input")
    quantizer = build(method, bits=bits, role="weight", **own, **options).to(weight.device)
    check_weights(weight, standardized=known_method.standardized)
    standardized = [Standardize()] if known_method.standardized else []
    if isinstance(quantizer, Quantizer) and quantizer.has_first_values and not standardized:
        quantizer.initialize(weight.detach())  # it sets nothing, and refuses weights that have no levels
    with calibrating():  # the weights at hand are what first values are taken from, on every rank
        for part in (*standardized, quantizer):
            parametrize.register_parametrization(layer, name, part)
    return layer


def quantize_model(
    module: nn.Module,
    method: str | tuple[str, str] = "daq",
    bits: Bits = (2, 2),
    *,
    keep_ends: bool = True,
    keep: Collection[str] = (),
    example: Tensor | None = None,
    input_role: str | None = None,
    **options: Any,
) -> nn.Module:
    """Replace the convolutions and linear layers of a network by quantized ones, which share their parameters.

    Weights stay as they are; clip ranges, step sizes and scales have no values until `torchimpl.calibrate`, or in one
    process the first batch in training mode, sets them.

    Parameters
    ----------
    module : Module
        Its layers are replaced in place: those whose type is Conv2d or Linear. Other types, subclasses of these two
        among them, stay as they are, and so do layers whose weights torch reads without calling them (the projections
        of MultiheadAttention). A TransformerEncoder no longer takes its fast path in test mode, which reads weights,
        nor makes padded batches nested. If it is itself a layer to replace, what replaces it is returned
        (``keep_ends=False``).
    method, bits, **options
        As for `QuantConv2d`.
    keep_ends : bool
        Keep the first and the last layer in full precision, as the papers do.
    keep : collection of str
        Names of further layers that stay in full precision, as in ``module.named_modules()``.
    example : Tensor, optional
        A batch to run through the network, in test mode. It tells in which order layers are used, and which inputs
        have negative values and are to be quantized as signed.
    input_role : {"activation", "signed_activation"}, optional
        Of all inputs, without `example`, which tells; by default "activation", unless the method knows signed ones
        only: IR-Net takes signs, which behind a ReLU are all +. Layers are then in the order in which the network
        defines them.

    Returns
    -------
    Module
        `module`, or the layer that replaces it.

    Raises
    ------
    ValueError
        If no layer is left to quantize, a name in `keep` is unknown, `example` leaves a layer unused or shows inputs
        that the method does not know, `input_role` is one that it does not know or comes with `example`, or a layer
        pads with other values than zero.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))
    >>> [type(layer).__name__ for layer in quantize_model(net, "lsq", (4, 4))]
    ['Conv2d', 'ReLU', 'QuantConv2d', 'ReLU', 'Conv2d']
    """
    read = {id(child) for parent in module.modules() if isinstance(parent, READERS) for child in parent.children()}
    layers: dict[str, Any] = {
        name: m for name, m in module.named_modules() if type(m) in (nn.Conv2d, nn.Linear) and id(m) not in read
    }
    unknown = sorted(set(keep) - set(layers))
    if unknown:
        raise grid.refuse("keep", unknown, "names of its layers: " + (", ".join(layers) or "it has none"))
    bits = pair("bits", bits)
    if input_role is not None and example is not None:
        raise grid.refuse("input_role", input_role, "None, as `example` tells which inputs are signed")
    for_inputs = registry.method(pair("method", (method, method) if isinstance(method, str) else method)[1])
    only = [role for role in for_inputs.roles if role != "weight"]
    admitted_roles = only if bits[1] is not None else grid.ROLES[1:]
    if input_role is None:
        input_role = "activation" if bits[1] is None else for_inputs.input_role
    elif input_role not in admitted_roles:
        raise grid.refuse("input_role", input_role, f"{' or '.join(admitted_roles)} for {for_inputs.title}")
    roles = dict.fromkeys(layers, input_role) if example is None else _roles_by_use(module, layers, example)
    order = list(roles)
    ends = {order[0], order[-1]} if keep_ends and order else set()
    chosen = [name for name in order if name not in ends and name not in keep]
    others = [name for name in chosen if roles[name] not in only] if bits[1] is not None else []
    if others:
        kind = "of both signs (behind Hardtanh, say)" if only == [SIGNED] else "never negative (behind ReLU, say)"
        admitted = f"{kind}, or kept in full precision (keep=...): {for_inputs.title} knows no others"
        raise grid.refuse("inputs of layers to quantize", others, admitted)
    if not chosen:
        kept = ", ".join(sorted(ends | set(keep))) or "none"
        raise grid.refuse("module", type(module).__name__, f"a network with layers to quantize (kept: {kept})")
    replaced = {id(layers[name]): _quantized(name, layers[name], method, bits, roles[name], options) for name in chosen}
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):  # named_children() leaves out what stands there twice
            if id(child) in replaced:
                setattr(parent, name, replaced[id(child)])
    for encoder in module.modules():
        if isinstance(encoder, nn.TransformerEncoder) and any(isinstance(m, QuantLinear) for m in encoder.modules()):
            encoder.use_nested_tensor = False  # of padded batches, which only the layers that it calls itself take
    return replaced.get(id(module), module)


def _roles_by_use(module: nn.Module, layers: dict[str, Layer], example: Tensor) -> dict[str, str]:
    """Run a batch; return the role of each layer's inputs, in the order of their first use."""
    roles: dict[str, str] = {}

    def note(name: str, x: Tensor) -> None:
        signed = bool((x < 0).any()) or roles.get(name) == SIGNED
        roles[name] = SIGNED if signed else "activation"

    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs[0]))
        for name, layer in layers.items()
    ]
    modes = {m: m.training for m in module.modules()}
    try:
        with torch.no_grad():
            module.eval()(example)
    finally:
        for hook in hooks:
            hook.remove()
        for m, training in modes.items():
            m.training = training
    unused = sorted(set(layers) - set(roles))
    if unused:
        raise grid.refuse("example", tuple(example.shape), f"a batch that uses every layer; unused: {unused}")
    return roles


def _quantized(
    name: str, layer: Layer, method: str | tuple[str, str], bits: Bits, role: str, options: dict[str, Any]
) -> nn.Module:
    """Build the quantized layer that shares a layer's parameters."""
    settings: dict[str, Any] = {"method": method, "bits": bits, "input_role": role, **options}
    settings["bias"] = layer.bias is not None
    new: QuantConv2d | QuantLinear
    if isinstance(layer, nn.Conv2d):
        if layer.padding_mode != "zeros":
            raise grid.refuse(f"padding_mode of {name}", layer.padding_mode, "zeros")
        for attribute in ("kernel_size", "stride", "padding", "dilation", "groups"):
            settings[attribute] = getattr(layer, attribute)
        new = QuantConv2d(layer.in_channels, layer.out_channels, **settings)
    else:
        new = QuantLinear(layer.in_features, layer.out_features, **settings)
    new.to(layer.weight.device)
    new.weight, new.bias = layer.weight, layer.bias
    return new.train(layer.training)
