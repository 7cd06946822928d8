"""Progressive distillation: the target inverts a DDIM step exactly, the weights are the paper's, rounds follow."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

from redistill.beds.gauss import Exact, ring
from redistill.cli.app import run as command
from redistill.core import Plan, UserError, fit
from redistill.core.method import bare_progress
from redistill.diffusion.denoiser import Denoiser
from redistill.diffusion.nets import DenoiserMlp
from redistill.diffusion.paths import Cosine, Edm, Flow, Path, Trig, Vp
from redistill.diffusion.solvers import ddim
from redistill.methods.trajectory import progressive
from redistill.methods.trajectory.progressive import (
    Constant,
    Progressive,
    Snr,
    SnrPlusOne,
    Truncated,
    distil,
    rounds,
    x0_between,
)

PATHS = (Cosine(), Vp(), Flow(), Edm(0.02, 20.0), Trig())
ROWS = torch.Generator().manual_seed(0)
X = torch.randn(64, 2, generator=ROWS, dtype=torch.float64)


def denoiser(path: Path | None = None, kind: str = "v", seed: int = 0) -> Denoiser:
    torch.manual_seed(seed)
    return Denoiser(DenoiserMlp(2, 16), path=path or Cosine(), kind=kind, time_scale=1.0).double()


class Still(nn.Module):
    """A denoiser that says the same whatever it sees."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.kind = path, "x0"

    def forward(self, x_t, t, condition=None):
        return torch.full_like(x_t, 0.7)


def batch(rows: int = 64) -> dict[str, torch.Tensor]:
    return {"image": X[:rows], "index": torch.arange(rows)}


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_the_target_takes_one_ddim_step_exactly_where_two_land(path):
    teacher, times = Exact(ring(), path), path.grid(8, start=0.99, end=0.0)
    for i in range(0, 8, 2):
        two = ddim(teacher, X, times[i : i + 3])
        target = x0_between(path, X, two, times[i], times[i + 2])
        torch.testing.assert_close(path.jump(X, target, times[i], times[i + 2]), two, atol=1e-9, rtol=0)
    last = ddim(teacher, X, times[-3:-1])  # into t = 0 the target is what the teacher says at t'
    torch.testing.assert_close(target, teacher(last, times[-2]), atol=1e-12, rtol=0)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_a_teacher_that_always_says_the_same_is_the_target(path):
    method = Progressive(denoiser(path, "x0"), Still(path), steps=5, start=0.99, weight=Constant())
    method.student = Still(path)  # so that the loss is the distance of the target from it
    assert float(method.loss("student", batch(), bare_progress()).total) < 1e-20


def test_the_loss_is_two_ddim_steps_written_out_row_by_row():
    teacher, student = Exact(ring(), Cosine()), denoiser()
    method, rows, now = Progressive(student, teacher, steps=4, start=0.995), batch(), bare_progress(3)
    found = method.loss("student", rows, bare_progress(3)).total
    steps, noise = now.randint(0, 4, 64), now.randn(64, 2)
    assert set(steps.tolist()) == {0, 1, 2, 3}

    total = 0.0
    for x, eps, i in zip(X, noise, steps):
        t = 0.995 * (4 - i.double()) / 4
        times = torch.stack([t, t - 0.995 / 8, t - 0.995 / 4]).clamp_min(0)
        z = (torch.cos(t * torch.pi / 2) * x + torch.sin(t * torch.pi / 2) * eps)[None]
        target = x0_between(Cosine(), z, ddim(teacher, z, times), times[0], times[2])
        weight = max(1.0, float(torch.tan(t * torch.pi / 2) ** -2))
        total += weight * float((student(z, t) - target).square().mean().detach()) / 64
    torch.testing.assert_close(float(found.detach()), total, rtol=1e-6, atol=0)


def test_on_a_variance_preserving_path_the_weights_are_errors_in_x_in_eps_and_in_v():
    path, t = Cosine(), torch.linspace(0.05, 0.99, 64, dtype=torch.float64)
    one, other = X, X.flip(0)  # two estimates of x0 from the same states
    states, snr = path.add_noise(X, X.roll(1, 0), t), path.snr(t)
    error = {
        kind: (path.from_x0(states, one, t, kind) - path.from_x0(states, other, t, kind)).square().mean(1)
        for kind in ("x0", "eps", "v")
    }
    torch.testing.assert_close(Constant()(snr) * error["x0"], error["x0"])
    torch.testing.assert_close(Snr()(snr) * error["x0"], error["eps"])
    torch.testing.assert_close(SnrPlusOne()(snr) * error["x0"], error["v"])
    torch.testing.assert_close(Truncated()(snr) * error["x0"], torch.maximum(error["x0"], error["eps"]))


def test_a_step_of_one_student_has_the_teachers_grid_within_its_own():
    method = Progressive(denoiser(), Exact(ring(), Cosine()), steps=4, start=0.995)
    grid = Cosine().grid(4, start=0.995)
    for i in range(4):
        t, middle, end = method._times(torch.tensor([i]))
        assert (t, end) == (grid[i], grid[i + 1])
        assert float(middle) == pytest.approx(float(grid[i] + grid[i + 1]) / 2)


def test_the_teacher_of_a_round_is_the_student_of_the_one_before(monkeypatch):
    seen = []

    def train(method, *args, **kwargs):
        seen.append((method.steps, method.student, copy.deepcopy(method.student.state_dict()), method.teacher))
        return fit(method, *args, **kwargs)

    monkeypatch.setattr(progressive, "fit", train)
    first, teacher = denoiser(), denoiser(seed=1)
    before, plan = copy.deepcopy(first.state_dict()), Plan(steps=2, batch_size=8, lr=1e-2, device="cpu")
    made = dict(distil(first, teacher, {"image": X[:32]}, plan, first=8, last=1, start=0.995))

    assert [s[0] for s in seen] == list(made) == [4, 2, 1]
    assert seen[0][3] is teacher and all(torch.equal(before[k], v) for k, v in first.state_dict().items())
    for (steps, *_), (_, _, start, next_teacher) in pairwise(seen):
        left = made[steps].state_dict()
        assert all(torch.equal(left[k], start[k]) and torch.equal(left[k], next_teacher.state_dict()[k]) for k in left)
        assert not any(p.requires_grad for p in next_teacher.parameters())


def test_rounds_that_are_resumed_end_in_the_same_bits(tmp_path):
    plan = Plan(steps=3, batch_size=8, lr=1e-2, device="cpu")

    def last(**how):
        return dict(distil(denoiser(), denoiser(seed=1), {"image": X[:32]}, plan, first=4, last=1, start=0.9, **how))[1]

    whole, rounds_ = last(), distil(denoiser(), denoiser(seed=1), {"image": X[:32]}, plan, first=4, last=1, start=0.9,
                                    folder=tmp_path)  # fmt: skip
    next(rounds_)  # ended after the first round
    again = last(folder=tmp_path, resume=True).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in whole.state_dict().items())


def test_it_halves_the_steps_of_a_ring():
    mixture, path = ring(3, radius=1.0, std=0.4), Cosine()
    teacher = Exact(mixture, path)
    noise = torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
    far = {n: ddim(teacher, noise, path.grid(n, start=0.995)) for n in (2, 4)}
    torch.manual_seed(0)
    student = Denoiser(DenoiserMlp(2, 64), path=path, kind="v", time_scale=1.0)
    rows = {"image": mixture.sample(2000, torch.Generator().manual_seed(0))[0]}
    plan = Plan(steps=300, batch_size=256, lr=4e-3, schedule="linear", optimizer="adam", clip=1.0, device="cpu")
    made = dict(distil(student, teacher, rows, plan, first=4, last=2, start=0.995))
    with torch.no_grad():
        found = ddim(made[2], noise, path.grid(2, start=0.995))
    assert (found - far[4]).norm(dim=1).mean() < 0.5 * (far[2] - far[4]).norm(dim=1).mean()


def test_wrong_numbers_of_steps_are_refused():
    assert rounds(64, 4) == [32, 16, 8, 4]
    for first, last in ((64, 64), (48, 4), (2, 4), (9, 4)):
        with pytest.raises(UserError, match="no halving leads from"):
            rounds(first, last)
    with pytest.raises(UserError, match=r"start=1\.5"):
        Progressive(denoiser(), denoiser(), start=1.5)


def test_the_recipe_halves_a_pipeline(tmp_path, monkeypatch, capsys):
    import numpy as np
    import yaml
    from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    blocks = {"block_out_channels": (8,), "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    net = UNet2DModel(sample_size=8, layers_per_block=1, norm_num_groups=4, **blocks)
    DDPMPipeline(net, DDPMScheduler(prediction_type="v_prediction")).save_pretrained("teacher")
    np.savez("rows.npz", image=np.random.default_rng(0).random((16, 3, 8, 8), dtype=np.float32))
    models = {"teacher": {"kind": "diffusers", "path": "teacher"}, "student": {"kind": "copy", "path": "teacher"}}
    given = {
        "method": "progressive", "models": models, "options": {"teacher_steps": 8, "steps": 2},
        "data": {"kind": "table", "path": "rows.npz"}, "plan": {"steps": 2, "batch_size": 4, "device": "cpu"},
        "out": "out",
    }  # fmt: skip
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(given))
    assert command(["run", "r.yaml"]) == 0
    assert "a diffusers folder of 2 steps" in capsys.readouterr().out
    scheduler = DDIMScheduler.from_pretrained("out/student/scheduler")
    scheduler.set_timesteps(2)
    assert scheduler.timesteps.tolist() == [999, 499]
    with pytest.raises(UserError, match="no halving leads from 8 steps to 3"):
        command(["run", "r.yaml", "options.steps=3", "out=other"])
