"""What a study measured, as JSON with its pictures: written by the runner, read by ``show`` and reports. No torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from redistill.sources import digest


def folder() -> Path:
    """Where evidence lies: ``REDISTILL_EVIDENCE``, the checkout's ``evidence/`` or ``./evidence``."""
    if "REDISTILL_EVIDENCE" in os.environ:
        return Path(os.environ["REDISTILL_EVIDENCE"])
    checkout = Path(__file__).parents[3] / "evidence"
    return checkout if checkout.is_dir() else Path("evidence")


def read(slug: str) -> dict[str, Any] | None:
    """The evidence for a system, or None."""
    file = folder() / f"{slug}.json"
    return json.loads(file.read_text()) if file.exists() else None


def write(record: dict[str, Any], target: Path) -> Path:
    """Write ``target/<slug>.json`` (beside, then renamed)."""
    target.mkdir(parents=True, exist_ok=True)
    beside, file = target / f".{record['slug']}.json", target / f"{record['slug']}.json"
    beside.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    os.replace(beside, file)
    return file


def effect(claim: Mapping[str, Any]) -> str:
    """A judged claim's effect and its spread over seeds, for people: ``0.085 ± 0.03``, or percent where relative."""
    scale, unit = (100, " %") if claim["relative"] else (1, "")
    return f"{scale * claim['effect']:.3g} ± {round(scale * claim['effect_sd'], 9):.2g}{unit}"


def stale(record: dict[str, Any]) -> bool:
    """Whether the method, the study or a block that it names has changed since the evidence was written."""
    try:
        return digest(record["modules"]) != record["digest"]
    except (AssertionError, KeyError, ModuleNotFoundError):
        return True
