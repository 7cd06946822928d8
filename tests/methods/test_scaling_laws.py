"""Fits give planted laws back; plans are the best splits, and who pays less is never worse off."""

from __future__ import annotations

import numpy as np
import pytest

from redistill.core.errors import UserError
from redistill.methods.analysis import scaling_laws as sl
from redistill.theory.scaling import CASES, PUBLISHED, Laws, flops


def table(noise: float = 0.005, seed: int = 0, teachers: int = 6) -> dict[str, np.ndarray]:
    """80 runs without and 120 with a teacher, drawn from the published laws."""
    rng, taught = np.random.default_rng(seed), np.arange(200) >= 80
    N = np.exp(rng.uniform(np.log(143e6), np.log(1e10), 200))
    D = N * np.exp(rng.uniform(np.log(5), np.log(200), 200))
    N_T = np.geomspace(2e8, 7e9, teachers)
    L_T = np.where(taught, PUBLISHED.supervised(N_T, 20 * N_T)[np.arange(200) % teachers], np.nan)
    loss = PUBLISHED.predict(N, D, L_T) * np.exp(noise * rng.standard_normal(200))
    return {"N": N, "D": D, "loss": loss, "teacher_loss": L_T}


@pytest.fixture(scope="module")
def fitted() -> Laws:
    return sl.fit_laws(table())


def test_predictions_of_planted_laws_come_back(fitted):
    clean = table(noise=0.0)
    found = fitted.predict(clean["N"], clean["D"], clean["teacher_loss"])
    assert np.abs(found / clean["loss"] - 1).max() < 0.01


def test_a_fit_predicts_strong_students_that_it_has_not_seen():
    runs = table()
    strong = runs["loss"] < np.quantile(runs["loss"], 0.2)
    laws = sl.fit_laws({k: v[~strong] for k, v in runs.items()})
    found = laws.predict(*(runs[k][strong] for k in ("N", "D", "teacher_loss")))
    assert np.abs(found / runs["loss"][strong] - 1).mean() < 0.01


def test_a_known_floor_is_kept_and_the_ranges_are_those_of_the_runs(fitted):
    runs = table()
    assert pytest.approx(1.22, rel=1e-6) == sl.fit_supervised(runs, floor=1.22).E
    taught = ~np.isnan(runs["teacher_loss"])
    assert fitted.ranges["N_S"] == (runs["N"][taught].min(), runs["N"][taught].max())
    assert fitted.ranges["N_T"] == (runs["N"][~taught].min(), runs["N"][~taught].max()) != fitted.ranges["N_S"]
    assert fitted.ranges["D_T"] == (runs["D"][~taught].min(), runs["D"][~taught].max())
    assert fitted.outside(L_T=1.0) and not fitted.outside(L_T=2.5)


def test_resamples_scatter_around_the_fit(fitted):
    again = sl.bootstrap(table(), fitted, times=12, seed=1)
    inside = [laws.predict(1e9, 3e10, 2.3) for laws in again]
    assert min(inside) < max(inside)
    assert np.abs(np.array(inside) / PUBLISHED.predict(1e9, 3e10, 2.3) - 1).max() < 0.02


def test_a_resample_may_miss_a_teacher():
    runs = {k: np.concatenate([v[:40], v[80:92]]) for k, v in table(teachers=3).items()}
    assert len(sl.bootstrap(runs, sl.fit_laws(runs), times=12)) == 12


@pytest.mark.parametrize("case", CASES)
def test_a_plan_spends_the_budget_and_no_other_split_is_better(case):
    budget, N_S = 1e21, 1e9
    best = sl.plan(budget, N_S, case=case)
    assert sum(best.flops.values()) == pytest.approx(budget, rel=1e-9)
    assert pytest.approx(PUBLISHED.predict(N_S, best.D_S, best.L_T), rel=1e-12) == best.L_S
    assert pytest.approx(PUBLISHED.supervised(best.N_T, best.D_T), rel=1e-12) == best.L_T
    rng = np.random.default_rng(0)
    N_T = np.exp(rng.uniform(np.log(1e8), np.log(1e10), 20000))
    D_T = np.exp(rng.uniform(np.log(1e9), np.log(5e11), 20000))
    each = flops(N_S, 1.0, N_T, D_T, case)
    D_S = (budget - each["teacher_training"]) / (each["student"] + each["teacher_inference"])
    others = PUBLISHED.predict(N_S, np.maximum(D_S, 1.0), PUBLISHED.supervised(N_T, D_T))[D_S > 0]
    assert others.min() + 1e-9 >= best.L_S
    assert others.min() - 0.01 < best.L_S  # and the search is of the same function


@pytest.mark.parametrize("budget", [1e19, 1e21, 1e23])
@pytest.mark.parametrize("N_S", [3e8, 3e9])
def test_less_to_pay_is_never_worse(budget, N_S):
    loss = {case: sl.plan(budget, N_S, case=case).L_S for case in CASES}
    assert loss["free"] <= min(loss["inference"], loss["training"]) + 1e-9
    assert max(loss["inference"], loss["training"]) <= loss["both"] + 1e-9


def test_a_teacher_pays_where_it_is_there_and_compute_is_short():
    assert sl.plan(1e20, 1e9, case="free").distil
    assert not sl.plan(1e23, 1e9, case="free").distil
    assert not any(sl.plan(budget, 1e9, case="both").distil for budget in (1e19, 1e20, 1e21, 1e22, 1e23))


def test_an_existing_teacher_costs_its_inference_alone():
    free = sl.plan(1e21, 1e9, case="free", teacher=(7e9, 2.1))
    paid = sl.plan(1e21, 1e9, case="inference", teacher=(7e9, 2.1))
    assert pytest.approx(1e21 / 6e9) == free.D_S and pytest.approx(1e21 / (6e9 + 1.4e10)) == paid.D_S
    assert (free.L_T, free.N_T) == (2.1, 7e9) and np.isnan(free.D_T) and paid.L_S > free.L_S


def test_laws_without_ranges_can_be_planned_with():
    bare = Laws(PUBLISHED.supervised, PUBLISHED.distillation)
    for case in CASES:
        assert sl.plan(1e15, 1e5, case=case, laws=bare).D_S > 0


def first(runs: dict[str, np.ndarray], rows: slice) -> dict[str, np.ndarray]:
    return {k: v[rows] for k, v in runs.items()}


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: sl.fit_laws(first(table(), slice(74, 200))), "6 runs without a teacher; a fit needs 7 or more"),
        (lambda: sl.fit_laws(first(table(), slice(0, 89))), "9 runs with a teacher; a fit needs 10 or more"),
        (lambda: sl.fit_laws(table() | {"loss": -table()["loss"]}), "finite and above 0 in the runs without"),
        (lambda: sl.fit_laws(table() | {"D": np.full(200, np.inf)}), "finite and above 0"),
        (lambda: sl.fit_laws(table() | {"N": np.full(200, 1e9)}), "1 different N in the runs without a teacher"),
        (lambda: sl.fit_laws(table() | {"D": np.full(200, 1e9)}), "1 different D in the runs without a teacher"),
        (lambda: sl.fit_laws(table(teachers=2)), "2 different teacher_loss in the runs with a teacher; .* 3 or more"),
        (lambda: sl.plan(1e21, 1e9, case="infrence"), "did you mean 'inference'"),
        (lambda: sl.plan(0.0, 1e9, case="free"), "budget: 0.0 is not a finite number above 0"),
        (lambda: sl.plan(1e21, float("nan"), case="free"), "student: nan"),
        (lambda: sl.plan(1e21, 1e9, case="free", teacher=(1e9, -1.0)), "teacher loss: -1.0"),
        (lambda: sl.plan(1e21, 1e9, case="both", teacher=(1e9, 2.0)), "choose free or inference"),
    ],
)
def test_wrong_input_is_refused(call, part):
    with pytest.raises(UserError, match=part):
        call()
