"""Whether the suite's packages are those that an import finds: their names are not rare. Imports none of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder
from pathlib import Path

PACKAGES = ("reference", "torchimpl", "paper_tables", "arm")
ROOT = Path(__file__).resolve().parent.parent


def found(*, here: bool = False) -> str:
    """Return one line on the first other module of one of these names that an import finds; empty if there is none.

    Parameters
    ----------
    here : bool
        Whether the present folder is looked at although nothing is imported from it yet.
    """
    entries = [os.getcwd()] if here else []
    for name in PACKAGES:
        place = _first(name, [*entries, *sys.path])
        if place is not None and place.resolve() != ROOT / name:
            return (
                f"another module named {name} is in the way: {place} is found before the suite's own, {ROOT / name}; "
                "rename it, or run this from another folder"
            )
    return ""


def _first(name: str, entries: Iterable[str]) -> Path | None:
    """Where a module is found first: its folder, or its file if it is no package; folders without code don't count."""
    for entry in entries:
        spec = PathFinder.find_spec(name, [entry or os.getcwd()])
        if spec is not None and spec.origin is not None:
            return Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
    return None
