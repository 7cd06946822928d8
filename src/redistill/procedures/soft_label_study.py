"""Logit distillation through its factors, on the user's own networks and rows."""

from __future__ import annotations

from functools import partial
from typing import Any

from redistill.beds.metrics import classification
from redistill.core.types import Count, Positive, PositiveShare, Seed, Share, ShareInside, checked
from redistill.methods.analysis.soft_label_study import Bench, Form, Part, Setting, plane, star
from redistill.methods.analysis.soft_label_study.effects import explained
from redistill.procedures.job import Job

NEEDS = ("rows", "plan")


@checked
def run(
    job: Job,
    student: Any,
    teacher: Any,
    other_student: Any = None,
    other_teacher: Any = None,
    *,
    temperatures: tuple[Positive, ...] = (1, 2, 4, 8, 16),  # each with every weight
    weights: tuple[Share, ...] = (0, 0.3, 0.5, 0.7, 0.9, 1),  # of the teacher
    forms: tuple[Form, ...] = ("kd", "hard"),  # of the soft loss
    parts: tuple[Part, ...] = ("whole", "confidence", "shuffled", "average", "smoothed"),  # what is left of soft labels
    shares: tuple[PositiveShare, ...] = (1, 0.1),  # of the training rows
    repeats: Count = 3,  # of every setting
    fresh: bool = True,  # start from new weights of a student's kind, not from those it came with
    validation: ShareInside = 0.25,  # of the rows, which judge
    seed: Seed = 0,  # of the split and of new weights
) -> str:
    """The loss of logit distillation through its factors: every temperature with every weight, and the rest one at a
    time around T = 4 and weight 0.7. Writes the runs as CSV and what each factor explains as Markdown."""
    used, held = job.split(validation, seed)
    teachers = {"teacher": teacher} | ({"other": other_teacher} if other_teacher is not None else {})
    starts = {"student": job.starts("student", student, fresh=fresh)}
    if other_student is not None:
        starts["other"] = job.starts("other_student", other_student, fresh=fresh)
    levels = {"form": forms, "part": parts, "share": shares, "teacher": list(teachers), "student": list(starts)}
    settings = dict.fromkeys([*plane(Setting(), temperatures, weights), *star(Setting(), **levels)])

    runs: list[dict[str, Any]] = []
    for number in range(repeats):
        makers = {name: partial(start, seed + number) for name, start in starts.items()}
        plan = job.plan.model_copy(update={"seed": job.plan.seed + number})
        bench = Bench(used, held, plan, teachers=teachers, students=makers, measure=classification)
        runs += [{"repeat": number, **row} for row in bench.table(settings)]

    job.table("soft_label_study.csv", runs)
    file = job.text("soft_label_study.md", effects_of(runs, ["tau", "soft_weight", *levels]))
    best = max(runs, key=lambda row: row["accuracy"])
    return (
        f"{file}: {len(settings)} settings; best {100 * best['accuracy']:.1f} % at T = {best['tau']:g}, weight "
        f"{best['soft_weight']:g}; the teacher has {100 * best['teacher_accuracy']:.1f} %"
    )


def effects_of(rows: list[dict[str, Any]], factors: list[str]) -> str:
    """A Markdown table: how much of the variation of accuracy each factor explains. Without a teacher all settings of a
    student and its rows are one run, which counts once, at the first temperature."""
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
