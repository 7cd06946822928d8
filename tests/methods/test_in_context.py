"""The exact properties of the cascade, on the household with the copying student."""

from __future__ import annotations

import pytest
import torch

from redistill.beds.household import Planner, games
from redistill.core.errors import UserError
from redistill.methods.language.in_context import InContext
from redistill.methods.language.in_context.cascade import SelfConsistency
from redistill.methods.language.in_context.scoring import CopyPolicy, by_analogy

TRAIN, TEST = games(11, 12, 4)


def encode(texts):
    """Words as a bag, hashed without Python's salt: unit vectors [N, 64]."""
    rows = torch.zeros(len(texts), 64)
    for row, text in zip(rows, texts):
        for word in text.split():
            row[sum(ord(c) * 31**i for i, c in enumerate(word)) % 64] += 1
    return torch.nn.functional.normalize(rows, dim=-1)


def system(student=None, slip=0.03, **options):
    student = student or CopyPolicy()
    return InContext(student, Planner(slip=slip), encode, **{"max_steps": 12, "seed": 5, **options})


def actions(episode):
    return [s.action for s in episode.trajectory.steps]


class Recorder(CopyPolicy):
    """Keeps the contexts that it was shown."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def act(self, context, *rest):
        self.seen.append(context)
        return super().act(context, *rest)


def test_one_sample_never_asks_the_teacher_and_without_examples_it_is_the_student_alone():
    student = Recorder()
    method = system(student, k=0, cascade=SelfConsistency(1))
    method.collect(TRAIN)
    for world in TEST:
        episode = method.run(world)
        assert not episode.teacher_steps and set(episode.meter.used) == {"student"}
    assert all(c.examples == () for c in student.seen)


def test_an_impossible_quorum_gives_the_teachers_trajectory_exactly():
    method = system(slip=0.3, cascade=SelfConsistency(3, 4))
    method.collect(TRAIN)
    for i, world in enumerate(TEST):
        taught, run = method.teach(world, i), method.run(world, i)
        assert actions(run) == actions(taught) and run.teacher_steps == list(range(run.steps))


def test_only_successes_are_stored():
    method = system(slip=0.6)
    episodes = method.collect(TRAIN)
    won = [e.trajectory for e in episodes if e.success]
    assert 0 < len(won) < len(episodes) and method.index.trajectories == won


def test_examples_are_fetched_at_every_step_or_once():
    for retrieval, kinds in (("step", None), ("episode", 1)):
        student = Recorder()
        method = system(student, retrieval=retrieval, cascade=SelfConsistency(1), k=2)
        method.collect(TRAIN)
        method.run(TEST[0])
        shown = {c.examples for c in student.seen if c.asks == "action"}
        assert all(len(e) == 2 for e in shown) and (len(shown) == 1 if kinds else len(shown) > 1)


def test_all_samples_and_the_plan_are_counted():
    method = system(cascade=SelfConsistency(3))
    method.collect(TRAIN)
    episode = method.run(TEST[0])
    assert episode.meter.used["student"].calls == 3 * episode.steps + 1
    teacher = episode.meter.used.get("teacher")
    assert (teacher.calls if teacher else 0) == len(episode.teacher_steps)


def test_growth_adds_the_teachers_steps_of_successes_only():
    method = system(slip=0.0, k=1, grow=True, cascade=SelfConsistency(3))
    before = len(method.index)
    episode = method.run(TEST[0])
    assert episode.success and episode.teacher_steps
    assert len(method.index) - before == len(episode.teacher_steps)
    frozen = system(slip=0.0, k=1)
    frozen.run(TEST[0])
    assert len(frozen.index) == 0


def test_the_same_seed_gives_the_same_episode():
    runs = []
    for seed in (5, 5, 6):
        method = system(seed=seed, cascade=SelfConsistency(1))
        method.collect(TRAIN)
        runs.append([actions(method.run(w, i)) for i, w in enumerate(TEST)])
    assert runs[0] == runs[1] != runs[2]


def test_history_and_negative_k():
    student = Recorder()
    system(student, history=0, cascade=SelfConsistency(1)).run(TEST[0])
    assert all(c.history == () for c in student.seen)
    with pytest.raises(UserError, match="k=-1"):
        system(k=-1)


@pytest.mark.parametrize("told", [False, True])
def test_the_teacher_reads_examples_only_when_it_is_told_to(told):
    seen = []

    class Teacher(Planner):
        def act(self, context, *rest):
            seen.append(context)
            return super().act(context, *rest)

    method = InContext(CopyPolicy(), Teacher(slip=0.0), encode, cascade=SelfConsistency(3, 4), max_steps=6,
                       teacher_examples=told, reasoning=True)  # fmt: skip
    method.collect(TRAIN)
    seen.clear()
    method.run(TEST[0])
    assert seen and all(bool(c.examples) == told and c.reasoning for c in seen)


def test_the_history_is_the_last_steps_and_the_plan_is_written_from_similar_plans():
    student = Recorder()
    method = system(student, history=2, k=2, cascade=SelfConsistency(1))
    method.collect(TRAIN)
    episode = method.run(TEST[0])
    asked, acted = student.seen[0], student.seen[1:]
    for t, context in enumerate(acted):
        assert context.history == episode.trajectory.steps[max(0, t - 2) : t]
    plans = {by_analogy(e.plan, e.goal, TEST[0].goal) for e in asked.examples}
    assert asked.asks == "plan" and len(asked.examples) == 2 and episode.trajectory.plan in plans


@pytest.mark.parametrize("quorum", [0, -1, True, "al"])
def test_a_quorum_is_a_number_of_votes_or_a_word(quorum):
    with pytest.raises(UserError, match="quorum="):
        SelfConsistency(3, quorum)
