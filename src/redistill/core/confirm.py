"""Evidence outlives a change of code that changes no number: one seed, measured anew, must give the very same ones.

A study of an hour need not be run again after a refactor: if any number of the seed differs, the evidence stays stale.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from redistill.core.cells import measure
from redistill.core.errors import UserError
from redistill.core.record import asked, code_of
from redistill.core.study import Outcome, Study


def confirm(study: Study, record: Mapping[str, Any], seed: int, **how: Any) -> dict[str, Any]:
    """``record`` as evidence of today's code, after ``seed`` of it was measured anew with equal numbers.

    Raises :class:`UserError` where claims, arms or budget are not those of the record, or a number differs.
    """
    place = f"{study.slug}: confirm"
    if seed not in record["seeds"]:
        raise UserError(f"seed {seed} is none of the measured ones {record['seeds']}", place=place)
    for what in _moved(study, record):
        raise UserError(f"{what} changed since; redistill reproduce {study.slug}", place=place)

    work = [(arm, seed) for arm in study.arms]
    cells = {arm: outcome for (arm, _), outcome in measure(study, work, record["budget"], **how)}
    for what in _differing(cells, record, seed):
        raise UserError(f"{what}; redistill reproduce {study.slug}", place=place)

    today = asked(study, record["budget"])
    seen = {s: today if first == record["frozen"] else first for s, first in record["seen"].items()}
    claims = [{**was, "name": claim.name} for was, claim in zip(record["claims"], study.claims, strict=True)]
    return {**record, **code_of(study), "claims": claims, "frozen": today, "seen": seen, "confirmed": seed}


def _moved(study: Study, record: Mapping[str, Any]) -> Iterator[str]:
    """What of the question is another than in the record; only the words of a claim may be."""
    names = ("metric", "arm", "against", "direction", "least", "relative")
    if [[c[n] for n in names] for c in record["claims"]] != [[asdict(c)[n] for n in names] for c in study.claims]:
        yield "the claims"
    if record["arms"] != study.titles():
        yield "the arms"
    if record["budget"] != json.loads(json.dumps(dict(study.budget))) or record["smoke"]:  # JSON has lists, no tuples
        yield "the budget"


def _differing(cells: Mapping[str, Outcome], record: Mapping[str, Any], seed: int) -> Iterator[str]:
    """The numbers of the seed that are others than in the record."""
    place = record["seeds"].index(seed)
    for arm, outcome in cells.items():
        was = {metric: values[place] for metric, values in record["table"][arm].items()}
        for metric in sorted(was.keys() | outcome.metrics.keys()):
            old, new = was.get(metric, float("nan")), outcome.metrics.get(metric, float("nan"))
            if old != new and (old == old or new == new):  # NaN equals NaN here
                yield f"{metric} of {arm!r} was {old!r}, is {new!r}"
