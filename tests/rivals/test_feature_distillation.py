"""Distillation of features of named layers: what it adds, what it trains, what it leaves alone and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from redistill.core import Plan, UserError, describe, fit
from redistill.core.build import build
from redistill.core.followers import same_weights
from redistill.core.method import bare_progress
from redistill.losses.features import attention_transfer, hint
from redistill.losses.relations import angle_relation, distance_relation
from redistill.models.nets import mlp, staged_convnet
from redistill.rivals.attention import Attention
from redistill.rivals.fitnets import Hint
from redistill.rivals.relational import Relational
from redistill.rivals.similarity import SimilarityPreserving
from redistill.supervised.classifier import Classification, Distillation
from redistill.supervised.features import FeatureDistillation

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
    return FeatureDistillation(
        *nets(), feature=feature or Hint(), **{"layers": STAGES, "input_shape": SHAPE, **options}
    )


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
        mlp(64, 3, (8, 5)), nets()[1], feature=Hint(), layers=["3"], teacher_layers=["pool"], input_shape=SHAPE
    )
    history = fit(crossed, DATA, plan(steps=60, lr=0.002, log_every=10)).history
    assert history[-1]["feature"] < 0.5 * history[0]["feature"]


def test_resume_and_two_halves_are_exact(tmp_path):
    whole, resumed = method(), method()
    fit(whole, DATA, plan())
    fit(method(), DATA, plan(), folder=tmp_path, until=2)
    fit(resumed, DATA, plan(), folder=tmp_path, resume=True)
    assert same_weights(whole, resumed)


def test_recipe_and_constructor_are_one():
    given = {"layers": STAGES, "input_shape": SHAPE, "feature": Attention(10.0)}
    made = build(FeatureDistillation, given, *nets())
    assert describe(made)["feature"] == {"name": "attention", "weight": 10.0, "power": 2.0}


@pytest.mark.parametrize(
    ("options", "part"),
    [({"layers": []}, "give pairs"), ({"teacher_layers": ["stage1"]}, "2 layers of the student, 1 of the teacher"),
     ({"layers": ["stage1", "stag2"]}, "did you mean"), ({"layers": ["pool"], "feature": Attention()}, "attention")],
)  # fmt: skip
def test_what_cannot_work_is_refused(options, part):
    with pytest.raises(UserError, match=part):
        terms(method(**options))


def test_a_hint_between_maps_is_rectified_unless_told_otherwise():
    maps = torch.randn(4, 3, 5, 5)
    assert Hint().adapter((3, 5, 5), (6, 5, 5))(maps).min() == 0
    assert Hint(relu=False).adapter((3, 5, 5), (6, 5, 5))(maps).min() < 0
