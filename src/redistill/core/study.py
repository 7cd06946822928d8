"""A study: arms, budget and claims; the runner measures arm x seed cells, judges the claims and writes the evidence."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from redistill import sources
from redistill.core import evidence
from redistill.core.cache import home, key
from redistill.core.claims import Claim, judge
from redistill.core.errors import UserError

__all__ = ["Claim", "Outcome", "Results", "Study", "load", "run"]

Budget = Mapping[str, Any]


@dataclass
class Outcome:
    """What one cell measured: numbers; arrays and texts for pictures and reports; ``seconds`` of computing."""

    metrics: dict[str, float]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    text: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Results:
    """All cells of a run."""

    seeds: tuple[int, ...]
    cells: dict[tuple[str, int], Outcome]

    def values(self, arm: str, metric: str) -> np.ndarray:
        """The metric of an arm, one number a seed (nan where a cell does not measure it)."""
        return np.array([self.cells[arm, seed].metrics.get(metric, np.nan) for seed in self.seeds])

    def array(self, arm: str, seed: int, name: str) -> np.ndarray:
        """An array that a cell kept."""
        return self.cells[arm, seed].arrays[name]

    def text(self, arm: str, seed: int, name: str) -> str:
        """A text that a cell kept."""
        return self.cells[arm, seed].text[name]


@dataclass(frozen=True)
class Study:
    """The comparison that a paper makes, at laptop scale.

    ``cell(arm, seed, budget)`` measures one arm with everything random drawn from ``seed``. ``smoke`` overrides the
    budget for a run of seconds. ``exact``: nothing depends on the seed, one is enough. ``sources``: blocks (module
    names) whose change makes the evidence stale, besides the method's and the study's own files. ``notes``: what was
    tried, what differs from the paper.
    """

    slug: str
    question: str
    arms: Mapping[str, str]
    claims: tuple[Claim, ...]
    cell: Callable[[str, int, Budget], Outcome]
    budget: Budget = field(default_factory=dict)
    smoke: Budget = field(default_factory=dict)
    seeds: tuple[int, ...] = (1, 2, 3)
    draw: Callable[[Results, Path], None] | None = None
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    exact: bool = False

    def __post_init__(self) -> None:
        for c in self.claims:
            assert {c.arm, c.against or c.arm} <= set(self.arms), f"{self.slug}: {c.name} names unknown arms"

    def modules(self) -> list[str]:
        """The modules whose source the evidence depends on."""
        from redistill.catalog import STUDIES, entry

        own = [] if self.slug in STUDIES or not entry(self.slug).class_ else [entry(self.slug).class_.split(":")[0]]
        return sorted({self.cell.__module__, *own, *self.sources})


def load(slug: str) -> Study:
    """The study of a system. Raises :class:`UserError` when there is none yet."""
    name = f"redistill.studies.{slug}"
    if importlib.util.find_spec(name) is None:
        raise UserError(f"{slug!r} has no study yet (planned)", place="reproduce")
    study = importlib.import_module(name).STUDY
    assert isinstance(study, Study)
    return study


def run(
    study: Study, *, seeds: Sequence[int] | None = None, smoke: bool = False, jobs: int = 1, fresh: bool = False,
    target: Path | None = None, report: Callable[[str, int, Outcome], None] = lambda *_: None,
) -> tuple[dict[str, Any], Results]:  # fmt: skip
    """Measure all cells (cached ones are read), judge the claims, draw, and write the evidence to ``target`` if any."""
    begin = time.perf_counter()
    chosen = tuple(seeds or study.seeds)
    budget = {**study.budget, **(study.smoke if smoke else {})}
    work = [(arm, seed) for seed in chosen for arm in study.arms]
    cells = {}
    for where, outcome in _measure(study, work, budget, jobs, fresh):
        cells[where] = outcome
        report(*where, outcome)
    results = Results(chosen, cells)
    record = _record(study, results, budget, smoke, time.perf_counter() - begin)
    if target is not None:
        _write(study, record, results, target)
    return record, results


def _measure(
    study: Study, work: list[tuple[str, int]], budget: Budget, jobs: int, fresh: bool
) -> Iterator[tuple[tuple[str, int], Outcome]]:
    # evidence names the blocks that matter to a reader; what was measured before is read only if nothing has changed
    code = sources.digest(sources.closure(study.modules()), leave_out=("STUDY", "draw"))
    digest = f"{code} {versions().get('torch')}"
    arguments = [(study.slug, arm, seed, dict(budget), digest, fresh) for arm, seed in work]
    if jobs == 1:
        yield from ((w, _cell(*a)) for w, a in zip(work, arguments))
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        yield from zip(work, pool.map(_cell, *zip(*arguments)))


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _cell(slug: str, arm: str, seed: int, budget: Budget, digest: str, fresh: bool) -> Outcome:
    place = home() / "cells" / slug / key({"arm": arm, "seed": seed, "budget": budget, "digest": digest})
    if (place / "outcome.json").exists() and not fresh:
        return _read(place)
    begin = time.process_time()  # of this process alone: a machine with other work counts no more
    outcome = load(slug).cell(arm, seed, budget)
    outcome.seconds = time.process_time() - begin
    _keep(outcome, place)
    return outcome


def _keep(outcome: Outcome, place: Path) -> None:
    beside = place.with_name(f".{place.name}.{os.getpid()}")
    beside.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(beside / "arrays.npz", **outcome.arrays)  # type: ignore[arg-type]
    numbers = {"metrics": outcome.metrics, "text": outcome.text, "seconds": outcome.seconds}
    (beside / "outcome.json").write_text(json.dumps(numbers))
    shutil.rmtree(place, ignore_errors=True)
    os.replace(beside, place)


def _read(place: Path) -> Outcome:
    with np.load(place / "arrays.npz", allow_pickle=False) as arrays:
        return Outcome(**json.loads((place / "outcome.json").read_text()), arrays=dict(arrays))


def _record(study: Study, results: Results, budget: Budget, smoke: bool, seconds: float) -> dict[str, Any]:
    modules = study.modules()
    claims = []
    for claim in study.claims:
        arms = {claim.arm, claim.against} - {""}
        claims.append(judge(claim, {a: list(results.values(a, claim.metric)) for a in arms}, exact=study.exact))
    seconds_of_cells = sum(outcome.seconds for outcome in results.cells.values())
    return {
        "slug": study.slug, "question": study.question, "seeds": list(results.seeds), "claims": claims,
        "seconds": round(seconds_of_cells, 1), "wall_seconds": round(seconds, 1), "arms": dict(study.arms),
        "table": _table(study, results), "budget": dict(budget), "smoke": smoke, "notes": list(study.notes),
        "command": f"redistill reproduce {study.slug} --seeds " + ",".join(map(str, results.seeds)),
        "texts": _texts(results), "modules": modules, "digest": sources.digest(modules), "versions": versions(),
    }  # fmt: skip


def _table(study: Study, results: Results) -> dict[str, dict[str, list[float]]]:
    """arm -> metric -> values over seeds."""
    return {
        arm: {m: [float(v) for v in results.values(arm, m)] for m in results.cells[arm, results.seeds[0]].metrics}
        for arm in study.arms
    }


def _texts(results: Results) -> dict[str, str]:
    """What the cells of the first seed wrote down, for the report."""
    first = results.seeds[0]
    return {f"{arm}: {k}": v for (arm, seed), o in results.cells.items() if seed == first for k, v in o.text.items()}


def _write(study: Study, record: dict[str, Any], results: Results, target: Path) -> None:
    pictures = target / study.slug
    if study.draw:
        pictures.mkdir(parents=True, exist_ok=True)
        study.draw(results, pictures)
    names = sorted(p.name for p in pictures.glob("*.png")) if pictures.is_dir() else []
    evidence.write({**record, "pictures": names}, target)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in ("redistill", "torch", "numpy", "transformers", "diffusers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
