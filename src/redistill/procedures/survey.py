"""The classic baselines on the user's own pair of networks, judged on rows kept apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from redistill.core.errors import UserError
from redistill.core.modes import evaluating
from redistill.core.source import table
from redistill.core.types import Count, NonNegative, Seed, ShareInside, TwoOrMore, checked
from redistill.methods.analysis.survey import as_csv, as_markdown, compare
from redistill.methods.analysis.survey.baselines import Pair, carried
from redistill.procedures.job import Job
from redistill.supervised.classifier import logits

NEEDS = ("rows", "plan")


@checked
def run(
    job: Job,
    student: Any,
    teacher: Any,
    *,
    classes: TwoOrMore,
    input_shape: list[Count],  # of one row, for the adapters
    stages: list[str],  # names of named_modules(), shallow to deep
    embedding: str,  # the last layer before the head
    teacher_stages: list[str] | None = None,  # where the teacher's names differ
    teacher_embedding: str | None = None,
    baselines: dict[str, NonNegative] | list[str] | None = None,  # some, perhaps with factors of their weights, or all
    fresh: bool = True,  # start from new weights of the student's kind, not from those it came with
    validation: ShareInside = 0.25,  # of the rows, which judge
    seed: Seed = 0,  # of the split and of new weights
) -> str:
    """The classic baselines on two networks. Writes the table as CSV and Markdown, anew after each baseline."""
    used, held = job.split(validation, seed)
    accuracy = _accuracy_on(held, job.plan.batch_size)
    _check_teacher(accuracy(teacher)["accuracy"], classes)
    start = job.starts("student", student, fresh=fresh)
    pair = Pair(
        teacher, lambda k: start(seed + k), input_shape, classes, stages, teacher_stages or stages, embedding,
        teacher_embedding or embedding,
    )  # fmt: skip

    def keep(rows: Any) -> None:
        job.text("survey.csv", as_csv(rows))
        job.text("survey.md", as_markdown(rows))

    rows = compare(pair, used, job.plan, accuracy, carried(pair) if baselines is None else baselines, keep=keep)
    best = rows[0]
    return f"{job.folder / 'survey.md'}: {best.name} is the most accurate, {100 * best.scores['accuracy']:.1f} %"


def _check_teacher(accuracy: float, classes: int) -> None:
    """Refuse a teacher that has nothing to teach."""
    if accuracy <= 1 / classes + 0.1 * (1 - 1 / classes):
        shown = f"{100 * accuracy:.0f} % of {classes} classes on held-out rows"
        raise UserError(f"the teacher is hardly better than chance ({shown}); train it first", place="models.teacher")


def _accuracy_on(rows: Any, batch_size: int) -> Callable[[Any], dict[str, float]]:
    """A function from a network to its accuracy on ``rows``."""
    held = table(rows)
    batches = [list(range(len(held)))[at : at + batch_size] for at in range(0, len(held), batch_size)]

    @torch.no_grad()
    def accuracy(network: Any) -> dict[str, float]:
        device, hits = next(network.parameters()).device, 0
        with evaluating(network):
            for batch in map(held.__getitems__, batches):
                moved = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
                hits += int((logits(network, moved).argmax(1) == moved["label"]).sum())
        return {"accuracy": hits / len(held)}

    return accuracy
