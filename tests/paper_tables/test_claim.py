"""``python -m paper_tables claim``."""

import contextlib
import io
import re
import tempfile
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paper_tables import cells, cli, reported
from paper_tables.audit import significance

TABLE = """
paper = "Mine"
table = "1"
title = "A table"
source = "preprint"
unit = "percent"
{images}
baseline = "FP"
ours = "Ours"
columns = ["FP", "1/1"]
[[rows]]
method = "Ours"
[rows.values]
"FP" = 91.4
"1/1" = {{ value = {ours}, difference = {difference} }}
[[rows]]
method = "Theirs"
[rows.values]
"1/1" = {theirs}
"""


def written(tmp_path, *, ours="85.8", difference="-5.6", theirs="80.0", images="images = 10000"):
    path = tmp_path / "table.toml"
    path.write_text(TABLE.format(ours=ours, difference=difference, theirs=theirs, images=images))
    return str(path)


@pytest.mark.parametrize(
    ("ours", "theirs", "images", "verdict", "status"),
    [
        ("85.8", "85.4", "10000", "undecided", 0),
        ("85.8", "84.1", "10000", "holds", 0),
        ("70.0", "71.6", "50000", "fails", 1),
        ("85.8", "85.4", "1000000", "holds", 0),
    ],
)
def test_two_numbers(ours, theirs, images, verdict, status, capsys):
    arguments = ["claim", "--accuracy", ours, "--against", theirs, "--images", images]
    assert cli.main(arguments) == 0
    assert cli.main([*arguments, "--strict"]) == status
    assert f"better: {verdict}" in capsys.readouterr().out


def test_more_comparisons_ask_for_more(capsys):
    arguments = ["claim", "--accuracy", "86.9", "--against", "85.8", "--images", "10000"]
    assert cli.main(arguments) == 0
    assert cli.main([*arguments, "--comparisons", "20"]) == 0
    first, second = [line for line in capsys.readouterr().out.splitlines() if "better:" in line]
    assert "holds" in first
    assert "undecided" in second


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({}, 0, "1 of 1 printed differences are those of the printed numbers"),
        ({"difference": "-5.5"}, 0, "which rounding can explain"),
        ({"difference": "-4.6"}, 1, "more than rounding can explain"),
        ({"theirs": "90.0"}, 1, "1 loss, 1 by more than chance"),
        ({"theirs": "86.0"}, 0, "1 loss, 0 by more than chance"),
        ({"images": "", "theirs": "90.0"}, 0, 'it takes unit = "percent", images, and a rival'),
    ],
)
def test_a_table(changes, status, said, tmp_path, capsys):
    path = written(tmp_path, **changes)
    assert cli.main(["claim", "--table", path]) == 0
    assert said in " ".join(capsys.readouterr().out.split())
    assert cli.main(["claim", "--table", path, "--strict"]) == status


def test_results_are_written(tmp_path):
    assert cli.main(["claim", "--table", written(tmp_path), "--out", str(tmp_path / "out")]) == 0
    found = [cells.read(path, cells.Cell) for path in (tmp_path / "out").rglob("*.json")]
    assert {(cell.table, cell.value_verdict or cell.claim_verdict) for cell in found} == {
        ("arithmetic", "reproduced"),
        ("significance", "holds"),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either"),
        (["--accuracy", "85.8"], "give either"),
        (["--accuracy", "85.8", "--against", "85.4", "--images", "10000", "--table", "x"], "give either"),
        (["--accuracy", "858", "--against", "85.4", "--images", "10000"], "--accuracy must be"),
        (["--accuracy", "85.8", "--against", "-1", "--images", "10000"], "--against"),
        (["--accuracy", "85.8", "--against", "85,4", "--images", "10000"], "--against must be"),
        (["--accuracy", "85.8", "--against", "85.4", "--images", "0"], "--images must be"),
        (["--accuracy", "85.8", "--against", "85.4", "--images", "1e4"], "--images must be"),
        (["--accuracy", "85.8", "--against", "85.4", "--images", "10", "--comparisons", "0"], "--comparisons must be"),
        (["--accuracy", "85.8", "--images", "10", "--deviation", "0.1"], "--deviation goes with --runs"),
        (["--accuracy", "85.8", "--images", "10", "--deviation", "x", "--runs", "3"], "--deviation must be"),
        (["--accuracy", "85.8", "--images", "10", "--against-runs", "3"], "go with --against"),
        (
            ["--accuracy", "85.8", "--against", "85", "--images", "10", "--against-deviation", "0.1"],
            "--against-deviation goes with --against-runs",
        ),
        (["--table", "/no/such/file"], "No such file"),
        (["--table", "/no/such/file", "--comparisons", "3"], "give either"),
        (["--accuracy", "85.8", "--images", "10", "--out", "x"], "--out goes with --table"),
        (["--accuracy", "85.8", "--against", "85", "--images", "10", "--out", "x"], "--out goes with --table"),
        (["--accuracy", "85.8", "--images", "10", "--comparisons", "3"], "--comparisons go with --against"),
    ],
)
def test_bad_input_is_status_2_and_one_line(arguments, message, capsys):
    try:
        status = cli.main(["claim", *arguments])
    except SystemExit as stop:  # argparse: an option that looks like a number
        status = stop.code
    out, err = capsys.readouterr()
    assert status == 2
    assert out == ""
    assert message in err


def test_a_bad_table_names_line_and_field(tmp_path, capsys):
    path = written(tmp_path, ours="185.8")
    assert cli.main(["claim", "--table", path]) == 2
    err = capsys.readouterr().err
    line = next(i for i, text in enumerate(Path(path).read_text().splitlines(), 1) if "185.8" in text)
    assert f"{path}:{line}:" in err
    assert "from 0 to 100" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["2", "3", "4", "5", "6", "7"])
def test_the_papers_own_tables_are_admitted(name):
    path = next(path for path in reported.__path__) + f"/table{name}.toml"
    assert cli.main(["claim", "--table", path]) == 0


def test_the_numbers_of_a_single_line_are_shown_and_words_are_no_pictures(tmp_path, capsys):
    path = written(tmp_path)
    Path(path).write_text(Path(path).read_text().replace("Theirs", "Net :fire:"))
    assert cli.main(["claim", "--table", path]) == 0
    out = capsys.readouterr().out
    assert "Ours against Net :fire:" in out
    (line,) = (line.split() for line in out.splitlines() if line.startswith("Ours ") and "against" not in line)
    assert line == ["Ours", "-5.6", "-5.6", "✓"]


def test_names_in_a_table_are_text_and_not_markup(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    path = written(tmp_path)
    named = Path(path).read_text().replace("Theirs", "[red]Theirs[/red] [/]")
    Path(path).write_text(named)
    assert cli.main(["claim", "--table", path]) == 0
    out, err = capsys.readouterr()
    assert "[red]Theirs[/red] [/]" in out
    assert err == ""


FULL = """
paper = "Mine"
table = "1"
title = "A table"
source = "preprint"
unit = "percent"
images = 10000
baseline = "FP"
ours = "Ours"
columns = ["FP", "1/1"]
"""
SLIPS = ("reproduced", "undecided", "contradicted")  # by tenths of a point
MARKS = {"holds": "✓", "reproduced": "✓", "undecided": "?", "fails": "✗", "contradicted": "✗"}


@given(st.lists(st.tuples(st.integers(700, 900), st.integers(-2, 2)), min_size=1, max_size=5))
def test_every_row_is_shown_those_that_hold_too(rivals):
    rows = [("Ours", 800, 0), *((f"M{k}", tenths, slip) for k, (tenths, slip) in enumerate(rivals))]
    text = FULL + "".join(
        f'[[rows]]\nmethod = "{method}"\n[rows.values]\n"FP" = 95.0\n'
        f'"1/1" = {{ value = {tenths / 10}, difference = {(tenths - 950 + slip) / 10:+.1f} }}\n'
        for method, tenths, slip in rows
    )
    with tempfile.TemporaryDirectory() as folder, io.StringIO() as out:
        path = Path(folder, "table.toml")
        path.write_text(text)
        with contextlib.redirect_stdout(out), pytest.MonkeyPatch.context() as patch:
            patch.setenv("COLUMNS", "400")
            assert cli.main(["claim", "--table", str(path), "--out", folder]) == 0
            said = out.getvalue().splitlines()
            wrong = any(abs(slip) > 1 for *_, slip in rows)  # one tenth is what rounding can explain
            expected, p, largest = {}, {}, 0.0
            rows_tenths = [(method, tenths) for method, tenths, _ in rows]
            for method, tenths, _slip in rows[1:]:
                p[method] = significance.chance(Decimal("80.0"), Decimal(tenths) / 10, 10_000)
            for rank, method in enumerate(sorted(p, key=p.__getitem__)):
                largest = max(largest, (len(p) - rank) * p[method])  # Holm
                ahead = dict(rows_tenths)[method] < 800
                expected[method] = "undecided" if largest > 0.05 else "holds" if ahead else "fails"
            assert cli.main(["claim", "--table", str(path), "--strict"]) == (wrong or "fails" in expected.values())
        found = [cells.read(one, cells.Cell) for one in Path(folder).rglob("*.json")]
    shown = [line.split() for line in said]
    best = max(rows[1:], key=lambda row: row[1])[0]
    for method, verdict in expected.items():
        words = ["Ours", "against", method, *(["(best", "rival)"] if method == best else [])]
        (line,) = (line for line in shown if line[: len(words)] == words and line[-1] in MARKS.values())
        assert line[-1] == MARKS[verdict]
    for method, _tenths, slip in rows:
        (line,) = (line for line in shown if line[:1] == [method] and line[1:2] != ["against"])
        assert line[-1] == MARKS[SLIPS[abs(slip)]]
    assert {(cell.row.split()[2], cell.claim_verdict) for cell in found if cell.table == "significance"} == {
        *expected.items()
    }
    assert {(cell.row, cell.value_verdict) for cell in found if cell.table == "arithmetic"} == {
        (method, SLIPS[abs(slip)]) for method, _, slip in rows
    }


def said(*arguments, status=0):
    with io.StringIO() as out, contextlib.redirect_stdout(out):
        assert cli.main(["claim", *arguments]) == status
        return out.getvalue().splitlines()


@given(st.integers(0, 1000), st.integers(0, 1000), st.sampled_from([100, 10_000]), st.integers(1, 30))
def test_the_numbers_of_one_comparison(ours, theirs, images, comparisons):
    first, second = Decimal(ours).scaleb(-1), Decimal(theirs).scaleb(-1)
    arguments = ["--accuracy", str(first), "--against", str(second), "--images", str(images)]
    lines = said(*arguments, "--comparisons", str(comparisons))
    alone, corrected = (significance.printed_interval(first, second, images, n) for n in (1, comparisons))
    assert lines[0] == f"{first} % against {second} %, {images} test images each: {first - second:+} points"
    assert lines[1] == f"95 % interval for other test images: {alone[0]:+.2f} to {alone[1]:+.2f} points"
    many = f"as one of {comparisons} comparisons: {corrected[0]:+.2f} to {corrected[1]:+.2f} points"
    assert (many in lines) == (comparisons > 1)
    verdict, by_itself = (
        "holds" if low > 0 else "fails" if high < 0 else "undecided" for low, high in (corrected, alone)
    )
    (line,) = (line for line in lines if line.startswith(f"{MARKS[verdict]} better: {verdict}. "))
    # What it takes is by the same interval as the verdict, and never nothing
    takes = re.findall(r"It takes (\d+\.\d) points (above|below)", line)
    assert takes or "No accuracy is far enough" in line
    for points, side in takes:
        assert Decimal(points) > 0
        assert side == ("above" if first >= second else "below")
        assert (abs(first - second) >= Decimal(points)) == (verdict != "undecided")
    assert (f"Alone it would count ({by_itself}), not as one of {comparisons}." in lines) == (by_itself != verdict)


def test_86_against_78_5_on_200():
    """Undecided, and it takes more than the 7.5 that there are."""
    lines = said("--accuracy", "86", "--against", "78.5", "--images", "200")
    assert "? better: undecided. It takes 8.5 points above 78.5 %, printed so." in lines


@pytest.mark.parametrize(
    ("arguments", "line", "status"),
    [
        (
            ["97.35", "1797"],
            "✗ Granularity: 97.35 % cannot arise: 1749 of 1797 are 97.3289 % and 1750 of 1797 are 97.3845 %.",
            1,
        ),
        (
            ["97.33", "1797"],
            "✓ Granularity: 97.33 % can arise: 1749 of 1797 are 97.3289 % and 1750 of 1797 are 97.3845 %.",
            0,
        ),
        (["97.35", "10000"], "Granularity: every accuracy of 2 decimals can arise from 10000 images.", 0),
        (["97.35", "1797", "--runs", "10"], "Granularity: every accuracy of 2 decimals", 0),
    ],
)
def test_whether_an_accuracy_can_arise(arguments, line, status):
    accuracy, images, *more = arguments
    lines = said("--accuracy", accuracy, "--images", images, *more, "--strict", status=status)
    assert any(found.startswith(line) for found in lines), lines


@pytest.mark.parametrize(
    ("arguments", "said_so"),
    [
        (
            ["--deviation", "0.2", "--runs", "5", "--against-deviation", "0.3", "--against-runs", "5"],
            "Welch's t, 7.2 degrees of freedom",
        ),
        (["--deviation", "0.2", "--runs", "5"], "pooled t, with the one deviation that is printed, 4.0 degrees"),
        (
            ["--against-deviation", "0.2", "--against-runs", "3"],
            "pooled t, with the one deviation that is printed, 2.0",
        ),
    ],
)
def test_means_over_runs_say_which_test(arguments, said_so):
    lines = said("--accuracy", "91.0", "--against", "90.5", "--images", "10000", *arguments)
    (line,) = (line for line in lines if "in other runs" in line)
    assert said_so in line


def test_a_difference_beyond_runs_holds_on_these_images():
    runs = ["--deviation", "0.01", "--runs", "9", "--against-deviation", "0.01", "--against-runs", "9"]
    lines = said("--accuracy", "91.0", "--against", "90.5", "--images", "10000", *runs)
    assert any(line.startswith("✓ better in other runs, on the same images: holds. ") for line in lines)
    assert any(line.startswith("? better: undecided. ") for line in lines)
    assert said("--accuracy", "90.5", "--against", "91.0", "--images", "10000", *runs, "--strict", status=1)


ROUNDED = [
    ("74.1", "75.36", "-1.3", 0),
    ("74.1", "75.36", "-1.26", 0),
    ("74.1", "75.36", "-1.2", 0),
    ("74.1", "75.36", "-1.1", 1),
]


@pytest.mark.parametrize(("ours", "base", "difference", "status"), ROUNDED)
def test_a_correctly_rounded_difference_is_not_contradicted(ours, base, difference, status, tmp_path):
    path = written(tmp_path, ours=ours, difference=difference, theirs="60.0")
    Path(path).write_text(Path(path).read_text().replace('"FP" = 91.4', f'"FP" = {base}'))
    assert cli.main(["claim", "--table", path, "--strict"]) == status


WITH_RUNS = """
paper = "Mine"
table = "1"
title = "A table"
source = "preprint"
unit = "percent"
images = 1797
ours = "Ours"
columns = ["2/2"]
[[rows]]
method = "Ours"
[rows.values]
"2/2" = { value = 97.40, deviation = 0.20, runs = 3 }
[[rows]]
method = "Theirs"
[rows.values]
"2/2" = { value = 96.10, deviation = 0.10, runs = 3 }
[[rows]]
method = "Other"
[rows.values]
"2/2" = 97.35
"""


def test_a_table_with_runs_and_few_images(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    path = tmp_path / "table.toml"
    path.write_text(WITH_RUNS)
    assert cli.main(["claim", "--table", str(path), "--strict", "--out", str(tmp_path / "out")]) == 1
    out = capsys.readouterr().out
    assert "97.35 % cannot arise" in out
    assert "Welch's t" in out
    assert "pooled t" in out
    found = [cells.read(one, cells.Cell) for one in (tmp_path / "out").rglob("*.json")]
    verdicts = {(cell.table, cell.row): cell.claim_verdict for cell in found}
    # Of 3 x 1797 answers 5251 are 97.40 %, and 5181 are 96.10 %
    granular = {row: verdict for (table, row), verdict in verdicts.items() if table == "granularity"}
    assert granular == {"Ours": "holds", "Theirs": "holds", "Other": "fails"}
    assert verdicts["means", "Ours against Theirs"] == "holds"
    assert verdicts["means", "Ours against Other"] == "undecided"
    # and every comparison shows its interval
    for cell in found:
        if cell.table == "significance":
            assert f"{cell.ci95[0]:+.2f} to {cell.ci95[1]:+.2f}; p = " in out


@pytest.mark.parametrize("runs", ["", ", runs = 1"])
def test_a_deviation_is_of_two_runs_or_more(runs, tmp_path, capsys):
    path = tmp_path / "table.toml"
    path.write_text(WITH_RUNS.replace("deviation = 0.20, runs = 3", f"deviation = 0.20{runs}"))
    assert cli.main(["claim", "--table", str(path)]) == 2
    assert 'a deviation beside a key "runs", 2 or more' in " ".join(capsys.readouterr().err.split())
