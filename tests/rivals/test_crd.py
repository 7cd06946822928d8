"""CRD: its loss against the formula, its normaliser against a sample, its banks."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from redistill.core import Plan, UserError, fit
from redistill.core.followers import same_weights
from redistill.core.method import bare_progress
from redistill.models.nets import staged_convnet
from redistill.rivals.crd import ContrastiveDistillation, log_normaliser, noise_contrastive

GENERATOR = torch.Generator().manual_seed(0)
IMAGE, LABEL = torch.randn(24, 1, 8, 8, generator=GENERATOR), torch.arange(24) % 3
DATA = {"image": IMAGE, "label": LABEL}


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


def nets():
    torch.manual_seed(0)
    return staged_convnet(1, 3, (3, 4)), staged_convnet(1, 3, (5, 6))


def plan(steps=4):
    return Plan(steps=steps, batch_size=8, lr=0.05, optimizer="sgd", device="cpu")


def contrastive(**options):
    options = {"rows": 24, "negatives": 6, **options}
    return ContrastiveDistillation(*nets(), layer="pool", input_shape=[1, 8, 8], **options)


def contrast(method):
    now, batch = bare_progress(), {**DATA, "index": torch.arange(24)}
    method.train()
    method.teacher.eval()
    return method.loss("student", method.prepare(batch, now), now).terms["contrast"]


def test_a_resumed_run_is_exact(tmp_path):
    whole, resumed = contrastive(), contrastive()
    fit(whole, DATA, plan())
    fit(contrastive(), DATA, plan(), folder=tmp_path, until=2)
    fit(resumed, DATA, plan(), folder=tmp_path, resume=True)
    assert same_weights(whole, resumed)


def test_banks_keep_unit_length_and_move_by_the_momentum():
    made = contrastive(momentum=0.75)
    before = made.banks.clone()
    fit(made, DATA, plan(steps=1))
    moved = (made.banks - before).abs().sum(-1) > 0
    assert (
        moved.sum() == 16
        and (made.classes[moved[0]] == LABEL[moved[0]]).all()
        and (made.classes[~moved[0]] == -1).all()
    )
    fit(made, DATA, plan())
    torch.testing.assert_close(made.banks.norm(dim=-1), torch.ones(2, 24))
    fresh = normalize(torch.randn(24, 2, 128, generator=GENERATOR), dim=-1)
    before = made.banks.clone()
    made.after("student", {"index": torch.arange(24), "label": LABEL, "embedded": fresh}, bare_progress())
    torch.testing.assert_close(made.banks[1], normalize(3 * before[1] + fresh[:, 1], dim=-1))


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan"), 0.001])
def test_a_contrast_needs_a_temperature_that_a_float_can_hold(tau):
    with pytest.raises(UserError, match=r"tau[:=]"):
        contrastive(tau=tau)


def test_the_contrast_is_both_directions_with_the_other_networks_bank():
    made, now = contrastive(contrast_weight=1.0), bare_progress()
    made.classes[:] = LABEL
    found = contrast(made)
    drawn = now.randint(0, 24, 24, 6)
    student, teacher = nets()
    u = [normalize(e(net(IMAGE)), dim=1) for e, net in zip(made.embeddings, (student[:-1], teacher[:-1].eval()))]
    total = 0.0
    for row in range(24):
        others = drawn[row][LABEL[drawn[row]] != LABEL[row]]
        pad = torch.zeros(6 - len(others), dtype=torch.int64)
        counts = torch.tensor([1.0] * len(others) + [0.0] * len(pad))[None]
        for anchor, bank in zip(u, made.banks.flip(0)):
            negatives = bank[torch.cat([others, pad])][None]
            total += noise_contrastive(anchor[row : row + 1], bank[row : row + 1], negatives, 0.07, counts)[0]
    torch.testing.assert_close(found, total / 24)


def test_a_row_is_no_negative_of_its_own():
    made, row = contrastive(contrast_weight=1.0), torch.arange(24)  # no class is known yet
    drawn = bare_progress().randint(0, 24, 24, 6)
    counts = drawn != row[:, None]
    assert not counts.all()
    student, teacher = nets()
    u = [normalize(e(net(IMAGE)), dim=1) for e, net in zip(made.embeddings, (student[:-1], teacher[:-1].eval()))]
    parts = [noise_contrastive(a, bank, bank[drawn], 0.07, counts) for a, bank in zip(u, made.banks.flip(0))]
    torch.testing.assert_close(contrast(made), sum(parts).mean())


def test_the_teacher_trains_only_its_embedding():
    made = contrastive()
    before = [p.clone() for p in made.embeddings[1].parameters()]
    fit(made, DATA, plan())
    assert same_weights(made.teacher, nets()[1])
    assert not torch.equal(before[0], made.embeddings[1].weight)


def test_banks_that_are_too_small_are_refused():
    with pytest.raises(UserError, match="set rows"):
        fit(contrastive(rows=10), DATA, plan())
