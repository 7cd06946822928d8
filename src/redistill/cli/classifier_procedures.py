"""Procedures on classifiers, as a recipe runs them: several trainings on the user's networks and rows, judged on rows
kept apart. Each writes into ``folder`` and says what it wrote. ``fresh``: networks start from new weights of their kind
(else from those they came with)."""

from __future__ import annotations

import copy
import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from redistill.core.errors import UserError


def label_noise_sd(
    student: Any,
    *,
    rows: Any,
    plan: Any,
    folder: Path,
    models: Any,
    weights: tuple[float, ...] = (0.5, 1.0, 1.25, 1.5, 2.0),
    fresh: bool = True,
    validation: float = 0.25,
    seed: int = 0,
) -> str:
    """A teacher on the (noisy) labels and one student for each of ``weights``; held-out rows choose. Writes the
    accuracies as JSON and the best network's weights."""
    from safetensors.torch import save_model

    from redistill.methods.analysis.label_noise_sd import distil_through_noise

    if not weights:
        raise UserError("no weight to try; give some, as [1, 1.5]", place="options.weights")
    used, held = halves(rows, validation, seed)
    start = _starts("student", student, models, fresh)
    found = distil_through_noise(lambda k: start(seed + k), used, held, plan, weights=weights)
    folder.mkdir(parents=True, exist_ok=True)
    table = [{"weight": xi, "accuracy": hit} for xi, hit in sorted(found.accuracy.items())]
    (folder / "weights.json").write_text(json.dumps(table, indent=1) + "\n")
    save_model(found.student, str(folder / "model.safetensors"))
    return (
        f"{folder / 'model.safetensors'}: weight {found.xi:g} is best with {100 * found.accuracy[found.xi]:.1f} %, the "
        f"teacher has {100 * found.accuracy[0.0]:.1f} %"
    )


def survey(
    student: Any,
    teacher: Any,
    *,
    rows: Any,
    plan: Any,
    folder: Path,
    models: Any,
    classes: int,
    input_shape: list[int],
    stages: list[str],
    embedding: str,
    teacher_stages: list[str] | None = None,
    teacher_embedding: str | None = None,
    baselines: dict[str, float] | list[str] | None = None,
    fresh: bool = True,
    validation: float = 0.25,
    seed: int = 0,
) -> str:
    """The classic baselines on two networks, judged on a share ``validation`` of the rows; ``baselines``: some of them,
    perhaps with factors of their weights. Writes the table as CSV and Markdown, anew after each baseline."""
    from redistill.methods.analysis.survey import as_csv, as_markdown, compare
    from redistill.methods.analysis.survey.baselines import Pair, carried

    used, held = halves(rows, validation, seed)
    accuracy = _accuracy_on(held, plan.batch_size)
    if accuracy(teacher)["accuracy"] <= 1 / classes + 0.1 * (1 - 1 / classes):
        said = f"{100 * accuracy(teacher)['accuracy']:.0f} % of {classes} classes on held-out rows"
        raise UserError(f"the teacher is hardly better than chance ({said}); train it first", place="models.teacher")
    start = _starts("student", student, models, fresh)
    pair = Pair(teacher, lambda k: start(seed + k), input_shape, classes, stages, teacher_stages or stages, embedding,
                teacher_embedding or embedding)  # fmt: skip

    def keep(found: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "survey.csv").write_text(as_csv(found))
        (folder / "survey.md").write_text(as_markdown(found))

    found = compare(pair, used, plan, accuracy, carried(pair) if baselines is None else baselines, keep=keep)
    return f"{folder / 'survey.md'}: {found[0].name} is the most accurate, {100 * found[0].scores['accuracy']:.1f} %"


def soft_label_study(
    student: Any,
    teacher: Any,
    other_student: Any = None,
    other_teacher: Any = None,
    *,
    rows: Any,
    plan: Any,
    folder: Path,
    models: Any,
    temperatures: tuple[float, ...] = (1, 2, 4, 8, 16),
    weights: tuple[float, ...] = (0, 0.3, 0.5, 0.7, 0.9, 1),
    forms: tuple[str, ...] = ("kd", "hard"),
    parts: tuple[str, ...] = ("whole", "confidence", "shuffled", "average", "smoothed"),
    shares: tuple[float, ...] = (1, 0.1),
    repeats: int = 3,
    fresh: bool = True,
    validation: float = 0.25,
    seed: int = 0,
) -> str:
    """The loss of logit distillation through its factors: every temperature with every weight, and the rest one at a
    time around T = 4 and weight 0.7, ``repeats`` times. Writes the runs as CSV and what each factor explains as
    Markdown."""
    from redistill.beds.metrics import classification
    from redistill.methods.analysis.soft_label_study import Bench, Setting, plane, star

    if repeats < 1:
        raise UserError(f"repeats={repeats}; give a number from 1 up", place="options.repeats")
    used, held = halves(rows, validation, seed)
    teachers = {"teacher": teacher} | ({"other": other_teacher} if other_teacher is not None else {})
    starts = {"student": _starts("student", student, models, fresh)}
    if other_student is not None:
        starts["other"] = _starts("other_student", other_student, models, fresh)
    levels = {"form": forms, "part": parts, "share": shares, "teacher": list(teachers), "student": list(starts)}
    settings = dict.fromkeys([*plane(Setting(), temperatures, weights), *star(Setting(), **levels)])
    found = []
    for number in range(repeats):
        makers = {name: partial(start, seed + number) for name, start in starts.items()}
        bench = Bench(used, held, plan.model_copy(update={"seed": plan.seed + number}), teachers=teachers,
                      students=makers, measure=classification)  # fmt: skip
        found += [{"repeat": number, **row} for row in bench.table(settings)]
    folder.mkdir(parents=True, exist_ok=True)
    _write_csv(found, folder / "soft_label_study.csv")
    (folder / "soft_label_study.md").write_text(_effects_of(found, ["tau", "soft_weight", *levels]))
    best = max(found, key=lambda row: row["accuracy"])
    return (
        f"{folder / 'soft_label_study.md'}: {len(settings)} settings; best {100 * best['accuracy']:.1f} % at "
        f"T = {best['tau']:g}, weight {best['soft_weight']:g}; the teacher has {100 * best['teacher_accuracy']:.1f} %"
    )


def _write_csv(rows: list[dict[str, Any]], file: Path) -> None:
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _effects_of(rows: list[dict[str, Any]], factors: list[str]) -> str:
    """A Markdown table: how much of the variation of accuracy each factor explains. Without a teacher all settings of a
    student and its rows are one run, which counts once, at the first temperature."""
    from redistill.methods.analysis.soft_label_study.effects import explained

    alone = ("student", "share")
    distinct = {
        tuple(row[n] for n in ("repeat", *(factors if row["soft_weight"] else alone))): row for row in rows[::-1]
    }
    rows = list(distinct.values())
    if len(rows) < 3 or len({row["accuracy"] for row in rows}) == 1:
        return f"Nothing to explain: {len(rows)} runs, accuracies {sorted({row['accuracy'] for row in rows})}.\n"
    varied = [name for name in factors if len({row[name] for row in rows}) > 1]
    pairs = [("tau", "soft_weight")] if {"tau", "soft_weight"} <= set(varied) else []
    lines = ["| factor | share of the variation of accuracy | p |", "| --- | --- | --- |"]
    for effect in explained(rows, "accuracy", varied, pairs):
        lines.append(f"| {' x '.join(effect.term)} | {effect.share:.3f} | {effect.p:.2g} |")
    return "\n".join(lines) + "\n"


def halves(rows: Any, share: float, seed: int) -> tuple[Any, Any]:
    """Rows to train on and rows to judge on."""
    from redistill.core.source import table
    from redistill.data.picked import Picked

    if not 0 < share < 1:
        raise UserError(f"validation={share}; give a share between 0 and 1", place="options.validation")
    if seed < 0:
        raise UserError(f"seed={seed}; give a whole number from 0", place="options.seed")
    count = len(table(rows))
    parts = np.split(np.random.default_rng(seed).permutation(count), [count - max(1, round(share * count))])
    return tuple({n: c[p] for n, c in rows.items()} if isinstance(rows, dict) else Picked(rows, p) for p in parts)


def _accuracy_on(rows: Any, batch_size: int) -> Any:
    """A function from a network to its accuracy on ``rows``."""
    import torch

    from redistill.core.source import table
    from redistill.supervised.classifier import logits

    held = table(rows)
    batches = [list(range(len(held)))[at : at + batch_size] for at in range(0, len(held), batch_size)]

    @torch.no_grad()
    def accuracy(network: Any) -> dict[str, float]:
        device, hits = next(network.parameters()).device, 0
        for batch in map(held.__getitems__, batches):
            moved = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
            hits += int((logits(network.eval(), moved).argmax(1) == moved["label"]).sum())
        return {"accuracy": hits / len(held)}

    return accuracy


def _starts(role: str, network: Any, models: dict[str, Any], fresh: bool) -> Callable[[int], Any]:
    """A function from a seed to a network to train: what the recipe's loader makes under that seed, without stored
    weights, or (not ``fresh``) a copy of ``network``."""
    import torch

    from redistill.cli.doors import load_models

    while models[role].kind == "copy":
        role = models[role].path
    spec = models[role].model_copy(update={"weights": None})

    def start(seed: int) -> Any:
        if not fresh:
            return copy.deepcopy(network)
        torch.manual_seed(seed)
        return load_models({role: spec})[0][role]

    if fresh:
        _check_new(start(0), start(1), f"models.{role}")
    return start


def _check_new(one: Any, other: Any, place: str) -> None:
    """Refuse networks with weights that no seed changes: they come from a file, or were drawn before."""
    import torch

    pairs = zip(one.named_parameters(), other.parameters())
    kept = [n for (n, p), q in pairs if p.requires_grad and torch.equal(p, q) and p.unique().numel() > 1]
    if kept:
        said = ", ".join(kept[:3]) + (f" and {len(kept) - 3} more" if len(kept) > 3 else "")
        raise UserError(f"comes with weights, so no start is new: {said}; set options.fresh to false", place=place)
