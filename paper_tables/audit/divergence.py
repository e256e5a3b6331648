"""How far the known alternatives to a method lead away from it: its variants, and mistakes that public code makes.

Method by method, the default variant against each other variant, and against itself with a mistake planted (those of
`mistakes.toml`): the largest difference of what is put out, of gradients, of first values and of the set of levels,
each with the simplest input that shows it. Both sides have the same parameters, but for first values.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.abc
import importlib.util
import itertools
import math
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from scipy.stats import norm

from paper_tables.audit import planting
from paper_tables.cells import Cell
from paper_tables.tables import Options, Table
from reference import contract, registry
from reference import inputs as input_points
from reference.grid import Array, Role

TITLE = "Variants and known mistakes: how far apart they lead"
NEEDS = "nothing"
FORWARD, GRADIENT, FIRST, LEVELS = COLUMNS = ("output", "gradient", "first values", "levels")
UNITS = {FORWARD: "levels", GRADIENT: "", FIRST: "relative", LEVELS: "levels"}
MOST_BITS = 4  # nothing that is known of begins beyond
INTRO = (
    "Each method as the suite has it by default, against its other variants and against known mistakes of public code "
    f"(after a colon), up to {MOST_BITS} bits, in float64. *Output* and *levels*: the largest distance, in mean steps "
    "between levels, of outputs for one input, and of a level of one from the nearest of the other. *Gradient*: the "
    "largest difference of a gradient, for the input or a parameter, where the loss has gradient 1. *First values*: "
    "the largest relative difference of a parameter before training. Inputs are single numbers, so that counts of a "
    "whole tensor have no say but in first values. Parameters are the same on both sides, but for first values, and "
    "where the sides have other sets of them; statistics are each side's own, of the numbers that first values come "
    "from. Each number comes with the simplest input found that shows it."
)

# A convolution's weights, and the outputs of a layer before and after a ReLU; short decimals, so as to be typed.
_NORMAL = np.round(norm.ppf((np.arange(24) * 7 % 24 + 0.5) / 24), 2)
DATA: Mapping[Role, Array] = {
    "weight": _NORMAL.reshape(2, 3, 2, 2),
    "signed_activation": _NORMAL + 0.25,
    "activation": np.maximum(_NORMAL, 0),
}


@dataclass(frozen=True)
class Mistake:
    """An entry of `mistakes.toml`: code of a method's reference, and what stands in its place."""

    method: str
    name: str
    why: str
    function: str
    old: str
    new: str
    tests: tuple[str, ...]
    variant: str = ""

    @property
    def title(self) -> str:
        """The method's name in print."""
        return registry.method(self.method).title


@cache
def mistakes() -> tuple[Mistake, ...]:
    """Read the mistakes that are known of."""
    text = Path(__file__).with_name("mistakes.toml").read_text(encoding="utf-8")
    return tuple(Mistake(**entry | {"tests": tuple(entry["tests"])}) for entry in tomllib.loads(text)["mistake"])


class _Source(importlib.abc.InspectLoader):
    """Loads a module from a text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def get_source(self, fullname: str) -> str:
        return self.text


def planted(mistake: Mistake) -> ModuleType:
    """Return the method's reference with the mistake in it; the module itself stays as it is.

    >>> wrong = planted(next(one for one in mistakes() if one.name == "sign of 0 is 0"))
    >>> wrong.forward([-1.0, 0.0, 1.0], wrong.Params(1, "signed_activation"), training=False)
    array([-1.,  0.,  1.])
    """
    module = importlib.import_module(f"reference.{mistake.method}")
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    name = f"reference.{mistake.method} with a mistake"
    spec = importlib.util.spec_from_loader(
        name, _Source(planting.plant(source, mistake.old, mistake.new, mistake.function))
    )
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made  # dataclasses look their module up
    try:
        spec.loader.exec_module(made)
    finally:
        del sys.modules[name]
    return made


@dataclass(frozen=True)
class Side:
    """A method, as one of the two that are compared."""

    module: Any
    variant: str

    def params(self, given: Any) -> Any:
        """The same parameters, for this side. Raises ValueError where it has others, as with another set of levels."""
        fields = {f.name: getattr(given, f.name) for f in dataclasses.fields(given) if f.init}
        return self.module.Params(**fields | {"variant": self.variant})

    def gradients(self, x: float, params: Any) -> dict[str, Array]:
        """Gradients for the input, "x", and all parameters where the loss has gradient 1; 0 for what is not learned."""
        by_x, found = self.module.vjp(x, params, 1.0)
        learned = self.module.METHOD.learned(params.role, self.variant)
        return {"x": by_x, **{name: value if name in learned else 0 * value for name, value in found.items()}}


@dataclass(frozen=True)
class Difference:
    """The largest difference found, and the simplest place that has it, in words."""

    size: float = 0.0
    witness: str = ""

    def or_larger(self, other: Difference) -> Difference:
        """Return the larger one; of equal ones the one whose input has fewer letters, else the first."""
        near = 1e-9 * self.size + 1e-12
        if abs(other.size - self.size) <= near:
            return other if other.letters < self.letters else self
        return other if other.size > self.size else self

    @property
    def letters(self) -> int:
        """Of the input that shows it."""
        return len(self.witness.partition("x = ")[2].partition(":")[0])


def alternatives() -> Iterator[tuple[str, str, Side, Side]]:
    """Yield every row: its name, why it is there, the method and its alternative."""
    for name, module in registry.modules().items():
        method = module.METHOD
        default = Side(module, method.variants[0])
        for variant in method.variants[1:]:
            yield f"{method.title}, {variant}", f"against {default.variant}", default, Side(module, variant)
        for mistake in mistakes():
            if mistake.method == name:
                variant = mistake.variant or default.variant
                row = f"{method.title}: {mistake.name}"
                yield row, mistake.why, Side(module, variant), Side(planted(mistake), variant)


def compare(one: Side, other: Side) -> dict[str, Difference]:
    """Return the largest difference of each kind, over all roles and up to `MOST_BITS` bits."""
    found = dict.fromkeys(COLUMNS, Difference())
    method = one.module.METHOD
    for bits, role in itertools.product(range(1, MOST_BITS + 1), method.roles):
        if not all(bits in method.admitted(role, side.variant) for side in (one, other)):
            continue
        where = f"{role.replace('_', ' ')}, {bits} bit{'s' if bits > 1 else ''}"
        for column, difference in _compared(one, other, bits, role, where):
            found[column] = found[column].or_larger(difference)
    return found


def _compared(one: Side, other: Side, bits: int, role: Role, where: str) -> Iterator[tuple[str, Difference]]:
    data = DATA[role]
    ours, theirs = (side.module.init(data, bits, role, variant=side.variant) for side in (one, other))
    yield FIRST, _of_parameters(ours, theirs, where)
    with contextlib.suppress(ValueError):
        theirs = other.params(ours)
    if hasattr(one.module, "observe"):
        ours, theirs = (side.module.observe(data, params) for side, params in ((one, ours), (other, theirs)))
    levels = one.module.levels(ours), other.module.levels(theirs)
    step = float(np.ptp(levels[0])) / max(1, len(levels[0]) - 1) or 1.0
    sides = ((one, ours), (other, theirs))
    known = _inputs(one, ours, levels[0]) | _inputs(other, theirs, levels[1])
    reached = [_with_outputs(*side, of_side, known, step) for side, of_side in zip(sides, levels, strict=True)]
    yield LEVELS, _of_levels(reached[0], reached[1], step, where)
    for x in sorted(known, key=lambda value: (len(f"{value:.12g}"), abs(value), -value)):
        at = f"{where}, x = {_text(x)}"
        for training in (False, True):
            outputs = [side.module.forward(x, params, training=training) for side, params in sides]
            yield FORWARD, _of_values(outputs[0], outputs[1], step, f"{at}, in training" if training else at)
        gradients = [side.gradients(x, params) for side, params in sides]
        yield GRADIENT, _of_gradients(gradients[0], gradients[1], at)


def _with_outputs(side: Side, params: Any, levels: Array, known: set[float], step: float) -> Array:
    """A side's levels, and what it puts out besides, which only a mistake does."""
    outputs = np.unique([float(np.ravel(side.module.forward(x, params, training=False))[0]) for x in known])
    other = np.abs(outputs[:, None] - levels).min(1) > 1e-6 * step
    return np.sort(np.concatenate([levels, outputs[other]]))


def _inputs(side: Side, params: Any, levels: Array) -> set[float]:
    """Where two quantizers may part: short decimals, levels, transition points and their neighbours, and beyond."""
    quantizer = contract.of_reference(side.module, params)
    points = np.unique(input_points.transition_points(quantizer, np.float64))
    edges = np.concatenate([points, np.nextafter(points, math.inf), levels])
    reach = max(1.0, 1.5 * float(np.abs(edges).max()))
    short = np.round(np.linspace(-reach, reach, 41), 1)
    return {float(value) + 0.0 for value in np.concatenate([edges, short, -edges, [0.0]])}


def _of_parameters(ours: Any, theirs: Any, where: str) -> Difference:
    found = Difference()
    for field in dataclasses.fields(ours):
        a, b = (np.asarray(getattr(params, field.name)) for params in (ours, theirs))
        if a.dtype.kind != "f" or a.shape != b.shape:
            continue
        scale = np.maximum(np.abs(a), np.abs(b))
        relative = np.abs(a - b) / np.where(scale > 0, scale, 1)
        at = np.unravel_index(int(relative.argmax()), a.shape) if a.shape else ()
        words = f"{where}: {field.name} {_text(a[at])} against {_text(b[at])}"
        found = found.or_larger(Difference(float(relative[at]), words))
    return found


def _of_levels(ours: Array, theirs: Array, step: float, where: str) -> Difference:
    found = Difference()
    for a, b in ((ours, theirs), (theirs, ours)):
        distance = np.abs(a[:, None] - b).min(1)
        at = int(distance.argmax())
        words = f"{where}: {len(ours)} levels against {len(theirs)}; {_text(a[at])} is {_text(distance[at])} from any"
        found = found.or_larger(Difference(float(distance[at]) / step, words))
    return found


def _of_values(ours: Array, theirs: Array, step: float, where: str) -> Difference:
    a, b = (float(np.ravel(value)[0]) for value in (ours, theirs))
    return Difference(abs(a - b) / step, f"{where}: {_text(a)} against {_text(b)}")


def _of_gradients(ours: dict[str, Array], theirs: dict[str, Array], where: str) -> Difference:
    found = Difference()
    for name, values in ours.items():
        a, b = (np.ravel(np.asarray(value, float)) for value in (values, theirs[name]))
        if a.shape != b.shape:  # as with another number of levels
            continue
        at = int(np.abs(a - b).argmax())
        words = f"{where}: for {name} {_text(a[at])} against {_text(b[at])}"
        found = found.or_larger(Difference(float(abs(a[at] - b[at])), words))
    return found


def _text(value: float) -> str:
    return f"{float(value):.5g}"


def run(options: Options) -> Table:
    """Compare each method with each of its alternatives."""
    found = []
    for row, why, one, other in alternatives():
        for column, difference in compare(one, other).items():
            found.append(
                Cell(
                    paper="",
                    table="divergence",
                    row=row,
                    column=column,
                    unit=UNITS[column],
                    measured=difference.size,
                    protocol="computed from the reference, float64",
                    reason=f"{difference.witness or 'no difference'}; {why}",
                )
            )
    return Table("divergence", TITLE, INTRO, tuple(found), columns=COLUMNS)


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("divergence"))
