"""Scaling runs on the user's own text, as a recipe asks for them: the table that ``redistill plan --runs`` reads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from redistill.core.errors import UserError, unknown
from redistill.core.source import NoData, table
from redistill.core.types import Count, NonNegative, Positive, Seed, Share, ShareInside, checked
from redistill.methods.analysis.scaling_laws import runs as scaling_runs
from redistill.models.transformers import CausalLm, check_vocabularies
from redistill.procedures.job import Job
from redistill.theory.scaling_files import COLUMNS

NEEDS = ("rows", "plan")


@checked
def run(
    job: Job,
    student: Any,
    teacher: Any = None,
    *,
    tokens: list[Count],  # to train on, a run each
    validation: ShareInside = 0.1,  # of the rows, which measure every loss
    soft_weight: Share = 1.0,  # of the loss that is the teacher's
    temperature: Positive = 1.0,  # of both models' scores
    z_loss: NonNegative = 0.0,  # weight of the squared log-partition
    seed: Seed = 0,  # of the split and of new weights
) -> str:
    """Train models of the student's configuration from scratch on ``tokens`` tokens each, from the text and, where one
    is given, from the teacher. The rows' column ``ids`` [B, T] holds token ids. Writes the runs as CSV."""
    text, held = _split(_ids(job.rows), validation, seed)
    _check(student, teacher, text, held)
    _check_tokens(tokens, job.plan.batch_size * text.shape[1], text.numel())

    def measured(who: Any, **options: float) -> dict[str, list[float]]:
        return scaling_runs.grid(
            lambda _: scaling_runs.untrained(student, seed), [""], tokens, text, held, lambda _: job.plan, who,
            **options,
        )  # fmt: skip

    tables = [measured(None, z_loss=z_loss)]
    if teacher is not None:
        tables.append(measured(teacher, soft_weight=soft_weight, temperature=temperature, z_loss=z_loss))

    runs = [row for table in tables for row in zip(*(table[name] for name in COLUMNS))]
    lines = [",".join("" if math.isnan(v) else f"{v:.10g}" for v in row) for row in runs]
    file = job.text("runs.csv", "\n".join([",".join(COLUMNS), *lines]) + "\n")
    losses = ", ".join(f"{loss:.3f}" for _, _, loss, _ in runs)
    return (
        f"{file}: losses {losses}; with more sizes and three teachers or more: "
        f"redistill plan --budget 1e21 --student 300M --runs {file}"
    )


def _ids(rows: Any) -> Any:
    """All rows as one tensor of token ids."""
    data = table(rows)
    columns = {} if isinstance(data, NoData) else data.__getitems__(list(range(len(data))))
    if "ids" not in columns:
        raise unknown("column", "ids", columns, place="data.columns")
    ids = columns["ids"]
    if not isinstance(ids, torch.Tensor) or ids.ndim != 2 or ids.is_floating_point() or ids.shape[1] < 2:
        raise UserError("ids must be whole numbers, equally many in every row and two or more", place="data")
    return ids.long()


def _split(ids: Any, share: float, seed: int) -> tuple[Any, Any]:
    """Rows to train on, in a random order, and rows to measure on."""
    if len(ids) < 2:
        raise UserError(f"{len(ids)} rows; give two or more, to train on and to measure on", place="data")
    order = np.random.default_rng(seed).permutation(len(ids))
    at = len(ids) - min(len(ids) - 1, max(1, round(share * len(ids))))
    return ids[order[:at]], ids[order[at:]]


def _check_tokens(tokens: list[int], least: int, most: int) -> None:
    if not tokens or min(tokens) < least or max(tokens) > most:
        said = f"{tokens}; give numbers of tokens from one batch ({least}) to all of the text ({most})"
        raise UserError(said, place="options.tokens")


def _check(student: Any, teacher: Any, text: Any, held: Any) -> None:
    """Refuse what cannot work before the first run: networks, ids, a teacher who knows nothing."""
    for role, net in (("student", student), ("teacher", teacher)):
        if net is not None and not isinstance(net, CausalLm):
            raise UserError("must be of kind causal_lm", place=f"models.{role}")
    words = len(student.head.weight) if teacher is None else check_vocabularies(student, teacher)
    if int(max(text.max(), held.max())) >= words or int(min(text.min(), held.min())) < 0:
        raise UserError(f"ids must be 0 to {words - 1}, the words that the models know", place="data")
    if teacher is not None and (loss := scaling_runs.cross_entropy(teacher, held)) >= math.log(words):
        said = f"the teacher's loss is {loss:.3f} nats a token, no better than guessing among {words} words"
        raise UserError(f"{said}; train it on this text first", place="models.teacher")
