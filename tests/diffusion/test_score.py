"""The score block: gradients against closed forms, laws against their distributions."""

from __future__ import annotations

import math

import pytest
import torch

from redistill.beds.gauss import Exact, single
from redistill.core.errors import UserError
from redistill.diffusion.discriminator import ConvHead, TokenHead, head_for
from redistill.diffusion.paths import Edm, Flow, Vp
from redistill.diffusion.score import (
    AboveTime,
    BetaTime,
    FDivergence,
    KarrasTime,
    NoiseVariance,
    NoNormaliser,
    ReverseKl,
    ScoreDistiller,
    ScoreIdentity,
    TeacherDistance,
    UniformTime,
    backward_simulation,
    denoising_loss,
    few_step,
    prediction_weight,
    student_times,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(distiller: ScoreDistiller, x, real, fake, t, logit=None) -> torch.Tensor:
    x = x.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(distiller.loss(x, real, fake, Flow(), t, logit), x)
    return slope


def test_the_gradient_of_dmd_is_the_normalised_score_difference_over_the_number_of_elements():
    x, real, fake, t = normal(5, 3, 2), normal(5, 3, 2, seed=1), normal(5, 3, 2, seed=2), torch.rand(5)
    p_real, p_fake = x - real, x - fake
    want = (p_real - p_fake) / p_real.abs().mean((1, 2), keepdim=True) / x.numel()
    torch.testing.assert_close(gradient(ScoreDistiller(), x, real, fake, t), want)


def test_equal_denoisers_give_exactly_no_gradient():
    x, same, t = normal(5, 4), normal(5, 4, seed=1), torch.rand(5)
    for matching in (ReverseKl(), FDivergence(), ScoreIdentity()):
        slope = gradient(ScoreDistiller(matching), x, same, same, t, torch.zeros(5))
        assert torch.equal(slope, torch.zeros_like(x))


def test_an_f_divergence_weighs_rows_by_the_ratio():
    x, real, fake, t = normal(3, 4), normal(3, 4, seed=1), normal(3, 4, seed=2), torch.rand(3)
    logit = torch.tensor([-2.0, 0.0, 1.0], dtype=torch.float64)
    plain = gradient(ScoreDistiller(), x, real, fake, t)
    for f, h in (("reverse_kl", logit * 0 + 1), ("forward_kl", logit.exp()), ("jensen_shannon", logit.sigmoid())):
        slope = gradient(ScoreDistiller(FDivergence(f)), x, real, fake, t, logit)
        torch.testing.assert_close(slope, plain * h[:, None])
    sure = gradient(ScoreDistiller(FDivergence("forward_kl")), x, real, fake, t, logit + 1e4)
    torch.testing.assert_close(sure, plain * math.exp(10))
    with pytest.raises(UserError, match="did you mean 'forward_kl'"):
        FDivergence("forwardkl")


# One-dimensional Gaussians: teacher N(m, s^2), student x = mu + tau z. At noise level (alpha, sigma) the noised
# distributions are N(alpha m, v_p) and N(alpha mu, v_q), v = alpha^2 s^2 + sigma^2, and divergences are closed forms.
M, S = 0.7, 0.6
T = torch.tensor(0.4, dtype=torch.float64)


def student_gradients(matching) -> tuple[torch.Tensor, torch.Tensor]:
    """d loss / d (mu, tau) of samples with an exact teacher and an exact critic, weighted to score units."""
    mu, tau = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (-0.3, 1.1))
    # losses are quadratic in (z, eps): four points with the moments of two independent normals give the expectation
    z, eps = (torch.tensor([v], dtype=torch.float64).T for v in ([1, -1, 1, -1], [1, 1, -1, -1]))
    path = Flow()
    x, t = mu + tau * z, T.expand(len(z))
    x_t = path.add_noise(x, eps, t)
    real = Exact(single(1, S, M), path)(x_t, t)
    fake = Exact(single(1, tau.item(), mu.item()), path)(x_t, t)  # a function of x_t only: its parameters are frozen
    scale = path.alpha(T) ** 2 / path.sigma(T) ** 2  # <D, x> -> KL: score gap is alpha/sigma^2 D, dx_t/dx is alpha
    loss = scale * ScoreDistiller(matching, NoNormaliser()).loss(x, real, fake, path, t)
    return torch.autograd.grad(loss, (mu, tau))


def moments(mu, tau):
    alpha, sigma = Flow().alpha(T), Flow().sigma(T)
    return alpha, alpha * M, alpha**2 * S**2 + sigma**2, alpha * mu, alpha**2 * tau**2 + sigma**2


def closed(divergence) -> tuple[torch.Tensor, torch.Tensor]:
    mu, tau = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (-0.3, 1.1))
    return torch.autograd.grad(divergence(*moments(mu, tau)), (mu, tau))


def kl(alpha, m_p, v_p, m_q, v_q):
    return 0.5 * ((v_q + (m_q - m_p) ** 2) / v_p - 1 - (v_q / v_p).log())


def fisher(alpha, m_p, v_p, m_q, v_q):
    """E_q (score_p - score_q)^2, in the units of <D, D> alpha^2 / sigma^2 = gap^2 sigma^2."""
    a, b = 1 / v_q - 1 / v_p, m_p / v_p - m_q / v_q  # score gap = a x + b
    return Flow().sigma(T) ** 2 * (a**2 * (v_q + m_q**2) + 2 * a * b * m_q + b**2)


def test_dmd_is_the_gradient_of_the_kl():
    for ours, exact in zip(student_gradients(ReverseKl()), closed(kl)):
        torch.testing.assert_close(ours, exact)


def test_sid_at_one_half_is_half_the_gradient_of_the_fisher_divergence():
    for ours, exact in zip(student_gradients(ScoreIdentity(0.5)), closed(fisher)):
        torch.testing.assert_close(2 * ours, exact)


def test_sid_at_one_is_another_gradient():
    ours, exact = student_gradients(ScoreIdentity(1.0)), closed(fisher)
    assert abs(2 * ours[1] - exact[1]) > 0.1 * abs(exact[1])


def test_normalisers():
    x, real, t = normal(4, 3), normal(4, 3, seed=1), torch.tensor([0.1, 0.2, 0.5, 0.9], dtype=torch.float64)
    alpha, sigma = 1 - t, t
    torch.testing.assert_close(TeacherDistance().divisor(x, real, alpha, sigma), (x - real).abs().mean(1))
    assert float(TeacherDistance(1e-5).divisor(x, x, alpha, sigma)[0]) == 1e-5
    torch.testing.assert_close(NoiseVariance().divisor(x, real, alpha, sigma), (t / (1 - t)) ** 2)


def test_laws_of_time():
    u, path = torch.linspace(0, 1, 2001, dtype=torch.float64), Flow()
    assert UniformTime().times(u, path)[[0, -1]].tolist() == [0.02, 0.98]
    assert UniformTime(0, 1).times(u, Flow(shift=3.0))[1000] == pytest.approx(0.75)
    assert BetaTime(2.0, 1.0).times(u, path).mean() == pytest.approx(2 / 3, abs=1e-3)
    assert AboveTime(0.5).times(u, path).min() == 0.5
    levels = Edm(0.01, 50.0).sigma(KarrasTime(0.01, 50.0).times(u, Edm(0.01, 50.0)))
    torch.testing.assert_close(levels ** (1 / 7), torch.lerp(levels[0] ** (1 / 7), levels[-1] ** (1 / 7), u))
    assert float(levels[0]) == pytest.approx(0.01)
    assert float(levels[-1]) == pytest.approx(50.0)
    edm = Edm(0.01, 50.0)  # its uniform law is Karras' grid, and the network is never told of less noise than it knows
    whole = UniformTime(0.0, 1.0).times(u, edm)
    torch.testing.assert_close(edm.sigma(whole), levels)
    middle = KarrasTime(0.01, 50.0, low=0.02, high=0.98).times(u, edm)
    torch.testing.assert_close(UniformTime().times(u, edm), middle)


def test_students_are_asked_at_the_papers_times_and_never_at_clean_input():
    assert student_times(Flow(), 4).tolist() == [1.0, 0.75, 0.5, 0.25]
    told = (student_times(Vp(), 4) * 1000 - 1).round().tolist()
    assert told == [999, 749, 499, 249]
    for steps in (1, 2, 4):
        times = student_times(Edm(), steps)
        assert len(times) == steps and times[0] == 1 and float(Edm().sigma(times[-1])) > 10 * Edm().sigma_min


@pytest.mark.parametrize(
    ("path", "kind"), [(Flow(), "flow"), (Vp(), "eps"), (Vp(), "v"), (Edm(), "edm"), (Flow(), "x0")]
)
def test_the_critic_regresses_in_the_units_of_its_own_prediction(path, kind):
    x, eps, t = normal(6, 3), normal(6, 3, seed=1), torch.linspace(0.1, 0.95, 6, dtype=torch.float64)
    x_t = path.add_noise(x, eps, t)
    a, b = path.pair(t, kind)
    output = normal(6, 3, seed=2)
    want = (output - (a[:, None] * x + b[:, None] * eps)).square().mean()
    torch.testing.assert_close(denoising_loss(path.to_x0(x_t, output, t, kind), x, path, t, kind), want)


def test_edm_weighting_is_karras():
    t, path = torch.tensor([0.3, 0.8], dtype=torch.float64), Edm()
    torch.testing.assert_close(prediction_weight(path, t, "edm"), path.sigma(t) ** -2 + path.sigma_data**-2)


def test_backward_simulation_walks_the_students_own_states():
    path, times, noises = Flow(), Flow().grid(4)[:-1], [normal(2, 3, seed=k) for k in range(4)]
    seen = []

    def student(x_t, t, condition):
        seen.append((float(t), x_t.clone()))
        return 0.5 * x_t

    x_t = backward_simulation(student, path, times[:3], noises[:3])
    assert [t for t, _ in seen] == [1.0, 0.75]
    torch.testing.assert_close(seen[0][1], noises[0])
    second = 0.25 * 0.5 * noises[0] + 0.75 * noises[1]
    torch.testing.assert_close(seen[1][1], second)
    torch.testing.assert_close(x_t, 0.5 * 0.5 * second + 0.5 * noises[2])


def test_the_gradient_flows_through_the_last_call_only():
    scale = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    noises = [normal(2, 3, seed=k) for k in range(2)]
    x = few_step(lambda x_t, t, c: scale * x_t, Flow(), Flow().grid(2)[:-1], noises)
    (slope,) = torch.autograd.grad(x.sum(), scale)
    inside = 0.5 * (0.5 * noises[0]) + 0.5 * noises[1]  # constant
    torch.testing.assert_close(slope, inside.sum())


def test_heads_give_one_logit_a_row_and_rows_do_not_mix():
    for features in (torch.randn(4, 12, 8, 8), torch.randn(4, 12, 16, 16), torch.randn(4, 5, 12), torch.randn(4, 12)):
        head = head_for(features)
        assert head(features).shape == (4,)
        torch.testing.assert_close(head(features)[1:2], head(features[1:2]))
    assert isinstance(head_for(torch.randn(1, 12, 8, 8)), ConvHead)
    assert isinstance(head_for(torch.randn(1, 12)), TokenHead)
    with pytest.raises(UserError, match="no discriminator head fits"):
        head_for(torch.randn(1, 12, 4, 4))
    assert math.isfinite(ConvHead(12)(torch.randn(1, 12, 8, 8)).item())


@pytest.mark.parametrize("width", [4, 6, 8, 12, 32, 48, 64, 100, 128])
def test_a_head_tells_rows_apart_at_every_width(width):
    torch.manual_seed(0)
    with torch.no_grad():
        logits = ConvHead(width)(torch.randn(16, width, 8, 8))
    assert logits.std() > 0.01 and len(logits.unique()) == 16


def test_a_head_too_narrow_to_normalise_is_refused():
    with pytest.raises(UserError, match="width: 3 channels are too few to normalise; give 4 or more"):
        ConvHead(3)
