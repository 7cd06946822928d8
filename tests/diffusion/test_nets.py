"""The small network learns the exact denoiser, and labels matter."""

from __future__ import annotations

import torch

from redistill.beds.gauss import Exact, pair
from redistill.diffusion.denoiser import Denoiser
from redistill.diffusion.nets import DenoiserMlp
from redistill.diffusion.paths import Flow


def test_it_learns_the_exact_denoiser():
    torch.manual_seed(0)
    path, draw = Flow(), torch.Generator().manual_seed(0)
    mixture = pair()
    exact, student = Exact(mixture, path), Denoiser(DenoiserMlp(1, width=64), path=path, time_scale=1.0)
    optimiser = torch.optim.Adam(student.parameters(), lr=3e-3)
    for _ in range(400):
        x0, _ = mixture.sample(256, draw)
        t, eps = torch.rand(256, generator=draw), torch.randn(256, 1, generator=draw)
        loss = (student.predict(path.add_noise(x0, eps, t), t) - (eps - x0)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    x0, _ = mixture.sample(2000, draw)
    t = torch.rand(2000, generator=draw)
    x_t = path.add_noise(x0, torch.randn(2000, 1, generator=draw), t)
    with torch.no_grad():
        gap = (student(x_t, t) - exact(x_t, t)).square().mean()
    assert gap < 0.01 < exact(x_t, t).var()


def test_labels_and_the_null_label():
    net = DenoiserMlp(2, width=16, depth=4, classes=3)
    x, t = torch.randn(4, 2), torch.rand(4)
    null = net(x, t, torch.full((4,), 3))
    torch.testing.assert_close(net(x, t), null)
    assert not torch.allclose(net(x, t, torch.zeros(4, dtype=torch.long)), null)
    assert Denoiser(net, time_scale=1.0).features(x, t)[1].shape == (4, 16)
