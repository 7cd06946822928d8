"""``redistill run``: distil the user's own model as a recipe says. ``redistill init``: a starter recipe."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redistill import files
from redistill.cli.own import own_method, theirs
from redistill.core.errors import UserError, need, reading, unknown

if TYPE_CHECKING:
    from redistill.cli.recipe import DataSpec, Recipe
    from redistill.core import Batch, Progress
    from redistill.models.doors import ModelSpec

Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="overrides, as plan.lr=0.001")]


def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="a YAML file; redistill init writes one")],
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option(help="Continue from the last checkpoint to the same bits.")] = False,
    until: Annotated[int | None, typer.Option(min=1, help="Stop after so many updates; --resume goes on.")] = None,
) -> None:
    """Distil your own model: read, check everything, train, export for the plain library.

    Any recipe may also say: data.held_out (a share, or a path: validation numbers), watch.every (updates between two
    looks), watch.samples (pictures of a generator), keep: best (weights of the best number), merge: false (a LoRA
    student as a peft adapter), method: module:Class (your own). out then holds student/, log.jsonl, run.json and
    curves.png.
    """
    from redistill.cli.recipe import read
    from redistill.core.world import leave

    how = carry_out(read(recipe, overrides or []), resume, until)
    typer.echo(how, nl=bool(how))
    leave()


def carry_out(wanted: Recipe, resume: bool = False, until: int | None = None) -> str:
    """Check a recipe whole and run it; returns what was written."""
    from redistill.core.build import read_options

    target = runnable(wanted.method, _kind(wanted.models, "student"))
    if not isinstance(target, type):
        _check_procedure(wanted, target, resume, until)
    with theirs():
        read_options(target, wanted.options)  # before anything heavy is loaded
    stored = {"teacher": None} if wanted.data.teacher_logits else {}
    roles = check_roles(target, wanted.method, {**stored, **wanted.models})
    _check_out(wanted.out, resume, ["checkpoints", "log.jsonl"] if isinstance(target, type) else [])
    start = partial(_train, until=until) if isinstance(target, type) else _call
    return start(wanted, target, roles, resume)


def _train(wanted: Recipe, cls: Any, roles: list[str], resume: bool, *, until: int | None) -> str:
    """A method: fit, and export the student."""
    import torch

    from redistill.cli.watch import summary
    from redistill.core import checkpoint, fit
    from redistill.core.build import build
    from redistill.core.source import table
    from redistill.models import doors

    plan = _plan(wanted.plan)
    torch.manual_seed(plan.seed)  # networks that start from chance
    augment = _augmentation(wanted.data)
    models, sources = _networks(wanted, cls)
    rows = every = _rows(wanted, cls, models)
    if wanted.data.teacher_logits:
        rows = _with_answers(wanted.data.teacher_logits, rows, models.pop("teacher", None))
    rows, held_out = _apart(wanted, rows, lambda spec: _rows(wanted.model_copy(update={"data": spec}), cls, models))
    options = {**_from_data(cls, every, rows), **wanted.options}
    doors.check_merge(models.get("student"), wanted.merge)
    with theirs():
        method = build(cls, options, *[models.get(role) for role in roles], place="options")
    doors.check_export(sources.get("student"), options.get("steps", 1))
    observers, best = _watchers(wanted, plan, method, rows, held_out)

    with theirs():
        done = fit(
            method, rows, plan, folder=wanted.out, resume=resume, until=until, augment=augment, observers=observers,
            show=True,
        )  # fmt: skip
    if not done.main:  # another process writes
        return ""
    last = checkpoint.last_step(wanted.out / "checkpoints")
    chosen = best.give(done.student) if best else 0
    summary(wanted.out / "run.json", done, chosen or last, method=wanted.method, rows=len(table(rows)))
    source, target = sources.get("student"), wanted.out / "student"
    how = doors.save_student(
        done.student, source, target, options.get("steps", 1), merge=wanted.merge,
        spec=doors.origin(wanted.models, "student"), shape=_shape(rows),
    )  # fmt: skip
    return f"student after {last} steps{f', as it was after {chosen}' if chosen else ''}: {how}"


def _apart(wanted: Recipe, rows: Any, load: Callable[[DataSpec], Any]) -> tuple[Any, Any]:
    """Rows to train on, and rows to judge on or None; ``load`` reads those of another file. A share is drawn by
    the number of rows alone, so that every seed of a plan is judged on the same ones."""
    from redistill.data.picked import split

    spec, place = wanted.data, "data.held_out"
    if spec.held_out is None:
        return rows, None
    if rows is None:
        raise UserError("a recipe without data has no rows to hold out", place=place)
    if not isinstance(spec.held_out, str):
        if not 0 < spec.held_out < 1:
            raise UserError(f"{spec.held_out} is no share; give a number between 0 and 1, or a path", place=place)
        return split(rows, spec.held_out, seed=0)
    if spec.teacher_logits:
        raise UserError("the stored answers are about the rows of data.path; give a share", place=place)
    held_out = load(spec.model_copy(update={"path": spec.held_out, "held_out": None, "rows": None}))
    if getattr(held_out, "classes", None) != getattr(rows, "classes", None):
        raise UserError(f"other classes ({held_out.classes}) than data.path ({rows.classes})", place=place)
    return rows, held_out


def _watchers(wanted: Recipe, plan: Any, method: Any, rows: Any, held_out: Any) -> tuple[list[Any], Any]:
    """The observers that a recipe asks for, and among them the one that keeps the best weights, or None."""
    from redistill.cli.curves import Curves
    from redistill.cli.judges import judge_of
    from redistill.cli.watch import Best, Due, HeldOut
    from redistill.core.source import table

    due = Due(wanted.watch.every, plan.log_every)
    observers: list[Any] = [Curves(wanted.out / "log.jsonl", wanted.out / "curves.png")]
    best = None
    if held_out is not None:
        judge = judge_of(method, held_out, plan.batch_size)
        observers.append(HeldOut(judge, due))
        if wanted.keep == "best":
            best = Best(wanted.out / "best.safetensors", judge, method.export(), len(table(held_out)))
            observers.append(best)
    elif wanted.keep == "best":
        raise UserError("no rows say which weights are best; give data.held_out", place="keep")
    if wanted.watch.samples:
        from redistill.cli.samples import Samples

        observers.append(Samples(method, rows, wanted.watch.samples, wanted.out / "samples", due))
    return observers, best


def _shape(rows: Any) -> tuple[int, ...] | None:
    """Of one picture, without the row, where the rows hold pictures."""
    from redistill.core.source import table

    first = table(rows).__getitems__([0])
    return tuple(first["image"].shape[1:]) if "image" in first else None


def _call(wanted: Recipe, procedure: Any, roles: list[str], resume: bool) -> str:
    """A procedure: it gets a job, writes into its folder, and says what it wrote."""
    import torch

    from redistill.core.build import build
    from redistill.models.doors import make_anew
    from redistill.procedures.job import Job

    plan = _plan(wanted.plan) if "plan" in needs(procedure) else None
    torch.manual_seed(plan.seed if plan else 0)  # networks that start from chance
    models, sources = _networks(wanted, procedure)
    rows = _rows(wanted, procedure, models)
    job = Job(wanted.out, rows=rows, plan=plan, resume=resume, sources=sources, make=partial(make_anew, wanted.models))
    return str(build(procedure, wanted.options, job, *[models.get(role) for role in roles], name=wanted.method))


def _networks(wanted: Recipe, target: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recipe's networks, of the kinds that the method or procedure takes, and where they came from."""
    from redistill.models.checks import check_types
    from redistill.models.doors import load_models
    from redistill.models.transformers import CausalLm, check_vocabularies

    models, sources = load_models(wanted.models)
    check_types(target, _name(target, wanted.method), models)
    if all(isinstance(models.get(role), CausalLm) for role in ("student", "teacher")):
        check_vocabularies(models["student"], models["teacher"])
    return models, sources


def _rows(wanted: Recipe, target: Any, models: dict[str, Any]) -> Any:
    """The recipe's rows; where networks read them, as numbers that these networks take."""
    from redistill.data.doors import numbers
    from redistill.language.doors import load_rows, reads_text
    from redistill.models.checks import check_inputs

    student = models.get("student")
    rows = load_rows(wanted.data, student, getattr(target, "needs", ()))
    if not models or reads_text(student):
        return rows
    if wanted.data.kind == "table" and isinstance(rows, dict):
        rows = numbers(rows)
    if _classifies(wanted.method) and not hasattr(student, "tokenizer"):
        check_inputs(models, rows)
    return rows


def _classifies(method: str) -> bool:
    """Whether images go to its networks as they are in the rows."""
    from redistill.catalog import CLASSICS, entry

    return method in CLASSICS or (":" not in method and entry(method).group in ("supervised", "analysis"))


def _with_answers(file: Path, rows: Any, teacher: Any) -> Any:
    """The rows with the stored answers of ``teacher``, who is asked once where there are none; None: they must be
    there."""
    from redistill.data.signals import WithSignals, read_signals, with_teacher
    from redistill.supervised.classifier import logits

    if teacher is not None:
        return with_teacher(teacher, rows, file, ask=logits)
    count = len(next(iter(rows.values()))) if isinstance(rows, dict) else len(rows)
    return WithSignals(rows, read_signals(file, count))


def _augmentation(spec: DataSpec) -> Callable[[Batch, Progress], Batch] | None:
    """How a recipe changes its training images, as ``fit`` takes it."""
    if spec.augment is None:
        return None
    if spec.kind == "jsonl" or spec.teacher_logits:
        what = "stored answers are about rows that never change" if spec.teacher_logits else "texts are not images"
        raise UserError(f"{what}; leave augment out", place="data.augment")
    from redistill.core.build import plug
    from redistill.vision.augmentations import Augmentation

    return plug(Augmentation, spec.augment, place="data.augment").rows


def _plan(given: dict[str, Any]) -> Any:
    """The plan, with what only torch and the installed packages can say of it."""
    import torch

    from redistill.core import Plan
    from redistill.core.build import validated

    plan = validated(Plan, given, place="plan")
    try:
        for optim in (plan, *map(plan.optim, plan.turns)):
            optim.build([torch.nn.Parameter(torch.zeros(1))])
    except ValueError as error:
        raise UserError(files.first_line(error), place="plan") from error
    for name in plan.trackers:
        if find_spec(name) is None:
            raise need("trackers" if name == "tensorboard" else name, name)
    return plan


def _check_out(out: Path, resume: bool, marks: list[str]) -> None:
    """Refuse a folder to write that holds another run; with ``resume``, one that holds something else (no file
    called one of ``marks``). An empty one begins anew then too, as one with the job's own output or a
    tracker's folder (called like ``out``): a job that is started again and again always resumes."""
    files.check_out(out, "out")
    there = {file.name for file in out.iterdir()} if out.exists() else set()
    if there and not resume:
        raise UserError(f"{out} holds another run; give --resume or another out", place="out")
    ours = {name for name in there if name in (*marks, out.name) or name.endswith((".out", ".err", ".log"))}
    if there and ((marks and not ours) or (out / "checkpoints").is_file()):
        raise UserError(f"{out} holds no run to go on with; leave --resume out, or name the run's folder", place="out")


def _check_procedure(wanted: Recipe, procedure: Any, resume: bool, until: int | None) -> None:
    """What a procedure cannot do with its rows, with a plan, or a second time."""
    slug, asked = wanted.method, needs(procedure)
    unfit = {"data.held_out": wanted.data.held_out, "keep": wanted.keep == "best", "merge": not wanted.merge}
    for place, given in {**unfit, "watch.samples": wanted.watch.samples, "--until": until}.items():
        if given:
            raise UserError(f"{slug} is no single training; leave {place} out", place=place)
    if wanted.data.augment:
        raise UserError(f"{slug} reads its rows as they are; leave augment out", place="data.augment")
    if wanted.data.teacher_logits:
        raise UserError(f"{slug} asks its teacher itself; leave it out", place="data.teacher_logits")
    if wanted.data.kind == "none" and "rows" in asked:
        raise UserError(f"{slug} needs rows; give images, table, disk or jsonl", place="data.kind")
    if wanted.plan and "plan" not in asked:
        raise UserError(f"{slug} does not train; leave the plan out", place="plan")
    if resume and "resume" not in asked:
        raise UserError(f"{slug} cannot go on where it was; start anew in another out", place="--resume")


def needs(procedure: Any) -> tuple[str, ...]:
    """Which of ``rows``, ``plan`` and ``resume`` a procedure works with."""
    return sys.modules[procedure.__module__].NEEDS


def _kind(models: dict[str, ModelSpec], role: str) -> str:
    """The kind of the network in ``role``, of a copy that of its original; empty where there is none."""
    while role in models and models[role].kind == "copy" and models[role].path != role:
        role = models[role].path
    return models[role].kind if role in models else ""


def runnable(slug: str, kind: str = "") -> Any:
    """The method of a system that trains, the procedure of one that does not, a classic (for a student of ``kind``), or
    the user's own ``module:Class``. Raises :class:`UserError` for one that is only planned."""
    from redistill.catalog import CLASSICS, entry, load

    if slug in CLASSICS:
        of_text = kind == "causal_lm" and "text" in CLASSICS[slug]
        return load(CLASSICS[slug]["text" if of_text else "run"])
    if ":" in slug:
        return own_method(slug)
    found = entry(slug)
    if found.status != "built":
        raise UserError(f"{slug!r} is planned, not built yet; redistill list --status built", place="method")
    return load(found.run)


def _name(target: Any, slug: str) -> str:
    """What errors call a method or a procedure."""
    return target.__name__ if isinstance(target, type) else slug


def check_roles(target: Any, slug: str, given: dict[str, Any]) -> list[str]:
    """The positional parameters of a method or (after its job) of a procedure are its roles; every one without a
    default must be given."""
    positional = [p for p in inspect.signature(target).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    roles = {p.name: p for p in positional if p.name != "job"}
    for name in given:
        if name not in roles:
            raise unknown("role", name, roles, place=f"models.{name}")
    for name, parameter in roles.items():
        if parameter.default is parameter.empty and name not in given:
            raise UserError(f"{_name(target, slug)} needs a {name}", place="models")
    return list(roles)


def _from_data(cls: Any, every: Any, rows: Any) -> dict[str, Any]:
    """Options that only count the data (``classes`` of all, ``rows`` that are trained on) need not be written."""
    from redistill.core.slot import options

    known, found = options(cls), {}
    if rows is None and "rows" in known:
        raise UserError(f"{cls.__name__} needs rows; give images, table, disk or jsonl", place="data.kind")
    if "rows" in known:
        found["rows"] = len(next(iter(rows.values()))) if isinstance(rows, dict) else len(rows)
        if not found["rows"]:
            raise UserError("the data set is empty", place="data")
    if "classes" in known and hasattr(every, "classes"):
        found["classes"] = len(every.classes)
    return found


def init(
    slug: Annotated[str, typer.Argument(metavar="SLUG", help="a system")],
    out: Annotated[Path | None, typer.Option(help="file to write; SLUG.yaml if left out")] = None,
) -> None:
    """Write a starter recipe for a system."""
    from importlib.resources import files

    from redistill.catalog import CLASSICS

    if ":" in slug:
        raise UserError(f"{slug} is your own; its recipe is any other's with this method", place="init")
    runnable(slug)
    if slug in CLASSICS and slug != "kd":
        raise UserError(f"{slug} has no recipe of its own; write that of kd and change the method", place="init")
    target = out or Path(f"{slug}.yaml")
    with reading(f"cannot write {str(target)[:60]!r}", place="--out"):  # a name too long, a folder that is not ours
        if target.exists():
            raise UserError(f"{target} exists; choose another --out", place="init")
        if not target.parent.is_dir():
            raise UserError(f"no such folder: {target.parent}", place="--out")
        target.write_text(files("redistill").joinpath(f"recipes/{slug}.yaml").read_text())
    typer.echo(f"wrote {target}; edit it, then: redistill run {target}")
