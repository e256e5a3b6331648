"""Equations 1 to 8 of the DAQ paper: each is a definition, and what can be checked is who follows it.

For every one the formula is written out here for single numbers and compared with the function of the reference, whose
line is named; beside it stands where the authors' code computes it, and whether it computes the same. Nothing could
refute a definition: the verdict is *by definition*, unless the reference does not follow it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from paper_tables.cells import ROOT, Cell
from reference import daq, grid, integer

REPOSITORY, COMMIT = "cvlab-yonsei/DAQ", "ce2a9a8"
LAYER = "models/resnet20_DAQ.py"
ACCURACY = 1e-14  # of float64, for numbers up to 3
BITS, TOP = 2, 3
LOWER, UPPER, SCALE, BETA = -1.25, 1.5, 0.7, 12.0
INPUTS = tuple((k + 0.5) / 32 for k in range(32 * TOP))  # normalised, at no level and no transition point
RAW = tuple(-2 + k / 64 for k in range(257))  # within and without the clip range


@dataclass(frozen=True)
class Definition:
    """An equation, and who follows it.

    Attributes
    ----------
    equation : int
    formula : str
    module : module
    function : str
        Of the reference.
    released : str
        Lines of `LAYER`.
    same : str
        What the released code does there.
    error : callable
        Largest distance of the reference from the formula, written out.
    """

    equation: int
    formula: str
    module: ModuleType
    function: str
    released: str
    same: str
    error: Callable[[], float]

    @property
    def line(self) -> str:
        """Where the reference has it."""
        function = getattr(self.module, self.function)
        path = Path(inspect.getsourcefile(function) or "").resolve().relative_to(ROOT)
        return f"{path.as_posix()}:{inspect.getsourcelines(function)[1]}"


def far(found: Any, expected: list[float]) -> float:
    """Largest distance."""
    return max(abs(float(a) - b) for a, b in zip(np.ravel(found), expected, strict=True))


def _normalized() -> float:
    clipped = [min(max(x, LOWER), UPPER) for x in RAW]
    return far(grid.normalize(RAW, LOWER, UPPER, BITS), [TOP * (x - LOWER) / (UPPER - LOWER) for x in clipped])


def _decoded() -> float:
    codes = range(TOP + 1)
    weights = far(grid.decode(list(codes), BITS, "weight"), [2 * q / TOP - 1 for q in codes])
    return max(weights, far(grid.decode(list(codes), BITS, "activation"), [q / TOP for q in codes]))


def _output() -> float:
    """A linear layer, by integers and one multiplication, against the sum of products."""
    w, a = [0, 3, 1, 2, 2], [3, 0, 1, 2, 3]
    weights, inputs = (grid.integer_grid(BITS, role) for role in ("weight", "activation"))
    found = integer.multiply(inputs.integers(a), [weights.integers(w)]) * float(weights.unit * inputs.unit) * SCALE
    return far(found, [SCALE * sum((2 * q / TOP - 1) * r / TOP for q, r in zip(w, a, strict=True))])


def _score(x: float, q: float) -> float:
    return math.exp(-abs(x - q))


def _weighted(x: float) -> tuple[float, float]:
    """Eq. 8 with the Gaussian of deviation 1, for floor and the level above."""
    f = math.floor(x)
    nearest = f if x - f <= 0.5 else f + 1
    return tuple(math.exp(-((q - nearest) ** 2) / 2) * _score(x, q) for q in (f, f + 1))  # type: ignore[return-value]


def _share(x: float) -> float:
    """Eq. 6, of the upper level."""
    s_f, s_c = _weighted(x)
    return math.exp(BETA * s_c) / (math.exp(BETA * s_f) + math.exp(BETA * s_c))


def _soft() -> float:
    expected = [math.floor(x) * (1 - _share(x)) + (math.floor(x) + 1) * _share(x) for x in INPUTS]
    return far(daq.kernel_soft_argmax(INPUTS, BETA, sigma=1.0), expected)


def _probability() -> float:
    scores = tuple(np.asarray(some) for some in zip(*map(_weighted, INPUTS), strict=True))
    return far(daq.distance_probability(scores, BETA)[1], [_share(x) for x in INPUTS])


def _temperature() -> float:
    expected = [2 / abs(f - c) for f, c in map(_weighted, INPUTS)]
    found = daq.adaptive_temperature(INPUTS, gamma=2.0, sigma=1.0)
    return far(found / np.asarray(expected), [1.0] * len(expected))


def _scores() -> float:
    return max(
        far(found, [_weighted(x)[side] for x in INPUTS])
        for side, found in enumerate(daq.weighted_scores(INPUTS, sigma=1.0))
    )


DEFINITIONS = (
    Definition(
        1, "x = (2^b - 1) (clip(x-hat, l, u) - l)/(u - l)", grid, "normalize", "98-100 and 153-155",
        "the same, clipped after it is scaled", _normalized,
    ),
    Definition(
        2, "w_q = 2 Q/(2^b - 1) - 1, a_q = Q/(2^b - 1)", grid, "decode", "101-102 and 156-157",
        "the same", _decoded,
    ),
    Definition(
        3, "o = s w_q * a_q", integer, "multiply", "244-245", "differs: |s| in the place of s", _output,
    ),
    Definition(
        4, "d_x(q) = exp(-|x - q|)", daq, "distance_score", "108-109 and 162-163",
        "the same", lambda: far(daq.distance_score(INPUTS, 1.0), [_score(x, 1.0) for x in INPUTS]),
    ),
    Definition(
        5, "phi(x; beta) = sum of m_x(q; beta) q over q_f and q_c", daq, "kernel_soft_argmax",
        "132-138 and 187-193", "the same, with Eq. 10 in the levels", _soft,
    ),
    Definition(
        6, "m_x(q; beta) is the softmax of beta k_x(q) d_x(q)", daq, "distance_probability",
        "125-130 and 179-185", "the same, less the tensor's largest exponent", _probability,
    ),
    Definition(
        7, "beta* = gamma/|s_x(q_f) - s_x(q_c)|", daq, "adaptive_temperature", "120-123 and 174-177",
        "the same", _temperature,
    ),
    Definition(
        8, "s_x(q) = k_x(q) d_x(q)", daq, "weighted_scores", "112-117 and 166-171",
        "differs: a kernel of deviation sigma/sqrt(2)", _scores,
    ),
)  # fmt: skip


def cells() -> Iterator[Cell]:
    """A line for each definition."""
    for one in DEFINITIONS:
        error = one.error()
        follows = error <= ACCURACY
        yield Cell(
            paper="DAQ",
            table="equations",
            row=f"Eq. {one.equation}: {one.formula}",
            column=f"Eq. {one.equation}, definition",
            unit="worst absolute error",
            measured=error,
            protocol=f"the formula written out for single numbers, float64; code of {REPOSITORY} at {COMMIT}",
            claim_verdict="by definition" if follows else "fails",
            reason=(
                f"definition; reference: {one.line}, {one.function}, {error:.0e} away; released: "
                f"{LAYER}:{one.released}, {one.same}"
            ),
        )
