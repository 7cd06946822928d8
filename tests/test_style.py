"""The size and overlap rules, held by reading the tree."""

from __future__ import annotations

import ast
import statistics
from itertools import combinations
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "redistill"
FILES = sorted(ROOT.rglob("*.py"))
PACKAGES = sorted((ROOT / "methods").glob("*/*/__init__.py"))  # the algorithm boxes of methods with several files
METHODS = [*PACKAGES, *(p for p in sorted((ROOT / "methods").glob("*/*.py")) if p.name != "__init__.py")]
SECOND_FILES = [p for box in PACKAGES for p in sorted(box.parent.glob("*.py")) if p != box]


def name(box: Path) -> str:
    """The slug of a method's file."""
    return box.parent.name if box.name == "__init__.py" else box.stem


def lines(file: Path) -> int:
    return len(file.read_text().splitlines())


def functions(file: Path) -> list[tuple[str, int]]:
    """Name and length, docstring left out, of every function in a file."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = node.body[0] if ast.get_docstring(node) is not None else None
            size = node.end_lineno - node.lineno + 1
            found.append(
                (f"{file.name}:{node.name}", size - (docstring.end_lineno - docstring.lineno + 1 if docstring else 0))
            )
    return found


def test_methods_are_short():
    sizes = {str(p): lines(p) for p in [*METHODS, *SECOND_FILES]}
    assert max(sizes.values()) <= 200, sizes


def test_functions_are_short():
    sizes = [f for file in FILES for f in functions(file)]  # many share a name: no dict
    ordered = sorted(size for _, size in sizes)
    assert statistics.median(ordered) <= 12
    assert ordered[int(0.9 * len(ordered))] <= 40
    assert max(ordered) <= 80, max(sizes, key=lambda f: f[1])


def test_the_driver_and_the_core_stay_small():
    assert lines(ROOT / "core" / "engine.py") <= 400
    files = set((ROOT / "core").glob("*.py"))
    judging = {f for f in files if f.stem in ("cache", "cells", "claims", "evidence", "record", "study")}
    assert sum(map(lines, judging)) <= 850  # studies and their evidence
    options = {f for f in files if f.stem in ("build", "slot", "types")}
    assert sum(map(lines, options)) <= 320  # what a constructor takes, in recipes and in Python
    assert sum(map(lines, files - judging - options)) <= 2050  # exactness over ranks and checkpoints: docs/design.md, 4


def depth(node: ast.AST, level: int = 0) -> int:
    blocks = (ast.If, ast.For, ast.While, ast.With, ast.Try)
    children = ast.iter_child_nodes(node)
    return max([level, *(depth(c, level + (isinstance(c, blocks) and not is_elif(c, node))) for c in children)])


def is_elif(node: ast.AST, parent: ast.AST) -> bool:
    """Whether ``node`` is an elif of ``parent``: no deeper, where an if within an else is."""
    both = isinstance(node, ast.If) and isinstance(parent, ast.If)
    return both and parent.orelse == [node] and node.col_offset == parent.col_offset


def test_what_an_else_holds_counts_as_nested_and_an_elif_does_not():
    deep = ["for a in b:", *(f"{'    ' * k}if a:\n{'    ' * k}    a\n{'    ' * k}else:" for k in range(1, 4))]
    nested = ast.parse("\n".join([*deep, f"{'    ' * 4}for c in d:", f"{'    ' * 5}c"]))
    chain = ast.parse("if a:\n    a\nelif b:\n    b\nelif c:\n    c\nelse:\n    for d in e:\n        d")
    assert depth(nested) == 5 and depth(chain) == 2


@pytest.mark.parametrize("file", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_nested_deeper_than_four(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert depth(node) <= 4, node.name


def code(file: Path) -> set[str]:
    """Stripped lines longer than eight characters, imports left out."""
    return {
        s
        for line in file.read_text().splitlines()
        if len(s := line.strip()) > 8 and not s.startswith(("from ", "import "))
    }


@pytest.mark.parametrize(("a", "b"), list(combinations(METHODS, 2)), ids=name)
def test_no_two_methods_share_a_quarter_of_their_lines(a, b):
    shared = code(a) & code(b)
    assert len(shared) <= 0.25 * min(len(code(a)), len(code(b))), sorted(shared)
