"""The words that classifier studies are made of: equal arms are equal, and nothing is chosen on what judges."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from redistill.beds.bench import Arm, Bench, Parts, Regime, cell, chosen, columns, joined, probabilities, variants
from redistill.beds.images import Images
from redistill.core import Diverged
from redistill.core.study import Outcome
from redistill.models.nets import mlp
from redistill.supervised.classifier import Classification, Distillation


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REDISTILL_CACHE", str(tmp_path))


def blobs(seed: int, count: int, wrong: bool = False) -> Images:
    """Two classes on a line."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, count)
    image = (2 * label - 1 + 0.5 * rng.normal(size=count)).astype(np.float32).reshape(-1, 1, 1, 1)
    return Images(image, 1 - label if wrong else label, 2)


def parts(seed: int, budget) -> Parts:
    return Parts(blobs(seed, budget["rows"]), blobs(seed + 100, 50), held=blobs(seed + 200, 20))


def plain(bench: Bench) -> Classification:
    return Classification(bench.student())


REGIME = Regime(parts, partial(mlp, 1, 2, (4,)), plan={"epochs": 2})
TAUGHT = Regime(parts, partial(mlp, 1, 2, (4,)), partial(mlp, 1, 2, (8,)), {"epochs": 2}, taught={"epochs": 3})
BUDGET = {"rows": 40}


def test_equal_arms_end_at_equal_numbers_and_seeds_differ():
    arms = {"one": Arm("one", plain), "two": Arm("two", plain)}
    measure = cell({"": REGIME}, arms)
    one, two, other = measure("one", 1, BUDGET), measure("two", 1, BUDGET), measure("one", 2, BUDGET)
    assert one.metrics == two.metrics and one.metrics["nll"] != other.metrics["nll"]
    assert set(one.metrics) == {"accuracy", "nll", "ece", "aurc", "e_aurc"}


def test_regimes_name_the_metrics_and_have_budgets_of_their_own():
    arms = {"both": Arm("both", plain), "one": Arm("one", plain, on=("clean",))}
    sizes = {}

    def more(bench: Bench, name: str, student: torch.nn.Module) -> Outcome:
        sizes[bench.name] = bench.size
        return Outcome({"rows": bench.size}, {"path": np.arange(3)})

    measure = cell({"noisy": REGIME, "clean": TAUGHT}, arms, more=more)
    found = measure("both", 1, {**BUDGET, "clean": {"rows": 30}})
    assert sizes == {"noisy": 60, "clean": 50} and found.metrics["clean_rows"] == 50
    assert "clean_agreement" in found.metrics and "noisy_agreement" not in found.metrics
    assert set(found.arrays) == {"noisy_path", "clean_path"}
    assert not any(m.startswith("noisy") for m in measure("one", 1, BUDGET).metrics)
    with pytest.raises(AssertionError, match="unknown regimes"):
        cell({"noisy": REGIME}, {"arm": Arm("arm", plain, on=("nosy",))})


def test_the_arm_beats_the_study_and_a_smoke_test_beats_the_arm():
    regime = Regime(parts, REGIME.student, plan={"steps": 7})
    bench = Bench.at("", regime, 1, BUDGET, {"epochs": 5, "lr": 0.5})
    assert bench.plan["steps"] == 7 and "epochs" not in bench.plan and bench.plan["lr"] == 0.5
    bench.fitted(Arm("two epochs", plain, {"epochs": 2}))
    assert len(bench.history) == 2  # a row an epoch
    small = Bench.at("", regime, 1, {**BUDGET, "plan": {"epochs": 1}})
    small.fitted(Arm("two epochs", plain, {"epochs": 2}))
    assert len(small.history) == 1


def test_what_is_chosen_is_chosen_on_held_rows_and_trained_on_all():
    good, bad = Arm("learns", plain, {"epochs": 20, "lr": 0.5}), Arm("does not", plain, {"lr": 0.0})
    upside_down = Regime(lambda s, b: Parts(blobs(s, 40), blobs(s + 100, 50, wrong=True), held=blobs(s + 200, 20)),
                         REGIME.student, plan={"epochs": 2})  # fmt: skip
    bench = Bench.at("", upside_down, 3, BUDGET)
    student = chosen(bad, good)(bench)
    assert bench.noted == {"chosen": 1.0} and bench.judge(student)["accuracy"] < 0.3  # though the test rows say no
    torch.testing.assert_close(student.state_dict(), bench.fitted(good).state_dict(), rtol=0, atol=0)
    alone = bench.trial().fitted(good)
    assert not torch.equal(student[1].weight, alone[1].weight)  # the held rows are learned from in the end


def test_an_arm_that_diverges_is_not_chosen():
    wild, good = Arm("wild", plain, {"lr": 1e30, "epochs": 20}), Arm("good", plain)
    bench = Bench.at("", REGIME, 1, BUDGET)
    with pytest.raises(Diverged):
        bench.fitted(wild)
    chosen(wild, good)(bench)
    assert bench.noted == {"chosen": 1.0}


def test_variants_are_plans_of_one_method():
    arms = variants(plain, {"epochs": 1}, {"epochs": 3})
    bench = Bench.at("", REGIME, 1, BUDGET)
    assert [bool(bench.fitted(arm)) and len(bench.history) for arm in arms] == [1, 3]


def test_a_teacher_is_trained_once_is_frozen_and_sees_no_held_row(monkeypatch):
    bench = Bench.at("clean", TAUGHT, 1, BUDGET)
    teacher, trial = bench.teacher, bench.trial()
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
    assert not torch.equal(teacher[1].weight, trial.teacher[1].weight) and trial.size == 40
    assert bench.rows()["teacher_logits"].shape == (60, 2) and "teacher_logits" not in bench.rows(bench.test)

    again = Bench.at("clean", TAUGHT, 1, BUDGET)
    monkeypatch.setattr(Bench, "fit", lambda *_, **__: pytest.fail("trained again"))
    torch.testing.assert_close(again.teacher.state_dict(), teacher.state_dict(), rtol=0, atol=0)


def test_a_student_can_be_taught_and_the_teacher_agrees_with_itself():
    bench = Bench.at("clean", TAUGHT, 1, BUDGET)
    student = bench.fitted(Arm("kd", lambda bench: Distillation(bench.student(), None)))
    assert 0 <= bench.judge(student)["agreement"] <= 1
    assert bench.judge(bench.fitted(Arm("teacher", lambda bench: bench.teacher)))["agreement"] == 1


def test_students_are_numbered():
    bench = Bench.at("", REGIME, 1, BUDGET)
    assert torch.equal(bench.student()[1].weight, bench.student(0)[1].weight)
    assert not torch.equal(bench.student()[1].weight, bench.student(1)[1].weight)


def test_rows_are_joined_in_order_and_probabilities_are_those_of_the_network():
    one, two = blobs(1, 3), blobs(2, 4)
    both, net = joined(one, two), mlp(1, 2, (4,))
    assert np.array_equal(both.label, [*one.label, *two.label]) and both.image.shape == (7, 1, 1, 1)
    expected = net(columns(both)["image"]).double().softmax(1).detach().numpy()
    np.testing.assert_allclose(probabilities(net, both), expected)
