"""The index finds what was stored, in the promised order, and survives the disk."""

from __future__ import annotations

import pytest
import torch

from redistill.core.errors import UserError
from redistill.methods.language.in_context.agents import Step, Trajectory
from redistill.methods.language.in_context.retrieval import Memo, StepIndex


def encode(texts):
    """Letters as a bag: unit vectors [N, 26], exact for equal texts."""
    rows = torch.zeros(len(texts), 26)
    for row, text in zip(rows, texts):
        for letter in text:
            row["abcdefghijklmnopqrstuvwxyz".index(letter)] += 1
    return torch.nn.functional.normalize(rows, dim=-1)


def index(**options):
    found = StepIndex(encode, **options)
    for goal, plan, observations in (("ab", "c", "de"), ("bc", "d", "efgh"), ("xy", "z", "uvw")):
        found.add(Trajectory(goal, plan, tuple(Step(o, o * 2) for o in observations), True))
    return found


def test_a_query_identical_to_a_stored_step_returns_it_first():
    found = index(window=1)
    for whole in found.trajectories:
        for step in whole.steps:
            best = found.search(whole.goal, whole.plan, step.observation, 3)[-1]
            assert best.steps[best.centre] == step
            assert found.similarity(whole.goal, whole.plan, step.observation).max() == pytest.approx(1.0)


def test_one_window_a_trajectory_most_similar_last():
    windows = index().search("bc", "d", "f", 3)
    assert [w.trajectory for w in windows] == [2, 0, 1]
    assert len(index().search("bc", "d", "f", 9)) == 3


def test_windows_stay_inside_their_trajectory():
    found = index(window=3)
    first, last = (found.search("bc", "d", o, 1)[0] for o in "eh")
    assert [s.observation for s in first.steps] == list("efg") and first.centre == 0
    assert [s.observation for s in last.steps] == list("fgh") and last.centre == 2


def test_weights_choose_what_counts():
    by_goal = index(weights=(1, 0, 0)).search("xy", "d", "f", 1)[0]
    by_observation = index(weights=(0, 0, 1)).search("xy", "d", "f", 1)[0]
    assert (by_goal.goal, by_observation.goal) == ("xy", "bc")


def test_whole_episodes_and_plans():
    assert [s.observation for s in index().episodes("bc", "d", 1)[0].steps] == list("efgh")
    assert index().plans("xy", 2)[-1].plan == "z"


def test_only_listed_steps_are_stored():
    found = StepIndex(encode)
    found.add(Trajectory("a", "b", (Step("c", "d"), Step("e", "f")), True), [1])
    assert found.where == [(0, 1)]


def test_nothing_found_when_empty_or_k_is_0():
    assert StepIndex(encode).search("a", "b", "c", 3) == [] and index().search("a", "b", "c", 0) == []


def test_save_and_load(tmp_path):
    before = index()
    after = StepIndex.load(before.save(tmp_path), encode)
    assert after.trajectories == before.trajectories and after.where == before.where
    assert after.search("ab", "c", "e", 3) == before.search("ab", "c", "e", 3)
    (tmp_path / "trajectories.jsonl").unlink()
    with pytest.raises(UserError, match=r"trajectories\.jsonl is missing"):
        StepIndex.load(tmp_path, encode)


def test_memo_asks_once():
    asked = []
    memo = Memo(lambda texts: asked.extend(texts) or encode(texts))
    assert torch.equal(memo(["a", "b", "a"]), encode(["a", "b", "a"]))
    memo(["b"])
    assert asked == ["a", "b"]
