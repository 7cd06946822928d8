"""Games at their known optima and gradients; the penalty against a closed form."""

from __future__ import annotations

import pytest
import torch

from redistill.losses.adversarial import Adversarial, Hinge, NonSaturating, Relativistic, gradient_penalty

GAMES = [NonSaturating(), Hinge(), Relativistic()]


def logits(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    real, fake = (torch.randn(8, 1, generator=random, dtype=torch.float64).requires_grad_() for _ in range(2))
    return real, fake


@pytest.mark.parametrize("game", GAMES, ids=lambda g: type(g).__name__)
def test_the_sides_pull_the_fake_logit_in_opposite_directions(game: Adversarial) -> None:
    real, fake = logits()
    up = torch.autograd.grad(game.generator(fake, real), fake)[0]
    down = torch.autograd.grad(game.discriminator(real, fake), fake)[0]
    assert (up < 0).all() and (down >= 0).all() and (down > 0).any()


@pytest.mark.parametrize(
    ("game", "discriminator", "generator"),
    [(NonSaturating(), 2 * 0.6931472, 0.6931472), (Hinge(), 2.0, 0.0), (Relativistic(), 0.6931472, 0.6931472)],
    ids=lambda g: type(g).__name__,
)
def test_values_of_a_discriminator_that_knows_nothing(
    game: Adversarial, discriminator: float, generator: float
) -> None:
    zero = torch.zeros(4, 1)
    assert float(game.discriminator(zero, zero)) == pytest.approx(discriminator)
    assert float(game.generator(zero, zero)) == pytest.approx(generator)


def test_the_logistic_discriminator_ends_at_the_log_density_ratio() -> None:
    p_real, p_fake = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], dtype=torch.float64)
    best = (p_real / p_fake).log().requires_grad_()
    # rows repeated in proportion to their probability: 10 real and 10 fake rows over three points
    real, fake = best.repeat_interleave(torch.tensor([7, 2, 1])), best.repeat_interleave(torch.tensor([1, 3, 6]))
    slope = torch.autograd.grad(NonSaturating().discriminator(real, fake), best)[0]
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-12, rtol=0)


def test_non_saturating_generator_still_learns_from_a_discriminator_that_wins() -> None:
    fake = torch.full((2,), -20.0, requires_grad=True)
    alive = torch.autograd.grad(NonSaturating().generator(fake), fake)[0]
    dead = torch.autograd.grad(-torch.nn.functional.softplus(fake).mean(), fake)[0]  # minimax: log(1 - D)
    assert (alive.abs() > 0.49).all() and (dead.abs() < 1e-8).all()


def test_hinge_stops_at_its_margin() -> None:
    real, fake = torch.full((3,), 1.5, requires_grad=True), torch.full((3,), -1.5, requires_grad=True)
    slopes = torch.autograd.grad(Hinge().discriminator(real, fake), (real, fake))
    assert all((slope == 0).all() for slope in slopes)


def test_relativistic_sees_only_differences() -> None:
    real, fake = logits()
    for side in ("discriminator", "generator"):
        loss = getattr(Relativistic(), side)
        first, second = (real, fake) if side == "discriminator" else (fake, real)
        torch.testing.assert_close(loss(first + 7, second + 7), loss(first, second))


def test_gradient_penalty_is_the_squared_slope_and_can_be_learnt_from() -> None:
    weight = torch.tensor([3.0, 4.0]).double().requires_grad_()
    inputs = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    penalty = gradient_penalty((inputs.square() @ weight)[:, None], inputs)
    expected = (2 * inputs * weight).square().sum(1).mean()
    torch.testing.assert_close(penalty, expected)
    for of in (weight, inputs):
        ours, theirs = (torch.autograd.grad(loss, of, retain_graph=True)[0] for loss in (penalty, expected))
        torch.testing.assert_close(ours, theirs)
