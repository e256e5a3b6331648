"""Quantize somebody's network, by other layers in place of its own, or a layer's weights, by a parametrization."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.overrides import TorchFunctionMode

from reference import checks, grid, registry
from torchimpl.layers import QUANTIZED, Bits, QuantizedLayer, QuantLinear, channel_options, check_weights, pair
from torchimpl.quantizers import build
from torchimpl.quantizers.base import Quantizer, calibrating
from torchimpl.statistics import Standardize

Example: TypeAlias = Tensor | tuple[Any, ...] | Mapping[str, Any]
Selector: TypeAlias = str | re.Pattern[str] | Callable[[str, nn.Module], bool]
Choice: TypeAlias = Bits | Mapping[str, Any] | None
log = logging.getLogger(__name__)
SIGNED = "signed_activation"
# Modules of torch that read the weights of their linear layers and never call them; not every torch has the second.
READERS = tuple(getattr(nn, name) for name in ("MultiheadAttention", "LinearCrossEntropyLoss") if hasattr(nn, name))


def quantize_weight(
    layer: nn.Module,
    method: str = "daq",
    bits: int = 2,
    *,
    name: str = "weight",
    channelwise: bool | None = None,
    **options: Any,
) -> nn.Module:
    """Quantize a layer's weights by torch's parametrizations: standardised first, where the method has it.

    What the layer then computes with are the method's levels as they stand, for DAQ -1 to 1, in place of weights whose
    deviation may be a hundredth of that. A normalisation behind the layer takes that up; `QuantConv2d` and
    `QuantLinear` have a scale for it. Weights as torch draws them are uniform, none beyond 1.74 deviations: on DAQ's
    clip range, 3 deviations either way, that is two of its four 2-bit levels, until training has spread them.

    Parameters
    ----------
    layer : Module
        Any that has the parameter `name`. First values are taken from it at once, in training mode.
    method, bits, **options
        As for `torchimpl.quantizers.build`.
    name : str
        Which parameter.
    channelwise : bool, optional
        Parameters for each output channel, the first axis; by default as the method has it.

    Returns
    -------
    Module
        `layer`.

    Raises
    ------
    ValueError
        If the layer has no such parameter, it is quantized already, or a setting is refused.

    Examples
    --------
    >>> layer = quantize_weight(nn.Linear(64, 64), "daq", bits=1)
    >>> layer.weight.unique().tolist()
    [-1.0, 1.0]
    """
    if parametrize.is_parametrized(layer, name):
        raise checks.refuse(name, "a parametrized one", "a plain parameter of the layer")
    weight = dict(layer.named_parameters(recurse=False)).get(name)
    if weight is None or weight.dim() == 0:
        known = ", ".join(key for key, _ in layer.named_parameters(recurse=False)) or "it has none"
        raise checks.refuse("name", name, f"one of the layer's parameters: {known}")
    known_method = registry.method(method)
    own = channel_options(known_method, weight, channelwise)
    if own and getattr(layer, "transposed", False):
        raise checks.refuse(
            "channelwise", channelwise, "False for a transposed convolution: its first axis is the input"
        )
    quantizer = build(method, bits=bits, role="weight", **own, **options).to(weight.device)
    check_weights(weight, standardized=known_method.standardized)
    standardized = [Standardize()] if known_method.standardized else []
    if isinstance(quantizer, Quantizer) and quantizer.has_first_values and not standardized:
        quantizer.initialize(weight.detach())  # it sets nothing, and refuses weights that have no levels
    with calibrating():  # the weights at hand are what first values are taken from, on every rank
        for part in (*standardized, quantizer):
            parametrize.register_parametrization(layer, name, part)
    return layer


@dataclass(frozen=True)
class Row:
    """What becomes of one part of a network.

    Attributes
    ----------
    name, kind : str
        As in ``named_modules()``, and its type; the network itself is "".
    method : str
        Of weights and of inputs; empty if it is kept.
    bits : tuple of (int or None), optional
        Of both; None if it is kept.
    role : str
        Of the inputs.
    kept : str
        Why it stays as it is; empty if it is quantized.
    """

    name: str
    kind: str
    method: str = ""
    bits: Bits | None = None
    role: str = ""
    kept: str = ""


@dataclass(frozen=True)
class Plan:
    """What a conversion does to a network, as a table; nothing is done until `apply`.

    Attributes
    ----------
    module : Module
    rows : tuple of Row
        One for each layer, in the order of use or of definition, then what stays in floating point although it
        computes: parts with weights that are no such layer, and calls of functions that an example showed.
    """

    module: nn.Module
    rows: tuple[Row, ...]
    _steps: tuple[Callable[[], None], ...] = field(default=(), repr=False)

    def apply(self) -> nn.Module:
        """Quantize the layers, in place; returns the network.

        Raises
        ------
        ValueError
            If it was done already.
        """
        if any(isinstance(dict(self.module.named_modules())[row.name], QuantizedLayer) for row in self.quantized):
            raise checks.refuse("plan", "one that was applied", "a new one: its layers are quantized")
        for step in self._steps:
            step()
        for row in self.quantized:
            label_parts(self.module.get_submodule(row.name), row.name)
        for encoder in self.module.modules():
            inside = encoder.modules() if isinstance(encoder, nn.TransformerEncoder) else ()
            if any(isinstance(m, QuantLinear) for m in inside):
                # of padded batches, which only the layers that it calls itself take
                encoder.use_nested_tensor = False  # type: ignore[assignment]
        return self.module

    @property
    def quantized(self) -> tuple[Row, ...]:
        """The rows of layers that are quantized."""
        return tuple(row for row in self.rows if not row.kept)

    def __str__(self) -> str:
        """Print the table."""
        cells = [("layer", "type", "method", "bits", "inputs", "kept")]
        for row in self.rows:
            bits = "" if row.bits is None else "/".join("32" if b is None else str(b) for b in row.bits)
            cells.append((row.name or "(root)", row.kind, row.method, bits, row.role, row.kept))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def plan_model(
    module: nn.Module,
    method: str | tuple[str, str] = "daq",
    bits: Bits = (2, 2),
    *,
    keep_ends: bool = True,
    keep: Collection[Selector] | Selector = (),
    layers: Mapping[Selector, Choice] | None = None,
    example: Example | None = None,
    input_role: str | None = None,
    **options: Any,
) -> Plan:
    """Say what `quantize_model` with the same arguments does, and do nothing.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))
    >>> print(plan_model(net, "lsq", (4, 4)))
    layer  type    method  bits  inputs      kept
    0      Conv2d                            the first layer (keep_ends)
    2      Conv2d  lsq     4/4   activation
    4      Conv2d                            the last layer (keep_ends)
    """
    names = {id(part): name for name, part in module.named_modules()}
    aliases = {name: names[id(part)] for name, part in module.named_modules(remove_duplicate=False)}
    read = {id(child) for parent in module.modules() if isinstance(parent, READERS) for child in parent.children()}
    known: dict[str, Any] = {
        name: m for name, m in module.named_modules() if _plain_type(m) in QUANTIZED and id(m) not in read
    }
    keep = [keep] if isinstance(keep, str | re.Pattern) or callable(keep) else keep
    kept_by_name = _select(keep, known, aliases, "keep")
    bits = pair("bits", bits)
    if input_role is not None and example is not None:
        raise checks.refuse("input_role", input_role, "None, as `example` tells which inputs are signed")
    _check_common(method, bits, input_role, options)
    settings: dict[str, dict[str, Any]] = {name: {"method": method, "bits": bits, **options} for name in known}
    said_of, own = {name: "" for name in known}, {name for name in known if name == ""}
    for selector, choice in (layers or {}).items():
        where = f"layers[{_printed(selector)}]"
        for name in _select([selector], known, aliases, "layers"):
            said_of[name] = where
            if selector in aliases and choice is not None:
                own.add(name)
            if choice is None:
                kept_by_name.add(name)
            else:
                kept_by_name.discard(name)
                settings[name].update(_checked_choice(where, choice))
    found = _Use() if example is None else _use(module, known, example)
    order = list(found.signed) if example is not None else list(known)
    ends = {order[0]: "the first layer (keep_ends)", order[-1]: "the last layer (keep_ends)"} if order else {}
    kept = {name: why for name, why in ends.items() if keep_ends and name not in own}
    kept |= dict.fromkeys(kept_by_name, "as asked for")
    chosen = [name for name in order if name not in kept]
    if not chosen:
        seen = Counter(type(m).__name__ for m in module.modules() if not list(m.children()))
        types = ", ".join(f"{count} {kind}" for kind, count in sorted(seen.items()))
        listed = ", ".join(sorted(kept)) or "none"
        admitted = f"a network with layers to quantize (kept: {listed}; types seen: {types})"
        raise checks.refuse("module", type(module).__name__, admitted)
    for name in chosen:
        settings[name].setdefault("input_role", _role(input_role, found.signed.get(name)))
    _check_roles(chosen, settings)
    steps = tuple(_prepared(name, known[name], settings[name], said_of[name]) for name in chosen)
    rows = [
        Row(name, _plain_type(known[name]).__name__, kept=kept[name]) if name in kept
        else _row(name, known[name], settings[name])
        for name in order
    ]  # fmt: skip
    return Plan(module, (*rows, *_other_parts(module, known, read), *found.functions), steps)


def quantize_model(
    module: nn.Module,
    method: str | tuple[str, str] = "daq",
    bits: Bits = (2, 2),
    *,
    keep_ends: bool = True,
    keep: Collection[Selector] | Selector = (),
    layers: Mapping[Selector, Choice] | None = None,
    example: Example | None = None,
    input_role: str | None = None,
    **options: Any,
) -> nn.Module:
    """Make the convolutions and linear layers of a network quantized ones, in place.

    Layers stay the objects that they are, with their parameters, hooks and modes. Weights stay as they are; clip
    ranges, step sizes and scales have no values until `torchimpl.calibrate`, or in one process the first batch in
    training mode, sets them. What was done is logged as a table, by the logger of this module at level INFO;
    `plan_model` returns it.

    Parameters
    ----------
    module : Module
        Its layers become quantized: those whose type is Conv1d, 2d or 3d, a transposed convolution, or Linear. Other
        types, subclasses of these among them, stay as they are, and so do layers whose weights torch reads without
        calling them (the projections of MultiheadAttention); the table names them. A TransformerEncoder no longer takes
        its fast path in test mode, which reads weights, nor makes padded batches nested. It may be such a layer itself.
    method, bits, **options
        As for `QuantConv2d`.
    keep_ends : bool
        Keep the first and the last layer in full precision, as the papers do, unless `layers` has their very names.
    keep : collection of selectors
        Further layers that stay in full precision. A selector is a name as in ``module.named_modules()``, a pattern
        such as ``"layer3.*"``, a compiled regular expression, which all of a name must match, or a function of name and
        module.
    layers : mapping of selectors, optional
        What is other for some layers: bits, as a pair; None, to keep them; or a mapping with any of bits, method,
        input_role and what else `QuantConv2d` takes. Of several that match, later ones are added to earlier ones.
    example : Tensor, tuple or mapping, optional
        A batch to run through the network, in test mode, by position or by keyword. It tells in which order layers are
        used, which inputs have negative values and are to be quantized as signed, and what is computed by functions.
    input_role : {"activation", "signed_activation"}, optional
        Of all inputs, without `example`, which tells; by default "activation", unless the method knows signed ones
        only: IR-Net takes signs, which behind a ReLU are all +. By that default, the first batch warns of inputs that
        lose negative values. Layers are then in the order in which the network defines them.

    Returns
    -------
    Module
        `module`.

    Raises
    ------
    ValueError
        If no layer is left to quantize, a selector matches none, `example` leaves a layer unused or shows inputs that
        the method does not know, `input_role` is one that it does not know or comes with `example`, or a layer is
        pruned, weight-normed or parametrized otherwise, has a forward pass of its own, or pads with other values than
        zero. Nothing is changed.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))
    >>> [type(layer).__name__ for layer in quantize_model(net, "lsq", (4, 4))]
    ['Conv2d', 'ReLU', 'QuantConv2d', 'ReLU', 'Conv2d']
    >>> net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> _ = quantize_model(net, "lsq", (4, 4), layers={"4": (8, 8)})
    >>> net[2].weight_quantizer.bits, net[4].weight_quantizer.bits
    (4, 8)
    """
    plan = plan_model(
        module, method, bits, keep_ends=keep_ends, keep=keep, layers=layers, example=example, input_role=input_role,
        **options,
    )  # fmt: skip
    plan.apply()
    log.info("quantized:\n%s", plan)
    return module


def dequantize_model(module: nn.Module) -> nn.Module:
    """Make plain layers of the quantized ones again, in place, with the weights that test mode computes with.

    Inputs are in full precision then. Weights on their levels are new parameters, times the output scale where there is
    one; parameters that layers shared are shared no longer.

    Parameters
    ----------
    module : Module
        With quantized layers, or quantizers as parametrizations, anywhere.

    Returns
    -------
    Module
        `module`.

    Raises
    ------
    RuntimeError
        If a layer has no first values yet: `torchimpl.calibrate` gives them. Nothing is changed.

    Examples
    --------
    >>> from torchimpl import calibrate
    >>> net = calibrate(quantize_model(nn.Linear(8, 2), "daq", (1, None)), torch.rand(4, 8))
    >>> type(dequantize_model(net)).__name__, len(net.weight.unique())
    ('Linear', 2)
    """
    found = [(name, part) for name, part in module.named_modules() if isinstance(part, QuantizedLayer)]
    for name, layer in found:
        for own in layer.modules():
            if isinstance(own, Quantizer | QuantizedLayer):
                own.notice_first_values()
                if not own.has_first_values:
                    whose = name or type(layer).__name__
                    raise RuntimeError(f"{whose} has no first values. Call torchimpl.calibrate(model, images) first")
    for _, layer in found:
        layer.dequantize()
    for part in list(module.modules()):
        if parametrize.is_parametrized(part):
            chains: Any = part.parametrizations
            for parameter, chain in list(chains.items()):
                if any(isinstance(step, Quantizer) for step in chain):
                    chain.eval()
                    leave_parametrized(part, parameter)
    return module


def leave_parametrized(layer: nn.Module, name: str) -> None:
    """Take a parametrization away, and leave its values; copies of the layer, which share its class, keep theirs."""
    kind = type(layer)
    own = {key: value for key, value in vars(kind).items() if key not in ("__dict__", "__weakref__")}
    layer.__class__ = type(kind.__name__, kind.__bases__, own)
    parametrize.remove_parametrizations(layer, name, leave_parametrized=True)


def label_parts(part: nn.Module, name: str) -> None:
    """Tell a layer and its quantizers their name, for what they have to say."""
    for inner, own in part.named_modules():
        if isinstance(own, Quantizer | QuantizedLayer):
            own.label = ".".join(filter(None, (name, inner)))


# Which layers


def _plain_type(layer: nn.Module) -> type[nn.Module]:
    """The type of a layer, below what torch's parametrizations make of it."""
    kind = type(layer)
    return kind.__mro__[1] if parametrize.is_parametrized(layer) else kind


def _select(
    selectors: Collection[Selector], known: Mapping[str, Any], aliases: Mapping[str, str], what: str
) -> set[str]:
    """Return the names of the layers that any of the selectors means; every selector must mean one."""
    found: set[str] = set()
    for selector in selectors:
        if isinstance(selector, re.Pattern):
            one = {name for name in known if selector.fullmatch(name)}
        elif isinstance(selector, str):
            one = {aliases[selector]} & set(known) if selector in aliases else set()
            one = one or {name for name in known if fnmatchcase(name, selector)}
        elif callable(selector):
            one = {name for name in known if selector(name, known[name])}
        else:
            raise checks.refuse(what, selector, "names, patterns, regular expressions or functions of name and module")
        if not one:
            unknown = [s for s in selectors if isinstance(s, str) and not _select_any(s, known, aliases)] or selector
            raise checks.refuse(what, unknown, "names of its layers: " + (", ".join(known) or "it has none"))
        found |= one
    return found


def _select_any(selector: str, known: Mapping[str, Any], aliases: Mapping[str, str]) -> bool:
    return aliases.get(selector) in known or any(fnmatchcase(name, selector) for name in known)


def _printed(selector: Selector) -> str:
    return repr(selector.pattern) if isinstance(selector, re.Pattern) else repr(selector)


def _checked_choice(where: str, choice: Choice) -> dict[str, Any]:
    """Return the settings that one entry of `layers` has."""
    if isinstance(choice, Mapping):
        found = dict(choice)
    else:
        found = {"bits": choice}
    if "bits" in found:
        found["bits"] = pair(f"bits of {where}", found["bits"])
    return found


def _check_common(method: Any, bits: Bits, input_role: str | None, options: dict[str, Any]) -> None:
    """Refuse what no layer could be built with, before it is said of one layer."""
    for_inputs = registry.method(pair("method", (method, method) if isinstance(method, str) else method)[1])
    if input_role is not None and input_role not in _admitted_roles(for_inputs, bits):
        raise checks.refuse("input_role", input_role, f"{_either(for_inputs, bits)} for {for_inputs.title}")
    QuantLinear(2, 2, method=method, bits=bits, **options)


def _admitted_roles(for_inputs: registry.Method, bits: Bits) -> list[str]:
    return list(grid.ROLES[1:]) if bits[1] is None else [role for role in for_inputs.roles if role != "weight"]


def _either(for_inputs: registry.Method, bits: Bits) -> str:
    return " or ".join(_admitted_roles(for_inputs, bits))


def _role(input_role: str | None, signed: bool | None) -> str | None:
    """What a layer is told of its inputs: None if nothing is known."""
    if signed is not None:
        return SIGNED if signed else "activation"
    return input_role


def _check_roles(chosen: list[str], settings: dict[str, dict[str, Any]]) -> None:
    """Refuse inputs that the layers' methods do not know."""
    others = {}
    for name in chosen:
        own = settings[name]
        for_inputs = registry.method(own["method"] if isinstance(own["method"], str) else own["method"][1])
        role, admitted = own["input_role"], _admitted_roles(for_inputs, own["bits"])
        if role is not None and role not in admitted:
            others[name] = (for_inputs, admitted)
    if others:
        for_inputs, admitted = next(iter(others.values()))
        kind = "of both signs (behind Hardtanh, say)" if admitted == [SIGNED] else "never negative (behind ReLU, say)"
        wanted = f"{kind}, or kept in full precision (keep=...): {for_inputs.title} knows no others"
        raise checks.refuse("inputs of layers to quantize", list(others), wanted)


def _prepared(name: str, layer: nn.Module, settings: dict[str, Any], where: str) -> Callable[[], None]:
    """Build what quantizes one layer; errors say which, and which entry of `layers` it is about."""
    _check_plain(name, layer)
    try:
        return QUANTIZED[type(layer)].prepare(layer, **settings)
    except (TypeError, ValueError) as error:  # TypeError: an option that the method does not have
        told = f", by {where}" if where else ""
        raise ValueError(f"{name or type(layer).__name__}{told}: {error}") from None


def _check_plain(name: str, layer: nn.Module) -> None:
    """Refuse a layer whose weight or bias is not its own parameter, or whose forward pass is not its type's."""
    hooks = [type(hook).__name__ for hook in layer._forward_pre_hooks.values()]
    if parametrize.is_parametrized(layer):
        chains: Any = layer.parametrizations
        steps = [type(step).__name__.lstrip("_") for chain in chains.values() for step in chain]
        how = f"parametrized ({', '.join(steps)}): torch.nn.utils.parametrize.remove_parametrizations"
    elif any(isinstance(hook, prune.BasePruningMethod) for hook in layer._forward_pre_hooks.values()):
        how = "pruned: torch.nn.utils.prune.remove"
    elif "WeightNorm" in hooks:
        how = "weight-normed: torch.nn.utils.remove_weight_norm"
    elif "SpectralNorm" in hooks:
        how = "normed by its largest singular value: torch.nn.utils.remove_spectral_norm"
    elif not isinstance(layer._parameters.get("weight"), nn.Parameter):
        how = f"made by a hook ({', '.join(hooks) or 'of its owner'}): what removes that"
    elif "forward" in layer.__dict__:
        whose = f"forward of {name or 'the layer'}"
        raise checks.refuse(whose, "one of this object's own", "its type's, or kept (keep=...)")
    else:
        if getattr(layer, "padding_mode", "zeros") != "zeros":
            raise checks.refuse(f"padding_mode of {name}", layer.padding_mode, "zeros")
        return
    what, _, remedy = how.partition(": ")
    whose = "bias" if isinstance(layer._parameters.get("weight"), nn.Parameter) else "weight"
    admitted = f"a plain parameter ({remedy} makes it one), or kept (keep=...)"
    raise checks.refuse(f"{whose} of {name or 'the layer'}", what, admitted)


def _row(name: str, layer: nn.Module, settings: dict[str, Any]) -> Row:
    method = settings["method"]
    shown = method if isinstance(method, str) else ",".join(method)
    role = settings["input_role"] or registry.method(method if isinstance(method, str) else method[1]).input_role
    return Row(name, type(layer).__name__, shown, pair("bits", settings["bits"]), role if settings["bits"][1] else "")


# What stays in floating point although it computes

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.PReLU)
LOOKED_UP = (nn.Embedding, nn.EmbeddingBag)


def _other_parts(module: nn.Module, known: Mapping[str, Any], read: set[int]) -> Iterator[Row]:
    """Rows of modules with weights that are none of the layers."""
    for name, part in module.named_modules():
        kind = type(part).__name__
        if name in known or isinstance(part, (Quantizer, *NORMS, *LOOKED_UP)):
            continue
        if isinstance(part, QuantizedLayer):
            yield Row(name, kind, kept="quantized already")
        elif id(part) in read:
            yield Row(name, kind, kept="torch reads its weights without calling it")
        elif isinstance(part, tuple(QUANTIZED)):
            yield Row(name, kind, kept="a subclass, which may compute something else")
        elif any(p is not None and p.dim() > 1 for p in part._parameters.values()):
            names = ", ".join(n for n, p in part._parameters.items() if p is not None and p.dim() > 1)
            packed = "its projections are packed, and computed by a function of torch's"
            why = packed if isinstance(part, READERS) else "no layer that is known here, which computes with"
            yield Row(name, kind, kept=f"{why}: {names}")


@dataclass
class _Use:
    """What an example showed: which layers' inputs are signed, in the order of first use, and calls of functions."""

    signed: dict[str, bool] = field(default_factory=dict)
    functions: list[Row] = field(default_factory=list)


PRODUCTS = frozenset(
    (
        *(f"conv{kind}{axes}d" for kind in ("", "_transpose") for axes in (1, 2, 3)),
        *("convolution", "linear", "bilinear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "addmm"),
        *("baddbmm", "einsum", "tensordot", "scaled_dot_product_attention", "multi_head_attention_forward"),
    )
)


class _Listener(TorchFunctionMode):
    """Notes which functions that multiply are called, and within which module."""

    def __init__(self, within: list[str], calls: Counter[tuple[str, str]]) -> None:
        super().__init__()
        self.within, self.calls = within, calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in PRODUCTS:
            self.calls[(self.within[-1] if self.within else "", name)] += 1
        return func(*args, **(kwargs or {}))


def call(module: nn.Module, example: Example) -> Any:
    """Call a network with an example: a tensor, a tuple by position, or a mapping by keyword."""
    if isinstance(example, Mapping):
        return module(**example)
    return module(*example) if isinstance(example, tuple | list) else module(example)


@contextmanager
def in_test_mode(module: nn.Module) -> Iterator[None]:
    """Put a network in test mode for a while, without gradients."""
    modes = {m: m.training for m in module.modules()}
    try:
        with torch.no_grad():
            module.eval()
            yield
    finally:
        for m, training in modes.items():
            m.training = training


def _use(module: nn.Module, layers: Mapping[str, nn.Module], example: Example) -> _Use:
    """Run a batch; note of each layer whether its inputs have been negative, and what is computed outside of them."""
    found, within, calls = _Use(), [], Counter[tuple[str, str]]()
    of_layers = {id(layer) for layer in layers.values()}

    def enter(part: nn.Module, name: str, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        within.append(name)
        if id(part) in of_layers:
            x = inputs[0] if inputs else keywords["input"]
            found.signed[name] = found.signed.get(name, False) or bool((x < 0).any())

    hooks = []
    for name, part in module.named_modules():
        hooks.append(
            part.register_forward_pre_hook(
                lambda part, inputs, keywords, name=name: enter(part, name, inputs, keywords), with_kwargs=True
            )
        )
        hooks.append(part.register_forward_hook(lambda *_: within.pop() and None, always_call=True))
    try:
        with in_test_mode(module), _Listener(within, calls):
            call(module, example)
    finally:
        for hook in hooks:
            hook.remove()
    unused = sorted(set(layers) - set(found.signed))
    if unused:
        raise checks.refuse("example", _shape(example), f"a batch that uses every layer; unused: {unused}")
    parts = dict(module.named_modules())
    for (name, function), count in calls.items():
        if not isinstance(parts[name], (*QUANTIZED, QuantizedLayer)):
            times = "" if count == 1 else f", {count} times"
            why = f"calls {function}{times}, a function: only layers are quantized"
            found.functions.append(Row(name, type(parts[name]).__name__, kept=why))
    return found


def _shape(example: Example) -> Any:
    if isinstance(example, Tensor):
        return tuple(example.shape)
    values = example.values() if isinstance(example, Mapping) else example
    return [tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__ for value in values]
