"""What a study measured, as JSON with its pictures: written by the runner, read by ``show`` and reports. No torch."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any


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


def digest(modules: Iterable[str], *, leave_out: Collection[str] = ()) -> str:
    """A hash of what the named modules *do*: their syntax trees without comments, docstrings and layout.

    ``leave_out``: names defined at the top of a module that do not count (claims and pictures change no measurement).
    """
    found = hashlib.sha256()
    for name in sorted(modules):
        spec = importlib.util.find_spec(name)
        assert spec and spec.origin, f"no source for {name}"
        tree = ast.parse(Path(spec.origin).read_text())
        tree.body = [node for node in tree.body if not _defines(node) & set(leave_out)]
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        found.update(ast.dump(tree).encode())
    return found.hexdigest()[:20]


def _defines(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Assign):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {node.name} if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else set()


def stale(record: dict[str, Any]) -> bool:
    """Whether the method, the study or a block that it names has changed since the evidence was written."""
    try:
        return digest(record["modules"]) != record["digest"]
    except (AssertionError, KeyError, ModuleNotFoundError):
        return True
