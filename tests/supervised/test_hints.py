"""Distillation of features of named layers: what it adds, what it trains, what it leaves alone and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from redistill.core import Plan, UserError, describe, fit
from redistill.core.build import build
from redistill.core.followers import same_weights
from redistill.core.method import bare_progress
from redistill.losses.contrast import noise_contrastive
from redistill.losses.features import attention_transfer, hint
from redistill.losses.relations import angle_relation, distance_relation
from redistill.models.nets import mlp, staged_convnet
from redistill.supervised.classifier import Classification, Distillation
from redistill.supervised.contrastive import ContrastiveDistillation
from redistill.supervised.hints import (
    Attention,
    FeatureDistillation,
    FeatureMatch,
    Hint,
    Relational,
    SimilarityPreserving,
)

GENERATOR = torch.Generator().manual_seed(0)
IMAGE, LABEL = torch.randn(24, 1, 8, 8, generator=GENERATOR), torch.arange(24) % 3
DATA = {"image": IMAGE, "label": LABEL}
STAGES, SHAPE = ["stage1", "stage2"], [1, 8, 8]


def nets(student=(3, 4), teacher=(5, 6)):
    torch.manual_seed(0)
    return staged_convnet(1, 3, student), staged_convnet(1, 3, teacher)


def plan(**changes):
    return Plan(**{"steps": 4, "batch_size": 8, "lr": 0.05, "optimizer": "sgd", "device": "cpu", **changes})


def method(feature=None, **options):
    return FeatureDistillation(*nets(), feature=feature, **{"layers": STAGES, "input_shape": SHAPE, **options})


def contrastive(**options):
    return ContrastiveDistillation(*nets(), layer="pool", input_shape=SHAPE, rows=24, **{"negatives": 6, **options})


def terms(method, data=DATA):
    now, batch = bare_progress(), {**data, "index": torch.arange(24)}
    method.train()
    method.teacher.eval()
    return method.loss("student", method.prepare(batch, now), now).terms


def test_the_terms_are_those_of_the_losses():
    student, teacher = nets()
    low = [net.stage1(IMAGE) for net in (student, teacher.eval())]
    high = [net.stage2(f) for net, f in zip((student, teacher), low)]
    found = terms(method(Attention(1000.0)))
    torch.testing.assert_close(found["hard"], cross_entropy(student(IMAGE), LABEL))
    expected = 1000 * (attention_transfer(*low) + attention_transfer(*high)).mean()
    torch.testing.assert_close(found["feature"], expected)
    vectors = [f.mean((2, 3)) for f in high]
    found = terms(method(Relational(25.0, 50.0), layers=["stage2"]))
    torch.testing.assert_close(found["feature"], 25 * distance_relation(*vectors) + 50 * angle_relation(*vectors))
    hints = method(Hint(100.0), layers=["stage1"], soft_weight=0.5)
    found = terms(hints)
    torch.testing.assert_close(found["feature"], 100 * hint(hints.adapters[0](low[0]), low[1]).mean())
    assert set(found) == {"hard", "soft", "feature"}


def test_without_weight_the_student_learns_as_from_labels_alone():
    plain = fit(Classification(nets()[0]), DATA, plan()).student
    assert same_weights(fit(method(Attention(0.0)), DATA, plan()).student, plain)
    assert not same_weights(fit(method(Attention(1e3)), DATA, plan()).student, plain)
    both = fit(method(Attention(0.0), hard_weight=0.1, soft_weight=0.9), DATA, plan()).student
    assert same_weights(both, fit(Distillation(*nets()), DATA, plan()).student)


def test_adapters_train_with_the_student_and_stay_behind():
    before, trained = method(), method()
    student = fit(trained, DATA, plan()).student
    assert not same_weights(before.adapters, trained.adapters) and same_weights(before.teacher, trained.teacher)
    assert student.state_dict().keys() == nets()[0].state_dict().keys()
    assert not any(m._forward_hooks for net in (student, trained.teacher) for m in net.modules())
    assert not list(method(Relational()).adapters.parameters())


def test_adapters_bridge_maps_vectors_and_tokens():
    for student, teacher in (((4, 8, 8), (6, 4, 4)), ((5,), (6, 4, 4)), ((4, 8, 8), (7,)), ((9, 5), (9, 7))):
        s, t = torch.randn(2, *student), torch.randn(2, *teacher)
        if len(student) == 2 or len(student) == 3 == len(teacher):
            assert Hint(1.0).adapter(student, teacher)(s).shape[-1] in (t.shape[-1], s.shape[-1])
        assert Hint(1.0)(Hint(1.0).adapter(student, teacher)(s), t).shape == (2,)
        assert SimilarityPreserving()(s, t).shape == ()


def test_a_perceptron_learns_from_a_convolutional_teacher():
    crossed = FeatureDistillation(
        mlp(64, 3, (8, 5)), nets()[1], layers=["3"], teacher_layers=["pool"], input_shape=SHAPE
    )
    history = fit(crossed, DATA, plan(steps=60, lr=0.002, log_every=10)).history
    assert history[-1]["feature"] < 0.5 * history[0]["feature"]


def test_resume_and_two_halves_are_exact(tmp_path):
    for make in (method, contrastive):
        whole, resumed = make(), make()
        fit(whole, DATA, plan())
        folder = tmp_path / make.__name__
        fit(make(), DATA, plan(), folder=folder, until=2)
        fit(resumed, DATA, plan(), folder=folder, resume=True)
        assert same_weights(whole, resumed)


def test_recipe_and_constructor_are_one():
    given = {"layers": STAGES, "input_shape": SHAPE, "feature": {"name": "attention", "weight": 10.0}}
    made = build(FeatureDistillation, given, *nets())
    assert describe(made)["feature"] == {"name": "attention", "weight": 10.0, "power": 2.0}
    assert {"hint", "attention", "relational", "similarity_preserving"} <= FeatureMatch.choices().keys()


@pytest.mark.parametrize(
    ("options", "part"),
    [({"layers": []}, "give pairs"), ({"teacher_layers": ["stage1"]}, "2 layers of the student, 1 of the teacher"),
     ({"layers": ["stage1", "stag2"]}, "did you mean"), ({"layers": ["pool"], "feature": Attention()}, "attention")],
)  # fmt: skip
def test_what_cannot_work_is_refused(options, part):
    with pytest.raises(UserError, match=part):
        terms(method(**options))


# ---- CRD ----


def test_banks_keep_unit_length_and_move_by_the_momentum():
    made = contrastive(momentum=0.75)
    before = made.banks.clone()
    fit(made, DATA, plan(steps=1))
    moved = (made.banks - before).abs().sum(-1) > 0
    assert (
        moved.sum() == 16
        and (made.classes[moved[0]] == LABEL[moved[0]]).all()
        and (made.classes[~moved[0]] == -1).all()
    )
    fit(made, DATA, plan())
    torch.testing.assert_close(made.banks.norm(dim=-1), torch.ones(2, 24))
    fresh = normalize(torch.randn(24, 2, 128, generator=GENERATOR), dim=-1)
    before = made.banks.clone()
    made.after("student", {"index": torch.arange(24), "label": LABEL, "embedded": fresh}, bare_progress())
    torch.testing.assert_close(made.banks[1], normalize(3 * before[1] + fresh[:, 1], dim=-1))


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan"), 0.001])
def test_a_contrast_needs_a_temperature_that_a_float_can_hold(tau):
    with pytest.raises(UserError, match="tau: "):
        contrastive(tau=tau)


def test_the_contrast_is_both_directions_with_the_other_networks_bank():
    made, now = contrastive(contrast_weight=1.0), bare_progress()
    made.classes[:] = LABEL
    found = terms(made)["contrast"]
    drawn = now.randint(0, 24, 24, 6)
    student, teacher = nets()
    u = [normalize(e(net(IMAGE)), dim=1) for e, net in zip(made.embeddings, (student[:-1], teacher[:-1].eval()))]
    total = 0.0
    for row in range(24):
        others = drawn[row][LABEL[drawn[row]] != LABEL[row]]
        pad = torch.zeros(6 - len(others), dtype=torch.int64)
        counts = torch.tensor([1.0] * len(others) + [0.0] * len(pad))[None]
        for anchor, bank in zip(u, made.banks.flip(0)):
            negatives = bank[torch.cat([others, pad])][None]
            total += noise_contrastive(anchor[row : row + 1], bank[row : row + 1], negatives, 0.07, counts)[0]
    torch.testing.assert_close(found, total / 24)


def test_a_row_is_no_negative_of_its_own():
    made, row = contrastive(contrast_weight=1.0), torch.arange(24)  # no class is known yet
    drawn = bare_progress().randint(0, 24, 24, 6)
    counts = drawn != row[:, None]
    assert not counts.all()
    student, teacher = nets()
    u = [normalize(e(net(IMAGE)), dim=1) for e, net in zip(made.embeddings, (student[:-1], teacher[:-1].eval()))]
    parts = [noise_contrastive(a, bank, bank[drawn], 0.07, counts) for a, bank in zip(u, made.banks.flip(0))]
    torch.testing.assert_close(terms(made)["contrast"], sum(parts).mean())


def test_a_hint_between_maps_is_rectified_unless_told_otherwise():
    maps = torch.randn(4, 3, 5, 5)
    assert Hint().adapter((3, 5, 5), (6, 5, 5))(maps).min() == 0
    assert Hint(relu=False).adapter((3, 5, 5), (6, 5, 5))(maps).min() < 0


def test_the_teacher_trains_only_its_embedding():
    made = contrastive()
    before = [p.clone() for p in made.embeddings[1].parameters()]
    fit(made, DATA, plan())
    assert same_weights(made.teacher, nets()[1])
    assert not torch.equal(before[0], made.embeddings[1].weight)


def test_banks_that_are_too_small_are_refused():
    small = ContrastiveDistillation(*nets(), layer="pool", input_shape=SHAPE, rows=10)
    with pytest.raises(UserError, match="set rows"):
        fit(small, DATA, plan())
