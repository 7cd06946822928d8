"""What agents share: steps and trajectories, what a policy reads, and the protocols of policies and worlds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from redistill.methods.language.in_context.cost import Usage


class Step(NamedTuple):
    """What an agent saw, did, and why."""

    observation: str
    action: str
    reasoning: str = ""


@dataclass(frozen=True)
class Trajectory:
    """One episode of an agent."""

    goal: str
    plan: str
    steps: tuple[Step, ...]
    success: bool


@dataclass(frozen=True)
class Window:
    """Consecutive steps of a trajectory with its goal and plan: one example for a prompt."""

    goal: str
    plan: str
    steps: tuple[Step, ...]
    trajectory: int  # number of the trajectory in its index
    centre: int = 0  # which of the steps was matched


@dataclass(frozen=True)
class Context:
    """All that a policy may look at before it acts.

    ``asks`` is "action" or "plan". ``world`` is for policies that compute instead of reading; language models see the
    text alone.
    """

    goal: str
    plan: str = ""
    examples: tuple[Window, ...] = ()
    history: tuple[Step, ...] = ()
    observation: str = ""
    instructions: str = ""
    asks: str = "action"
    reasoning: bool = False
    world: Any = None

    def prompt(self) -> str:
        """The text to continue with an action (or a plan): instructions, examples (best last), history, observation."""
        if self.asks == "plan":
            shown = [f"Task: {e.goal}\nPlan: {e.plan}" for e in self.examples]
            return "\n\n".join([*self._head(), *shown, f"Task: {self.goal}\nPlan:"])
        shown = [self._episode(e.goal, e.plan, e.steps) for e in self.examples]
        own = self._episode(self.goal, self.plan, self.history)
        return "\n\n".join([*self._head(), *shown, f"{own}\n{self.observation}\n>"])

    def _head(self) -> list[str]:
        return [self.instructions] if self.instructions else []

    def _episode(self, goal: str, plan: str, steps: Sequence[Step]) -> str:
        lines = [f"Task: {goal}", *([f"Plan: {plan}"] if plan else [])]
        for step in steps:
            lines += [step.observation, *([f"({step.reasoning})"] if self.reasoning and step.reasoning else [])]
            lines += [f"> {step.action}"]
        return "\n".join(lines)


class Reply(NamedTuple):
    """Sampled ``actions``, what they cost in tokens, and the reasoning where the policy gives one."""

    actions: tuple[str, ...]
    usage: Usage
    reasoning: str = ""


class Policy(Protocol):
    """Whatever acts: a language model behind an API or in memory, a planner, a person."""

    def act(self, context: Context, admissible: Sequence[str], n: int, uniforms: Sequence[float]) -> Reply:
        """``n`` independent samples; ``uniforms`` [n] in [0, 1) decide them where the policy samples by itself."""
        ...


class World(Protocol):
    """A text environment."""

    goal: str
    success: bool

    def reset(self) -> str:
        """Begin anew; the first observation."""
        ...

    def step(self, action: str) -> tuple[str, bool]:
        """The next observation, and whether the episode is over."""
        ...

    def admissible(self) -> list[str]:
        """The commands that would do something now (empty: any text is allowed)."""
        ...
