"""Alternatives to methods: each row differs from its method somewhere, and known witnesses come out."""

import math
from functools import cache

import numpy as np
import pytest

from paper_tables import mismatch
from paper_tables.audit import divergence
from paper_tables.audit.divergence import COLUMNS, FIRST, FORWARD, GRADIENT, LEVELS, Side
from paper_tables.tables import Options
from reference import daq_theory, lsq, registry


@cache
def alternatives():
    return tuple(divergence.alternatives())


@pytest.fixture(scope="module")
def rows():
    """All rows, up to two bits."""
    found: dict[str, dict[str, object]] = {}
    every = alternatives()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(divergence, "MOST_BITS", 2)
        patch.setattr(divergence, "alternatives", lambda: every)
        for cell in divergence.run(Options()).cells:
            found.setdefault(cell.row, {})[cell.column] = cell
    return found


@cache
def differences(row):
    """One row, up to all bits."""
    ((one, other),) = ((one, other) for name, _, one, other in alternatives() if name == row)
    return divergence.compare(one, other)


def test_every_alternative_differs_somewhere(rows):
    with_two_bits = {row for row, cells in rows.items() if any(cell.measured for cell in cells.values())}
    assert all(any(found.size for found in differences(row).values()) for row in rows.keys() - with_two_bits)
    assert all(tuple(cells) == COLUMNS for cells in rows.values())


def test_every_variant_and_every_mistake_is_a_row(rows):
    variants = {
        f"{m.METHOD.title}, {v}" for m in registry.modules().values() for v in m.METHOD.variants[1:]
    }  # of the default
    mistakes = {f"{one.title}: {one.name}" for one in divergence.mistakes()}
    assert rows.keys() == variants | mistakes


# Worked out by hand: half a level between a sign of 0 and the two levels there are; the three other levels of Q_P = 1
# with a half-integer grid made whole; a gradient of 1/2 either way halfway between two levels.
WITNESSES = {
    ("IR-Net: sign of 0 is 0", FORWARD): 0.5,
    ("IR-Net: sign of 0 is 0", LEVELS): 0.5,
    ("DoReFa-Net: an integer grid that contains zero", LEVELS): 0.5,
    ("LSQ: gradient of the step size with the wrong sign", GRADIENT): 1.0,
    ("DoReFa-Net: 1-bit scale is the maximum", LEVELS): (2.04 - 0.7875) / (2 * 0.7875),
    ("STE, half_up", FORWARD): 1.0,
    ("PACT, fms-model-optimizer", GRADIENT): 1.0,
    ("PACT: alpha gets no gradient", GRADIENT): 1.0,
    ("LSQ: gradient without 1/sqrt(N Q_P)", GRADIENT): 15 - math.sqrt(15),
    ("QIL: 2^bits + 1 levels for weights", LEVELS): 0.5,
}


@pytest.mark.parametrize(("row", "column"), WITNESSES)
def test_known_witnesses(row, column):
    assert differences(row)[column].size == pytest.approx(WITNESSES[row, column])


@pytest.mark.parametrize("row", ["STE, half_up", "DoReFa-Net: 1-bit scale is the maximum"])
def test_cells_are_the_differences(rows, row, monkeypatch):
    monkeypatch.setattr(divergence, "MOST_BITS", 2)
    found = differences.__wrapped__(row)
    assert {column: cell.measured for column, cell in rows[row].items()} == {c: d.size for c, d in found.items()}
    assert rows[row][LEVELS if "DoReFa" in row else FORWARD].measured == pytest.approx(
        WITNESSES[row, LEVELS if "DoReFa" in row else FORWARD]
    )


def test_the_released_kernel_changes_gradients_alone():
    """By the difference of the largest slopes, activations, at 1 bit over the range u - l = 3 sigma of the data."""
    found = differences("DAQ, released")
    assert [found[c].size for c in (FORWARD, FIRST, LEVELS)] == [0, 0, 0]
    by_level = [daq_theory.slope_range(sigma=2.0, variant=v)[1] for v in ("paper", "released")]
    width = 3 * divergence.DATA["activation"].std(ddof=1)
    assert found[GRADIENT].size == pytest.approx((by_level[0] - by_level[1]) / width, rel=1e-6)


def test_a_method_does_not_differ_from_itself():
    one = Side(lsq, "paper")
    assert all(difference.size == 0 for difference in divergence.compare(one, one).values())


def test_a_planted_mistake_stays_where_it_is():
    before = registry.module("irnet").forward(
        [0.0], registry.module("irnet").Params(1, "signed_activation"), training=True
    )
    mistake = next(one for one in divergence.mistakes() if one.name == "sign of 0 is 0")
    wrong = divergence.planted(mistake)
    params = wrong.Params(1, "signed_activation")
    assert wrong.forward([0.0], params, training=True) == [0.0]
    again = registry.module("irnet").forward(
        [0.0], registry.module("irnet").Params(1, "signed_activation"), training=True
    )
    assert before == again == [1.0]


def test_the_simplest_witness_is_told(rows):
    assert "x = 0: -1 against 1" in rows["STE, half_up"][FORWARD].reason
    assert "x = 0: " in rows["PACT, distiller"][GRADIENT].reason
    assert "for x 1 against 0" in rows["PACT, distiller"][GRADIENT].reason


# Gap and mismatch on a method's own range


def test_every_method_has_gap_and_mismatch():
    names = [name for name, *_ in mismatch.rows()]
    for method in registry.methods().values():
        assert sum(name.startswith((f"{method.title} weights", f"{method.title} activations")) for name in names) >= 1
    assert len({*names}) == len(names)


def test_a_straight_through_estimator_is_1_away_from_its_staircase():
    found = mismatch.measure(registry.module("ste"), 2, "weight")
    assert found == pytest.approx({"b max": 1, "b mean": 1, "c max": 0, "c mean": 0}, abs=1e-9)


def test_daq_is_its_largest_slope_away():
    found = mismatch.measure(registry.module("daq"), 2, "activation")
    largest = daq_theory.slope_range(sigma=2.0)[1]
    assert found["b max"] == pytest.approx(largest, rel=0.01)  # the nearest of 4096 points to the transition
    assert found["b max"] < largest
    assert found["c max"] < 1e-12


def test_a_sum_of_sigmoids_is_its_own_derivative_and_leaves_a_gap():
    found = mismatch.measure(registry.module("qnet"), 2, "activation")
    assert found["b max"] < 1e-6
    assert 0.4 < found["c max"] < 0.6


def test_statistics_of_the_whole_tensor_do_not_count():
    """IR-Net's slope of one weight, 2^s k t (1 - tanh^2) / std, though the gradient of a sum of all vanishes."""
    module = registry.module("irnet")
    data = divergence.DATA["weight"]
    params = module.init(data, 1, "weight")
    expected = 2.0 ** float(params.exponent) / float(params.std)  # k t = 1 at first, tanh^2 = 0 at the mean
    found = mismatch.measure(module, 1, "weight")
    assert found["b max"] == pytest.approx(expected, rel=1e-3)
    assert np.isclose(found["b max"], found["b mean"], rtol=0.02)
