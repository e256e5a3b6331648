"""Recipes: how a network is trained, as data. ``recipes.toml`` has them by profile, each field with its source."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from reference import checks, registry
from torchimpl.checkpoints import NORMALIZATIONS
from torchimpl.models import ACTIVATIONS, NETWORKS

IMAGES = ("cifar10", "digits")
PRECISIONS = ("float32", "bfloat16")
INHERITED = {"smoke": "embedded", "embedded": "cifar10", "cifar10-short": "cifar10"}  # whose sources a profile has, too
FILE = Path(__file__).with_name("recipes.toml")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that shapes a training run, but for the device.

    Attributes
    ----------
    profile : str
        Its name among `profiles`.
    images : {"cifar10", "digits"}
    network : str
        In `torchimpl.models.NETWORKS`, or "package.module:function", a caller's own: called with `options`, it returns
        a Module.
    activation : {"relu", "hardtanh"}
        Of the network.
    method : str, optional
        Of the quantizers; None for full precision.
    bits : tuple of (int or None)
        Of weights and activations.
    options : mapping
        For both quantizers; ``weight_options`` and ``input_options`` in it are for one of them. What JSON can hold.
    epochs, batch : int
        Length, and images a step.
    rate, momentum, weight_decay : float
        Of SGD, for weights, biases and batch normalisations.
    quantizer_rate : float
        Of Adam, for the quantizers' parameters and output scales, which have no weight decay.
    penalty : float
        Coefficient of the sum of the quantizers' own penalties.
    normalize : str
        In `torchimpl.checkpoints.NORMALIZATIONS`, or "none" for images with one channel.
    crop : int
        Pixels by which an image is padded with black on each side before it is cropped at random.
    flip : bool
        Whether half of the images are mirrored.
    precision : {"float32", "bfloat16"}
        In which convolutions are computed in training; weights and tests are in float32.
    seed : int
        It varies everything that chance decides: first weights, order of the images, crops and flips.

    Raises
    ------
    ValueError
        If a field is not what is admitted.

    Examples
    --------
    >>> recipe("embedded", method="daq", bits=(1, 1)).batch
    64
    """

    profile: str
    images: str
    network: str
    activation: str = "relu"
    method: str | None = None
    bits: tuple[int | None, int | None] = (None, None)
    options: Mapping[str, Any] = field(default_factory=dict)
    epochs: int
    batch: int
    rate: float
    momentum: float
    weight_decay: float
    quantizer_rate: float
    penalty: float = 0.0
    normalize: str
    crop: int
    flip: bool
    precision: str
    seed: int = 0

    def __post_init__(self) -> None:
        for name, admitted in (
            ("images", IMAGES),
            ("activation", tuple(ACTIVATIONS)),
            ("precision", PRECISIONS),
            ("normalize", tuple(NORMALIZATIONS)),
            ("flip", (False, True)),
        ):
            if getattr(self, name) not in admitted:
                raise checks.refuse(name, getattr(self, name), f"one of {', '.join(map(str, admitted))}")
        if len(self.bits) != 2 or not all(b is None or (isinstance(b, int) and 1 <= b <= 8) for b in self.bits):
            raise checks.refuse("bits", self.bits, "a pair of whole numbers from 1 to 8, or None for full precision")
        if self.network not in NETWORKS and ":" not in self.network:
            raise checks.refuse("network", self.network, f"one of {', '.join(NETWORKS)}, or package.module:function")
        for name, least in (("epochs", 1), ("batch", 2), ("crop", 0), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**31:
                raise checks.refuse(name, value, f"a whole number from {least}")
        for name, most in (
            ("rate", 1e3),
            ("momentum", 1.0),
            ("weight_decay", 1.0),
            ("quantizer_rate", 1e3),
            ("penalty", 1e3),
        ):
            checks.check_scalar(name, getattr(self, name), 0, most)
        try:
            json.dumps(self.options)
        except (TypeError, ValueError):  # the latter for one that holds itself
            raise checks.refuse("options", self.options, "what JSON can hold: numbers, words, lists") from None
        if self.method is not None:
            registry.method(self.method)

    def as_json(self) -> dict[str, Any]:
        """Return the fields, without the profile's name, which shapes nothing."""
        found = dataclasses.asdict(self)
        del found["profile"]
        return found


def recipe(profile: str, **fields: Any) -> Recipe:
    """Return a profile's recipe of a method.

    Parameters
    ----------
    profile : str
        One of `profiles`.
    **fields
        What is to be other than in the profile: method, bits, options, seed, ...

    Raises
    ------
    ValueError
        If there is no such profile or field, or a value is not admitted.
    """
    known = _file()
    if profile not in known["profiles"]:
        raise checks.refuse("profile", profile, f"one of {', '.join(known['profiles'])}")
    found = known["profiles"][profile] | known["methods"].get(fields.get("method"), {})
    names = [f.name for f in dataclasses.fields(Recipe)]
    for name in fields.keys() - set(names):
        raise checks.refuse("field of a recipe", name, f"one of {', '.join(names)}")
    return Recipe(**{**found, **fields, "profile": profile})


def profiles() -> tuple[str, ...]:
    """Names of the profiles, the shortest first.

    >>> profiles()
    ('smoke', 'embedded', 'cifar10-short', 'cifar10')
    """
    return tuple(_file()["profiles"])


def source(made: Recipe, name: str) -> str:
    """Say where a field of a profile's recipe comes from: a paper, a usual choice, our own.

    >>> source(recipe("embedded"), "weight_decay")
    'DAQ, Section 4.1'
    """
    known = _file()
    where = made.method if name in known["methods"].get(made.method, {}) else made.profile
    while name not in known["sources"].get(where, {}) and where in INHERITED:
        where = INHERITED[where]
    return str(known["sources"].get(where, {}).get(name, ""))


@cache
def _file() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))
