"""The card's exact properties: ridge in closed form, targets of any sign, the symmetric logistic problem."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import expit, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

from redistill.core import Plan, UserError
from redistill.core.method import bare_progress
from redistill.methods.analysis import label_noise_sd as lns
from redistill.methods.analysis.label_noise_sd.logistic import FlippedPair
from redistill.models.nets import mlp
from redistill.supervised.classifier import Distillation, logits
from redistill.supervised.matches import SoftCrossEntropy
from redistill.supervised.probe import Probe, fit_probe, probe_loss
from redistill.supervised.targets import Imitation, one_hot
from redistill.supervised.temperature import Constant
from redistill.theory.ridge import Truth

RNG = np.random.default_rng(0)
SIX = Truth(s=np.arange(6.0, 0.0, -1.0), t=np.ones(6), sigma=3.0)


def blobs(n=120, wrong=0.3):
    label = np.arange(n) % 3
    features = RNG.standard_normal((n, 8)) + 1.5 * np.eye(3, 8)[label]
    noisy = np.where(RNG.random(n) < wrong, (label + RNG.integers(1, 3, n)) % 3, label)
    return features, label, noisy


X, CLEAN, NOISY = blobs()
HARD = np.eye(3)[NOISY]


def test_a_noisy_example_by_hand():
    """Six directions, one penalty: 1 / (s^2 + 1) by long division, errors to two digits."""
    assert lns.best_weight(SIX, 1.0) == pytest.approx(1.873, abs=0.0005)
    errors = [lns.estimation_error(SIX, 1.0, xi) for xi in (lns.best_weight(SIX, 1.0), 0.0, 1.0)]
    assert errors == pytest.approx([3.305, 5.873, 3.863], abs=0.0005)


@pytest.mark.parametrize(("lam", "sigma"), [(0.3, 0.0), (1.0, 3.0), (7.0, 0.5), (0.01, 10.0)])
def test_the_formula_is_the_minimum(lam, sigma):
    truth = Truth(SIX.s, np.array([0.3, -1.0, 2.0, 0.0, 0.7, -0.2]), sigma)
    found = minimize_scalar(lambda xi: lns.estimation_error(truth, lam, xi), bracket=(-1, 2), tol=1e-12).x
    assert lns.best_weight(truth, lam) == pytest.approx(found, rel=1e-5)


def test_the_error_is_that_of_students_fitted_to_drawn_labels():
    X, theta, lam, xi = RNG.standard_normal((9, 3)), np.array([1.0, -2.0, 0.5]), 2.0, 1.4
    _, s, Vt = np.linalg.svd(X, full_matrices=False)
    solve = np.linalg.solve(X.T @ X + lam * np.eye(3), X.T)
    y = (X @ theta)[:, None] + 0.8 * RNG.standard_normal((9, 40000))
    student = solve @ (xi * X @ (solve @ y) + (1 - xi) * y)
    errors = ((student - theta[:, None]) ** 2).sum(0)
    expected = lns.estimation_error(Truth(s, Vt @ theta, 0.8), lam, xi)
    assert abs(errors.mean() - expected) < 4 * errors.std() / 200


def test_much_noise_asks_for_more_than_one():
    weights = [lns.best_weight(Truth(SIX.s, SIX.t, sigma), 1.0) for sigma in (0.0, 1.0, 2.0, 3.0, 1e6)]
    assert weights == sorted(weights) and weights[0] < 0 and weights[3] > 1
    s2 = SIX.s**2
    limit = (s2 / (s2 + 1) ** 3).sum() / (s2 / (s2 + 1) ** 4).sum()
    assert weights[-1] == pytest.approx(limit) and limit > 1


@pytest.mark.parametrize("lam", np.logspace(-3, 3, 13))
def test_its_sign_is_against_the_slope_in_the_penalty(lam):
    slope = lns.estimation_error(SIX, lam * 1.001) - lns.estimation_error(SIX, lam / 1.001)
    assert np.sign(lns.best_weight(SIX, lam)) == -np.sign(slope)


def test_the_best_penalty_of_an_isotropic_truth_leaves_nothing_to_gain():
    truth = Truth(SIX.s, np.full(6, 0.5), 2.0)  # gamma^2 / t^2 = 16
    assert lns.best_weight(truth, 16.0) == pytest.approx(0.0, abs=1e-12)
    least = lns.estimation_error(truth, 16.0)
    for lam in np.logspace(-2, 4, 61):
        assert lns.estimation_error(truth, lam, lns.best_weight(truth, lam)) >= least * (1 - 1e-12)


def test_the_gradient_is_softmax_minus_target_for_a_negative_target():
    z = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    label, teacher = torch.tensor([0, 1, 2, 0, 1]), torch.randn(5, 3, dtype=torch.float64).softmax(1)
    target = Imitation(1.7)(label, teacher, bare_progress())
    torch.testing.assert_close(target, 1.7 * teacher - 0.7 * one_hot(label, teacher))
    assert target.min() < 0

    class Says(torch.nn.Module):
        def __init__(self, answer):
            super().__init__()
            self.answer = answer

        def forward(self, image):
            return self.answer

    method = lns.imitate(Says(z), Says(teacher.log()), 1.7)
    batch = method.prepare({"image": z, "label": label}, bare_progress())
    loss = method.loss("student", batch, bare_progress())
    torch.testing.assert_close(torch.autograd.grad(loss.total, z)[0], (z.softmax(1) - target) / 5)


def test_weight_one_is_plain_distillation_and_weight_zero_is_plain_training():
    torch.manual_seed(0)
    student, teacher = mlp(8, 3, [5]).double(), mlp(8, 3, [5]).double()
    batch = {"image": torch.from_numpy(X), "label": torch.from_numpy(NOISY)}
    plain = Distillation(student, teacher, match=SoftCrossEntropy(), temperature=Constant(1.0), hard_weight=0.0,
                         soft_weight=1.0)  # fmt: skip
    batch = plain.prepare(batch, bare_progress())

    def loss(method):
        return method.loss("student", batch, bare_progress()).total

    def stored(xi):
        return Distillation(student, None, match=SoftCrossEntropy(), temperature=Constant(1.0), hard_weight=1 - xi,
                            soft_weight=xi)  # fmt: skip

    torch.testing.assert_close(loss(lns.imitate(student, teacher, 1.0)), loss(plain))
    torch.testing.assert_close(loss(lns.imitate(student, teacher, 1.5)), loss(stored(1.5)))
    labels = torch.nn.functional.cross_entropy(logits(student, batch), batch["label"])
    torch.testing.assert_close(loss(lns.imitate(student, teacher, 0.0)), labels)
    assert loss(lns.imitate(student, teacher, 1.5)) < loss(plain) < labels


def test_a_weight_that_is_no_number_is_refused():
    with pytest.raises(UserError, match="xi=nan"):
        Imitation(float("nan"))


# ---- the probe ----


def test_the_probe_is_multinomial_logistic_regression():
    peer = LogisticRegression(C=1 / (0.02 * len(X)), tol=1e-10, max_iter=5000).fit(X, NOISY)
    probe = fit_probe(X, HARD, 0.02)
    np.testing.assert_allclose(probe.probabilities(X), peer.predict_proba(X), atol=1e-5)


def test_a_probe_that_is_not_at_its_minimum_says_so():
    with pytest.warns(ConvergenceWarning, match="standardise the features"):
        fit_probe(X * np.logspace(-2, 5, 8), HARD, 1e-6)
    with warnings.catch_warnings(action="error"):
        fit_probe(X, HARD, 0.02, iterations=2)


def test_the_gradient_of_the_probes_loss():
    probe, target = Probe(RNG.standard_normal((8, 3)), RNG.standard_normal(3)), 1.7 * HARD[::-1] - 0.7 * HARD
    _, slope = probe_loss(probe, X, target, 0.3)
    for name in ("weight", "bias"):
        step = 1e-5 * RNG.standard_normal(getattr(probe, name).shape)
        there = [Probe(**{**vars(probe), name: getattr(probe, name) + sign * step}) for sign in (1, -1)]
        rise = probe_loss(there[0], X, target, 0.3)[0] - probe_loss(there[1], X, target, 0.3)[0]
        assert rise == pytest.approx(2 * (getattr(slope, name) * step).sum(), rel=1e-6)


def test_a_student_that_imitates_nothing_is_the_teacher():
    teacher = fit_probe(X, HARD, 0.05)
    again = fit_probe(X, 0.0 * teacher.probabilities(X) + HARD, 0.05)
    elsewhere = fit_probe(X, HARD, 0.05, start=Probe(RNG.standard_normal((8, 3)), np.ones(3)))
    for other in (again, elsewhere):
        np.testing.assert_allclose(other.weight, teacher.weight, atol=1e-5)


@pytest.mark.parametrize("xi", [-1.0, 0.5, 1.7, 3.0])
def test_the_student_has_no_slope_left(xi):
    model = lns.ImitationProbe(0.05, xi).fit(X, NOISY)
    target = xi * softmax(model.teacher_.logits(X), 1) + (1 - xi) * HARD
    _, slope = probe_loss(model.student_, X, target, 0.05)
    assert max(np.abs(slope.weight).max(), np.abs(slope.bias).max()) < 1e-6


@pytest.mark.parametrize(("lam", "expected"), [(0.004, [0.7, 0.7, 1.0]), (0.008, [0.7, 1.0, 1.0])])
def test_more_weight_recovers_more_true_classes_of_an_under_regularised_fit(lam, expected):
    """Each row has a direction of its own, by which a wrong label can be learned, beside the one of its class."""
    label = np.arange(90) % 3
    features = np.column_stack([np.sqrt(0.1) * np.eye(3)[label], np.sqrt(0.9) * np.eye(90)])
    given = np.where(np.arange(90) % 10 < 3, (label + 1) % 3, label)
    score = [lns.ImitationProbe(lam, xi).fit(features, given).score(features, label) for xi in (0.0, 1.0, 2.0)]
    assert score == pytest.approx(expected)


def test_penalty_and_weight_are_chosen_on_validation_rows():
    X_val, _, y_val = blobs()
    lambdas, weights = (1e-3, 0.1), (0.0, 1.0, 1.5)
    model = lns.fit_imitation(X, NOISY, X_val, y_val, lambdas=lambdas, weights=weights)
    scores = {(l, w): lns.ImitationProbe(l, w).fit(X, NOISY).score(X_val, y_val) for l in lambdas for w in weights}
    assert model.score(X_val, y_val) == model.validation_accuracy_ == max(scores.values())
    assert scores[model.lam, model.xi] == max(scores.values())
    with pytest.raises(UserError, match="to choose from"):
        lns.fit_imitation(X, NOISY, X_val, y_val, lambdas=())


def test_classes_may_have_names():
    names = np.array(["ant", "bee", "cat"])
    named = lns.ImitationProbe(0.05, 1.5).fit(X, names[NOISY])
    assert (named.predict(X) == names[lns.ImitationProbe(0.05, 1.5).fit(X, NOISY).predict(X)]).all()


@parametrize_with_checks([lns.ImitationProbe(xi=1.5)])
def test_the_probe_is_a_scikit_learn_classifier(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: lns.ImitationProbe(0.0).fit(X, NOISY), "lam=0.0"),
        (lambda: lns.ImitationProbe().fit(X, np.zeros(len(X), int)), "class"),
        (lambda: lns.ImitationProbe(xi=float("nan")).fit(X, NOISY), "xi=nan"),
        (lambda: lns.ImitationProbe(xi=float("inf")).fit(X, NOISY), "xi=inf"),
        (lambda: FlippedPair(10, 1.2, 0.1, 0.1), "p in"),
    ],
)
def test_wrong_input_is_refused(call, part):
    with pytest.raises(UserError, match=part):
        call()


# ---- networks ----


def test_any_network_in_one_call():
    data = {"image": torch.from_numpy(X).float(), "label": torch.from_numpy(NOISY)}
    held_out = {"image": data["image"], "label": torch.from_numpy(CLEAN)}

    asked = []

    def make(k):
        asked.append(k)
        torch.manual_seed(4)  # all from one start: the student of weight 0 takes the teacher's very steps
        return mlp(8, 3, [16])

    plan = Plan(epochs=3, lr=0.01, weight_decay=0.01, batch_size=32, device="cpu")
    with pytest.warns(UserWarning, match="weight decay"):
        lns.distil_through_noise(make, data, held_out, Plan(steps=1, device="cpu"), weights=[2.0])
    sweep = lns.distil_through_noise(make, data, held_out, plan, weights=[0.0, 1.5])
    assert asked == [0, 1, 0, 1, 2]  # every training has a number of its own
    assert sweep.accuracy == {xi: lns.accuracy(net, held_out) for xi, net in sweep.students.items()}
    assert sweep.accuracy[sweep.xi] == max(sweep.accuracy.values()) and sweep.student is sweep.students[sweep.xi]
    for ours, theirs in zip(sweep.students[0.0].parameters(), sweep.teacher.parameters()):
        assert torch.equal(ours, theirs)
    assert not torch.equal(sweep.students[1.5][1].weight, sweep.teacher[1].weight)


def test_held_out_rows_without_labels_are_refused():
    with pytest.raises(UserError, match="held_out"):
        lns.accuracy(mlp(8, 3, [4]), {"image": torch.zeros(4, 8)})


# ---- the symmetric logistic problem ----

PAIR = FlippedPair(n=10, p=0.3, c=0.2, lam=0.01)


def direct(target):
    """All 2n rows, no symmetry: scores of the minimiser over coefficients of the rows."""
    n, c = PAIR.n, PAIR.c
    gram = np.kron(np.eye(2), c * np.ones((n, n)) + (1 - c) * np.eye(n))
    a = np.zeros(2 * n)
    for _ in range(200):  # Newton
        s = expit(gram @ a)
        step = 2 * PAIR.lam * n * a - (target - s)
        a -= np.linalg.solve(2 * PAIR.lam * n * np.eye(2 * n) + (s * (1 - s))[:, None] * gram, step)
    return gram @ a


def test_two_numbers_describe_the_fit_of_all_rows():
    n, flipped = PAIR.n, round(PAIR.p * PAIR.n)
    label = np.r_[np.ones(n - flipped), np.zeros(flipped), np.zeros(n - flipped), np.ones(flipped)]
    z = direct(label)
    np.testing.assert_allclose(PAIR.teacher(), [z[0], z[n - 1]], atol=1e-8)
    np.testing.assert_allclose([z[n], z[-1]], [-z[0], -z[n - 1]], atol=1e-8)
    second = direct(1.4 * expit(z) - 0.4 * label)
    np.testing.assert_allclose(PAIR.student(1.4), [second[0], second[n - 1]], atol=1e-8)
    np.testing.assert_allclose(PAIR.student(0.0), PAIR.teacher(), atol=1e-10)


def test_the_student_repairs_labels_that_the_teacher_learned():
    pair = FlippedPair(n=100, p=0.3, c=0.1, lam=0.002)
    assert pair.teacher()[1] < 0 < pair.student()[1]
