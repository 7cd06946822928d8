"""The card's exact properties of fitted solvers."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch

from redistill.beds.gauss import Exact, ring, single
from redistill.core.errors import UserError
from redistill.diffusion.denoiser import Guided
from redistill.diffusion.paths import Cosine, Edm, Flow, Vp
from redistill.diffusion.solvers import SOLVERS, ddim, subdivide
from redistill.methods.generation.d_ode import DOde, fit_lambdas, least_squares, rms

EDM = Edm(0.02, 20.0)
VARIANTS = [("ddim", "x0"), ("ddim", "eps"), ("dpm_solver_2m", "x0"), ("dpm_solver_2m", "eps"), ("heun", "x0")]
MULTISTEP = [("ipndm", "x0"), ("deis", "x0"), ("deis", "eps")]
PATHS = [EDM, Flow(), Vp()]


def noise(rows=32, seed=0):
    return torch.randn(rows, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("prediction", ["x0", "eps"])
@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_a_teacher_as_coarse_as_the_student_teaches_nothing(path, prediction):
    """(i) C = 1: all lambdas are zero."""
    fitted = fit_lambdas(Exact(ring(), path), noise(), 5, scale=1, prediction=prediction)
    assert max(map(abs, fitted.lambdas)) < 1e-8


@pytest.mark.parametrize(("solver", "prediction"), VARIANTS + MULTISTEP)
@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_each_fitted_step_is_no_worse_on_its_batch(path, solver, prediction):
    """(iii) error after <= error before, strictly where a lambda is not zero."""
    fitted = fit_lambdas(Exact(ring(), path), noise(), 4, solver=solver, prediction=prediction)
    assert len(fitted.lambdas) == (7 if solver == "heun" else 4)
    for value, before, after in zip(fitted.lambdas, fitted.before, fitted.after):
        assert after < before if value else after == before
    assert sum(value != 0 for value in fitted.lambdas) >= 3
    assert fitted.lambdas[0] == 0 or prediction == "eps"


def test_what_is_left_is_orthogonal_to_the_correction():
    """(ii), step by step from first principles: the residual after step 1 has no part along D_1 - D_0."""
    exact, z = Exact(ring()), noise()
    fitted = fit_lambdas(exact, z, 4)
    times, x = EDM.grid(4), EDM.prior(z)
    states = []
    ddim(exact, x, subdivide(times, 10), callback=lambda k, x, x0: states.append(x))
    before = exact(x, times[0])
    x = EDM.jump(x, before, times[0], times[1])
    now = exact(x, times[1])
    x = EDM.jump(x, now, times[1], times[2]) + fitted.lambdas[1] * (now - before)
    missing = states[19] - x
    assert abs(float(((now - before) * missing).sum())) < 1e-10
    assert fitted.after[1] == pytest.approx(rms(missing))


def written_out(exact, z, steps, label, solver, prediction, marks):
    """The lambdas of section 3 in plain loops, on an EDM path."""
    path, heun = exact.path, solver == "heun"
    times, count = path.grid(steps), 2 * steps - 1 if heun else steps
    parts = 20 if heun else 10
    fine = path.grid(10 * count) if marks == "reference" else subdivide(times, parts)
    x, states = path.prior(z), []
    for t, s in pairwise(fine):
        x = path.jump(x, exact(x, t, label), t, s)
        states.append(x)
    every, each = (10, 1) if marks == "reference" else (parts, 2 if heun else 1)
    goals = [states[every * (k // each + 1) - 1] for k in range(count)]
    x, lambdas = path.prior(z), []
    before = None if prediction == "x0" else z  # the first difference of noises is to x_T / sigma

    def fix(plus, x0, x_t, t):
        nonlocal before
        output = x0 if prediction == "x0" else path.eps_from_x0(x_t, x0, t)
        delta = output - before if before is not None else 0 * output
        before = output
        found = (delta * (goals[len(lambdas)] - plus)).sum() / (delta * delta).sum()
        lambdas.append(float(found) if rms(delta) > 1e-6 * rms(plus) else 0.0)
        return plus + lambdas[-1] * delta

    for t, s in pairwise(times):
        x0 = exact(x, t, label)
        ahead = fix(path.jump(x, x0, t, s), x0, x, t)
        if heun and s > 0:
            x1 = exact(ahead, s, label)
            slope = 0.5 * ((x - x0) / path.sigma(t) + (ahead - x1) / path.sigma(s))  # alpha = 1
            ahead = fix(x + (path.sigma(s) - path.sigma(t)) * slope, x1, ahead, s)
        x = ahead
    return lambdas


@pytest.mark.parametrize("marks", ["subdivided", "reference"])
@pytest.mark.parametrize(("solver", "prediction"), [("ddim", "x0"), ("ddim", "eps"), ("heun", "x0")])
def test_the_lambdas_are_those_of_the_algorithm_written_out(solver, prediction, marks):
    exact, label = Exact(ring()), torch.arange(32) % 3
    found = fit_lambdas(exact, noise(), 4, condition=label, solver=solver, prediction=prediction, marks=marks)
    assert found.lambdas == pytest.approx(written_out(exact, noise(), 4, label, solver, prediction, marks), rel=1e-6)


@pytest.mark.parametrize("prediction", ["x0", "eps"])
def test_errors_are_those_to_the_marks(prediction):
    """Also at the first mark, where x0 has no predecessor and nothing can be fitted."""
    exact, times = Exact(ring()), EDM.grid(4)
    fitted, x = fit_lambdas(exact, noise(), 4, prediction=prediction), EDM.prior(noise())
    goal = ddim(exact, x, subdivide(times[:2], 10))
    assert fitted.before[0] == pytest.approx(rms(goal - ddim(exact, x, times[:2])))
    assert min(fitted.after) > 0


def test_one_direction_becomes_exact_on_a_linear_ode():
    """(iv) on one Gaussian dD and the missing part are parallel (all is a multiple of x - mean): nothing is left of
    the error.
    """
    for prediction in ("x0", "eps"):
        fitted = fit_lambdas(Exact(single(dim=2)), noise(), 5, prediction=prediction)
        assert max(a / b for a, b in zip(fitted.after[1:], fitted.before[1:])) < 1e-9
        truth = ddim(Exact(single()), EDM.prior(noise(8, 1)), subdivide(EDM.grid(5), 10))
        torch.testing.assert_close(fitted.sample(Exact(single()), noise(8, 1)), truth, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("solver", "prediction"), VARIANTS + MULTISTEP)
def test_zero_lambdas_are_the_base_solver(solver, prediction):
    exact = Exact(ring(), Flow())
    fitted = fit_lambdas(exact, noise(), 4, solver=solver, prediction=prediction)
    plain = DOde(**{**vars(fitted), "lambdas": (0.0,) * len(fitted.lambdas)})
    expected = SOLVERS[solver](exact, noise(6, 2), Flow().grid(4))
    torch.testing.assert_close(plain.sample(exact, noise(6, 2)), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("marks", ["subdivided", "reference"])
def test_unseen_noise_ends_nearer_to_the_solution(marks):
    exact, test = Exact(ring()), noise(500, 7)
    ends = exact.endpoints(EDM.prior(test))
    plain = (ddim(exact, EDM.prior(test), EDM.grid(5)) - ends).norm(dim=1).mean()
    fitted = fit_lambdas(exact, noise(64), 5, marks=marks)
    assert (fitted.sample(exact, test) - ends).norm(dim=1).mean() < plain / 2


def test_reference_marks_lie_elsewhere():
    exact = Exact(ring())
    ours, theirs = (fit_lambdas(exact, noise(), 4, marks=marks) for marks in ("subdivided", "reference"))
    assert abs(ours.lambdas[1] - theirs.lambdas[1]) > 0.1
    flow = Exact(ring(), Flow())  # a uniform grid down to 0 subdivides into itself
    ours, theirs = (fit_lambdas(flow, noise(), 4, marks=marks) for marks in ("subdivided", "reference"))
    assert ours.lambdas == pytest.approx(theirs.lambdas)


def test_least_squares_pools_everything_and_skips_a_vanishing_direction():
    delta, missing = noise(3), noise(3, 1)
    expected = torch.linalg.lstsq(delta.reshape(-1, 1), missing.reshape(-1, 1)).solution
    assert least_squares(delta, missing) == pytest.approx(float(expected))
    assert least_squares(delta * 1e-9, missing, floor=1e-8) == 0.0
    large = torch.full((100,), 100.0, dtype=torch.half)  # its square sums to more than a half can hold
    assert least_squares(large, large / 2) == 0.5


def test_lambdas_travel_as_json_and_refuse_what_they_do_not_fit(tmp_path):
    exact = Exact(ring())
    fitted = fit_lambdas(exact, noise(), 4)
    fitted.save(tmp_path / "lambdas.json")
    assert DOde.load(tmp_path / "lambdas.json", exact, steps=4) == fitted
    with pytest.raises(UserError, match="steps 4, not 5"):
        DOde.load(tmp_path / "lambdas.json", exact, steps=5)
    for other, word in (
        (Exact(ring(), Edm(0.02, 80.0)), "sigma_max"),
        (Exact(ring(), Cosine()), "Cosine"),
        (Guided(exact, 3.0), "guidance 1.0, not 3.0"),
    ):
        with pytest.raises(UserError, match=word):
            DOde.load(tmp_path / "lambdas.json", other)
        with pytest.raises(UserError, match=word):
            fitted.sample(other, noise(2))


@pytest.mark.parametrize("text", ["{", json.dumps({"lambdas": [1.0]}), "[]"])
def test_foreign_files_are_named(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"x\.json: not a file of fitted lambdas"):
        DOde.load(tmp_path / "x.json", Exact(ring()))
    with pytest.raises(UserError, match="missing"):
        DOde.load(tmp_path / "missing.json", Exact(ring()))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"solver": "dimm"}, "did you mean 'ddim'"),
        ({"solver": "heun", "prediction": "eps"}, r"unknown prediction \(solver heun\) 'eps'"),
        ({"marks": "refernce"}, "did you mean 'reference'"),
        ({"scale": 0}, "scale=0"),
        ({"steps": 0}, "steps=0"),
    ],
)
def test_wrong_words_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        fit_lambdas(Exact(ring()), noise(4), **{"steps": 3, **wrong})


def test_a_label_reaches_teacher_and_student():
    exact, label = Exact(ring()), torch.full((32,), 2)
    fitted = fit_lambdas(exact, noise(), 4, condition=label)
    assert fitted.lambdas != fit_lambdas(exact, noise(), 4).lambdas
    assert float(ring().histogram(fitted.sample(exact, noise(32, 3), condition=label))[2]) > 0.8
