"""Training in bfloat16 on CPUs that have no instructions for it.

There torch multiplies bfloat16 an element at a time, and sums gradients of images in bfloat16, too: an epoch of
ResNet-20 takes 54 minutes of an AMD EPYC's core. What the instructions do is to sum products in float32 and to round
the result once. Done so with operations on float32, the epoch takes 5 minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

PRODUCTS = (F.conv2d, F.linear)


def products(device: str = "cpu") -> AbstractContextManager[Any]:
    """Return a context in which networks are trained in bfloat16 on a CPU at the speed that it admits.

    It changes nothing on other devices, and where the CPU has instructions for bfloat16; elsewhere, sums are taken in
    another order.
    """
    return RoundedProducts() if torch.device(device).type == "cpu" and not has_instructions() else nullcontext()


def has_instructions() -> bool:
    """Whether this CPU has what torch's convolutions need to multiply bfloat16."""
    found = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return found and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # torch documents no other way to ask


class RoundedProducts(TorchFunctionMode):
    """Under autocast to bfloat16, convolutions and linear layers round operands and results, and sum in float32.

    >>> x, weight = torch.full((1, 2), 1 + 2**-9), torch.ones(1, 2)
    >>> with RoundedProducts(), torch.autocast("cpu", dtype=torch.bfloat16):
    ...     F.linear(x, weight)
    tensor([[2.]], dtype=torch.bfloat16)
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call `func`, or what stands in for it."""
        named = dict(kwargs or {})
        if func not in PRODUCTS or not _narrowed(args[0] if args else named["input"]):
            return func(*args, **named)
        with torch.autocast("cpu", enabled=False):
            operands = [_rounded(value) for value in args]
            return func(*operands, **{name: _rounded(value) for name, value in named.items()}).bfloat16()


def _narrowed(x: Tensor) -> bool:
    """Whether autocast has products with `x` made in bfloat16 on the CPU."""
    narrowing = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return narrowing and x.is_cpu and x.dtype != torch.float64


def _rounded(value: Any) -> Any:
    """Round a tensor's elements to bfloat16, held in float32."""
    return value.bfloat16().float() if isinstance(value, Tensor) else value
