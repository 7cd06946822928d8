"""The ring of DMD2's study: what its networks know before they are distilled, and what decides its cells."""

from __future__ import annotations

import torch

from redistill.core.followers import same_weights
from redistill.diffusion.solvers import heun
from redistill.studies import dmd2


def test_the_weak_teacher_draws_every_mode():
    weak = dmd2.pretrained(901, dmd2.STUDY.budget["weak"])
    with torch.no_grad():
        x = heun(weak, weak.path.prior(dmd2.draws(1, 2000, 7)[0]), weak.path.grid(50))
    assert dmd2.MIXTURE.modes(x) >= 7


def test_the_head_is_the_same_whether_the_network_was_trained_now_or_read(tmp_path, monkeypatch):
    monkeypatch.setenv("REDISTILL_CACHE", str(tmp_path))
    heads = []
    for _ in range(2):
        start = dmd2.pretrained(901, 2)
        heads.append(dmd2.arm_method("ratio_5_gan", start, start, 901).discriminator)
    assert same_weights(*heads)
