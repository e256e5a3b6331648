"""From quantized layers to integers: weight codes, and thresholds for what follows a convolution.

A convolution whose weights and inputs are on grids, the normalisation behind it, the activation and the next layer's
quantizer become one `reference.requantization.IntegerLayer`: codes in, codes out, no floating-point number between. Its
codes are those of the network in test mode, for every sum that can occur: the thresholds are searched on the network's
own modules, computing in float32 on a CPU. (Normalisations of torch round alike for all contiguous tensors, in either
layout; for other views, which no convolution returns, they multiply in another order.)

**A residual block** (`IntegerBlock`). Its inner activations, from the first convolution to the second, are integers
through and through. What it adds is not: in the networks of the papers the shortcut carries unquantized numbers, which
no finite set of thresholds can stand for. So the sums of the second convolution are scaled and normalised, the shortcut
is added, and the result is quantized for the next block in float32, one multiply-add and one addition an output
element, by the network's own modules: nothing is approximated, and outputs have the network's bits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from reference import checks, exchange, grid
from reference.grid import Array
from reference.requantization import IntegerLayer, Thresholds, attainable, search
from torchimpl import checkpoints
from torchimpl.layers import QuantConv2d
from torchimpl.models import ACTIVATIONS, ARCHITECTURES
from torchimpl.models.resnet import BasicBlock
from torchimpl.quantizers.base import Quantizer

Run: TypeAlias = Callable[[IntegerLayer, Array], Array]
"""What computes a layer on codes (N, C, H, W): `IntegerLayer.run`, or kernels."""


@torch.no_grad()
def thresholds(
    layer: QuantConv2d, norm: nn.Module | None, activation: Callable[[Tensor], Tensor] | None, quantizer: Quantizer
) -> Thresholds:
    """Find the integer thresholds that say, of each channel's sum, which code the next layer gets.

    Parameters
    ----------
    layer : QuantConv2d
        That computes with integers, with first values.
    norm : BatchNorm2d, optional
        In test mode, with running statistics.
    activation : callable, optional
        Of each element, and monotone: ReLU, Hardtanh.
    quantizer : Quantizer
        Of the next layer's input, with first values.

    Returns
    -------
    Thresholds

    Raises
    ------
    ValueError
        If the layer does not compute with integers, `norm` is in training mode or depends on the data, or the functions
        are not monotone in the sum.

    Examples
    --------
    >>> from torchimpl import calibrate
    >>> layers = [QuantConv2d(4, 4, 1, method="daq", bits=(2, 2)) for _ in range(2)]
    >>> net = nn.Sequential(layers[0], nn.BatchNorm2d(4), nn.ReLU(), layers[1])
    >>> x = torch.rand(8, 4, 5, 5)
    >>> _ = calibrate(net, x).eval()
    >>> found = thresholds(layers[0], net[1], net[2], layers[1].input_quantizer)
    >>> sums = integer_layer(layers[0]).run(layers[0].input_quantizer.codes(x))
    >>> np.array_equal(found.codes(sums, axis=1), layers[1].input_quantizer.codes(net[:3](x)))
    True
    """
    _check_ready(layer, norm, quantizer)
    smallest, largest = _ends(layer.input_quantizer)
    lowest, highest = attainable(_weight_integers(layer), smallest, largest)

    def codes_of(sums: Array) -> Array:
        image = torch.from_numpy(np.ascontiguousarray(sums)).to(torch.float64)[None, :, None]  # exact
        out = layer.output_of_sums(image.to(layer.weight.device))
        out = out if norm is None else norm(out)
        return np.asarray(quantizer.codes(out if activation is None else activation(out))[0, :, 0].cpu().numpy())

    return search(codes_of, lowest, highest, grid.top_code(quantizer.bits))


@torch.no_grad()
def integer_layer(layer: QuantConv2d, found: Thresholds | None = None) -> IntegerLayer:
    """Return a convolution as codes and integers, with the thresholds of what follows it.

    Raises
    ------
    ValueError
        If the layer has no such form: it does not compute with integers, weights lie on an uneven grid, inputs on one
        that is not 0, 1, ..., or it has groups, dilation, or other strides or padding for rows than for columns.

    Examples
    --------
    >>> from torchimpl import calibrate
    >>> layer = calibrate(QuantConv2d(2, 3, 3, method="daq", bits=(1, 2)), torch.rand(8, 2, 4, 4)).eval()
    >>> sorted(set(integer_layer(layer).weights.ravel().tolist()))
    [-1, 1]
    """
    _check_ready(layer, None, layer.input_quantizer)
    weights, inputs = layer.weight_quantizer, layer.input_quantizer
    if weights.table or inputs.table or (inputs.lowest, inputs.stride) != (0, 1):
        shown = f"{weights.table or 'even'} and {inputs.table or (inputs.lowest, inputs.stride)}"
        raise checks.refuse("grids of weights and inputs", shown, "an even one, and 0, 1, 2, ...")
    geometry = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups}
    if isinstance(layer.padding, str) or layer.dilation != (1, 1) or layer.groups != 1 or not _square(layer):
        raise checks.refuse("convolution", geometry, "without dilation and groups, the same for rows and columns")
    codes = weights.codes(layer.raw_weight()).cpu().numpy().astype(np.uint8)
    bits, stride, padding = (weights.bits, inputs.bits), int(layer.stride[0]), int(layer.padding[0])
    return IntegerLayer(codes, weights.lowest, weights.stride, bits, stride, padding, thresholds=found)


@dataclass(frozen=True)
class IntegerBlock:
    """A residual block whose two convolutions are integer layers; see the module's text for what stays in float32.

    Attributes
    ----------
    first : IntegerLayer
        With thresholds: its outputs are the codes of the second one's inputs.
    second : IntegerLayer
        Without: its outputs are sums.
    block : BasicBlock
        The block that they stand for.
    """

    first: IntegerLayer
    second: IntegerLayer
    block: BasicBlock

    @torch.no_grad()
    def input_codes(self, x: Tensor) -> Array:
        """Return the codes, uint8, of the block's inputs."""
        return np.asarray(_quantized(self.block.conv1).input_quantizer.codes(x).cpu().numpy().astype(np.uint8))

    @torch.no_grad()
    def output(self, x: Tensor, sums: Array) -> Tensor:
        """Return the block's outputs from its inputs and the second convolution's sums (N, O, H', W')."""
        scaled = _quantized(self.block.conv2).output_of_sums(
            torch.from_numpy(np.ascontiguousarray(sums)).to(x.device, torch.float64)
        )
        return self.block.activation(self.block.bn2(scaled) + self.block.shortcut(x))

    def run(self, x: Tensor, run: Run = IntegerLayer.run) -> Tensor:
        """Map the block's inputs (N, C, H, W) to its outputs, with the convolutions computed on codes by `run`."""
        return self.output(x, run(self.second, run(self.first, self.input_codes(x))))


def integer_block(block: BasicBlock) -> IntegerBlock:
    """Return a residual block, in test mode, as integer layers.

    Raises
    ------
    ValueError
        If its convolutions have no such form (`integer_layer`), or a normalisation is in training mode.
    """
    first, second = _quantized(block.conv1), _quantized(block.conv2)
    _check_ready(second, block.bn2, second.input_quantizer)
    found = thresholds(first, block.bn1, block.activation, second.input_quantizer)
    return IntegerBlock(integer_layer(first, found), integer_layer(second), block)


def _quantized(conv: nn.Conv2d) -> QuantConv2d:
    if not isinstance(conv, QuantConv2d):
        raise checks.refuse("convolutions of the block", type(conv).__name__, "QuantConv2d")
    return conv


def _check_ready(layer: QuantConv2d, norm: nn.Module | None, quantizer: Quantizer) -> None:
    """Refuse what has no integers, no first values, or is in training mode."""
    if not (layer.is_integral and layer.has_first_values):
        raise checks.refuse("layer", str(layer), "one that computes with integers, with first values")
    for q in (layer.weight_quantizer, layer.input_quantizer, quantizer):
        if not (isinstance(q, Quantizer) and q.has_first_values):
            raise checks.refuse("quantizer", str(q), "one with first values")
    if norm is not None and norm.training:
        raise checks.refuse("norm", "in training mode", "in test mode: call eval() on the network")
    if not (norm is None or isinstance(norm, nn.Identity) or getattr(norm, "running_var", None) is not None):
        raise checks.refuse("norm", type(norm).__name__, "one with running statistics: others take the data's own")


def _ends(quantizer: Quantizer) -> tuple[int, int]:
    """The smallest and the largest integer of a quantizer."""
    if quantizer.table:
        return min(quantizer.table), max(quantizer.table)
    return quantizer.lowest, quantizer.lowest + quantizer.stride * grid.top_code(quantizer.bits)


def _weight_integers(layer: QuantConv2d) -> Array:
    return np.asarray(layer.weight_quantizer.integers(layer.raw_weight()).cpu().numpy().astype(np.int64))


def _square(layer: QuantConv2d) -> bool:
    return all(len(set(option)) == 1 for option in (layer.stride, layer.padding))


# The command line: a block of a checkpoint as a file of integer layers, from which others deploy

DESCRIPTION = """\
Write the two convolutions of a residual block as integer layers: weight codes, and thresholds for what lies between.
The file, numpy's npz, is described in reference/exchange.py; `python -m arm export` makes C headers of it.
"""


def parser() -> argparse.ArgumentParser:
    """Build the parser."""
    result = argparse.ArgumentParser(
        prog="python -m torchimpl.deployment", description=DESCRIPTION, epilog="Exit status: 0; 2 bad input."
    )
    result.add_argument("--checkpoint", required=True, metavar="FILE")
    result.add_argument("--block", required=True, metavar="NAME", help="such as layer1.0")
    result.add_argument("--out", required=True, metavar="FILE", help="such as block.npz")
    result.add_argument("--arch", default="resnet20_released", choices=list(ARCHITECTURES), help="default: %(default)s")
    result.add_argument("--method", default="daq", metavar="NAME[,NAME]", help="default: %(default)s")
    result.add_argument(
        "--activation", choices=list(ACTIVATIONS), help="no file tells; default: relu, or what the method needs"
    )
    result.add_argument("--bits", default="1/1", metavar="W/A", help="default: %(default)s")
    result.add_argument("--size", type=int, default=32, metavar="N", help="rows of the images; default: %(default)s")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    chosen = parser().parse_args(arguments)
    try:
        names = chosen.method.split(",")
        method = names[0] if len(names) == 1 else (names[0], ",".join(names[1:]))
        checkpoint = checkpoints.read(chosen.checkpoint)
        bits = checkpoints.parse_bits(chosen.bits)
        model = checkpoints.load(checkpoint, chosen.arch, method, bits, chosen.activation)
        blocks = {name: module for name, module in model.named_modules() if isinstance(module, BasicBlock)}
        if chosen.block not in blocks:
            raise checks.refuse("--block", chosen.block, f"one of {', '.join(blocks)}")
        exchange.write(chosen.out, layers_of(model, chosen.block, _rows(chosen.size)))
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _rows(value: int) -> int:
    if value < 1:
        raise checks.refuse("--size", value, "a whole number from 1")
    return value


@torch.no_grad()
def layers_of(model: nn.Module, name: str, size: int) -> dict[str, tuple[IntegerLayer, tuple[int, int]]]:
    """Return the layers of a block with the rows and columns of their inputs, for images (3, size, size)."""
    block = model.get_submodule(name)
    assert isinstance(block, BasicBlock)
    seen: list[tuple[int, int]] = []
    convs = (block.conv1, block.conv2)
    handles = [
        conv.register_forward_pre_hook(lambda _, inputs: seen.append((inputs[0].shape[2], inputs[0].shape[3])))
        for conv in convs
    ]
    model(torch.zeros(1, 3, size, size))
    for handle in handles:
        handle.remove()
    found = integer_block(block)
    return {f"{name}.conv1": (found.first, seen[0]), f"{name}.conv2": (found.second, seen[1])}


if __name__ == "__main__":
    sys.exit(main())
