"""The card's exact properties of MEKD."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from redistill.core import Plan, Progress, UserError, describe, fit
from redistill.core.build import build
from redistill.core.engine import Engine
from redistill.core.followers import same_weights
from redistill.core.method import bare_progress
from redistill.losses.divergences import forward_kl, log_probs
from redistill.methods.supervised.mekd import Mekd, OnceSoftened
from redistill.methods.supervised.mekd.black_box import Labels, Logits
from redistill.models.gan import mlp_discriminator, mlp_generator
from redistill.models.nets import mlp
from redistill.supervised.matches import Dkd, LogitMse, TeacherLabel

CLASSES, PIXELS = 3, 6
IMAGES = torch.randn(20, PIXELS, generator=torch.Generator().manual_seed(0))
ROWS = {"index": torch.arange(5)}
GAN_ALONE = {"image_weight": 0.0, "match_weight": 0.0}


class Recorder(nn.Module):
    """Answers as ``net`` does and remembers what it was asked, and whether a gradient was recorded."""

    def __init__(self, net):
        super().__init__()
        self.net, self.seen, self.differentiated = net, [], []

    def forward(self, x):
        self.seen.append(x.clone())
        self.differentiated.append(torch.is_grad_enabled() or x.requires_grad)
        return self.net(x)


class Fixed(nn.Module):
    """Logits that do not depend on the image; ``logits`` is a leaf."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, image):
        return self.logits


def parts(seed=0):
    torch.manual_seed(seed)
    gan = mlp_generator(CLASSES, (PIXELS,), (8,), norm=False), mlp_discriminator(PIXELS, (8,), dropout=0.0)
    return mlp(PIXELS, CLASSES, [8]), mlp(PIXELS, CLASSES, [12]), *gan


def method(**options):
    student, teacher, generator, _ = parts()
    return Mekd(student, teacher, generator, classes=CLASSES, **options)


def plan(**changes):
    return Plan(**{"steps": 4, "batch_size": 5, "lr": 0.05, "optimizer": "sgd", "device": "cpu", "seed": 1, **changes})


def two(seed=3):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(5, CLASSES, generator=generator, dtype=torch.float64) for _ in range(2))


def image_term(s, t, generator, **options):
    """The term ``image`` and its gradient with respect to the student's logits ``s``."""
    made = Mekd(Fixed(s), Fixed(t), generator, classes=CLASSES, match_weight=0.0, **options)
    made.teacher.requires_grad_(False)
    made.generator.requires_grad_(False)
    loss = made.loss("student", ROWS, bare_progress())
    loss.total.backward()
    assert list(loss.terms) == ["image"]
    return loss.terms["image"].detach(), made.student.logits.grad


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_equal_logits_make_equal_images_and_no_gradient(distance):
    s, t = two()
    generator = parts()[2].double()
    value, gradient = image_term(s, s, generator, distance=distance)
    assert value == 0 and not gradient.any()
    assert image_term(s, t, generator, distance=distance)[1].any()


def test_gradient_is_the_generators_jacobian_applied_to_signs():
    s, t = two()
    generator, kappa, weight = parts()[2].double(), 2.5, 3.0
    _, gradient = image_term(s, t, generator, kappa=kappa, image_weight=weight)
    with torch.no_grad():
        sign = (generator(s / kappa) - generator(t / kappa)).sign()  # [B, pixels]
        jacobian = torch.stack([
            (generator((s + 1e-6 * e) / kappa) - generator((s - 1e-6 * e) / kappa)) / 2e-6
            for e in torch.eye(CLASSES, dtype=torch.float64)
        ], -1)  # fmt: skip
    expected = weight * torch.einsum("bp,bpc->bc", sign, jacobian) / sign.numel()
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-9)


def test_with_a_linear_generator_l2_is_a_logit_error_in_its_metric():
    s, t = two()
    linear = nn.Linear(CLASSES, PIXELS, bias=False).double()
    value, _ = image_term(s, t, linear, distance="l2", kappa=4.0)
    torch.testing.assert_close(value, ((s - t) / 4.0 @ linear.weight.T.detach()).square().mean())


def test_kl_term_has_one_factor_of_tau():
    s, t = two()
    made = Mekd(Fixed(s), Fixed(t), parts()[2], classes=CLASSES, image_weight=0.0, match_weight=2.0)
    value = made.loss("student", ROWS, bare_progress()).terms["match"]
    expected = 2.0 * 5.0 * forward_kl(log_probs(s, 5.0), log_probs(t, 5.0)).sum(-1).mean()
    torch.testing.assert_close(value.detach(), expected)
    tau = torch.linspace(1, 3, 5, dtype=torch.float64)[:, None]
    rows = [OnceSoftened()(s[i : i + 1], t[i : i + 1], None, float(tau[i])) for i in range(5)]
    torch.testing.assert_close(OnceSoftened()(s, t, None, tau), torch.cat(rows))


def test_teacher_is_asked_without_gradient_and_about_generated_images_only():
    student, teacher, generator, discriminator = parts()
    spy, made = Recorder(teacher), []
    generator.register_forward_hook(lambda module, inputs, image: made.append(image.detach().clone()))
    whole = Mekd(student, spy, generator, discriminator, classes=CLASSES, gan_steps=2)
    fit(whole, {"image": IMAGES}, plan())
    assert not any(spy.differentiated) and len(spy.seen) == 4  # two steps of the generator, two of the student
    assert all(any(torch.equal(image, own) for own in made) for image in spy.seen)
    assert whole.asked.sum(1).tolist() == [10, 10]


def test_without_the_confidence_term_the_first_stage_asks_nothing():
    student, teacher, generator, discriminator = parts()
    spy = Recorder(teacher)
    fit(Mekd(student, spy, generator, discriminator, classes=CLASSES, gan_steps=3, confidence_weight=0.0, **GAN_ALONE),
        {"image": IMAGES}, plan(steps=3))  # fmt: skip
    assert spy.seen == []


def test_generator_losses_are_the_papers():
    student, teacher, generator, discriminator = parts()
    made = Mekd(student, teacher, generator, discriminator, classes=CLASSES, gan_steps=1)
    terms = made.loss("generator", {**ROWS, "image": IMAGES[:5]}, bare_progress()).terms
    with torch.no_grad():
        z = bare_progress().randn(5, CLASSES)
        d = discriminator(generator(z)).sigmoid().squeeze(1)
        top = teacher(generator(z)).softmax(1).amax(1)
        torch.testing.assert_close(terms["generator"], -d.log().mean())
        torch.testing.assert_close(terms["confidence"], -0.5 * (top * d.log()).mean())
        both = made.loss("discriminator", {**ROWS, "image": IMAGES[:5]}, bare_progress()).terms["discriminator"]
        real = discriminator(IMAGES[:5]).sigmoid()
        torch.testing.assert_close(both, -real.log().mean() - (1 - d).log().mean())
    made.reply = Labels()
    terms = made.loss("generator", {**ROWS, "image": IMAGES[:5]}, bare_progress()).terms
    torch.testing.assert_close(terms["confidence"], 0.5 * terms["generator"])


def test_confidence_changes_what_the_generator_learns():
    def trained(weight):
        made = Mekd(*parts(), classes=CLASSES, gan_steps=3, confidence_weight=weight, **GAN_ALONE)
        return fit(made, {"image": IMAGES}, plan(steps=3)).method.generator

    assert not same_weights(trained(0.0), trained(0.5))


def test_generator_is_fixed_and_in_evaluation_mode_while_the_student_learns():
    student, teacher, _, discriminator = parts()
    generator = nn.Sequential(nn.Linear(CLASSES, PIXELS), nn.BatchNorm1d(PIXELS), nn.Tanh())
    made = Mekd(student, teacher, generator, discriminator, classes=CLASSES, gan_steps=2)
    engine = Engine(made, {"image": IMAGES}, plan(), None)
    held = {id(p) for group in engine.optimizers["student"].param_groups for p in group["params"]}
    assert held == {id(p) for p in student.parameters()}
    states = []

    def watch(now, row, _):
        states.append((now.step, generator.training, copy.deepcopy(generator.state_dict())))

    fit(made, {"image": IMAGES}, plan(log_every=1), observers=(watch,))
    assert [training for _, training, _ in states] == [True, True, False, False]
    one, two, three, four = (state for _, _, state in states)
    assert all(torch.equal(two[k], four[k]) for k in four) and all(torch.equal(two[k], three[k]) for k in three)
    assert not torch.equal(one["0.weight"], two["0.weight"])
    assert not torch.equal(one["1.running_mean"], two["1.running_mean"])


def test_hard_answers_depend_on_the_teacher_through_its_top_class_alone():
    class Monotone(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return 7.0 * self.net(x).pow(3) + 2.0

    class Naming(Monotone):
        def forward(self, x):
            return self.net(x).argmax(1)

    def student(teacher, reply):
        made = Mekd(parts()[0], teacher, parts()[2], classes=CLASSES, reply=reply)
        return fit(made, None, plan()).student

    teacher = parts()[1]
    hard = student(teacher, Labels(2.0))
    assert same_weights(hard, student(Monotone(teacher), Labels(2.0)))
    assert same_weights(hard, student(Naming(teacher), Labels(2.0)))
    assert not same_weights(student(teacher, Logits()), student(Monotone(teacher), Logits()))


@pytest.mark.parametrize("pool", [10, 12])  # two whole batches, and two rows too many for a third
def test_pool_bounds_the_questions_and_repeats_their_answers(pool):
    spy = Recorder(parts()[1])
    made = Mekd(parts()[0], spy, parts()[2], classes=CLASSES, pool=pool)
    fit(made, None, plan(steps=9))
    assert [len(x) for x in spy.seen] == [5, 5] and int(made.asked.sum()) == 10
    with torch.no_grad():
        torch.testing.assert_close(made.generator(made.latents[:10]), torch.cat(spy.seen))
        torch.testing.assert_close(made.teacher.net(torch.cat(spy.seen)), made.answers[:10])
    z, answers, fresh = made._question(5, bare_progress())
    assert not fresh and all(any(torch.equal(row, kept) for kept in made.latents[:10]) for row in z)
    with torch.no_grad():
        torch.testing.assert_close(made.teacher.net(made.generator(z)), answers)
    assert not made.latents[10:].any()


def test_student_needs_no_rows_once_the_generator_is_there():
    made = method(match=LogitMse())
    history = fit(made, None, plan(steps=200, lr=0.1, log_every=50, batch_size=32)).history
    assert history[-1]["match"] < 0.5 * history[0]["match"]


def test_defaults_are_the_papers():
    shown = {"kappa": 5.0, "image_weight": 1.0, "match_weight": 1.0, "confidence_weight": 0.5, "distance": "l1"}
    made = method()
    assert {name: describe(made)[name] for name in shown} == shown
    assert made.temperature.tau == 5.0 and isinstance(made.reply, Logits)


def test_spread_is_that_of_the_generators_input():
    made = method(kappa=2.5)
    watch = made.loss("student", ROWS, bare_progress()).watch
    with torch.no_grad():
        t = made.teacher(made.generator(bare_progress().randn(5, CLASSES)))
    torch.testing.assert_close(watch["spread"], (t / 2.5).std())


@pytest.mark.parametrize(
    ("name", "value"),
    [("pool", -3), ("kappa", math.nan), ("image_weight", -1.0), ("confidence_weight", math.inf), ("gan_steps", -1)],
)
def test_senseless_numbers_are_refused(name, value):
    with pytest.raises(UserError, match=f"{name}={value}; give"):
        method(**{name: value})


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: fit(Mekd(*parts(), classes=CLASSES, gan_steps=4), {"image": IMAGES}, plan()), "4 for gan_steps=4"),
        (lambda: fit(method(**GAN_ALONE), None, plan()), "needs more and a weight"),
        (lambda: Mekd(*parts(), classes=CLASSES), "gan_steps=0"),
        (lambda: method(gan_steps=3), "without one"),
        (lambda: method(match=Dkd()), "Dkd reads labels"),
        (lambda: method(kappa=0.0), "kappa=0"),
        (lambda: fit(method(pool=3), None, plan()), "pool of 3"),
        (lambda: fit(Mekd(mlp(PIXELS, 4), *parts()[1:3], classes=CLASSES), None, plan()), "models.student"),
        (
            lambda: fit(Mekd(mlp(PIXELS, 4), *parts()[1:], classes=CLASSES, gan_steps=3), {"image": IMAGES}, plan()),
            "models.student",
        ),
        (lambda: fit(Mekd(*parts(), classes=4, gan_steps=1), {"image": IMAGES}, plan()), "takes no latents of 4"),
        (
            lambda: fit(Mekd(*parts(), classes=CLASSES, gan_steps=3, pool=3), {"image": IMAGES}, plan(steps=1)),
            "pool of 3",
        ),
        (lambda: fit(Mekd(parts()[0], mlp(PIXELS, 4), parts()[2], classes=CLASSES), None, plan()), "not 3 numbers"),
        (lambda: fit(Mekd(*parts(), classes=CLASSES, gan_steps=1), {"image": IMAGES[:, :4]}, plan()), "the data has"),
        (lambda: fit(Mekd(*parts(), classes=CLASSES, gan_steps=1), {"pixels": IMAGES}, plan()), "'image'"),
    ],
)
def test_wrong_input_is_refused(make, part):
    with pytest.raises(UserError) as refusal:
        make()
    assert part in str(refusal.value)


def test_recipe_and_constructor_are_one():
    given = {"classes": CLASSES, "reply": {"name": "labels", "scale": 4.0}, "match": "teacher_label", "pool": 50}
    made = build(Mekd, given, *parts()[:3])
    assert {k: describe(made)[k] for k in given} == given
    assert made.reply.scale == 4.0 and isinstance(made.match, TeacherLabel)
    with pytest.raises(UserError, match="did you mean 'labels'"):
        build(Mekd, {"classes": CLASSES, "reply": "label"}, *parts()[:3])


def test_turns_follow_the_stage():
    made = Mekd(*parts(), classes=CLASSES, gan_steps=2)
    assert made.turns(Progress(step=1)) == ("discriminator", "generator")
    assert made.turns(Progress(step=2)) == ("student",)
