"""Files of the safetensors format: a header in JSON, then the tensors' bytes; read strictly.

The format is published with its checks at github.com/huggingface/safetensors: the first eight bytes are the header's
length, the header gives each tensor's type, shape and place, and the places cover what follows without hole or overlap.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LENGTH = 8  # bytes of the header's length, a little-endian whole number
MAX_HEADER = 4 * 2**20
MAX_NUMBER = 2**53  # a shape beyond it is no shape
METADATA = "__metadata__"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def is_safetensors(start: bytes, size: int) -> bool:
    """Whether a file of `size` bytes, of which `start` are the first nine or more, looks like one of this format.

    >>> is_safetensors((2).to_bytes(8, "little") + b"{}", 10)
    True
    """
    return start[LENGTH : LENGTH + 1] == b"{" and LENGTH + int.from_bytes(start[:LENGTH], "little") <= size


def read(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file; its metadata, words about them, are left out.

    Raises
    ------
    ValueError
        If anything about the file is not as the format demands, or a type is none that a network's parameters have;
        the message says what, without the file's name.
    OSError
        If it cannot be read.
    """
    content = path.read_bytes()
    length = int.from_bytes(content[:LENGTH], "little")
    if length > min(MAX_HEADER, len(content) - LENGTH):
        raise ValueError(f"its header has {length} bytes; at most {MAX_HEADER}, within the file, are admitted")
    try:
        header = json.loads(content[LENGTH : LENGTH + length].decode(), object_pairs_hook=_without_doubles)
    except RecursionError:
        raise ValueError("its header is nested too deep") from None
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    header.pop(METADATA, None)
    data = content[LENGTH + length :]
    entries = {name: _entry(name, entry) for name, entry in header.items()}
    reached = 0
    for begin, end in sorted((begin, end) for _, _, begin, end in entries.values()):
        if begin != reached:
            raise ValueError(f"its tensors overlap, or leave a hole, at byte {min(begin, reached)} of the data")
        reached = end
    if reached != len(data):
        raise ValueError(f"its tensors take {reached} of the {len(data)} bytes behind the header")
    return {name: _tensor(name, data[begin:end], kind, shape) for name, (kind, shape, begin, end) in entries.items()}


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its header names something twice")
    return found


def _entry(name: str, entry: Any) -> tuple[torch.dtype, tuple[int, ...], int, int]:
    """Return type, shape and place of a tensor as the header has them."""
    match entry:
        case {"dtype": str(kind), "shape": [*shape], "data_offsets": [begin, end], **rest} if not rest:
            numbers = [*shape, begin, end]
            if kind not in DTYPES:
                raise ValueError(f"{name!r} is of type {kind[:20]!r}; admitted: {', '.join(DTYPES)}")
            if all(type(number) is int and 0 <= number <= MAX_NUMBER for number in numbers):
                if end - begin != math.prod(shape) * DTYPES[kind].itemsize:
                    raise ValueError(f"{name!r} has {end - begin} bytes, which are not those of {kind} {shape}")
                return DTYPES[kind], tuple(shape), begin, end
    raise ValueError(f"{name!r} has no dtype, shape and data_offsets of the format")


def _tensor(name: str, content: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if not content:
        return torch.empty(shape, dtype=dtype)
    if dtype == torch.bool and max(content) > 1:
        raise ValueError(f"{name!r} has a truth value other than 0 and 1")
    return torch.frombuffer(bytearray(content), dtype=dtype).reshape(shape)
