"""What sources mean: the modules that shape a number, as a text that comments, docstrings and layout leave as it is."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGES = ("reference", "torchimpl", "arm")
ROOT = Path(__file__).resolve().parent.parent  # of these packages


def meaning(names: Iterable[str]) -> str:
    """Return a line for each of the modules `names`, and for each that they import at their top level.

    A line is the module's name, and a hash of what it means. Only modules of ``reference``, ``torchimpl`` and ``arm``
    count; those that are found by name at run time must be named: see `method_modules`. A process reads the sources
    once, as it imports them once.

    Raises
    ------
    ValueError
        If a name is no module of these packages.
    """
    return _lines(ROOT, PACKAGES, tuple(sorted(set(names))))


def meaning_of_own(module: str) -> str:
    """Return the same for a module of somebody else's package, with what it imports of that package.

    What has no source in Python, such as a compiled module, says nothing.
    """
    package = module.partition(".")[0]
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    if not folders and (spec is None or not spec.has_location):
        return ""
    root = Path(folders[0] if folders else str(spec and spec.origin)).parent
    return _lines(root, (package,), (module,)) if _file(root, (package,), module) else ""


def method_modules(name: str | None) -> tuple[str, ...]:
    """Return the modules of a quantization method that are found by its name; None, full precision, has none.

    >>> method_modules("daq")[:2]
    ('reference.daq', 'torchimpl.quantizers.daq')
    """
    if name is None:
        return ()
    found = [f"{package}.{name}" for package in ("reference", "torchimpl.quantizers", "torchimpl.kernels")]
    if _file(ROOT, PACKAGES, found[-1]):
        found.append("torchimpl.kernels.native")  # imported when the first loop is compiled
    return tuple(module for module in found if _file(ROOT, PACKAGES, module))


@cache
def _lines(root: Path, packages: tuple[str, ...], names: tuple[str, ...]) -> str:
    """Return a line for each module of the packages below `root` that is named or imported."""
    found: dict[str, str] = {}
    for name in names:
        if _file(root, packages, name) is None:
            raise ValueError(f"a root must be a module of {' or '.join(packages)}, got {name!r}")
    waiting, seen = list(names), set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if path := _file(root, packages, name):
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            found[name], imported = _read(path.read_bytes(), package)
            waiting.extend((*imported, package))  # a package is imported before its modules
    return "".join(f"{name} {meaning}\n" for name, meaning in sorted(found.items()))


def _file(root: Path, packages: tuple[str, ...], module: str) -> Path | None:
    """Return the file of a module of the packages below `root`, None if there is none."""
    if module.partition(".")[0] not in packages:
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
