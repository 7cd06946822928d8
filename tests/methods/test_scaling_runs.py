"""Runs behind a scaling law: the count of parameters, one pass over the text."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from redistill.beds import markov
from redistill.core import Plan, UserError
from redistill.methods.analysis.scaling_laws import runs as sr

SOURCE = markov.random_source(0, symbols=6)
TEXT, HELD = SOURCE.text(64, 8, 0), SOURCE.text(32, 8, 1)
PLAN = Plan(epochs=5, batch_size=16, lr=0.01, device="cpu")


class Table(nn.Module):
    """Scores that depend on the last symbol alone."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.scores = nn.Parameter(torch.randn(6, 6, dtype=torch.float64))
        self.batches = 0

    def forward(self, ids):
        self.batches += 1
        return self.scores[ids]


def test_cross_entropy_does_not_depend_on_how_rows_are_cut(monkeypatch):
    net = Table(0)
    whole = sr.cross_entropy(net, HELD)
    monkeypatch.setattr(sr, "TOKENS_PER_CALL", 24)
    assert sr.cross_entropy(net, HELD) == pytest.approx(whole, rel=1e-12)
    plain = nn.functional.cross_entropy(net.scores[HELD[:, :-1]].reshape(-1, 6), HELD[:, 1:].reshape(-1))
    assert whole == pytest.approx(plain.item(), rel=1e-12)


def test_size_leaves_embeddings_out():
    lm = markov.student(6, 16, 0)
    hidden = 8 * 16 // 3
    assert sr.parameters_without_embeddings(lm) == 4 * 16 * 16 + 3 * 16 * hidden + 3 * 16
    assert sr.parameters_without_embeddings(lm.net) == sr.parameters_without_embeddings(markov.student(30, 16, 0))


def test_a_run_sees_every_row_once_and_measures_both_on_the_same_rows():
    student, teacher = markov.student(6, 8, 0), markov.ExactModel(SOURCE)
    before = sr.cross_entropy(student, HELD)
    row = sr.run(student, teacher, TEXT, HELD, PLAN)
    assert row["D"] == TEXT.numel() and row["N"] == sr.parameters_without_embeddings(student)
    assert row["teacher_loss"] == sr.cross_entropy(teacher, HELD)
    assert row["loss"] == sr.cross_entropy(student, HELD) < before  # trained in place
    again = markov.student(6, 8, 0)
    steps = PLAN.model_copy(update={"epochs": None, "steps": 4})
    assert sr.run(again, teacher, TEXT, HELD, steps)["loss"] == row["loss"]  # 64 rows / 16: one pass in any case


def test_a_run_without_a_teacher_keeps_the_other_options():
    rows = [sr.run(markov.student(6, 8, 0), None, TEXT, HELD, PLAN, z_loss=z) for z in (0.0, 10.0)]
    assert all(math.isnan(row["teacher_loss"]) for row in rows)
    assert rows[0]["loss"] != rows[1]["loss"]


def test_a_last_smaller_batch_is_trained_on_as_it_counts():
    rows = [sr.run(markov.student(6, 8, 0), None, TEXT[:31], HELD, PLAN.model_copy(update={"drop_last": d}))
            for d in (False, True)]  # fmt: skip
    assert rows[0]["loss"] == rows[1]["loss"] and rows[0]["D"] == 31 * 8


def test_a_grid_is_sizes_times_tokens_from_the_start_of_the_text():
    found = sr.grid(lambda w: markov.student(6, w, 0), [8, 16], [128, 512], TEXT, HELD, lambda w: PLAN)
    assert found["D"] == [128, 512, 128, 512] and found["N"][0] == found["N"][1] < found["N"][2]
    alone = sr.run(markov.student(6, 8, 0), None, TEXT[:16], HELD, PLAN)
    assert found["loss"][0] == alone["loss"]


def test_too_little_text_is_refused():
    with pytest.raises(UserError, match="text: 8 rows of text do not fill one batch of 16"):
        sr.run(markov.student(6, 8, 0), None, TEXT[:8], HELD, PLAN)


def test_untrained_models_have_the_configuration_and_new_weights():
    lm, ids = markov.student(6, 8, 0), torch.arange(6)[None]
    one, same, other = (sr.untrained(lm, seed) for seed in (3, 3, 4))
    assert one.net.config.hidden_size == 8
    torch.testing.assert_close(one(ids), same(ids))
    assert not torch.allclose(one(ids), lm(ids)) and not torch.allclose(one(ids), other(ids))
