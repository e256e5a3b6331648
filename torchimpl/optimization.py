"""What an optimizer is given: the parameters of a network, and those of its quantizers, apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from torchimpl.layers import QuantizedLayer
from torchimpl.quantizers.base import Quantizer


def parameter_groups(
    model: nn.Module, *, network: Mapping[str, Any] | None = None, quantizers: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Put clip ranges, step sizes and output scales in a group of their own, for rates and weight decay of their own.

    Parameters
    ----------
    model : Module
        With quantized layers, or quantizers as parametrizations, anywhere.
    network : mapping, optional
        What an optimizer is told of weights, biases and normalisations: ``{"lr": 0.1, "weight_decay": 1e-4}``.
    quantizers : mapping, optional
        What it is told of the quantizers' parameters and the output scales.

    Returns
    -------
    list of dict
        The two groups, each in the order of ``model.parameters()``, for any optimizer of torch. Either may be empty.

    Raises
    ------
    ValueError
        If what an optimizer is told includes the parameters themselves.

    Examples
    --------
    >>> import torch
    >>> from torchimpl.layers import QuantLinear
    >>> layer = QuantLinear(8, 2, method="lsq", bits=(4, 4))
    >>> groups = parameter_groups(layer, network={"weight_decay": 1e-4}, quantizers={"lr": 1e-3, "weight_decay": 0.0})
    >>> [len(group["params"]) for group in groups]
    [2, 2]
    >>> optimizer = torch.optim.SGD(groups, lr=0.1)
    """
    parts = list(model.modules())
    own = {id(parameter) for part in parts if isinstance(part, Quantizer) for parameter in part.parameters()}
    own |= {id(part.scale) for part in parts if isinstance(part, QuantizedLayer)}
    found: list[dict[str, Any]] = []
    for name, told, belongs in (("network", network, False), ("quantizers", quantizers, True)):
        if "params" in (told or {}):
            raise ValueError(
                f"{name} must be options of an optimizer, got 'params' among them, which come from the model"
            )
        found.append({**(told or {}), "params": [p for p in model.parameters() if (id(p) in own) is belongs]})
    return found
