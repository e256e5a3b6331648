"""Measurements and cells: written whole, read back equal, and nothing else is taken for one."""

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paper_tables import cells
from paper_tables.cells import Cell, Measurement, Place

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=60)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.dictionaries(TEXT, TEXT, max_size=3)
OF_A_MEASUREMENT = {
    "paper": TEXT,
    "table": st.sampled_from(["1", "5", "equations"]),
    "row": TEXT,
    "column": TEXT,
    "unit": TEXT,
    "measured": st.none() | FINITE,
    "ci95": st.none() | st.tuples(FINITE, FINITE).map(sorted).map(tuple),
    "runs": st.none() | st.integers(1, 9),
    "seeds": st.none() | st.lists(st.integers(0, 2**63), max_size=4).map(tuple),
    "images": st.none() | st.integers(1, 10**9),
    "selection": st.none() | st.sampled_from(["last", "best on test"]),
    "protocol": TEXT,
    "detail": st.dictionaries(TEXT, FINITE | TEXT, max_size=3),
    "seconds": st.none() | FINITE,
    "hardware": WORDS,
    "versions": WORDS,
    "key": st.none() | TEXT,
}
MEASUREMENTS = st.builds(Measurement, **OF_A_MEASUREMENT)
CELLS = st.builds(
    Cell,
    **OF_A_MEASUREMENT,
    reported=st.none() | TEXT,
    recorded=st.booleans(),
    value_verdict=st.none() | st.sampled_from(["reproduced", "stale"]),
    claim_verdict=st.none() | st.sampled_from(["holds", "fails"]),
    reason=TEXT,
    command=st.none() | TEXT,
)
SOME = Measurement(paper="DAQ", table="5", row="Ours", column="1/1", unit="percent", measured=85.62, key="abc")


@given(MEASUREMENTS | CELLS)
def test_round_trip(tmp_path_factory, one):
    folder = tmp_path_factory.mktemp("cells")
    cells.write(folder, [one])
    (path,) = folder.rglob("*.json")
    assert cells.read(path, type(one)) == one
    assert path == folder / one.table / one.place.filename


def test_a_recorded_file_holds_the_measurement_only(tmp_path):
    cells.write(tmp_path, [SOME])
    content = json.loads((tmp_path / "5" / SOME.place.filename).read_text())
    assert list(content) == [
        *("schema", "paper", "table", "row", "column", "unit", "measured", "ci95", "runs", "seeds", "images"),
        *("selection", "protocol", "detail", "seconds", "hardware", "versions", "key"),
    ]


@given(st.lists(st.tuples(TEXT, TEXT), unique=True, min_size=2, max_size=6))
def test_file_names_are_distinct_and_plain(places):
    names = {Place("DAQ", "5", row, column).filename for row, column in places}
    assert len(names) == len(places)
    for name in names:
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.")
        assert len(name) < 80


def test_not_a_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        cells.write(tmp_path, [dataclasses.replace(SOME, measured=float("nan"))])
    assert list(tmp_path.rglob("*.json")) == []


def damaged(**changes):
    return json.dumps(dataclasses.asdict(SOME) | changes)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe\x00", "damaged"),
        (b"[" * 100_000, "damaged"),
        ("[]", "list"),
        ("{}", "schema"),
        (damaged(schema=1), "schema must be 2, got 1"),
        (damaged(surprise=3), "'surprise' is unknown"),
        (json.dumps({k: v for k, v in dataclasses.asdict(SOME).items() if k != "key"}), "'key' is missing"),
        (damaged(measured="85.62"), "measured must be float"),
        (damaged(measured=True), "measured must be float"),
        (damaged(measured=math.nan), "'nan'"),
        (damaged(measured=math.inf), "'inf'"),
        (damaged(measured=10**400), "measured must be float"),
        (damaged(measured=191.45), "measured must be from 0 to 100 percent, got 191.45"),
        (damaged(measured=-0.5), "measured must be from 0 to 100 percent, got -0.5"),
        (damaged(ci95=[99, 1]), "ci95 must be"),
        (damaged(ci95=[1]), "ci95 must be"),
        (damaged(ci95=[1, math.nan]), "ci95 must be"),
        (damaged(images=1.5), "images must be int"),
        (damaged(seeds=[0.5]), "seeds must be"),
        (damaged(hardware={"cores": 2}), "hardware must be"),
        (damaged(detail={"layer": None}), "detail must be"),
        (damaged(row="Theirs"), "holds another number: table 5, 'Theirs', '1/1'"),
        (damaged(table="code"), "holds another number"),
        (damaged()[:-20], "damaged"),
    ],
)
def test_other_files_are_refused_in_a_line(tmp_path, content, names):
    path = tmp_path / "5" / SOME.place.filename
    path.parent.mkdir()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match="damaged, or no measurement") as error:
        cells.read(path, Measurement)
    assert names in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_cell_is_no_measurement(tmp_path):
    cells.write(tmp_path, [Cell(**dataclasses.asdict(SOME), reported="85.8")])
    with pytest.raises(ValueError, match="no measurement"):
        cells.read(tmp_path / "5" / SOME.place.filename, Measurement)


def test_committed_results_are_measurements_with_provenance():
    found = sorted(cells.RESULTS.rglob("*.json"))
    assert found
    for path in found:
        measurement = cells.read(path, Measurement)
        assert measurement.measured is not None
        assert measurement.hardware, path
        assert measurement.versions, path
        assert str(cells.ROOT) not in json.dumps(dataclasses.asdict(measurement))


X86 = """processor\t: 0
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
flags\t\t: fpu avx avx2 avx512f avx512_bf16

processor\t: 1
model name\t: another
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd sve bf16\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n"


@pytest.mark.parametrize(
    ("info", "said"),
    [
        (X86, "AMD EPYC (cpu family 25, model 17, avx2, avx512f, avx512_bf16)"),
        (X86.replace(": 17", ": 1"), "AMD EPYC (cpu family 25, model 1, avx2, avx512f, avx512_bf16)"),
        (X86.replace("avx512f avx512_bf16", ""), "AMD EPYC (cpu family 25, model 17, avx2)"),
        (ARM, "(CPU implementer 0x41, CPU part 0xd40, asimd, sve, bf16)"),
        ("model name\t: one\n", "one"),
        ("", ""),
    ],
)
def test_processors_of_one_name_that_give_other_bits_are_told_apart(info, said):
    assert cells._processor(info) == said


@pytest.mark.parametrize("info", [X86, "", None])
def test_hardware(info, monkeypatch):
    def read_text(self, **options):
        if info is None:
            raise FileNotFoundError(self)
        return info

    monkeypatch.setattr(cells.Path, "read_text", read_text)
    monkeypatch.setattr(cells.platform, "processor", lambda: "of another system")
    found = cells.hardware.__wrapped__()
    assert found.keys() == {"machine", "processor", "cores"}
    assert found["processor"] == (cells._processor(X86) if info else "of another system")
