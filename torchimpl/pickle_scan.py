"""What torch's own reader does not check before it unpickles: how large a checkpoint is, and how its tuples nest.

Torch's ``weights_only`` reader admits nothing but tensors and plain containers. It still unpacks archives of any size,
and hashes tuples, which takes time exponential in their depth where each holds the one before it twice. Nothing here
executes a pickle: its opcodes are read, and the pickle machine is run with nothing but depths on its stack.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from pathlib import Path

MAX_PICKLE = 16 * 2**20  # bytes; that of a ResNet-20 has 30 thousand
MAX_DEPTH = 8  # of nested tuples; a tensor's entry has 2
OLD_FORMAT = 5  # pickles one after the other, then the tensors' bytes


def problem(path: Path, most_bytes: int) -> str:
    """Return what is wrong with a checkpoint file, or an empty string.

    Parameters
    ----------
    path : Path
        A file in either of torch's formats.
    most_bytes : int
        To which an archive may unpack.

    Raises
    ------
    ValueError, zipfile.BadZipFile
        If the file is no pickle, or damaged.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as stream:
            return nesting_problem(stream.read(MAX_PICKLE), OLD_FORMAT)
    with zipfile.ZipFile(path) as archive:
        total = sum(entry.file_size for entry in archive.infolist())
        if total > most_bytes:
            return f"unpacks to {total} bytes; at most {most_bytes} are admitted"
        for entry in archive.infolist():
            if entry.filename.endswith(".pkl"):
                if entry.file_size > MAX_PICKLE:
                    return f"holds a pickle of {entry.file_size} bytes; at most {MAX_PICKLE} are admitted"
                found = nesting_problem(archive.read(entry), 1)
                if found:
                    return found
    return ""


def nesting_problem(content: bytes, pickles: int) -> str:
    """Return what is wrong with the first `pickles` pickles of `content`, or an empty string.

    >>> import pickle
    >>> nesting_problem(pickle.dumps({"size": (3, (1, 2))}), 1)
    ''
    """
    stream = io.BytesIO(content)
    for _ in range(pickles):
        if _tuple_depth(stream) > MAX_DEPTH:
            return f"holds tuples nested over {MAX_DEPTH} deep"
    return ""


def _tuple_depth(stream: io.BytesIO) -> int:
    """Return how deeply the tuples of the next pickle nest; stops counting beyond MAX_DEPTH."""
    stack: list[int | None] = []  # how deeply each object's tuples nest; None is a mark
    memo: dict[object, int] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "MEMOIZE":
            memo[len(memo)] = stack[-1] or 0
        elif "PUT" in opcode.name:
            memo[argument] = stack[-1] or 0
        else:
            popped = _pop(stack, opcode.stack_before)
            depth = memo.get(argument, 0) if "GET" in opcode.name else 0
            if "TUPLE" in opcode.name:
                depth = 1 + max(popped, default=0)
            if depth > MAX_DEPTH:
                return depth
            stack.extend(None if kind is pickletools.markobject else depth for kind in opcode.stack_after)
    return 0


def _pop(stack: list[int | None], kinds: list[pickletools.StackObject]) -> list[int]:
    """Take what an opcode takes from the stack: single objects, and all down to a mark."""
    popped = []
    for kind in reversed(kinds):
        if kind is pickletools.stackslice:
            while stack and stack[-1] is not None:
                popped.append(stack.pop() or 0)
        elif stack:
            popped.append(stack.pop() or 0)
    return popped
