"""Fitted solvers run inside plain diffusers, with the same result as our own loop."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from redistill.core.errors import UserError
from redistill.diffusion.denoiser import Denoiser
from redistill.diffusion.nets import DenoiserMlp
from redistill.diffusion.paths import Cosine, Edm, Flow, Vp
from redistill.methods.generation.d_ode import fit_lambdas

pytest.importorskip("diffusers")

from redistill.methods.generation.d_ode.schedulers import LinearSolverScheduler, save_pipeline

PATHS = [(Flow(), "flow"), (Flow(shift=3.0), "flow"), (Vp(), "eps"), (Cosine(), "v"), (Edm(0.02, 20.0), "edm")]
SOLVERS = [("ddim", "x0"), ("ddim", "eps"), ("dpm_solver_2m", "x0")]


def network(path, kind):
    torch.manual_seed(0)
    return Denoiser(DenoiserMlp(2, width=16), path=path, kind=kind, scale_input=kind == "edm").eval()


def noise(rows=8, seed=0):
    return torch.randn(rows, 2, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("path", "kind"), PATHS, ids=str)
@pytest.mark.parametrize(("solver", "prediction"), SOLVERS)
@torch.no_grad()
def test_scheduler_takes_the_same_steps(tmp_path, path, kind, solver, prediction):
    denoiser = network(path, kind)
    fitted = fit_lambdas(denoiser, noise(), 4, solver=solver, prediction=prediction)
    fitted.scheduler(denoiser).save_pretrained(tmp_path)
    scheduler = LinearSolverScheduler.from_pretrained(tmp_path)
    scheduler.set_timesteps(4)
    start = noise(5, 1).double()
    x = start * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        answer = denoiser.net(scheduler.scale_model_input(x, t).float(), t.expand(5))
        x = scheduler.step(answer, t, x).prev_sample
    ours = fitted.sample(denoiser, start)
    torch.testing.assert_close(x, ours, rtol=1e-3, atol=1e-3 * float(ours.abs().max()))


def test_another_number_of_steps_and_other_solvers_are_refused():
    denoiser = network(Flow(), "flow")
    scheduler = fit_lambdas(denoiser, noise(), 4).scheduler(denoiser)
    with pytest.raises(ValueError, match="num_inference_steps=4"):
        scheduler.set_timesteps(5)
    for solver in ("heun", "ipndm", "deis"):
        with pytest.raises(UserError, match="keeps one output"):
            fit_lambdas(denoiser, noise(), 4, solver=solver).scheduler(denoiser)


LOAD = """
import sys, torch
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
pipeline.set_progress_bar_config(disable=True)
seeded = torch.Generator().manual_seed(3)
images = pipeline(batch_size=2, num_inference_steps=3, generator=seeded, output_type="np").images
assert "redistill" not in sys.modules
torch.save(torch.from_numpy(images), sys.argv[2])
"""


def test_a_saved_pipeline_samples_where_redistill_is_absent(tmp_path):
    from diffusers import DDPMPipeline, UNet2DModel

    torch.manual_seed(0)
    net = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()
    denoiser = Denoiser(net)
    fitted = fit_lambdas(denoiser, torch.randn(4, 3, 8, 8), 3)
    save_pipeline(DDPMPipeline(net, fitted.scheduler(denoiser)), tmp_path / "pipeline")
    arguments = [sys.executable, "-W", "ignore", "-c", LOAD, str(tmp_path / "pipeline"), str(tmp_path / "images.pt")]
    environment = {
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1",
        "PATH": "/usr/bin:/bin",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = torch.load(tmp_path / "images.pt", weights_only=True).permute(0, 3, 1, 2)
    start = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    ours = (fitted.sample(denoiser, start).float() / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-3)
