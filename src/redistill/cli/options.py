"""The options of a system as its source says them: default, range, and the remark at the end of the line. No torch."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from redistill import sources
from redistill.catalog import Entry
from redistill.core import types

WORDS = {"bool": "true or false", "str": "text", "int": "a whole number", "float": "a number"}


class Option(NamedTuple):
    """One keyword of a constructor or of a procedure. ``takes``: a range, words, or the plug-in's class."""

    name: str
    takes: str
    default: str | None  # None: it must be given
    remark: str


def options_of(e: Entry) -> list[Option]:
    """What ``options`` of a recipe takes for a built system: of its procedure where it has one, else of its class."""
    if e.status != "built":
        return []
    module, _, name = e.run.partition(":")
    return list(_options(_source(module), name))


def _options(source: str, name: str) -> Iterator[Option]:
    tree, remarks = ast.parse(source), _remarks(source)
    function = _function(tree, name)
    if function is None:  # a constructor that the class inherits
        return
    aliases = _aliases(tree)
    for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults):
        assert argument.annotation is not None, f"{name}: {argument.arg} has no type"
        given = None if default is None else _plain(ast.unparse(default))
        remark = remarks.get((default or argument).end_lineno or 0, "")
        yield Option(argument.arg, takes(argument.annotation, aliases), given, remark)


def _function(tree: ast.Module, name: str) -> ast.FunctionDef | None:
    """A function, or the constructor of a class."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
        if isinstance(node, ast.ClassDef) and node.name == name:
            made = (part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__")
            return next(made, None)
    raise AssertionError(f"no {name} in its module")


def _aliases(tree: ast.Module) -> dict[str, ast.expr]:
    """Names of types that a module defines (``Form = Literal[...]``), or the modules that it takes them from."""
    found: dict[str, ast.expr] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("redistill."):
            asked = {alias.name for alias in node.names}
            found |= {n: v for n, v in _assigned(ast.parse(_source(node.module or ""))).items() if n in asked}
    return found | _assigned(tree)


def _source(module: str) -> str:
    return sources.path(module).read_text(encoding="utf-8")


def _assigned(tree: ast.Module) -> dict[str, ast.expr]:
    """``name = something[...]`` at the top of a module."""
    plain = (node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript))
    return {target.id: node.value for node in plain for target in node.targets if isinstance(target, ast.Name)}


def takes(hint: ast.expr, aliases: Mapping[str, ast.expr] = MappingProxyType({})) -> str:
    """A type in words: those of a range of :mod:`redistill.core.types`, the words of a ``Literal``, a class."""
    if isinstance(hint, ast.BinOp):  # a | b
        return " or ".join(takes(part, aliases) for part in (hint.left, hint.right))
    if isinstance(hint, ast.Constant):  # None
        return "null"
    if isinstance(hint, ast.Subscript) and isinstance(hint.value, ast.Name):
        parts = hint.slice.elts if isinstance(hint.slice, ast.Tuple) else [hint.slice]
        if hint.value.id == "Literal":
            return " or ".join(ast.unparse(part).strip("'\"") for part in parts)
        each = [takes(part, aliases) for part in parts if not (isinstance(part, ast.Constant) and part.value is ...)]
        return f"a table, each {each[-1]}" if hint.value.id in ("dict", "Mapping") else f"a list, each {each[0]}"
    name = ast.unparse(hint)
    if words := types.words_of(getattr(types, name, None)):
        return words
    return takes(aliases[name], aliases) if name in aliases else WORDS.get(name, name)


def _plain(value: str) -> str:
    """A default as a recipe writes it."""
    words = {"None": "null", "True": "true", "False": "false", "''": "nothing"}
    return words.get(value, value.strip("'\""))


def _remarks(source: str) -> dict[int, str]:
    """Line -> the comment at its end."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    found = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    return {line: remark for line, remark in found.items() if not remark.startswith(("fmt:", "type:", "noqa"))}
