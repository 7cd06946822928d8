"""``show`` and the pages print the options of a system from its source, without importing it."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys

import pytest

from redistill.catalog import entries, entry
from redistill.cli.options import Option, _options, options_of, takes

BUILT = entries(status=["built"])
SOURCE = """
from typing import Literal
from redistill.core.types import Count
Form = Literal["kd", "mse"]

class System:
    def __init__(
        self,
        student,
        *,
        rows: Count,  # size of the training set
        forms: tuple[Form, ...] = ("kd",),
        head: str | None = None,  # fmt: skip
        fast: bool = True,
    ) -> None:
        pass
"""


@pytest.mark.parametrize("e", BUILT, ids=lambda e: e.slug)
def test_they_are_those_that_a_recipe_may_give(e):
    module, _, name = e.run.partition(":")
    given = inspect.signature(getattr(importlib.import_module(module), name)).parameters.values()
    wanted = {p.name: p.default is p.empty for p in given if p.kind is p.KEYWORD_ONLY}
    assert {o.name: o.default is None for o in options_of(e)} == wanted
    assert all(o.takes for o in options_of(e))


def test_most_options_have_a_remark():
    found = [option for e in BUILT for option in options_of(e)]
    assert sum(bool(option.remark) for option in found) > 0.8 * len(found)


def test_a_line_of_source_is_a_line_of_words():
    assert list(_options(SOURCE, "System")) == [
        Option("rows", "a whole number from 1", None, "size of the training set"),
        Option("forms", "a list, each kd or mse", "('kd',)", ""),
        Option("head", "text or null", "null", ""),
        Option("fast", "true or false", "true", ""),
    ]


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        ("Share | None", "a number from 0 to 1 or null"),
        ("dict[str, Positive]", "a table, each a number above 0"),
        ("Match", "Match"),
        ("Literal[1, 2]", "1 or 2"),
    ],
)
def test_types_in_words(hint, words):
    assert takes(ast.parse(hint, mode="eval").body) == words


@pytest.mark.parametrize(
    ("slug", "said"), [("ps_kd", "size of the training set"), ("survey", "the last layer before the head")]
)
def test_show_prints_them_without_torch(slug, said, monkeypatch):
    monkeypatch.setenv("COLUMNS", "110")
    code = f"from redistill.cli.app import app; import sys; app(['show', '{slug}'], standalone_mode=False)\n"
    end = "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code + end], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout and "a whole number from 2" in done.stdout


def test_a_planned_system_has_none():
    assert options_of(next(e for e in entries() if e.status == "planned")) == []
    assert options_of(entry("ps_kd"))
