"""Gradient mismatch and quantizer gap of every method, each on its own range.

Table 1 looks at grids of equal cells, as the paper does. Here is what the same two questions give for any method, as
it is by default: is the slope used backward that of the map that training realises, and is what training puts out what
test mode puts out?
"""

from __future__ import annotations

from typing import Any

import numpy as np

from paper_tables.audit.divergence import DATA
from paper_tables.equations import STEP, difference_quotient
from reference import contract, registry
from reference import inputs as input_points
from reference.grid import Array, Role

POINTS = 4096  # over the range of the data that first values come from
BITS = 2  # or the most, where the method has no 2


def rows() -> list[tuple[str, Any, int, Role]]:
    """Every method, for weights and for the inputs of layers: name, reference, bits and role."""
    found: list[tuple[str, Any, int, Role]] = []
    for module in registry.modules().values():
        method = module.METHOD
        for role in DATA:
            if role not in method.roles or (role == "signed_activation" and "activation" in method.roles):
                continue
            admitted = method.admitted(role)
            bits = BITS if BITS in admitted else max(admitted)
            kind = "weights" if role == "weight" else "activations"
            found.append((f"{method.title} {kind}, {bits} bit{'s' if bits > 1 else ''}", module, bits, role))
    return found


def measure(module: Any, bits: int, role: Role) -> dict[str, float]:
    """Measure (b) and (c) of Table 1, for the first values of the method's default variant.

    Slopes are counted in levels, as there: times the mean distance of transition points over that of levels. At 1 bit,
    where there is one transition point, they are as they are.

    Examples
    --------
    >>> from reference import lsq
    >>> {column: round(value, 3) for column, value in measure(lsq, 2, "weight").items() if column != "b mean"}
    {'b max': 1.0, 'c max': 0.0, 'c mean': 0.0}
    """
    data = DATA[role]
    params = module.init(data, bits, role)
    x = data.min() + np.ptp(data) * (np.arange(POINTS) + 0.5) / POINTS
    levels = module.levels(params)
    step = float(np.ptp(levels)) / (len(levels) - 1)
    points = input_points.transition_points(contract.of_reference(module, params), np.float64)
    scale = float(np.ptp(points)) / (len(points) - 1) / step if len(points) > 1 else 1.0

    def training(x: Array) -> Array:
        return np.asarray(module.forward(x, params, training=True))

    signs = np.resize([1.0, -1.0], POINTS)  # so that what reaches all through the statistics of a tensor cancels
    backward = signs * module.vjp(x, params, signs)[0]
    inside = module.codes(x - STEP, params) == module.codes(x + STEP, params)  # no jump within a difference quotient
    mismatch = scale * np.abs(backward - difference_quotient(training, x))[inside]
    gap = np.abs(training(x) - module.forward(x, params, training=False)) / step
    return {
        "b max": float(mismatch.max()),
        "b mean": float(mismatch.mean()),
        "c max": float(gap.max()),
        "c mean": float(gap.mean()),
    }
