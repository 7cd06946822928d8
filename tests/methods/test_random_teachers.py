"""The card's exact properties: the teacher never changes, the loss is KL plus a constant, no label is read."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from redistill.core import Plan, Progress, UserError, describe, fit
from redistill.core.build import build
from redistill.core.followers import same_weights
from redistill.methods.analysis.random_teachers import CrossEntropy, MeanSquare, RandomTeachers, between
from redistill.methods.analysis.random_teachers.dino import DinoHead, EveryEpoch, EveryStep
from redistill.methods.analysis.random_teachers.probing import with_statistics
from redistill.models.nets import staged_convnet

DATA = {"image": torch.randn(24, 1, 4, 4, generator=torch.Generator().manual_seed(0)), "label": torch.arange(24) % 3}
NOW = Progress()


def net(seed=1, outputs=7):
    torch.manual_seed(seed)
    return nn.Sequential(staged_convnet(1, 5, [4, 6]), DinoHead(5, outputs, hidden=8, bottleneck=4))


def plan(**changes):
    return Plan(**{"epochs": 2, "batch_size": 8, "lr": 1e-2, "device": "cpu", **changes})


def trained(data=DATA, student=None, teacher=None, **options):
    method = RandomTeachers(student or net(2), teacher or net(1), **options)
    return fit(method, data, plan()).method


def test_the_teacher_never_changes_batch_statistics_included():
    teacher = with_statistics(net(1), DATA["image"])
    before = copy.deepcopy(teacher)
    method = trained(teacher=teacher)
    assert same_weights(method.teacher.net, before) and same_weights(teacher, before)
    assert not same_weights(method.student, net(2))


def test_no_label_is_read():
    unlabelled = {**DATA, "label": torch.full((24,), -1)}
    assert same_weights(trained().student, trained(unlabelled).student)
    assert same_weights(trained().student, trained({"image": DATA["image"]}).student)


def test_the_distance_above_its_least_value_is_kl():
    student, teacher = torch.randn(6, 5), torch.randn(6, 5)
    distance, least = CrossEntropy(0.5, 0.2)(student, teacher)
    kl = nn.functional.kl_div((student / 0.5).log_softmax(1), (teacher / 0.2).softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(distance - least, kl)
    assert (kl > 0).all()
    torch.testing.assert_close(MeanSquare()(student, teacher)[0], (student - teacher).square().mean(1))


def test_an_equal_student_in_the_same_mode_has_no_gradient_and_in_training_mode_it_has():
    teacher = net().double().eval()
    norms = []
    for training in (False, True):
        student = copy.deepcopy(teacher).train(training)
        method = RandomTeachers(student, teacher)
        loss = method.loss("student", method.prepare({"image": DATA["image"].double()}, NOW), NOW)
        loss.total.backward()
        norms.append(float(sum(p.grad.norm() for p in student.parameters())))
        assert training or abs(float(loss.watch["gap"])) < 1e-12
    assert norms[0] < 1e-12 < 1e-4 < norms[1]


def test_the_start_is_between_the_two_networks():
    teacher, other = net(1), net(2)
    assert same_weights(between(teacher, other, 0.0), teacher)
    ends = dict(between(teacher, other, 1.0).named_parameters())
    assert all(torch.equal(p, ends[name]) for name, p in other.named_parameters())
    halfway = dict(between(teacher, other, 0.25).named_parameters())
    for (name, a), b in zip(teacher.named_parameters(), other.parameters()):
        torch.testing.assert_close(halfway[name], 0.75 * a + 0.25 * b)


def test_rescaling_keeps_the_variance_of_matrices():
    torch.manual_seed(0)
    a, b = nn.Linear(300, 300), nn.Linear(300, 300)
    plain, scaled = (between(a, b, 0.5, rescale=r).weight.detach().std() for r in (False, True))
    assert float(scaled / a.weight.detach().std()) == pytest.approx(1, abs=0.01)
    assert float(plain / a.weight.detach().std()) == pytest.approx(2**-0.5, abs=0.01)


@pytest.mark.parametrize(("alpha", "rescale"), [(0.0, False), (0.25, False), (0.25, True)])
def test_a_students_start_is_alpha_of_its_own_and_the_rest_the_teachers(alpha, rescale):
    teacher, own = with_statistics(net(1), DATA["image"]), net(2)
    student = RandomTeachers(net(2), teacher, alpha=alpha, rescale=rescale).student
    scale = (0.75**2 + 0.25**2) ** 0.5 if rescale else 1.0
    for p, a, b in zip(student.parameters(), teacher.parameters(), own.parameters()):
        assert torch.equal(p, ((1 - alpha) * a + alpha * b) / (scale if p.ndim > 1 else 1.0)) and p.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(student.buffers(), teacher.buffers()))


def test_a_student_starts_as_it_came_unless_told():
    assert same_weights(RandomTeachers(net(2), net(1)).student, net(2))
    unlike = nn.Sequential(nn.Flatten(), nn.Linear(16, 7))
    assert RandomTeachers(unlike, net(1)).student is unlike


def norms(network):
    return [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]


def test_the_teacher_meets_the_rows_before_training_and_keeps_their_statistics():
    given = net(1)
    method = RandomTeachers(net(2), given, alpha=0.25)
    method.meet(DATA)
    first = next(m for m in given.modules() if isinstance(m, nn.Conv2d))(DATA["image"]).detach()
    torch.testing.assert_close(norms(method.teacher)[0].running_mean, first.mean((0, 2, 3)))
    torch.testing.assert_close(norms(method.teacher)[0].running_var, first.var((0, 2, 3)))
    known = with_statistics(net(1), DATA["image"])  # what the study does
    for a, b in ((method.teacher.net, known), (method.student, between(known, net(2), 0.25))):
        for x, y in zip([*a.parameters(), *a.buffers()], [*b.parameters(), *b.buffers()]):
            torch.testing.assert_close(x, y)
    assert same_weights(given, net(1)) and not method.teacher.net.training
    assert all(torch.equal(a, b) for a, b in zip(method.teacher.parameters(), given.parameters()))
    assert not any(p.requires_grad for p in method.teacher.parameters())
    before = copy.deepcopy(method.teacher)
    assert same_weights(fit(method, DATA, plan()).method.teacher, before)


def test_fit_lets_the_teacher_meet_its_rows():
    known = with_statistics(net(1), DATA["image"])
    torch.testing.assert_close(
        list(fit(RandomTeachers(net(2), net(1)), DATA, plan()).method.teacher.net.buffers()), list(known.buffers())
    )


def test_a_student_that_starts_as_it_came_keeps_its_own_statistics():
    method = RandomTeachers(net(2), net(1))
    method.meet(DATA)
    assert same_weights(method.student, net(2))


def test_initial_statistics_stay_zero_and_one():
    method = RandomTeachers(net(2), net(1), alpha=0.25, statistics="initial")
    fit(method, DATA, plan())
    assert same_weights(method.teacher.net, net(1))
    assert not any(m.running_mean.any() or (m.running_var != 1).any() for m in norms(method.teacher))


def test_statistics_that_are_there_are_kept():
    known = with_statistics(net(1), 3 * DATA["image"] + 1)
    method = RandomTeachers(net(2), known)
    method.meet(DATA)
    assert same_weights(method.teacher.net, known)


def test_sorted_rows_fill_the_statistics_like_any_others():
    image = torch.cat([torch.full((150, 1, 4, 4), -5.0), torch.full((150, 1, 4, 4), 5.0)])
    image = image + torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    method = RandomTeachers(net(2), net(1))
    method.meet([{"image": row} for row in image])  # two batches
    first = next(m for m in method.teacher.modules() if isinstance(m, nn.Conv2d))(image).detach()
    torch.testing.assert_close(norms(method.teacher)[0].running_var, first.var((0, 2, 3)), rtol=0.05, atol=0)
    assert int(norms(method.teacher)[0].num_batches_tracked) == 2


def test_many_rows_are_met_in_part(monkeypatch):
    monkeypatch.setattr("redistill.methods.analysis.random_teachers.MOST", 8)
    seen = []

    class Rows(list):
        def __getitem__(self, index):
            seen.append(index)
            return super().__getitem__(index)

    RandomTeachers(net(2), net(1)).meet(Rows({"image": row} for row in DATA["image"]))
    assert seen[0] == 0 and len(set(seen[1:])) == len(seen[1:]) == 8 and max(seen[1:]) >= 8


def test_a_teacher_without_batch_norm_or_rows_of_its_outputs_need_no_meeting():
    plain = nn.Sequential(nn.Flatten(), nn.Linear(16, 7))
    RandomTeachers(copy.deepcopy(plain), plain).meet({"image": DATA["image"][:1]})
    RandomTeachers(net(2), None).meet({})


def test_the_loss_is_the_cross_entropy_of_the_softmax_outputs_at_both_temperatures():
    method = RandomTeachers(net(2), net(1), match=CrossEntropy(0.5, 0.2)).eval()
    loss = method.loss("student", method.prepare({"image": DATA["image"]}, NOW), NOW)
    p = (net(1).eval()(DATA["image"]) / 0.2).softmax(1)
    q = (net(2).eval()(DATA["image"]) / 0.5).softmax(1)
    torch.testing.assert_close(loss.total, -(p * q.log()).sum(1).mean())
    torch.testing.assert_close(loss.watch["gap"], (p * (p / q).log()).sum(1).mean().detach())


def test_stored_outputs_equal_the_teacher():
    teacher = with_statistics(net(1), DATA["image"])
    with torch.no_grad():
        rows = {"image": DATA["image"], "teacher_output": teacher(DATA["image"])}
    stored = fit(RandomTeachers(net(2), None), rows, plan()).student
    for a, b in zip(stored.parameters(), trained(teacher=teacher).student.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_a_teacher_may_follow_every_step_or_epoch():
    method = trained(following=EveryEpoch())
    assert same_weights(method.teacher.net, method.student)  # the last step ends an epoch
    moving = trained(following=EveryStep(0.5))
    assert not same_weights(moving.teacher.net, net(1)) and not same_weights(moving.teacher.net, moving.student)


@pytest.mark.parametrize("budget", [{"epochs": 3}, {"steps": 10, "epochs": None}])
def test_the_teacher_is_replaced_after_the_last_batch_of_an_epoch(budget):
    replaced = []

    class _Noted(EveryEpoch):
        def __call__(self, now):
            kept = super().__call__(now)
            replaced.extend([now.step] * (kept == 0))
            return kept

    fit(RandomTeachers(net(2), net(1), following=_Noted()), DATA, plan(**budget))
    assert replaced == [2, 5, 8]  # 24 rows, 8 a batch


@pytest.mark.parametrize("following", [None, EveryStep(0.5), EveryEpoch()])
def test_resumed_run_equals_the_uninterrupted_one(following, tmp_path):
    whole, begun, resumed = (RandomTeachers(net(2), net(1), following=following) for _ in range(3))
    whole.meet(DATA)
    begun.meet(DATA)  # and the checkpoint has what the teacher met
    fit(whole, DATA, plan())
    fit(begun, DATA, plan(), folder=tmp_path, until=4)
    fit(resumed, DATA, plan(), folder=tmp_path, resume=True)
    assert same_weights(whole, resumed)


def test_recipe_and_constructor_are_one():
    given = {"match": {"name": "cross_entropy", "student_tau": 0.1, "teacher_tau": 0.04}, "following": "never",
             "alpha": 0.5, "rescale": True, "statistics": "initial"}  # fmt: skip
    assert describe(build(RandomTeachers, given, net(1), net(2))) == given


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        (lambda: between(net(1), net(2), 1.5), "alpha=1.5"),
        (lambda: between(net(1), net(2, outputs=9), 0.5), "not the same in both"),
        (lambda: between(net(1)[0], net(2), 0.5), "not the same in both"),
        (lambda: RandomTeachers(net(2), net(1), alpha=-0.1), "alpha=-0.1; give a number from 0"),
        (lambda: RandomTeachers(net(2), net(1), alpha=float("nan")), "alpha=nan"),
        (lambda: RandomTeachers(net(2), net(1), statistics="from_student"), "did you mean .from_data"),
        (lambda: build(RandomTeachers, {"alpha": "near"}, net(2), net(1)), "options.alpha"),
        (lambda: RandomTeachers(net(2, outputs=9), net(1), alpha=0.5), "not the same in both"),
        (lambda: RandomTeachers(net(2), None, alpha=0.5), "no weights to start at"),
        (lambda: RandomTeachers(net(2), net(1)).meet({"image": DATA["image"][:1]}), "two rows or more"),
        (lambda: RandomTeachers(net(2), net(1)).meet({"label": DATA["label"]}), "needs 'image'"),
        (lambda: CrossEntropy(0.0), "above 0"),
        (lambda: RandomTeachers(net(), None, following=EveryEpoch()), "give the teacher"),
        (lambda: fit(RandomTeachers(net(), None), DATA, plan()), "'teacher_output'"),
        (lambda: fit(RandomTeachers(net(), net(outputs=9)), DATA, plan()), "equal heads"),
    ],
)
def test_wrong_input_is_refused(wrong, part):
    with pytest.raises(UserError, match=part):
        wrong()
