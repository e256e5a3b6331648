"""What a recorded number rests on, as hashes: the meaning of the sources that shape it, and configuration with data."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from paper_tables import cells

PACKAGES = ("reference", "torchimpl", "arm")
HASHED = 32  # digits of each hash
ACCURACY = ("torchimpl.checkpoints", "torchimpl.evaluation", "torchimpl.data.cifar10")  # of a checkpoint on CIFAR-10


def key(roots: Iterable[str], **configuration: Any) -> str:
    """Hash everything that shapes a number: ``SOURCES-CONFIGURATION``, two hashes.

    That is: what the modules `roots` of ``reference``, ``torchimpl`` and ``arm`` mean, with everything of these
    packages that they import at their top level, and `configuration` (settings, digests of data), which must be JSON.
    Comments, docstrings and layout do not count, nor does what prints, judges or draws the number. Versions of numpy or
    torch are provenance, not part of the key.

    Modules that are found by name at run time must be named among the roots: see `method_modules`. A process reads the
    sources once, as it imports them once.

    Raises
    ------
    ValueError
        If a root is no module of these packages.
    """
    parts = (_sources(cells.ROOT, tuple(sorted(set(roots)))), json.dumps(configuration, sort_keys=True))
    return "-".join(hashlib.sha256(part.encode()).hexdigest()[:HASHED] for part in parts)


def same_configuration(one: str | None, other: str | None) -> bool:
    """Whether two keys differ in their sources at most.

    >>> same_configuration(key(["reference.daq"], bits=1), key(["reference.dsq"], bits=1))
    True
    >>> same_configuration(key(["reference.daq"], bits=1), key(["reference.daq"], bits=2))
    False
    """
    parts = [(key or "").partition("-")[2] for key in (one, other)]
    return parts[0] == parts[1] != ""


def method_modules(name: str | None) -> tuple[str, ...]:
    """Return the modules of a quantization method that are found by its name; None, full precision, has none.

    >>> method_modules("daq")[:2]
    ('reference.daq', 'torchimpl.quantizers.daq')
    """
    if name is None:
        return ()
    found = [f"{package}.{name}" for package in ("reference", "torchimpl.quantizers", "torchimpl.kernels")]
    if _file(cells.ROOT, found[-1]):
        found.append("torchimpl.kernels.native")  # imported when the first loop is compiled
    return tuple(module for module in found if _file(cells.ROOT, module))


@cache
def _sources(root: Path, names: tuple[str, ...]) -> str:
    """Return a line for each module below `root` that is named or imported: its name, and a hash of what it means."""
    found: dict[str, str] = {}
    for name in names:
        if _file(root, name) is None:
            raise ValueError(f"a root must be a module of {' or '.join(PACKAGES)}, got {name!r}")
    waiting, seen = list(names), set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if path := _file(root, name):
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            found[name], imported = _read(path.read_bytes(), package)
            waiting.extend((*imported, package))  # a package is imported before its modules
    return "".join(f"{name} {meaning}\n" for name, meaning in sorted(found.items()))


def _file(root: Path, module: str) -> Path | None:
    """Return the file of a module of the packages below `root`, None if there is none."""
    if module.partition(".")[0] not in PACKAGES:
        return None
    base = root.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@cache
def _read(source: bytes, package: str) -> tuple[str, tuple[str, ...]]:
    """Return a hash of what the source of a module of `package` means, and the names it imports."""
    tree = ast.parse(source)
    return hashlib.sha256(dump(tree).encode()).hexdigest(), tuple(_imports(tree.body, package))


def dump(node: object) -> str:
    """Return a syntax tree as text, the same for every version of Python.

    Empty fields are left out, as versions differ in which there are; so are bare strings, such as docstrings.

    >>> dump(ast.parse("def f(x): 'Doubles.'; return 2 * x")) == dump(ast.parse("def f(x): return (2*x)  # doubled"))
    True
    """
    if isinstance(node, list):
        return f"[{','.join(dump(item) for item in node if not _bare_string(item))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, value) for name, value in ast.iter_fields(node) if value is not None and value != []]
    return f"{type(node).__name__}({','.join(f'{name}={dump(value)}' for name, value in fields)})"


def _bare_string(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _imports(body: Iterable[ast.AST], package: str) -> Iterator[str]:
    """Yield the names of modules that statements import when the module itself is imported."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield from _imports(node.orelse, package)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _imports(ast.iter_child_nodes(node), package)
