"""Divergences against their definitions, their limits and each other; estimators by enumeration of a toy softmax."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Categorical, kl_divergence

from redistill.core.errors import UserError
from redistill.losses import divergences as dv

V = 11


def pair(*shape: int, seed: int = 0, scale: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    student, teacher = (scale * torch.randn(*shape, generator=random, dtype=torch.float64) for _ in range(2))
    return student.requires_grad_(), teacher


def gradient(loss: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, of)[0]


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_both_kls_agree_with_torch_distributions() -> None:
    student, teacher = pair(4, 3, V)
    q, p = Categorical(logits=student), Categorical(logits=teacher)
    close(dv.ForwardKL()(student, teacher), kl_divergence(p, q))
    close(dv.ReverseKL()(student, teacher), kl_divergence(q, p))


def test_total_variation_is_the_largest_gap_over_events() -> None:
    student, teacher = pair(5, V)
    gap = student.softmax(-1) - teacher.softmax(-1)
    close(dv.TotalVariation()(student, teacher), gap.clamp(min=0).sum(-1))  # the event {q > p}


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_jsd_agrees_with_its_definition_and_is_bounded(beta: float) -> None:
    student, teacher = pair(6, V, scale=5)
    q, p = Categorical(logits=student), Categorical(logits=teacher)
    m = Categorical(probs=beta * p.probs + (1 - beta) * q.probs)
    value = dv.JSD(beta=beta)(student, teacher)
    close(value, beta * kl_divergence(p, m) + (1 - beta) * kl_divergence(q, m))
    entropy = -(beta * torch.tensor(beta).log() + (1 - beta) * torch.tensor(1 - beta).log())
    assert (value <= entropy).all()


def test_jsd_tends_to_forward_kl_at_beta_0_and_to_reverse_kl_at_1() -> None:
    student, teacher = pair(6, V)
    forward, reverse = dv.ForwardKL()(student, teacher), dv.ReverseKL()(student, teacher)
    small = 1e-6
    close(dv.JSD(beta=small)(student, teacher) / small, forward, 1e-4)
    close(dv.JSD(beta=1 - small)(student, teacher) / small, reverse, 1e-4)
    close(dv.JSD(beta=0)(student, teacher), forward)
    close(dv.JSD(beta=1)(student, teacher), reverse)


def test_jsd_half_is_symmetric_and_reverse_kl_is_forward_kl_with_the_roles_exchanged() -> None:
    student, teacher = pair(6, V)
    close(dv.JSD()(student, teacher), dv.JSD()(teacher, student))
    close(dv.ReverseKL()(student, teacher), dv.ForwardKL()(teacher, student))


@pytest.mark.parametrize("kind", [dv.ForwardKL, dv.ReverseKL, dv.JSD, dv.TotalVariation])
def test_equal_distributions_cost_nothing_and_pull_nowhere(kind: type[dv.Divergence]) -> None:
    student, _ = pair(6, V)
    loss = kind()(student, student.detach() + 3)  # a shift of all logits changes nothing
    close(loss, torch.zeros_like(loss))
    if kind is not dv.TotalVariation:  # it has a kink there
        close(gradient(loss.sum(), student), torch.zeros_like(student))


@pytest.mark.parametrize("options", [{}, {"top_k": V - 2, "tail": True}, {"top_k": V - 1}], ids=str)
@pytest.mark.parametrize("kind", [dv.ForwardKL, dv.ReverseKL, dv.JSD, dv.TotalVariation])
def test_tokens_that_both_forbid_stay_finite(kind: type[dv.Divergence], options: dict) -> None:
    student, teacher = pair(6, V)
    forbidden = torch.zeros(V, dtype=torch.float64).index_fill(0, torch.tensor([2, 5]), -torch.inf)
    value = kind(**options)(student + forbidden, teacher + forbidden)
    close(value, kind()(student[:, forbidden == 0], teacher[:, forbidden == 0]))
    assert gradient(value.sum(), student).isfinite().all()


def test_each_side_has_its_temperature_and_the_factor_is_explicit() -> None:
    student, teacher = pair(6, V)
    plain = dv.ForwardKL()
    close(dv.ForwardKL(temperature=2.0)(student, teacher), plain(student / 2, teacher / 2))
    close(dv.ForwardKL(temperature=2.0, teacher_temperature=0.5)(student, teacher), plain(student / 2, teacher / 0.5))
    close(dv.ForwardKL(temperature=3.0, t_squared=True)(student, teacher), 9 * plain(student / 3, teacher / 3))


def test_a_temperature_per_token_broadcasts() -> None:
    student, _ = pair(6, V)
    each = torch.linspace(0.5, 3, 6, dtype=torch.float64)
    together = dv.log_probs(student, each[:, None])
    close(together, torch.stack([dv.log_probs(row, float(t)) for row, t in zip(student, each)]))


def test_half_precision_is_raised_before_the_softmax() -> None:
    student, teacher = pair(6, 2000)
    half = dv.ForwardKL()(student.bfloat16(), teacher.bfloat16())
    assert half.dtype == torch.float32
    close(half.double(), dv.ForwardKL()(student.bfloat16().double(), teacher.bfloat16().double()), 1e-5)


@pytest.mark.parametrize("of", ["teacher", "student"])
@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("kind", [dv.ForwardKL, dv.ReverseKL, dv.JSD])
def test_top_k_with_all_tokens_is_the_full_divergence(kind: type[dv.Divergence], tail: bool, of: dv.Role) -> None:
    student, teacher = pair(6, V)
    close(kind(top_k=V, top_k_of=of, tail=tail)(student, teacher), kind()(student, teacher))


@pytest.mark.parametrize("of", ["teacher", "student"])
def test_the_tail_bucket_bounds_the_full_divergence_from_below_and_is_exact_for_all_but_one(of: dv.Role) -> None:
    student, teacher = pair(50, V)
    full = dv.ForwardKL()(student, teacher)
    bounds = [dv.ForwardKL(top_k=k, top_k_of=of, tail=True)(student, teacher) for k in range(1, V)]
    assert all((bound <= full + 1e-12).all() for bound in bounds)
    close(bounds[-1], full)
    loss = bounds[2].sum()
    assert (gradient(loss, student) != 0).all()  # the bucket pulls on every token outside the k


def test_top_k_takes_the_k_of_the_named_owner_and_renormalises_there() -> None:
    student = torch.tensor([[3.0, 2.0, 1.0, 0.0]], dtype=torch.float64)
    teacher = torch.tensor([[0.0, 1.0, 2.0, 3.0]], dtype=torch.float64)
    full = dv.ForwardKL()
    close(dv.ForwardKL(top_k=2, top_k_of="teacher")(student, teacher), full(student[:, 2:], teacher[:, 2:]))
    close(dv.ForwardKL(top_k=2, top_k_of="student")(student, teacher), full(student[:, :2], teacher[:, :2]))


def test_the_tail_keeps_its_digits_when_the_k_hold_nearly_all_mass() -> None:
    logits = torch.tensor(
        [[60.0, 0.0, 0.0]], requires_grad=True
    )  # the tail holds 2 exp(-60), which 1 - sum cannot hold
    log_q, _ = dv.top_k_with_tail(logits.log_softmax(-1), logits.detach().log_softmax(-1), 1, "teacher")
    torch.testing.assert_close(log_q[0, -1], torch.tensor(2.0).log() - 60)
    assert gradient(log_q.sum(), logits).isfinite().all()


def test_clip_caps_each_summand() -> None:
    student, teacher = pair(20, V, scale=4)
    terms = dv.forward_kl(dv.log_probs(student), dv.log_probs(teacher))
    clipped = dv.ForwardKL(clip=0.1)(student, teacher)
    close(clipped, terms.clamp(max=0.1).sum(-1))
    assert (clipped < terms.sum(-1) - 0.1).any()


def test_the_mask_leaves_positions_out_even_when_they_hold_nan() -> None:
    student, teacher = pair(2, 4, V)
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]]).bool()
    broken = student.detach().masked_fill(~mask[..., None], torch.nan).requires_grad_()
    values = dv.ReverseKL()(broken, teacher, mask)
    close(values, dv.ReverseKL()(student, teacher) * mask)
    pull = gradient(values.sum(), broken)
    assert pull.isfinite().all() and (pull[~mask] == 0).all() and (pull[mask] != 0).any()


def test_unequal_vocabularies_share_their_prefix_and_say_so() -> None:
    student, teacher = pair(6, V)
    with pytest.warns(UserWarning, match="score 8 and 11 tokens; the first 8"):
        short = dv.ForwardKL()(student[:, :8], teacher)
    close(short, dv.ForwardKL()(student[:, :8], teacher[:, :8]))


# --------------------------------------------------------------------------------------------------------- estimators


def expected(estimator, student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """E_{y ~ q} of the estimator's value and of its gradient, by enumeration: the draw itself is not differentiated."""
    log_q, log_p = student.log_softmax(-1), teacher.log_softmax(-1)
    value = (log_q.exp().detach() * estimator(log_q, log_p)).sum()
    return value, gradient(value, student)


def test_k1_is_unbiased_but_its_gradient_is_zero_in_expectation() -> None:
    student, teacher = pair(V)
    value, pull = expected(dv.k1, student, teacher)
    close(value, dv.ReverseKL()(student, teacher))
    close(pull, torch.zeros(V, dtype=torch.float64))


def test_k2_has_the_gradient_of_the_reverse_kl_and_so_has_the_policy_gradient() -> None:
    student, teacher = pair(V)
    value, pull = expected(dv.k2, student, teacher)
    exact = dv.ReverseKL()(student, teacher)
    close(pull, gradient(exact, student))
    assert abs(value - exact) > 0.01  # biased
    close(expected(lambda q, p: -(p - q).detach() * q, student, teacher)[1], pull)


def test_k3_is_unbiased_and_positive_with_the_gradient_of_the_forward_kl() -> None:
    student, teacher = pair(V)
    value, pull = expected(dv.k3, student, teacher)
    close(value, dv.ReverseKL()(student, teacher))
    close(pull, gradient(dv.ForwardKL()(student, teacher), student))
    assert (dv.k3(student.log_softmax(-1), teacher.log_softmax(-1)) >= 0).all()


# --------------------------------------------------------------------------------------------------------- reductions


def test_reductions_weigh_tokens_or_sequences() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0], [10.0, torch.nan, torch.nan], [torch.nan] * 3])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]]).bool()
    assert dv.reduce(values, mask) == 4.0
    assert dv.reduce(values, mask, how="sequence_mean") == 6.0
    assert dv.reduce(values, mask, how="sum") == 16.0
    assert dv.reduce(values, mask, how="none").tolist() == [[1, 2, 3], [10, 0, 0], [0, 0, 0]]
    weight = torch.tensor([[2.0, 0.0, 0.0], [1.0, 5.0, 5.0], [1.0, 1.0, 1.0]])
    assert dv.reduce(values, mask, weight) == 4.0
    assert dv.reduce(values, mask, weight, how="sequence_mean") == 5.5


@pytest.mark.parametrize("how", ["token_mean", "sequence_mean", "sum"])
def test_without_a_token_the_loss_is_zero_and_differentiable(how: dv.Reduction) -> None:
    student, teacher = pair(2, 3, V)
    mask = torch.zeros(2, 3, dtype=torch.bool)
    loss = dv.reduce(dv.ForwardKL()(student, teacher, mask), mask, how=how)
    assert loss == 0 and (gradient(loss, student) == 0).all()


# ---------------------------------------------------------------------------------------------- classification losses


@pytest.mark.parametrize("xi", [-0.7, 0.0, 0.4, 1.0, 2.5])
def test_soft_cross_entropy_takes_any_real_mixing_weight(xi: float) -> None:
    student, teacher = pair(5, V)
    label = torch.arange(5)
    target = xi * teacher.softmax(-1) + (1 - xi) * F.one_hot(label, V).double()
    loss = dv.soft_cross_entropy(student, target)
    mix = xi * F.cross_entropy(student, teacher.softmax(-1)) + (1 - xi) * F.cross_entropy(student, label)
    close(loss, mix)
    close(gradient(loss, student), (student.softmax(-1) - target) / 5)  # over the batch only, not over V


def test_kd_loss_is_hintons_and_its_gradient_does_not_shrink_with_the_temperature() -> None:
    student, teacher = pair(5, V)
    loss = dv.kd_loss(student, teacher, 2.0)
    close(loss, 4 * F.kl_div((student / 2).log_softmax(-1), (teacher / 2).softmax(-1), reduction="batchmean"))
    close(loss, dv.ForwardKL(temperature=2.0, t_squared=True)(student, teacher).mean())
    hot = gradient(dv.kd_loss(student, teacher, 1e4), student)
    centred = (student - student.mean(-1, keepdim=True)) - (teacher - teacher.mean(-1, keepdim=True))
    close(hot, centred.detach() / V / 5, 1e-4)  # matches logits at high temperature (section 2.1 of the paper)


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dv.ForwardKL(temperature=0.0), "temperature=0.0; give a number above 0"),
        (lambda: dv.JSD(beta=1.5), "beta=1.5; give a number from 0 to 1"),
        (lambda: dv.ForwardKL(top_k=2.5), "top_k=2.5; give a whole number from 1"),
        (lambda: dv.ReverseKL(clip=-1.0), "clip=-1.0; give a number above 0"),
        (lambda: dv.ForwardKL(top_k=99)(*pair(3, V)), "top_k: 99 is not between 1 and the vocabulary of 11"),
        (lambda: dv.ForwardKL(top_k=3, top_k_of="techer")(*pair(3, V)), "did you mean 'teacher'"),
        (lambda: dv.ForwardKL()(pair(3, V)[0], pair(4, V)[1]), r"student \(3, 11\), teacher \(4, 11\)"),
        (lambda: dv.reduce(torch.ones(2, 3), how="tokens_mean"), "did you mean 'token_mean'"),
    ],
)
def test_wrong_options_are_named(make, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()


def test_a_plug_in_remembers_its_options() -> None:
    assert dv.JSD(beta=0.3, temperature=2.0).arguments == {"beta": 0.3, "temperature": 2.0}
    assert set(dv.Divergence.choices()) == {"forward_kl", "jsd", "reverse_kl", "total_variation"}
