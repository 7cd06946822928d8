"""The classic ways to distil a classifier, side by side on one pair of networks, one data set and one budget.

Who teaches: a frozen teacher, a peer, an earlier generation, the network's own end, or a rule. On what: the training
rows. Match: whatever each baseline says (``baselines``).

    gain = accuracy - accuracy of labels alone,    recovery = gain / (accuracy of the teacher - that of labels alone)

:func:`compare` trains them and makes the table that surveys print; :func:`on_folds` judges the strengths of a baseline
by training rows alone; :func:`ranked` orders several runs with intervals of the paired gains.

Differs from the paper: it collects published numbers, this measures.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from torch import Tensor, nn

from redistill.core import Plan, UserError, fit
from redistill.core.errors import unknown
from redistill.core.source import table
from redistill.methods.analysis.survey.baselines import BASELINES, LABELS, Baseline, Pair

FEWEST = 3  # rows that a micro-batch must have: relations make triples of them, batch norm needs two


@dataclass(frozen=True)
class Row:
    """One line of the table. ``beside``: parameters that train with the student and are thrown away."""

    name: str
    kind: str
    scores: Mapping[str, float]
    gain: float
    recovery: float
    seconds: float
    beside: int


def train(name: str, pair: Pair, data: Any, plan: Plan, strength: float = 1.0) -> tuple[nn.Module, float, int]:
    """The student that baseline ``name`` makes, the processor seconds, and the parameters trained beside it.

    ``data``: what :func:`fit` takes, with ``label``. ``strength``: times the published weight. Raises
    :class:`UserError` with the nearest name.
    """
    begin = time.process_time()
    method = _called(name).make(pair, data, plan, strength)
    student = fit(method, data, plan).student.eval()
    trained = {network for networks in method.trains.values() for network in networks} - {"student"}
    beside = sum(p.numel() for network in trained for p in method.get_submodule(network).parameters())
    return student, time.process_time() - begin, beside


def on_folds(
    name: str, pair: Callable[[dict[str, Tensor]], Pair], data: Mapping[str, Tensor], plan: Plan,
    score: Callable[[nn.Module, dict[str, Tensor]], float], strengths: Sequence[float], folds: int = 2,
) -> dict[float, float]:  # fmt: skip
    """Mean score of baseline ``name`` at each strength: trained on all folds of ``data`` but one, scored on that one.

    ``pair(rest)``: from the columns that are trained on; a teacher that saw the fold that judges would make its
    imitators look good. ``score(student, held)``: of the columns [N / folds, ...] held out. The cut depends on
    ``plan.seed`` alone: every baseline and strength meets the same one.
    """
    count = len(data["label"])
    if not 2 <= folds <= count:
        raise UserError(f"{folds} folds of {count} rows; give from 2 to the number of rows", place="folds")
    parts = np.array_split(np.random.default_rng(plan.seed).permutation(count), folds)
    cuts = [({k: v[np.setdiff1d(np.arange(count), part)] for k, v in data.items()},
             {k: v[part] for k, v in data.items()}) for part in parts]  # fmt: skip
    cuts_and_pairs = [(rest, held, pair(rest)) for rest, held in cuts]
    return {
        strength: float(np.mean([score(train(name, both, rest, plan, strength)[0], held)
                                 for rest, held, both in cuts_and_pairs]))
        for strength in strengths
    }  # fmt: skip


def compare(
    pair: Pair, data: Any, plan: Plan, measure: Callable[[nn.Module], Mapping[str, float]],
    strengths: Mapping[str, float] | Iterable[str] = tuple(BASELINES), *,
    keep: Callable[[Sequence[Row]], None] = lambda rows: None,
) -> list[Row]:  # fmt: skip
    """One row a baseline, most accurate first; labels alone are always among them.

    ``measure``: the scores of a network, among them ``accuracy``. ``strengths``: names of baselines, perhaps with what
    their weights are multiplied by. ``keep``: gets the rows so far after each baseline.

    Raises :class:`UserError` before any training for names, strengths and batches that cannot work, and for a baseline
    that the pair cannot carry (attention transfer between vectors, say): leave it out.
    """
    wanted = dict(strengths) if isinstance(strengths, Mapping) else dict.fromkeys(strengths, 1.0)
    _check(pair, data, plan, wanted)
    teacher = measure(pair.teacher.eval())["accuracy"]
    rows: list[Row] = []
    alone = float("nan")
    for name, strength in {LABELS: 1.0, **wanted}.items():
        student, seconds, beside = train(name, pair, data, plan, strength)
        scores = measure(student)
        alone = scores["accuracy"] if name == LABELS else alone
        gains = scores["accuracy"] - alone, recovery(scores["accuracy"], alone, teacher)
        rows = sorted([*rows, Row(name, BASELINES[name].kind, scores, *gains, seconds, beside)],
                      key=lambda row: -row.scores["accuracy"])  # fmt: skip
        keep(rows)
    return rows


def _called(name: str) -> Baseline:
    if name not in BASELINES:
        raise unknown("baseline", name, BASELINES, place="names")
    return BASELINES[name]


def _check(pair: Pair, data: Any, plan: Plan, wanted: Mapping[str, float]) -> None:
    """Refuse what would only fail hours later."""
    for name, strength in wanted.items():
        _called(name).check(strength)
        if BASELINES[name].kind in ("feature", "relation"):
            BASELINES[name].make(pair, data, plan, strength)  # says which layers it cannot use
    count = len(table(data))
    size, rest = min(plan.batch_size, count), 0 if plan.drop_last else count % min(plan.batch_size, count)
    if size // plan.accumulate < FEWEST:
        said = f"{size} rows in {plan.accumulate} micro-batches; give each {FEWEST} or more, to be related"
        raise UserError(said, place="plan.accumulate")
    if rest and rest // plan.accumulate < FEWEST:
        said = f"{rest} of {count} rows are left for the last batch, too few to be related; set drop_last: true"
        raise UserError(said, place="plan.drop_last")


def recovery(accuracy: float, alone: float, teacher: float) -> float:
    """Share of the way from labels alone to the teacher; nan where the teacher is no better than labels alone."""
    return (accuracy - alone) / (teacher - alone) if teacher > alone else float("nan")


def cells(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as plain values, rounded for people."""
    return [
        {"baseline": r.name, "kind": r.kind, **{k: round(v, 4) for k, v in r.scores.items()}, "gain": round(r.gain, 4),
         "recovery": round(r.recovery, 3), "seconds": round(r.seconds, 1), "beside": r.beside}
        for r in rows
    ]  # fmt: skip


def as_csv(rows: Sequence[Row]) -> str:
    """The table with a header line."""
    lines = cells(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def as_markdown(rows: Sequence[Row]) -> str:
    """The table for a page."""
    lines = cells(rows)
    body = [list(lines[0]), ["---"] * len(lines[0]), *[[str(v) for v in line.values()] for line in lines]]
    return "\n".join("| " + " | ".join(line) + " |" for line in body) + "\n"


@dataclass(frozen=True)
class Place:
    """One place of a ranking: mean over runs, and the mean gain over the reference with its interval."""

    name: str
    mean: float
    gain: float
    low: float
    high: float


def ranked(values: Mapping[str, Sequence[float]], reference: str = LABELS, level: float = 0.9) -> list[Place]:
    """Best mean first. ``values``: name -> a score, one number a run, runs paired over names; at least two runs.

    The interval is Student's, two-sided at ``level``, on the paired differences from ``reference``.
    """
    runs = len(values[reference])
    if runs < 2 or {len(v) for v in values.values()} != {runs}:
        raise UserError("give every baseline the same runs, two or more", place="values")
    factor = float(stats.t.ppf(0.5 + level / 2, runs - 1)) / np.sqrt(runs)
    places = []
    for name, scores in values.items():
        gains = np.asarray(scores, float) - np.asarray(values[reference], float)
        gain, half = float(gains.mean()), factor * float(gains.std(ddof=1))
        places.append(Place(name, float(np.mean(scores)), gain, gain - half, gain + half))
    return sorted(places, key=lambda place: -place.mean)
