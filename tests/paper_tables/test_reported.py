"""The printed tables and claims are complete, and a malformed table is refused at its line."""

import re
import tomllib
from collections import Counter
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paper_tables import reported
from paper_tables.reported import Printed, ReportedTable, Row, TableError
from tests.strategies import QUICK

TABLES = reported.tables()
CLAIMS = reported.claims()
HERE = Path(reported.__file__).parent


def cells(number):
    table = TABLES[number]
    return [(row.method, column, cell) for row in table.rows for column, cell in row.values.items()]


# The shipped tables


@pytest.mark.parametrize(
    ("number", "rows", "columns", "values", "differences", "images", "baseline"),
    [
        ("1", 3, 4, 12, 0, None, None),
        ("2", 10, 9, 50, 40, 50000, "FP"),
        ("3", 5, 7, 21, 16, 50000, "FP"),
        ("4", 4, 2, 8, 4, 50000, "FP"),
        ("5", 5, 3, 14, 9, 10000, "FP"),
        ("6", 9, 2, 16, 8, 10000, "DASR"),
        ("7", 3, 2, 6, 0, 10000, None),
    ],
)
def test_tables_are_complete(number, rows, columns, values, differences, images, baseline):
    table = TABLES[number]
    assert (table.paper, table.table) == ("DAQ", number)
    assert table.source.endswith(f"Table {number}")
    assert (len(table.rows), len(table.columns), len(cells(number))) == (rows, columns, values)
    assert sum(cell.difference is not None for *_, cell in cells(number)) == differences
    assert (table.images, table.baseline) == (images, baseline)


def test_77_differences_of_which_one_is_misprinted():
    printed, wrong = 0, []
    for number in "23456":
        for method, column, cell in cells(number):
            if cell.difference is not None:
                printed += 1
                baseline = TABLES[number].row(method).values[TABLES[number].baseline].value
                if cell.value - baseline != cell.difference:
                    wrong.append((number, method, column, cell.value - baseline, cell.difference))
    assert printed == 77
    # a slip in the transcription would show here as a second line
    assert wrong == [("6", "kernel soft argmax, beta = 24", "Rounding", Decimal("-4.2"), Decimal("-3.8"))]


def test_units_and_decimals():
    assert {number: table.unit for number, table in TABLES.items() if table.unit != "percent"} == {"1": "text"}
    assert {number: table.units for number, table in TABLES.items() if table.units} == {"7": {"Time/iters": "ms"}}
    assert all(isinstance(cell.value, str) for *_, cell in cells("1"))
    for number in "234567":
        for *_, cell in cells(number):
            assert reported.printed_decimals(cell.value) == 1
            assert cell.difference is None or reported.printed_decimals(cell.difference) == 1
    assert str(TABLES["4"].row("Ours").values["4/4"].value) == "70.0"
    assert str(TABLES["6"].row(TABLES["6"].ours).values["Rounding"].difference) == "-0.0"


def test_daggers():
    marked = [(number, *where) for number in TABLES for *where, cell in cells(number) if cell.fully_quantized]
    assert marked == [("2", "RQ", "4/4"), ("2", "DSQ", "4/4"), ("4", "PROFIT", "4/4"), ("4", "Ours", "4/4")]


def test_spot_checks_by_hand():
    assert TABLES["1"].row("QNet").values["Test"] == Printed("rounding")
    assert TABLES["2"].row("QNet").values["3/32"] == Printed(Decimal("70.4"), Decimal("0.1"))
    assert TABLES["3"].row("Ours").values["1/2"] == Printed(Decimal("69.4"), Decimal("-3.9"))
    assert TABLES["4"].row("PACT").values == {
        "FP": Printed(Decimal("71.8")),
        "4/4": Printed(Decimal("61.4"), Decimal("-10.4")),
    }
    assert list(TABLES["5"].row("LQ-Net").values) == ["FP", "1/32"]
    assert TABLES["6"].row("soft argmax, beta = 150").values == {}
    assert TABLES["7"].row("Annealing").values["Time/iters"].value == Decimal("286.2")
    with pytest.raises(KeyError):
        TABLES["2"].row("nobody")


def test_citations_are_the_same_everywhere():
    # LQ-Nets is printed LQ-Net in Table 5; Table 7 names approaches, not methods
    by_name: dict[str, set[int | None]] = {}
    for number in "123456":
        for row in TABLES[number].rows:
            by_name.setdefault(row.method.removesuffix("s"), set()).add(row.citation)
    assert all(len(citations) == 1 for citations in by_name.values()), by_name
    assert by_name["Our"] == {None}
    assert by_name["LQ-Net"] == {49}


# The shipped claims

SOURCE = r"Abstract|Section [1-5](\.[1-3])?(, [\w()\- ]+)?|Caption of (Table|Figure) [1-7]|Footnote [123]"
TOPICS = {
    "DAQ": "accuracy, cost, derivation, gradient flow, gradient mismatch, novelty, prior work, protocol, "
    "quantizer gap, reporting",
    "DSQ": "accuracy, cost, deployment, gradient mismatch, quantization loss, quantizer gap, training stability",
}


def test_claims_are_well_formed():
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", claim.id), claim
        assert re.fullmatch(SOURCE, claim.source), claim
        assert claim.text == " ".join(claim.text.split()), claim
        assert claim.text.count("(") == claim.text.count(")") or "(1)" <= claim.text[:3] <= "(5)", claim
        assert not re.search(r"[\\${}]", claim.text.replace("{0, 1, ..., 2^b - 1}", "")), claim
    for paper, topics in TOPICS.items():
        assert ", ".join(sorted({claim.topic for claim in CLAIMS if claim.paper == paper})) == topics
    assert {claim.paper for claim in CLAIMS} == set(TOPICS)


def test_a_part_is_named_exactly_where_a_sentence_makes_several_claims():
    sentences = Counter((claim.paper, claim.source, claim.text) for claim in CLAIMS)
    for claim in CLAIMS:
        assert (claim.part is not None) == (sentences[claim.paper, claim.source, claim.text] > 1), claim
    assert len({(claim.source, claim.text, claim.part) for claim in CLAIMS}) == len(CLAIMS)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("Abstract", "outperforms the state of the art significantly"),
        ("Caption of Table 1", "same DASR with β* in both forward and backward passes"),
        ("Section 3.2, Distance score", "increases exponentially"),
        ("Section 3.2, Soft assignment", "more accurately than the sigmoid"),
        ("Section 3.3", "(1) Small temperature parameters"),
        ("Section 3.3", "converges to zero rapidly"),
        ("Section 3.3, Temperature controller", "exactly same values as the rounding function"),
        ("Section 3.3, Temperature controller", "free from the quantizer gap problem"),
        ("Section 4.1, Implementation details", "grid search"),
        ("Section 4.2, (1)", "by a significant margin"),
        ("Section 4.2, (5)", "consistently"),
        ("Section 4.2, Tables 3 and 4", "best performance in terms of an accuracy improvement/degradation"),
        ("Footnote 3", "58.1"),
        ("Section 4.3, Differentiable argmax", "from 76.2% to 3.8%"),
        ("Section 4.3, Temperature controller", "large margin"),
        ("Section 5", "each component"),
        ("Abstract", "gradually approximate the standard quantization"),
        ("Abstract", "up to 1.7x speed up"),
    ],
)
def test_claims_include(source, words):
    assert any(claim.source == source and words in claim.text for claim in CLAIMS)


def test_irnet_prints_beside_its_code_what_daq_quotes_of_it_and_what_its_tables_leave_out():
    readme = reported.irnet_readme()
    printed = {(row.method, column): str(cell.value) for row in readme.rows for column, cell in row.values.items()}
    assert printed == {
        ("1/1", "ResNet-20"): "86.5",
        ("1/1", "ResNet-18"): "58.1",
        ("1/1", "ResNet-34"): "62.9",
        ("1/32", "ResNet-20"): "90.8",
        ("1/32", "ResNet-18"): "66.5",
        ("1/32", "ResNet-34"): "70.4",
    }
    for number, network in (("2", "ResNet-18"), ("3", "ResNet-34"), ("5", "ResNet-20")):
        quoted = TABLES[number].row("IRNet").values
        assert quoted["1/32"].value == readme.row("1/32").values[network].value
        assert "1/1" not in quoted or quoted["1/1"].value < readme.row("1/1").values[network].value


def test_malformed_claims_are_refused(tmp_path):
    path = tmp_path / "claims.toml"
    claim = '[[claims]]\nid = "a"\nsource = "s"\ntext = "t"\ntopic = "u"\n'
    for text, line in [
        (f'paper = "P"\n{claim}{claim}', 8),
        (f'paper = "P"\n{claim}verdict = "holds"\n', 7),
        (f'paper = "P"\n{claim.replace(claim[11:20], "")}', 2),
    ]:
        path.write_text(text, encoding="utf-8")
        with pytest.raises(TableError, match=rf":{line}: claims\.[01]\."):
            reported._load_claims(path)


def test_printed_decimals_of_what_is_no_number():
    for text in ("NaN", "Infinity", "-Infinity"):
        with pytest.raises(ValueError, match="finite"):
            reported.printed_decimals(Decimal(text))
    assert reported.printed_decimals(Decimal("7e1")) == 0


# One mistake at a time, in a file written by hand

GOOD = """\
paper = "mine"
table = "1"
title = "a table of mine"
source = "a draft"
unit = "percent"
images = 10000
baseline = "FP"
ours = "we"
columns = ["FP", "1/1", "t"]
units = { t = "ms" }
[[rows]]
method = "they"
citation = 3
[rows.values]
FP = 91.0
"1/1" = { value = 84, difference = -7.0 }
[[rows]]
method = "we"
note = "trained twice"
values.FP = 91.4
values.'1/1' = { value = 85.8, difference = -5.6, fully_quantized = true }
values.t = 1234.5
"""


def refusal(tmp_path, content):
    path = tmp_path / "mine.toml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(TableError) as caught:
        reported.load_table(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.isprintable()
    assert len(message) < 1000
    line, field, problem = re.fullmatch(rf"{re.escape(str(path))}:(\d+): (.+?): (.+; admitted: .+)", message).groups()
    return int(line), field, problem


def test_good_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD, encoding="utf-8")
    table = reported.load_table(str(path))
    assert [row.method for row in table.rows] == ["they", "we"]
    assert table.rows[0].values["1/1"] == Printed(Decimal(84), Decimal("-7.0"))
    assert table.unit_of("t") == "ms"
    assert table.unit_of("FP") == "percent"


@pytest.mark.parametrize(
    ("old", "new", "line", "field", "says"),
    [
        ('"a draft"', '"a draft', 4, "file", "TOML 1.0"),
        ("baseline =", "unit =", 7, "file", "unit = "),
        ("values.t = 1234.5\n", "values.t = [1,", 22, "file", "values.t = [1,"),
        ("title =", "titel =", 3, "titel", "'titel' is unknown; admitted: one of 'paper, table, title"),
        ('title = "a table of mine"\n', "", 1, "title", "is missing; admitted: the keys paper, table, title"),
        ('method = "they"\n', "", 11, "rows.0.method", "is missing"),
        ('method = "we"\n', "", 17, "rows.1.method", "is missing"),
        ("value = 84,", "", 16, "rows.0.values.'1/1'.value", "is missing"),
        (
            "values.'1/1' = { value = 85.8, difference = -5.6, fully_quantized = true }",
            "values.'1/1'.difference = -5.6\nvalues.'1/1'.fully_quantized = true",
            21,
            "rows.1.values.'1/1'.value",
            "is missing",
        ),
        ("note =", "remark =", 19, "rows.1.remark", "one of 'method, values, citation, note'"),
        ("fully_quantized", "dagger", 21, "rows.1.values.'1/1'.dagger", "fully_quantized"),
        ("= true", "= 1", 21, "rows.1.values.'1/1'.fully_quantized", "1 is refused; admitted: true or false"),
        ('table = "1"', "table = 1", 2, "table", "1 is refused; admitted: a non-empty string"),
        ('"a table of mine"', '" "', 3, "title", "' ' is refused; admitted: a non-empty string"),
        ('"a table of mine"', '"\\u001b[2J"', 3, "title", "'\\x1b[2J' is refused; admitted: a non-empty string"),
        ("91.4", "nan", 20, "rows.1.values.FP", "NaN is refused; admitted: a finite number from 0 to 100"),
        ("91.4", "-inf", 20, "rows.1.values.FP", "-Infinity is refused"),
        ("1234.5", "inf", 22, "rows.1.values.t", "Infinity is refused; admitted: a finite number of at most 12 digits"),
        ("1234.5", "1e99999999999999999999", 22, "rows.1.values.t", "is refused"),
        ("1234.5", "1e-13", 22, "rows.1.values.t", "1E-13 is refused"),
        ("1234.5", "0x" + "f" * 1500, 22, "rows.1.values.t", "... is refused"),
        ("1234.5", "true", 22, "rows.1.values.t", "True is refused"),
        ("91.4", "100.1", 20, "rows.1.values.FP", "100.1 is refused; admitted: a finite number from 0 to 100"),
        ("91.4", "-0.1", 20, "rows.1.values.FP", "-0.1 is refused"),
        ("91.4", '"91.4"', 20, "rows.1.values.FP", "'91.4' is refused"),
        ("91.4", "[91.4]", 20, "rows.1.values.FP", "an array of 1 is refused"),
        (
            "-7.0",
            "-107.0",
            16,
            "rows.0.values.'1/1'.difference",
            "-107.0 is refused; admitted: a finite number from -100",
        ),
        ('"we"\nnote', '"they"\nnote', 18, "rows.1.method", "'they' has a row already"),
        ("values.t", "values.s", 22, "rows.1.values.s", "'s' is unknown; admitted: one of 'FP, 1/1, t'"),
        ('"1/1", "t"', '"1/1", "1/1", "t"', 9, "columns.2", "'1/1' is listed twice"),
        ('["FP", "1/1", "t"]', "[]", 9, "columns", "an array of 0 is refused; admitted: an array that is not empty"),
        ('["FP", "1/1", "t"]', '["FP",\n"1/1",\n# three\n3]', 12, "columns.2", "3 is refused"),
        ("{ t =", "{ s =", 10, "units.s", "'s' is unknown; admitted: one of 'FP, 1/1, t'"),
        ('"ms"', "1", 10, "units.t", "1 is refused"),
        ('"FP"\nours', '"32/32"\nours', 7, "baseline", "'32/32' is unknown; admitted: one of 'FP, 1/1, t'"),
        ('ours = "we"', 'ours = "us"', 8, "ours", "'us' is unknown; admitted: one of 'they, we'"),
        ('baseline = "FP"\n', "", 15, "rows.0.values.'1/1'.difference", "is from no column"),
        ("10000", "0", 6, "images", "0 is refused; admitted: a positive integer"),
        ("10000", "-5", 6, "images", "-5 is refused"),
        ("10000", "1e4", 6, "images", "1E+4 is refused"),
        ("10000", "true", 6, "images", "True is refused"),
        ("citation = 3", "citation = 1979-05-27", 13, "rows.0.citation", "1979-05-27 is refused"),
        (GOOD[GOOD.index("[[rows]]") :], "", 1, "rows", "is missing"),
        (GOOD[GOOD.index("[[rows]]") :], "rows = []", 11, "rows", "an array of 0 is refused"),
        (GOOD[GOOD.index("[[rows]]") :], "[rows]", 11, "rows", "a table of 0 is refused"),
        (GOOD[GOOD.index("[[rows]]") :], "rows = [\n'x']", 12, "rows.0", "'x' is refused; admitted: a table"),
        ("[rows.values]\n", 'values = "FP"\n[rows.more]\n', 15, "rows.0.more", "'more' is unknown"),
        ('"percent"', '"text"', 15, "rows.0.values.FP", "91.0 is refused; admitted: a non-empty string"),
        ('{ t = "ms" }', '{ "1/1" = "text" }', 16, "rows.0.values.'1/1'.difference", "one of 'value, fully_quantized'"),
    ],
)
def test_one_mistake(tmp_path, old, new, line, field, says):
    assert GOOD.count(old) == 1
    found = refusal(tmp_path, GOOD.replace(old, new))
    assert found[:2] == (line, field)
    assert says in found[2]
    # the same with the line ends of another system
    assert refusal(tmp_path, GOOD.replace(old, new).replace("\n", "\r\n")) == found


def test_lines_are_found_among_strings_that_look_like_tables(tmp_path):
    note = 'note = """\\\n  [[rows]] \\\n  x = \\"1 # \\"""""\n[rows."values"] # [[rows]]\n'
    note += '"FP" = 91.4 # "\n\'t\' = -1e12\n'
    text = GOOD[: GOOD.index('note = "trained')] + note
    assert refusal(tmp_path, text)[:2] == (24, "rows.1.values.t")


def test_hostile_files(tmp_path):
    assert refusal(tmp_path, GOOD + "#" * 100 + "\n#" * 600_000)[1:] == (
        "file",
        "more than 1048576 bytes; admitted: at most 1048576",
    )
    assert refusal(tmp_path, GOOD.encode() + b"# \xff\n")[0] == 23
    assert refusal(tmp_path, "\ufeff" + GOOD)[0] == 1
    assert refusal(tmp_path, GOOD + "a." * 1000 + "b = 1")[::2] == (
        23,
        "2005 characters in a line; admitted: at most 2000",
    )
    assert refusal(tmp_path, GOOD + "a = " + "[\n" * 20_000)[1] == "file"
    assert refusal(tmp_path, "a = \n" + GOOD)[0] == 1
    assert refusal(tmp_path, "")[:2] == (1, "paper")
    assert refusal(tmp_path, GOOD + "a." * 900 + "b = 1")[:2] == (23, "rows.1.a")
    assert refusal(tmp_path, GOOD + "'" + "\u202e" * 300 + "' = 1")[0] == 23
    with pytest.raises(FileNotFoundError):
        reported.load_table(tmp_path / "none.toml")
    with pytest.raises(IsADirectoryError):
        reported.load_table(tmp_path)


@pytest.mark.parametrize("unit", ["%", "Percent", "percentage", " percent"])
def test_accuracies_by_another_name_are_refused_as_nothing_would_be_judged(unit, tmp_path):
    line, field, said = refusal(tmp_path, GOOD.replace('unit = "percent"', f'unit = "{unit}"'))
    assert (line, field) == (next(i for i, text in enumerate(GOOD.split("\n"), 1) if text.startswith("unit")), "unit")
    assert said == f'{unit!r} is refused; admitted: the word "percent" for accuracies'


# Any table, in any layout that TOML admits

VISIBLE = st.characters(codec="utf-8", exclude_categories=("C", "Z"))
WORDS = st.lists(st.text(VISIBLE, min_size=1, max_size=4), min_size=1, max_size=2).map(" ".join)


def numbers(low, high):
    return st.builds(lambda digits, places: Decimal(digits).scaleb(-places), st.integers(low, high), st.integers(0, 3))


@st.composite
def printed_tables(draw):
    """A ReportedTable and the same as nested dicts, lists and scalars."""
    columns = draw(st.lists(WORDS, min_size=1, max_size=4, unique=True))
    baseline = draw(st.none() | st.sampled_from(columns))
    unit = draw(st.sampled_from(["percent", "text", "ms"]))
    units = draw(st.dictionaries(st.sampled_from(columns), st.sampled_from(["percent", "text", "s"])))
    rows = []
    for method in draw(st.lists(WORDS, min_size=1, max_size=4, unique=True)):
        values = {}
        for column in draw(st.lists(st.sampled_from(columns), unique=True)):
            words = units.get(column, unit) == "text"
            difference = None if words or baseline is None else draw(st.none() | numbers(-100, 100))
            value = draw(WORDS if words else numbers(0, 100))
            values[column] = Printed(value, difference, draw(st.booleans()))
        rows.append(Row(method, draw(st.none() | st.integers(1, 99)), draw(st.none() | WORDS), values))
    texts = draw(st.lists(WORDS, min_size=4, max_size=4))
    ours = draw(st.sampled_from(rows)).method
    images = draw(st.none() | st.integers(1, 10**9))
    table = ReportedTable(*texts, unit, units, images, baseline, ours, tuple(columns), tuple(rows))

    def plain(node: Any) -> Any:
        if isinstance(node, dict):
            if set(node) == {"value", "difference", "fully_quantized"}:
                node = {key: value for key, value in node.items() if value is not False}
                if node["difference"] is None and len(node) == 2 and draw(st.booleans()):
                    return node["value"]
            return {key: plain(value) for key, value in node.items() if value is not None}
        return [plain(value) for value in node] if isinstance(node, list | tuple) else node

    return table, plain(asdict(table))


class Raw(str):
    """A value as it shall stand in the file."""


class Writer:
    """Writes nested dicts, lists and scalars as TOML in a random layout, and remembers the line of each."""

    def __init__(self, data, random: Random) -> None:
        self.text = ""
        self.lines: dict[tuple[str | int, ...], int] = {}
        self.random = random
        self.body(data, (), ())

    def line(self) -> int:
        return self.text.count("\n") + 1

    def see(self, path):
        self.lines.setdefault(path, self.line())

    def end(self):
        self.text += self.random.choice(["\n", "\n", "  # [[rows]] \"x\" = '''\n", "\n\n", "\n# a\n\t\n"])

    def key(self, name):
        styles = [self.basic(name)]
        if "'" not in name:
            styles.append(f"'{name}'")
        if re.fullmatch(r"[A-Za-z0-9_-]+", name, re.ASCII):
            styles += [name, name]
        return self.random.choice(styles)

    @staticmethod
    def basic(text):
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    def scalar(self, value):
        if isinstance(value, Raw):
            return str(value)
        if isinstance(value, bool):
            return str(value).lower()
        if not isinstance(value, str):
            return format(value, "f" if isinstance(value, Decimal) else "d")
        styles = [self.basic(value)]
        if "'" not in value:
            styles += [f"'{value}'", f"'''{value}'''"]
        styles.append('"""\\\n  ' + self.basic(value)[1:] + '""')
        return self.random.choice(styles)

    def value(self, node, path):
        """Write a value where it stands, after its key."""
        self.see(path)
        if isinstance(node, dict):
            self.text += "{ "
            for index, (name, child) in enumerate(node.items()):
                self.text += ", " * (index > 0)
                self.see((*path, name))
                self.text += self.key(name)
                self.text += " = "
                self.value(child, (*path, name))
            self.text += " }"
        elif isinstance(node, list):
            spread = len(str(node)) > 300 or self.random.random() < 0.5
            self.text += "["
            for index, child in enumerate(node):
                self.text += "\n  # ]\n" * spread
                self.value(child, (*path, index))
                self.text += ","
            self.text += "]"
        else:
            self.text += self.scalar(node)

    def statement(self, names, node, path):
        if isinstance(node, dict) and node and self.random.random() < 0.5:
            for name, child in node.items():
                self.see(path)
                self.statement((*names, name), child, (*path, name))
            return
        for end in range(len(names)):
            self.see(path[: len(path) - end])
        self.text += " . ".join(map(self.key, names)) + " = "
        self.value(node, path)
        self.end()

    def body(self, node, path, names):
        later = []
        for name, child in node.items():
            tables = isinstance(child, list) and child and all(isinstance(element, dict) for element in child)
            if (tables or isinstance(child, dict)) and self.random.random() < 0.6:
                later.append((name, child))
            else:
                self.statement((name,), child, (*path, name))
        for name, child in later:
            header = ".".join(map(self.key, (*names, name)))
            if isinstance(child, dict):
                self.see((*path, name))
                self.text += f"[ {header} ]"
                self.end()
                self.body(child, (*path, name), (*names, name))
            else:
                for index, element in enumerate(child):
                    self.see((*path, name))
                    self.see((*path, name, index))
                    self.text += f"[[{header}]]"
                    self.end()
                    self.body(element, (*path, name, index), (*names, name))


RELAXED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)


@RELAXED
@given(printed_tables(), st.randoms(use_true_random=False), st.sampled_from(["\n", "\r\n"]))
def test_any_table_loads_back_equal(tmp_path, pair, random, newline):
    table, data = pair
    path = tmp_path / "any.toml"
    path.write_text(Writer(data, random).text, encoding="utf-8", newline=newline)
    loaded = reported.load_table(path)
    assert loaded == table
    for got, expected in zip(loaded.rows, table.rows, strict=True):
        for column, cell in expected.values.items():  # not only equal numbers, but the same digits
            assert str(got.values[column].value) == str(cell.value)
            assert str(got.values[column].difference) == str(cell.difference)


def nodes(node, path=()):
    """Every path of nested dicts and lists, with what lies there and its holder."""
    for name, child in node.items() if isinstance(node, dict) else enumerate(node):
        yield (*path, name), child, node
        if isinstance(child, dict | list):
            yield from nodes(child, (*path, name))


def defects(table, data):
    """Every single mistake that can be planted: its name, the path that it is reported at, and the change."""

    def put(holder, name, value):
        return lambda: holder.__setitem__(name, value)

    def drop(holder, name):
        return lambda: holder.pop(name)

    found = [("unknown key", ("stray",), put(data, "stray", 1))]
    for path, node, holder in nodes(data):
        name, in_cell = path[-1], path[2:3] == ("values",) and len(path) > 3
        if isinstance(node, bool):
            bad = ["1", '"true"', "[]"]
        elif isinstance(node, Decimal):
            bad = ["nan", "inf", "-inf", '"1"', "false", "1e13", "1e-13", "[]", "1e99999999999999999999"]
            if table.unit_of(path[3]) == "percent":
                bad += ["100.01", "-100.01"] + ["-0.01"] * (path[4:] != ("difference",))
        elif isinstance(node, int):
            bad = ["0", "-1", "1.0", "true", '"1"', "{}", "1_000_000_000_000"]
        elif isinstance(node, str):
            bad = ['""', "' '", "1", "0.5", "true", '"\\u0007"', '"\\n"', "[ ]", "2000-01-01"]
        elif isinstance(node, list):
            bad = ['"x"', "1", "[]", "{}"]
        else:
            bad = ["[]", "true"] + ['"x"', "1"] * (not in_cell)
        found += [(text, path, put(holder, name, Raw(text))) for text in bad]
        if isinstance(node, dict):  # units and values: a column that is not listed
            found.append(("unknown key", (*path, "ninecolumn"), put(node, "ninecolumn", 1)))
        if (
            (len(path) == 1 and name not in ("images", "baseline", "units"))
            or (path[0] == "rows" and len(path) == 3 and name in ("method", "values"))
            or (in_cell and path[4:] == ("value",))
        ):
            found.append(("missing key", path, drop(holder, name)))
        if path[0] == "columns" and len(path) == 2 and name > 0:
            found.append(("column twice", path, put(holder, name, table.columns[0])))
        if path[0] == "rows" and path[2:] == ("method",) and path[1] > 0:
            found.append(("method twice", path, put(holder, name, table.rows[0].method)))
        if path in (("ours",), ("baseline",)):
            found.append(("unknown name", path, put(holder, name, "ninecolumn")))
    return found


@settings(RELAXED, max_examples=100 if QUICK else 300)
@given(printed_tables(), st.randoms(use_true_random=False), st.data())
def test_any_planted_mistake_is_reported_at_its_line(tmp_path, pair, random, choice):
    table, data = pair
    _, path, plant = choice.draw(st.sampled_from(defects(table, data)))
    plant()
    writer = Writer(data, random)
    expected = next((writer.lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in writer.lines), 1)
    found = refusal(tmp_path, writer.text)
    assert found[0] == expected, (found, writer.text)


@RELAXED
@given(printed_tables(), st.randoms(use_true_random=False), st.data())
def test_broken_syntax_is_reported_at_its_line(tmp_path, pair, random, choice):
    lines = Writer(pair[1], random).text.split("\n")
    number = choice.draw(st.integers(0, len(lines)))
    try:
        tomllib.loads("\n".join(lines[:number]))
    except tomllib.TOMLDecodeError:
        return  # the line would stand within a string or an array
    assert refusal(tmp_path, "\n".join([*lines[:number], "= broken", *lines[number:]]))[0] == number + 1


@RELAXED
@given(st.binary(max_size=400) | st.text(max_size=400).map(str.encode))
def test_any_other_bytes_are_refused_in_one_line(tmp_path, content):
    refusal(tmp_path, content)


def test_shipped_files_are_one_table_each():
    assert sorted(path.name for path in HERE.glob("*.toml")) == [
        "claims_daq.toml",
        "claims_dsq.toml",
        "irnet_readme.toml",
        *(f"table{number}.toml" for number in range(1, 8)),
    ]
