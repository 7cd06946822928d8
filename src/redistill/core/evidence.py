"""What a study measured, as JSON with its pictures: written by the runner, read by ``show`` and reports. No torch."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VERDICTS = ("holds", "not shown", "contradicted")  # from the best to the worst
JUDGING = ("cache", "cells", "claims", "confirm", "evidence", "record", "study")  # modules of the core without numbers


def folder() -> Path:
    """Where evidence lies: ``REDISTILL_EVIDENCE``, the checkout's ``evidence/`` or ``./evidence``."""
    if "REDISTILL_EVIDENCE" in os.environ:
        return Path(os.environ["REDISTILL_EVIDENCE"])
    checkout = Path(__file__).parents[3] / "evidence"
    return checkout if checkout.is_dir() else Path("evidence")


def read(slug: str, where: Path | None = None) -> dict[str, Any] | None:
    """The evidence for a system, or None. ``where``: another folder than the shipped one."""
    file = (where or folder()) / f"{slug}.json"
    if not file.exists():
        return None
    record = json.loads(file.read_text())
    return {**record, **{name: _numbers(record[name]) for name in ("claims", "table") if name in record}}


def plain(value: Any) -> Any:
    """``value`` with null for what is no number, for which JSON has no word."""
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(value: Any) -> Any:
    """The same backwards."""
    if isinstance(value, dict):
        return {name: _numbers(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_numbers(part) for part in value]
    return math.nan if value is None else value


def write(record: dict[str, Any], target: Path) -> Path:
    """Write ``target/<slug>.json`` (beside, then renamed)."""
    target.mkdir(parents=True, exist_ok=True)
    beside, file = target / f".{record['slug']}.json", target / f"{record['slug']}.json"
    beside.write_text(json.dumps(plain(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    os.replace(beside, file)
    return file


def effect(claim: Mapping[str, Any]) -> str:
    """A judged claim's effect and its spread over seeds, for people: ``0.085 ± 0.03``, or percent where relative."""
    scale, unit = (100, " %") if claim["relative"] else (1, "")
    return f"{scale * claim['effect']:.3g} ± {round(scale * claim['effect_sd'], 9):.2g}{unit}"


def headline(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The judged claim that a study stands for; None where it has none yet."""
    return next((claim for claim in record["claims"] if claim["kind"] == "headline"), None)


def tally(record: Mapping[str, Any]) -> dict[str, int]:
    """Verdict -> how many of the other superiorities and thresholds have it; margins are no gains and not counted."""
    counted = [c["verdict"] for c in record["claims"] if c["kind"] in ("superiority", "threshold")]
    return {verdict: counted.count(verdict) for verdict in VERDICTS if verdict in counted}


def standing(record: Mapping[str, Any]) -> str:
    """The headline's verdict, effect and number of seeds in a few words; says so where a study has none."""
    main = headline(record)
    return f"{main['verdict']}: {effect(main)} (n = {main['n']})" if main else "no headline yet"


def counted(record: Mapping[str, Any]) -> str:
    """The tally in words: ``3 hold, 1 not shown, 2 within a margin``."""
    told = {"holds": "hold", "not shown": "not shown", "contradicted": "contradicted"}
    parts = [f"{count} {told[verdict]}" for verdict, count in tally(record).items()]
    margins = sum(c["kind"] == "margin" and c["verdict"] == "holds" for c in record["claims"])
    return ", ".join([*parts, *([f"{margins} within a margin"] if margins else [])]) or "nothing"


def warnings(record: Mapping[str, Any]) -> list[str]:
    """What a reader must know before the numbers: older code, diverged runs, seeds that were looked at before."""
    again = f"redistill reproduce {record['slug']}"
    told = {"stale": f"stale: the code has changed since; {again}",
            "older engine": f"measured with an older engine; {again}"}  # fmt: skip
    lines = [told[old]] if (old := age(record)) else []
    if not old and "confirmed" in record:
        lines.append(f"the code has changed since; seed {record['confirmed']}, measured anew, gave the same numbers")
    lines += [f"{where} diverged: {why}" for where, why in record.get("diverged", {}).items()]
    if record.get("reused"):
        seeds = ", ".join(map(str, record["reused"]))
        lines.append(f"seeds {seeds} had been looked at before something of the study was changed")
    if record.get("left_out"):
        lines.append(f"seeds {', '.join(map(str, record['left_out']))} were judged for the same claims and left out")
    return lines


def age(record: Mapping[str, Any]) -> str:
    """Whether method, study or a block changed since (``stale``), the engine alone (``older engine``), or nothing."""
    from redistill.sources import digest

    try:
        if digest(record["modules"]) != record["digest"]:
            return "stale"
        return "older engine" if record["engine"] != engine() else ""
    except (AssertionError, KeyError, ModuleNotFoundError):
        return "stale"


def engine() -> str:
    """A hash of that part of the core on which every number depends: not of what judges and writes."""
    from redistill.sources import digest, modules  # not at the top: hashing is no part of listing

    judging = {f"redistill.core.{name}" for name in JUDGING}
    return digest(name for name in modules("redistill.core") if name not in judging)
