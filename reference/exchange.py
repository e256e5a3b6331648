"""Integer layers in a file: numpy's npz, arrays only, so that what deploys a network need not be what trained it."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from reference import checks
from reference.requantization import IntegerLayer, Thresholds

# Of each layer, NAME/ENTRY: integers, but for codes (uint8) and falling (bool).
ENTRIES = ("codes", "grid", "bits", "geometry", "size", "thresholds", "falling")
MOST_BYTES = 2**30


def write(path: str | Path, layers: Mapping[str, tuple[IntegerLayer, tuple[int, int]]]) -> None:
    """Write layers, each with the rows and columns of its input, under their names.

    The file has for each layer ``NAME/codes``, uint8 (O, C, kh, kw); ``NAME/grid``, the integer of code 0 and the step
    from code to code; ``NAME/bits``, of weights and inputs; ``NAME/geometry``, stride and padding; ``NAME/size``; and
    with requantization ``NAME/thresholds``, int64 (O, 2^bits - 1), and ``NAME/falling``, bool (O,).

    >>> import tempfile
    >>> layer = IntegerLayer(np.ones((1, 2, 3, 3), np.uint8), -1, 2, (1, 1), 2, 1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Path(folder, "net.npz"), {"conv1": (layer, (32, 32))})
    ...     again, size = read(Path(folder, "net.npz"))["conv1"]
    >>> (again.stride, again.padding, size, int(again.weights.sum()))
    (2, 1, (32, 32), 18)
    """
    arrays: dict[str, np.ndarray] = {}
    for name, (layer, size) in layers.items():
        arrays[f"{name}/codes"] = layer.codes
        for entry, numbers in (
            ("grid", (layer.lowest, layer.step)),
            ("bits", layer.bits),
            ("geometry", (layer.stride, layer.padding)),
            ("size", size),
        ):
            arrays[f"{name}/{entry}"] = np.array(numbers, np.int64)
        if layer.thresholds is not None:
            arrays[f"{name}/thresholds"] = layer.thresholds.values
            arrays[f"{name}/falling"] = layer.thresholds.falling
    with Path(path).open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)


def read(path: str | Path) -> dict[str, tuple[IntegerLayer, tuple[int, int]]]:
    """Read what `write` wrote, in its order.

    Raises
    ------
    ValueError
        If the file is no such file, or damaged; the message is one line that names it.
    OSError
        If it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > MOST_BYTES:
                raise ValueError(f"holds more than {MOST_BYTES} bytes")
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        layers: dict[str, dict[str, np.ndarray]] = {}
        for key, array in arrays.items():
            name, _, entry = key.rpartition("/")
            if not name or entry not in ENTRIES:
                raise ValueError(f"entry {key!r} is unknown")
            layers.setdefault(name, {})[entry] = array
        return {name: _layer(name, entries) for name, entries in layers.items()}
    except (ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise ValueError(f"{path}: no file of integer layers, or damaged: {' '.join(str(error).split())}") from None


def _layer(name: str, entries: Mapping[str, np.ndarray]) -> tuple[IntegerLayer, tuple[int, int]]:
    numbers = {}
    for entry in ("grid", "bits", "geometry", "size"):
        array = entries.get(entry, np.zeros(0))
        if array.shape != (2,) or array.dtype.kind not in "iu":
            raise checks.refuse(f"{name}/{entry}", f"{array.dtype.name} {array.shape}", "two integers")
        numbers[entry] = int(array[0]), int(array[1])
    if "codes" not in entries or ("thresholds" in entries) != ("falling" in entries):
        raise checks.refuse(f"entries of {name}", sorted(entries), "complete: codes, and thresholds with falling")
    if numbers["geometry"][0] < 1 or numbers["geometry"][1] < 0 or min(numbers["size"]) < 1:
        raise checks.refuse(f"stride, padding and size of {name}", numbers, "whole numbers from 1, padding from 0")
    found = Thresholds(entries["thresholds"], entries["falling"]) if "thresholds" in entries else None
    layer = IntegerLayer(entries["codes"], *numbers["grid"], numbers["bits"], *numbers["geometry"], thresholds=found)
    return layer, numbers["size"]
