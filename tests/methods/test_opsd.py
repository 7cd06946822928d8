"""The exact properties of OPSD: whose scores it compares, on which tokens, with which gradient."""

from __future__ import annotations

import pytest
import torch

from redistill.beds import lm as bed
from redistill.core import Plan, UserError, fit
from redistill.core.followers import same_weights
from redistill.core.method import bare_progress
from redistill.language import contexts
from redistill.losses.divergences import JSD, ForwardKL, ReverseKL
from redistill.methods.language.opsd import Opsd
from redistill.models.transformers import AdapterOff, CausalLm

SMALL = dict(
    hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=8
)
QUESTIONS = ("QAabcd", "QAbcda", "QAcdab", "QAdabc")


def student(seed=0):
    return bed.blank(seed, **SMALL).double()


def with_adapter():
    from peft import LoraConfig, get_peft_model

    lm = student()
    return CausalLm(get_peft_model(lm.net, LoraConfig(r=2, target_modules=["q_proj"])), lm.tokenizer).double()


def data(lm, solution="!<e/d/c/b>"):
    solved = [contexts.asked(q + solution) for q in QUESTIONS]
    return contexts.two_contexts(lm.tokenizer, [contexts.asked(q) for q in QUESTIONS], solved)


def method(lm=None, **options):
    return Opsd(lm or student(), **{"max_new_tokens": 6, **options})


def run(opsd, batch):
    now = bare_progress()
    return opsd.loss("student", opsd.prepare(batch, now), now)


def gradient(opsd, batch):
    parameters = [p for p in opsd.student.parameters() if p.requires_grad]
    return torch.autograd.grad(opsd.loss("student", batch, bare_progress()).total, parameters)


@pytest.mark.parametrize("estimator", ["full", "sampled"])
@pytest.mark.parametrize("lm", [student, with_adapter])
def test_without_a_solution_loss_and_gradient_are_zero(lm, estimator):
    opsd = method(lm(), estimator=estimator)
    loss = run(opsd, data(opsd.student, solution=""))
    loss.total.backward()
    assert loss.total.item() == pytest.approx(0, abs=1e-12)
    assert max(p.grad.abs().max() for p in opsd.student.parameters() if p.grad is not None) < 1e-12


def test_the_teacher_is_the_initial_model_that_sees_the_solution():
    opsd = method(divergence=ReverseKL(temperature=1.1))
    batch = opsd.prepare(data(opsd.student), bare_progress())
    mask, start = batch["completion_mask"], student()
    z = contexts.completion_scores(opsd.student, batch["prompt"], batch["prompt_mask"], batch["completion"], mask)
    z0 = contexts.completion_scores(start, batch["context"], batch["context_mask"], batch["completion"], mask)
    log_q, log_p = ((s / 1.1).log_softmax(-1) for s in (z, z0))
    by_hand = (log_q.exp() * (log_q - log_p)).sum(-1).mean()
    assert opsd.loss("student", batch, bare_progress()).total.item() == pytest.approx(by_hand.item(), rel=1e-9)


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean"])
@pytest.mark.parametrize("divergence", [ForwardKL, ReverseKL, JSD])
def test_a_clip_that_nothing_reaches_and_all_tokens_as_top_change_nothing(divergence, reduction):
    """Both leave the fused form for the plain one: value and gradient agree."""
    lm = student()
    plain = [method(lm, divergence=divergence(temperature=1.1, **more), reduction=reduction)
             for more in ({}, {"clip": 1e9}, {"top_k": len(lm.tokenizer)})]  # fmt: skip
    batch = plain[0].prepare(data(lm), bare_progress())
    losses = [m.loss("student", batch, bare_progress()).total.item() for m in plain]
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-9) and losses[0] > 1e-6
    first, *others = (gradient(m, batch) for m in plain)
    for other in others:
        for ours, theirs in zip(first, other, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)


def test_a_clip_caps_every_summand():
    lm = student()
    opsd = method(lm, divergence=ForwardKL(clip=1e-3))
    batch = opsd.prepare(data(lm), bare_progress())
    log_q, log_p = (z.log_softmax(-1) for z in contexts.context_scores(lm, opsd.teacher, batch, opsd.counted(batch)))
    by_hand = (log_p.exp() * (log_p - log_q)).clamp(max=1e-3).sum(-1).mean()
    assert opsd.loss("student", batch, bare_progress()).total.item() == pytest.approx(by_hand.item(), rel=1e-9)


def test_the_sampled_estimate_has_the_gradient_of_the_policy_gradient():
    opsd = method(estimator="sampled")
    batch = opsd.prepare(data(opsd.student), bare_progress())
    scores = contexts.context_scores(opsd.student, opsd.teacher, batch, batch["completion_mask"])
    written = batch["completion"][batch["completion_mask"].bool()][:, None]
    logp, target = ((z / 1.1).log_softmax(-1).gather(1, written) for z in scores)
    policy = -((target - logp).detach() * logp).mean()
    parameters = [p for p in opsd.student.parameters() if p.requires_grad]
    for ours, theirs in zip(gradient(opsd, batch), torch.autograd.grad(policy, parameters), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)


def test_padding_changes_nothing():
    opsd = method()
    batch = opsd.prepare(data(opsd.student), bare_progress())
    loss, pad = opsd.loss("student", batch, bare_progress()).total, opsd.student.pad
    wider = dict(batch)
    for name in ("prompt", "context"):
        wider[name] = torch.nn.functional.pad(batch[name], (3, 0), value=pad)
        wider[f"{name}_mask"] = torch.nn.functional.pad(batch[f"{name}_mask"], (3, 0))
    wider["completion"] = torch.nn.functional.pad(batch["completion"], (0, 2), value=pad)
    wider["completion_mask"] = torch.nn.functional.pad(batch["completion_mask"], (0, 2))
    assert opsd.loss("student", wider, bare_progress()).total.item() == pytest.approx(loss.item(), rel=1e-9)


def test_under_an_adapter_the_teacher_owns_no_weights_and_stays():
    opsd = method(with_adapter())
    assert isinstance(opsd.teacher, AdapterOff) and not list(opsd.teacher.parameters())
    rows = data(opsd.student)
    before = opsd.teacher(rows["prompt"], rows["prompt_mask"])
    trained = fit(opsd, rows, Plan(steps=3, batch_size=2, lr=1e-1, device="cpu"))
    after = trained.method.teacher(rows["prompt"], rows["prompt_mask"])
    now = trained.student(rows["prompt"], rows["prompt_mask"])
    torch.testing.assert_close(before, after)
    assert (now - after).abs().max() > 1e-4


@pytest.mark.parametrize(("rate", "frozen"), [(0.0, True), (1.0, False)])
def test_rate_zero_is_a_frozen_teacher_and_rate_one_the_live_student(rate, frozen):
    start = student()
    fitted = fit(method(teacher_rate=rate), data(start), Plan(steps=3, batch_size=2, lr=1e-2, device="cpu"))
    assert same_weights(fitted.method.teacher.net, start) == frozen
    assert same_weights(fitted.method.teacher.net, fitted.student) != frozen


def test_every_answer_or_every_token_counts_the_same():
    opsd = {how: method(reduction=how) for how in ("token_mean", "sequence_mean")}
    batch = opsd["token_mean"].prepare(data(student()), bare_progress())
    lengths = torch.tensor([6, 3, 1, 2])
    mask = (torch.arange(batch["completion"].shape[1]) < lengths[:, None]).long()
    batch, lengths = {**batch, "completion_mask": mask}, mask.sum(1).double()
    rows = torch.tensor([
        float(opsd["token_mean"].loss("student", {k: v[i : i + 1] for k, v in batch.items()}, bare_progress()).total)
        for i in range(4)
    ]).double()  # fmt: skip
    found = {how: float(m.loss("student", batch, bare_progress()).total) for how, m in opsd.items()}
    assert found["token_mean"] == pytest.approx(float((rows * lengths).sum() / lengths.sum()), rel=1e-6)
    assert found["sequence_mean"] == pytest.approx(float(rows.mean()), rel=1e-6)
    assert opsd["token_mean"].loss("student", batch, bare_progress()).weight == lengths.sum()


def test_first_tokens_and_attempts_that_did_not_end_can_be_left_out():
    opsd = method(skip_tokens=1, drop_truncated=True)
    end, other = opsd.student.eos[0], 5
    batch = {"completion": torch.tensor([[other, other, end], [other, other, other]]),
             "completion_mask": torch.ones(2, 3, dtype=torch.int64)}  # fmt: skip
    assert opsd.counted(batch).tolist() == [[0, 1, 1], [0, 0, 0]]


def test_a_share_of_the_batches_takes_given_completions():
    opsd = method(own=0.0)
    rows = data(opsd.student)
    with pytest.raises(UserError, match=r"data: own=0.0 takes completions"):
        opsd.check(rows)
    rows["completion"], rows["completion_mask"] = contexts.encode_completions(opsd.student.tokenizer, ["abcd"] * 4)
    opsd.check(rows)
    assert opsd.prepare(rows, bare_progress()) is rows
    assert opsd.loss("student", rows, bare_progress()).weight == rows["completion_mask"].sum()


@pytest.mark.parametrize("name", ["estimator", "reduction"])
def test_unknown_words_are_refused(name):
    with pytest.raises(UserError, match=name):
        method(**{name: "ful"})
