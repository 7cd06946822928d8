"""DMD2: who gets gradients, what equal critics do, and that it learns."""

from __future__ import annotations

import copy

import pytest
import torch

from redistill.beds.gauss import Exact, ring
from redistill.core import Plan, UserError, fit
from redistill.core.method import bare_progress
from redistill.core.roles import Roles
from redistill.diffusion.denoiser import Denoiser, Guided
from redistill.diffusion.discriminator import TokenHead
from redistill.diffusion.nets import DenoiserMlp
from redistill.diffusion.score import FDivergence, ScoreIdentity
from redistill.methods.score.dmd2 import Dmd2


def denoiser(classes: int = 0, seed: int = 0) -> Denoiser:
    torch.manual_seed(seed)
    return Denoiser(DenoiserMlp(2, 16, 3, classes), time_scale=1.0)


def method(gan: bool = False, **options) -> Dmd2:
    head = TokenHead(16) if gan else None
    return Dmd2(denoiser(seed=1), denoiser(), None, head, shape=(2,), **options)


def batch(rows: int = 8) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    points = {k: torch.randn(rows, 2, generator=random) for k in ("image", "pair_noise", "pair_image")}
    return {**points, "index": torch.arange(rows), "label": torch.arange(rows) % 3}


def gradients(m: Dmd2, turn: str) -> dict[str, bool]:
    Roles(m).enter(turn)
    m.loss(turn, batch(), bare_progress(turn=turn)).total.backward()
    return {name: any(p.grad is not None for p in net.parameters()) for name, net in m.networks().items()}


@pytest.mark.parametrize("options", [{}, {"steps": 4}, {"steps": 4, "inputs": "noised"}, {"matching": ScoreIdentity()},
                                     {"matching": FDivergence()}, {"regression": 1.0}])  # fmt: skip
def test_gradients_reach_the_networks_of_the_turn_and_no_other(options):
    student = gradients(method(gan=True, **options), "student")
    assert student == {"student": True, "critic": False, "teacher": False, "discriminator": False}
    critic = gradients(method(gan=True, **options), "critic")
    assert critic == {"student": False, "critic": True, "teacher": False, "discriminator": True}


def test_the_discriminator_moves_the_student_through_the_critic():
    m = method(gan=True, gan_student=1.0)
    Roles(m).enter("student")
    loss = m.loss("student", batch(), bare_progress(turn="student"))
    slopes = torch.autograd.grad(loss.terms["gan"], list(m.student.parameters()))
    assert max(g.abs().max() for g in slopes) > 1e-4


def test_a_critic_equal_to_the_teacher_leaves_the_student_alone():
    m = method()
    Roles(m).enter("student")
    m.loss("student", batch(), bare_progress(turn="student")).total.backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in m.student.parameters())


def test_guidance_is_on_the_teacher_only():
    teacher = denoiser(3)
    m = Dmd2(denoiser(3, seed=1), teacher, shape=(2,), condition="label", guidance=2.0, null=3)
    assert isinstance(m.teacher, Guided)
    assert isinstance(m.critic, Denoiser)
    Roles(m).enter("student")
    m.loss("student", batch(), bare_progress(turn="student")).total.backward()
    assert max(p.grad.abs().max() for p in m.student.parameters()) > 0
    with pytest.raises(UserError, match="needs the class that says nothing"):
        Dmd2(denoiser(3), teacher, shape=(2,), guidance=2.0)


def test_turns_and_columns():
    assert method(critic_turns=3).turns(bare_progress()) == ("critic", "critic", "critic", "student")
    assert method().needs == ()
    assert method(gan=True).needs == ("image",)
    assert method(steps=4, inputs="noised").needs == ("image",)
    assert method(steps=4).needs == ()
    assert method(regression=1.0, condition="label").needs == ("label", "pair_noise", "pair_image")
    assert Dmd2(denoiser(), denoiser()).needs == ("image",)  # for its shape
    with pytest.raises(UserError, match="density ratio"):
        method(matching=FDivergence())


def test_a_frozen_teacher_still_gives_a_critic_that_trains():
    teacher = denoiser().requires_grad_(False)
    m = Dmd2(denoiser(seed=1), teacher, shape=(2,))
    assert all(p.requires_grad for p in m.critic.parameters())
    assert not any(p.requires_grad for p in m.teacher.parameters())


@pytest.mark.parametrize("options", [{}, {"gan": True, "steps": 4}])
def test_two_halves_equal_a_whole_and_micro_batches_one_batch(tmp_path, options):
    def run(steps: int, folder=None, **plan):
        m = method(**options)
        plan = Plan(**{"steps": 4, "batch_size": 8, "lr": 1e-2, "seed": 5, "device": "cpu", **plan})
        return fit(m, {"image": batch(32)["image"]}, plan, folder=folder, until=steps, resume=True).student.state_dict()

    whole = run(4)
    run(2, tmp_path)
    halves = run(4, tmp_path)
    assert all(torch.equal(whole[k], halves[k]) for k in whole)
    parts = run(4, accumulate=3)
    assert all(torch.allclose(whole[k], parts[k], atol=1e-5) for k in whole)


def test_it_pulls_the_samples_to_the_teachers_distribution():
    mixture = ring(4, radius=1.0, std=0.2)
    teacher = Exact(mixture, denoiser().path)
    student, critic = (denoiser(seed=s) for s in (1, 2))
    z = torch.randn(512, 2, generator=torch.Generator().manual_seed(0))

    def score(net: Denoiser) -> float:
        with torch.no_grad():
            return float(teacher.log_density(net(z, torch.tensor(1.0)), torch.tensor(0.1)).mean())

    before = score(copy.deepcopy(student))
    m = Dmd2(student, teacher, critic, shape=(2,), critic_turns=2)
    plan = Plan(steps=150, batch_size=128, lr=2e-3, optimizer="adam", device="cpu", turns={"critic": {"lr": 4e-3}})
    assert score(fit(m, None, plan).student) > before + 1.0
