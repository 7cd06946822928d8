"""Solvers converge at their order on an ODE whose solution is known, and agree with diffusers where it has them."""

from __future__ import annotations

import math

import pytest
import torch

from redistill.beds.gauss import Exact, pair, ring
from redistill.core.errors import UserError
from redistill.diffusion.paths import Cosine, Edm, Flow, Trig, Vp
from redistill.diffusion.solvers import (
    EQUAL,
    consistency,
    ddim,
    deis,
    dpm_solver_2m,
    heun,
    ipndm,
    polynomial,
    solver,
    subdivide,
)

PATHS = [Edm(0.02, 20.0), Flow(), Cosine(), Vp(), Trig()]


def smooth(path, steps):
    """Times between noise ratios 5 and 0.2, where the ODE is smooth."""
    start, end = path.time_of(torch.tensor([5.0, 0.2], dtype=torch.float64))
    return path.grid(steps, "log_snr", start=float(start), end=float(end))[:-1]


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_orders_of_convergence(path):
    exact = Exact(pair(), path)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None] * (1 + path.sigma(smooth(path, 2)[0]))
    truth = heun(exact, x, smooth(path, 500))
    for run, order in ((ddim, 1), (heun, 2), (dpm_solver_2m, 2)):
        errors = [(run(exact, x, smooth(path, n + 1)) - truth).norm() for n in (32, 64)]
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.35), run


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_multistep_gains_an_order_with_every_slope(path):
    """Halving the steps divides the error of DEIS by 2^3 and more; iPNDM's equal weights are exact on no uneven grid,
    but better than Euler's."""
    exact = Exact(pair(), path)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None] * (1 + path.sigma(smooth(path, 2)[0]))
    truth = heun(exact, x, smooth(path, 2000))
    errors = [(deis(exact, x, smooth(path, n + 1)) - truth).norm() for n in (32, 64)]
    assert math.log2(errors[0] / errors[1]) > 2.3
    euler = (ddim(exact, x, smooth(path, 33)) - truth).norm()
    assert (ipndm(exact, x, smooth(path, 33)) - truth).norm() < euler and errors[0] < euler / 3


def test_weights_for_equal_steps_are_those_of_the_polynomial():
    for count, weights in enumerate(EQUAL, 1):
        assert polynomial([float(-k) for k in range(count + 1)]) == pytest.approx(weights)


@pytest.mark.parametrize("run", [ddim, heun, dpm_solver_2m, deis])
def test_one_gaussian_is_contracted_to_its_own_size(run):
    """The ODE of N(0, s^2) is linear: x_0 = x_1 s / sqrt(s^2 + sigma_max^2)."""
    path = Edm(0.002, 80.0)
    mixture = pair(distance=0.0, std=0.5)
    x = torch.tensor([[80.0], [-40.0]], dtype=torch.float64)
    expected = x * 0.5 / math.sqrt(0.25 + 6400)
    torch.testing.assert_close(run(Exact(mixture, path), x, path.grid(400)), expected, rtol=2e-2, atol=0)


def test_callback_sees_every_evaluation_and_may_replace_the_state():
    exact, path = Exact(ring()), Edm(0.02, 20.0)
    x = path.prior(torch.randn(4, 2, generator=torch.Generator().manual_seed(0)))
    for run, count in ((ddim, 3), (dpm_solver_2m, 3), (ipndm, 3), (deis, 3), (heun, 5)):
        seen = []
        run(exact, x, path.grid(3), callback=lambda k, x, x0, seen=seen: seen.append(k))
        assert seen == list(range(count))
        assert (run(exact, x, path.grid(3), callback=lambda k, x, x0: torch.zeros_like(x)) == 0).all()


def test_two_multistep_is_diffusers():
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DPMSolverMultistepScheduler(
        solver_order=2,
        prediction_type="sample",
        timestep_spacing="trailing",
        final_sigmas_type="zero",
        use_lu_lambdas=False,
    )
    theirs.set_timesteps(6)
    exact = Exact(ring(), Vp())
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    times = torch.cat([(theirs.timesteps.double() + 1) / 1000, torch.zeros(1, dtype=torch.float64)])
    ours = dpm_solver_2m(exact, x, times)
    for t in theirs.timesteps:
        x = theirs.step(exact(x, (t.double() + 1) / 1000), t, x).prev_sample
    torch.testing.assert_close(ours, x.double(), rtol=1e-3, atol=1e-3)


def test_heun_is_that_of_karras_on_edm():
    path, exact = Edm(0.02, 20.0), Exact(ring())
    times = path.grid(2)
    t, s = path.sigma(times[0]), path.sigma(times[1])
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 20
    slope = (x - exact(x, times[0])) / t
    ahead = x + (s - t) * slope
    expected = x + (s - t) * 0.5 * (slope + (ahead - exact(ahead, times[1])) / s)
    torch.testing.assert_close(heun(exact, x, times[:2]), expected)


def test_consistency_ends_on_x0_and_draws_noise_between():
    exact, path, drawn = Exact(ring()), Edm(0.02, 20.0), []

    def noise(x0):
        drawn.append(1)
        return torch.zeros_like(x0)

    x = path.prior(torch.randn(3, 2, generator=torch.Generator().manual_seed(0)))
    times, seen = path.grid(3), []
    out = consistency(exact, x, times, noise=noise, callback=lambda k, x, x0: seen.append((x, x0)))
    assert len(drawn) == 2
    torch.testing.assert_close(out, exact(seen[1][0], times[2]))  # without noise the state is alpha x0 = x0
    torch.testing.assert_close(seen[0][0], seen[0][1])


def test_subdivided_grid_keeps_the_coarse_times():
    times = Edm().grid(5)
    fine = subdivide(times, 7)
    assert len(fine) == 36 and (fine.diff() < 0).all()
    assert torch.equal(fine[::7], times)


def test_float64_states_on_a_float32_input():
    exact, path = Exact(ring()), Edm(0.02, 20.0)
    x = path.prior(torch.randn(4, 2, generator=torch.Generator().manual_seed(0)))
    assert ddim(exact, x, path.grid(3)).dtype == torch.float32
    assert ddim(exact, x, path.grid(3), dtype=torch.float64).dtype == torch.float64


def test_unknown_solver_is_refused():
    with pytest.raises(UserError, match="did you mean 'heun'"):
        solver("huen")
