"""When to hand a step to the teacher: gates, side by side. A gate sees the student's samples and nothing else."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from redistill.core.errors import UserError, unknown
from redistill.core.slot import Slot

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
    """The student acts when a quorum of its samples agree: ``all`` of them, the ``majority``, or a number of votes.
    ``answers`` says which are equal: as "text", as "python", or by a function that gives a canonical form."""

    def __init__(
        self, samples: int = 3, quorum: Literal["all", "majority"] | int = "all", answers: str | Canonical = "text"
    ) -> None:
        if samples < 1:
            raise UserError(f"samples={samples}, must be at least 1", place="samples")
        if isinstance(answers, str) and answers not in CANONICAL:
            raise unknown("kind of answers", answers, CANONICAL, place="answers")
        counted = isinstance(quorum, int) and not isinstance(quorum, bool)
        if not ((counted and quorum >= 1) or quorum in ("all", "majority")):  # above samples: always the teacher
            raise UserError(f"quorum={quorum!r}; give all, majority or a number of votes from 1", place="quorum")
        self.samples, self.canonical = samples, CANONICAL[answers] if isinstance(answers, str) else answers
        self.least = {"all": samples, "majority": samples // 2 + 1}.get(quorum, quorum)

    def decide(self, actions: Sequence[str], uniform: float) -> Decision:
        """Agreement is confidence, not correctness: measure both."""
        best = vote(actions, self.canonical)
        return best if best.votes >= self.least else Decision(None, best.votes)


class RandomMix(Gate):
    """The baseline: the teacher acts in a random ``share`` of the steps."""

    samples = 1

    def __init__(self, share: float = 0.1) -> None:
        if not 0 <= share <= 1:
            raise UserError(f"share={share}, must be between 0 and 1", place="share")
        self.share = share

    def decide(self, actions: Sequence[str], uniform: float) -> Decision:
        """By chance alone."""
        return Decision(None if uniform < self.share else actions[0], 1)
