"""What the tiny part of SDFT's study counts, and which arms see what."""

from __future__ import annotations

import numpy as np
import pytest

from redistill.beds import lm as bed
from redistill.studies import sdft as study


def test_the_balance_is_what_is_known_of_the_new_less_what_is_lost_of_the_old():
    matrix = np.array([[0.8, 0.0, 0.0], [0.5, 1.0, 0.0], [0.4, 0.6, 0.8]])
    found = study.metrics_of(matrix, [0.1, 0.2, 0.3], [0.5, 1.0, 2.0])
    assert found["balance"] == pytest.approx(0.8 - 0.1) and found["balance_end"] == pytest.approx(0.6 - 0.3)
    assert found["first_kept"] == pytest.approx(0.5) and found["kl_end"] == 2.0


def test_offline_arms_alone_are_given_completions():
    lm = bed.blank(hidden_size=16, intermediate_size=16, num_hidden_layers=1)
    for name in study.TRAINED:
        arm = study.ARMS[name]
        assert ("completion" in arm.lesson(lm, "GC", 1, 4)) == (arm.written is not None), name
    shown = study.ARMS["sft"].lesson(lm, "GC", 1, 4)["completion"]
    assert (
        bed.read_answer(lm.tokenizer.decode(shown[0], skip_special_tokens=True))
        == bed.instances("GC", 4, seed=1).answer[0]
    )
