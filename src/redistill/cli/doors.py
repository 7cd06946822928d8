"""From the words of a recipe to networks and rows, and from a student back to what plain libraries load."""

from __future__ import annotations

import copy
import importlib
import inspect
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from redistill import files
from redistill.cli.recipe import DataSpec, ModelSpec
from redistill.core.errors import UserError, need, unknown

if TYPE_CHECKING:
    from redistill.core import Batch, Progress


def load_models(specs: dict[str, ModelSpec]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Role -> network, and role -> what is needed to write a student of its kind back."""
    models: dict[str, Any] = {}
    sources: dict[str, Any] = {}
    for role, spec in sorted(specs.items(), key=lambda item: item[1].kind == "copy"):
        place = f"models.{role}"
        if spec.kind == "copy":
            if spec.path not in models:
                raise unknown("role to copy", spec.path, models, place=f"{place}.path")
            models[role], sources[role] = copy.deepcopy(models[spec.path]), sources[spec.path]
        else:
            models[role], sources[role] = _LOADERS[spec.kind](spec, place)
    return models, sources


def _causal_lm(spec: ModelSpec, place: str) -> tuple[Any, Any]:
    from redistill.models.transformers import load_causal_lm

    return _call(load_causal_lm, spec, place), None


def _classifier(spec: ModelSpec, place: str) -> tuple[Any, Any]:
    from redistill.models.transformers import load_classifier

    return _call(load_classifier, spec, place), None


def _diffusers(spec: ModelSpec, place: str) -> tuple[Any, Any]:
    from redistill.diffusion.doors import load_denoiser

    return _call(load_denoiser, spec, place)


def _timm(spec: ModelSpec, place: str) -> tuple[Any, Any]:
    try:
        import timm
    except ImportError as error:
        raise need("timm", "timm") from error
    try:
        net = timm.create_model(spec.path, **spec.options)
    except (TypeError, ValueError, RuntimeError, OSError) as error:  # OSError: weights that are not here
        raise UserError(f"timm cannot make {spec.path!r} ({files.first_line(error)})", place=place) from error
    return _weights(net, spec, place), None


def factory(path: str, place: str) -> Any:
    """The function behind ``module:function``. Raises :class:`UserError` at ``place``."""
    module, _, name = path.partition(":")
    if not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise UserError(f"{path!r} is no factory; write module:function", place=place)
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise UserError(f"cannot import {path!r} ({files.first_line(error)})", place=place) from error


def _torch(spec: ModelSpec, place: str) -> tuple[Any, Any]:
    make = factory(spec.path, f"{place}.path")
    try:
        net = make(**spec.options)
    except UserError as mistake:
        raise UserError(str(mistake), place=f"{place}.options") from mistake
    except (TypeError, ValueError, RuntimeError) as error:  # a size below 0, a layer that does not exist
        said = f"{spec.path} does not take these options ({files.first_line(error)}{_from(error)})"
        raise UserError(said, place=f"{place}.options") from error
    if net is None:
        raise UserError(f"{spec.path} gives nothing; it must return the network", place=f"{place}.path")
    return _weights(net, spec, place), None


def _from(error: BaseException) -> str:
    """Where an error rose below the call that was tried: file and line, to mend a network of one's own by."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"; {Path(frames[-1].filename).name}:{frames[-1].lineno}" if len(frames) > 1 else ""


_LOADERS = {"causal_lm": _causal_lm, "classifier": _classifier, "diffusers": _diffusers, "timm": _timm, "torch": _torch}


def _call(loader: Any, spec: ModelSpec, place: str) -> Any:
    options = _checked(loader, spec.options, f"{place}.options")
    try:
        return loader(spec.path, **options)
    except UserError as mistake:
        raise UserError(str(mistake), place=place) from mistake


def _checked(
    reader: Callable[..., Any], given: dict[str, Any], place: str, elsewhere: Sequence[str] = ()
) -> dict[str, Any]:
    """``given`` as the options of a reader: all parameters but the first, of the types that they are declared with.
    ``elsewhere``: options that were taken out already."""
    from redistill.core.build import convert

    known = list(inspect.signature(reader).parameters)[1:]
    for name in given:
        if name not in known:
            raise unknown("option", name, [*known, *elsewhere], place=f"{place}.{name}")
    hints = get_type_hints(reader.__init__ if isinstance(reader, type) else reader)
    return {name: convert(value, hints[name], place=f"{place}.{name}") for name, value in given.items()}


def _weights(net: Any, spec: ModelSpec, place: str) -> Any:
    if spec.weights is None:
        return net
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    there = f"{place}.weights"
    try:  # knows that tied weights are stored once
        missing, unexpected = load_model(net, files.existing(spec.weights, there), strict=False)
    except (OSError, SafetensorError) as error:
        said = f"{spec.weights} is no whole safetensors file ({files.first_line(error)}); save it again"
        raise UserError(said, place=there) from error
    except RuntimeError as error:  # its second line names the first keys or shapes that differ
        said = " ".join(str(error).split("\n\t")[1:2])[:200] or files.first_line(error)
        raise UserError(f"{spec.weights} does not fit the network ({said.strip()})", place=there) from error
    for what, names in (("lacks", missing), ("has the unknown", unexpected)):
        if names:
            raise UserError(f"{spec.weights} does not fit the network (it {what} {sorted(names)[0]!r})", place=there)
    return net


_KINDS = {"Denoiser": "diffusers", "CausalLm": "causal_lm"}


def check_types(target: Any, extra: str, models: dict[str, Any]) -> None:
    """Refuse networks of another kind than the method or procedure takes: its annotations say, and a system of the
    extra ``diffusion`` works on denoisers."""
    hints = get_type_hints(target.__init__ if isinstance(target, type) else target)
    for role, net in models.items():
        kinds = [
            k for k in get_args(hints[role]) or [hints[role]] if isinstance(k, type) and k not in (Any, type(None))
        ]
        if extra == "diffusion" and role != "discriminator":
            from redistill.diffusion.denoiser import Denoiser

            kinds = [Denoiser]
        if kinds and not isinstance(net, tuple(kinds)):
            word = _KINDS.get(kinds[0].__name__)
            remedy = f"give kind: {word}" if word else "give a network"
            raise UserError(f"{target.__name__} needs a {kinds[0].__name__} here, got a {type(net).__name__}; {remedy}",
                            place=f"models.{role}")  # fmt: skip


def check_inputs(models: dict[str, Any], rows: Any) -> None:
    """Refuse, before anything is trained, classifiers that do not take the images of ``rows``: the first two are shown
    to them. Not asked: a server (no parameters), and networks that take more than images."""
    from redistill.core.source import table

    count = 0 if rows is None else min(2, len(table(rows)))
    first = table(rows).__getitems__(list(range(count))) if count else {}
    for role in ("student", "teacher"):
        net = models.get(role)
        if "image" in first and net is not None and any(True for _ in net.parameters()) and not hasattr(net, "edges"):
            _check_input(net, first["image"], f"models.{role}")


def _check_input(net: Any, image: Any, place: str) -> None:
    import torch

    before = {module: module.training for module in net.modules()}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            net.eval()(image)
    except UserError:
        raise
    except (RuntimeError, IndexError, TypeError, ValueError, AssertionError) as error:  # of layers, to another shape
        told = f"does not take the data's images {list(image.shape[1:])} ({files.first_line(error)}{_from(error)})"
        agree = "make its input and the data agree"
        remedy = agree if image.is_floating_point() else "store them as float32 on its scale, as image / 255"
        raise UserError(f"{told}; {remedy}", place=place) from error
    finally:
        for module, training in before.items():
            module.training = training


def load_rows(spec: DataSpec, models: dict[str, Any]) -> Any:
    """The rows of a recipe. Texts become tokens of the student's tokenizer: those of a classifier of sequences, and
    questions with demonstrations. The option ``max_length`` cuts both: a classifier's texts at their end, questions
    (with and without demonstration) at their beginning, as :func:`~redistill.language.contexts.encode_conversations`
    says."""
    from redistill import data

    if spec.kind == "none":
        return None
    options, student = dict(spec.options), models.get("student")
    tokens = ["max_length"] if spec.kind == "jsonl" or reads_text(student) else []
    cut = {name: options.pop(name) for name in tokens if name in options}
    readers = {"images": data.ImageFolder, "table": data.read_table, "disk": data.from_disk, "jsonl": data.read_jsonl}
    reader = readers[spec.kind]
    rows = reader(spec.path, **_checked(reader, options, "data.options", tokens))
    if isinstance(rows, dict):
        for wanted, name in spec.columns.items():
            if name not in rows:
                raise unknown("column", name, rows, place=f"data.columns.{wanted}")
            rows[wanted] = rows.pop(name)
    elif spec.columns:
        rows = data.Renamed(rows, spec.columns)
    if spec.rows is not None:
        rows = data.pick(rows, spec.rows)
    if reads_text(student):
        return data.Texts(rows, student.tokenizer, student.classes, **cut)
    return _tokens(rows, student, **cut) if spec.kind == "jsonl" else rows


def numbers(rows: dict[str, Any]) -> dict[str, Any]:
    """Columns as networks take them: float32 and whole numbers. Labels of a CSV file become whole numbers, columns of
    text that no network reads are left out. Raises :class:`UserError` for text and for what is not finite in the
    columns that networks do read."""
    return {name: _numbers(name, column) for name, column in rows.items() if name in _READ or column.dtype.kind != "U"}


_READ = ("image", "label", "condition")


def _numbers(name: str, column: Any) -> Any:
    import numpy as np

    if column.dtype.kind == "U":
        said = f"column {name!r} is text, as {str(column.flat[0])[:40]!r}" if column.size else f"{name!r} is text"
        raise UserError(f"{said}; a network takes numbers: leave it out, or number its classes from 0", place="data")
    if column.dtype.kind != "f":
        return column
    broken = np.flatnonzero(name in _READ and ~np.isfinite(column).all(axis=tuple(range(1, column.ndim))))
    if len(broken):
        said = f"row {broken[0]} of column {name!r} is not finite, or empty; leave the row out or fill it"
        raise UserError(said, place="data")
    if name == "label" and (column == column.round()).all():
        return column.astype(np.int64)
    return column.astype(np.float32) if column.itemsize > 4 else column


def reads_text(student: Any) -> bool:
    """Whether rows become tokens of the student's tokenizer, as a classifier of sequences takes them."""
    from redistill.models.transformers import Classifier

    return isinstance(student, Classifier)


def load_answers(file: Path, rows: Any, teacher: Any) -> Any:
    """The rows with the stored answers of ``teacher``, who is asked once where there are none; None: they must be
    there."""
    from redistill.data.signals import WithSignals, read_signals, with_teacher
    from redistill.supervised.classifier import logits

    if teacher is not None:
        return with_teacher(teacher, rows, file, ask=logits)
    count = len(next(iter(rows.values()))) if isinstance(rows, dict) else len(rows)
    return WithSignals(rows, read_signals(file, count))


def load_augmentation(spec: DataSpec) -> Callable[[Batch, Progress], Batch] | None:
    """How a recipe changes its training images, as ``fit`` takes it."""
    if spec.augment is None:
        return None
    if spec.kind == "jsonl" or spec.teacher_logits:
        what = "stored answers are about rows that never change" if spec.teacher_logits else "texts are not images"
        raise UserError(f"{what}; leave augment out", place="data.augment")
    from redistill.core.build import plug
    from redistill.vision.augmentations import Augmentation

    return plug(Augmentation, spec.augment, place="data.augment").rows


def _tokens(rows: Any, student: Any, **cut: Any) -> Any:
    if getattr(student, "tokenizer", None) is None:
        raise UserError("JSON lines of text need a student of kind causal_lm or classifier", place="data.kind")
    from redistill.language.contexts import asked, require_fitting, shown, two_contexts

    pairs = [_pair(rows[i], i) for i in range(len(rows))]
    try:
        data = two_contexts(student.tokenizer, [asked(p) for p, _ in pairs], [shown(p, d) for p, d in pairs], **cut)
        require_fitting(student, data)
    except UserError as mistake:
        raise UserError(str(mistake), place="data") from mistake
    return data


def _pair(row: Any, number: int) -> tuple[str, str]:
    """The question and the demonstration of a row."""
    for key in ("prompt", "demonstration"):
        if key not in row:
            raise UserError(f"row {number} has no {key!r}; has {sorted(row)}; data.columns renames", place="data")
        if not isinstance(row[key], str):
            raise UserError(f"row {number}: {key!r} is no text but {type(row[key]).__name__}", place="data")
        if not row[key].strip():
            raise UserError(f"row {number}: {key!r} is empty; fill it or leave the row out", place="data")
    return row["prompt"], row["demonstration"]


def check_export(source: Any, steps: int) -> None:
    """Refuse, before it is trained, a student that no scheduler of diffusers can sample."""
    if source is not None:
        from redistill.models.diffusers import scheduler_for

        scheduler_for(source.reading, steps)


def save_student(student: Any, source: Any, folder: Path, steps: int) -> str:
    """Write a student as its own library stores it; returns how to load it."""
    if source is not None:
        from redistill.diffusion.doors import save_student as save_pipeline

        save_pipeline(student, source, folder, steps=steps)
        return f"a diffusers folder; {folder / 'README.md'} says how to sample"
    if hasattr(student, "save"):
        student.save(folder)
        return f"a transformers folder: from_pretrained({str(folder)!r})"
    from safetensors.torch import save_model

    folder.mkdir(parents=True, exist_ok=True)
    save_model(student, str(folder / "model.safetensors"))
    return f"weights for load_state_dict: {folder / 'model.safetensors'}"
