"""Where a mistake is planted: found by function and syntax, or refused with what was looked for."""

from __future__ import annotations

import ast
import re
import textwrap

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from paper_tables.audit.planting import plant

SOURCE = '''
"""A module."""
LIMIT = 1 + 2  # ε: positions are counted in bytes


@cached(size=8)
def f(x, scale=2.0):
    """Twice."""
    y = "ε", x * scale
    def inner(x):
        return x * scale + (
            1  # one
        )
    if y:
        log(y); model.eval()
    return y

class A:
    rate: float = 0.1
    def f(self, x):
        text = f"{x + 1}"
        return g(x, rate = self.rate, *x)
    if rate:
        def h(self):
            rate = self.rate
            return g(y for y in rate)
'''


@pytest.mark.parametrize(
    ("function", "old", "new", "text", "planted"),
    [
        ("", "1+2", "3", "LIMIT = 1 + 2  # ε", "LIMIT = (3)  # ε"),
        ("", "LIMIT = (1 + 2)", "LIMIT = 4", "LIMIT = 1 + 2  # ε", "LIMIT = 4  # ε"),
        ("f", "8", "9", "size=8", "size=(9)"),
        ("f", "size=8", "size=9", "size=8", "size=9"),
        ("f", "cached(size=8)", "cached", "@cached(size=8)", "@(cached)"),
        ("f", "2.0", "1.0", "scale=2.0", "scale=(1.0)"),
        ("f", "y='ε', x*scale", "y = x", 'y = "ε", x * scale', "y = x"),
        ("f.inner", "x*scale", "x", "x * scale + (", "(x) + ("),
        ("f.inner", "x * scale + 1", "a, b", "x * scale + (\n            1  # one\n        )", "(a, b)"),
        ("f", "model.eval()", "pass", "model.eval()", "pass"),
        ("f", "log(y)\nmodel.eval()", "log(x)", "log(y); model.eval()", "log(x)"),
        ("f", "if y: log(y); model.eval()", "a\nb", "if y:\n        log(y); model.eval()", "a\n    b"),
        ("A", "rate: float = 0.1", "rate = 1", "rate: float = 0.1", "rate = 1"),
        ("A.f", "rate=self.rate", "rate=None", "rate = self.rate, ", "rate=None, "),
        ("A.f", "g(x, *x, rate=self.rate)", "0", "g(x, rate = self.rate, *x)", "(0)"),
        ("A.h", "rate=self.rate", "rate=None", "rate = self.rate\n", "rate=None\n"),
        ("A.h", "(y for y in rate)", "rate", "g(y for y in rate)", "g(rate)"),
    ],
)
def test_places(function, old, new, text, planted):
    assert SOURCE.count(text) == 1
    assert plant(SOURCE, old, new, function) == SOURCE.replace(text, planted)


@pytest.mark.parametrize(
    ("function", "old", "says"),
    [
        ("f", "x * 3", "f must have this once, and has it nowhere:\nx \\* 3"),
        ("f", "x * scale", "f must have this once, and has it on lines 9, 11:\nx \\* scale"),
        ("f.inner", "y = x", "f.inner must have this once, and has it nowhere:\ny = x"),
        ("inner", "x * scale", "there is no function inner, which must have this once:\nx \\* scale"),
        ("A.inner", "x * scale", "there is no function A.inner"),
        ("", "x * scale", "the module, outside of functions and classes, must have this once, and has it nowhere"),
        ("A", "rate = self.rate", "A must have this once, and has it on lines 22, 25"),
        ("A.f", "x + 1", "nowhere"),
    ],
)
def test_what_is_not_found_once_is_refused(function, old, says):
    with pytest.raises(LookupError, match=says):
        plant(SOURCE, old, "0" if "=" not in old else "pass", function)


def test_decorators_belong_to_a_definition():
    source = "class A:\n    @property\n    def f(self):\n        return 1\n"
    old = "@property\ndef f(self): return 1"
    assert plant(source, old, "f = 1", "A") == "class A:\n    f = 1\n"


names = st.sampled_from(["a", "b", "ε"])
operators = st.sampled_from(["+", "*", "**", "<", "or", "if a else"])
expressions = st.recursive(
    names | st.sampled_from(["1", "0.5", "'ü'", "a.b"]),
    lambda inner: st.one_of(
        st.tuples(inner, operators, inner).map("({0[0]} {0[1]} {0[2]})".format),
        st.tuples(names, inner, inner).map("{0[0]}({0[1]}, key={0[2]})".format),
        st.tuples(inner, inner).map("[{0[0]}, *{0[1]}]".format),
        st.tuples(names, inner).map("{0[0]}[-{0[1]}]".format),
    ),
    max_leaves=8,
)


class Substitution(ast.NodeTransformer):
    """The oracle: put `new` wherever `old` is in a tree, and count."""

    def __init__(self, old: ast.expr, new: str) -> None:
        self.old, self.new, self.count = ast.dump(old), new, 0

    def visit(self, node: ast.AST) -> ast.AST:
        if ast.dump(node) != self.old:
            return self.generic_visit(node)
        self.count += 1
        return ast.parse(self.new, mode="eval").body


@given(value=expressions, other=expressions, new=expressions, data=st.data())
def test_expressions_are_replaced_as_in_the_tree_whatever_the_formatting(value, other, new, data):
    before, after = "def g(a): return ", "\nclass A:\n    def f(self, b):\n        "
    source = f"{before}{value}{after}x = {value}; return {other}\n"
    broken = re.sub(r"[(,[](?!self|a\))", lambda found: f"{found[0]}  # ε, (\n", value)
    formats = source, ast.unparse(ast.parse(source)), f"{before}{value}{after}x = {broken}\n        return {other}"

    old = data.draw(st.sampled_from([node for node in ast.walk(ast.parse(value)) if isinstance(node, ast.expr)]), "old")
    old.ctx = ast.Load()
    tree = ast.parse(source)
    substitution = Substitution(old, new)
    tree.body[1] = substitution.visit(tree.body[1])
    for text in formats:
        note(text)
        if substitution.count == 1:
            assert ast.dump(ast.parse(plant(text, ast.unparse(old), new, "A.f"))) == ast.dump(tree)
        else:
            with pytest.raises(LookupError, match=r"A\.f must have this once"):
                plant(text, ast.unparse(old), new, "A.f")


@given(
    before=st.lists(expressions, max_size=3),
    old=st.lists(expressions, min_size=1, max_size=3),
    after=st.lists(expressions, max_size=3),
    new=st.lists(expressions, min_size=2, max_size=3),
    nested=st.booleans(),
)
def test_statements_are_replaced_as_in_the_source(before, old, after, new, nested):
    def source(*parts: str) -> str:
        body = "\n# why\n\n".join(f"{name} = {value}" for name, value in parts)
        block = f"for x in y:\n{textwrap.indent(body, '   ')}" if nested else body
        return f"def f(y):\n{textwrap.indent(block, '    ')}\n\n\nz = 1\n"

    parts = [[(name, value) for value in values] for name, values in zip("xyz", (before, old, after), strict=True)]
    added = [("v", value) for value in new]
    fragments = ["\n".join(f"{name} = {value}" for name, value in values) for values in (parts[1], added)]
    planted = plant(source(*parts[0], *parts[1], *parts[2]), *fragments, "f")
    assert ast.dump(ast.parse(planted)) == ast.dump(ast.parse(source(*parts[0], *added, *parts[2])))
