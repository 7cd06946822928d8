"""Group advantages and the policy gradient, enumerated where that is possible."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from redistill.beds import lm as bed
from redistill.core import UserError
from redistill.core.method import bare_progress
from redistill.language import contexts
from redistill.language.policy_gradient import clipped_surrogate, group_advantages
from redistill.language.tokens import log_prob_of
from redistill.rivals.grpo import Grpo

SMALL = dict(
    hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=8
)


def rows(lm, count=3):
    prompt, mask = contexts.encode_conversations(lm.tokenizer, [contexts.asked("QAabcd")] * count)
    return {"prompt": prompt, "prompt_mask": mask, "index": torch.arange(count)}


def method(reward, **options):
    return Grpo(bed.blank(0, **SMALL).double(), reward, **{"max_new_tokens": 4, "group": 4, **options})


def test_a_group_of_equal_rewards_says_nothing():
    assert (group_advantages(torch.ones(2, 4)) == 0).all()
    grpo = method(lambda texts, index: [1.0] * len(texts))
    now = bare_progress()
    grpo.loss("student", grpo.prepare(rows(grpo.student), now), now).total.backward()
    assert max(float(p.grad.abs().max()) for p in grpo.student.parameters()) == 0


@pytest.mark.parametrize("how", ["centred", "leave_one_out", "grpo"])
def test_the_expected_gradient_on_one_choice_is_that_of_the_success_rate(how):
    """A policy of one token that is right with probability s, all groups of G answers enumerated: RLOO has the gradient
    of -s itself, centring (G - 1) / G of it, GRPO about sqrt(s (1 - s)) of the logit's slope."""
    theta = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    size, s = 60, torch.sigmoid(theta)
    expected = torch.zeros((), dtype=torch.float64)
    for right in range(size + 1):
        reward = torch.tensor([[1.0] * right + [0.0] * (size - right)], dtype=torch.float64)
        share = math.comb(size, right) * float(s) ** right * (1 - float(s)) ** (size - right)
        logp = torch.where(reward[0] > 0, s.log(), (1 - s).log())
        values = clipped_surrogate(logp, logp.detach(), group_advantages(reward, how)[0])
        expected = expected + share * values.mean()
    slope = -torch.autograd.grad(expected, theta)[0]
    plain = float(s) * (1 - float(s))  # ds / dtheta
    if how == "grpo":
        assert float(slope) == pytest.approx(math.sqrt(plain), rel=0.05)
    else:
        assert float(slope) == pytest.approx(plain * ((size - 1) / size if how == "centred" else 1), rel=1e-9)


def test_the_clip_stops_a_ratio_that_went_far_enough():
    rho = torch.tensor([0.5, 0.9, 1.1, 2.0], dtype=torch.float64)
    for sign, moves in ((1.0, [True, True, True, False]), (-1.0, [False, True, True, True])):
        logp = rho.log().requires_grad_()
        clipped_surrogate(logp, torch.zeros(4), torch.tensor(sign)).sum().backward()
        assert (logp.grad != 0).tolist() == moves


def test_fresh_samples_give_the_gradient_of_reinforce():
    grpo = method(lambda texts, index: [float(len(t)) for t in texts])
    now = bare_progress()
    batch = grpo.prepare(rows(grpo.student), now)
    parameters = [p for p in grpo.student.parameters() if p.requires_grad]
    found = torch.autograd.grad(grpo.loss("student", batch, now).total, parameters)
    mask = batch["mask"]
    scores = contexts.completion_scores(grpo.student, batch["prompt"], batch["prompt_mask"], batch["ids"], mask)
    logp = log_prob_of(scores, batch["ids"][mask.bool()])
    weight = batch["advantage"][:, None].expand(mask.shape)[mask.bool()]
    for ours, theirs in zip(found, torch.autograd.grad(-(weight * logp).mean(), parameters), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-7)  # samples are drawn in float32


def test_with_rewards_of_right_and_wrong_it_is_fine_tuning_on_the_right_answers():
    grpo = method(lambda texts, index: [float(i % 2) for i in range(len(texts))], advantage="reward", group=1)
    now = bare_progress()
    batch = grpo.prepare(rows(grpo.student, 4), now)
    assert batch["advantage"].tolist() == [0, 1, 0, 1]


def test_answers_belong_to_their_rows():
    seen = []
    grpo = method(lambda texts, index: (seen.append(index.tolist()), [0.0] * len(texts))[1])
    grpo.prepare(rows(grpo.student, 2), bare_progress())
    assert seen == [list(itertools.chain([0] * 4, [1] * 4))]


@pytest.mark.parametrize(
    ("reward", "options", "said"),
    [
        (lambda texts, index: [1.0], {}, "reward: gave"),
        (lambda texts, index: [math.nan] * len(texts), {}, "no number"),
        (None, {"group": 1}, "group: a group of one"),
        (None, {"advantage": "gpro"}, "advantage.*grpo"),
    ],
)
def test_bad_input_is_one_line(reward, options, said):
    with pytest.raises(UserError, match=said):
        grpo = method(reward, **options)
        grpo.prepare(rows(grpo.student), bare_progress())
