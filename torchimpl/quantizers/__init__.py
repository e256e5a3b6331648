"""Quantizers as modules: one file a method, of the same name as its file in ``reference``."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from reference import registry
from torchimpl.quantizers.base import Quantizer


def quantizer_class(method: str) -> type[Quantizer]:
    """Return the module class of a method.

    Raises
    ------
    ValueError
        If the suite has no such method.
    """
    registry.method(method)  # refuses an unknown name
    return importlib.import_module(f"torchimpl.quantizers.{method}").QUANTIZER


def build(method: str, *, bits: int | None, role: str, **options: Any) -> nn.Module:
    """Build the quantizer of a method by its name; for full precision (bits None) that is the identity.

    >>> build("daq", bits=2, role="weight")
    DAQ(bits=2, role=weight, variant=paper, gamma=2, sigma=1)
    """
    quantizer = quantizer_class(method)
    return nn.Identity() if bits is None else quantizer(bits=bits, role=role, **options)
