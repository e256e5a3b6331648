"""What convolutional layers execute: packing the activations, the convolution, and requantization."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from arm import build, decode, kernels
from arm.counts import Counts
from reference import checks

WIDTHS = ((8, 8), (4, 4), (3, 3), (2, 2), (1, 1))
_MODULES = ("count.py", "counts.py", "decode.py", "emulator.py", "kernels.py")  # what the numbers depend on

DESCRIPTION = """\
Count the instructions that convolutional layers execute on 64-bit ARM, under emulation on any host. A layer is packing
its activations, convolving and requantizing its sums to codes of as many bits; weights are packed ahead of time.
"""
EPILOG = """\
The counts are exact and the same every time; no instruction depends on the data. Cycles are modelled, no time: what a
Cortex-A53 needs at least to issue these instructions (two a cycle, among them one NEON operation on 128 bits of data).

Bit-widths are those of weights and activations: 1/1, 1/2, 2/2, 3/4, ... up to 8/8, the baseline in 8 bits.
Kinds of NEON operations: %s.
What was counted is kept in %s.

Exit status: 0; 2 bad input, or a missing toolchain.
"""


@dataclass(frozen=True)
class Layer:
    """A convolution of square images with square kernels, padded so that stride 1 keeps their size.

    Attributes
    ----------
    inputs, outputs : int
        Channels.
    size : int
        Rows and columns of the input.
    kernel, stride : int
    name : str
    """

    inputs: int
    outputs: int
    size: int
    kernel: int
    stride: int
    name: str = ""

    @property
    def out(self) -> int:
        """Rows and columns of the output."""
        return (self.size + 2 * (self.kernel // 2) - self.kernel) // self.stride + 1

    @property
    def products(self) -> int:
        """Multiplications of one image."""
        return self.out**2 * self.outputs * self.inputs * self.kernel**2

    @property
    def key(self) -> tuple[int, ...]:
        """All but the name."""
        return self.inputs, self.outputs, self.size, self.kernel, self.stride


@dataclass(frozen=True)
class Counted:
    """A layer's counts.

    Attributes
    ----------
    convolution : Counts
        Packing of activations included.
    requantization : Counts
    weight_bytes : int
        Of the weights as the kernel reads them, with their constants.
    """

    convolution: Counts
    requantization: Counts
    weight_bytes: int

    @property
    def total(self) -> Counts:
        """Convolution and requantization."""
        return self.convolution + self.requantization


def resnet18() -> list[Layer]:
    """Return the convolutions of ResNet-18 for images of 224 x 224 pixels, without the first, in order.

    The names are those of torchvision.

    >>> layers = resnet18()
    >>> len(layers), sum(layer.products for layer in layers)
    (19, 1695547392)
    """
    layers, inputs, size = [], 64, 56
    for stage, outputs in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            stride = 2 if stage > 1 and block == 0 else 1
            name = f"layer{stage}.{block}."
            layers.append(Layer(inputs, outputs, size, 3, stride, name + "conv1"))
            layers.append(Layer(outputs, outputs, size // stride, 3, 1, name + "conv2"))
            if stride == 2:
                layers.append(Layer(inputs, outputs, size, 1, 2, name + "downsample.0"))
            inputs, size = outputs, size // stride
    return layers


NETWORKS: dict[str, Callable[[], list[Layer]]] = {"resnet18": resnet18}


def count_layer(
    layer: Layer, bits: tuple[int, int], *, weights: str = "odd", batch: int = 1, folder: Path | None = None
) -> Counted:
    """Count what a layer executes.

    Parameters
    ----------
    layer : Layer
    bits : pair of int
        Of weights and of activations.
    weights : {"odd", "signed"}
        As of `arm.kernels.pack_weights`.
    batch : int
        Images at a time, from 1.
    folder : Path, optional
        Where counts are kept; without it, in `arm.build.cache_folder`. A file's name depends on the machine code and on
        all that is counted.

    Raises
    ------
    ValueError
        If a number is out of range.
    MissingToolchainError
        If the compiler or the emulator is not installed.
    """
    for name, value in (
        *zip(("inputs", "outputs", "size", "kernel", "stride"), layer.key, strict=True),
        ("batch", batch),
    ):
        if value < 1:
            raise checks.refuse(name, value, "a whole number from 1")
    kernels.choose_kernel(bits)
    path = (folder or build.cache_folder() / "counts") / f"{_digest(layer, bits, weights, batch)}.json"
    kept = _read(path)
    if kept is None:
        kept = _count(layer, bits, weights, batch)
        _write(path, kept)
    return kept


def count_layers(
    layers: Iterable[Layer], bits: tuple[int, int], *, weights: str = "odd", batch: int = 1, folder: Path | None = None
) -> list[Counted]:
    """Count what each of some layers executes; one that occurs several times is run once."""
    found: dict[tuple[int, ...], Counted] = {}
    result = []
    for layer in layers:
        if layer.key not in found:
            found[layer.key] = count_layer(layer, bits, weights=weights, batch=batch, folder=folder)
        result.append(found[layer.key])
    return result


def digest() -> str:
    """Return a digest of all that counts depend on beside the layer: the machine code, and what runs and reads it."""
    found = hashlib.sha256(build.library().read_bytes())
    for name in _MODULES:
        found.update(Path(__file__).with_name(name).read_bytes())
    return found.hexdigest()


def _count(layer: Layer, bits: tuple[int, int], weights: str, batch: int) -> Counted:
    packed = kernels.pack_weights(
        np.zeros((layer.outputs, layer.kernel, layer.kernel, layer.inputs), np.uint8) + 1, bits=bits, weights=weights
    )
    x = np.zeros((batch, layer.size, layer.size, layer.inputs), np.uint8)
    sums, convolution = kernels.conv2d(x, packed, stride=layer.stride, padding=layer.kernel // 2, count=True)
    if bits[1] > 4:
        _, requantization = kernels.rescale(sums, np.full(layer.outputs, 2**30), shift=1, count=True)
    else:
        _, requantization = kernels.requantize(sums, np.zeros((layer.outputs, 2 ** bits[1] - 1), np.int32), count=True)
    return Counted(convolution, requantization, len(packed.data))


def _digest(layer: Layer, bits: tuple[int, int], weights: str, batch: int) -> str:
    text = json.dumps([digest(), layer.key, bits, weights, batch])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _read(path: Path) -> Counted | None:
    try:
        kept = json.loads(path.read_text())
        one, two = (Counts(kept[part]["kinds"], kept[part]["halves"]) for part in ("convolution", "requantization"))
        return Counted(one, two, kept["weight_bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, counted: Counted) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    except OSError:
        return  # nothing is kept where nothing can be written
    with os.fdopen(handle, "w") as stream:
        json.dump(asdict(counted), stream)
    os.replace(temporary, path)


# The command line


def parser() -> argparse.ArgumentParser:
    """Build the parser of ``python -m arm count``."""
    result = argparse.ArgumentParser(
        prog="python -m arm count",
        description=DESCRIPTION,
        epilog=EPILOG % (", ".join(decode.ARITHMETIC), build.cache_folder() / "counts"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = result.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--layer",
        nargs="+",
        metavar="IN,OUT,SIZE,KERNEL,STRIDE",
        help="channels in and out, rows of the square input, rows of the square kernel, stride: 64,64,56,3,1",
    )
    what.add_argument("--network", choices=list(NETWORKS), help="all of its convolutions but the first, 224 x 224")
    result.add_argument(
        "--bits",
        nargs="+",
        metavar="W/A",
        default=["/".join(map(str, width)) for width in WIDTHS],
        help="bits of weights and of activations (default: 8/8 4/4 3/3 2/2 1/1)",
    )
    result.add_argument("--weights", choices=list(kernels.GRIDS), default="odd", help="their grid (default: odd)")
    result.add_argument("--batch", type=int, default=1, metavar="N", help="images at a time (default: 1)")
    result.add_argument("--out", metavar="DIR", help="where counts are kept")
    result.add_argument("--json", action="store_true", help="write JSON instead of tables")
    return result


def main(arguments: Sequence[str]) -> int:
    """Run ``python -m arm count``; returns the exit status."""
    chosen = parser().parse_args(arguments)
    try:
        layers = NETWORKS[chosen.network]() if chosen.network else [parse_layer(text) for text in chosen.layer]
        widths = [parse_bits(text) for text in chosen.bits]
        folder = Path(chosen.out) if chosen.out else None
        found = {
            width: count_layers(layers, width, weights=chosen.weights, batch=chosen.batch, folder=folder)
            for width in widths
        }
    except (ValueError, build.MissingToolchainError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(_as_json(layers, found) if chosen.json else _as_text(layers, found))
    return 0


def parse_layer(text: str) -> Layer:
    """Read a layer from ``IN,OUT,SIZE,KERNEL,STRIDE``.

    >>> parse_layer("64,128,56,3,2").out
    28
    """
    try:
        inputs, outputs, size, kernel, stride = (int(part) for part in text.split(","))
    except ValueError:
        raise checks.refuse("layer", text, "five whole numbers, as in 64,64,56,3,1") from None
    return Layer(inputs, outputs, size, kernel, stride, text)


def parse_bits(text: str) -> tuple[int, int]:
    """Read bit-widths from ``W/A``.

    >>> parse_bits("1/2")
    (1, 2)
    """
    try:
        b_w, b_a = (int(part) for part in text.split("/"))
    except ValueError:
        raise checks.refuse("bits", text, "two whole numbers, as in 2/2") from None
    kernels.choose_kernel((b_w, b_a))
    return b_w, b_a


def _sum(counted: Sequence[Counted]) -> Counted:
    return Counted(
        sum((one.convolution for one in counted), Counts()),
        sum((one.requantization for one in counted), Counts()),
        sum(one.weight_bytes for one in counted),
    )


def _shown(counted: Counted) -> dict[str, object]:
    total = counted.total
    return {
        "instructions": total.instructions,
        "modelled_cycles_a53": total.cycles,
        "neon": total.neon,
        "kinds": dict(total.kinds),
        "requantization": counted.requantization.instructions,
        "weight_bytes": counted.weight_bytes,
    }


def _as_json(layers: Sequence[Layer], found: dict[tuple[int, int], list[Counted]]) -> str:
    result = {}
    for (b_w, b_a), counted in found.items():
        each = [
            {"layer": layer.name, "products": layer.products, **_shown(one)}
            for layer, one in zip(layers, counted, strict=True)
        ]
        result[f"{b_w}/{b_a}"] = {"layers": each, "sum": _shown(_sum(counted))}
    return json.dumps(result, indent=1)


def _as_text(layers: Sequence[Layer], found: dict[tuple[int, int], list[Counted]]) -> str:
    lines = []
    for (b_w, b_a), counted in found.items():
        lines += [f"{b_w}/{b_a}: kernel {kernels.choose_kernel((b_w, b_a))}, in millions; cycles are modelled"]
        used = [kind for kind in decode.KINDS if any(kind in one.total.kinds for one in counted)]
        names = ["instructions", "A53 cycles", *used, "requantized in"]
        lines.append(f"{'layer':24}" + "".join(f"{name:>15}" if len(name) > 9 else f"{name:>10}" for name in names))
        rows = [(layer.name, one) for layer, one in zip(layers, counted, strict=True)]
        if len(rows) > 1:
            rows.append(("sum", _sum(counted)))
        for name, one in rows:
            total = one.total
            numbers = [total.instructions, total.cycles, *(total.kinds.get(kind, 0) for kind in used)]
            numbers.append(one.requantization.instructions)
            cells = [f"{n / 1e6:.3f}" for n in numbers]
            lines.append(
                f"{name:24}"
                + "".join(
                    f"{cell:>15}" if len(title) > 9 else f"{cell:>10}" for cell, title in zip(cells, names, strict=True)
                )
            )
        lines.append("")
    return "\n".join(lines).rstrip()
