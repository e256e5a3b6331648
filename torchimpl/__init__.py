"""The PyTorch implementation: quantizers, layers, networks; conversion, calibration, evaluation, export."""

import importlib
from typing import Any

_PLACES = {
    "calibrate": "calibration",
    "dequantize_model": "conversion",
    "export_onnx": "onnx_export",
    "parameter_groups": "optimization",
    "plan_model": "conversion",
    "quantize_model": "conversion",
    "quantize_weight": "conversion",
}
__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:  # what is needed of the package does not depend on what else it offers
    if name in _PLACES:
        return getattr(importlib.import_module(f"torchimpl.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
