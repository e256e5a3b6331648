"""Keys hash meaning: what shapes a number changes them, and what only shows it does not."""

import ast
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paper_tables import keys, table5
from paper_tables.audit import code
from paper_tables.tables import Options
from torchimpl import sources

ROOT = Path(__file__).parents[2]
MODULES = sorted(path for package in sources.PACKAGES for path in (ROOT / package).rglob("*.py"))
SOURCES = {str(path.relative_to(ROOT)): path.read_text() for path in MODULES}


@pytest.fixture
def _afresh(monkeypatch):
    """Sources are read each time, as by a process that starts."""
    monkeypatch.setattr(sources, "_lines", sources._lines.__wrapped__)


def meaning(source: str) -> str:
    return sources.dump(ast.parse(source))


@given(st.sampled_from(sorted(SOURCES)), st.data())
def test_comments_blank_lines_and_layout_mean_nothing(name, data):
    source = SOURCES[name]
    defined = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    starts = [min(one.lineno for one in (node, *node.decorator_list)) for node in defined]
    lines = source.splitlines()
    for number in sorted(data.draw(st.sets(st.sampled_from(starts or [len(lines) + 1]), max_size=5)), reverse=True):
        lines.insert(number - 1, data.draw(st.sampled_from(["", "# a comment", '"""Words."""'])))
    assert meaning("\n".join(lines) + "\n") == meaning(source)
    assert meaning(ast.unparse(ast.parse(source))) == meaning(source)


@given(st.sampled_from(sorted(SOURCES)), st.data())
def test_every_number_means_something(name, data):
    source = SOURCES[name]
    numbers = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Constant) and type(n.value) in (int, float)]
    if not numbers:
        return
    lines = source.splitlines(keepends=True)
    number = data.draw(st.sampled_from(numbers))
    line = lines[number.lineno - 1].encode()
    written = line[number.col_offset : number.end_col_offset].decode()
    if number.lineno != number.end_lineno or written.strip() != written or not written[0].isdigit():  # in an f-string
        return
    other = line[: number.col_offset].decode() + f"({written} + 1)" + line[number.end_col_offset :].decode()
    lines[number.lineno - 1] = other
    assert meaning("".join(lines)) != meaning(source)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = None", "x = 0"),
        ("x = ''", "x = None"),
        ("x = 0.0", "x = -0.0"),
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = []", "x = ()"),
        ("x = {**a, b: c}", "x = {a: c, **b}"),
        ("def f(a, *, b, c=1): ...", "def f(a, *, b=1, c): ..."),
        ("f(b, a)", "f(a, b)"),
        ("if a:\n    b\nc", "if a:\n    b\n    c"),
        ("x = 'words'", "x = 'other words'"),
    ],
)
def test_what_differs_differs(one, other):
    assert meaning(one) != meaning(other)


@given(st.sampled_from(sorted(SOURCES)))
def test_fields_that_only_other_versions_have_do_not_count(name):
    tree = ast.parse(SOURCES[name])
    before = sources.dump(tree)
    for node in [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]:
        node._fields = (*node._fields, "type_params", "default_value")
        node.type_params, node.default_value = [], None
    assert sources.dump(tree) == before


@pytest.mark.parametrize("minor", [11, 12, 13, 14])
def test_every_python_gives_the_same_key(minor):
    roots = [*keys.ACCURACY, *sources.method_modules("daq")]
    command = [f"python3.{minor}", "-c", f"from paper_tables import keys; print(keys.key({roots!r}))"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        there = subprocess.run([command[0], "--version"], capture_output=True).returncode == 0
    except FileNotFoundError:
        there = False
    if not there:
        pytest.skip(f"there is no Python 3.{minor} here")
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == keys.key(roots)


@pytest.fixture
def small(tmp_path, monkeypatch, _afresh):
    """A small package: a imports b at its top, b imports c in a package p; a's functions import d, its types e."""
    package = tmp_path / "reference"
    texts = {
        "__init__.py": "",
        "a.py": """
            import typing
            import numpy
            from reference import b
            if typing.TYPE_CHECKING:
                import reference.e
            def f():
                from reference import d
        """,
        "b.py": "try:\n    from .p import c as g\nexcept ImportError:\n    pass\n",
        "p/__init__.py": "y = 1\n",
        "p/c.py": "x = 1\n",
        "d.py": "x = 1\n",
        "e.py": "x = 1\n",
    }
    for name, text in texts.items():
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(re.sub(r"^ {12}", "", text, flags=re.MULTILINE))
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    return package


@pytest.mark.parametrize(
    ("name", "counts"),
    [("a.py", True), ("b.py", True), ("p/c.py", True), ("p/__init__.py", True), ("d.py", False), ("e.py", False)],
)
def test_what_is_imported_at_the_top_counts(small, name, counts):
    before = keys.key(["reference.a"])
    (small / name).write_text((small / name).read_text() + "# a comment\n")
    assert keys.key(["reference.a"]) == before
    (small / name).write_text((small / name).read_text() + "z = 3\n")
    assert (keys.key(["reference.a"]) != before) is counts


@pytest.mark.parametrize(
    "line",
    ["import reference.p.c", "import reference.p.c as c", "from reference.p import c", "from reference.p.c import x"],
)
def test_packages_count_however_their_modules_are_imported(small, line):
    """A package is imported before its modules, and so for a root."""
    (small / "d.py").write_text(f"{line}\n")
    before = keys.key(["reference.d"]), keys.key(["reference.p.c"])
    (small / "p/__init__.py").write_text("y = 2\n")
    after = keys.key(["reference.d"]), keys.key(["reference.p.c"])
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_configuration_counts(small):
    assert keys.key(["reference.a"], bits=1, images="x") == keys.key(["reference.a"], images="x", bits=1)
    assert len({keys.key(["reference.a"], bits=bits) for bits in (1, 2, (1, 2), None)}) == 4
    assert keys.key(["reference.a"]) != keys.key(["reference.b"])


@pytest.mark.parametrize("root", ["reference.nothing", "paper_tables.render", "numpy"])
def test_roots_are_modules_that_shape_numbers(root):
    with pytest.raises(ValueError, match=f"got '{root}'"):
        keys.key([root])


def test_methods_are_found_by_name(tmp_path, monkeypatch):
    assert sources.method_modules(None) == ()
    assert {"reference.lsq", "torchimpl.quantizers.lsq"} <= set(sources.method_modules("lsq"))
    assert {"torchimpl.kernels.lsq", "torchimpl.kernels.native"} <= set(sources.method_modules("lsq"))
    for name in ("reference/new", "torchimpl/kernels/new"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).with_suffix(".py").write_text("")
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    assert sources.method_modules("new") == ("reference.new", "torchimpl.kernels.new")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the sources."""
    copy = tmp_path_factory.mktemp("tree")
    for package in ("reference", "torchimpl", "paper_tables"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


NUMBERS = {  # what is changed, and whose keys that changes: full precision, 1/1, the recipe, the first batch
    ("paper_tables/render.py", "    parts = [", "    pieces = ["): "",
    ("paper_tables/table5.py", "INTRO = (", "INTRO = ('Words. '"): "",
    ("torchimpl/quantizers/daq.py", "import math\n", "# a comment\n\nimport math\n"): "",
    ("torchimpl/evaluation.py", '"""Count the images', '"""Counts the images'): "",
    ("reference/daq.py", "GAMMA = 2.0", "GAMMA = 2.5"): "11 first",
    ("reference/lsq.py", "def init(", "A_CONSTANT = 3\n\n\ndef init("): "",
    ("torchimpl/evaluation.py", "/ 255", "/ 256"): "FP 11 first",
    ("torchimpl/models/resnet.py", "\n\n\nclass ", "\n\n\nA_CONSTANT = 3\n\n\nclass "): "FP 11 first",
    ("torchimpl/history.py", "TRAINING_IMAGES = 50_000", "TRAINING_IMAGES = 60_000"): "recipe",
}


def numbers():
    of_table_5 = {job.place.column: job.key for job in table5.jobs(Options())}
    of_code = {job.place.row: job.key for job in code.jobs(Options())}
    return {
        "FP": of_table_5["FP"],
        "11": of_table_5["1/1"],
        "recipe": of_code["batch size, 1/1"],
        "first": of_code["output scale in the very first batch, 1/32"],
    }


@pytest.mark.usefixtures("_afresh")
@pytest.mark.parametrize("change", NUMBERS, ids=lambda change: f"{change[0]}: {change[2]}")
def test_recorded_numbers_are_stale_when_what_shapes_them_changed(change, tree, monkeypatch):
    monkeypatch.setattr(sources, "ROOT", tree)
    name, old, new = change
    before = numbers()
    source = (tree / name).read_text()
    assert old in source
    (tree / name).write_text(source.replace(old, new, 1))
    after = numbers()
    (tree / name).write_text(source)
    assert {number for number in before if before[number] != after[number]} == set(NUMBERS[change].split())
