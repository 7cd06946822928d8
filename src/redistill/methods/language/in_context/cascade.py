"""When to hand a step to the teacher: gates, side by side. A gate sees the student's samples and nothing else."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from redistill.core.slot import Slot
from redistill.core.types import Count, Share

Canonical = Callable[[str], str]


class Decision(NamedTuple):
    """``action`` of the student to execute, or None: ask the teacher. ``votes`` for the most frequent answer."""

    action: str | None
    votes: int


def normalise(action: str) -> str:
    """Equal up to case, white space and a full stop at the end."""
    return " ".join(action.lower().split()).rstrip(".")


def normalise_python(action: str) -> str:
    """Equal as Python syntax trees (white space, quotes, comments don't count); plain text where it doesn't parse."""
    try:
        return ast.dump(ast.parse(action))
    except SyntaxError:
        return normalise(action)


CANONICAL: dict[str, Canonical] = {"text": normalise, "python": normalise_python}


def vote(samples: Sequence[str], canonical: Canonical = normalise) -> Decision:
    """The first sample of the most frequent answer, and its votes; earlier samples win ties."""
    forms = [canonical(s) for s in samples]
    winner = max(forms, key=forms.count)
    return Decision(samples[forms.index(winner)], forms.count(winner))


def agreement(pi: Sequence[float], n: int) -> float:
    """P(all n independent samples agree) = sum_a pi_a^n."""
    return float((np.asarray(pi, dtype=np.float64) ** n).sum())


class Gate(Slot):
    """Decides after ``samples`` answers of the student who acts."""

    samples: int

    def decide(self, actions: Sequence[str], uniform: float) -> Decision:
        """The student's action, or None for the teacher. ``uniform`` in [0, 1) decides where chance does."""
        raise NotImplementedError


class SelfConsistency(Gate):
    """The student acts when a quorum of its samples agree; a number of votes above ``samples`` always asks the teacher.
    ``answers`` may be a function that gives a canonical form."""

    def __init__(
        self,
        samples: Count = 3,  # the student's answers to a step
        quorum: Literal["all", "majority"] | Count = "all",  # how many must agree
        answers: Literal["text", "python"] | Canonical = "text",  # as what two answers are equal
    ) -> None:
        self.samples, self.canonical = samples, CANONICAL[answers] if isinstance(answers, str) else answers
        self.least = {"all": samples, "majority": samples // 2 + 1}.get(quorum, quorum)

    def decide(self, actions: Sequence[str], uniform: float) -> Decision:
        """Agreement is confidence, not correctness: measure both."""
        best = vote(actions, self.canonical)
        return best if best.votes >= self.least else Decision(None, best.votes)


class RandomMix(Gate):
    """The baseline: the teacher acts in random steps."""

    samples = 1

    def __init__(
        self,
        share: Share = 0.1,  # of the steps that the teacher takes
    ) -> None:
        self.share = share

    def decide(self, actions: Sequence[str], uniform: float) -> Decision:
        """By chance alone."""
        return Decision(None if uniform < self.share else actions[0], 1)
