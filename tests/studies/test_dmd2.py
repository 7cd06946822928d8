"""DMD2's study: what its teachers know before they are distilled, and what every arm of a seed shares."""

from __future__ import annotations

import pytest
import torch

from redistill.core.followers import same_weights
from redistill.studies import dmd2
from redistill.studies.dmd2_beds import Digits, Ring

RING, DIGITS = dmd2.STUDY.budget["ring"], dmd2.STUDY.smoke["digits"]


def test_the_rings_teacher_draws_every_mode_and_leaves_room_to_the_floor():
    bed = Ring(901, {**RING, "rows": 2000})
    floor, teacher = (dmd2.many_steps(name, bed).metrics for name in ("floor", "teacher"))
    assert floor["valid"] > 0.98 and floor["modes"] == 8
    assert teacher["modes"] >= 7 and teacher["sw2"] > 1.5 * floor["sw2"]


def test_the_head_is_the_same_whether_the_teacher_was_trained_now_or_read(tmp_path, monkeypatch):
    monkeypatch.setenv("REDISTILL_CACHE", str(tmp_path))
    heads = [dmd2.method(dmd2.ARMS["dmd2"], Ring(901, dmd2.STUDY.smoke["ring"])).discriminator for _ in range(2)]
    assert same_weights(*heads)


@pytest.mark.parametrize("name", [name for name in dmd2.ARMS if name not in dmd2.SOURCES])
def test_students_and_critics_begin_as_the_teacher_and_learn_at_one_rate(name):
    bed, arm = Ring(901, dmd2.STUDY.smoke["ring"]), dmd2.ARMS[name]
    made = dmd2.method(arm, bed)
    assert same_weights(made.student, bed.teacher) and same_weights(made.critic, bed.teacher)
    assert made.student is not made.critic and all(p.requires_grad for p in made.student.parameters())
    assert made.critic_turns == (1 if name in ("diff_instruct", "dmd", "dmd_long") else 5)
    assert not bed.plan.turns  # no rate of the critic's own
    assert (made.discriminator is not None) == (name == "dmd2") and bool(made.regression) == arm.pairs


def test_pairs_of_digits_are_noise_and_where_the_teacher_takes_it_for_the_digit():
    pairs = Digits(901, DIGITS).pairs()
    bed = Digits(901, DIGITS)
    assert pairs["label"].tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(pairs["pair_image"], bed.sampled(bed.teacher, pairs["pair_noise"]))
    assert set(Digits(901, DIGITS).real()) == {"image", "label"}  # the others see no pair


def test_the_rival_is_the_best_of_teacher_and_older_students():
    cells = [{"ring_sw2": a, "digits_frechet": b, "modes": 8.0} for a, b in ((3.0, 1.0), (2.0, 5.0), (4.0, 4.0))]
    assert dmd2.least(*cells) == {"ring_sw2": 2.0, "digits_frechet": 1.0}
