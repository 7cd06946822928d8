"""Rows that draw random numbers: the same ones after a pause and in loader processes; the caller's are left alone."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from redistill.core import Plan, fit
from redistill.core.engine import Engine
from redistill.core.followers import same_weights
from tests.core.test_exactness import Alone
from tests.core.toys import ROWS, data, net

PLAN: dict[str, Any] = {"steps": 8, "batch_size": 10, "lr": 1e-2, "device": "cpu", "log_every": 2}


class Jittered:
    """Rows that a transform changes with numbers of every global generator."""

    def __init__(self, *sources: str) -> None:
        self.sources, self.image = sources, data()["image"]

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        drawn = {"torch": lambda: torch.rand(()).item(), "numpy": np.random.rand, "python": random.random}
        return {"image": self.image[row] + sum(drawn[name]() for name in self.sources)}


class Seen(Alone):
    """Remembers what it was given."""

    def __init__(self, student: torch.nn.Module) -> None:
        super().__init__(student)
        self.given: list[torch.Tensor] = []

    def loss(self, turn, batch, now):
        self.given.append(batch["image"])
        return super().loss(turn, batch, now)


def run(*sources: str, workers: int = 0, **how: Any) -> Seen:
    method = Seen(net(0))
    fit(method, Jittered(*sources), Plan(**PLAN, workers=workers), **how)
    return method


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("source", ["torch", "numpy", "python"])
def test_random_rows_are_the_same_after_a_pause(source, workers, tmp_path):
    disturb(1)
    whole = run(source, workers=workers)
    disturb(2)
    run(source, workers=workers, folder=tmp_path, until=3)
    disturb(3)
    resumed = run(source, workers=workers, folder=tmp_path, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.given[3:], resumed.given, strict=True))
    assert same_weights(whole, resumed)
    first, second = (x - data()["image"][i] for x, i in zip(whole.given, orders(), strict=False))
    assert first.std() > 0.1 and not torch.equal(first, second)  # batches do not repeat one another


def orders() -> list[list[int]]:
    batches = Engine(Alone(net(0)), data(), Plan(**PLAN), None).batches
    return [batches.index(number).tolist() for number in range(2)]


def test_loader_processes_draw_the_same_rows():
    everything = "torch", "numpy", "python"
    assert same_weights(run(*everything), run(*everything, workers=2))


def disturb(seed: int) -> None:
    torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)


def drawn() -> list[float]:
    return [torch.rand(()).item(), np.random.rand(), random.random()]


class Meets(Alone):
    """Keeps a number that all generators drew before the first step."""

    def meet(self, rows):
        self.met = drawn(), rows.__getitems__([0])["image"]


def test_what_is_drawn_before_the_first_step_is_a_matter_of_the_seed():
    found = []
    for seed in (1, 2):
        disturb(seed)
        method = Meets(net(0))
        fit(method, Jittered("torch", "numpy", "python"), Plan(**PLAN), until=0)
        found.append(method.met)
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])


class Dropped(Alone):
    """Draws from the global generator, as dropout does, and from ``now``."""

    def __init__(self, student: torch.nn.Module) -> None:
        super().__init__(student)
        self.numbers: list[float] = []

    def loss(self, turn, batch, now):
        self.numbers += [torch.rand(()).item(), now.shared_rand()]
        return super().loss(turn, batch, now)


def test_the_numbers_that_a_method_draws_are_those_that_they_always_were():
    """Of the global generator (dropout) and of ``now``: whoever changes one changes every number of the evidence."""
    for rows in (data(), Jittered("torch")):
        method = Dropped(net(0))
        fit(method, rows, Plan(**{**PLAN, "steps": 2}))
        recorded = [0.7832943201065063, 0.6296963095664978, 0.7267522215843201, 0.9635014533996582]
        assert method.numbers == pytest.approx(recorded, abs=1e-6)
