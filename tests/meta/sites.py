"""Small mistakes, made by rule at every place of a source where there is something to get wrong."""

from __future__ import annotations

import ast
import copy
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from paper_tables.audit.planting import DEFINITIONS, replaced, span

SWAPPED: dict[type, type] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult},
    **{ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift},
    **{ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr},
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt},
    **{ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot},
    **{ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And},
}
NOT_CODE = ("annotation", "returns", "decorator_list", "type_params", "bases")  # what is not, or not only, computed


@dataclass(frozen=True)
class Mistake:
    """One place changed in one way.

    Attributes
    ----------
    file : str
        Path below the root.
    function : str
        Name of the function, with those around it; "" outside of all.
    line : int
        Counted from 1.
    kind : str
        The rule: "arithmetic", "comparison", "constant", "negation", "statement" or "refusal".
    old, new : str
        Code before and after.
    source : str
        The whole file with the mistake.
    key : str
        Digest of all but the line: the same mistake has the same key wherever its function moves in the file.
    """

    file: str
    function: str
    line: int
    kind: str
    old: str
    new: str
    source: str
    key: str


def mistakes(file: str, source: str) -> Iterator[Mistake]:
    r"""Yield every mistake that the rules make in a module, in the order of their places.

    >>> source = "def f(x):\n    if x < 0:\n        raise ValueError\n    return x + 1\n"
    >>> for made in mistakes("f.py", source):
    ...     print(f"{made.kind}: {made.old} -> {made.new}")
    comparison: x < 0 -> x <= 0
    negation: x < 0 -> not x < 0
    constant: 0 -> 1
    refusal: raise ValueError -> pass
    arithmetic: x + 1 -> x - 1
    constant: 1 -> 2
    """
    seen: dict[tuple[str, ...], int] = {}
    for node, function in _code(ast.parse(source), ""):
        old = ast.unparse(node)
        for kind, changed in _changed(node):
            new = ast.unparse(changed)
            what = (file, function, kind, old, new)
            seen[what] = seen.get(what, 0) + 1
            key = hashlib.sha256("\0".join([*what, str(seen[what])]).encode()).hexdigest()[:12]
            text = f"({new})" if isinstance(changed, ast.expr) else new
            yield Mistake(file, function, node.lineno, kind, old, new, replaced(source, *span(node, node), text), key)


def _code(node: ast.AST, function: str) -> Iterator[tuple[ast.AST, str]]:
    """Yield what is computed below a node, each with its function; neither annotations nor parts of f-strings."""
    for name, value in ast.iter_fields(node):
        if name in NOT_CODE:
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or _is_type(child):
                continue
            inside = f"{function}.{child.name}".removeprefix(".") if isinstance(child, DEFINITIONS) else function
            yield child, inside
            if not isinstance(child, ast.JoinedStr):  # whose parts have wrong positions before Python 3.12
                yield from _code(child, inside)


def _is_type(node: ast.AST) -> bool:
    """Whether a statement says something to a type checker only."""
    match node:
        case ast.If(test=ast.Name(id="TYPE_CHECKING")) | ast.Assert():
            return True
        case ast.AnnAssign(value=None) | ast.AnnAssign(annotation=ast.Name(id="TypeAlias")):
            return True
    return False


def _changed(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield what a node can be mistaken for."""
    match node:
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in SWAPPED:
            yield "arithmetic", _with(node, op=SWAPPED[type(op)]())
        case ast.Compare(ops=[op, *more]) if type(op) in SWAPPED:
            yield "comparison", _with(node, ops=[SWAPPED[type(op)](), *more])
        case ast.BoolOp(op=op):
            yield "comparison", _with(node, op=SWAPPED[type(op)]())
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield "negation", operand
        case ast.Constant(value=bool() as value):
            yield "constant", ast.Constant(not value)
        case ast.Constant(value=int() as value):
            yield "constant", ast.Constant(value + 1)
        case ast.Constant(value=float() as value):
            yield "constant", ast.Constant(1.5 * value or 1.0)
        case ast.Raise(exc=ast.expr()):
            yield "refusal", ast.Pass()
        case ast.Expr(value=ast.Call() | ast.YieldFrom()) | ast.Delete() | ast.Continue():
            yield "statement", ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):  # without a name it is caught by being missed
            yield "statement", ast.Pass()
    if isinstance(node, ast.AugAssign):
        yield "statement", ast.Pass()
    if isinstance(node, ast.Compare):
        yield "negation", ast.UnaryOp(ast.Not(), node)


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed
