"""The contrastive loss of CRD against its formula, and its normaliser against a sample."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from redistill.losses.contrast import log_normaliser, noise_contrastive

GENERATOR = torch.Generator().manual_seed(0)


def unit(*shape: int) -> torch.Tensor:
    return normalize(torch.randn(*shape, generator=GENERATOR, dtype=torch.float64), dim=-1)


def test_it_is_the_formula_with_any_number_of_rows_in_the_bank():
    anchor, positive, negatives, tau, m = unit(3, 8), unit(3, 8), unit(3, 6, 8), 0.5, 6
    found = noise_contrastive(anchor, positive, negatives, tau)
    for bank in (100, 7000):
        z = bank * torch.tensor(log_normaliser(1 / tau, 8)).exp()
        for row in range(3):
            p = ((anchor[row] @ positive[row]) / tau).exp() / z
            p_negative = ((negatives[row] @ anchor[row]) / tau).exp() / z
            slow = -(p / (p + m / bank)).log() - ((m / bank) / (p_negative + m / bank)).log().sum()
            torch.testing.assert_close(found[row], slow, check_dtype=False)


def test_negatives_that_do_not_count_change_nothing():
    anchor, positive, negatives = unit(2, 8), unit(2, 8), unit(2, 4, 8)
    counts = torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 1]], dtype=torch.float64)
    found = noise_contrastive(anchor, positive, negatives, 0.1, counts)
    other = torch.where(counts[..., None] == 0, unit(2, 4, 8), negatives)
    torch.testing.assert_close(noise_contrastive(anchor, positive, other, 0.1, counts), found)
    kept = [noise_contrastive(anchor[[i]], positive[[i]], negatives[[i]][:, c > 0], 0.1) for i, c in enumerate(counts)]
    torch.testing.assert_close(torch.cat(kept), found)
    assert noise_contrastive(anchor, positive, negatives, 0.1, torch.zeros(2, 4)).isfinite().all()


def test_partners_that_agree_and_strangers_that_do_not_cost_least():
    anchor, stranger = unit(4, 8), unit(4, 5, 8)
    away = normalize(stranger - (stranger @ anchor[..., None]) * anchor[:, None], dim=-1)
    best = noise_contrastive(anchor, anchor, -anchor[:, None].expand(-1, 5, -1), 0.1)
    assert (best < noise_contrastive(anchor, anchor, away, 0.1)).all()
    assert (noise_contrastive(anchor, anchor, away, 0.1) < noise_contrastive(anchor, unit(4, 8), away, 0.1)).all()


@pytest.mark.parametrize(("kappa", "size"), [(2.0, 3), (1 / 0.07, 128), (14.0, 4096)])
def test_the_normaliser_is_the_mean_over_the_sphere(kappa, size):
    t = unit(4000, size)[:, 0]
    assert log_normaliser(kappa, size) == pytest.approx(float((kappa * t).exp().mean().log()), abs=0.1)
