"""SiD on Gaussians in closed form, and its turns written out."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from redistill.beds.gauss import Exact, single
from redistill.core import Plan, UserError, fit
from redistill.core.followers import same_weights
from redistill.core.method import bare_progress
from redistill.core.roles import Roles
from redistill.diffusion.denoiser import Denoiser
from redistill.diffusion.nets import DenoiserMlp
from redistill.diffusion.paths import Edm, Flow
from redistill.diffusion.score import (
    LogNormalTime,
    Matching,
    ReverseKl,
    ScoreIdentity,
    UniformTime,
    row_mean,
    score_loss,
)
from redistill.methods.score.sid import Sid


def denoiser(seed: int = 0) -> Denoiser:
    torch.manual_seed(seed)
    return Denoiser(DenoiserMlp(2, 16), path=Edm(0.03, 10.0), kind="edm", time_scale=1.0, scale_input=True)


def method(**options) -> Sid:
    return Sid(denoiser(1), denoiser(), denoiser(2), shape=(2,), **options)


ROWS = {"index": torch.arange(8)}


def test_both_turns_are_the_paper_written_out():
    m, path = method(matching=ScoreIdentity(1.2)), Edm(0.03, 10.0)
    t_init = torch.tensor(0.25) ** (1 / 7)  # sigma 2.5 of 10
    for seed in range(3):
        now = bare_progress(seed=seed)
        x = m.student(2.5 * now.randn(8, 2), t_init)
        t = path.t_min + (1 - path.t_min) * 0.8 * now.rand(8)
        x_t = x + 10 * (t**7)[:, None] * now.randn(8, 2)
        r, f = m.teacher(x_t, t), m.critic(x_t, t)
        want = ((r - f) * ((r - x) - 1.2 * (r - f))).mean(1) / (x - r).abs().mean(1).detach()
        found = m.loss("student", ROWS, bare_progress(seed=seed)).total
        torch.testing.assert_close(found, want.mean())
        slopes = [torch.autograd.grad(loss, list(m.student.parameters())) for loss in (found, want.mean())]
        torch.testing.assert_close(*slopes)

        now = bare_progress(seed=seed)
        x = m.student(2.5 * now.randn(8, 2), t_init).detach()
        sigma = (-1.2 + 1.2 * torch.special.ndtri(now.rand(8).double())).exp().clamp(0.03, 10.0).float()
        x_t = x + sigma[:, None] * now.randn(8, 2)
        weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
        error = (m.critic(x_t, path.time_of(sigma)) - x).square().mean(1)
        torch.testing.assert_close(
            m.loss("critic", ROWS, bare_progress(seed=seed)).total, (weight * error).mean(), rtol=1e-3, atol=1e-4
        )


def test_an_equal_critic_gives_no_loss_and_no_gradient():
    m = Sid(denoiser(1), denoiser(), shape=(2,)).double()
    Roles(m).enter("student")
    loss = m.loss("student", ROWS, bare_progress()).total
    loss.backward()
    assert loss == 0
    assert max(p.grad.abs().max() for p in m.student.parameters()) < 1e-7  # two paths that cancel but for rounding


@pytest.mark.parametrize("matching", [ScoreIdentity(), ReverseKl()])
def test_gradients_reach_the_network_of_the_turn_alone(matching):
    for turn in ("critic", "student"):
        m = method(matching=matching)
        Roles(m).enter(turn)
        m.loss(turn, ROWS, bare_progress(turn=turn)).total.backward()
        met = {name for name, net in m.networks().items() if any(p.grad is not None for p in net.parameters())}
        assert met == {turn}


def test_the_average_is_exported_and_follows_the_student_alone():
    m = method(decay=0.5)
    before = copy.deepcopy(m.average)
    m.after("critic", {}, bare_progress())
    assert same_weights(m.average, before)
    done = fit(m, None, Plan(steps=3, batch_size=8, lr=1e-2, device="cpu"))
    assert done.student is m.average.net and not same_weights(m.average.net, m.student)


# --- the race of exact students: affine, x = mu + sd z, on a Gaussian teacher, with the exact critic ---------------


def updates(matching: Matching, mu: float, sd: float, most: int = 800) -> int:
    """Steps of gradient descent until the student is the teacher N(1.5, 0.5^2) up to 1e-3; ``most`` if it never is.

    The divisor is that of its noise level: with one element a row its own distance may be nothing."""
    path, levels = Edm(0.03, 10.0), 16
    teacher, theta = Exact(single(1, 0.5, 1.5), path), torch.tensor([mu, sd], dtype=torch.float64, requires_grad=True)
    t = UniformTime(0.0, 0.8).times(torch.linspace(0, 1, levels, dtype=torch.float64), path).repeat_interleave(12 * 12)
    nodes, weights = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(12))
    z, eps = (v.reshape(-1, 1).repeat(levels, 1) for v in torch.cartesian_prod(nodes, nodes).T)
    share = (torch.outer(weights, weights) / weights.sum() ** 2).flatten().repeat(levels) / levels
    for step in range(most):
        found = theta.detach()
        if float((found - torch.tensor([1.5, 0.5])).square().sum()) < 1e-3:
            return step
        x = theta[0] + theta[1] * z
        x_t = path.add_noise(x, eps, t)
        critic = Exact(single(1, float(found[1]), float(found[0])), path)
        real, fake = teacher(x_t, t), critic(x_t, t)
        if not matching.through:
            real, fake = real.detach(), fake.detach()
        distance = (share * row_mean((x - real).abs()).detach()).reshape(levels, -1).sum(1) * levels
        loss = (share * score_loss(x, real, fake, *matching.coefficients(None)) / distance.repeat_interleave(144)).sum()
        (slope,) = torch.autograd.grad(loss, theta)
        with torch.no_grad():
            theta -= 0.02 * slope
        if not torch.isfinite(theta).all():
            return most
    return most


def test_alpha_above_one_half_helps_students_that_are_too_narrow_and_hurts_those_too_wide():
    half, paper, far = ScoreIdentity(0.5), ScoreIdentity(1.2), ScoreIdentity(2.0)
    assert updates(paper, -1.5, 0.3) < updates(half, -1.5, 0.3)
    assert updates(paper, 1.4, 0.05) < updates(half, 1.4, 0.05)
    assert updates(paper, 0.0, 1.5) > 1.2 * updates(half, 0.0, 1.5)
    assert updates(far, 0.0, 1.5) == 800


def test_with_an_exact_critic_reverse_kl_is_not_beaten_on_gaussians():
    assert updates(ReverseKl(), -1.5, 0.3) < min(updates(ScoreIdentity(a), -1.5, 0.3) for a in (0.5, 1.0, 1.2))


# --- the law of the critic's times, and options --------------------------------------------------------------------


def test_the_critics_levels_are_log_normal_within_the_path():
    u = torch.linspace(0, 1, 4001, dtype=torch.float64)
    for path in (Edm(), Flow()):
        log_ratio = path.ratio(LogNormalTime().times(u, path)).clamp_min(1e-9).log()
        inside = log_ratio[200:-200]
        torch.testing.assert_close(inside, -1.2 + 1.2 * torch.special.ndtri(u[200:-200]))
    narrow = Edm(0.1, 1.0)
    levels = narrow.sigma(LogNormalTime().times(u, narrow))
    assert float(levels.min()) == pytest.approx(0.1) and float(levels.max()) == pytest.approx(1.0)


def test_columns_and_wrong_options():
    assert method().needs == () and method(condition="label").needs == ("label",)
    assert Sid(denoiser(), denoiser()).needs == ("image",)  # for its shape
    assert float(Sid(denoiser(), denoiser(), sigma_init=None).start) == 1.0
    with pytest.raises(UserError, match=r"sigma_init=-1\.0; give a number above 0"):
        method(sigma_init=-1.0)
