"""A study: arms, budget and claims. :func:`run` measures arm x seed cells, judges, and writes the evidence."""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from redistill import sources
from redistill.core.claims import Claim
from redistill.core.errors import UserError, nearest

__all__ = ["Claim", "Derived", "Outcome", "Results", "Study", "difference", "load", "mean_of", "run"]

DRAWING = "redistill.beds.figures"
Budget = Mapping[str, Any]
Cell = Callable[[str, int, Budget], "Outcome"]
Place = tuple[str, int]  # arm, seed
Metrics = dict[str, float]


@dataclass
class Outcome:
    """What one cell measured: numbers; arrays and texts for pictures and reports; ``seconds`` of computing.

    ``diverged``: what a run said that ended with a NaN; such a cell has no metrics, and is named in the evidence.
    """

    metrics: Metrics
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    text: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    diverged: str = ""


@dataclass(frozen=True)
class Results:
    """All cells of a run."""

    seeds: tuple[int, ...]
    cells: dict[Place, Outcome]

    def values(self, arm: str, metric: str) -> np.ndarray:
        """The metric of an arm, one number a seed (nan where a cell does not measure it)."""
        return np.array([self.cells[arm, seed].metrics.get(metric, np.nan) for seed in self.seeds])

    def array(self, arm: str, seed: int, name: str) -> np.ndarray:
        """An array that a cell kept."""
        return self.cells[arm, seed].arrays[name]

    def text(self, arm: str, seed: int, name: str) -> str:
        """A text that a cell kept."""
        return self.cells[arm, seed].text[name]


class Arm(Protocol):
    """What stands for an arm: a text for people, or anything with such a ``title``."""

    @property
    def title(self) -> str: ...


class Picture(Protocol):
    """What draws itself from the results: a declared figure of :mod:`redistill.beds.figures`."""

    def draw(self, results: Results, arms: Sequence[str], folder: Path) -> None: ...


@dataclass(frozen=True)
class Derived:
    """An arm that nothing is trained for: ``of`` makes its metrics from those of other ``arms`` at the same seed."""

    title: str
    arms: tuple[str, ...]
    of: Callable[..., Metrics]


def mean_of(*arms: str, title: str = "") -> Derived:
    """The mean over ``arms`` of every metric that all of them have."""

    def mean(*cells: Metrics) -> Metrics:
        return {m: float(np.mean([cell[m] for cell in cells])) for m in _common(cells)}

    return Derived(title or "the mean of " + ", ".join(arms), arms, mean)


def difference(arm: str, than: str, title: str = "") -> Derived:
    """How much more ``arm`` has than ``than`` of every metric that both have."""

    def gain(one: Metrics, other: Metrics) -> Metrics:
        return {m: one[m] - other[m] for m in _common((one, other))}

    return Derived(title or f"{arm} less {than}", (arm, than), gain)


def _common(cells: Sequence[Metrics]) -> list[str]:
    return [m for m in cells[0] if all(m in cell for cell in cells)]


@dataclass(frozen=True)
class Study:
    """The comparison that a paper makes, at laptop scale.

    ``cell(arm, seed, budget)`` measures one arm with everything random drawn from ``seed``. ``smoke`` overrides the
    budget for a run of seconds. ``derived``: arms computed from others. ``ceiling``: the arm that says how much room
    the headline has. ``exact``: nothing depends on the seed, one is enough. ``figures`` (or ``draw``): the pictures.
    ``notes``: what was tried, what differs from the paper; those of ``studies/<slug>.md`` are added.
    """

    slug: str
    question: str
    arms: Mapping[str, str | Arm]
    claims: tuple[Claim, ...]
    cell: Cell
    budget: Budget = field(default_factory=dict)
    smoke: Budget = field(default_factory=dict)
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    derived: Mapping[str, Derived] = field(default_factory=dict)
    ceiling: str = ""
    figures: tuple[Picture, ...] = ()
    draw: Callable[[Results, Path], None] | None = None
    notes: tuple[str, ...] = ()
    exact: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        titles = self.titles()
        for c in self.claims:
            assert {c.arm, c.against or c.arm} <= set(titles), f"{self.slug}: {c.name} names unknown arms"
        for name, made in self.derived.items():
            assert set(made.arms) <= set(self.arms), f"{self.slug}: {name} is derived from unknown arms"
        assert not self.ceiling or self.ceiling in titles, f"{self.slug}: no arm {self.ceiling!r} for a ceiling"
        assert sum(c.main for c in self.claims) <= 1, f"{self.slug}: a study has one headline"

    def titles(self) -> dict[str, str]:
        """Every arm, derived ones last, and what it is called."""
        made = {**self.arms, **self.derived}
        return {name: arm if isinstance(arm, str) else arm.title for name, arm in made.items()}

    @property
    def module(self) -> str:
        """The module that defines it. The cell may come from another one, which makes cells for several studies."""
        return f"redistill.studies.{self.slug}"

    def code(self) -> list[str]:
        """The modules that the numbers depend on: method, study and all that these import, but for what draws."""
        from redistill.catalog import STUDIES, entry

        own = [] if self.slug in STUDIES or not entry(self.slug).class_ else [entry(self.slug).class_.split(":")[0]]
        return [name for name in sources.closure([self.module, self.cell.__module__, *own]) if name != DRAWING]


def load(slug: str) -> Study:
    """The study of a system. Raises :class:`UserError` when there is none yet."""
    name = f"redistill.studies.{slug}"
    if importlib.util.find_spec(name) is None:
        raise UserError(f"{slug!r} has no study yet (planned)", place="reproduce")
    study = importlib.import_module(name).STUDY
    assert isinstance(study, Study)
    return study


def run(
    study: Study,
    *,
    seeds: Sequence[int] | None = None,
    smoke: bool = False,
    jobs: int = 1,
    executor: str = "local",
    fresh: bool = False,
    target: Path | None = None,
    report: Callable[[str, int, Outcome], None] = lambda *_: None,
) -> tuple[dict[str, Any], Results]:
    """Measure all cells (cached ones are read), judge the claims, draw, and write the evidence to ``target`` if any.

    Raises :class:`UserError` for a claim about a metric that its arms did not measure; nothing is written then.
    """
    from redistill.core.record import record_of, write

    begin = time.perf_counter()
    budget = {**study.budget, **(study.smoke if smoke else {})}
    chosen = tuple(seeds or study.seeds)
    cells = {}
    for where, outcome in measured(study, chosen, budget, jobs=jobs, executor=executor, fresh=fresh):
        cells[where] = outcome
        report(*where, outcome)

    results = Results(chosen, {**cells, **_derive(study, chosen, cells)})
    _check_measured(study, results)
    record = record_of(study, results, budget, smoke, time.perf_counter() - begin, target)
    if target is not None:
        write(study, record, results, target)
    return record, results


def measured(
    study: Study, seeds: Sequence[int], budget: Budget, **how: Any
) -> Iterator[tuple[tuple[str, int], Outcome]]:
    """Every trained cell of these seeds with its place (arm, seed), in the order of the arms."""
    from redistill.core.cells import measure

    return measure(study, [(arm, seed) for seed in seeds for arm in study.arms], budget, **how)


def _derive(study: Study, seeds: Sequence[int], cells: Mapping[Any, Outcome]) -> dict[Place, Outcome]:
    def derived(made: Derived, seed: int) -> Outcome:
        parts = {arm: cells[arm, seed] for arm in made.arms}
        for arm, part in parts.items():
            if part.diverged:
                return Outcome({}, diverged=f"{arm} diverged")
        return Outcome(made.of(*(part.metrics for part in parts.values())))

    return {(name, seed): derived(made, seed) for seed in seeds for name, made in study.derived.items()}


def _check_measured(study: Study, results: Results) -> None:
    """A mistyped metric would silently be "not shown"."""
    for claim in study.claims:
        for arm in filter(None, (claim.arm, claim.against)):
            place = f"{study.slug}: {claim.name}"
            ended = {seed: results.cells[arm, seed].metrics for seed in results.seeds
                     if not results.cells[arm, seed].diverged}  # fmt: skip
            lacking = [seed for seed, metrics in ended.items() if claim.metric not in metrics]
            if lacking and len(lacking) == len(ended):
                words = nearest(claim.metric, {m for metrics in ended.values() for m in metrics})
                raise UserError(f"no seed of {arm!r} measured {claim.metric!r}; {words}", place=place)
            if lacking:
                raise UserError(f"{arm!r} did not measure {claim.metric!r} at seeds {lacking}", place=place)
