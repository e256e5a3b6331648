"""How training runs scatter, and what that leaves to chance: pooled deviations, intervals, probabilities, power.

Three runs alone say little of their deviation; those of several contenders, pooled, say more.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.05
POWER = 0.8  # with which as many seeds as are named would tell
MOST_SEEDS = 1000
FEWEST = 2  # degrees of freedom of a deviation: one that is found with a single one may be thirty times too small


class Pooled(NamedTuple):
    """A standard deviation and its degrees of freedom."""

    deviation: float
    degrees: int

    @property
    def known(self) -> bool:
        """Whether enough is known of the scatter: runs that all agree were too few, or their test images were."""
        return self.degrees >= FEWEST and self.deviation > 0


def pooled(groups: Iterable[Sequence[float]]) -> Pooled:
    """Pool the standard deviation of groups that have means of their own.

    >>> pooled([[1.0, 3.0], [10.0, 10.0]])
    Pooled(deviation=1.0, degrees=2)
    """
    kept = [np.asarray(group, float) for group in groups if len(group) > 1]
    degrees = sum(len(group) - 1 for group in kept)
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in kept)
    return Pooled(round(math.sqrt(squares / degrees), 9) if degrees else math.nan, degrees)


def half_width(spread: Pooled, count: int, *, of_one_run: bool = False, comparisons: int = 1) -> float:
    """Half the 95 % interval of a mean of `count` runs, or of what one more run would give; of so many at once.

    >>> round(half_width(Pooled(1.0, 10), 4), 3)
    1.114
    """
    if not spread.known:
        return math.inf
    quantile = float(stats.t.ppf(1 - LEVEL / (2 * comparisons), spread.degrees))
    return quantile * spread.deviation * math.sqrt(of_one_run + 1 / count)


def spread_of_differences(entries: Sequence[Mapping[int, float]]) -> Pooled:
    """Return the deviation of the difference of two entries' runs of one seed, pooled over all entries.

    Each entry has a mean and each seed an effect, the same for all; what is left scatters. Differences themselves
    must not be pooled: those from one entry share its scatter, and a probability by their count is too small. Of two
    entries it is the deviation of their differences.

    Parameters
    ----------
    entries : sequence of mapping of int to float
        Values by seed.

    >>> spread_of_differences([{0: 1.0, 1: 5.0, 2: 6.0}, {0: 0.0, 1: 3.0, 2: 3.0}])
    Pooled(deviation=1.0, degrees=2)
    """
    seeds = sorted({seed for by_seed in entries for seed in by_seed})
    rows = [(i, seeds.index(seed), value) for i, by_seed in enumerate(entries) for seed, value in by_seed.items()]
    design = np.zeros((len(rows), len(entries) + len(seeds)))
    for row, (i, j, _) in enumerate(rows):
        design[row, [i, len(entries) + j]] = 1
    values = np.array([value for _, _, value in rows])
    fitted, _, rank, _ = np.linalg.lstsq(design, values)
    degrees = len(rows) - int(rank)
    squares = float(((values - design @ fitted) ** 2).sum())
    return Pooled(round(math.sqrt(2 * squares / degrees), 9) if degrees else math.nan, degrees)


def chance(values: Sequence[float], spread: Pooled) -> float:
    """Return the two-sided probability of a mean as far from 0, were the true one 0; 1 where no deviation is known."""
    if not spread.known:
        return 1.0
    mean = abs(float(np.mean(values)))
    return 2 * float(stats.t.sf(mean * math.sqrt(len(values)) / spread.deviation, spread.degrees))


def seeds_to_tell(mean: float, deviation: float, entries: int, comparisons: int, *, more_than: int = 1) -> str:
    """Return how many seeds of each entry would tell a difference from 0 in four of five cases, in words.

    Holm's first step is meant, and the deviation that is pooled over the entries, whose degrees grow with the seeds.

    Parameters
    ----------
    mean, deviation : float
        Of the differences of two entries by seed: what is taken to be true. In the same unit.
    entries : int
        Contenders over which the deviation is pooled, two at least.
    comparisons : int
        In the family.
    more_than : int
        Seeds that did not tell.

    >>> seeds_to_tell(1.0, 1.0, 2, 1), seeds_to_tell(0.01, 1.0, 2, 1)
    ('about 10', 'more than 1000')
    """

    def power(seeds: int) -> float:
        degrees = (entries - 1) * (seeds - 1)
        if degrees < FEWEST:
            return 0.0
        critical = stats.t.ppf(1 - LEVEL / (2 * comparisons), degrees)
        return float(stats.nct.sf(critical, degrees, abs(mean) / deviation * math.sqrt(seeds)))

    least = more_than + 1
    seeds = least + bisect.bisect_left(range(least, MOST_SEEDS + 1), POWER, key=power)
    return f"about {seeds}" if seeds <= MOST_SEEDS else f"more than {MOST_SEEDS}"
