"""The oracle is exact: its answers agree with autograd, with Bayes by brute force, and with each other."""

from __future__ import annotations

import math

import pytest
import torch

from redistill.beds.gauss import Exact, grid, pair, ring, single
from redistill.diffusion.paths import Cosine, Edm, Flow, Vp

PATHS = [Edm(0.02, 20.0), Flow(), Cosine(), Vp()]
T = torch.tensor([0.2, 0.3, 0.5, 0.7, 0.9, 0.99], dtype=torch.float64)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("label", [None, torch.tensor([0, 1, 2, 3, 7, 8])])
def test_score_is_the_gradient_of_log_density_and_tweedie_of_the_denoiser(path, label):
    exact, x = Exact(ring(), path), (2 * draw(6, 2)).requires_grad_()
    (gradient,) = torch.autograd.grad(exact.log_density(x, T, label).sum(), x)
    torch.testing.assert_close(exact.score(x, T, label), gradient)
    torch.testing.assert_close(path.score_from_x0(x, exact(x, T, label), T), gradient)


def test_denoiser_is_the_posterior_mean_by_brute_force():
    exact = Exact(pair(distance=1.6, std=0.3), Flow())
    x0 = torch.linspace(-4, 4, 20001, dtype=torch.float64)
    prior = sum(torch.exp(-0.5 * ((x0 - m) / 0.3) ** 2) for m in (-0.8, 0.8))
    for t in (0.2, 0.5, 0.8):
        posterior = prior * torch.exp(-0.5 * ((0.37 - (1 - t) * x0) / t) ** 2)
        mean = (posterior * x0).sum() / posterior.sum()
        ours = exact(torch.tensor([[0.37]], dtype=torch.float64), torch.tensor(t, dtype=torch.float64))
        assert float(ours) == pytest.approx(float(mean), abs=1e-8)


def test_density_integrates_to_one():
    exact, axis = Exact(ring(), Flow()), torch.linspace(-6, 6, 241, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    total = exact.log_density(points, torch.tensor(0.4, dtype=torch.float64)).exp().sum() * 0.05**2
    assert float(total) == pytest.approx(1.0, abs=1e-6)


def test_endpoints_are_distributed_as_the_data():
    mixture = ring()
    exact = Exact(mixture, Edm(0.02, 20.0))
    ends = exact.endpoints(exact.path.prior(draw(2000, 2)), steps=60)
    assert mixture.modes(ends) == 8
    assert mixture.valid(ends) == pytest.approx(1 - math.exp(-4.5), abs=0.01)  # three sigmas of a Rayleigh law
    one = exact.endpoints(exact.path.prior(draw(200, 2)), torch.full((200,), 3), steps=60)
    assert float(mixture.histogram(one)[3]) > 0.97


def test_samples_and_metrics():
    mixture = grid(3, spacing=2.0, std=0.1)
    x, label = mixture.sample(4000, torch.Generator().manual_seed(0))
    assert x.dtype == torch.float32 and mixture.dim == 2
    assert mixture.modes(x) == 9 and mixture.modes(x[label < 4]) == 4
    assert float(mixture.histogram(x).max()) < 0.14
    assert mixture.valid(x + 1.0) == 0.0
    assert float((x - mixture.means[label]).std()) == pytest.approx(0.1, rel=0.03)


def test_single_gaussian_denoises_linearly():
    exact = Exact(single(dim=3, std=0.5, mean=1.0), Flow())
    x, t = draw(4, 3), torch.tensor(0.5, dtype=torch.float64)
    gain = 0.5 * 0.25 / (0.25 * 0.25 + 0.25)
    torch.testing.assert_close(exact(x, t), 1 + gain * (x - 0.5))
