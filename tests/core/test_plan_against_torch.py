"""The plan means what torch means: every field against a loop written out by hand, and what a turn sees of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from redistill.core import Loss, Method, Optim, Plan, fit
from tests.core.toys import ROWS, WIDTH, data, net

STEPS = 10
WHOLE = {"steps": STEPS, "batch_size": ROWS, "device": "cpu", "log_every": 1}  # one batch is the whole data set
KINDS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}


class Square(Method):
    """The square of the student's output, far from its optimum."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def loss(self, turn, batch, now):
        return Loss({"l": slope(self.student)})


def slope(student: nn.Module) -> torch.Tensor:
    """A loss whose gradients are neither tiny nor equal."""
    return (3 * student(data()["image"]) - 2).square().mean()


def by_hand(kind: str, lr: float, factors: list[float] | None = None, clip: float | None = None, **options: Any):
    """The student and the norms of its gradients after a loop that knows nothing of redistill."""
    student, norms = net(0), []
    optimizer = KINDS[kind](student.parameters(), lr=lr, foreach=False, **{"weight_decay": 0.0, **options})
    for factor in factors or [1.0] * STEPS:
        optimizer.zero_grad()
        slope(student).backward()
        norms.append(math.sqrt(sum(float(p.grad.square().sum()) for p in student.parameters())))
        if clip and norms[-1] > clip:
            for p in student.parameters():
                p.grad.mul_(clip / (norms[-1] + 1e-6))
        for group in optimizer.param_groups:
            group["lr"] = lr * factor
        optimizer.step()
    return student, norms


def trained(**plan: Any):
    return fit(Square(net(0)), data(), Plan(**{**WHOLE, **plan}))


def gap(a: nn.Module, b: nn.Module) -> float:
    left, right = a.state_dict(), b.state_dict()
    return max(float((left[k] - right[k]).abs().max()) for k in left)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, {"kind": "adamw", "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}),
        ({"weight_decay": 0.7}, {"kind": "adamw", "lr": 1e-3, "weight_decay": 0.7}),
        ({"optimizer": "adam"}, {"kind": "adam", "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}),
        ({"optimizer": "sgd"}, {"kind": "sgd", "lr": 1e-3, "momentum": 0.9}),
    ],
)
def test_what_is_left_out_is_what_the_schema_says(fields, wanted):
    assert gap(trained(**fields).student, by_hand(**wanted)[0]) < 1e-10


@pytest.mark.parametrize("kind", ["adamw", "adam"])
@pytest.mark.parametrize(
    "options", [{"betas": (0.5, 0.999)}, {"betas": (0.9, 0.6)}, {"eps": 0.5}, {"weight_decay": 0.7}], ids=str
)
def test_every_field_of_adam_reaches_the_optimiser(kind, options):
    got = trained(optimizer=kind, lr=0.02, **options).student
    assert gap(got, by_hand(kind, 0.02, **options)[0]) < 1e-10
    assert gap(got, by_hand(kind, 0.02)[0]) > 1e-4  # the field makes a difference


@pytest.mark.parametrize(
    "options",
    [{"momentum": 0.0}, {"momentum": 0.5}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "weight_decay": 0.7}],
    ids=str,
)
def test_every_field_of_sgd_reaches_the_optimiser(options):
    got = trained(optimizer="sgd", lr=2e-3, **options).student
    assert gap(got, by_hand("sgd", 2e-3, **options)[0]) < 1e-10
    assert gap(got, by_hand("sgd", 2e-3, momentum=0.9)[0]) > 1e-4


FACTORS: list[tuple[dict[str, Any], list[float]]] = [
    ({"schedule": "constant"}, [1.0] * 10),
    ({"schedule": "linear"}, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
    ({"schedule": "cosine"}, [0.5 + 0.5 * math.cos(math.pi * k / 10) for k in range(10)]),
    ({"schedule": "multistep"}, [1.0] * 5 + [0.1] * 3 + [0.01] * 2),
    ({"schedule": "multistep", "milestones": (0.3,), "gamma": 0.5}, [1.0] * 3 + [0.5] * 7),
    ({"schedule": "constant", "warmup": 4}, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ({"schedule": "linear", "warmup": 5}, [0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2]),
    ({"schedule": "cosine", "warmup": 2}, [0.5, 1.0] + [0.5 + 0.5 * math.cos(math.pi * k / 8) for k in range(8)]),
    ({"schedule": "multistep", "warmup": 2}, [0.5, 1.0] + [1.0] * 3 + [0.1] * 3 + [0.01] * 2),
]


@pytest.mark.parametrize(("fields", "factors"), FACTORS, ids=lambda v: str(v) if isinstance(v, dict) else "")
def test_a_schedule_has_the_factors_that_are_written_here_and_they_reach_the_optimiser(fields, factors):
    assert [Optim(**fields).factor(k, STEPS) for k in range(STEPS)] == pytest.approx(factors, abs=1e-12)
    fitted = trained(optimizer="sgd", lr=2e-3, **fields)
    assert gap(fitted.student, by_hand("sgd", 2e-3, factors, momentum=0.9)[0]) < 1e-10
    assert [row["lr"] for row in fitted.history] == pytest.approx([2e-3 * f for f in factors], abs=1e-12)


def test_schedules_of_many_steps_change_where_they_say():
    for schedule in ("cosine", "linear"):
        optim = Optim(schedule=schedule)
        assert (optim.factor(0, 1000), optim.factor(500, 1000)) == pytest.approx((1.0, 0.5))
        assert 0 < optim.factor(999, 1000) < 0.002
    assert [Optim(schedule="multistep").factor(k, 100) for k in (49, 50, 74, 75)] == pytest.approx([1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("clip", [0.5, 1e6])
def test_clipping_bounds_the_norm_of_all_gradients_together(clip):
    fitted = trained(optimizer="sgd", lr=0.01, momentum=0.0, clip=clip)
    student, norms = by_hand("sgd", 0.01, clip=clip)
    assert gap(fitted.student, student) < 1e-10 and min(norms) > 0.5  # the small bound is felt in every step
    assert [row["grad_norm"] for row in fitted.history] == pytest.approx(norms)  # as it was before the cut
    assert (gap(fitted.student, by_hand("sgd", 0.01)[0]) > 1e-2) == (clip < 1)


class Pair(Method):
    """Two networks that have nothing to do with each other, a turn for each."""

    trains = {"critic": ["critic"], "student": ["student"]}

    def __init__(self, student: nn.Module, critic: nn.Module) -> None:
        super().__init__()
        self.student, self.critic = student, critic

    def loss(self, turn, batch, now):
        return Loss({"l": slope(self.get_submodule(turn))})


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ({"lr": 0.01}, {"kind": "sgd", "lr": 0.01, "momentum": 0.9}),
        ({"optimizer": "adam", "betas": (0.5, 0.9)}, {"kind": "adam", "lr": 2e-3, "betas": (0.5, 0.9)}),
        ({"weight_decay": 0.7, "momentum": 0.5}, {"kind": "sgd", "lr": 2e-3, "momentum": 0.5, "weight_decay": 0.7}),
        ({"clip": 0.5}, {"kind": "sgd", "lr": 2e-3, "momentum": 0.9, "clip": 0.5}),
        ({"schedule": "linear"}, {"kind": "sgd", "lr": 2e-3, "momentum": 0.9, "factors": FACTORS[1][1]}),
    ],
    ids=str,
)
def test_a_turn_has_its_own_optimiser_and_the_other_one_the_plan(override, wanted):
    method = Pair(net(0), net(0))
    fit(method, data(), Plan(**WHOLE, optimizer="sgd", lr=2e-3, turns={"critic": override}))
    plain = by_hand("sgd", 2e-3, momentum=0.9)[0]
    assert gap(method.student, plain) < 1e-10
    assert gap(method.critic, by_hand(**wanted)[0]) < 1e-10 and gap(method.critic, plain) > 1e-4


class Watched(Method):
    """Notes what ``prepare`` and the turns see: the type of what a layer gives, modes, who may get a gradient."""

    trains = {"critic": ["critic"], "student": ["student"]}

    def __init__(self) -> None:
        super().__init__()
        for name in ("student", "critic", "teacher"):
            layers = nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Dropout(0.5), nn.Linear(WIDTH, WIDTH)
            self.add_module(name, nn.Sequential(*layers))
        self.seen: dict[str, dict[str, set[Any]]] = {}

    def note(self, where: str, output: torch.Tensor) -> None:
        found = self.seen.setdefault(where, {"type": set(), "in training": set(), "learns": set()})
        found["type"].add(output.dtype)
        for name, network in self.networks().items():
            found["in training"] |= {name for m in network.modules() if m.training}
            found["learns"] |= {name for p in network.parameters() if p.requires_grad}
            assert name == where or all(p.grad is None for p in network.parameters())

    def turns(self, now):
        return ("student", "critic")  # the student, which is exported, is not the last

    def prepare(self, batch, now):
        said = self.teacher(batch["image"])
        self.note(f"prepare {now.turn}", said)
        return {**batch, "said": said}

    def loss(self, turn, batch, now):
        y = self.student(batch["image"])
        self.note(turn, y)
        return Loss({"l": (self.critic(y) + self.teacher(y) - batch["said"]).float().square().mean()})


PLACES = ("critic", "student", "prepare critic", "prepare student")


def watched(**plan: Any) -> tuple[Watched, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    method = Watched()
    before = {k: v.clone() for k, v in method.teacher.state_dict().items()}
    fit(method, {"image": data()["image"].float()}, Plan(**{**WHOLE, "steps": 2, **plan}))
    return method, before


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_layers_compute_in_the_precision_of_the_plan(precision, dtype):
    method, _ = watched(precision=precision)
    assert {place: method.seen[place]["type"] for place in PLACES} == {place: {dtype} for place in PLACES}
    assert all(p.dtype == torch.float32 for p in method.parameters())


def test_what_a_turn_does_not_train_is_in_evaluation_mode_and_gets_no_gradient():
    method, before = watched()
    for place in PLACES:
        turn = place.removeprefix("prepare ")
        assert method.seen[place]["in training"] == {turn} == method.seen[place]["learns"]
    assert all(torch.equal(v, before[k]) for k, v in method.teacher.state_dict().items())  # running means as well
    networks = method.networks().values()
    assert not any(m.training for network in networks for m in network.modules())  # given back
    assert all(p.grad is None for p in method.parameters())
