"""Machine code of 64-bit ARM, run in this process on any host by unicorn, fenced in and counted.

A function sees its own code, a stack and its buffers, and nothing else is mapped: each buffer lies between pages whose
access ends the run. Inputs cannot be written. What the pages of a buffer hold beside it is compared afterwards.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from arm import build, counts
from reference.grid import Array

PAGE = 4096
CODE, STACK, RETURN, BUFFERS = 0x10_0000, 0x4000_0000, 0x5000_0000, 0x1_0000_0000
STACK_SIZE = 16 * PAGE
CANARY = 0xA5
Place = Literal["end", "start"]


@dataclass(frozen=True)
class Program:
    """A shared library as it lies in memory.

    Attributes
    ----------
    image : bytes
        From address 0 on.
    functions : dict from str to int
        Address of each exported function.
    """

    image: bytes
    functions: dict[str, int]


@cache
def load(path: Path) -> Program:
    """Read a shared library: ELF, 64-bit ARM.

    Raises
    ------
    ValueError
        If it is something else, or must be linked to others: has relocations or undefined functions.
    """
    content = path.read_bytes()
    if content[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<HH", content, 16) != (3, 183):
        raise ValueError(f"{path.name} is no shared library for 64-bit ARM")
    (segments,), (size, count) = struct.unpack_from("<Q", content, 32), struct.unpack_from("<HH", content, 54)
    image, dynamic = bytearray(), b""
    for at in range(segments, segments + size * count, size):
        kind, _, offset, address, _, in_file, in_memory, _ = struct.unpack_from("<IIQQQQQQ", content, at)
        if kind == 1:  # to be loaded
            image = image.ljust(address + in_memory, b"\0")
            image[address : address + in_file] = content[offset : offset + in_file]
        elif kind == 2:
            dynamic = content[offset : offset + in_file]
    tags = dict(struct.iter_unpack("<QQ", dynamic))
    if any(tags.get(tag) for tag in (2, 8)):  # sizes of relocations
        raise ValueError(f"{path.name} has relocations")
    functions = {}
    strings, symbols = tags[5], tags[6]
    (entries,) = struct.unpack_from("<I", image, tags[4] + 4)  # of the hash table: one for each symbol
    for at in range(symbols + 24, symbols + 24 * entries, 24):  # the first is empty
        name, _, _, section, address, _ = struct.unpack_from("<IBBHQQ", image, at)
        text = bytes(image[strings + name : image.index(0, strings + name)]).decode()
        if not section:
            raise ValueError(f"{path.name} lacks {text}")
        functions[text] = address
    return Program(bytes(image), functions)


def call(
    function: str,
    arguments: Sequence[Array],
    *,
    path: Path | None = None,
    count: bool = False,
    place: Place = "end",
    shift: int = 0,
) -> counts.Counts:
    """Call a function whose arguments are pointers, and change the arrays that it writes.

    Parameters
    ----------
    function : str
    arguments : sequence of ndarray
        At most eight, each contiguous. Those with ``flags.writeable`` False are inputs.
    path : Path, optional
        The shared library; without it, the suite's kernels (`arm.build.library`).
    count : bool
        Count what is executed; else the result is empty, and the run several times faster.
    place : {"end", "start"}
        Where in its pages each buffer lies, and so on which side the first byte outside of it cannot be touched.
    shift : int
        By how many bytes buffers stay away from that end of their pages: 0 to 64.

    Raises
    ------
    MissingToolchainError
        If unicorn, or what builds the kernels, is not installed.
    RuntimeError
        If the function touches, or has changed, memory outside of its buffers.
    """
    unicorn, names = _unicorn()
    program = load(path or build.library())
    machine = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
    machine.ctl_set_cpu_model(names.UC_CPU_ARM64_A53)
    machine.mem_map(CODE, _pages(len(program.image)), unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC)
    machine.mem_write(CODE, program.image)
    machine.mem_map(STACK, STACK_SIZE, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE)
    machine.mem_map(RETURN, PAGE, unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC)
    next_page, fences = BUFFERS, []
    for index, array in enumerate(arguments):
        content = array.tobytes()
        size = _pages(len(content) + shift)
        access = unicorn.UC_PROT_READ | (unicorn.UC_PROT_WRITE if array.flags.writeable else 0)
        machine.mem_map(next_page, size, access)
        before = size - len(content) - shift if place == "end" else shift
        fenced = bytes([CANARY]) * before + content + bytes([CANARY]) * (size - before - len(content))
        machine.mem_write(next_page, fenced)
        machine.reg_write(names.UC_ARM64_REG_X0 + index, next_page + before)
        fences.append((array, next_page, before, fenced))
        next_page += size + 16 * PAGE
    machine.reg_write(names.UC_ARM64_REG_CPACR_EL1, 3 << 20)  # NEON instructions are allowed
    machine.reg_write(names.UC_ARM64_REG_SP, STACK + STACK_SIZE)
    machine.reg_write(names.UC_ARM64_REG_LR, RETURN)
    blocks: dict[tuple[int, int], int] = {}
    if count:

        def executed(_: Any, address: int, size: int, __: Any) -> None:
            key = address, size
            blocks[key] = blocks.get(key, 0) + 1

        machine.hook_add(unicorn.UC_HOOK_BLOCK, executed, begin=CODE, end=CODE + len(program.image))
    try:
        machine.emu_start(CODE + program.functions[function], RETURN)
    except unicorn.UcError as error:
        at = machine.reg_read(names.UC_ARM64_REG_PC) - CODE
        raise RuntimeError(f"{function} left its buffers, or its instructions, at {at:#x}: {error}") from error
    for array, page, before, fenced in fences:
        if not array.flags.writeable:
            continue
        after = bytes(machine.mem_read(page, len(fenced)))
        end = before + array.nbytes
        if after[:before] != fenced[:before] or after[end:] != fenced[end:]:
            raise RuntimeError(f"{function} wrote outside of its buffers")
        array[...] = np.frombuffer(after, array.dtype, array.size, before).reshape(array.shape)
    found = ((program.image[at - CODE : at - CODE + size], times) for (at, size), times in blocks.items())
    return counts.of_blocks(found)


def _pages(size: int) -> int:
    return max(1, -(-size // PAGE)) * PAGE


@cache
def _unicorn() -> tuple[Any, Any]:
    try:
        import unicorn
        from unicorn import arm64_const
    except ImportError as error:
        raise build.MissingToolchainError(
            f"off ARM hosts, ARM kernels run under the package unicorn: {build.INSTALL}"
        ) from error
    return unicorn, arm64_const
