"""Arms of a table of the suite's own: recipes that differ in one thing, trained with several seeds, and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from paper_tables import runs, verdicts
from paper_tables.cells import Cell, Place
from paper_tables.jobs import Job
from paper_tables.scatter import Pooled, chance, half_width, spread_of_differences
from paper_tables.tables import Options
from paper_tables.trained import LABELS, LEARNED
from torchimpl.training.recipe import Recipe


def places_of(table: str, arms: Iterable[str], profile: str) -> dict[str, Place]:
    """Return where the arms of one of the suite's own tables stand, in the column of a profile."""
    return {arm: Place("DAQ", table, arm, LABELS[profile]) for arm in arms}


def jobs_of(
    table: str,
    arms: Iterable[str],
    make: Callable[[str, str, int], Recipe],
    seeds: Mapping[str, int],
    options: Options,
    *,
    held_out: bool = False,
) -> list[Job]:
    """Return a job for each arm and profile; `make` returns the recipe of an arm, a profile and a seed."""
    return [
        runs.job_of_seeds(place, [make(arm, profile, seed) for seed in range(count)], options, held_out=held_out)
        for profile, count in seeds.items()
        for arm, place in places_of(table, arms, profile).items()
    ]


class Gains(NamedTuple):
    """What arms have more than another one, in points.

    Attributes
    ----------
    means : dict of str to float
        By arm.
    chances : dict of str to float
        Probabilities, adjusted for one another by Holm's procedure; none of an arm that hardly learned, and none at
        all if the one they are compared with has not, or of one seed.
    dead : set of str
        The arms that hardly learned, the one they are compared with among them.
    spread : Pooled
        Deviation of the difference of two runs of one seed.
    seeds : int
    base : str
        The arm they are compared with.
    """

    means: dict[str, float]
    chances: dict[str, float]
    dead: set[str]
    spread: Pooled
    seeds: int
    base: str

    @property
    def complete(self) -> bool:
        """Whether all arms learned, so that there is an interval of whatever is made of them."""
        return self.chances.keys() == self.means.keys() and self.spread.known

    def said(self, arm: str) -> str:
        """Say what an arm has more, and by which chance."""
        words = f" (p = {self.chances[arm]:.2g})" if arm in self.chances else ""
        if arm in self.dead:
            words = " (hardly learned)"
        return f"{self.means[arm]:+.1f}{words}"

    def __str__(self) -> str:
        """List the arms, each with its probability, and the interval."""
        listed = [f"{arm} {self.said(arm)}" for arm in self.means]
        if self.chances:
            interval = (
                f"95 % interval of one: +/-{half_width(self.spread, self.seeds):.1f}; p by Holm, for {len(listed)}"
            )
        elif self.seeds == 1:
            interval = "one seed: no interval"
        elif self.base in self.dead:
            interval = "that with which they are compared hardly learned: no interval"
        elif self.means.keys() <= self.dead:
            interval = "none of them learned: no interval"
        else:
            interval = "by seed they differ alike: no interval"
        return f"{'; '.join(listed)} points ({interval})"


def gains(arms: Mapping[str, Cell], base: str) -> Gains | None:
    """Compare arms with one of them, paired by seed; None where one was not run."""
    if not all(cell.stands for cell in arms.values()):
        return None
    values: dict[str, Sequence[float]] = {arm: cell.detail["accuracies"] for arm, cell in arms.items()}  # type: ignore[misc]
    means, chances, dead, spread = paired(values, base)
    adjusted = dict(zip(chances, verdicts.holm(list(chances.values())), strict=True))
    judged = {arm: p for arm, p in adjusted.items() if spread.known and not {arm, base} & dead}
    return Gains(means, judged, dead, spread, len(values[base]), base)


class Paired(NamedTuple):
    """What arms have more than one of them, and by which chance each alone, were there no difference; see `Gains`."""

    means: dict[str, float]
    chances: dict[str, float]
    dead: set[str]
    spread: Pooled


def paired(values: Mapping[str, Sequence[float]], base: str) -> Paired:
    """Compare arms with one of them, by seed.

    Those that hardly learned scatter otherwise, and stay out of the deviation. Of them nothing is beyond chance; nor of
    any arm, if the one that they are compared with is of them.
    """
    found = {arm: np.asarray(some, float) for arm, some in values.items()}
    dead = {arm for arm, some in found.items() if some.min() < max(LEARNED, found[base].mean() / 2)}
    spread = spread_of_differences([dict(enumerate(some)) for arm, some in found.items() if arm not in dead])
    differences = {arm: some - found[base] for arm, some in found.items() if arm != base}
    means = {arm: float(some.mean()) for arm, some in differences.items()}
    chances = {arm: 1.0 if {arm, base} & dead else chance(list(some), spread) for arm, some in differences.items()}
    return Paired(means, chances, dead, spread)
