"""The report: that it holds every cell, loads nothing, says what the cells say, and shows hostile names as text."""

import base64
import csv
import dataclasses
import gzip
import io
import itertools
import json
import math
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paper_tables import cells, equations, figures, jobs, render, report, reported, tables
from paper_tables.audit import arithmetic
from paper_tables.cells import Cell
from paper_tables.report import findings, pictures, views
from paper_tables.report.html import as_csv
from paper_tables.tables import FIGURES, SCRIPTS, Options, Table

MEASURED_NOWHERE = ("1", "2", "3", "4", "5", "6", "equations", "arithmetic", "significance", "claims", "code")
ABOUT = report.About({"date": "2026-01-02 03:04 UTC", "sources": "commit 0123456789ab"})
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Element:
    """An element of a page, as a browser without JavaScript has it."""

    def __init__(self, tag, attributes, parent):
        self.tag, self.attributes, self.parent = tag, dict(attributes), parent
        self.children = []

    def __getitem__(self, name):
        return self.attributes.get(name)

    def all(self, tag=None, **wanted):
        """Every element below with this tag and these attributes ("class_" is one of its classes)."""
        for child in self.children:
            if isinstance(child, Element):
                if (tag is None or child.tag == tag) and all(
                    value in (child["class"] or "").split() if name == "class_" else child[name] == value
                    for name, value in wanted.items()
                ):
                    yield child
                yield from child.all(tag, **wanted)

    def one(self, tag=None, **wanted):
        (found,) = self.all(tag, **wanted)
        return found

    @property
    def text(self):
        """What can be read, runs of white space as one."""
        return " ".join("".join(self._texts()).split())

    def _texts(self):
        for child in self.children:
            if isinstance(child, str):
                yield child
            elif child.tag not in ("style", "script"):
                yield "\n" * (child.tag == "br")
                yield from child._texts()


class Page(HTMLParser):
    """Builds the tree; a tag that is not closed, or closes another one, is an error."""

    def __init__(self, text):
        super().__init__()
        self.root = self.open = Element("", {}, None)
        self.feed(text)
        self.close()
        assert self.open is self.root, f"<{self.open.tag}> is not closed"

    def handle_starttag(self, tag, attributes):
        element = Element(tag, attributes, self.open)
        self.open.children.append(element)
        if tag not in VOID:
            self.open = element

    def handle_startendtag(self, tag, attributes):
        self.open.children.append(Element(tag, attributes, self.open))

    def handle_endtag(self, tag):
        assert self.open.tag == tag, f"</{tag}> closes <{self.open.tag}>"
        self.open = self.open.parent

    def handle_data(self, data):
        self.open.children.append(data)


def page(*some, figures=(), about=ABOUT):
    return Page(report.html(list(some), list(figures), about)).root


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Tables that take no measuring, as a run without data gives them."""
    options = Options(out=tmp_path_factory.mktemp("out"), quiet=True, profile="cifar10")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(equations, "_time", lambda function: 1.0)
        return jobs.regenerate([tables.script(name) for name in MEASURED_NOWHERE], options)[0]


@pytest.fixture(scope="module")
def drawn():
    some = {number: figures.script(number) for number in ("3", "4", "5")}
    return [report.Figure(n, s.TITLE, s.CAPTION, figures.render(s.draw(), "svg")) for n, s in some.items()]


@pytest.fixture(scope="module")
def text(found, drawn):
    return report.html(found, drawn, ABOUT)


@pytest.fixture(scope="module")
def whole(text):
    return Page(text).root


def cell(row="Mine", column="1/1", **more):
    return Cell(**({"paper": "Mine", "table": "mine", "row": row, "column": column, "unit": "percent"} | more))


def table(*some, name="mine", **more):
    return Table(name, "A table", "What it is.", some, **more)


def comparison(row, difference, half, verdict, **more):
    interval = (difference - half, difference + half)
    return cell(row, unit="points", measured=difference, ci95=interval, claim_verdict=verdict, **more)


# What must be in it


def test_every_cell_is_in_it_once_with_its_provenance(found, whole):
    elements = [element for element in whole.all() if element["id"]]
    by_id = {element["id"]: element for element in elements}
    assert len(by_id) == len(elements)
    for one in (cell for table in found for cell in table.cells):
        entry = by_id[views.anchor(one)]
        assert " ".join(one.reason.split()) in (entry if entry.tag == "tr" else entry.parent.parent).text
        if entry.tag == "tr":
            for value in views.provenance(one).values():
                assert " ".join(value.split()) in entry.text


def test_every_link_leads_somewhere(whole):
    ids = {element["id"] for element in whole.all() if element["id"]}
    links = [link["href"] for link in whole.all("a")]
    assert all(link[1:] in ids for link in links if link.startswith("#"))
    assert {link.split(":")[0] for link in links if not link.startswith("#")} == {"data"}


def test_the_order_of_sections_is_that_of_the_layout(whole):
    order = [section["id"] for section in whole.all("section")]
    named = [section.id for section in views.layout()]
    assert order[:2] == ["scope", "findings"]
    assert order[-3:] == ["unchecked", "method", "downloads"]
    assert [name for name in named if name in order] == order[2:-3]
    assert [link["href"][1:] for link in whole.one("nav").all("a")] == order


def test_every_table_of_the_suite_has_a_section():
    assert set(SCRIPTS) <= {name for section in views.layout() for name in section.tables}
    assert set(FIGURES) == {number for section in views.layout() for number in section.figures}


def test_a_table_that_no_section_names_is_shown_as_well():
    new = page(table(cell(measured=12.5, reason="It is new."), name="new"))
    assert "It is new." in new.one("section", id="more").text


def test_it_is_one_small_file_that_loads_nothing(text, whole):
    assert len(text.encode()) < 3_000_000
    loading = ("src", "srcset", "action", "formaction", "data", "poster", "background", "xlink:href", "href")
    for element in whole.all():
        for name in loading:
            value = element[name] or "#"
            assert value.startswith(("#", "data:")), (element.tag, name, value)
    assert not re.search(r"@import|url\((?!#)", text.split("</style>")[0])
    assert [element.tag for element in whole.all() if element.tag in ("iframe", "object", "embed", "base")] == []
    policy = whole.one("meta", **{"http-equiv": "Content-Security-Policy"})["content"]
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"\bfetch\b|XMLHttpRequest|import\(|eval\(", text.split("<script>")[1])


def test_nothing_takes_javascript_but_the_filter(whole):
    assert [element.tag for element in whole.all() if "hidden" in element.attributes] == ["form"]
    assert len(list(whole.all("script"))) == 1
    assert [name for element in whole.all() for name in element.attributes if name.startswith("on")] == []


def test_assistive_technology_finds_headers_captions_and_names(whole):
    assert whole.one("html")["lang"] == "en"
    for one in whole.all("table"):
        assert one.one("caption").text
        heads = list(one.one("thead").all("th"))
        assert heads
        assert all(head["scope"] == "col" for head in heads)
        for row in (row for body in one.all("tbody") for row in body.all("tr")):
            if row["class"] != "footnote":
                first = next(child for child in row.children if isinstance(child, Element))
                assert (first.tag, first["scope"] in ("row", "rowgroup")) == ("th", True)
    for picture in whole.all("svg"):
        assert picture["role"] == "img"
        assert picture["aria-label"]
    for region in whole.all(role="region"):
        assert region["tabindex"] == "0"
        assert region["aria-label"]
    levels = [int(element.tag[1]) for element in whole.all() if re.fullmatch("h[1-6]", element.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


# What users write


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><b>",
    "</style></script></title>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "Foo [w/ KD] & <br>",
    "a&lt;b",
    "=HYPERLINK(1)",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text(name):
    some = cell(name, name, reason=name, reported=name, measured=1.0, protocol=name, value_verdict="reproduced")
    other = comparison(name, 1.0, 0.5, "holds", reason=name, column="another")
    listed = dataclasses.replace(other, table="listed")
    made = page(
        Table("mine", name, name, (some, other), wrong=(name,), findings=(name,)),
        Table("listed", name, name, (listed,), layout="list", wrong=(name,)),
        about=report.About({name: name}),
    )
    assert len(list(made.all("script"))) == 1
    assert list(made.all("img")) == []
    assert [element.text for element in made.all("b")] == ["DAQ", "DSQ"]  # the page's own
    shown = " ".join(name.split())
    for element in (made.one("tr", id=views.anchor(some)), made.one("dl", class_="about")):
        assert shown in element.text
    assert name in next(link for link in made.all("a") if link["title"])["title"]


def test_a_verdict_that_is_unknown_is_shown_as_it_is():
    made = page(table(cell(value_verdict="of another kind", reason="So it is.")))
    assert "of another kind" in made.one("tr", id=views.anchor(cell())).text


def test_words_are_emphasised_and_formulas_are_not():
    assert str(views.emphasis("*holds* for beta* and phi(x; beta*)")) == "<em>holds</em> for beta* and phi(x; beta*)"
    assert str(views.emphasis("*<b>*")) == "*&lt;b&gt;*"
    assert str(views.emphasis("and *two words* of 2 * 3 * 4, beta* and phi*")) == (
        "and <em>two words</em> of 2 * 3 * 4, beta* and phi*"
    )


# Tables as printed


def printed_rows(whole, name):
    """The paper's rows of a table: for each method, the texts of its entries."""
    body = next(iter(whole.one("article", id=f"table-{name}").all("tbody")))
    rows = {}
    for row in body.all("tr"):
        if row["class"] != "footnote":
            entries = [child for child in row.children if isinstance(child, Element)]
            rows[entries[0].text] = [entry.text for entry in entries[1:]]
    return rows


@pytest.mark.parametrize("name", ["2", "3", "4", "5", "6"])
def test_tables_are_as_printed(name):
    printed = reported.tables()[name]
    made = page(tables.not_run(printed, "", lambda method: "why"), arithmetic.run(Options()))
    shown = printed_rows(made, name)
    assert list(shown) == [row.method for row in printed.rows]
    for row in printed.rows:
        if not row.values:
            assert shown[row.method] == [row.note]
            continue
        for column, entry in zip(printed.columns, shown[row.method], strict=False):
            value = row.values.get(column)
            if value is None:
                assert entry == "–"
                continue
            dagger = "†" if value.fully_quantized else ""
            sign = "" if value.difference is None else f" ({value.difference:+})".replace("-", "−")
            assert entry.startswith(f"{value.value}{dagger}{sign}"), (row.method, column)


def test_verdicts_colour_numbers_and_the_wrong_difference_says_so(whole):
    article = whole.one("article", id="table-6")
    wrong = [link for link in article.all("a", class_="bad") if "(" in link.text]
    assert [link.text for link in wrong] == ["(−3.8) ✗"]
    assert "59.6 - 63.8 = -4.2" in wrong[0]["title"]
    assert whole.one(id=wrong[0]["href"][1:])


def test_a_measured_number_stands_below_the_printed_one():
    own = cell("Ours", "1/1", paper="DAQ", table="5", reported="85.8", measured=85.62, ci95=(84.9, 86.3),
               value_verdict="contradicted", reason="18 images fewer", images=10_000, runs=1)  # fmt: skip
    made = page(table(own, name="5"))
    assert printed_rows(made, "5")["Ours"][1] == "85.8 (−5.6) 85.62 ✗ contradicted"
    links = [link for link in made.one("article", id="table-5").all("a", class_="bad") if link["title"]]
    assert "95 %: 84.90 to 86.30" in links[0]["title"]


def test_rows_without_a_common_column_are_tables_of_their_own(whole):
    first, second = whole.one("article", id="table-1").all("table", class_="grid")
    assert "Forward" in first.text
    assert "b max" in second.text
    assert "Forward" not in second.text


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=4))
def test_a_table_is_parted_only_where_no_column_is_shared(filled):
    """Columns that hold a printed number, one of the suite's, both or neither."""
    columns = tuple(f"column {k}" for k in range(len(filled)))
    paper = views.Row("Ours", "", tuple(views.Number("1" if printed else "") for printed, _ in filled))
    suite = views.Row("Mine", "", tuple(views.Number(cell=cell() if own else None) for _, own in filled))
    shown = views.AsPrinted(columns, (paper,), (suite,))
    if (True, True) in filled or not any(own for _, own in filled) or not any(printed for printed, _ in filled):
        assert shown.parts == (shown,)
        return
    first, second = shown.parts
    assert first.columns == tuple(c for c, (printed, _) in zip(columns, filled, strict=True) if printed)
    assert second.columns == tuple(c for c, (_, own) in zip(columns, filled, strict=True) if own)
    assert ([n.text for n in first.rows[0].numbers], first.added) == (["1"] * len(first.columns), ())
    assert ([n.cell for n in second.added[0].numbers], second.rows) == ([cell()] * len(second.columns), ())


def test_scope_counts_what_is_printed(found, whole):
    some = [reported.tables()[t.name] for t in found if t.name in reported.tables()]
    values = [v for one in some for row in one.rows for v in row.values.values() if not isinstance(v.value, str)]
    differences = sum(value.difference is not None for value in values)
    scope = views.scope(found)
    assert (scope.printed, scope.differences, scope.checked) == (len(values), differences, differences)
    assert f"{len(values)} numbers" in whole.one("section", id="scope").text


def test_scope_counts_measured_numbers_once_and_no_stale_one():
    def own(column, printed, **more):
        return cell("Ours", column, paper="DAQ", table="5", reported=printed, measured=50.0, **more)

    cells_of = (
        own("FP", "91.4", value_verdict="reproduced"),
        own("1/1", "85.8", value_verdict="stale"),
        dataclasses.replace(own("1/32", "91.2"), row="DAQ (CIFAR-10, 400 epochs)"),
        dataclasses.replace(own("1/32", "91.2"), row="DAQ (CIFAR-10, 6 epochs)"),
    )
    assert views.scope([table(*cells_of, name="5")]).measured == 2


# Comparisons


def test_the_plot_has_points_and_intervals_where_the_axis_says():
    made = page(table(comparison("better", 2.0, 0.5, "holds"), comparison("worse", -1.0, 0.25, "fails"),
                      comparison("open", 0.25, 1.0, "undecided"), name="significance", layout="list"))  # fmt: skip
    plot = made.one("table", class_="forest")
    ticks = {float(t.text.replace("−", "-")): float(t["x"][:-1]) for t in plot.one("thead").all("text")}
    (low, at_low), (high, at_high) = min(ticks.items()), max(ticks.items())
    rows = [row for row in plot.one("tbody").all("tr")]
    expected = ((2.0, 0.5, "good"), (-1.0, 0.25, "bad"), (0.25, 1.0, "open"))
    for row, (difference, half, kind) in zip(rows, expected, strict=True):
        drawing = row.one("svg")
        assert drawing["class"] == kind

        def share(value):
            return at_low + (value - low) / (high - low) * (at_high - at_low)

        assert float(row.one("circle")["cx"][:-1]) == pytest.approx(share(difference), abs=0.02)
        line = next(iter(drawing.all("line", class_="range")))
        assert float(line["x1"][:-1]) == pytest.approx(share(difference - half), abs=0.02)
        assert float(line["x2"][:-1]) == pytest.approx(share(difference + half), abs=0.02)
        assert float(drawing.one("line", class_="zero")["x1"][:-1]) == pytest.approx(share(0), abs=0.02)
        assert drawing["aria-label"] == f"{difference} points, {difference - half:.2f} to {difference + half:.2f}"


def test_an_interval_beyond_the_axis_is_marked_as_cut():
    many = [comparison(f"row {i}", 0.1, 0.2, "undecided") for i in range(60)]
    plot = views.forest(table(*many, comparison("wide", 0.0, 500.0, "undecided")))
    assert plot.first[-1].cut == (True, True)
    assert plot.first[0].cut == (False, False)
    assert (plot.first[-1].low, plot.first[-1].high) == (0.0, 100.0)


def test_a_comparison_without_an_interval_is_a_point_and_no_accuracy():
    known = comparison("known", 2.0, 0.5, "holds")
    unknown = dataclasses.replace(comparison("unknown", 3.0, 0.5, "undecided"), ci95=None)
    made = page(table(known, unknown, name="6"))
    first, second = made.one("table", class_="forest").one("tbody").all("tr")
    assert [len(list(row.one("svg").all("line", class_="range"))) for row in (first, second)] == [3, 1]
    drawing = second.one("svg")
    (line,) = drawing.all("line", class_="range")
    assert line["x1"] == line["x2"] == drawing.one("circle")["cx"] > first.one("circle")["cx"]
    assert drawing["aria-label"] == "3.0 points"
    shown = views.as_printed(table(known, unknown, cell("DAQ", "1/1", measured=50.0), name="6"), ())
    assert [row.method for row in shown.added] == ["DAQ"]


def test_the_best_rivals_stand_open_and_the_others_folded(whole, found):
    section = whole.one("section", id="comparisons")
    first, rest = section.one("article", id="table-significance").all("table", class_="forest")
    (significance,) = (one for one in found if one.name == "significance")
    compared = [cell for cell in significance.cells if cell.measured is not None and cell.unit == "points"]
    best = [cell for cell in compared if "best rival" in cell.row]
    assert len(list(first.one("tbody").all("tr"))) == len(best)
    assert len(list(rest.one("tbody").all("tr"))) == len(compared) - len(best)
    assert rest.parent.tag == "details"


@given(st.floats(-100, 100), st.floats(-100, 100))
def test_axes_are_round_and_hold_what_they_must(a, b):
    span = (min(a, b, 0.0), max(a, b, 0.0))
    low, high, step = views.axis(span)
    assert low <= span[0] + 1e-9
    assert high >= span[1] - 1e-9
    assert 1 <= round((high - low) / step) <= 9
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(mantissa - good) for good in (1, 2, 5)) < 1e-6
    assert low / step == pytest.approx(round(low / step), abs=1e-6)


# Claims


def test_claims_are_grouped_by_judgement_and_what_fails_is_open():
    some = [
        cell(f"sentence {i}", f"{paper}, Section {i % 4}", paper=paper, table="claims", claim_verdict=verdict,
             reason=f"as judged by {verdict} {i % 5}", protocol=f"claim {i}")
        for i, (paper, verdict) in enumerate(itertools.product(
            ("DAQ", "DSQ"), ("holds", "not testable", "undecided", "holds", "vacuous", "fails", "undecided")))
    ]  # fmt: skip
    claims = table(*some, name="claims", layout="list")
    whole = page(claims)
    groups = list(whole.one("section", id="claims").all("details", class_="judgement"))
    assert len(groups) == len({(cell.claim_verdict, cell.reason) for cell in claims.cells}) < len(claims.cells)
    assert sum(len(list(group.all("li"))) for group in groups) == len(claims.cells)
    for group in groups:
        assert ("open" in group.attributes) == (group["data-verdict"] in ("fails", "undecided"))
    order = list(dict.fromkeys(group["data-verdict"] for group in groups))
    assert order[:2] == ["fails", "undecided"]
    assert len(order) == len(set(order))
    for cell_ in claims.cells:
        entry = whole.one("li", id=views.anchor(cell_))
        assert " ".join(cell_.row.split()) in entry.parent.parent.text
        assert entry["data-paper"] == cell_.paper
        assert cell_.column.removeprefix(f"{cell_.paper}, ").startswith(entry["data-section"])


# Findings


def shown_findings(found):
    combined = comparison(
        "controller over combined STE, beta* (CIFAR-10, 6 epochs)", 1.5, 0.5, "holds", paper="DAQ", table="7", runs=3,
        reason="3 pairs of runs", column="Top-1 accuracy",
    )  # fmt: skip
    released = [
        cell("Ours", column, paper="DAQ", table="5", reported=printed, measured=value, ci95=(value - 1, value + 1),
             images=10_000, value_verdict=verdict)
        for column, printed, value, verdict in (
            ("FP", "91.4", 91.45, "reproduced"), ("1/1", "85.8", 85.62, "contradicted"),
            ("1/32", "91.2", 91.52, "contradicted"))
    ]  # fmt: skip
    rate = cell("learning rate of the weights, 1/1", "checkpoints", paper="DAQ", table="code", reported="0.01",
                measured=0.1, value_verdict="contradicted")  # fmt: skip
    others = [
        dataclasses.replace(one, cells=tuple(c for c in one.cells if c.row != rate.row))
        for one in found
        if one.name not in ("5", "7")
    ]
    made = [table(*released, name="5"), table(combined, name="7"), table(rate, name="rate")]
    trained = [
        cell(row, column, paper="DAQ", table=name, reported="85.8", measured=90.0, runs=3, reason="3 pairs of runs",
             claim_verdict=entry.get("when", {}).get(called, [None])[0])
        for entry in findings.entries()
        for called, one in entry.get("cells", {}).items() if len(one) == 3
        for name, row, column in [one.values()]
        if name in ("protocol", "schedule") or (name == "5" and "epochs" in row)
    ]  # fmt: skip
    return [*others, *made, table(*trained, name="runs")]


def test_every_finding_is_shown_where_its_cells_are_there(found):
    everything = shown_findings(found)
    assert [one.id for one in findings.findings(everything)] == [entry["id"] for entry in findings.entries()]


def test_the_first_finding_says_that_combined_ste_is_daq_over_1_313(whole):
    first = next(iter(whole.one("ol", class_="findings").all("li")))
    ratio = 1 / math.tanh(1)  # coth(gamma / 2)
    assert f"is DAQ's over {ratio:.3f}" in first.text
    assert "1.313" in first.text


def test_no_number_of_a_finding_is_typed():
    """Decimals come from cells; what is left are names: of tables, of bit-widths, of temperatures in a row's name."""
    for entry in findings.entries():
        for part in findings.PARTS:
            typed = re.sub(r"\{[^}]*\}", "", entry[part])
            assert not re.search(r"\d\.\d|\d\s?%", typed.replace("95 %", "")), (entry["id"], part, typed)


def test_numbers_of_findings_are_those_of_cells(found):
    everything = shown_findings(found)
    by_id = {one.id: one for one in findings.findings(everything)}
    assert "91.45 %, 85.62 % and 91.52 %" in by_id["released-networks"].found
    assert "84.62 to 86.62" in by_id["released-networks"].strength
    best = [c for one in found if one.name == "significance" for c in one.cells if "best rival" in c.row]
    won, lost = sum(c.measured > 0 for c in best), sum(c.measured < 0 for c in best)
    ties = len(best) - won - lost
    alone = sum(c.ci95[0] > 0 for c in best)
    sure = sum(c.claim_verdict == "holds" for c in best)
    said = [int(n) for n in re.findall(r"\d+", by_id["best-rivals"].found)]
    total = sum(c.ci95 is not None for one in found if one.name == "significance" for c in one.cells)
    assert said == [won, len(best), alone, sure, total, lost, ties]
    slopes = [1 / math.sinh(2) / math.tanh(at) for at in (0.75, 0.25)]  # c = 1/4; t = 0 and 1/2
    assert f"from {slopes[0]:.2f} at a level to {slopes[1]:.2f} halfway" in by_id["straight-through"].found


def rests_on(entry):
    """Cells that a finding could rest on, by the names that it gives them."""
    made = {}
    for name, selector in entry.get("cells", {}).items():
        verdict = entry.get("when", {}).get(name, ["holds"])[0]
        made[name] = cell(
            **{"row": f"row {name}", "column": name, "reported": "1", "measured": 1.0, "ci95": (0.5, 1.5), "runs": 3,
               "images": 100, "reason": "a reason", "value_verdict": verdict} | selector
        )  # fmt: skip
    for name, selector in entry.get("counts", {}).items():
        counted = {"table": selector["table"].strip("^$"), "row": f"best rival {name}", "column": f"counted {name}"}
        made[name] = cell(**counted, value_verdict="reproduced", measured=1.0, unit="points")
    return made


@pytest.mark.parametrize("entry", findings.entries(), ids=lambda entry: entry["id"])
def test_a_finding_without_its_cell_or_its_verdict_is_left_out(entry):
    made = rests_on(entry)

    def is_shown(**changed):
        cells_of = [one for one in (made | changed).values() if one is not None]
        return entry["id"] in {one.id for one in findings.findings([table(*cells_of)])}

    assert is_shown()
    for name in entry.get("cells", {}):
        assert not is_shown(**{name: None}), name
        assert not is_shown(**{name: dataclasses.replace(made[name], value_verdict="stale")}), name
        twice = dataclasses.replace(made[name], unit="another")
        assert not is_shown(twice=twice), name
        if name in entry.get("when", {}):
            assert not is_shown(**{name: dataclasses.replace(made[name], value_verdict="of another kind")}), name
    unsaid = [
        name for name in made if re.search(rf"\{{{name}\.(measured|text)", "".join(entry[p] for p in findings.PARTS))
    ]
    for name in unsaid:
        assert not is_shown(**{name: dataclasses.replace(made[name], measured=None)}), name


def test_counts_of_what_is_not_there_leave_a_finding_out():
    (entry,) = (entry for entry in findings.entries() if "cells" not in entry)
    assert findings.findings([table(*rests_on(entry).values())])
    assert findings.findings([table(cell())]) == findings.findings([]) == []


# Downloads, pictures, files


def test_downloads_hold_every_cell(found, whole):
    everything = [one for table in found for one in table.cells]
    links = {link["download"]: link["href"] for link in whole.one("section", id="downloads").all("a")}
    content = {name: base64.b64decode(uri.split(",", 1)[1]) for name, uri in links.items()}
    loaded = json.loads(gzip.decompress(content["quantgap.json.gz"]))
    whole_cells = json.loads(json.dumps([dataclasses.asdict(one) for one in everything]))
    for one, entry in zip(whole_cells, loaded, strict=True):  # fields without a value are left out
        assert entry == {
            name: value for name, value in one.items() if value is not None and value != "" and value != {}
        }
    rows = list(csv.DictReader(io.StringIO(content["quantgap.csv"].decode())))
    assert [row["reason"].lstrip("'") for row in rows] == [one.reason.lstrip("'") for one in everything]
    assert [float(row["measured"]) for row in rows if row["measured"]] == [
        one.measured for one in everything if one.measured is not None
    ]


@pytest.mark.parametrize(
    ("name", "shown"),
    [("=1+1", "'=1+1"), ("@x", "'@x"), ("-x", "'-x"), ("-3.8", "-3.8"), ("+0.6", "+0.6"), ("plain", "plain")],
)
def test_no_entry_is_a_formula_to_a_spreadsheet(name, shown):
    (row,) = csv.DictReader(io.StringIO(as_csv([cell(name)])))
    assert row["row"] == shown


def test_pictures_have_names_of_their_own_and_colours_of_the_theme(drawn):
    for figure in drawn:
        inline = pictures.inline(figure)
        ids = re.findall(r'\bid="([^"]+)"', inline)
        assert all(name.startswith(f"figure{figure.number}-") for name in ids)
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', inline)) <= set(ids)
        assert "<style" not in inline
        left = set(re.findall(r"#[0-9a-fA-F]{6}", re.sub(r'(?:id="|href="#|url\(#)[^")]+', "", inline)))
        assert left == set()


def test_the_style_sheet_has_every_colour_of_the_pictures_in_both_themes():
    sheet = (views.HERE / "templates" / "report.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\n\s*\}", sheet, re.DOTALL)[:2]
    for variable in (*pictures.VARIABLES.values(), "rule", "good", "bad", "open", "link"):
        assert re.search(rf"--{variable}: #", light), variable
        assert re.search(rf"--{variable}: #", dark), variable


@pytest.mark.parametrize("content", [b"<svg><script>1</script></svg>", b'<svg onload="x()"></svg>', b"no picture"])
def test_a_picture_that_is_more_than_one_is_refused(content):
    with pytest.raises(ValueError, match="is no plain SVG"):
        pictures.inline(report.Figure("9", "", "", content))


def test_the_same_cells_give_the_same_bytes(found, drawn, text):
    assert report.html(found, drawn, ABOUT) == text


def test_both_files_are_written(tmp_path, found):
    written = report.write(tmp_path, found[:2], [], ABOUT)
    assert written == tmp_path / "report.html"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.md"]


# The page in Markdown


def test_a_number_with_a_measurement_beside_it_is_not_among_those_not_run():
    def line(row, **more):
        return cells.Cell(paper="P", table="5", row=row, column="1/1", unit="percent", reported="85.8", **more)

    waits = [line("as printed", value_verdict="not run"), line("as printed again", value_verdict="not run")]
    elsewhere = dataclasses.replace(waits[0], column="1/32")
    beside = line("trained", measured=85.7, value_verdict="reproduced")
    made = tables.Table("5", "T", "I", (*waits, elsewhere, beside))
    assert render.unanswered(made) == [waits[1], elsewhere, beside]  # one measurement answers for one number
    stale = dataclasses.replace(beside, value_verdict="stale")
    assert render.unanswered(dataclasses.replace(made, cells=(*waits, stale))) == [*waits, stale]


def test_markdown_is_one_page_that_says_what_the_html_does(found, drawn):
    text = report.markdown(found, drawn, ABOUT)
    assert len(text.splitlines()) < 80
    assert "[report.html](report.html)" in text
    for one in findings.findings(found):
        assert one.title in text
    for one in found:
        if counts := views.judged(render.unanswered(one)):
            assert ", ".join(f"{count} {name}" for name, count in counts.items()) in text
    assert not re.search(r"\b1 numbers", text)


def test_markdown_of_nothing_judged_says_so_and_claims_nothing():
    text = report.markdown([table(cell(measured=1.0))], [], ABOUT)
    assert "Nothing was judged in this run." in text
    assert "does not hold" not in text.lower()
    assert "\n\n\n" not in text


def test_markdown_escapes_names():
    text = report.markdown([Table("x", "*a* | <b> `c`", "", (cell(claim_verdict="holds"),))], [], ABOUT)
    assert r"\*a\* \| &lt;b> \`c\`" in text


def test_an_unmeasured_table_is_not_said_to_hold():
    made = page(table(cell(value_verdict="not run", reason="needs --data", command="quantgap")))
    assert "needs --data" in made.one("section", id="unchecked").text
    assert "1 number" in report.markdown(
        [table(cell(value_verdict="not run", reason="needs --data", command="quantgap"))], [], ABOUT
    )
    assert list(made.all("section", id="findings")) == []


def test_equations_link_to_the_cells_that_check_them(whole, found):
    items = {int(item["value"]): item for item in whole.one("ol", class_="equations").all("li")}
    assert list(items) == list(range(1, 12))
    (equations,) = (one for one in found if one.name == "equations")
    about = {f"#{views.anchor(c)}" for c in equations.cells if "Eq. 10, 11" in c.column}
    for number in (10, 11):
        assert about <= {link["href"] for link in items[number].all("a")}
    assert not about & {link["href"] for link in items[9].all("a")}


ABOUT_EQUATIONS = [
    ("Eq. 9", {9}),
    ("Eq. 10, 11", {10, 11}),
    ("derived (Eq. 7)", {7}),
    ("Eq. 4 to 6", {4, 5, 6}),
    ("Eq. 1", {1}),
    ("Section 3", set()),
]


@pytest.mark.parametrize(("column", "numbers"), ABOUT_EQUATIONS)
def test_which_equations_a_cell_is_about(column, numbers):
    one = table(cell("a formula", column), name="equations")
    assert {number for number in range(1, 12) if views.about_equation(number, [one])} == numbers


def test_the_commit_is_that_of_the_checkout(monkeypatch, tmp_path):
    assert re.match(r"commit [0-9a-f]{12}", report.commit()) or not (cells.ROOT / ".git").exists()
    monkeypatch.setattr(cells, "ROOT", tmp_path)
    assert report.commit() == "installed, not a checkout"


def test_nothing_is_escaped_twice(whole):
    assert "&amp;" not in whole.text
    assert "&lt;" not in whole.text


def test_every_verdict_is_explained(found, whole):
    legend = whole.one("dl", class_="legend").text
    for name in {*views.KINDS, *(render.verdict(one) for table in found for one in table.cells)}:
        assert name in legend
