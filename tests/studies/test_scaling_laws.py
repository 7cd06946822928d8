"""The study's rivals see what they are said to see, and a twin is as good as the teacher it is compared with."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from redistill.studies import scaling_laws as study
from redistill.studies import scaling_laws_runs as runs

BUDGET = {"widths": [4, 6], "tokens": [1024, 1536, 2048], "validation": 64, "bisections": 3}


def table(N, D, loss, teacher):
    return {k: np.array(v, float) for k, v in (("N", N), ("D", D), ("loss", loss), ("teacher_loss", teacher))}


def test_lines_in_the_teachers_loss_are_drawn_through_equal_students():
    known = table([1, 1, 2, 2], [8, 8, 8, 8], [2.0, 3.0, 4.0, 6.0], [1.0, 2.0, 1.0, 2.0])
    held = table([1, 2, 1], [8, 8, 16], [0, 0, 0], [1.5, 1.25, 1.5])  # the last with more tokens than seen
    np.testing.assert_allclose(study.line(None, known, held), [2.5, 4.5, 2.5])


def test_what_is_paid_for_is_counted_in_the_students_tokens(monkeypatch):
    arm = runs.Runs("", width=8, tokens=2)
    monkeypatch.setattr(runs.scaling_runs, "parameters_without_embeddings", lambda net: 30)
    students = table([10, 10], [1024, 2048], [5.0, 9.0], [1.0, 1.0])
    paid = arm._paid(students, lambda N, D: D / 1024, BUDGET)
    assert paid["paid_free"] == pytest.approx(5 - 1)
    assert paid["paid_answers"] == pytest.approx(5 - 2)  # 1024 * 30 / (3 * 10) more tokens
    assert paid["paid_both"] == pytest.approx(5 - 8)  # and 2048 * 30 / 10


def test_bisection_finds_a_teacher_as_good():
    asked = []

    def trained(width, tokens):
        asked.append(tokens)
        return tokens, 1000 / tokens  # the net is its tokens

    bed = SimpleNamespace(budget={**BUDGET, "bisections": 12}, trained=trained)
    assert runs.as_good(bed, 8, 1.0) == pytest.approx(1000, rel=0.01) and len(asked) == 12


def test_two_starts_have_the_same_rows_and_other_weights():
    bed = runs.Bed(1, BUDGET)
    one, other = (bed.student(4, again).head.weight for again in (0, 1))
    assert one.shape == other.shape and not one.equal(other)
    assert bed.text(0).shape == (2048 // runs.LENGTH, runs.LENGTH) and not bed.text(0).equal(bed.text(1))
