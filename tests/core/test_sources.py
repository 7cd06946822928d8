"""The hash of what sources do, and what a module rests on."""

from __future__ import annotations

import ast

import pytest

from redistill import sources
from redistill.core.study import load

PLAIN = "def f(x):\n    return [x, None, 0]\n"


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A function that writes a module and gives its hash."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def digest(text, **options):
        (tmp_path / "made_up.py").write_text(text)
        return sources.digest(["made_up"], **options)

    return digest


@pytest.mark.parametrize(
    "same",
    [
        'def f(x):\n    """What it does."""\n    return [x, None, 0]\n',
        "def f(x):  # why\n    return [\n        x, None, 0]\n",
        '"""A module."""\n\n' + PLAIN,
    ],
)
def test_words_and_layout_do_not_count(made, same):
    assert made(same) == made(PLAIN)


@pytest.mark.parametrize(
    "other", [PLAIN.replace("0", "1"), PLAIN.replace("None, ", ""), PLAIN.replace("x):", "x, y=1):"), PLAIN + "a = 1\n"]
)
def test_what_is_done_counts(made, other):
    assert made(other) != made(PLAIN)


STUDY = "STUDY = Study(question='a', cell=cell({'lr': 1}))\ndef draw(): pass\n"


def test_of_a_study_only_what_measures_counts(made, monkeypatch):
    words, lr = STUDY.replace("'a'", "'b'").replace("pass", "return 1"), STUDY.replace("1", "2")
    assert made(PLAIN + words) != made(PLAIN + STUDY)  # a block counts whole, whatever its names
    monkeypatch.setattr(sources, "STUDIES", "made")
    assert made(PLAIN + words) == made(PLAIN + STUDY) != made(PLAIN + lr)
    assert made(PLAIN + "FIGURES = ()\n") == made(PLAIN)


def test_fields_that_only_a_newer_python_has_do_not_count(made, monkeypatch):
    before = made(PLAIN)
    later = type("Later", (), {"_fields": (*ast.FunctionDef._fields, "type_params_of_a_later_python")})
    monkeypatch.setattr(ast.FunctionDef, "_fields", later._fields)
    monkeypatch.setattr(ast.FunctionDef, "type_params_of_a_later_python", [], raising=False)
    assert made(PLAIN) == before


def test_a_study_rests_on_all_that_it_imports():
    study = load("ctkd")
    rests_on = study.code()
    assert study.cell.__module__ != study.module  # a bench made its cell: the study itself counts nevertheless
    names = "studies.ctkd methods.supervised.ctkd beds.bench core.engine losses.divergences supervised.matches"
    for name in names.split():
        assert f"redistill.{name}" in rests_on
    assert not any(name.startswith("redistill.cli") for name in rests_on)
