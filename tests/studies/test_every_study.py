"""Every study runs in seconds: the names it uses, its cells, its verdicts and its pictures. What its numbers mean is
tested elsewhere; here a helper that has moved is found."""

from __future__ import annotations

import ast
import builtins
import dis
import importlib
import inspect
import json
import pkgutil
from types import CodeType, ModuleType

import numpy as np
import pytest

from redistill import studies
from redistill.beds.bench import Bench, Parts
from redistill.catalog import STUDIES, entries
from redistill.core.claims import judge
from redistill.core.study import Outcome, Results, load
from redistill.studies import sdft_knowledge

SLUGS = [*(e.slug for e in entries(status=["built"])), *STUDIES]
MODULES = [f"redistill.studies.{found.name}" for found in pkgutil.iter_modules(studies.__path__)]
WITHOUT_HEADLINE: set[str] = set()
SEEDS = (1, 2)
ROWS = 64  # of every part of a bench, at most
# where the first arm alone does not keep what the pictures show, or costs more than seconds
ARMS = {
    "dmd2": ("teacher",), "scaling_laws": ("labels", "constant", "planner"), "mekd": ("mekd",),
}  # fmt: skip
BUDGETS = {"d_ode": {"faces_rows": 4, "faces": [5], "ring": [4, 5]}}
NUMBERS = {"in_context": {"right_agree": 0.5, "right_disagree": 0.5}}  # of arms that are not run
TEXTS = {"sdft": dict.fromkeys(sdft_knowledge.QUESTIONS, json.dumps([["question", "answer", "said", True]]))}


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


def small(monkeypatch):
    """Benches of few rows."""
    at = Bench.at

    def few(*given, **more):
        bench = at(*given, **more)
        bench.parts = Parts(
            *(part and part.take(np.arange(len(part))[:: -(-len(part) // ROWS)]) for part in bench.parts)
        )
        return bench

    monkeypatch.setattr(Bench, "at", few)


@pytest.mark.parametrize("slug", SLUGS)
def test_a_study_measures_judges_and_draws(slug, tmp_path, monkeypatch):
    monkeypatch.setenv("REDISTILL_CACHE", str(tmp_path / "cache"))
    small(monkeypatch)
    study = load(slug)
    budget = {**study.budget, **study.smoke, **BUDGETS.get(slug, {})}
    cells = {arm: study.cell(arm, SEEDS[0], budget) for arm in ARMS.get(slug, tuple(study.arms)[:1])}
    assert all(cell.metrics for cell in cells.values())

    fake = {claim.metric: 0.5 for claim in study.claims} | NUMBERS.get(slug, {})
    shown = Outcome(fake, text=TEXTS.get(slug, {}))
    for cell in cells.values():
        shown = Outcome(shown.metrics | cell.metrics, shown.arrays | cell.arrays, shown.text | cell.text)
    results = Results(SEEDS, {(arm, seed): shown for arm in study.titles() for seed in SEEDS})
    for claim in study.claims:
        judge(claim, {arm: list(results.values(arm, claim.metric)) for arm in {claim.arm, claim.against} - {""}})

    if study.draw:
        study.draw(results, tmp_path)
    for figure in study.figures:
        figure.draw(results, list(study.titles()), tmp_path)
    assert len(list(tmp_path.glob("*.png"))) >= len(study.figures)


@pytest.mark.parametrize("slug", SLUGS)
def test_a_study_asks_for_its_headline(slug):
    assert any(claim.main for claim in load(slug).claims) != (slug in WITHOUT_HEADLINE)
