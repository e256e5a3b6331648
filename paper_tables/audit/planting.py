"""Plant a mistake in a source: its place is known by function and syntax, whatever the formatting and the comments."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Callable, Iterator
from functools import lru_cache

Code = ast.stmt | ast.expr | ast.keyword  # what has a place
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
Span = tuple[tuple[int, int], tuple[int, int]]  # from and to, each a line, counted from 1, and a byte in that line


def plant(source: str, old: str, new: str, function: str = "") -> str:
    r"""Return `source` with `new` in the place of `old`; all other text stays as it is.

    Parameters
    ----------
    source : str
        A Python module.
    old, new : str
        Code. Two expressions: `old` is any expression of the function, defaults and decorators included, part of a
        larger one or not. Else one or several statements, or one ``name=value``, which may be a call's argument, too.
        ``pass`` as `new` takes a statement away.
    function : str
        Name of the function or class, with those around it (``DAQ.arguments``); without, what is outside of all.

    Raises
    ------
    LookupError
        If `old` is not exactly once in the function; the text of f-strings does not count.

    >>> source = "def f(x):\n    return round(x / 2)  # the nearest\n"
    >>> print(plant(source, "x/2", "x // 2", "f"))
    def f(x):
        return round((x // 2))  # the nearest
    <BLANKLINE>
    """
    wanted, replacement = (ast.parse(_dedented(code)).body for code in (old, new))
    tree = _parsed(source)
    nodes = [node for scope in _scopes(tree, function) for node in _walk(scope, inner=bool(function))]
    if not nodes:
        raise LookupError(f"there is no function {function}, which must have this once:\n{old}")
    sought = _expression(wanted)
    expression = sought is not None and _expression(replacement) is not None
    if sought is not None and expression:
        places = _expressions(nodes, sought)
    else:
        places = [*_statements(nodes, wanted), *_arguments(nodes, wanted)]
    if len(places) != 1:
        where = f"on lines {', '.join(str(first[0]) for first, _ in sorted(places))}" if places else "nowhere"
        scope = function or "the module, outside of functions and classes,"
        raise LookupError(f"{scope} must have this once, and has it {where}:\n{old}")
    ((first, last),) = places
    text = _dedented(new)
    if expression:
        text = f"({text})"  # whatever stands around it
    return replaced(source, first, last, textwrap.indent(text, " " * first[1]).lstrip())


@lru_cache(maxsize=8)
def _parsed(source: str) -> ast.Module:
    """Return the tree of a source, in which many mistakes may be sought."""
    return ast.parse(source)


def _dedented(code: str) -> str:
    return textwrap.dedent(code).strip()


def _expression(statements: list[ast.stmt]) -> ast.expr | None:
    """The expression that the statements are, if they are one."""
    match statements:
        case [ast.Expr(value=value)]:
            return value
    return None


def _scopes(tree: ast.AST, function: str, around: str = "") -> Iterator[ast.AST]:
    """Yield what `function` names."""
    if not function:
        yield tree
        return
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.expr):  # no definitions below
            continue
        name = around
        if isinstance(node, DEFINITIONS):
            name = f"{around}.{node.name}".removeprefix(".")
            if name == function:
                yield node
        yield from _scopes(node, function, name)


def _walk(node: ast.AST, *, inner: bool) -> Iterator[ast.AST]:
    """Yield `node` and all below it, without the definitions below it unless `inner`."""
    yield node
    if isinstance(node, ast.JoinedStr):  # whose parts have wrong positions before Python 3.12
        return
    for child in ast.iter_child_nodes(node):
        if inner or not isinstance(child, DEFINITIONS):
            yield from _walk(child, inner=inner)


def _expressions(nodes: list[ast.AST], wanted: ast.expr) -> list[Span]:
    same = _same_as(wanted)
    return [span(node, node) for node in nodes if isinstance(node, ast.expr) and same(node)]


def _statements(nodes: list[ast.AST], wanted: list[ast.stmt]) -> Iterator[Span]:
    """Yield where `wanted` stands in a block, one statement after the other."""
    same = [_same_as(statement) for statement in wanted]
    blocks = [value for node in nodes for _, value in ast.iter_fields(node) if isinstance(value, list)]
    for block in blocks:
        for start in range(len(block) - len(wanted) + 1):
            found = block[start : start + len(wanted)]
            if all(each(node) for each, node in zip(same, found, strict=True)):
                yield span(found[0], found[-1])


def _arguments(nodes: list[ast.AST], wanted: list[ast.stmt]) -> Iterator[Span]:
    """Yield the arguments ``name=value`` of calls, if `wanted` is an assignment that reads like one."""
    match wanted:
        case [ast.Assign(targets=[ast.Name(id=name)], value=value)]:
            same = _same_as(value)
            for node in nodes:
                if isinstance(node, ast.keyword) and node.arg == name and same(node.value):
                    yield span(node, node)


def _same_as(wanted: ast.AST) -> Callable[[ast.AST], bool]:
    """What tells whether code is the same as `wanted`."""
    dump = ast.dump(wanted)
    return lambda node: type(node) is type(wanted) and ast.dump(node) == dump


def span(first: Code, last: Code) -> Span:
    """Return where the code from `first` to `last` stands, decorators included."""
    line = min(node.lineno for node in [first, *getattr(first, "decorator_list", [])])
    assert last.end_lineno is not None
    assert last.end_col_offset is not None
    return (line, first.col_offset), (last.end_lineno, last.end_col_offset)


def replaced(source: str, first: tuple[int, int], last: tuple[int, int], text: str) -> str:
    """Return a source with `text` in the place of what stands from `first` to `last`."""
    content = source.encode()
    lines = [0, *(found.end() for found in re.finditer(b"\n", content))]
    start, end = (lines[line - 1] + byte for line, byte in (first, last))
    return (content[:start] + text.encode() + content[end:]).decode()
