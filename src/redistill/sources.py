"""What Python sources do, as a hash: whether a measurement still belongs to the code that made it. Imports no torch."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

STUDIES = f"{__name__.split('.')[0]}.studies."
NO_NUMBERS = {"STUDY", "FIGURES", "draw"}  # names at the top of a study that no number depends on ...
MEASURES = "cell"  # ... but for this argument of ``STUDY``


def digest(modules: Iterable[str]) -> str:
    """A hash of what the named modules *do*: their syntax trees without comments, docstrings and layout, the same on
    every version of Python.

    Of a study the claims, pictures and texts do not count: they change no measurement.
    """
    found = hashlib.sha256()
    for name in sorted(modules):
        tree = ast.parse(path(name).read_text())
        if name.startswith(STUDIES):
            tree.body = [part for node in tree.body for part in _measuring(node)]
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        found.update(repr(_shape(tree)).encode())
    return found.hexdigest()[:20]


def _measuring(node: ast.stmt) -> list[ast.stmt]:
    """What numbers depend on in a statement at the top of a study."""
    if not _defines(node) & NO_NUMBERS:
        return [node]
    value = node.value if isinstance(node, ast.Assign) else None
    named = value.keywords if isinstance(value, ast.Call) else []
    return [ast.Expr(given.value) for given in named if given.arg == MEASURES]


def _shape(node: Any) -> Any:
    """A syntax tree as nested tuples, without empty fields: those come and go with Python's version."""
    if isinstance(node, ast.AST):
        fields = [(name, _shape(value)) for name, value in ast.iter_fields(node) if value not in (None, [])]
        return type(node).__name__, *fields
    return [_shape(part) for part in node] if isinstance(node, list) else node


def closure(modules: Iterable[str]) -> list[str]:
    """``modules`` and every module of this package that they import, at whatever remove."""
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += _imported(name)
    return sorted(seen)


def _imported(module: str) -> set[str]:
    package, found = __name__.split(".")[0], set()
    for node in ast.walk(ast.parse(path(module).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == package:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if _is_module(name)}


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a name inside a module
        return False


def modules(package: str) -> list[str]:
    """The modules that lie directly in ``package``."""
    return sorted(f"{package}.{file.stem}" for file in path(package).parent.glob("*.py") if file.stem != "__init__")


def path(module: str) -> Path:
    """The file that ``module`` is read from; one of this package is not imported, nor what it lies in."""
    ours, *parts = module.split(".")
    if ours == __name__.split(".")[0]:
        place = Path(__file__).parent.joinpath(*parts)
        found = [file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()]
        if found:
            return found[0]
    spec = importlib.util.find_spec(module)
    assert spec and spec.origin, f"no source for {module}"
    return Path(spec.origin)


def _defines(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Assign):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {node.name} if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else set()
