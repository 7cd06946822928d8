"""The exact properties of SDFT: what its loss is zero for, its gradient, its teacher, its mask."""

from __future__ import annotations

import pytest
import torch

from redistill.beds import lm as bed
from redistill.core import Plan, UserError, fit
from redistill.core.followers import same_weights
from redistill.core.method import bare_progress
from redistill.language import contexts
from redistill.losses.divergences import ReverseKL
from redistill.methods.language.sdft import Sdft
from redistill.rivals.context_distillation import ContextDistillation
from redistill.rivals.sft import SupervisedFineTuning

SMALL = dict(
    hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=8
)
QUESTIONS = ("QAabcd", "QAbcda", "QAcdab", "QAdabc")


def student(seed=0):
    return bed.blank(seed, **SMALL)


def data(lm, demonstration="!<e/d/c/b>"):
    student_side = [contexts.asked(q) for q in QUESTIONS]
    return contexts.two_contexts(lm.tokenizer, student_side, [contexts.asked(q + demonstration) for q in QUESTIONS])


def method(**options):
    return Sdft(student(), max_new_tokens=6, **options)


def run(sdft, batch, now=None):
    now = now or bare_progress()
    return sdft.loss("student", sdft.prepare(batch, now), now)


@pytest.mark.parametrize("divergence", [None, ReverseKL()])
def test_without_a_demonstration_loss_and_gradient_are_zero(divergence):
    sdft = method(skip_tokens=0, divergence=divergence)
    loss = run(sdft, data(sdft.student, demonstration=""))
    loss.total.backward()
    assert loss.total.item() == pytest.approx(0, abs=1e-6)
    assert max(p.grad.abs().max() for p in sdft.student.parameters()) < 1e-6


def test_a_demonstration_gives_a_gradient_and_the_teacher_none():
    sdft = method(skip_tokens=0)
    loss = run(sdft, data(sdft.student))
    loss.total.backward()
    assert loss.total > 1e-5
    assert all(p.grad is None for p in sdft.teacher.parameters())


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_gradient_is_the_policy_gradient_of_a_reward_per_token(temperature):
    """With the reverse KL: minus the mean over written tokens of E_{y ~ pi} [ (log teacher - log student)(y) grad log
    pi(y) ], enumerated over the vocabulary; the samples themselves carry no gradient."""
    sdft = method(skip_tokens=0, divergence=ReverseKL(), reduction="token_mean", temperature=temperature)
    now, parameters = bare_progress(), [p for p in sdft.student.parameters() if p.requires_grad]
    batch = sdft.prepare(data(sdft.student), now)
    found = torch.autograd.grad(sdft.loss("student", batch, now).total, parameters)
    scores = contexts.context_scores(sdft.student, sdft.teacher, batch, batch["completion_mask"])
    logp, target = ((z / temperature).log_softmax(-1) for z in scores)
    reward = (target - logp).detach()
    policy = -(logp.detach().exp() * reward * logp).sum(-1).mean()
    for ours, theirs in zip(found, torch.autograd.grad(policy, parameters), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-4)


def test_rate_zero_is_a_frozen_teacher_and_rate_one_the_live_student():
    for rate, frozen in ((0.0, True), (1.0, False)):
        sdft = method(skip_tokens=0, teacher_rate=rate)
        start = student()
        fitted = fit(sdft, data(sdft.student), Plan(steps=3, batch_size=2, lr=1e-2))
        assert not same_weights(fitted.student, start)
        assert same_weights(fitted.method.teacher.net, start) == frozen
        assert same_weights(fitted.method.teacher.net, fitted.student) != frozen


def test_skip_removes_exactly_the_first_tokens_of_the_mean():
    losses = {k: run(method(skip_tokens=k, reduction="token_mean"), data(student())) for k in (0, 1, 2)}
    sums = {k: float(loss.total * loss.weight) for k, loss in losses.items()}
    counts = [float(losses[k].weight) for k in (0, 1, 2)]
    assert counts[0] - counts[1] == len(QUESTIONS)  # every rollout has a first token
    sdft = method(skip_tokens=0)
    batch = sdft.prepare(data(sdft.student), bare_progress())
    only_first = batch["completion_mask"].clone()
    only_first[:, 1:] = 0
    scores = contexts.context_scores(sdft.student, sdft.teacher, batch, only_first)
    assert sums[0] - sums[1] == pytest.approx(float(sdft.divergence(*scores).sum()), rel=1e-4)


def test_when_everything_is_skipped_the_loss_is_zero_and_finite():
    sdft = method(skip_tokens=99)
    loss = run(sdft, data(sdft.student))
    assert loss.total.item() == 0 and float(loss.weight) == 0


def ragged(sdft, lengths):
    """The batch of four rollouts cut to these lengths."""
    batch = sdft.prepare(data(sdft.student), bare_progress())
    ends = torch.tensor(lengths)[:, None]
    return {**batch, "completion_mask": (torch.arange(batch["completion"].shape[1]) < ends).long()}


def test_each_answer_counts_the_same_whatever_its_length():
    sdft, tokens = (method(skip_tokens=1, reduction=r).double() for r in ("sequence_mean", "token_mean"))
    batch = ragged(sdft, [6, 3, 1, 2])  # 5, 2, 0 and 1 counted tokens
    rows = [sdft.loss("student", {k: v[i : i + 1] for k, v in batch.items()}, bare_progress()) for i in range(4)]
    assert [float(r.weight) for r in rows] == [1, 1, 0, 1] and rows[2].total == 0
    whole, by_token = (m.loss("student", batch, bare_progress()) for m in (sdft, tokens))
    means = [float(r.total) for r in rows]
    assert float(whole.total) == pytest.approx((means[0] + means[1] + means[3]) / 3, rel=1e-4) and whole.weight == 3
    assert float(by_token.total) == pytest.approx((5 * means[0] + 2 * means[1] + means[3]) / 8, rel=1e-4)
    assert by_token.weight == 8 and float(by_token.total) != pytest.approx(float(whole.total), rel=1e-3)


def test_an_unknown_reduction_is_named():
    with pytest.raises(UserError, match="reduction=sum; valid: sequence_mean, token_mean"):
        method(reduction="sum")


def test_importance_is_one_for_the_sampling_model_and_capped_for_another():
    sdft = method(skip_tokens=0, temperature=0.8)
    batch = sdft.prepare(data(sdft.student), bare_progress())
    scores, _ = contexts.context_scores(sdft.student, sdft.teacher, batch, batch["completion_mask"])
    scores = scores / sdft.temperature
    ones = sdft.importance(scores, batch, batch["completion_mask"])
    torch.testing.assert_close(ones, torch.ones_like(ones), atol=1e-4, rtol=0)
    batch["sampled_logp"] = batch["sampled_logp"] - 5
    assert (sdft.importance(scores, batch, batch["completion_mask"]) == 2).all()


@pytest.mark.parametrize("reduction", ["sequence_mean", "token_mean"])
def test_the_batch_may_be_cut(reduction, monkeypatch):
    """Two micro-batches give the gradient of the whole batch, also when an answer has no counted token."""
    prepare = Sdft.prepare

    def shortened(self, batch, now):
        made = prepare(self, batch, now)
        lengths = 2 + 2 * (made["index"][:, None] % 4)  # 2, 4, 6, 8 tokens, of which 3 are skipped
        return {**made, "completion_mask": made["completion_mask"] * (torch.arange(6) < lengths)}

    monkeypatch.setattr(Sdft, "prepare", shortened)
    ends = []
    for cuts in (1, 2):
        sdft = method(reduction=reduction)
        ends.append(
            fit(sdft, data(sdft.student), Plan(steps=2, batch_size=4, accumulate=cuts, lr=0.1, optimizer="sgd")).student
        )
    for a, b in zip(ends[0].parameters(), ends[1].parameters()):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("baseline", [SupervisedFineTuning, ContextDistillation])
def test_baselines_learn_what_they_are_given(baseline):
    lm = bed.load()
    batch = data(lm)
    batch["completion"], batch["completion_mask"] = contexts.encode_completions(lm.tokenizer, ["edcb"] * len(QUESTIONS))
    fitted = fit(baseline(lm), batch, Plan(steps=30, batch_size=4, lr=1e-3, log_every=1))
    losses = [row.get("cross_entropy", row.get("divergence")) for row in fitted.history]
    assert losses[-1] < 0.5 * losses[0]


def test_the_offline_rival_averages_over_answers_too():
    lm = bed.load()
    batch = data(lm)
    batch["completion"], batch["completion_mask"] = contexts.encode_completions(lm.tokenizer, ["edcb"] * len(QUESTIONS))
    batch["completion_mask"] *= torch.arange(batch["completion"].shape[1]) < 1 + torch.arange(len(QUESTIONS))[:, None]
    rival = ContextDistillation(lm)
    rows = [{k: v[i : i + 1] for k, v in batch.items()} for i in range(len(QUESTIONS))]
    alone = torch.stack([rival.loss("student", row, bare_progress()).total for row in rows])
    together = rival.loss("student", batch, bare_progress())
    torch.testing.assert_close(together.total, alone.mean(), rtol=1e-4, atol=1e-6)
    assert together.weight == len(QUESTIONS)


def test_missing_columns_are_named():
    sdft = method()
    batch = data(sdft.student)
    del batch["context"]
    with pytest.raises(UserError, match="Sdft needs 'context'"):
        fit(sdft, batch, Plan(steps=1, batch_size=2))


@pytest.mark.parametrize("name", ["prompt", "context"])
def test_an_empty_row_is_named(name):
    sdft = method()
    batch = data(sdft.student)
    batch[f"{name}_mask"][2] = 0
    with pytest.raises(UserError, match=f"data: row 2 has an empty {name}"):
        fit(sdft, batch, Plan(steps=1, batch_size=4))


def test_a_rollout_needs_positions_of_the_model(tmp_path):
    sdft = Sdft(student(), max_new_tokens=60)  # the model has 64
    with pytest.raises(
        UserError, match=r"data: the longest row has \d+ tokens and a rollout up to 60, .* 64 positions"
    ):
        fit(sdft, data(sdft.student), Plan(steps=1, batch_size=2), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_vocabulary_changed_under_the_teacher_is_refused():
    sdft = method()
    sdft.student.net.resize_token_embeddings(80)
    with pytest.raises(UserError, match=r"teacher: scores \d+ tokens, its student 80; resize the vocabulary before"):
        fit(sdft, data(sdft.student), Plan(steps=1, batch_size=2))
