"""A denoiser answers the same x0 whatever its network predicts."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from redistill.core.errors import UserError
from redistill.diffusion.denoiser import Denoiser, Guided
from redistill.diffusion.paths import Cosine, Edm, Flow


class Told(nn.Module):
    """A network that keeps what it was told and answers ``answer(x)``."""

    def __init__(self, wrap=lambda y: y) -> None:
        super().__init__()
        self.body, self.wrap, self.seen = nn.Linear(2, 2, bias=False), wrap, None

    def forward(self, x, time, label=None):
        self.seen = (x, time, label)
        return self.wrap(self.body(x) + (0 if label is None else label[:, None]))


@pytest.fixture
def x():
    return torch.randn(3, 2, generator=torch.Generator().manual_seed(0))


T = torch.tensor([0.2, 0.5, 0.9])


@pytest.mark.parametrize("kind", ["x0", "eps", "v", "flow"])
def test_a_perfect_network_of_any_kind_denoises(x, kind):
    path, x0 = Cosine(), torch.ones(3, 2)

    class Perfect(nn.Module):
        def forward(self, x_t, time):
            return path.from_x0(x_t, x0, time, kind)

    torch.testing.assert_close(
        Denoiser(Perfect(), path=path, kind=kind, time_scale=1.0)(x, T), x0, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("wrap", [lambda y: y, lambda y: (y,), lambda y: SimpleNamespace(sample=y)])
def test_answers_may_be_tensors_tuples_or_samples(x, wrap):
    net = Told(wrap)
    torch.testing.assert_close(Denoiser(net, kind="x0")(x, T), net.body(x))


def test_network_is_told_time_and_condition(x):
    net = Told()
    Denoiser(net)(x, T, torch.arange(3.0))
    torch.testing.assert_close(net.seen[1], 1000 * T)
    torch.testing.assert_close(net.seen[2], torch.arange(3.0))
    Denoiser(net, time_scale=1.0)(x, torch.tensor(0.5), {"label": torch.ones(3)})
    torch.testing.assert_close(net.seen[1], torch.full((3,), 0.5))
    path = Edm()
    Denoiser(net, path=path, kind="edm", scale_input=True)(x, T)
    torch.testing.assert_close(net.seen[1], path.sigma(T).log() / 4)
    torch.testing.assert_close(net.seen[0], x / (path.sigma(T) ** 2 + 0.25).sqrt()[:, None])


def test_features_come_with_the_same_x0_and_leave_no_hook(x):

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.mid_block, self.up = nn.Linear(2, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x, time):
            return self.up(self.mid_block(self.down(x)))

    denoiser = Denoiser(Net())
    x0, features = denoiser.features(x, T)
    torch.testing.assert_close(x0, denoiser(x, T))
    torch.testing.assert_close(features, denoiser.net.mid_block(denoiser.net.down(x)))
    assert not denoiser.net.mid_block._forward_hooks
    with pytest.raises(UserError, match="did you mean 'mid_block'"):
        Denoiser(Net(), bottleneck="midblock").features(x, T)


def test_guidance_in_x0_equals_guidance_of_the_prediction(x):
    net, label = Told(), torch.ones(3)
    denoiser = Denoiser(net, path=Flow(), kind="flow")
    guided = Guided(denoiser, 3.0, null=torch.zeros(()))
    low, high = denoiser.predict(x, T, torch.zeros(3)), denoiser.predict(x, T, label)
    expected = denoiser.path.to_x0(x, low + 3 * (high - low), T, "flow")
    torch.testing.assert_close(guided(x, T, label), expected)
    torch.testing.assert_close(Guided(denoiser, 1.0)(x, T, label), denoiser(x, T, label))
    assert guided.path is denoiser.path


def test_copies_are_independent_and_options_are_remembered(x):
    denoiser = Denoiser(Told(), path=Cosine(), kind="v")
    student = copy.deepcopy(denoiser)
    nn.init.zeros_(student.net.body.weight)
    assert denoiser.net.body.weight.abs().sum() > 0
    assert student.kind == "v" and student.arguments["kind"] == "v" and isinstance(student.path, Cosine)


def test_a_kind_that_the_path_lacks_is_refused():
    with pytest.raises(UserError, match="unknown prediction kind 'edm'"):
        Denoiser(Told(), path=Flow(), kind="edm")
