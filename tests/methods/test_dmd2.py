"""DMD2: who gets gradients, what equal critics do, and that it learns."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import softplus

from redistill.beds.gauss import Exact, ring
from redistill.core import Plan, Progress, UserError, fit
from redistill.core.method import bare_progress
from redistill.core.roles import Roles
from redistill.diffusion.denoiser import Denoiser, Guided
from redistill.diffusion.discriminator import TokenHead
from redistill.diffusion.nets import DenoiserMlp
from redistill.diffusion.score import FDivergence, ScoreIdentity, UniformTime
from redistill.methods.score.dmd2 import Dmd2


def denoiser(classes: int = 0, seed: int = 0) -> Denoiser:
    torch.manual_seed(seed)
    return Denoiser(DenoiserMlp(2, 16, 3, classes), time_scale=1.0)


def method(gan: bool = False, **options) -> Dmd2:
    torch.manual_seed(0)  # of the head
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


LAWS = {"renoise": UniformTime(0.1, 0.2), "critic_times": UniformTime(0.6, 0.9)}
WEIGHTS = {"gan_student": 0.3, "gan_critic": 0.7, "regression": 0.5}


def seeded(seed: int) -> Progress:
    now = bare_progress()
    now.reseed(seed)
    return now


def noised(x: torch.Tensor, low: float, high: float, now) -> tuple[torch.Tensor, torch.Tensor]:
    """A flow written out: x_t = (1 - t) x + t eps, with t and eps as the method draws them."""
    t = low + (high - low) * now.rand(len(x))
    return (1 - t[:, None]) * x + t[:, None] * now.randn(*x.shape), t


@pytest.mark.parametrize("steps", [1, 2])
def test_both_turns_are_the_losses_written_out(steps):
    """Every term on the method's own draws: which rows are real, both signs, weights, laws of time, noised inputs."""
    m, rows = method(gan=True, steps=steps, inputs="noised", critic_turns=1, **LAWS, **WEIGHTS), batch(8)
    m.critic = denoiser(seed=2)
    ones = torch.ones(8)

    def samples(now) -> torch.Tensor:
        last = now.shared_randint(0, steps) if steps > 1 else 0
        half, z = last / 2, now.randn(8, 2)
        return m.student(half * rows["image"] + (1 - half) * z, (1 - half) * ones)

    def judged(x_t, t):
        x0, features = m.critic.features(x_t, t)
        return x0, m.discriminator(features)

    for seed in range(3):
        now, found = seeded(seed), m.loss("critic", rows, seeded(seed)).terms
        x = samples(now)
        x_t, t = noised(x, 0.6, 0.9, now)
        x0, fake = judged(x_t, t)
        real = judged(*noised(rows["image"], 0.6, 0.9, now))[1]
        velocity = (x_t - x0) / t[:, None] - (x_t - x) / t[:, None]
        torch.testing.assert_close(found["denoise"], velocity.square().mean())
        torch.testing.assert_close(found["gan"], 0.7 * (softplus(-real) + softplus(fake)).mean())

        now, found = seeded(seed), m.loss("student", rows, seeded(seed)).terms
        x = samples(now)
        x_t, t = noised(x, 0.1, 0.2, now)
        (x0, fake), goal = judged(x_t, t), m.teacher(x_t, t)
        pull = ((x0 - goal) * x).mean(1) / (x - goal).abs().mean(1)
        made = m.student(rows["pair_noise"], ones)
        torch.testing.assert_close(found["match"], pull.mean())
        torch.testing.assert_close(found["gan"], 0.3 * softplus(-fake).mean())
        torch.testing.assert_close(found["regression"], 0.5 * (made - rows["pair_image"]).square().mean())


def test_the_critic_learns_at_all_times_and_the_student_inside_them():
    m, ends = method(), torch.tensor([0.0, 1.0])
    for law, want in ((m.critic_times, (0.001, 1.0)), (m.score.law, (0.02, 0.98))):
        torch.testing.assert_close(law.times(ends, m.path), torch.tensor(want))


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
    for options in ({"condition": "label"}, {"null": 3}):
        with pytest.raises(UserError, match="needs condition, the column of the classes, and null"):
            Dmd2(denoiser(3), teacher, shape=(2,), guidance=2.0, **options)


def test_a_guided_teacher_gives_a_critic_without_guidance():
    m = Dmd2(denoiser(3, seed=1), Guided(denoiser(3), 4.0, null=torch.tensor(3)), shape=(2,), condition="label")
    assert isinstance(m.teacher, Guided) and isinstance(m.critic, Denoiser)
    assert not {id(p) for p in m.critic.parameters()} & {id(p) for p in m.teacher.parameters()}


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
    with pytest.raises(UserError, match="critic_turns=0; give a whole number from 1"):
        method(critic_turns=0)
    with pytest.raises(UserError, match=r"images of shape \[3\], samples of \[2\]"):
        method(gan=True).check({"image": torch.zeros(1, 3)})


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
        how = {"folder": folder, "until": steps, "resume": folder is not None}
        return fit(m, {"image": batch(32)["image"]}, plan, **how).student.state_dict()

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
