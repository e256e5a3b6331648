"""Result cells: written whole, read back equal, never silently reused."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paper_tables import cells
from paper_tables.cells import Cell

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=60)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
CELLS = st.builds(
    Cell,
    paper=TEXT,
    table=st.sampled_from(["1", "5", "equations"]),
    row=TEXT,
    column=TEXT,
    unit=TEXT,
    source_sha256=TEXT,
    reported=st.none() | TEXT,
    measured=st.none() | FINITE,
    ci95=st.none() | st.tuples(FINITE, FINITE),
    images=st.none() | st.integers(1, 10**9),
    reason=TEXT,
    versions=st.dictionaries(TEXT, TEXT, max_size=3),
)


@given(CELLS)
def test_round_trip(tmp_path_factory, cell):
    folder = tmp_path_factory.mktemp("cells")
    cells.write(folder, [cell])
    (path,) = folder.rglob("*.json")
    assert cells.read(path) == cell
    assert path == folder / cell.table / cell.filename


@given(st.lists(st.tuples(TEXT, TEXT), unique=True, min_size=2, max_size=6))
def test_file_names_are_distinct_and_plain(places):
    names = {Cell("DAQ", "5", row, column, "percent", "").filename for row, column in places}
    assert len(names) == len(places)
    for name in names:
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.")
        assert len(name) < 80


def test_not_a_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        cells.write(tmp_path, [Cell("DAQ", "5", "a", "b", "percent", "", measured=float("nan"))])
    assert list(tmp_path.rglob("*.json")) == []


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "report.md"
    cells.write_atomic(path, "old")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cells.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cells.write_atomic(path, "new")
    assert [file.name for file in tmp_path.iterdir()] == ["report.md"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1, "surprise": 3}'])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "cell.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="not a result cell"):
        cells.read(path)


def test_recorded_cells_stand_only_while_their_hash_does(tmp_path):
    blank = Cell("DAQ", "5", "Ours", "1/1", "percent", "abc", reported="85.8", value_verdict="not run")
    assert cells.recorded(blank, tmp_path) == blank
    result = dataclasses.replace(blank, measured=85.62, value_verdict="contradicted", protocol="p")
    cells.write(tmp_path, [result])
    assert cells.recorded(blank, tmp_path).measured == 85.62
    assert cells.recorded(blank, tmp_path).value_verdict == "contradicted"
    changed = dataclasses.replace(blank, source_sha256="abd")
    assert cells.recorded(changed, tmp_path).value_verdict == "stale"


def test_digest_depends_on_configuration_and_on_imported_sources(tmp_path, monkeypatch):
    package = tmp_path / "reference"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text("from reference import b\n")
    (package / "b.py").write_text("import reference.c as c\n")
    (package / "c.py").write_text("x = 1\n")
    (package / "d.py").write_text("x = 1\n")
    monkeypatch.setattr(cells, "ROOT", tmp_path)

    def digest(**configuration):
        cells._imports.cache_clear()
        return cells.source_digest(["reference.a"], **configuration)

    before = digest(bits=1)
    assert before == digest(bits=1)
    assert before != digest(bits=2)
    (package / "d.py").write_text("x = 2\n")  # not imported
    assert digest(bits=1) == before
    (package / "c.py").write_text("x = 2\n")  # imported by what is imported
    assert digest(bits=1) != before


def test_committed_results_are_cells_with_provenance():
    for path in sorted(cells.RESULTS.rglob("*.json")):
        cell = cells.read(path)
        assert path.name == cell.filename
        assert cell.measured is not None
        assert cell.hardware, path
        assert cell.versions, path
        assert str(cells.ROOT) not in json.dumps(dataclasses.asdict(cell))
