"""Where a quantizer must be tried: transition points and their neighbours, ends, zeros, subnormals, and between.

Nothing need be known of the quantizer: transition points are found by bisection over the floating point numbers
themselves, in the type that it is tried in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from reference.contract import Quantizer
from reference.grid import Array

SEED = 0
ROUNDS = 6  # of looking between the transition points that are known
COARSE = 2048  # points of the first look


@dataclass(frozen=True)
class Format:
    """A floating point type: its numbers in their order, the integer 0 being the number 0.

    Attributes
    ----------
    name : str
    carrier : type
        The numpy type that holds its numbers.
    integer : type
        Unsigned, of the carrier's size.
    dropped : int
        Bits of the carrier that its numbers leave 0.
    digits : int
        Of the significand, the implicit one included.
    smallest_normal : float
    """

    name: str
    carrier: Any
    integer: Any
    dropped: int
    digits: int
    smallest_normal: float

    @property
    def eps(self) -> float:
        """Distance of 1 from the next larger number."""
        return 2.0 ** (1 - self.digits)

    @property
    def top(self) -> int:
        """Rank of the largest finite number."""
        return int(np.array(math.inf, self.carrier).view(self.integer) >> self.dropped) - 1

    @property
    def largest(self) -> float:
        """The largest finite number."""
        return float(self.number(np.array([self.top]))[0])

    def number(self, rank: Array) -> Array:
        """The numbers of ranks: as far from 0 as the rank says.

        >>> FORMATS["bfloat16"].number(np.array([-1, 0, 16256]))
        array([-9.1835e-41,  0.0000e+00,  1.0000e+00], dtype=float32)
        """
        rank = np.asarray(rank, np.int64)
        bits = np.abs(rank).astype(self.integer) << self.integer(self.dropped)
        return np.where(rank < 0, -1, 1).astype(self.carrier) * bits.view(self.carrier)

    def rank(self, x: Array) -> Array:
        """The ranks of numbers; numbers of no such type are taken for the next towards 0."""
        x = np.asarray(x, self.carrier)
        bits = np.abs(x).view(self.integer) >> self.integer(self.dropped)
        return np.where(np.signbit(x), -1, 1) * bits.astype(np.int64)

    def nearest(self, x: Any) -> Array:
        """Numbers of the type near `x`."""
        with np.errstate(over="ignore"):
            wide = np.asarray(np.asarray(x, np.float64), self.carrier)
        return self.number(np.clip(self.rank(wide), -self.top, self.top))


FORMATS = {
    one.name: one
    for one in (
        Format("float64", np.float64, np.uint64, 0, 53, 2.0**-1022),
        Format("float32", np.float32, np.uint32, 0, 24, 2.0**-126),
        Format("float16", np.float16, np.uint16, 0, 11, 2.0**-14),
        Format("bfloat16", np.float32, np.uint32, 16, 8, 2.0**-126),
    )
}


@dataclass(frozen=True)
class Points:
    """What is known of a quantizer in one type.

    Attributes
    ----------
    transitions : ndarray
        The greatest numbers before the value changes, ascending: of all channels together.
    low, high : float
        The clip range, a little wider.
    values : ndarray
        The values that were met, ascending.
    """

    transitions: Array
    low: float
    high: float
    values: Array


def transition_points(quantizer: Quantizer, dtype: Any = np.float64, limit: float = 2.0**20) -> Array:
    """Return the greatest number of the dtype before each change of the value, between -limit and limit.

    >>> from reference import contract, lsq
    >>> transition_points(contract.of_reference(lsq, lsq.Params(1.0, 2, "weight")))
    array([-1.5, -0.5,  0.5])
    """
    return find(quantizer, FORMATS[np.dtype(dtype).name], limit).transitions


def find(quantizer: Quantizer, kind: Format, limit: float = 2.0**20) -> Points:
    """Find where the values change: by bisection of all places at once, and then between those that were found."""

    def forward(x: Array) -> Array:
        values = quantizer.forward(arranged(quantizer, x))
        lines = np.moveaxis(values, quantizer.axis, -1) if quantizer.shape else values
        return lines.reshape(-1, len(x))

    bound = int(kind.rank(np.array(min(limit, kind.largest), kind.carrier)))
    known = np.array([], np.int64)
    seen = np.unique(np.linspace(-bound, bound, COARSE).astype(np.int64))
    most = 4 * 2 ** min(quantizer.bits, 8)
    for _ in range(ROUNDS):
        values = forward(kind.number(seen))
        changes = (values[:, 1:] != values[:, :-1]) & ~(np.isnan(values[:, 1:]) & np.isnan(values[:, :-1]))
        places = np.argwhere(changes)
        if len(places) > 4 * most * len(values):  # no staircase
            break
        lines, at = places[:, 0], places[:, 1]
        low, high, below = seen[at], seen[at + 1], values[lines, at]
        while ((high // 2 - low // 2 > 1) | (high - low > 1)).any():  # the difference itself may overflow
            # Into the first of eight parts at whose end the value is another: a third of the calls that halving takes.
            edges = _halved(_halved(_halved(np.stack([low, high]))))
            there = forward(kind.number(edges[1:-1].ravel()))[
                np.tile(lines, len(edges) - 2), np.arange(edges[1:-1].size)
            ]
            same = np.vstack([there.reshape(edges[1:-1].shape) == below, np.zeros_like(low, bool)])
            first = np.argmin(same, axis=0)
            low, high = edges[first, np.arange(len(low))], edges[first + 1, np.arange(len(low))]
        found = np.unique(low)
        if len(found) == len(known):
            break
        known = found
        seen = _between(kind, known, quantizer.bits)
    points = kind.number(known)
    reach = float(np.abs(points).max(initial=0)) or 1.0
    first, last = (float(points[0]), float(points[-1])) if len(points) else (-1.0, 1.0)
    margin = max((last - first) / max(2**quantizer.bits - 2, 1), reach / 4)
    seen_values = np.unique(forward(kind.number(seen)))
    return Points(points, first - margin, last + margin, seen_values[np.isfinite(seen_values)])


def _halved(edges: Array) -> Array:
    """Put the middle between each two that follow one another along the first axis.

    >>> _halved(np.array([[0], [5], [6]])).ravel()
    array([0, 2, 5, 5, 6])
    """
    found = np.repeat(edges, 2, axis=0)[:-1]
    low, high = edges[:-1], edges[1:]
    found[1::2] = low // 2 + high // 2 + (low & high & 1)
    return found


def _between(kind: Format, known: Array, bits: int) -> Array:
    """Ranks beside and between those that are known: at even distances, and at even shares."""
    numbers = kind.number(known).astype(np.float64)
    if not len(numbers):
        return np.arange(-1, 2)
    reach = np.abs(numbers).max() or 1.0
    even = np.linspace(-2 * reach, 2 * reach, 8 * 2 ** min(bits, 8) + 1)
    inner = np.concatenate([numbers[:-1] + share * np.diff(numbers) for share in (0.25, 0.5, 0.75)])
    ranks = known[:-1] // 2 + known[1:] // 2
    small = reach * 2.0 ** -np.arange(0, 24, 0.5)
    found = [known, known + 1, ranks, *(kind.rank(kind.nearest(x)) for x in (even, inner, small, -small))]
    return np.unique(np.concatenate(found))


def arranged(quantizer: Quantizer, points: Array) -> Array:
    """Lay numbers along the axis that may have any length, the same for every channel."""
    if quantizer.shape is None:
        return points
    own = [1] * len(quantizer.shape)
    own[quantizer.axis] = len(points)
    shape = [len(points) if size == -1 else size for size in quantizer.shape]
    return np.ascontiguousarray(np.broadcast_to(points.reshape(own), shape))


def vector(quantizer: Quantizer, kind: Format, points: Points | None = None, *, seed: int = SEED) -> Array:
    """Return the numbers that a quantizer is to be tried at, each once, those of most interest first.

    Transition points and both neighbours, values, zeros of both signs, the ends and beyond, subnormal numbers, the
    smallest and large ones, and numbers as data have them. Where statistics of all make the values, the last only, with
    both zeros.
    """
    random = np.random.default_rng(seed)
    if quantizer.from_whole_tensor:
        return kind.nearest(np.concatenate([random.normal(size=254), [0.0, -0.0]]))
    points = find(quantizer, kind) if points is None else points
    ranks = kind.rank(points.transitions)
    around = [kind.number(ranks + step) for step in (0, 1, -1, 2)]
    span = points.high - points.low
    middle = (points.low + points.high) / 2
    normal = random.normal(middle, span / 4, 128) if math.isfinite(span) else random.normal(size=128)
    even = np.linspace(points.low - span / 2, points.high + span / 2, 129)
    tiny = [kind.smallest_normal, float(kind.number(np.array([1]))[0]), 3 * float(kind.number(np.array([1]))[0])]
    wide = [2.0**10, 1e4] if kind.name == "float16" else [2.0**10, 2.0**20, 1e30]
    special = kind.nearest([0.0, 1.0, -1.0, 0.5, *tiny, *(-v for v in tiny), *wide, *(-v for v in wide)])
    every = [
        special,
        np.array([-0.0], kind.carrier),
        *around,
        kind.nearest(points.values),
        kind.nearest(even),
        kind.nearest(normal),
    ]
    together = np.concatenate([part.ravel() for part in every]).astype(kind.carrier)
    together = together[np.isfinite(together)]
    _, first = np.unique(together.view(kind.integer), return_index=True)
    return together[np.sort(first)]


def plain(kind: Format) -> Array:
    """Return three numbers that every quantizer should have an answer to."""
    return np.array([-1.0, 0.5, 1.0], kind.carrier)


def simpler(kind: Format, value: float) -> list[float]:
    """Return numbers that say the same in fewer digits, the simplest first: for the witnesses.

    >>> simpler(FORMATS["float32"], 0.3019999861717224)
    [0.0, 1.0, -1.0, 0.5, 2.0, 0.3, 0.302, 0.25]
    """
    tried = [0.0, 1.0, -1.0, 0.5, 2.0]
    if math.isfinite(value) and value:
        tried += [float(f"{value:.{digits}g}") for digits in (1, 2, 3, 4, 6)]
        tried.append(math.copysign(2.0 ** round(math.log2(abs(value))), value))
    found: list[float] = []
    for v in dict.fromkeys(map(float, tried)):
        if v == value and np.signbit(v) == np.signbit(value):  # the rest is no simpler
            break
        if abs(v) <= kind.largest:
            found.append(v)
    return found
