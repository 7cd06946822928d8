"""A recipe: which method, on which models and data, with which budget. Checked whole before anything heavy is
loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from redistill import files
from redistill.core.errors import UserError, reading, unknown
from redistill.data.doors import DataSpec
from redistill.models.doors import ModelSpec


class WatchSpec(BaseModel):
    """How often a run is looked at while it trains."""

    model_config = ConfigDict(extra="forbid")
    every: int | None = Field(None, gt=0, description="updates between two looks; without it a twentieth of the run")
    samples: int = Field(0, ge=0, le=256, description="pictures of a generator at each look, of fixed noise")


class Recipe(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid")
    method: str = Field(description="a system's slug, or module:Class of an own redistill.Method")
    models: dict[str, ModelSpec] = {}
    options: dict[str, Any] = {}
    data: DataSpec
    plan: dict[str, Any] = {}
    watch: WatchSpec = WatchSpec()
    keep: Literal["last", "best"] = Field("last", description="best: write the weights of the best held-out number")
    merge: bool = Field(True, description="false: a student with an adapter is written as a peft adapter alone")
    out: Path


def read(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in ``path`` with ``key.key=value`` overrides; ``models.role=null`` leaves a role out. Raises
    :class:`UserError` with the place of a mistake."""
    from redistill.core.build import validated

    with reading(f"cannot look for {str(path)[:60]!r}", place="recipe"):
        if not path.exists():
            raise UserError(f"no such file: {path}; redistill init SLUG writes one", place="recipe")
    given = files.yaml_value(files.text(path, "recipe"), str(path))
    if not isinstance(given, dict):
        raise UserError("a recipe is a table of keys: method, models, data, plan, out", place=str(path))
    for override in overrides:
        _override(given, override)
    if isinstance(given.get("models"), dict):
        given["models"] = {role: spec for role, spec in given["models"].items() if spec is not None}
    for table, spec in (("models", ModelSpec), ("data", DataSpec), ("watch", WatchSpec)):
        _check_tables(given.get(table), table, spec, path)
    return validated(Recipe, given, place=str(path))


def _check_tables(given: Any, name: str, spec: type[BaseModel], path: Path) -> None:
    """Nested tables first, so that a mistyped key is named with its nearest valid word."""
    from redistill.core.build import validated

    parts = given.items() if name == "models" and isinstance(given, dict) else [("", given)]
    for key, value in parts:
        if isinstance(value, dict):
            validated(spec, value, place=f"{path}: {name}{'.' * bool(key)}{key}")


def _override(given: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"{text!r} is no override; write key=value, as in plan.lr=0.001", place="run")
    *tables, last = key.split(".")
    if not tables and last not in Recipe.model_fields:
        raise unknown("key", last, Recipe.model_fields, place=key)
    for name in tables:
        given = given.setdefault(name, {})
        if not isinstance(given, dict):
            raise UserError(f"{name!r} holds a value, not a table", place=key)
    given[last] = files.yaml_value(value, key, lines=False)
