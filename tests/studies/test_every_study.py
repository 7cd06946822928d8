"""Of every study: each name that it uses is there (helpers move), and it asks for its headline."""

from __future__ import annotations

import ast
import builtins
import dis
import importlib
import inspect
import pkgutil
from types import CodeType, ModuleType

import pytest

from redistill import studies
from redistill.catalog import STUDIES, entries
from redistill.core.study import load

SLUGS = [*(e.slug for e in entries(status=["built"])), *STUDIES]
MODULES = [f"redistill.studies.{found.name}" for found in pkgutil.iter_modules(studies.__path__)]
WITHOUT_HEADLINE: set[str] = set()


def codes(code: CodeType):
    """A function's code and that of all functions in it."""
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from codes(inner)


def missing(module: ModuleType) -> list[str]:
    """The names that functions of ``module`` ask of it, of other modules or in imports, and that are not there."""
    source, found = inspect.getsource(module), []
    for code in codes(compile(source, module.__name__, "exec")):
        for step, then in zip(steps := list(dis.get_instructions(code)), [*steps[1:], None]):
            if step.opname == "LOAD_GLOBAL":
                held = getattr(module, step.argval, getattr(builtins, step.argval, None))
                if held is None and not hasattr(module, step.argval):
                    found.append(step.argval)
                elif isinstance(held, ModuleType) and then and then.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                    found += [] if hasattr(held, then.argval) else [f"{step.argval}.{then.argval}"]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.col_offset:
            held = importlib.import_module(node.module)
            found += [f"{node.module}.{alias.name}" for alias in node.names if not hasattr(held, alias.name)]
    return found


@pytest.mark.parametrize("name", MODULES)
def test_every_name_that_a_study_uses_is_there(name):
    assert not missing(importlib.import_module(name))


def test_a_moved_helper_is_found(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    lines = ["import json", "def f():", "    from math import gone", "    return json.moved(sqrt(1)) + json.dumps(1)"]
    (tmp_path / "a_study.py").write_text("\n".join(lines))
    assert missing(importlib.import_module("a_study")) == ["json.moved", "sqrt", "math.gone"]


@pytest.mark.parametrize("slug", SLUGS)
def test_a_study_asks_for_its_headline(slug):
    assert any(claim.main for claim in load(slug).claims) != (slug in WITHOUT_HEADLINE)
