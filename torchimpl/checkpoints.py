"""Checkpoints from others: read safely, renamed to this suite's networks, loaded strictly.

Files are torch's, read with ``weights_only``, so that they can hold nothing but tensors and plain containers, or of the
safetensors format. Three families are known: plain ResNet state_dicts in the usual public layouts, and the checkpoints
that DAQ's and APoT's authors released.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchimpl import pickle_scan, safetensors
from torchimpl.models import ACTIVATIONS, ARCHITECTURES, ResNet, needs_signs
from torchimpl.quantizers import quantizer_class
from torchimpl.quantizers.base import SETTINGS, read_settings

MAX_BYTES = 512 * 2**20
MAX_NAME = 200
MAX_SETTINGS = 4096  # bytes of what a quantizer says of itself
MAX_REASON = 400
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64, torch.bool)
# Under which names files hold a state_dict; the average over training, ema, is what is left if there is nothing else.
HOLDERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params")
EMA = ("ema", "state_dict_ema", "model_ema", "params_ema", "ema_state_dict")
UNBOUNDED = 2.0**31  # the released code's clip range that was never set: full precision


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one line that says why."""


@dataclass(frozen=True)
class Checkpoint:
    """A state_dict with its file.

    Attributes
    ----------
    path : Path
    sha256 : str
        Of the file.
    state : mapping of str to Tensor
        Names without a leading ``module.``.
    entry, others : str
        Which entry of the file it is, and which it could have been, if the file holds several; else empty.
    """

    path: Path
    sha256: str
    state: Mapping[str, Tensor]
    entry: str = ""
    others: str = ""


def read(path: str | Path, *, sha256: str | None = None) -> Checkpoint:
    """Read a checkpoint file: a state_dict, or a dict that holds one under one of the names in `HOLDERS` and `EMA`.

    Parameters and errors are those of `read_content`; besides, CheckpointError if there is no state_dict.
    """
    content, digest = read_content(path, sha256=sha256)
    names = HOLDERS + EMA
    holders = [name for name in names if isinstance(content, Mapping) and isinstance(content.get(name), Mapping)]
    state = _state_dict(Path(path), content[holders[0]] if holders else content)
    entry = holders[0] if len(holders) > 1 else ""
    return Checkpoint(Path(path), digest, state, entry, ", ".join(holders[1:]))


def read_content(path: str | Path, *, sha256: str | None = None, most: int | None = None) -> tuple[Any, str]:
    """Read whatever a checkpoint file of torch or safetensors holds, and its sha256.

    Parameters
    ----------
    path : path
    sha256 : str, optional
        What the file must be; it is checked before anything is unpickled.
    most : int, optional
        Bytes that the file may have, and may unpack to; by default `MAX_BYTES`.

    Raises
    ------
    CheckpointError
        If the file is missing, too large, corrupt, not the expected one, or holds anything but tensors and plain
        containers.
    """
    path, most = Path(path), MAX_BYTES if most is None else most
    try:
        size = path.stat().st_size
        if not path.is_file() or size > most:
            raise CheckpointError(f"{path}: not a file of at most {most // 2**20} MiB")
        with path.open("rb") as stream:
            start = stream.read(START)
            stream.seek(0)
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if sha256 not in (None, digest):
            raise CheckpointError(f"{path}: has sha256 {digest}, the released file has {sha256}: damaged, or another")
        other = _another_kind(start)
        if other:
            raise CheckpointError(f"{path}: no checkpoint but {other}")
        if safetensors.is_safetensors(start, size):
            return _read_safetensors(path), digest
        problem = pickle_scan.problem(path, most)
        if problem:
            raise CheckpointError(f"{path}: refused, {problem[:MAX_REASON]}")
        return torch.load(path, map_location="cpu", weights_only=True), digest
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or type(error).__name__}") from None
    except zipfile.BadZipFile as error:
        reason = " ".join(ascii(str(error))[1:-1].split())
        raise CheckpointError(f"{path}: damaged, or not whole: {reason[:MAX_REASON]}") from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: refused, holds more than tensors or is damaged: {_refused(error)}") from None
    except Exception as error:  # torch.load documents no exception types for corrupt files
        raise CheckpointError(f"{path}: no checkpoint, or damaged ({type(error).__name__} while reading it)") from None


START = 512  # bytes from which it is told what a file is, if it is no checkpoint
KINDS = {
    b"version https://git-lfs.github.com/spec/": "a Git LFS pointer, which stands for the file: run `git lfs pull`",
    b"\x89HDF\r\n": "an HDF5 file, as Keras writes",
    b"\x93NUMPY": "a numpy array",
    b"GGUF": "a GGUF file",
    b"\x1f\x8b": "a gzip archive: unpack it",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
    b"\xfd7zXZ": "an xz archive: unpack it",
}


def _another_kind(start: bytes) -> str:
    """Say what a file is that is none of a checkpoint's formats, if that can be told from its first bytes."""
    for magic, kind in KINDS.items():
        if start.startswith(magic):
            return kind
    if not start:
        return "an empty file"
    try:
        text = start.decode()
    except UnicodeDecodeError as error:
        if error.end < len(start) or error.start < len(start) - 3:  # other than a letter cut in two
            return ""
        text = start[: error.start].decode()
    if not all(letter.isprintable() or letter in "\t\n\r\f" for letter in text):
        return ""
    if re.match(r"\s*<(!doctype|html|\?xml)", text, re.IGNORECASE):
        return "a web page: was it downloaded from a page that asks for a login?"
    return f"text, which begins with {' '.join(text.split())[:40]!r}"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.read(path)
    except ValueError as error:
        reason = " ".join(ascii(str(error))[1:-1].split())
        raise CheckpointError(f"{path}: no admissible safetensors file: {reason[:MAX_REASON]}") from None


def _refused(error: BaseException) -> str:
    """Return what torch's unpickler refused, in a few words."""
    text = re.sub(r"\s+", " ", str(error))
    found = re.search(r"(?:GLOBAL|Unsupported global:?|class|operand|operator) [\w.]*[\w]+(?: \d+)?", text)
    return found.group(0)[:MAX_NAME] if found else "what it asked for is not admitted"


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path}: holds no state_dict but a {type(content).__name__}")
    state: dict[str, Tensor] = {}
    total = 0
    for name, value in content.items():
        if not isinstance(name, str):
            raise CheckpointError(f"{path}: entry {str(name)[:MAX_NAME]} is a {type(value).__name__}, and not a name")
        if not name.isprintable() or len(name) > MAX_NAME:
            raise CheckpointError(
                f"{path}: name {name[:MAX_NAME]!r} is refused: not printable, or over {MAX_NAME} characters"
            )
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: entry {name!r} is a {type(value).__name__}, not a tensor")
        if _is_settings(name) and value.numel() > MAX_SETTINGS:
            raise CheckpointError(f"{path}: {name} has {value.numel()} bytes; at most {MAX_SETTINGS} are admitted")
        total += value.numel() * value.element_size()
        if total > MAX_BYTES:  # many names for one storage
            raise CheckpointError(f"{path}: {name} claims more elements than a file of {MAX_BYTES // 2**20} MiB holds")
        problem = "" if _is_settings(name) and value.dtype == torch.uint8 else _problem(value)
        if problem:
            raise CheckpointError(f"{path}: {name} {problem}")
        plain = name
        for prefix in ("module.", "_orig_mod.", "module."):  # of DataParallel and torch.compile
            plain = plain.removeprefix(prefix)
        _add(path, state, plain, value)
    return state


def _add(path: Path, state: dict[str, Tensor], name: str, value: Tensor) -> None:
    if name in state:
        raise CheckpointError(f"{path}: {name} stands in it twice, under two spellings")
    state[name] = value


def _is_settings(name: str) -> bool:
    return name.rpartition(".")[2] == SETTINGS


def _problem(value: Tensor) -> str:
    """Say what keeps a tensor from being a network's parameter; empty if nothing does."""
    if value.layout != torch.strided or value.device.type != "cpu" or value.dtype not in DTYPES:
        return f"is a {value.layout} tensor of {value.dtype} on {value.device}; admitted: dense ones of real numbers"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return "claims more elements than the file holds"
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        return "holds NaN or infinity"
    return ""


def load(
    checkpoint: Checkpoint,
    arch: str,
    method: str | tuple[str, str] | None = None,
    bits: tuple[int | None, int | None] = (None, None),
    activation: str | None = None,
) -> ResNet:
    """Build a network of the suite with the weights of a checkpoint, in test mode.

    Parameters
    ----------
    checkpoint : Checkpoint
    arch : {"resnet20", "resnet32", "resnet44", "resnet56", "resnet20_released", "resnet20_apot"}
    method : str or (str, str), optional
        Quantizer of the convolutions within the blocks, or one of weights and one of inputs; None is full precision.
    bits : tuple of (int or None)
        Bit-widths of weights and activations.
    activation : {"relu", "hardtanh"}, optional
        No file tells. By default the published one, ReLU; but Hardtanh where inputs are quantized by a method that
        knows signed ones only.

    Raises
    ------
    CheckpointError
        If the checkpoint is of another network: missing and unexpected entries, and shapes that differ, are named.
        If the method knows signed inputs only, and the network is said to have ReLU.
    """
    if arch not in ARCHITECTURES:
        raise CheckpointError(f"arch must be one of {', '.join(ARCHITECTURES)}, got {arch!r}")
    plain = arch not in ("resnet20_released", "resnet20_apot")
    if activation not in (None, *ACTIVATIONS):
        raise CheckpointError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if needs_signs(method, bits) and activation == "relu":
        raise CheckpointError(f"{_named(arch, method, bits)}: its inputs must have both signs, and ReLU leaves one")
    state = dict(checkpoint.state)
    options: dict[str, Any] = {} if activation is None else {"activation": ACTIVATIONS[activation]}
    if arch == "resnet20_released":
        state = _from_released_layout(state, checkpoint.path)
    else:
        state = _from_public_layout(state, checkpoint.path)
    if plain:
        options["shortcut"] = "B" if any(".shortcut." in name for name in state) else "A"
    if arch == "resnet20_apot":
        state = _from_apot_layout(state, checkpoint.path)
    if method in ("daq", ("daq", "daq")) and arch == "resnet20_released":
        options["variant"] = "released"
    said: dict[str, Any] = {} if method is None else _options_said(checkpoint.path, state, method)
    try:
        model = ARCHITECTURES[arch](method, bits, **options, **said)
    except (TypeError, ValueError) as error:
        if not said:
            raise
        reason = f"what it says of its quantizers builds none: {ascii(str(error))[1:-1]}"
        raise CheckpointError(f"{checkpoint.path}: {reason[:MAX_REASON]}") from None
    expected = model.state_dict()
    _complete_quantizers(state, expected)
    _compare(checkpoint.path, arch, method, bits, state, expected)
    _check_types(checkpoint.path, state, expected)
    _check_values(checkpoint.path, state)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:  # a quantizer of other settings; all else was looked at above
        first = next(line for line in str(error).splitlines()[1:] if line.strip()).strip()
        raise CheckpointError(f"{checkpoint.path}: {first[:MAX_REASON]}") from None
    return model.eval()


def _options_said(path: Path, state: Mapping[str, Tensor], method: str | tuple[str, str]) -> dict[str, dict[str, Any]]:
    """Return the variant and the options of the quantizers that a file of the suite names, if it is one."""
    found: dict[str, dict[str, Any]] = {}
    names = (method, method) if isinstance(method, str) else method
    for kind, name in zip(("weight", "input"), names, strict=True):
        saved = next((value for key, value in state.items() if key.endswith(f"{kind}_quantizer.{SETTINGS}")), None)
        if saved is None:
            continue
        try:
            settings = read_settings(saved)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from None
        known = inspect.signature(quantizer_class(name)).parameters.keys() - {"bits", "role", "shape"}
        if settings.get("method") == name:
            found[f"{kind}_options"] = {key: value for key, value in settings.items() if key in known}
    return found


def _check_types(path: Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse what does not become the network's type: integers for real numbers, and numbers beyond its range.

    Integers for weights are codes, and what one is worth is not in the file.
    """
    for name, value in expected.items():
        if value.is_floating_point() and name in state:
            if not state[name].is_floating_point():
                kind = str(state[name].dtype).removeprefix("torch.")
                raise CheckpointError(f"{path}: {name} holds {kind}, not real numbers: save dequantized weights")
            if not bool(state[name].to(value.dtype).isfinite().all()):
                raise CheckpointError(f"{path}: {name} holds numbers beyond the range of {value.dtype}")


def _check_values(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse parameters that no trained network has."""
    for name, value in state.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "running_var" and bool((value < 0).any()):
            raise CheckpointError(f"{path}: {name} holds a negative variance")
        if leaf in ("initialized", "scale_initialized") and not bool(value):
            raise CheckpointError(f"{path}: {name} is False: the network never saw a batch")
        if leaf == "upper" and not bool(value > state[f"{module}.lower"]):
            raise CheckpointError(f"{path}: {name} is not above {module}.lower: an empty clip range")


def _from_public_layout(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Rename the public variants: classifier `fc`, projections `downsample`."""
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        name = re.sub(r"^fc\.", "linear.", name)
        _add(path, renamed, re.sub(r"^(layer[123]\.\d+)\.downsample\.", r"\1.shortcut.", name), value)
    return renamed


_RELEASED_NAMES = {
    "lW": "weight_quantizer.lower",
    "uW": "weight_quantizer.upper",
    "uA": "input_quantizer.upper",
    "beta": "scale",
}


def _from_released_layout(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Rename the entries of DAQ's released checkpoints, and drop the ones that its network never uses."""
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        name = re.sub(r"^(layer[123])\.block_(\d+)\.0\.", r"\1.\2.", name)
        module, _, leaf = name.rpartition(".")
        if module.endswith("_quantizer"):  # the suite's own
            _add(path, renamed, name, value)
            continue
        if module == "bn1":  # of the first convolution: not called by the released network
            continue
        if leaf in (*_RELEASED_NAMES, "lA", "init") and value.dim() != 0:
            raise CheckpointError(f"{path}: {name} has shape {tuple(value.shape)}, not ()")
        if leaf == "init" or (leaf in ("lA", "uA") and bool(value.abs() >= UNBOUNDED)):  # never set, hence not used
            continue
        if leaf == "lA":
            raise CheckpointError(f"{path}: {name} = {float(value)} was learned; the known network has none")
        _add(path, renamed, ".".join(filter(None, (module, _RELEASED_NAMES.get(leaf, leaf)))), value)
    return renamed


_APOT_NAMES = {"weight_quant.wgt_alpha": "weight_quantizer.alpha", "act_alpha": "input_quantizer.alpha"}


def _from_apot_layout(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Rename APoT's thresholds, and round the weights of both ends to 8 bits, as the released layers do in each pass.

    They are whole 127ths of the largest weight, which is not the largest in magnitude: below, there may be more than
    127 of them. What the suite trained and says so has them as they are.
    """
    if any(name.endswith(SETTINGS) for name in state):
        return state
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        for theirs, ours in _APOT_NAMES.items():
            name = name.removesuffix(theirs) + ours if name.endswith(f".{theirs}") else name
        if name in ("conv1.weight", "linear.weight"):
            largest = value.max()
            if not bool(largest > 0):
                raise CheckpointError(f"{path}: {name} has no positive weight, by which its 8-bit weights are scaled")
            value = (value / largest * 127).round() / 127 * largest
        _add(path, renamed, name, value)
    return renamed


_OWN_ENTRIES = re.compile(rf"\.(initialized|scale_initialized|input_quantizer\.lower|{SETTINGS})$")


def _complete_quantizers(state: dict[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Add what a file may lack: the suite's own marks of initialisation, the lower end that stays 0, old counters.

    BatchNorm's count of batches is younger than some public files, and not used in test mode.
    """
    for name, value in expected.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "num_batches_tracked" and f"{module}.running_var" in state:
            state.setdefault(name, value)
        if leaf == "lower" and module.endswith("input_quantizer") and f"{module}.upper" in state:
            state.setdefault(name, value)
        own = [n for n in expected if n.startswith(f"{module}.") and not _OWN_ENTRIES.search(n)]
        if (leaf == "initialized" and all(n in state for n in own)) or (
            leaf == "scale_initialized" and (f"{module}.scale" in state or f"{module}.scale" not in expected)
        ):
            state.setdefault(name, torch.tensor(True))


def _compare(
    path: Path,
    arch: str,
    method: str | tuple[str, str] | None,
    bits: tuple[int | None, int | None],
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
) -> None:
    problems = {
        "missing": [n for n in expected if n not in state and not _OWN_ENTRIES.search(n)],
        "unexpected": [n for n in state if n not in expected],
        "of another shape": [
            f"{n} {tuple(state[n].shape)} instead of {tuple(expected[n].shape)}"
            for n in expected
            if n in state and state[n].shape != expected[n].shape and not _is_settings(n)
        ],
    }
    listed = "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in problems.items() if names)
    if listed:
        raise CheckpointError(f"{path}: not a checkpoint of {_named(arch, method, bits)}; {listed}")


def _named(arch: str, method: str | tuple[str, str] | None, bits: tuple[int | None, int | None]) -> str:
    if method is None:
        return arch
    methods = method if isinstance(method, str) else ",".join(method)
    return f"{arch} with {methods} {'/'.join('32' if b is None else str(b) for b in bits)}"


def _some(names: list[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, and {len(names) - most} more"


def parse_bits(text: str) -> tuple[int | None, int | None]:
    """Parse "W/A", with 32 for full precision.

    >>> parse_bits("1/32")
    (1, None)

    Raises
    ------
    ValueError
        If `text` is not two bit-widths of 1 to 8, or 32.
    """
    match = re.fullmatch(r"([1-8]|32)/([1-8]|32)", text)
    if match is None:
        raise ValueError(f"bits must be W/A with 1 to 8, or 32 for full precision, got {text!r}")
    weight, activation = (None if bits == "32" else int(bits) for bits in match.groups())
    return weight, activation


def parse_normalization(text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Parse a name in `NORMALIZATIONS` or "M,M,M/S,S,S" into means and standard deviations of the three channels.

    >>> parse_normalization("0.5,0.5,0.5/0.25,0.25,0.25")
    ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))

    Raises
    ------
    ValueError
        If `text` is neither a known name nor six finite numbers with deviations of at least 0.001.
    """
    if text in NORMALIZATIONS:
        return NORMALIZATIONS[text]
    try:
        means, deviations = (tuple(float(number) for number in part.split(",")) for part in text.split("/"))
        if (
            len(means) == len(deviations) == 3
            and min(deviations) >= 1e-3
            and all(map(math.isfinite, means + deviations))
        ):
            return means, deviations
    except ValueError:
        pass
    raise ValueError(
        f"normalize must be {', '.join(NORMALIZATIONS)} or M,M,M/S,S,S with S at least 0.001, got {text!r}"
    )


# What networks for CIFAR-10 are given, the most usual first. cifar10: mean and deviation of all pixels of the training
# images; cifar10-per-image: the deviations are means of the images' own, as in kuangliu/pytorch-cifar; imagenet: usual
# for ImageNet, used on CIFAR-10 by DAQ's released code; half: to [-1, 1]; none: pixels in [0, 1].
NORMALIZATIONS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar10-per-image": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
