"""DMD2 alone on the faces, as its study asks: no pairs, one step or several, with or without the discriminator."""

from __future__ import annotations

import copy

import torch

from redistill.beds import emoji, faces
from redistill.core import Plan, fit
from redistill.diffusion.denoiser import Denoiser
from redistill.diffusion.discriminator import ConvHead
from redistill.methods.score.dmd2 import Dmd2


def faces_student(steps: int, *, updates: int, batch: int, seed: int, gan: bool = True) -> Denoiser:
    """The student of ``steps`` steps, conditioned on the artist, after ``updates`` of its own (three times as many of
    the critic)."""
    teacher, data = faces.teacher(), emoji.load("faces", 32)
    student = copy.deepcopy(teacher).requires_grad_(True)
    torch.manual_seed(seed)
    head = ConvHead(teacher.net.config.block_out_channels[-1]) if gan else None
    weights = {"gan_student": 0.01, "gan_critic": 0.01}
    method = Dmd2(student, teacher, None, head, steps=steps, critic_turns=3, condition="label", **weights)
    method.to(memory_format=torch.channels_last)  # a sixth faster on CPU
    plan = Plan(
        steps=updates, batch_size=batch, optimizer="adam", lr=3e-4, turns={"critic": {"lr": 6e-4}}, seed=seed,
        device="cpu", log_every=1,
    )  # fmt: skip
    return fit(method, data.tensors(), plan).student.eval()
