"""What a game costs until it is won, and who plays it."""

from __future__ import annotations

import pytest

from redistill.methods.language.in_context import Episode
from redistill.methods.language.in_context.agents import Step, Trajectory
from redistill.methods.language.in_context.cost import Meter, Usage
from redistill.studies import in_context as study


def episode(success, **used):
    meter = Meter()
    for role, tokens in used.items():
        meter.add(role, Usage(tokens, 0, 0, 1))
    return Episode(Trajectory("g", "", (Step("o", "a"),), success), meter=meter)


def test_the_teacher_plays_again_what_was_lost():
    alone = [episode(True, teacher=10), episode(True, teacher=30)]  # 200 and 600
    ours = [episode(True, student=100), episode(False, student=100)]
    found = study.costs(ours, alone, alone)
    assert found["cost"] == pytest.approx(100 / 400)
    assert found["cost_won"] == pytest.approx((100 + 100 + 600) / 2 / 400)
    assert "break_even" not in found  # 400 an episode saves nothing
    cheaper = study.costs([episode(True, student=100)] * 2, alone, alone)
    assert cheaper["break_even"] == pytest.approx(800 / 300)


def test_a_reply_of_n_samples_pays_for_one_prompt_and_little_more():
    usage = Usage(3 * 1000, 0, 2 * 1000, 3)
    assert study.PRICES["student"].of(usage) == pytest.approx(1200)
    assert study.PRICES["teacher"].of(Usage(1000)) == pytest.approx(20000)


def test_every_arm_that_copies_a_share_names_an_arm_with_a_gate():
    shares = [arm.share_of for arm in study.ARMS.values() if arm.share_of]
    assert shares == ["both"] and study.ARMS["both"].gate.samples == 3
