"""The methods of the suite: every module of this package that defines ``METHOD`` is one.

Tables, tests and benchmarks ask here, so that a new method needs no change to a standing file.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True)
class Method:
    """What the suite knows of a method.

    Attributes
    ----------
    name : str
        Name on the command line, and of the module in ``reference`` and ``torchimpl.quantizers``.
    title : str
        Name in print.
    source : str
        Where the method is defined.
    bits : sequence of int
        Bit-widths for which it is defined.
    roles : sequence of str
        What it quantizes.
    variants : sequence of str
        Where paper and released code differ, one name each; the first is the default.
    learnable : sequence of str
        Parameters that receive a gradient.
    """

    name: str
    title: str
    source: str
    bits: Sequence[int]
    roles: Sequence[str]
    variants: Sequence[str]
    learnable: Sequence[str]


def modules() -> dict[str, ModuleType]:
    """Return the reference module of every method, by name.

    >>> sorted(modules())[:2]
    ['daq', 'dsq']
    """
    import reference

    found = {}
    for info in pkgutil.iter_modules(reference.__path__):
        module = importlib.import_module(f"reference.{info.name}")
        if hasattr(module, "METHOD"):
            found[module.METHOD.name] = module
    return dict(sorted(found.items()))


def methods() -> dict[str, Method]:
    """Return every method, by name."""
    return {name: module.METHOD for name, module in modules().items()}


def module(name: str) -> ModuleType:
    """Return the reference module of the method `name`.

    Raises
    ------
    ValueError
        If there is no such method; the message lists those there are.
    """
    found = modules()
    if name not in found:
        raise ValueError(f"method must be one of {', '.join(found)}, got {name!r}")
    return found[name]
