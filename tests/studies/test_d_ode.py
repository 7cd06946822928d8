"""The rival of the fitted solvers is the best of the others at every number of evaluations."""

from __future__ import annotations

from redistill.studies import d_ode as study


def test_the_rival_is_the_least_of_every_distance():
    assert study.least({"a": 1.0, "b": 4.0}, {"a": 2.0, "b": 3.0}) == {"a": 1.0, "b": 3.0}
    assert study.BARE == ("ddim", "heun", "dpm_2m", "ipndm", "deis")


def test_every_solver_of_the_abstract_has_a_fitted_twin():
    fitted = {arm.solver for arm in study.ARMS.values() if arm.noises}
    assert fitted >= {study.ARMS[name].solver for name in study.BARE} - {"dpm_solver_2m"}  # there it is D-DDIM exactly
