"""The parts of a composition have the numbers that its notes promise."""

from __future__ import annotations

import pytest
import torch

from redistill.beds.bench import Bench
from redistill.core.method import bare_progress
from redistill.studies.compositions import ARMS, REGIMES
from redistill.supervised.targets import Annealed


@pytest.mark.parametrize("arm", ["taught_rectified", "rectified_decoupled"])
def test_a_rectifier_softens_the_twins_plain_logits(arm):
    z, label, now = 3 * torch.randn(8, 10, generator=torch.Generator().manual_seed(0)), torch.arange(8), bare_progress()
    method = ARMS[arm].make(Bench.at("few", REGIMES["few"], 101, {"rows": 8}))
    said = (z / method.temperature(z, z, now)).softmax(1)
    expected = Annealed(1.5, 1.0, 0.5, 0.8)(label, z.softmax(1), now)
    torch.testing.assert_close(method.rectifier(label, said, now), expected)
