"""``redistill run``: distil the user's own model as a recipe says. ``redistill init``: a starter recipe."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from redistill.core.errors import UserError, unknown

Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="overrides, as plan.lr=0.001")]


def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="a YAML file; redistill init writes one")],
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option(help="Continue from the last checkpoint to the same bits.")] = False,
) -> None:
    """Distil your own model: read, check everything, train, export for the plain library."""
    from redistill.cli.recipe import read

    wanted = read(recipe, overrides or [])
    target = runnable(wanted.method)
    if not isinstance(target, type):
        _check_rows(wanted, target)
    stored = {"teacher": None} if wanted.data.teacher_logits else {}
    roles = check_roles(target, {**stored, **wanted.models})
    if wanted.out.exists() and any(wanted.out.iterdir()) and not resume:
        raise UserError(f"{wanted.out} holds another run; give --resume or another out", place="out")
    start = _train if isinstance(target, type) else _call
    how = start(wanted, target, roles, resume)
    typer.echo(how, nl=bool(how))
    from redistill.core.world import leave

    leave()


def _train(wanted: Any, cls: Any, roles: list[str], resume: bool) -> str:
    """A method: fit, and export the student."""
    import torch

    from redistill.cli import doors
    from redistill.core import Plan, fit
    from redistill.core.build import build, validated

    plan = validated(Plan, wanted.plan, place="plan")
    torch.manual_seed(plan.seed)  # networks that start from chance
    augment = doors.load_augmentation(wanted.data)
    models, sources = doors.load_models(wanted.models)
    rows = doors.load_rows(wanted.data, models)
    options = {**_from_data(cls, rows), **wanted.options}
    if wanted.data.teacher_logits:
        rows = doors.load_answers(wanted.data.teacher_logits, rows, models.pop("teacher", None))
    method = build(cls, options, *[models.get(role) for role in roles], place="options")
    doors.check_export(sources["student"], options.get("steps", 1))
    if hasattr(method, "meet"):
        method.meet(rows)  # what it takes from all rows at once; a checkpoint that is resumed has it
    done = fit(method, rows, plan, folder=wanted.out, resume=resume, augment=augment, show=True)
    if not done.main:  # another process writes
        return ""
    how = doors.save_student(done.student, sources["student"], wanted.out / "student", options.get("steps", 1))
    return f"student after {done.history[-1]['step']} steps: {how}"


def _call(wanted: Any, function: Any, roles: list[str], resume: bool) -> str:
    """A procedure: it gets what it asks for by name, writes into the folder, and says what it wrote."""
    import torch

    from redistill.cli import doors
    from redistill.core import Plan
    from redistill.core.build import build, validated

    asked = inspect.signature(function).parameters
    if wanted.plan and "plan" not in asked:
        raise UserError(f"{wanted.method} does not train; leave the plan out", place="plan")
    if resume and "resume" not in asked:
        raise UserError(f"{wanted.method} cannot go on where it was; start anew in another out", place="--resume")
    plan = validated(Plan, wanted.plan, place="plan") if "plan" in asked else None
    torch.manual_seed(plan.seed if plan else 0)  # networks that start from chance
    models, sources = doors.load_models(wanted.models)
    given = {"rows": lambda: doors.load_rows(wanted.data, models), "folder": lambda: wanted.out,
             "sources": lambda: sources, "models": lambda: wanted.models, "plan": lambda: plan,
             "resume": lambda: resume}  # fmt: skip
    filled = {name: make() for name, make in given.items() if name in asked}
    return str(build(function, wanted.options, *[models.get(role) for role in roles], **filled))


def _check_rows(wanted: Any, function: Any) -> None:
    """What a procedure cannot do with its rows."""
    if wanted.data.augment:
        raise UserError(f"{wanted.method} reads its rows as they are; leave augment out", place="data.augment")
    if wanted.data.teacher_logits:
        raise UserError(f"{wanted.method} asks its teacher itself; leave it out", place="data.teacher_logits")
    rows = inspect.signature(function).parameters.get("rows")
    if wanted.data.kind == "none" and rows is not None and rows.default is rows.empty:
        raise UserError(f"{wanted.method} needs rows; give images, table, disk or jsonl", place="data.kind")


def runnable(slug: str) -> Any:
    """The method of a system that trains, or the procedure of one that does not. Raises :class:`UserError` for one
    that is only planned."""
    from redistill.catalog import entry, load

    found = entry(slug)
    if found.status != "built":
        raise UserError(f"{slug!r} is planned, not built yet; redistill list --status built", place="method")
    return load(found.run or found.class_)


def check_roles(target: Any, given: dict[str, Any]) -> list[str]:
    """The positional parameters of a method or procedure are its roles; every one without a default must be given."""
    parameters = inspect.signature(target).parameters.values()
    roles = {p.name: p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
    for name in given:
        if name not in roles:
            raise unknown("role", name, roles, place=f"models.{name}")
    for name, parameter in roles.items():
        if parameter.default is parameter.empty and name not in given:
            raise UserError(f"{target.__name__} needs a {name}", place="models")
    return list(roles)


def _from_data(cls: Any, rows: Any) -> dict[str, Any]:
    """Options that only count the data (``rows``, ``classes``) need not be written."""
    from redistill.core.slot import options

    known, found = options(cls), {}
    if "rows" in known:
        found["rows"] = len(next(iter(rows.values()))) if isinstance(rows, dict) else len(rows)
    if "classes" in known and hasattr(rows, "classes"):
        found["classes"] = len(rows.classes)
    return found


def init(
    slug: Annotated[str, typer.Argument(metavar="SLUG", help="a system")],
    out: Annotated[Path | None, typer.Option(help="file to write; SLUG.yaml if left out")] = None,
) -> None:
    """Write a starter recipe for a system."""
    from importlib.resources import files

    runnable(slug)
    target = out or Path(f"{slug}.yaml")
    if target.exists():
        raise UserError(f"{target} exists; choose another --out", place="init")
    if not target.parent.is_dir():
        raise UserError(f"no such folder: {target.parent}", place="--out")
    target.write_text(files("redistill").joinpath(f"recipes/{slug}.yaml").read_text())
    typer.echo(f"wrote {target}; edit it, then: redistill run {target}")
