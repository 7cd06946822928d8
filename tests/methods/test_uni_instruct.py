"""Uni-Instruct's weights and gradients on Gaussians in closed form, and its turns."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from redistill.beds.gauss import Exact, single
from redistill.core.method import bare_progress
from redistill.core.roles import Roles
from redistill.diffusion.denoiser import Denoiser
from redistill.diffusion.discriminator import TokenHead
from redistill.diffusion.nets import DenoiserMlp
from redistill.diffusion.paths import Edm
from redistill.diffusion.score import NoNormaliser, ScoreDistiller, ScoreIdentity, score_loss
from redistill.methods.score.uni_instruct import Unfolded, UniInstruct, weights

F = {
    "reverse_kl": lambda r: -r.log(),
    "forward_kl": lambda r: r * r.log(),
    "jeffrey": lambda r: -0.6 * r.log() + 0.4 * r * r.log(),
    "jensen_shannon": lambda r: r * r.log() - (1 + r) * (1 + r).log(),
    "chi_square": lambda r: (r - 1) ** 2,
}


def slope(y: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    if not y.requires_grad:
        return torch.zeros_like(r)
    (found,) = torch.autograd.grad(y.sum(), r, create_graph=True, allow_unused=True, materialize_grads=True)
    return found


@pytest.mark.parametrize("f", F)
def test_the_weights_are_those_of_the_divergence(f):
    r = torch.tensor([0.1, 0.5, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
    h = r**2 * slope(slope(F[f](r), r), r)
    first = slope(h, r)
    for found, want in zip(weights(f, r), (h, r * first, r**2 * slope(first, r))):
        torch.testing.assert_close(found, want.detach() + 0 * found, atol=1e-9, rtol=1e-9)


# Teacher N(0.8, 0.7^2), student mu + sd z, one noise level: the divergence of that level is an integral over x_t.
PATH, SIGMA, MU, SD = Edm(0.02, 20.0), 0.6, 0.2, 0.9


def of_the_integral(f: str) -> torch.Tensor:
    """d/d(mu, sd) of E_p[h(r) |Delta|^2] / 2, on a grid."""
    theta = torch.tensor([MU, SD], dtype=torch.float64, requires_grad=True)
    x = torch.linspace(-9, 10, 8001, dtype=torch.float64)

    def normal(mean, std) -> tuple[torch.Tensor, torch.Tensor]:
        variance = std**2 + SIGMA**2
        return -0.5 * (x - mean) ** 2 / variance - 0.5 * torch.log(2 * math.pi * variance), (mean - x) / variance

    (log_q, s_q), (log_p, s_p) = normal(torch.tensor(0.8), torch.tensor(0.7)), normal(theta[0], theta[1])
    inner = weights(f, (log_q - log_p).exp())[0] * (s_q - s_p) ** 2 * log_p.exp()
    return torch.autograd.grad(torch.trapezoid(inner, x) / 2, theta)[0]


def of_the_method(f: str, form: str) -> torch.Tensor:
    """The same from samples: Gauss and Hermite's points for z and eps, the exact teacher, critic and ratio."""
    theta = torch.tensor([MU, SD], dtype=torch.float64, requires_grad=True)
    nodes, share = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(60))
    share = share / share.sum()
    z, eps = (v.reshape(-1, 1) for v in torch.cartesian_prod(nodes, nodes).T)
    t = PATH.time_of(torch.tensor(SIGMA, dtype=torch.float64)).expand(len(z))
    teacher, critic = Exact(single(1, 0.7, 0.8), PATH), Exact(single(1, SD, MU), PATH)
    x = theta[0] + theta[1] * z
    x_t = PATH.add_noise(x, eps, t)
    real, fake = teacher(x_t, t), critic(x_t, t)
    logit = teacher.log_density(x_t, t) - critic.log_density(x_t, t)
    rows = score_loss(x, real, fake, *Unfolded(f, form).at(x, real, fake, logit, PATH.snr(t)))
    return torch.autograd.grad((torch.outer(share, share).flatten() * rows).sum() / SIGMA**4, theta)[0]


@pytest.mark.parametrize("f", F)
def test_the_exact_form_is_the_gradient_of_the_divergence(f):
    torch.testing.assert_close(of_the_method(f, "exact"), of_the_integral(f), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("f", ["forward_kl", "jensen_shannon"])
def test_the_released_form_is_right_for_the_shift_and_wrong_for_the_spread(f):
    true, released = of_the_integral(f), of_the_method(f, "released")
    assert released[1] > true[1] + 0.05
    if f == "forward_kl":
        torch.testing.assert_close(released[0], true[0], rtol=1e-3, atol=0)
        assert true[1] < 0 < released[1]


@pytest.mark.parametrize(("form", "alpha"), [("exact", 0.5), ("released", 1.0)])
def test_reverse_kl_is_sid(form, alpha):
    x, real, fake = (torch.randn(5, 3, generator=torch.Generator().manual_seed(k)) for k in range(3))
    t, logit = torch.rand(5), torch.randn(5)
    found = ScoreDistiller(Unfolded("reverse_kl", form), NoNormaliser()).loss(x, real, fake, PATH, t, logit)
    torch.testing.assert_close(found, ScoreDistiller(ScoreIdentity(alpha), NoNormaliser()).loss(x, real, fake, PATH, t))


def test_a_ratio_that_is_twice_as_large_doubles_forward_kl():
    r = torch.tensor([0.2, 1.0, 4.0])
    for one, two in zip(weights("forward_kl", r), weights("forward_kl", 2 * r)):
        torch.testing.assert_close(two, 2 * one)


# --- the turns ------------------------------------------------------------------------------------------------------

ROWS = {"index": torch.arange(8), "image": torch.randn(8, 2, generator=torch.Generator().manual_seed(3))}


def denoiser(seed: int) -> Denoiser:
    torch.manual_seed(seed)
    return Denoiser(DenoiserMlp(2, 16), path=Edm(0.03, 10.0), kind="edm", time_scale=1.0, scale_input=True)


def method(**options) -> UniInstruct:
    return UniInstruct(denoiser(1), denoiser(0), TokenHead(16), denoiser(2), **options)


@pytest.mark.parametrize("form", ["exact", "released"])
def test_gradients_reach_the_networks_of_the_turn_alone(form):
    for turn, want in (("critic", {"critic", "discriminator"}), ("student", {"student"})):
        m = method(divergence=Unfolded("jensen_shannon", form))
        Roles(m).enter(turn)
        m.loss(turn, ROWS, bare_progress(turn=turn)).total.backward()
        assert {n for n, net in m.networks().items() if any(p.grad is not None for p in net.parameters())} == want


def test_the_first_share_of_the_run_is_reverse_kl():
    def match(step: int, **options) -> float:
        now = bare_progress(step)
        now.steps = 10
        torch.manual_seed(0)
        return float(method(reverse_first=0.5, **options).loss("student", ROWS, now).terms["match"])

    forward, chi = ({"divergence": Unfolded(f)} for f in ("forward_kl", "chi_square"))
    assert match(4, **forward) == match(4, **chi)
    assert match(5, **forward) != match(5, **chi)


def test_real_and_generated_rows_share_noise_and_times():
    """A student that makes the real rows leaves the discriminator without a gap."""
    m = method()
    m.student.forward = lambda x_t, t, condition=None, **_: ROWS["image"]
    loss = m.loss("critic", ROWS, bare_progress(turn="critic"))
    assert float(loss.watch["gap"]) == 0
