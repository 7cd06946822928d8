"""The card's exact properties: what alpha ignores, the whole as a limit, and the bias of pruned ridge regression."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import yaml

from redistill.cli.app import run as command
from redistill.core import Plan, Progress, UserError, fit
from redistill.core.followers import same_weights
from redistill.data import write_picked
from redistill.methods.supervised.pruned_data_kd import ALPHAS, PrunedDataKd, alpha_for, choose_alpha, pruned_ridge
from redistill.methods.supervised.pruned_data_kd.pruning import chance, kept_rows
from redistill.models.nets import mlp
from redistill.supervised.classifier import Classification
from redistill.theory.ridge import distil, shrinkage, spectrum

GENERATOR = torch.Generator().manual_seed(0)
DATA = {"image": torch.randn(30, 6, generator=GENERATOR), "label": torch.arange(30) % 4}
PLAN = Plan(epochs=3, batch_size=8, lr=0.1, optimizer="sgd", device="cpu")
RNG = np.random.default_rng(0)
X, THETA = RNG.standard_normal((40, 6)) * np.arange(1, 7), RNG.standard_normal(6)
ALL, SOME, FEW = np.arange(40), np.arange(25), np.arange(8)


def net(seed=1):
    torch.manual_seed(seed)
    return mlp(6, 4, (8,))


def trained(data=DATA, teacher=5, **options):
    return fit(PrunedDataKd(net(), net(teacher), **options), data, PLAN).student


def test_without_alpha_the_teacher_is_not_heard():
    assert same_weights(trained(alpha=0.0), trained(alpha=0.0, teacher=6))
    assert not same_weights(trained(alpha=0.5), trained(alpha=0.5, teacher=6))


def test_with_alpha_1_labels_are_not_read():
    shuffled = {**DATA, "label": DATA["label"].flip(0)}
    assert same_weights(trained(alpha=1.0), trained(shuffled, alpha=1.0))
    assert same_weights(trained(alpha=1.0), trained({"image": DATA["image"]}, alpha=1.0))
    assert not same_weights(trained(alpha=0.9), trained(shuffled, alpha=0.9))


def test_all_rows_without_teacher_is_plain_training():
    kept = kept_rows(chance(30, 0), DATA["label"].numpy(), 1.0)
    plain = fit(Classification(net()), DATA, PLAN).student
    student = trained({name: column[kept] for name, column in DATA.items()}, alpha=0.0)
    for a, b in zip(student.parameters(), plain.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_the_loss_is_the_papers():
    student, teacher = net(), net(5)
    batch = {k: v[:9] for k, v in DATA.items()} | {"index": torch.arange(9)}
    method = PrunedDataKd(student, teacher, alpha=0.3, tau=2.5)
    found = method.loss("student", method.prepare(batch, Progress()), Progress()).total
    z_s, z_t = student(batch["image"]), teacher(batch["image"])
    soft = torch.nn.functional.kl_div(
        (z_s / 2.5).log_softmax(1), (z_t / 2.5).log_softmax(1), reduction="batchmean", log_target=True
    )
    expected = 0.7 * torch.nn.functional.cross_entropy(z_s, batch["label"]) + 0.3 * 2.5**2 * soft
    torch.testing.assert_close(found, expected)


def test_the_weight_grows_as_the_fraction_shrinks():
    assert (alpha_for(1.0), alpha_for(0.1)) == (0.5, 0.95)
    assert PrunedDataKd(net(), net(), fraction=0.2).alpha == 0.9
    assert PrunedDataKd(net(), net(), fraction=0.2, alpha=0.0).alpha == 0.0


def test_choice_of_alpha_takes_the_best_and_of_equals_the_lowest():
    assert choose_alpha(lambda alpha: -abs(alpha - 0.7)) == 0.75
    assert choose_alpha(lambda alpha: 1.0) == ALPHAS[0]
    assert choose_alpha(lambda alpha: alpha or math.nan) == 1.0
    with pytest.raises(UserError, match="has a score"):
        choose_alpha(lambda alpha: math.nan)


def test_defaults_are_the_cards():
    method = PrunedDataKd(net(), net())
    assert method.temperature.tau == 4.0 and method.alpha == 0.5
    assert (method.hard_weight, method.soft_weight) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("options", "part"),
    [({"alpha": 1.2}, "alpha=1.2; give"), ({"fraction": 0.0}, "fraction=0.0; give"), ({"tau": 0.0}, "tau=0.0; give")],
)
def test_wrong_options_are_refused(options, part):
    with pytest.raises(UserError, match=part):
        PrunedDataKd(net(), net(), **options)


def test_a_recipe_trains_on_the_rows_of_an_index_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("rows.npz", image=RNG.random((24, 1, 4, 4), dtype=np.float32), label=np.arange(24) % 3)
    write_picked("kept.npz", kept_rows(chance(24, 0), np.arange(24) % 3, 0.5), 24)
    spec = {"kind": "torch", "path": "redistill.models.nets:mlp", "options": {"inputs": 16, "outputs": 3}}
    recipe = {
        "method": "pruned_data_kd", "models": {"student": spec, "teacher": spec}, "options": {"fraction": 0.5},
        "data": {"kind": "table", "path": "rows.npz", "rows": "kept.npz"}, "out": "out",
        "plan": {"epochs": 1, "batch_size": 4, "device": "cpu"},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert command(["run", "recipe.yaml"]) == 0
    assert '"step": 3' in (tmp_path / "out" / "log.jsonl").read_text()  # 12 rows in batches of 4
    write_picked("kept.npz", np.arange(3), 25)
    with pytest.raises(UserError, match="of 25, this one has 24"):
        command(["run", "recipe.yaml", "out=other"])


# ---- ridge theory ----


def test_bias_is_the_formula():
    lam, alpha = 3.0, 0.7
    g_f, g_t = (X[rows].T @ X[rows] + lam * np.eye(6) for rows in (FEW, SOME))
    expected = lam * np.linalg.solve(g_f, THETA) + alpha * np.linalg.solve(
        g_f, X[FEW].T @ X[FEW] @ (lam * np.linalg.solve(g_t, THETA))
    )
    np.testing.assert_allclose(pruned_ridge.bias(X, THETA, SOME, FEW, lam, alpha), expected, rtol=1e-9)


def test_bias_and_variance_are_those_of_samples():
    lam, alpha, sigma = 5.0, 0.8, 2.0
    noise = sigma * np.random.default_rng(1).standard_normal((40, 20000))
    fits = pruned_ridge.student(X, (X @ THETA)[:, None] + noise, SOME, FEW, lam, alpha)  # [d, draws]
    expected = THETA - pruned_ridge.bias(X, THETA, SOME, FEW, lam, alpha)
    spread = fits.std(1) / np.sqrt(fits.shape[1])
    assert (np.abs(fits.mean(1) - expected) < 5 * spread).all()
    assert fits.var(1).sum() == pytest.approx(sigma**2 * pruned_ridge.variance(X, SOME, FEW, lam, alpha), rel=0.02)


def test_variance_is_the_formula():
    lam, alpha, e = 5.0, 0.8, np.eye(40)
    g_f, g_t = (X[rows].T @ X[rows] + lam * np.eye(6) for rows in (FEW, SOME))
    said = X[FEW] @ np.linalg.solve(g_t, X[SOME].T @ e[SOME])  # the teacher's share of every label's noise
    gain = np.linalg.solve(g_f, X[FEW].T @ (alpha * said + (1 - alpha) * e[FEW]))
    assert pruned_ridge.variance(X, SOME, FEW, lam, alpha) == pytest.approx((gain**2).sum(), rel=1e-9)


def test_a_teacher_on_the_same_rows_is_a_round_of_self_distillation():
    lam, alpha, y = 2.0, 0.6, X @ THETA + RNG.standard_normal(40)
    basis = spectrum(X[FEW])
    once = basis.coefficients(distil(shrinkage(basis.s, lam), [alpha]), y[FEW])
    np.testing.assert_allclose(pruned_ridge.student(X, y, FEW, FEW, lam, alpha), once, rtol=1e-9)


def test_without_alpha_the_ridge_teacher_is_not_heard():
    biases = [pruned_ridge.bias(X, THETA, taught, FEW, 2.0, 0.0) for taught in (FEW, SOME, ALL)]
    np.testing.assert_allclose(biases, biases[:1] * 3, rtol=1e-12)


def test_a_teacher_with_more_rows_gives_less_bias():
    sizes = [np.sum(pruned_ridge.bias(X, THETA, np.arange(n), FEW, 2.0, 1.0) ** 2) for n in (8, 16, 25, 40)]
    assert (np.diff(sizes) < 0).all()


def test_ridge_input_is_checked():
    with pytest.raises(UserError, match="has not seen"):
        pruned_ridge.student(X, X @ THETA, FEW, SOME, 1.0, 0.5)
    with pytest.raises(UserError, match="lam=0"):
        pruned_ridge.student(X, X @ THETA, SOME, FEW, 0.0, 0.5)
