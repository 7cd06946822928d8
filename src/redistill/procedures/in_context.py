"""Agents as a recipe runs them: a costly agent's demonstrations teach a cheap one through its prompt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from redistill.core.errors import UserError
from redistill.core.types import Count, CountOrZero, NonNegative, Seed, checked
from redistill.methods.language.in_context import Episode, InContext
from redistill.methods.language.in_context.agents import World
from redistill.methods.language.in_context.cascade import Gate
from redistill.methods.language.in_context.cost import Price
from redistill.methods.language.in_context.retrieval import StepIndex
from redistill.named import factory
from redistill.procedures.job import Job

NEEDS = ()


@checked
def run(
    job: Job,
    student: Any,
    teacher: Any,
    encode: Any,
    *,
    worlds: str,  # module:function that gives a list of worlds
    demonstrations: str,  # the same, or the index folder of an earlier run
    student_price: tuple[NonNegative, NonNegative] = (1.0, 1.0),  # of an input and of an output token
    teacher_price: tuple[NonNegative, NonNegative] = (20.0, 20.0),
    cascade: Gate | None = None,  # when the teacher takes a step; self_consistency if left out
    k: CountOrZero = 3,  # examples shown
    window: Count = 3,  # steps of an example
    retrieval: Literal["step", "episode"] = "step",  # when examples are fetched anew
    history: CountOrZero = 2,  # last steps shown
    grow: bool = False,  # add the teacher's steps of successful episodes to the index
    max_steps: Count = 50,  # of an episode
    instructions: str = "",  # text at the head of every prompt
    compare: bool = True,  # also play the teacher alone
    seed: Seed = 0,
) -> str:
    """Collect the teacher's successful episodes and let the student play with them and with the cascade.

    A world is an ``agents.World`` (beside the method). Writes the index as soon as it is there, then the episodes as
    JSON lines, and success and cost, with ``compare`` beside the teacher's alone on the same worlds (at its price).
    """
    method = InContext(
        student, teacher, encode, cascade=cascade, k=k, window=window, retrieval=retrieval, history=history, grow=grow,
        max_steps=max_steps, instructions=instructions, seed=seed,
    )  # fmt: skip
    prices = {"student": Price(*student_price), "teacher": Price(*teacher_price)}
    games = _worlds(worlds, "options.worlds")

    if Path(demonstrations).is_dir():
        method.index, taught = StepIndex.load(demonstrations, encode, window=window), []
    else:
        taught = method.collect(_worlds(demonstrations, "options.demonstrations"))
    if not len(method.index):
        raise UserError("the teacher reached no goal; nothing to learn from", place="options.demonstrations")
    method.index.save(job.file("index"))  # what was paid for outlives a failure of what follows

    played = [method.run(world, i) for i, world in enumerate(games)]
    found = {"student": _summary(played, prices)}
    if compare:
        found["teacher"] = _summary([method.teach(world, i) for i, world in enumerate(games)], prices)
    if taught:
        found["demonstrations"] = _summary(taught, prices)
    method.index.save(job.file("index"))  # it may have grown
    job.numbers("summary.json", found)
    return f"{job.text('episodes.jsonl', _lines(played))}: {_told(found)}"


def _told(found: dict[str, dict[str, float]]) -> str:
    ours, theirs = found["student"], found.get("teacher")
    said = (
        f"success {100 * ours['success']:.0f} % at {ours['cost']:.4g} an episode, the teacher took "
        f"{100 * ours['teacher_steps']:.0f} % of the steps"
    )
    if theirs is None:
        return said
    return f"{said}; alone it has {100 * theirs['success']:.0f} % at {theirs['cost']:.4g}"


def _worlds(path: str, place: str) -> Sequence[World]:
    """What the function behind ``module:function`` gives, if it is a list of worlds."""
    found = factory(path, place)()
    if not isinstance(found, Sequence) or not found or not hasattr(found[0], "admissible"):
        raise UserError(f"{path} gives no list of worlds (with reset, step and admissible)", place=place)
    return found


def _summary(episodes: Sequence[Episode], prices: dict[str, Price]) -> dict[str, float]:
    """Means over the episodes; ``teacher_steps`` is a share of all steps."""
    count, steps = len(episodes), sum(e.steps for e in episodes)
    return {
        "episodes": count,
        "success": sum(e.success for e in episodes) / count,
        "cost": sum(e.meter.cost(prices) for e in episodes) / count,
        "steps": steps / count,
        "teacher_steps": sum(len(e.teacher_steps) for e in episodes) / max(1, steps),
    }


def _lines(episodes: Sequence[Episode]) -> str:
    """Episodes as JSON lines."""
    lines = []
    for episode in episodes:
        played = episode.trajectory
        steps = [step._asdict() for step in played.steps]
        line = {"goal": played.goal, "success": played.success, "teacher_steps": episode.teacher_steps, "steps": steps}
        lines.append(json.dumps(line) + "\n")
    return "".join(lines)
