"""What a run of a study leaves: verdicts, table, room, notes, and which code, seeds and claims they belong to."""

from __future__ import annotations

import json
import math
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from redistill import sources
from redistill.core import evidence
from redistill.core.cache import key
from redistill.core.claims import judge
from redistill.core.errors import UserError, nearest
from redistill.core.study import Budget, Results, Study

READING = ("redistill", "redistill.catalog", "redistill.sources")  # they find modules, and make no number
_FILLED = re.compile(r"\{(\w+):(\w+)(?::([^{}]+))?\}")


def record_of(
    study: Study, results: Results, budget: Budget, smoke: bool, seconds: float, target: Path | None
) -> dict[str, Any]:
    """The evidence of one run, as JSON. ``target``: where the evidence before it lies, for the seeds it has seen."""
    claims = []
    for claim in study.claims:
        arms = {claim.arm, claim.against} - {""}
        claims.append(judge(claim, {a: list(results.values(a, claim.metric)) for a in arms}, exact=study.exact))
    return {
        "slug": study.slug, "question": study.question, "seeds": list(results.seeds), "claims": claims,
        "room": room(study, results),
        "seconds": round(sum(outcome.seconds for outcome in results.cells.values()), 1),
        "wall_seconds": round(seconds, 1), "arms": study.titles(), "table": _table(study, results),
        "diverged": _diverged(study, results),
        "budget": dict(budget), "smoke": smoke, "notes": notes(study, results),
        "command": f"redistill reproduce {study.slug} --seeds " + ",".join(map(str, results.seeds)),
        "texts": _texts(results), "device": study.device, "versions": versions(),
        **code_of(study), **_seen(study, results, budget, target),
    }  # fmt: skip


def code_of(study: Study) -> dict[str, Any]:
    """The code that the numbers belong to: method, study and blocks by name, their hash, and that of the engine."""
    blocks = [name for name in study.code() if name.split(".")[:2] != ["redistill", "core"] and name not in READING]
    digest = sources.digest(blocks)
    return {"modules": blocks, "digest": digest, "engine": evidence.engine()}


def asked(study: Study, budget: Budget) -> str:
    """A hash of what is asked: claims, arms, budget, bed. Whatever moves in it wants new seeds."""
    beds = [name for name in study.code() if name.startswith(("redistill.beds", "redistill.studies"))]
    claims = [asdict(claim) for claim in study.claims]
    return key({"claims": claims, "budget": dict(budget), "arms": study.titles(),
                "bed": sources.digest(beds)})  # fmt: skip


def room(study: Study, results: Results) -> dict[str, Any] | None:
    """How far the ceiling lies above the headline's rival, in deviations of the rival over seeds; None without one."""
    main = next((c for c in study.claims if c.main), None)
    if main is None or not study.ceiling:
        return None
    rival, ceiling = (results.values(arm, main.metric) for arm in (main.against, study.ceiling))
    gap = float((ceiling - rival).mean()) * (1 if main.direction == "higher" else -1)
    sd = float(rival.std(ddof=1)) if len(rival) > 1 else 0.0
    return {"ceiling": study.ceiling, "gap": gap, "deviations": gap / sd if sd else None}


def _seen(study: Study, results: Results, budget: Budget, target: Path | None) -> dict[str, Any]:
    """``frozen``: a hash of what was asked. ``seen``: seed -> what was asked when it was first looked at. ``reused``:
    the seeds of this run that had been looked at before something moved. ``left_out``: seeds that had been judged for
    the very same and are not in this run."""
    frozen = asked(study, budget)
    before = evidence.read(study.slug, target) if target else None
    first = before.get("seen") or {str(seed): "before" for seed in before["seeds"]} if before else {}
    seen = {**{str(seed): frozen for seed in results.seeds}, **first}
    now = {str(seed) for seed in results.seeds}
    return {
        "frozen": frozen, "seen": seen,
        "reused": [seed for seed in results.seeds if seen[str(seed)] != frozen],
        "left_out": [int(seed) for seed, was in seen.items() if was == frozen and seed not in now],
    }  # fmt: skip


def notes(study: Study, results: Results) -> list[str]:
    """The study's notes and the paragraphs of ``studies/<slug>.md``, in which ``{metric:arm}`` (and a format, as in
    ``{accuracy:ours:.1%}``) becomes the mean over this run's seeds."""
    file = sources.path(study.module).with_suffix(".md")
    own = file.read_text(encoding="utf-8").strip().split("\n\n") if file.exists() else []
    return [*study.notes, *(_filled(" ".join(part.split()), study, results) for part in own)]


def _filled(note: str, study: Study, results: Results) -> str:
    def number(found: re.Match[str]) -> str:
        metric, arm, form = found.groups()
        place = f"notes of {study.slug}: {found.group()}"
        if arm not in study.titles():
            raise UserError(f"no arm {arm!r}; {nearest(arm, study.titles())}", place=place)
        have = {m for seed in results.seeds for m in results.cells[arm, seed].metrics}
        if metric not in have:
            raise UserError(f"{arm!r} has no metric {metric!r}; {nearest(metric, have)}", place=place)
        return format(float(np.mean(results.values(arm, metric))), form or ".3g")

    return _FILLED.sub(number, note)


def _diverged(study: Study, results: Results) -> dict[str, str]:
    """Arm and seed -> what its run said when it ended, or which number that a claim asks for is none."""
    asked_for = {(arm, claim.metric) for claim in study.claims for arm in (claim.arm, claim.against)}
    named = {}
    for (arm, seed), outcome in results.cells.items():
        bad = [f"{m} is {v}" for m, v in outcome.metrics.items() if (arm, m) in asked_for and not math.isfinite(v)]
        if outcome.diverged or bad:
            named[f"{arm}, seed {seed}"] = outcome.diverged or ", ".join(bad)
    return named


def _table(study: Study, results: Results) -> dict[str, dict[str, list[float]]]:
    """arm -> metric -> values over seeds."""
    found = {}
    for arm in study.titles():
        metrics = dict.fromkeys(m for seed in results.seeds for m in results.cells[arm, seed].metrics)
        found[arm] = {m: [float(v) for v in results.values(arm, m)] for m in metrics}
    return found


def _texts(results: Results) -> dict[str, str]:
    """What the cells of the first seed wrote down, for the report."""
    first = results.seeds[0]
    return {f"{arm}: {k}": v for (arm, seed), o in results.cells.items() if seed == first for k, v in o.text.items()}


def write(study: Study, record: Mapping[str, Any], results: Results, target: Path) -> None:
    """Draw the pictures below ``target/<slug>`` and write ``target/<slug>.json``."""
    pictures = target / study.slug
    if study.draw or study.figures:
        pictures.mkdir(parents=True, exist_ok=True)
        for old in pictures.glob("*.png"):  # of a study that drew others
            old.unlink()
    if study.draw:
        study.draw(results, pictures)
    for figure in study.figures:
        figure.draw(results, list(study.titles()), pictures)
    names = sorted(p.name for p in pictures.glob("*.png")) if pictures.is_dir() else []
    json.dumps(record)  # what JSON lacks is found before anything is written
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
