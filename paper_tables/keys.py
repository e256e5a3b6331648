"""What a recorded number rests on, as hashes: the meaning of the sources that shape it, and configuration with data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from torchimpl import sources

HASHED = 32  # digits of each hash
ACCURACY = ("torchimpl.checkpoints", "torchimpl.evaluation", "torchimpl.data.cifar10")  # of a checkpoint on CIFAR-10


def key(roots: Iterable[str], **configuration: Any) -> str:
    """Hash everything that shapes a number: ``SOURCES-CONFIGURATION``, two hashes.

    That is: what the modules `roots` mean, with those that they import (see `torchimpl.sources.meaning`), and
    `configuration` (settings, digests of data), which must be JSON. What prints, judges or draws the number does not
    count. Versions of numpy or torch are provenance, not part of the key.

    Raises
    ------
    ValueError
        If a root is no module of ``reference``, ``torchimpl`` or ``arm``.
    """
    parts = (sources.meaning(roots), json.dumps(configuration, sort_keys=True))
    return "-".join(hashlib.sha256(part.encode()).hexdigest()[:HASHED] for part in parts)


def same_configuration(one: str | None, other: str | None) -> bool:
    """Whether two keys differ in their sources at most.

    >>> same_configuration(key(["reference.daq"], bits=1), key(["reference.dsq"], bits=1))
    True
    >>> same_configuration(key(["reference.daq"], bits=1), key(["reference.daq"], bits=2))
    False
    """
    parts = [(key or "").partition("-")[2] for key in (one, other)]
    return parts[0] == parts[1] != ""
