"""The survey's study chooses strengths on training digits alone."""

from __future__ import annotations

import pytest
import torch

from redistill.beds.images import Images
from redistill.methods.analysis.survey.baselines import BASELINES, LABELS
from redistill.studies import survey

BUDGET = {"epochs": 1, "fold_epochs": 1, "rows": 60, "test": 100}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("REDISTILL_CACHE", str(tmp_path))


def spied(monkeypatch, name):
    """Calls of a function of the study, which goes on as before."""
    calls, real = [], getattr(survey, name)

    def spy(*arguments):
        calls.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(survey, name, spy)
    return calls


def test_every_baseline_has_the_same_grid_that_its_weight_can_be_multiplied_by():
    assert len(set(survey.STRENGTHS)) == 3
    for baseline in BASELINES.values():
        for strength in survey.STRENGTHS:
            baseline.check(strength)


def test_the_best_strength_wins_and_of_equals_the_published_one():
    assert survey.preferred({1.0: 0.8, 0.1: 0.9, 0.01: 0.7}) == 0.1
    assert survey.preferred({0.01: 0.9, 1.0: 0.9, 0.1: 0.9}) == 1.0
    assert survey.preferred({}) == 1.0


def test_folds_choose_the_strength_and_all_training_digits_then_train_by_it(monkeypatch):
    judged, trained = spied(monkeypatch, "on_folds"), spied(monkeypatch, "train")
    monkeypatch.setattr(survey, "preferred", lambda on: min(on, default=1.0))
    outcome = survey.cell("kd", 1, BUDGET)
    assert [(len(call[2]["label"]), call[5]) for call in judged] == [(60, survey.STRENGTHS)] * 2  # two students
    final = [call for call in trained if call[0] == "kd"]
    assert [(len(call[2]["label"]), call[4]) for call in final] == [(60, 0.01)] * 2
    assert outcome.metrics["same_strength"] == outcome.metrics["cross_strength"] == 0.01
    assert outcome.arrays["same_folds"].shape == (3,) and outcome.text["cross_folds"].startswith("x 1 ")


def test_the_test_digits_judge_one_student_and_choose_nothing(monkeypatch):
    seen = spied(monkeypatch, "probabilities")
    first = survey.cell("smoothing", 1, BUDGET)
    asked = [call[1] for call in seen if isinstance(call[1], Images)]
    assert len(asked) == 2 and all(len(images.label) == 100 for images in asked)  # teacher, student
    images, test = survey.digits(1, 60, 100, side=14)
    wrong = Images(torch.zeros(test.image.shape).numpy(), (test.label + 1) % 10, 10)
    monkeypatch.setattr(survey, "digits", lambda *_, **__: (images, wrong))
    again = survey.cell("smoothing", 1, BUDGET)
    assert again.arrays["same_folds"].tolist() == first.arrays["same_folds"].tolist()
    assert again.metrics["same_strength"] == first.metrics["same_strength"]


def test_labels_alone_have_nothing_to_choose(monkeypatch):
    judged = spied(monkeypatch, "on_folds")
    outcome = survey.cell(LABELS, 1, BUDGET)
    assert not judged and "same_strength" not in outcome.metrics and not outcome.arrays
