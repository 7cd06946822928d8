"""From the words of a recipe to networks and rows, and from a student back to what plain libraries load."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    return _weights(_call(timm.create_model, spec, place), spec, place), None


def factory(path: str, place: str) -> Any:
    """The function behind ``module:function``. Raises :class:`UserError` at ``place``."""
    module, colon, name = path.partition(":")
    if not colon:
        raise UserError(f"{path!r} is no factory; write module:function", place=place)
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"cannot import {path!r} ({error})", place=place) from error


def _torch(spec: ModelSpec, place: str) -> tuple[Any, Any]:
    make = factory(spec.path, f"{place}.path")
    try:
        net = make(**spec.options)
    except TypeError as error:
        raise UserError(f"{spec.path} does not take these options ({error})", place=f"{place}.options") from error
    return _weights(net, spec, place), None


_LOADERS = {"causal_lm": _causal_lm, "classifier": _classifier, "diffusers": _diffusers, "timm": _timm, "torch": _torch}


def _call(loader: Any, spec: ModelSpec, place: str) -> Any:
    try:
        return loader(spec.path, **spec.options)
    except UserError as mistake:
        raise UserError(str(mistake), place=place) from mistake
    except TypeError as error:
        raise UserError(str(error), place=f"{place}.options") from error


def _weights(net: Any, spec: ModelSpec, place: str) -> Any:
    if spec.weights is None:
        return net
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        net.load_state_dict(load_file(spec.weights))
    except (OSError, SafetensorError, RuntimeError) as error:
        said = str(error).splitlines()[0]
        raise UserError(f"{spec.weights} does not fit the network ({said})", place=f"{place}.weights") from error
    return net


def load_rows(spec: DataSpec, models: dict[str, Any]) -> Any:
    """The rows of a recipe. Texts become tokens of the student's tokenizer: those of a classifier of sequences, and
    questions with demonstrations. The option ``max_length`` cuts both: a classifier's texts at their end, questions
    (with and without demonstration) at their beginning, as :func:`~redistill.language.contexts.encode_conversations`
    says."""
    from redistill import data

    if spec.kind == "none":
        return None
    options, student = dict(spec.options), models.get("student")
    tokenised = spec.kind == "jsonl" or _reads_text(student)
    cut = {"max_length": options.pop("max_length")} if tokenised and "max_length" in options else {}
    readers = {"images": data.ImageFolder, "table": data.read_table, "disk": data.from_disk, "jsonl": data.read_jsonl}
    try:
        rows = readers[spec.kind](spec.path, **options)
    except TypeError as error:
        raise UserError(str(error), place="data.options") from error
    if isinstance(rows, dict):
        for wanted, name in spec.columns.items():
            if name not in rows:
                raise unknown("column", name, rows, place=f"data.columns.{wanted}")
            rows[wanted] = rows.pop(name)
    elif spec.columns:
        rows = data.Renamed(rows, spec.columns)
    if spec.rows is not None:
        rows = data.pick(rows, spec.rows)
    if _reads_text(student):
        return data.Texts(rows, student.tokenizer, student.classes, **cut)
    return _tokens(rows, student, **cut) if spec.kind == "jsonl" else rows


def _reads_text(student: Any) -> bool:
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
