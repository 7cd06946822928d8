"""``redistill compare --recipe``: several systems on the same networks, rows and updates, judged on the same rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files as shipped
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redistill import files
from redistill.cli import run
from redistill.core.errors import UserError

if TYPE_CHECKING:
    from redistill.cli.recipe import Recipe

Scores = dict[str, list[float]]  # number -> its values over seeds


def versus(slugs: Sequence[str], recipe: Path, overrides: Sequence[str], seeds: Sequence[int]) -> dict[str, Scores]:
    """Train every system by the recipe, once a seed, each in a folder of its own below ``out``; its held-out numbers
    and the seconds it took. Equal seeds see equal first weights and equal rows."""
    from redistill.cli.recipe import read

    base = read(recipe, overrides)
    if base.data.held_out is None:
        raise UserError("no rows judge the students; give a share, such as 0.2, or a path", place="data.held_out")
    files.check_empty(base.out, "out")
    wanted = {slug: _for(slug, base) for slug in slugs}  # all mistakes before the first run

    found: dict[str, Scores] = {}
    for slug, one in wanted.items():
        for seed in seeds:
            out = base.out / slug / str(seed)
            run.carry_out(one.model_copy(update={"plan": {**one.plan, "seed": seed}, "out": out}))
            told = json.loads((out / "run.json").read_text())
            numbers = {name: curve[-1][1] for name, curve in told["held_out"].items()}
            for name, value in {**numbers, "seconds": told["seconds"]}.items():
                found.setdefault(slug, {}).setdefault(name, []).append(value)
    return found


def _for(slug: str, base: Recipe) -> Recipe:
    """The recipe for one of the systems: its own options if it names the system, else those of the starter recipe;
    of the networks those that the system takes."""
    import inspect

    cls = run.runnable(slug)
    if not isinstance(cls, type):
        raise UserError(f"{slug} is no single training; redistill run runs it", place="compare")
    options = base.options
    if slug != base.method:
        options = files.yaml_value(shipped("redistill").joinpath(f"recipes/{slug}.yaml").read_text(), slug)["options"]
    taken = inspect.signature(cls).parameters
    models = {role: spec for role, spec in base.models.items() if role in taken}
    run.check_roles(cls, slug, models)
    return base.model_copy(update={"method": slug, "options": options, "models": models})


def table_of(found: dict[str, Scores]) -> Any:
    """Systems down, numbers across, mean ± deviation over seeds."""
    from statistics import mean, stdev

    from rich.table import Table

    names = list(dict.fromkeys(name for scores in found.values() for name in scores))
    table = Table("system", *names, box=None)
    for slug, scores in found.items():
        cells = [f"{mean(v):.4g}" + (f" ± {stdev(v):.2g}" if len(v) > 1 else "") for v in map(scores.get, names) if v]
        table.add_row(slug, *cells)
    return table
