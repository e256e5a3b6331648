"""What the parameters and the schedules in the checkpoints that DAQ's authors released tell of the network's layers.

Each function returns a number, and what explains it, by name; `torchimpl.history` reads the training recipe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torchimpl.history import Fact


def without_quantizer(content: Mapping[str, Any]) -> Fact:
    """Layers that have weights and no quantizer, and how many have one (`uW`, the weights' upper bound).

    >>> import torch
    >>> weight = torch.zeros(2, 2)
    >>> without_quantizer({"state_dict": {"a.weight": weight, "b.weight": weight, "b.uW": torch.ones(())}})
    (1, {'layers': 'a', 'quantized': 1})
    """
    state = content["state_dict"]
    layers = [name.removesuffix(".weight") for name, value in state.items() if _is_layer(name, value)]
    plain = [name for name in layers if f"{name}.uW" not in state]
    return len(plain), {"layers": ", ".join(plain), "quantized": len(layers) - len(plain)}


def _is_layer(name: str, value: Any) -> bool:
    return name.endswith(".weight") and value.ndim > 1  # BatchNorm's weights have one dimension


def input_lower_bounds(content: Mapping[str, Any]) -> Fact:
    """Layers whose inputs have a learned lower bound (`lA`), and how many have an upper one (`uA`)."""
    lower, upper = (sum(name.endswith(end) for name in content["state_dict"]) for end in (".lA", ".uA"))
    return lower, {"upper": upper}


def cosine_length(content: Mapping[str, Any]) -> Fact:
    """Epochs over which cosine annealing takes both optimizers' rates to 0; NaN where it does not.

    Only `CosineAnnealingLR` has `T_max` and `eta_min` in its state, and after ``T_max`` epochs the rates are `eta_min`.
    """
    schedules = [content[key] for key in ("scheduler_dict", "q_scheduler_dict")]
    lengths = {schedule.get("T_max", math.nan) for schedule in schedules}
    ends = [rate for schedule in schedules for rate in schedule.get("_last_lr", [math.nan])]
    length = lengths.pop() if len(lengths) == 1 else math.nan
    return length, {"last rate": max(ends), "schedules": len(schedules)}
