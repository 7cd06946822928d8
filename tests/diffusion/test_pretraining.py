"""Plain training of a denoiser survives every time that a generator can draw."""

from __future__ import annotations

import torch

from redistill.core.method import bare_progress
from redistill.diffusion.denoiser import Denoiser
from redistill.diffusion.nets import DenoiserMlp
from redistill.diffusion.paths import Edm
from redistill.diffusion.pretraining import DenoiserTraining


def test_a_time_next_to_zero_gives_a_finite_loss_and_gradient(monkeypatch):
    now = bare_progress(0)
    monkeypatch.setattr(type(now), "rand", lambda self, rows, *shape: torch.full((rows, *shape), 1e-7))
    torch.manual_seed(0)
    student = Denoiser(DenoiserMlp(2, 8, 2), path=Edm(0.03, 10.0, sigma_data=1.4), kind="edm")
    method = DenoiserTraining(student)
    loss = method.loss("student", {"image": torch.randn(5, 2), "index": torch.arange(5)}, now)
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)
