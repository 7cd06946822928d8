"""Conversions are exact on every path; tables and grids are the published ones."""

from __future__ import annotations

import math

import pytest
import torch

from redistill.core.errors import UserError
from redistill.diffusion.paths import Cosine, Edm, Flow, Path, Trig, Vp

PATHS = [Flow(), Flow(shift=3.0), Vp(), Vp(0.00085, 0.012, "scaled_linear"), Cosine(), Edm(), Trig()]
CASES = [(path, kind) for path in PATHS for kind in path.kinds]
TIMES = torch.tensor([0.1, 0.2, 0.5, 0.77, 0.97], dtype=torch.float64)


def triple(path: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x0, eps, x_t of shape [5, 3, 2, 2], float64, one time a row."""
    draw = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 5, 3, 2, 2, generator=draw, dtype=torch.float64)
    return x0, eps, path.add_noise(x0, eps, TIMES)


def name(value: object) -> str:
    return value if isinstance(value, str) else f"{type(value).__name__}{list(value.arguments.values())}"


@pytest.mark.parametrize(("path", "kind"), CASES, ids=name)
def test_every_kind_gives_x0_back(path, kind):
    x0, eps, x_t = triple(path)
    a, b = (c.reshape(-1, 1, 1, 1) for c in path.pair(TIMES, kind))
    output = a * x0 + b * eps
    torch.testing.assert_close(path.to_x0(x_t, output, TIMES, kind), x0, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(path.from_x0(x_t, x0, TIMES, kind), output, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("path", PATHS, ids=name)
def test_v_is_the_published_one(path):
    x0, eps, x_t = triple(path)
    v = path.from_x0(x_t, x0, TIMES, "v")
    sd = path.sigma_data if isinstance(path, Trig) else 1.0
    if not isinstance(path, (Edm, Flow)):  # on a circle v is the rotated state, so cos x - sin v is x0
        alpha, sine = path.alpha(TIMES).reshape(-1, 1, 1, 1), path.sigma(TIMES).reshape(-1, 1, 1, 1) / sd
        torch.testing.assert_close(alpha * x_t - sine * v, x0)
    alpha, sigma = path.alpha(TIMES).reshape(-1, 1, 1, 1), path.sigma(TIMES).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(v, sd * alpha * eps - sigma / sd * x0)


def test_edm_kind_is_the_preconditioning_of_karras():
    path = Edm()
    x = triple(path)[2]
    F = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sigma, sd = path.sigma(TIMES).reshape(-1, 1, 1, 1), path.sigma_data
    expected = sd**2 / (sigma**2 + sd**2) * x + sigma * sd / (sigma**2 + sd**2).sqrt() * F
    torch.testing.assert_close(path.to_x0(x, F, TIMES, "edm"), expected)
    torch.testing.assert_close(path.scale_input(x, TIMES), x / (sigma**2 + sd**2).sqrt())


@pytest.mark.parametrize("path", PATHS, ids=name)
def test_jump_lands_on_the_same_noise_up_and_down(path):
    x0, eps, x_t = triple(path)
    s = TIMES.flip(0)
    torch.testing.assert_close(path.jump(x_t, x0, TIMES, s), path.add_noise(x0, eps, s), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(path.jump(x_t, x0, TIMES, torch.tensor(0.0).double()), x0, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("path", PATHS, ids=name)
def test_time_of_inverts_the_ratio_and_noise_grows(path):
    torch.testing.assert_close(path.time_of(path.ratio(TIMES)), TIMES, rtol=1e-9, atol=1e-9)
    assert (path.log_snr(TIMES).diff() < 0).all()
    torch.testing.assert_close(path.snr(TIMES), path.log_snr(TIMES).exp())


@pytest.mark.parametrize("path", PATHS, ids=name)
def test_score_is_minus_eps_over_sigma(path):
    x0, eps, x_t = triple(path)
    torch.testing.assert_close(
        path.score_from_x0(x_t, x0, TIMES), -eps / path.sigma(TIMES).reshape(-1, 1, 1, 1), rtol=1e-6, atol=0
    )


def test_half_precision_states_are_converted_in_float32():
    path = Vp()
    x0, _, x_t = triple(path)
    back = path.to_x0(x_t.bfloat16(), path.from_x0(x_t, x0, TIMES, "eps").bfloat16(), TIMES, "eps")
    assert back.dtype == torch.float32


@pytest.mark.parametrize("path", PATHS, ids=name)
@pytest.mark.parametrize("steps", [1, 4])
def test_grids_descend_from_noise_to_data(path, steps):
    times = path.grid(steps)
    assert times.shape == (steps + 1,) and times.dtype == torch.float64
    assert times[0] == 1 and times[-1] == 0 and (times.diff() < 0).all()


def test_edm_grid_is_equation_5():
    path, n = Edm(0.02, 20.0), 6
    i = torch.arange(n, dtype=torch.float64)
    expected = (20 ** (1 / 7) + i / (n - 1) * (0.02 ** (1 / 7) - 20 ** (1 / 7))) ** 7
    torch.testing.assert_close(path.sigma(path.grid(n))[:-1], expected)
    torch.testing.assert_close(path.grid(n, "karras"), path.grid(n))
    assert path.sigma(path.grid(n))[-1] == 0


def test_shifted_flow_grid_is_sd3s():
    sigmas = torch.linspace(1, 0, 5, dtype=torch.float64)
    torch.testing.assert_close(Flow(shift=3.0).grid(4), 3 * sigmas / (1 + 2 * sigmas))


@pytest.mark.parametrize("path", [Vp(), Cosine(), Flow()], ids=name)
def test_log_snr_grid_is_uniform_in_log_snr(path):
    gaps = path.log_snr(path.grid(6, "log_snr", start=0.99, end=0.01)[:-1]).diff()
    torch.testing.assert_close(gaps, gaps[:1].expand(5), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "schedule"),
    [((1e-4, 0.02, "linear"), {}), ((0.00085, 0.012, "scaled_linear"), {}), ((1e-4, 0.02, "squaredcos_cap_v2"), {})],
)
def test_vp_tables_are_those_of_diffusers(arguments, schedule):
    diffusers = pytest.importorskip("diffusers")
    start, end, kind = arguments
    theirs = diffusers.DDIMScheduler(beta_start=start, beta_end=end, beta_schedule=kind).alphas_cumprod
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    path = Vp(*arguments)
    torch.testing.assert_close(path.alpha(t) ** 2, theirs.double(), rtol=2e-4, atol=1e-9)  # theirs is summed in float32
    torch.testing.assert_close(path.clock(t), torch.arange(1000).double())


def test_bad_words_and_grids_are_refused():
    x = torch.zeros(1, 2)
    with pytest.raises(UserError, match=r"did you mean 'eps'"):
        Flow().to_x0(x, x, torch.tensor(0.5), "epss")
    with pytest.raises(UserError, match="unknown grid"):
        Flow().grid(4, "karas")
    with pytest.raises(UserError, match="alpha > 0"):
        Flow().grid(4, "karras", end=0.01)
    with pytest.raises(UserError, match="steps=0"):
        Flow().grid(0)
    assert math.isclose(Edm().t_min, (0.002 / 80) ** (1 / 7))


@pytest.mark.parametrize(("path", "kind"), CASES, ids=name)
def test_the_target_of_known_noise_is_finite_at_every_time_and_agrees_with_what_x_t_implies(path, kind):
    """A time drawn from U(0, 1) may be so small that sigma(t) is 0 in float32."""
    x0, eps = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.ones(4, 2)
    t = torch.tensor([0.0, 3e-7, 0.5, 0.9])
    assert torch.isfinite(path.target(x0, eps, t, kind)).all()
    x_t = path.add_noise(x0, eps, t)
    torch.testing.assert_close(
        path.target(x0, eps, t, kind)[2:], path.from_x0(x_t, x0, t, kind)[2:], atol=1e-4, rtol=1e-4
    )
    assert torch.isfinite(path.clock(t)).all()


def test_noise_alone_says_nothing_of_x0():
    x, t = torch.ones(2, 3), torch.tensor(1.0)
    with pytest.raises(UserError, match="eps on Flow: at t = 1 there is no signal"):
        Flow().to_x0(x, x, t, "eps")
    assert Flow().to_x0(x, x, t - 0.1, "eps").isfinite().all() and Vp().to_x0(x, x, t, "eps").isfinite().all()
