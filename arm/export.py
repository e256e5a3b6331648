"""Packed weights and thresholds as C headers, one a layer, with the kernels' sources: for builds of one's own."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from arm import build, deployment, kernels
from arm.deployment import PackedLayer
from reference import checks, exchange
from reference.grid import Array
from reference.requantization import IntegerLayer

DESCRIPTION = """\
Write integer layers as C headers: packed weights, thresholds, and a function that calls the kernels. A header, the C
files of arm/src and a compiler for 64-bit ARM are all that a build of one's own needs.
"""
EPILOG = """\
FILE holds integer layers (reference/exchange.py says how). From a checkpoint of a network, for a residual block:

  python -m torchimpl.deployment --checkpoint FILE --block layer1.0 --out block.npz
  python -m arm export block.npz --out DIR
  clang --target=aarch64-linux-gnu -O3 -I DIR -c yours.c DIR/*.c

Exit status: 0; 2 bad input.
"""
TAKEN = re.compile(  # words of C11, then names of a program, of types, and of the kernels
    "auto|break|case|char|const|continue|default|do|double|else|enum|extern|float|for|goto|if|inline|int|long|register|"
    "restrict|return|short|signed|sizeof|static|struct|switch|typedef|union|unsigned|void|volatile|while|"
    r"main|\w+_t|qg_\w+"
)
TYPES = {"int8": "int8_t", "uint8": "uint8_t", "int16": "int16_t", "int32": "int32_t"}


def header(name: str, layer: PackedLayer, size: tuple[int, int], batch: int = 1) -> str:
    """Return the text of a C header for a layer on inputs of one size.

    Parameters
    ----------
    name : str
        Of the layer; what C does not allow in names becomes an underscore.
    layer : PackedLayer
    size : tuple of int
        Rows and columns of its input.
    batch : int
        Images at a time.

    Returns
    -------
    str
        With arrays, sizes as an enum, and a function ``NAME(x, sums, work, codes)``, or without requantization
        ``NAME(x, sums, work)``.

    Raises
    ------
    ValueError
        If the kernel does not fit into the padded image, or the name has no letter or digit.

    >>> codes = np.array([[[[1]], [[0]]]], np.uint8)
    >>> text = header("layer1.0.conv1", deployment.pack(IntegerLayer(codes, -1, 2, (1, 1))), (4, 4))
    >>> "static void layer1_0_conv1(const uint8_t *x, int32_t *sums, uint8_t *work)" in text
    True
    """
    own = identifier(name)
    shape = (batch, *size, layer.packed.shape[3])
    plans = [kernels.plan_conv2d(np.zeros(shape, np.uint8), layer.packed, stride=layer.stride, padding=layer.padding)]
    sums = plans[0].arguments["sums"]
    if layer.thresholds is not None:
        limits, falling = layer.thresholds.values, layer.thresholds.falling
        plans.append(kernels.plan_requantize(sums, limits, falling=falling))
    buffers: dict[str, Array] = {}
    constants: list[str] = []
    calls: list[str] = []
    declared: list[str] = []
    for plan in plans:
        passed = []
        for argument, array in plan.arguments.items():
            if argument == plan.data or argument in plan.written:
                buffers[argument] = array
                passed.append(argument)
            else:
                constants.append(_array(f"{own}_{argument}", array))
                passed.append(f"{own}_{argument}")
        calls.append(f"  {plan.function}({', '.join(passed)});")
        declared.append(
            f"void {plan.function}({', '.join(_parameter(plan, argument) for argument in plan.arguments)});"
        )
    order = [argument for argument in ("x", "sums", "work", "codes") if argument in buffers]
    sizes = ", ".join(f"{own.upper()}_{argument.upper()} = {buffers[argument].nbytes}" for argument in order)
    parameters = ", ".join(
        f"{'const ' if argument == 'x' else ''}{TYPES[buffers[argument].dtype.name]} *{argument}" for argument in order
    )
    o, kh, kw, c = layer.packed.shape
    out = "codes" if layer.thresholds is not None else "sums"
    return "\n".join(
        [
            f"/* {name}: {c} to {o} channels, {kh}x{kw}, stride {layer.stride}, padding {layer.padding};",
            f"   {layer.packed.bits[0]} bits of weights, {layer.packed.bits[1]} of activations. Written by quantgap.",
            f"   x: codes ({', '.join(map(str, shape))}); {out}: ({', '.join(map(str, buffers[out].shape))}); the last",
            "   axis is the channel. Sizes in bytes are below. Link with the kernels' C files; their header,",
            "   frame.h, is not to be included beside this one. */",
            "",
            f"#ifndef QUANTGAP_{own.upper()}",
            f"#define QUANTGAP_{own.upper()}",
            "",
            "#include <stdint.h>",
            "",
            *declared,
            "",
            f"enum {{ {sizes} }};",
            "",
            *constants,
            "",
            f"static void {own}({parameters}) {{",
            *calls,
            "}",
            "",
            "#endif",
            "",
        ]
    )


def identifier(name: str) -> str:
    """Return a layer's name as a name in C that is free.

    >>> identifier("layer1.0.conv1"), identifier("1x1"), identifier("double")
    ('layer1_0_conv1', 'layer_1x1', 'layer_double')
    """
    found = re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_")
    if not found:
        raise checks.refuse("name", name, "one with letters or digits")
    return f"layer_{found}" if TAKEN.fullmatch(found) or found[0].isdigit() else found


def write(folder: Path, layers: dict[str, tuple[IntegerLayer, tuple[int, int]]]) -> list[Path]:
    """Write a header a layer, and the kernels' sources, into a folder.

    Raises
    ------
    ValueError
        If two layers, or a layer and the kernels, have one name in C; or if a layer has no kernel.
    """
    texts: dict[str, str] = {}
    for name, (layer, size) in layers.items():
        file = f"{identifier(name)}.h"
        for there in (*texts, *(source.name for source in build.sources())):
            if there.lower() == file.lower():  # an include guard and an enum are in capitals
                raise checks.refuse("name", name, f"one of its own in C, in capitals too: {there} is there already")
        texts[file] = header(name, deployment.pack(layer), size)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for file, text in texts.items():
        written.append(folder / file)
        written[-1].write_text(text)
    for source in build.sources():
        written.append(folder / source.name)
        written[-1].write_bytes(source.read_bytes())
    return written


def _array(name: str, array: Array) -> str:
    numbers = [str(number) for number in array.ravel().tolist()]
    lines = [", ".join(numbers[at : at + 20]) for at in range(0, len(numbers), 20)]
    return f"static const {TYPES[array.dtype.name]} {name}[{len(numbers)}] = {{\n  " + ",\n  ".join(lines) + "};"


def _parameter(plan: kernels.Plan, argument: str) -> str:
    kind = TYPES[plan.arguments[argument].dtype.name]
    return f"{kind} *" if argument in plan.written else f"const {kind} *"


# The command line


def parser() -> argparse.ArgumentParser:
    """Build the parser of ``python -m arm export``."""
    result = argparse.ArgumentParser(
        prog="python -m arm export",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("file", metavar="FILE", help="integer layers, .npz")
    result.add_argument("--layer", nargs="+", metavar="NAME", help="some of them only")
    result.add_argument("--out", metavar="DIR", required=True, help="where headers and the kernels' sources go")
    return result


def main(arguments: Sequence[str]) -> int:
    """Run ``python -m arm export``; returns the exit status."""
    chosen = parser().parse_args(arguments)
    try:
        layers = exchange.read(chosen.file)
        for name in chosen.layer or ():
            if name not in layers:
                raise checks.refuse("--layer", name, f"one of {', '.join(layers)}")
        written = write(Path(chosen.out), {name: layers[name] for name in chosen.layer or layers})
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path in written:
        print(path)
    return 0
