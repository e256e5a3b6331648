"""Inputs of a quantizer as hypothesis draws them; needs hypothesis, which nothing else in this package does."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from reference.contract import Quantizer
from reference.inputs import FORMATS, Points, arranged, find

if TYPE_CHECKING:
    from hypothesis import strategies as st


def numbers(quantizer: Quantizer, dtype: str = "float64", points: Points | None = None) -> st.SearchStrategy[float]:
    """Draw single inputs: transition points, their neighbours, zeros, numbers in and about the range, and any others.

    >>> from hypothesis import find
    >>> from reference import contract, lsq
    >>> subject = contract.of_reference(lsq, lsq.Params(1.0, 2, "weight"))
    >>> find(numbers(subject), lambda x: 1 < x < 1.5) in (1.0000000000000002, 1.25, 1.1, 1.00001)
    True
    """
    from hypothesis import strategies as st

    kind = FORMATS[dtype]
    points = find(quantizer, kind) if points is None and not quantizer.from_whole_tensor else points
    low, high = (points.low, points.high) if points else (-3.0, 3.0)
    special = [0.0, -0.0, *(points.transitions.tolist() if points else ())]
    ranks = st.sampled_from([int(r) for r in kind.rank(np.array(special, kind.carrier))])
    beside = st.builds(lambda rank, step: float(kind.number(np.array(rank + step))), ranks, st.integers(-2, 2))
    span = high - low
    within = st.floats(low - span, high + span).map(lambda v: float(kind.nearest(v)))
    return st.sampled_from(special) | beside | within | st.floats(-6, 6).map(lambda v: float(kind.nearest(v)))


def arrays(
    quantizer: Quantizer, dtype: str = "float64", *, largest: int = 8, points: Points | None = None
) -> st.SearchStrategy[Any]:
    """Draw arrays of `numbers`, as long as `largest` at most, in the shape that the quantizer takes."""
    from hypothesis import strategies as st

    kind = FORMATS[dtype]
    least = 2 if quantizer.from_whole_tensor else 1
    found = st.lists(numbers(quantizer, dtype, points), min_size=least, max_size=largest)
    if quantizer.from_whole_tensor:
        found = found.filter(
            lambda values: max(map(abs, values)) > 2.0**-20 and not math.isclose(min(values), max(values))
        )
    return found.map(lambda values: arranged(quantizer, np.array(values, kind.carrier)))
