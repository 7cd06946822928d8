"""The card's exact properties of RFS."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from redistill.core import Plan, UserError, describe, fit
from redistill.core.followers import same_weights
from redistill.core.method import bare_progress
from redistill.core.slot import options
from redistill.methods.supervised.rfs import Rfs, few_shot, generations
from redistill.models.nets import staged_convnet
from redistill.supervised.classifier import Classification
from redistill.vision.augmentations import CropFlipJitter

GENERATOR = torch.Generator().manual_seed(0)
DATA = {
    "image": torch.randn(24, 3, 6, 6, generator=GENERATOR),
    "label": torch.randint(4, (24,), generator=GENERATOR),
}
PLAN = Plan(epochs=2, batch_size=8, lr=0.1, optimizer="sgd", device="cpu")


def net(seed=1, classes=4):
    torch.manual_seed(seed)
    return staged_convnet(3, classes, (4, 6))


def test_gamma_one_and_alpha_zero_is_plain_training():
    plain = fit(Classification(net()), DATA, PLAN).student
    assert same_weights(fit(Rfs(net(), gamma=1.0, alpha=0.0), DATA, PLAN).student, plain)
    assert same_weights(fit(Rfs(net(), net(2), gamma=1.0, alpha=0.0), DATA, PLAN).student, plain)
    assert not same_weights(fit(Rfs(net(), net(2)), DATA, PLAN).student, plain)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_gradient_of_the_teachers_part(tau):
    z_s, z_t = torch.randn(2, 5, 4, generator=GENERATOR, dtype=torch.float64)
    z_s.requires_grad_()
    method = Rfs(nn.Identity(), nn.Identity(), tau=tau, gamma=0.0, alpha=1.0)
    batch = {"image": z_s, "label": torch.arange(5) % 4, "teacher_logits": z_t}
    method.loss("student", batch, bare_progress()).total.backward()
    difference = (z_s / tau).softmax(1) - (z_t / tau).softmax(1)
    torch.testing.assert_close(z_s.grad, tau * difference.detach() / 5)  # p_S - p_T at T = 1


def test_loss_is_half_labels_and_half_teacher():
    z_s, z_t = torch.randn(2, 5, 4, generator=GENERATOR, dtype=torch.float64)
    label = torch.arange(5) % 4
    method = Rfs(nn.Identity(), nn.Identity())
    batch = {"image": z_s, "label": label, "teacher_logits": z_t}
    found = method.loss("student", batch, bare_progress()).terms
    kl = nn.functional.kl_div((z_s / 4).log_softmax(1), (z_t / 4).softmax(1), reduction="batchmean")
    torch.testing.assert_close(found["hard"], 0.5 * nn.functional.cross_entropy(z_s, label))
    torch.testing.assert_close(found["soft"], 0.5 * 16 * kl)


def test_generations_see_the_changed_images():
    change = CropFlipJitter(2, jitter=0.3).rows
    plain, changed = generations(net, DATA, PLAN, 1), generations(net, DATA, PLAN, 1, augment=change)
    alone = fit(Rfs(net(1), changed[0]), DATA, PLAN, augment=change).student
    assert same_weights(changed[1], alone)
    assert not any(same_weights(a, b) for a, b in zip(plain, changed))


def test_generations_start_anew_and_each_is_taught_by_the_one_before():
    made = generations(net, DATA, PLAN, 2)
    first = fit(Rfs(net(0), gamma=1.0, alpha=0.0), DATA, PLAN).student.eval()
    second = fit(Rfs(net(1), first), DATA, PLAN).student.eval()
    third = fit(Rfs(net(2), second), DATA, PLAN).student
    assert len(made) == 3 and all(same_weights(a, b) for a, b in zip(made, (first, second, third)))
    assert not any(one.training for one in made)


def few(n=6, **more):
    image = torch.randn(n, 3, 6, 6, generator=torch.Generator().manual_seed(5))
    return few_shot(net().train(), image, torch.arange(n) % 3, **more), image


def test_few_shot_classifier_learns_its_examples_and_stays_frozen():
    classifier, image = few(C=1e4)
    before = {k: v.clone() for k, v in classifier.state_dict().items()}
    scores = classifier.train()(image)
    assert scores.argmax(1).tolist() == [0, 1, 2, 0, 1, 2] and not scores.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in classifier.state_dict().items())


def test_the_regression_sees_copies_that_differ():
    seen = []

    def augment(image, now):
        seen.append(image + now.rand(len(image))[:, None, None, None])
        return seen[-1]

    few(augment=augment, copies=3)
    assert len(seen) == 3 and not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


def test_the_users_network_can_go_on_learning():
    network = net().train()
    classifier = few_shot(network, DATA["image"][:6], torch.arange(6) % 3)
    scores = classifier(DATA["image"])
    assert network.training and all(p.requires_grad for p in network.parameters())
    fit(Classification(network), DATA, PLAN)
    assert torch.equal(classifier(DATA["image"]), scores)


def test_defaults_are_the_papers():
    shown = {"tau": 4.0, "gamma": 0.5, "alpha": 0.5}
    assert describe(Rfs(net(), net())) == shown
    given = {name: p.default for name, p in options(few_shot).items()}
    assert given == {"head": None, "augment": None, "copies": 5, "C": 1.0, "seed": 0}


def test_a_query_is_answered_alike_alone_and_in_company():
    classifier, image = few()
    torch.testing.assert_close(classifier(image)[:1], classifier(image[:1]), rtol=1e-4, atol=1e-5)


def test_rescaling_the_embedding_changes_no_answer():
    classifier, image = few()
    network = net()
    network.stage2[0][1].weight.data *= 3.0
    network.stage2[0][1].bias.data *= 3.0
    scaled = few_shot(network, image, torch.arange(6) % 3)
    torch.testing.assert_close(scaled(image), classifier(image), rtol=1e-4, atol=1e-4)


def test_augmented_support_is_drawn_from_the_seed():
    change = CropFlipJitter(2, jitter=0.3)
    one, again, other, plain = (
        few(augment=change, seed=1)[0].weight, few(augment=change, seed=1)[0].weight,
        few(augment=change, seed=2)[0].weight, few()[0].weight,
    )  # fmt: skip
    assert torch.equal(one, again) and not torch.equal(one, other) and not torch.equal(one, plain)


def test_copies_that_change_nothing_count_five_times_as_much():
    same = few(augment=CropFlipJitter(0, False), copies=5)[0].weight
    torch.testing.assert_close(same, few(C=5.0)[0].weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: Rfs(net()), "alpha=0 for generation 0"),
        (lambda: Rfs(net(), net(), tau=0.0), "tau=0"),
        (lambda: Rfs(net(), net(), gamma=0.0, alpha=0.0), "one above"),
        (lambda: few_shot(net(), DATA["image"][:2], torch.tensor([0, 2])), r"labels \[0, 2\]"),
        (lambda: few_shot(net(), DATA["image"][:2], torch.tensor([0, 0])), "two or more"),
        (lambda: few_shot(net(), DATA["image"][:2], torch.tensor([0.0, 1.0])), "two or more"),
        (lambda: few_shot(net(), DATA["image"][:3], torch.tensor([0, 1])), "for 3 images"),
        (lambda: few(copies=0), "copies=0"),
        (lambda: few(C=0.0), "C=0"),
        (lambda: few(head="heed"), "head: unknown layer 'heed'; did you mean 'head'"),
        (lambda: fit(Rfs(net(), net(classes=5)), DATA, PLAN), "4 classes in the student, 5"),
    ],
)
def test_wrong_input_is_refused(make, part):
    with pytest.raises(UserError, match=part):
        make()
