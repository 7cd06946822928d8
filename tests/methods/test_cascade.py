"""Gates decide as they say; agreement has the probability that theory gives."""

from __future__ import annotations

import numpy as np
import pytest

from redistill.core.errors import UserError
from redistill.methods.language.in_context.cascade import (
    RandomMix,
    SelfConsistency,
    agreement,
    normalise,
    normalise_python,
    vote,
)
from redistill.methods.language.in_context.scoring import choose


def test_one_sample_never_escalates():
    assert SelfConsistency(1).decide(["go"], 0.0).action == "go"


@pytest.mark.parametrize(
    ("quorum", "samples", "action"),
    [("all", "aaa", "a"), ("all", "aab", None), ("majority", "aba", "a"), ("majority", "abc", None), (4, "aaa", None)],
)
def test_quorum(quorum, samples, action):
    assert SelfConsistency(3, quorum).decide(list(samples), 0.0).action == action


def test_equal_after_normalisation_the_first_sample_is_executed():
    assert vote(["Go  to Kitchen.", "go to kitchen", "stay"]) == ("Go  to Kitchen.", 2)
    assert normalise(" A  b. ") == "a b"
    assert normalise_python("f(1,2)") == normalise_python("f( 1, 2 )  # the same") != normalise_python("f(2, 1)")
    assert SelfConsistency(2, answers="python").decide(["x = 'a'", 'x="a"'], 0.0).action == "x = 'a'"
    with pytest.raises(UserError, match="answers=pyton; give text or python"):
        SelfConsistency(2, answers="pyton")


def test_agreement_probability_against_monte_carlo():
    pi = np.array([0.5, 0.3, 0.2])
    assert agreement(pi, 3) == pytest.approx(0.125 + 0.027 + 0.008)
    uniforms = np.random.default_rng(0).random((20000, 3))
    gate = SelfConsistency(3)
    agreed = [gate.decide(["abc"[i] for i in choose(np.log(pi), 1.0, row)], 0.0).action is not None for row in uniforms]
    assert np.mean(agreed) == pytest.approx(agreement(pi, 3), abs=4 * np.sqrt(0.16 * 0.84 / 20000))


def test_random_mix_hands_over_its_share():
    gate = RandomMix(0.25)
    assert [gate.decide(["a"], u).action for u in (0.0, 0.24, 0.25, 0.9)] == [None, None, "a", "a"]
    with pytest.raises(UserError, match="from 0 to 1"):
        RandomMix(1.5)
