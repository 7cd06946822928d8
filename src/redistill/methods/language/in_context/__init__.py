"""In-context distillation with self-consistency cascades: a costly agent teaches a cheap one through its prompt.

Who teaches: a black-box agent, asked beforehand (demonstrations) and again only where the student is unsure. On what:
the student's own episodes. Match: none; no weight changes. At every step t the student reads the k most similar windows
of the teacher's successful steps,

    sim = w_g cos(g, g') + w_p cos(p, p') + w_o cos(o_t, o'),

is sampled N times, and acts if the samples agree; else the teacher takes this one step. Expected cost of a step:
N c_S + P(disagree) c_T (arXiv 2512.02543).

Differs from the paper: a student that can only score picks its plan from those of similar goals (with its own goal's
words) instead of writing it, and the teacher sees the student's examples only with ``teacher_examples``: at its price
they cost most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from redistill.core.slot import Configured
from redistill.core.types import Count, CountOrZero, Finite, Seed
from redistill.methods.language.in_context.agents import Context, Policy, Reply, Step, Trajectory, Window, World
from redistill.methods.language.in_context.cascade import Gate, SelfConsistency
from redistill.methods.language.in_context.cost import Meter
from redistill.methods.language.in_context.retrieval import Encode, StepIndex
from redistill.methods.language.in_context.scoring import by_analogy

Watch = Callable[[World, Sequence[str], bool], None]
Act = Callable[[Context, Sequence[float], Meter], tuple[Reply, bool]]


@dataclass
class Episode:
    """What happened: the trajectory, who acted at each step, and the tokens used (roles "student" and "teacher")."""

    trajectory: Trajectory
    teacher_steps: list[int] = field(default_factory=list)
    meter: Meter = field(default_factory=Meter)

    @property
    def success(self) -> bool:
        """Whether the world says that the goal was reached."""
        return self.trajectory.success

    @property
    def steps(self) -> int:
        """How many steps it took."""
        return len(self.trajectory.steps)


class InContext(Configured):
    """Roles: ``student`` and ``teacher`` act; ``encode`` makes unit vectors of texts."""

    def __init__(
        self,
        student: Policy,
        teacher: Policy,
        encode: Encode,
        *,
        cascade: Gate | None = None,  # when the teacher takes a step
        k: CountOrZero = 3,  # examples shown
        window: Count = 3,  # steps of an example
        weights: tuple[Finite, Finite, Finite] = (1 / 3, 1 / 3, 1 / 3),  # of goal, plan and observation in a search
        retrieval: Literal["step", "episode"] = "step",  # when examples are fetched anew
        history: CountOrZero = 2,  # last steps shown
        teacher_examples: bool = False,  # show the examples to the teacher too
        reasoning: bool = False,  # show the teacher's reasons
        grow: bool = False,  # add the teacher's steps of successful episodes to the index
        max_steps: Count = 50,  # of an episode
        instructions: str = "",  # text at the head of every prompt
        seed: Seed = 0,
    ) -> None:
        self.student, self.teacher = student, teacher
        self.cascade = SelfConsistency() if cascade is None else cascade
        self.index = StepIndex(encode, window=window, weights=weights)
        self.k, self.retrieval, self.history, self.reasoning, self.grow = k, retrieval, history, reasoning, grow
        self.teacher_examples, self.max_steps = teacher_examples, max_steps
        self.instructions, self.seed = instructions, seed

    def collect(self, worlds: Iterable[World]) -> list[Episode]:
        """The demonstration phase: the teacher plays, its successful episodes go into the index."""
        episodes = [self.teach(world, i) for i, world in enumerate(worlds)]
        for episode in episodes:
            if episode.success:
                self.index.add(episode.trajectory)
        return episodes

    def teach(self, world: World, episode: int = 0) -> Episode:
        """The teacher plays ``world`` alone, without examples. ``episode`` numbers its chance."""
        return self._play(world, episode, self.teacher, "teacher", self._ask_teacher)

    def run(self, world: World, episode: int = 0, watch: Watch | None = None) -> Episode:
        """The student plays ``world``, with examples and the cascade. ``watch`` sees the world before each step, the
        student's samples, and whether its answer is taken."""

        def act(context: Context, uniforms: Sequence[float], meter: Meter) -> tuple[Reply, bool]:
            shown = context if self.retrieval == "episode" else replace(context, examples=self._windows(context))
            return self._cascade(shown, uniforms, meter, watch)

        played = self._play(world, episode, self.student, "student", act)
        if self.grow and played.success:
            self.index.add(played.trajectory, played.teacher_steps)
        return played

    def _play(self, world: World, episode: int, planner: Policy, role: str, act: Act) -> Episode:
        """One episode; all chance comes from (seed, episode, step), so arms that share them are paired."""
        meter, steps, taught = Meter(), [], []
        observation = world.reset()
        context = self._planned(world, planner, role, meter, self._chance(episode, 0))
        for t in range(self.max_steps):
            now = replace(context, history=tuple(steps[max(0, t - self.history) :]), observation=observation)
            reply, by_teacher = act(now, self._chance(episode, t + 1), meter)
            steps.append(Step(observation, reply.actions[0], reply.reasoning))
            taught += [t] if by_teacher else []
            observation, over = world.step(reply.actions[0])
            if over:
                break
        return Episode(Trajectory(world.goal, context.plan, tuple(steps), world.success), taught, meter)

    def _planned(self, world: World, planner: Policy, role: str, meter: Meter, uniforms: Sequence[float]) -> Context:
        """The context of an episode after the planning call, which is shown the plans of similar goals."""
        examples = tuple(self.index.plans(world.goal, self.k)) if role == "student" else ()
        context = Context(world.goal, examples=examples, instructions=self.instructions, asks="plan", world=world)
        plans = [by_analogy(e.plan, e.goal, world.goal) for e in examples]  # what a student that only scores picks from
        reply = planner.act(context, list(dict.fromkeys(plans)), 1, uniforms)
        meter.add(role, reply.usage)
        whole = role == "student" and self.retrieval == "episode"
        shown = self.index.episodes(world.goal, reply.actions[0], self.k) if whole else []
        return replace(context, plan=reply.actions[0], examples=tuple(shown), asks="action", reasoning=self.reasoning)

    def _windows(self, context: Context) -> tuple[Window, ...]:
        return tuple(self.index.search(context.goal, context.plan, context.observation, self.k))

    def _cascade(
        self, context: Context, uniforms: Sequence[float], meter: Meter, watch: Watch | None
    ) -> tuple[Reply, bool]:
        n = self.cascade.samples
        reply = self.student.act(context, context.world.admissible(), n, uniforms[2:])
        meter.add("student", reply.usage)
        action = self.cascade.decide(reply.actions, uniforms[1]).action
        if watch:
            watch(context.world, reply.actions, action is not None)
        if action is None:
            return self._ask_teacher(context, uniforms, meter)
        return reply._replace(actions=(action,)), False

    def _ask_teacher(self, context: Context, uniforms: Sequence[float], meter: Meter) -> tuple[Reply, bool]:
        """One step of the teacher, in the same context (the examples left away if it doesn't need them)."""
        context = context if self.teacher_examples else replace(context, examples=())
        reply = self.teacher.act(context, context.world.admissible(), 1, uniforms[:1])
        meter.add("teacher", reply.usage)
        return reply, True

    def _chance(self, episode: int, t: int) -> list[float]:
        """Uniform numbers of a step: the teacher's, the gate's, then the samples'."""
        return np.random.default_rng([self.seed, episode, t]).random(self.cascade.samples + 2).tolist()
