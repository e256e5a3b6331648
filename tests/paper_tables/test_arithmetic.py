"""The arithmetic audit, on the reported tables and on copies with slips planted in them."""

import dataclasses
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paper_tables import reported
from paper_tables.audit import arithmetic
from paper_tables.reported import Printed
from paper_tables.tables import Options

TABLES = reported.tables()
SLIP = ("6", "kernel soft argmax, beta = 24", "Rounding")


def wrong_in(tables):
    """Places of the differences that are not reproduced: contradicted, or undecided."""
    found = [cell for table in tables.values() for cell in arithmetic.check(table)]
    return {
        (cell.column.split(",")[0].removeprefix("Table "), cell.row, cell.column.partition(", ")[2])
        for cell in found
        if cell.value_verdict not in ("reproduced", None)
    }


def replaced(tables, place, printed):
    name, method, column = place
    rows = tuple(
        dataclasses.replace(row, values={**row.values, column: printed}) if row.method == method else row
        for row in tables[name].rows
    )
    return {**tables, name: dataclasses.replace(tables[name], rows=rows)}


DIFFERENCES = [
    (name, row.method, column)
    for name, table in TABLES.items()
    for row in table.rows
    for column, printed in row.values.items()
    if printed.difference is not None
]


def printed_at(place):
    name, method, column = place
    return TABLES[name].row(method).values[column]


def test_exactly_one_printed_difference_is_wrong():
    assert len(DIFFERENCES) == 77
    assert wrong_in(TABLES) == {SLIP}
    table = arithmetic.run(Options())
    assert table.counts() == {"reproduced": 76, "contradicted": 1}
    (cell,) = (cell for cell in table.cells if cell.value_verdict == "contradicted")
    assert (cell.reported, cell.measured) == ("-3.8", -4.2)
    assert "more than rounding can explain" in cell.reason
    assert "59.6 - 63.8 = -4.2" in table.wrong[0]


@given(st.sampled_from(DIFFERENCES), st.integers(-99, 99).filter(bool))
def test_a_planted_slip_is_found_and_nothing_else(place, tenths):
    printed = printed_at(place)
    slip = printed.difference + Decimal(tenths).scaleb(-1)
    found = wrong_in(replaced(TABLES, place, dataclasses.replace(printed, difference=slip)))
    right = printed.value - TABLES[place[0]].row(place[1]).values[TABLES[place[0]].baseline].value
    assert found == {SLIP, place} - ({place} if slip == right else set())


@given(st.sampled_from([place for place in DIFFERENCES if printed_at(place).difference]))
def test_an_improvement_printed_for_a_loss_is_found(place):
    printed = printed_at(place)
    found = wrong_in(replaced(TABLES, place, dataclasses.replace(printed, difference=-printed.difference)))
    assert found == {SLIP, place}


@given(st.sampled_from(DIFFERENCES), st.integers(1, 500))
def test_a_changed_accuracy_is_found_in_its_own_difference(place, tenths):
    printed = printed_at(place)
    changed = dataclasses.replace(printed, value=printed.value + Decimal(tenths).scaleb(-1))
    found = wrong_in(replaced(TABLES, place, changed))
    assert found - {SLIP} == ({place} - {SLIP})


@given(st.sampled_from([place for place in DIFFERENCES if place != SLIP]), st.integers(1, 20))
def test_what_rounding_can_explain_is_said_so(place, tenths):
    printed = printed_at(place)
    slip = dataclasses.replace(printed, difference=printed.difference + Decimal(tenths).scaleb(-1))
    tables = replaced(TABLES, place, slip)
    (cell,) = (
        cell
        for cell in arithmetic.check(tables[place[0]])
        if (cell.row, cell.column) == (place[1], f"Table {place[0]}, {place[2]}")
    )
    # three numbers of one decimal, each off by at most 0.05: together less than 0.15
    assert ("which rounding can explain" in cell.reason) == (tenths == 1)
    assert cell.value_verdict == ("undecided" if tenths == 1 else "contradicted")


def test_a_difference_from_nothing_gets_no_verdict():
    table = TABLES["5"]
    rows = tuple(
        dataclasses.replace(row, values={k: v for k, v in row.values.items() if k != "FP"}) for row in table.rows
    )
    found = arithmetic.check(dataclasses.replace(table, rows=rows))
    assert {cell.value_verdict for cell in found} == {None}
    assert all("nothing is printed in column 'FP'" in cell.reason for cell in found)


@pytest.mark.parametrize(("value", "base", "difference"), [("70.0", "71.9", "-1.9"), ("70.4", "70.3", "0.1")])
def test_decimals_are_exact(value, base, difference):
    # 70.0 - 71.9 is -1.9000000000000057 in binary floating point
    table = TABLES["4"]
    row = reported.Row(
        "Ours", None, None, {"FP": Printed(Decimal(base)), "4/4": Printed(Decimal(value), Decimal(difference))}
    )
    (cell,) = arithmetic.check(dataclasses.replace(table, rows=(row,)))
    assert cell.value_verdict == "reproduced"


@given(st.dictionaries(st.sampled_from(DIFFERENCES), st.integers(-3, 3), max_size=6))
def test_the_count_and_the_sentences_are_those_of_the_numbers(slips):
    tables = TABLES
    for place, tenths in slips.items():
        printed = tables[place[0]].row(place[1]).values[place[2]]
        slip = dataclasses.replace(printed, difference=printed.difference + Decimal(tenths).scaleb(-1))
        tables = replaced(tables, place, slip)
    table = arithmetic.audit(tables.values())
    wrong, unclear = [], []
    for name, method, column in DIFFERENCES:
        row = tables[name].row(method).values
        value, base, printed = row[column].value, row[tables[name].baseline].value, row[column].difference
        off = abs(value - base - printed)
        if off:  # three numbers of one decimal can be 0.05 off each
            why = "which rounding can explain" if off < Decimal("0.15") else "more than rounding can explain"
            fits = f"{base + printed} - {base} or {value} - {value - printed} would fit"
            said = f"{value} - {base} = {value - base}, printed {printed}: off by {off}, {why}; {fits}."
            (unclear if "which" in why else wrong).append(f"Table {name}, {column}, {method}: {said}")
    assert list(table.wrong) == wrong
    right = len(DIFFERENCES) - len(wrong) - len(unclear)
    count = f"{right} of {len(DIFFERENCES)} printed differences are those of the printed numbers."
    assert table.findings == (*unclear, count)
    assert table.counts().get("undecided", 0) == len(unclear)
    assert table.counts().get("contradicted", 0) == len(wrong)
    assert table.counts()["reproduced"] == right


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 2), st.integers(-3, 3))
def test_a_difference_may_be_rounded_to_fewer_decimals(value, base, decimals, slip):
    """74.1 - 75.36 is -1.26: printed -1.3 is right."""
    first, second = Decimal(value).scaleb(-2), Decimal(base).scaleb(-2)
    unit = Decimal(1).scaleb(-decimals)
    difference = ((first - second) / unit).to_integral_value() * unit + slip * unit
    table = TABLES["4"]
    row = reported.Row("Ours", None, None, {"FP": Printed(second), "4/4": Printed(first, difference)})
    (cell,) = arithmetic.check(dataclasses.replace(table, rows=(row,)))
    off = abs(first - second - difference)
    explained = off <= unit / 2 + Decimal("0.01")  # the two accuracies are off by half of 0.01 each, at most
    assert cell.value_verdict == ("reproduced" if off <= unit / 2 else "undecided" if explained else "contradicted")
