"""DAQ's Table 1, measured: how far is the derivative used backward from that of the function used forward?

The paper's table has words, such as "rounding" and "identity". Here are numbers, for each method on a dense grid:

(a) the derivative used backward against that of the *per-input function*: the function that training applies to this
    input, with everything that training treats as a constant (DAQ's temperature) held fixed;
(b) the same derivative against that of the *map realised*: from input to output, as training computes it;
(c) the output in training against the output in test;
(d) the cosine between the same derivative and that of the staircase smoothed by Gaussian noise of deviation s, over a
    range of s: see `paper_tables.agreement`.

(b) rewards any smaller slope, and no gradient but 0 could be perfect there; (d) leaves out how large a slope is. It is
undecided: narrow noise favours DAQ, wide noise the straight-through estimator, and nothing says which noise is meant.

Functions are differentiated by finite differences of the reference; the derivative used backward is what autograd
returns from the torch modules. QNet's staircase is taken in the middle of a grid of many levels, away from its ends.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from paper_tables import agreement, cells, mismatch, reported
from paper_tables.cells import Cell
from paper_tables.equations import LEVELS, STEP, difference_quotient, frozen, inside_cells, with_edges
from paper_tables.reported import Printed
from paper_tables.tables import Options, Table
from reference import daq, daq_theory, dsq, grid, qnet
from reference.grid import Array
from torchimpl.quantizers import quantizer_class
from torchimpl.quantizers.qnet import QNet
from torchimpl.quantizers.uniform import UniformQuantizer

TITLE = "Gradient mismatch and quantizer gap, measured"
NEEDS = "nothing"

RESOLUTION = 1e-5  # of the finite differences, over all the functions below
BITS = 2

AGREEMENTS = {f"d s={noise:g}".replace("0.", "."): noise for noise in agreement.NOISES}  # short: 80 columns
CROSSING = "d from"
COLUMNS = (
    "a max",
    "a mean",
    "b max",
    "b mean",
    "c max",
    "c mean",
    *AGREEMENTS,
    CROSSING,
)
INTRO = (
    "The derivative used backward, less that of (a) the function applied to each input with its temperature held "
    "fixed, (b) the map from input to output that training realises; and (c) the training output less the test output. "
    f"Absolute values, largest and mean over {LEVELS} cells, in units of one level. "
    f"Below {RESOLUTION:g} is the noise of the differences. (d) The cosine between that derivative and the one of the "
    "staircase smoothed by Gaussian noise of s levels, 1 at best, and the s from which on the straight-through "
    "estimator, the constant slope, agrees better. *By definition*: the two sides are one function, so that nothing "
    "else could come out. Below the paper's rows, (b) and (c) of every method as it is by default, over the range "
    "of the data that its first values come from."
)


@dataclass(frozen=True)
class Entry:
    """A method as the table sees it.

    Attributes
    ----------
    name : str
    printed : str
        Its row in the paper's Table 1.
    backward : callable
        Derivative that training uses, of the normalised input.
    per_input : callable
        ``per_input(x)`` is the function that training applies to the inputs near `x`, constants held fixed.
    training, test : callable
        The map in training and in test.
    itself : str
        The measure, (a) or (c), whose two sides are one function by definition; empty if none.
    """

    name: str
    printed: str
    backward: Callable[[Array], Array]
    per_input: Callable[[Array], Callable[[Array], Array]]
    training: Callable[[Array], Array]
    test: Callable[[Array], Array]
    itself: str = ""


def used_backward(method: str, *, role: str, **options: Any) -> Callable[[Array], Array]:
    """Return the derivative that a torch module uses, for inputs and outputs counted in levels."""

    def derivative(x: Array) -> Array:
        quantizer = quantizer_class(method)(BITS, role, **options).double()
        assert isinstance(quantizer, UniformQuantizer)
        with torch.no_grad():
            quantizer.lower.fill_(0.0)
            quantizer.upper.fill_(float(quantizer.n))
        quantizer.mark_initialized()
        n = quantizer.n
        inputs = torch.tensor(x % n, requires_grad=True)
        output = quantizer.train()(inputs)
        span = float(quantizer.decode(torch.tensor(n)) - quantizer.decode(torch.tensor(0)))
        (gradient,) = torch.autograd.grad(output.sum() * n / span, inputs)
        return np.asarray(gradient.numpy())

    return derivative


def _daq(role: grid.Role, variant: daq.Variant) -> Entry:
    sigma = daq.SIGMA[role]

    def per_input(x: Array) -> Callable[[Array], Array]:
        beta = daq.adaptive_temperature(x, sigma=sigma, variant=variant)
        return lambda y: frozen(y, beta, daq.GAMMA, sigma, variant)

    def training(x: Array) -> Array:
        return daq.discretize(x, sigma=sigma, variant=variant)

    kind = "weights" if role == "weight" else "activations"
    return Entry(
        f"DAQ {kind}" + ("" if variant == "paper" else ", released"),
        "Ours",
        used_backward("daq", role=role, variant=variant),
        per_input,
        training,
        grid.round_half_down,
    )


def qnet_backward(temperature: float) -> Callable[[Array], Array]:
    """Return the derivative that QNet's module uses, in the middle of a grid of 16 levels, a step at each half-integer.

    The steps beyond the grid's ends, at least 5.5 levels away, would add less than 1e-7 at T = 4.
    """

    def derivative(x: Array) -> Array:
        quantizer = QNet(4, "activation", temperature=temperature).double()
        with torch.no_grad():
            quantizer.biases.copy_(torch.arange(15) + 0.5)
        quantizer.mark_initialized()
        inputs = torch.tensor(x + 6, requires_grad=True)
        (gradient,) = torch.autograd.grad(quantizer.train()(inputs).sum(), inputs)
        return np.asarray(gradient.numpy())

    return derivative


def _qnet(temperature: float) -> Entry:
    def training(x: Array) -> Array:
        return qnet.soft(x, temperature=temperature)

    backward = qnet_backward(temperature)

    return Entry(f"QNet T = {temperature:g}", "QNet", backward, lambda _: training, training, qnet.hard, "a")


def _dsq(alpha: float) -> Entry:
    backward = used_backward("dsq", role="signed_activation", alpha=alpha)
    return Entry(f"DSQ alpha = {alpha:g}", "", backward, lambda _: dsq.hard, dsq.hard, dsq.hard, "c")


def entries() -> Iterator[Entry]:
    """The rows of the table: the paper's, and DSQ, which its text describes as soft backward and hard forward."""
    rounding = grid.round_half_even
    backward = used_backward("ste", role="activation")
    yield Entry("STE", "STE-based", backward, lambda _: rounding, rounding, rounding, "c")
    yield from (_qnet(temperature) for temperature in (4.0, 10.0, 100.0))
    yield from (_dsq(alpha) for alpha in (0.2, 0.01))
    for variant in daq.VARIANTS:
        for role in grid.ROLES[:2]:
            yield _daq(role, variant)


def measure(entry: Entry) -> dict[str, float]:
    """Measure one row."""
    x, edges = inside_cells(), with_edges()[:-1]
    transitions = np.arange(LEVELS) + 0.5
    beside = np.concatenate([transitions - 2 * STEP, transitions + 2 * STEP])  # where slopes are largest

    def mismatch(x: Array) -> tuple[Array, Array]:
        used = entry.backward(x)
        per_input, realised = difference_quotient(entry.per_input(x), x), difference_quotient(entry.training, x)
        return np.abs(used - per_input), np.abs(used - realised)

    gap = np.abs(entry.training(edges) - entry.test(edges))
    found = {"c max": float(gap.max()), "c mean": float(gap.mean())}
    for name, evenly, close in zip("ab", mismatch(x), mismatch(beside), strict=True):
        found[f"{name} max"] = float(max(evenly.max(), close.max()))
        found[f"{name} mean"] = float(evenly.mean())
    slope = entry.backward(x)
    found |= {column: agreement.agreement(slope, noise) for column, noise in AGREEMENTS.items()}
    crossing = agreement.crossing(slope, np.ones(x.size))
    return found if crossing is None else {**found, CROSSING: crossing}


def curve(entry: Entry) -> dict[str, tuple[float, ...]]:
    """Return the agreement over all noises, for whoever draws it."""
    slope = entry.backward(inside_cells())
    return {
        "s": agreement.CURVE,
        "agreement": tuple(round(agreement.agreement(slope, noise), 6) for noise in agreement.CURVE),
    }


def _decided(entry: Entry, crossing: bool, slope_agrees: bool) -> str | None:
    """Whether DAQ's slope agrees better than the constant one: at every noise, at none, or undecided."""
    if entry.printed != "Ours":
        return None
    return "undecided" if crossing else "holds" if slope_agrees else "fails"


def run(options: Options) -> Table:
    """Measure every row."""
    printed = {row.method: row for row in reported.tables()["1"].rows}
    found: list[Cell] = []
    ste: dict[str, float] = {}
    for entry in entries():
        start = time.perf_counter()
        measured = measure(entry)
        ste = ste or measured  # the first row
        seconds = round(time.perf_counter() - start, 3)
        words = printed[entry.printed].values if entry.printed else None
        curves = curve(entry)
        for column in measured:
            itself = bool(entry.itself) and column.startswith(f"{entry.itself} ")
            narrow = next(iter(AGREEMENTS))
            found.append(
                Cell(
                    paper="DAQ",
                    table="1",
                    row=entry.name,
                    column=column,
                    unit="levels",
                    measured=round(measured[column], 2) if column == CROSSING else measured[column],
                    protocol="dense grid, float64",
                    detail=curves if column == narrow else {CROSSING: measured[column]} if column == CROSSING else {},
                    value_verdict="by definition" if itself else None,
                    claim_verdict=_decided(entry, CROSSING in measured, measured[narrow] > ste[narrow])
                    if column == (CROSSING if CROSSING in measured else narrow)
                    else None,
                    reason=("one function on both sides, by definition; " if itself else "")
                    + (
                        f"printed, forward/backward and training/test: {_words(words)}"
                        if words
                        else "not in the paper's table; described in its Section 2"
                    ),
                    seconds=seconds,
                    hardware=cells.hardware(),
                    versions=cells.versions(),
                )
            )
    as_printed = "; ".join(f"{method}, {_words(row.values)}" for method, row in printed.items())
    intro = f"{INTRO} As printed (forward/backward, training/test): {as_printed}."
    shown = (*found, *_all_methods())
    return Table("1", TITLE, intro, shown, wrong=_wrong(found), findings=_findings(found), columns=COLUMNS)


def _all_methods() -> Iterator[Cell]:
    """(b) and (c) of every method, on a range of its own."""
    for row, module, bits, role in mismatch.rows():
        for column, value in mismatch.measure(module, bits, role).items():
            yield Cell(
                paper="DAQ",
                table="1",
                row=row,
                column=column,
                unit="levels",
                measured=value,
                protocol="the method's own range, float64",
                reason=f"not in the paper's table; {module.METHOD.title} as it is by default, with first values",
            )


def _words(values: Mapping[str, Printed]) -> str:
    printed = {column: value.value for column, value in values.items()}
    return f"{printed['Forward']}/{printed['Backward']}, {printed['Training']}/{printed['Test']}"


def _wrong(found: list[Cell]) -> tuple[str, ...]:
    """State what DAQ is, if the numbers of this run say so: no mismatch per input, but one with the map realised."""
    value = {(cell.row, cell.column): cell.measured or 0.0 for cell in found}
    daq_rows = {cell.row for cell in found if cell.row.startswith("DAQ")}
    if not all(value[row, "a max"] < RESOLUTION < value[row, "b max"] for row in daq_rows):
        return ()
    low, high = daq_theory.slope_range(sigma=daq.SIGMA["weight"])
    return (
        "DAQ is a straight-through estimator with a coth-shaped slope: forward it rounds, and backward it multiplies "
        f"by a number that grows from {low:.2f} at a level to {high:.2f} halfway between two (weights). "
        '"The same DASR with beta* in both passes" holds for (a), each input\'s function with its temperature frozen, '
        "where the mismatch is 0; against (b), the staircase actually realised, it is up to "
        f"{value['DAQ weights', 'b max']:.2f} for weights and {value['DAQ activations', 'b max']:.2f} for "
        f"activations, where the plain straight-through estimator has {value['STE', 'b max']:.2f}.",
    )


def _findings(found: list[Cell]) -> tuple[str, ...]:
    """State what else the numbers of this run say."""
    value = {(cell.row, cell.column): cell.measured or 0.0 for cell in found}
    sentences = []
    if all(value[cell.row, "c max"] < 1e-12 for cell in found if cell.row.startswith("DAQ")):
        sentences.append("No quantizer gap: DAQ's training output equals its test output. That claim holds.")
    crossings = {row: value[row, CROSSING] for row, column in value if column == CROSSING and row.startswith("DAQ")}
    if {"DAQ weights", "DAQ activations"} <= crossings.keys():
        at = {noise: column for column, noise in AGREEMENTS.items()}
        listed = "; ".join(
            f"s = {noise:g}: {value['STE', at[noise]]:.3f}, {value['DAQ weights', at[noise]]:.3f} and "
            f"{value['DAQ activations', at[noise]]:.3f}"
            for noise in (0.1, 0.5)
        )
        sentences.append(
            "Undecided, and no fault of either: how well a slope agrees (cosine) with the derivative of the staircase "
            "smoothed by Gaussian noise of s levels, of the straight-through estimator, of DAQ's weights and of its "
            f"activations. {listed}. DAQ agrees better up to s = {crossings['DAQ weights']:.2f} (weights) and "
            f"{crossings['DAQ activations']:.2f} (activations), the constant slope beyond."
        )
    gaps = {row: value[row, "c max"] for row in ("QNet T = 4", "QNet T = 100")}
    if math.isclose(min(gaps.values()), 0.5):
        sentences.append(
            "Sigmoids leave a gap of half a level at the transition point at every temperature; only its mean falls, "
            f"from {value['QNet T = 4', 'c mean']:.3f} at T = 4 to {value['QNet T = 100', 'c mean']:.3f} at 100."
        )
    return tuple(sentences)


if __name__ == "__main__":
    from paper_tables.cli import main_for

    raise SystemExit(main_for("1"))
