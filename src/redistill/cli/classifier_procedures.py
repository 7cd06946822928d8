"""Procedures on classifiers, as a recipe runs them: several trainings on the user's networks and rows, judged on rows
kept apart. Each writes into ``folder`` and says what it wrote."""

from __future__ import annotations

import copy
import csv
import json
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
    weights: tuple[float, ...] = (0.5, 1.0, 1.25, 1.5, 2.0),
    validation: float = 0.25,
    seed: int = 0,
) -> str:
    """A teacher on the (noisy) labels and one student for each of ``weights``, all from new weights; held-out rows
    choose. Writes the accuracies as JSON and the best network's weights."""
    from safetensors.torch import save_model

    from redistill.methods.analysis.label_noise_sd import distil_through_noise

    if not weights:
        raise UserError("no weight to try; give some, as [1, 1.5]", place="options.weights")
    used, held = _halves(rows, validation, seed)
    found = distil_through_noise(lambda k: _fresh(student, seed + k), used, held, plan, weights=weights)
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
    classes: int,
    input_shape: list[int],
    stages: list[str],
    embedding: str,
    teacher_stages: list[str] | None = None,
    teacher_embedding: str | None = None,
    baselines: dict[str, float] | list[str] | None = None,
    validation: float = 0.25,
    seed: int = 0,
) -> str:
    """The classic baselines on two networks, judged on a share ``validation`` of the rows; ``baselines``: some of them,
    perhaps with factors of their weights. Writes the table as CSV and Markdown, anew after each baseline."""
    from redistill.methods.analysis.survey import as_csv, as_markdown, compare
    from redistill.supervised.baselines import Pair, carried

    used, held = _halves(rows, validation, seed)
    accuracy = _accuracy_on(held, plan.batch_size)
    if accuracy(teacher)["accuracy"] <= 1 / classes + 0.1 * (1 - 1 / classes):
        said = f"{100 * accuracy(teacher)['accuracy']:.0f} % of {classes} classes on held-out rows"
        raise UserError(f"the teacher is hardly better than chance ({said}); train it first", place="models.teacher")
    pair = Pair(teacher, lambda k: _fresh(student, seed + k), input_shape, classes, stages, teacher_stages or stages,
                embedding, teacher_embedding or embedding)  # fmt: skip

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
    time around T = 4 and weight 0.7, ``repeats`` times. ``fresh``: students start from new weights (else from those
    they came with). Writes the runs as CSV and what each factor explains as Markdown."""
    from redistill.beds.metrics import classification
    from redistill.methods.analysis.soft_label_study import Bench, Setting, plane, star

    if repeats < 1:
        raise UserError(f"repeats={repeats}; give a number from 1 up", place="options.repeats")
    used, held = _halves(rows, validation, seed)
    teachers = {"teacher": teacher} | ({"other": other_teacher} if other_teacher is not None else {})
    nets = {"student": student} | ({"other": other_student} if other_student is not None else {})
    levels = {"form": forms, "part": parts, "share": shares, "teacher": list(teachers), "student": list(nets)}
    settings = dict.fromkeys([*plane(Setting(), temperatures, weights), *star(Setting(), **levels)])
    found = []
    for number in range(repeats):
        makers = {name: partial(_start, net, seed + number, fresh) for name, net in nets.items()}
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
    """A Markdown table: how much of the variation of accuracy each factor explains."""
    from redistill.theory.effects import explained

    varied = [name for name in factors if len({row[name] for row in rows}) > 1]
    pairs = [("tau", "soft_weight")] if {"tau", "soft_weight"} <= set(varied) else []
    lines = ["| factor | share of the variation of accuracy | p |", "| --- | --- | --- |"]
    for effect in explained(rows, "accuracy", varied, pairs):
        lines.append(f"| {' x '.join(effect.term)} | {effect.share:.3f} | {effect.p:.2g} |")
    return "\n".join(lines) + "\n"


def _start(network: Any, seed: int, fresh: bool) -> Any:
    return _fresh(network, seed) if fresh else copy.deepcopy(network)


def _halves(rows: Any, share: float, seed: int) -> tuple[Any, Any]:
    """Rows to train on and rows to judge on."""
    from redistill.core.source import table
    from redistill.data.picked import Picked

    if not 0 < share < 1:
        raise UserError(f"validation={share}; give a share between 0 and 1", place="options.validation")
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


def _fresh(network: Any, seed: int) -> Any:
    """A copy with new weights wherever a layer knows how to draw them."""
    import torch

    torch.manual_seed(seed)
    fresh = copy.deepcopy(network)
    for part in fresh.modules():
        getattr(part, "reset_parameters", lambda: None)()
    return fresh
