"""Quantize somebody's network: replace its convolutions and linear layers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from reference import grid, registry
from torchimpl.layers import Bits, QuantConv2d, QuantLinear, pair

Layer: TypeAlias = nn.Conv2d | nn.Linear
SIGNED = "signed_activation"


def quantize_model(
    module: nn.Module,
    method: str | tuple[str, str] = "daq",
    bits: Bits = (2, 2),
    *,
    keep_ends: bool = True,
    keep: Collection[str] = (),
    example: Tensor | None = None,
    input_role: str = "activation",
    **options: Any,
) -> nn.Module:
    """Replace the convolutions and linear layers of a network by quantized ones, which share their parameters.

    Weights stay as they are; clip ranges, step sizes and scales are set by the first batch in training mode.

    Parameters
    ----------
    module : Module
        Its layers are replaced in place: those whose type is Conv2d or Linear. Other types, subclasses of these two
        among them, stay as they are. If it is itself such a layer, what replaces it is returned (``keep_ends=False``).
    method, bits, **options
        As for `QuantConv2d`.
    keep_ends : bool
        Keep the first and the last layer in full precision, as the papers do.
    keep : collection of str
        Names of further layers that stay in full precision, as in ``module.named_modules()``.
    example : Tensor, optional
        A batch to run through the network, in test mode. It tells in which order layers are used, and which inputs
        have negative values and are to be quantized as signed.
    input_role : {"activation", "signed_activation"}
        Without `example`, for all inputs, but where the method knows one kind only: IR-Net takes signs, which behind a
        ReLU are all +. Layers are then in the order in which the network defines them.

    Returns
    -------
    Module
        `module`, or the layer that replaces it.

    Raises
    ------
    ValueError
        If no layer is left to quantize, a name in `keep` is unknown, `example` leaves a layer unused or shows inputs
        that the method does not know, or a layer pads with other values than zero.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))
    >>> [type(layer).__name__ for layer in quantize_model(net, "lsq", (4, 4))]
    ['Conv2d', 'ReLU', 'QuantConv2d', 'ReLU', 'Conv2d']
    """
    layers: dict[str, Any] = {name: m for name, m in module.named_modules() if type(m) in (nn.Conv2d, nn.Linear)}
    unknown = sorted(set(keep) - set(layers))
    if unknown:
        raise grid.refuse("keep", unknown, "names of its layers: " + (", ".join(layers) or "it has none"))
    roles = dict.fromkeys(layers, input_role) if example is None else _roles_by_use(module, layers, example)
    for_inputs = registry.method(pair("method", (method, method) if isinstance(method, str) else method)[1])
    only = [role for role in for_inputs.roles if role != "weight"]
    order = list(roles)
    ends = {order[0], order[-1]} if keep_ends and order else set()
    chosen = [name for name in order if name not in ends and name not in keep]
    if len(only) == 1:
        others = [name for name in chosen if roles[name] != only[0]] if example is not None else []
        if others:
            kind = "of both signs (behind Hardtanh, say)" if only == [SIGNED] else "never negative (behind ReLU, say)"
            admitted = f"{kind}, or kept in full precision (keep=...): {for_inputs.title} knows no others"
            raise grid.refuse("inputs of layers to quantize", others, admitted)
        roles = dict.fromkeys(roles, only[0])
    if not chosen:
        kept = ", ".join(sorted(ends | set(keep))) or "none"
        raise grid.refuse("module", type(module).__name__, f"a network with layers to quantize (kept: {kept})")
    replaced = {id(layers[name]): _quantized(name, layers[name], method, bits, roles[name], options) for name in chosen}
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):  # named_children() leaves out what stands there twice
            if id(child) in replaced:
                setattr(parent, name, replaced[id(child)])
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
