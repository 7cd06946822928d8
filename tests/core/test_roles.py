"""Who trains, in which mode, and what a checkpoint holds: what plug-ins, observers and interruptions must not undo."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from redistill.core import Again, Ema, Loss, Method, Plan, Slot, Snapshot, UserError, fit
from redistill.core.followers import same_weights
from redistill.core.roles import Roles
from tests.core.test_exactness import Alone
from tests.core.toys import WIDTH, data, net

PLAN = {"steps": 8, "batch_size": 10, "lr": 1e-2, "device": "cpu", "log_every": 2}


def noisy() -> nn.Module:
    """A student whose training mode shows: dropout and batch norm."""
    torch.manual_seed(0)
    layers = nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, WIDTH)
    return nn.Sequential(*layers).double()


class Sleepy(Alone):
    """``after`` or ``prepare`` leaves a part of the student in evaluation mode."""

    def __init__(self, student: nn.Module, where: str) -> None:
        super().__init__(student)
        self.where = where

    def prepare(self, batch, now):
        if self.where == "prepare":
            self.student[1:].eval()
        return batch

    def after(self, turn, stats, now):
        if self.where == "after":
            self.student.eval()


@pytest.mark.parametrize("where", ["observer", "prepare", "after"])
def test_whoever_evaluates_the_student_turns_nothing_off_for_the_steps_that_follow(where):
    observers = [lambda now, row, method: method.eval()] if where == "observer" else []
    plain, seen = fit(Alone(noisy()), data(), Plan(**PLAN)), Sleepy(noisy(), where)
    fit(seen, data(), Plan(**PLAN), observers=observers)
    assert same_weights(plain.student, seen.student)


class Centred(nn.Module, Slot):
    """A plug-in that follows the mean of what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(WIDTH, dtype=torch.float64))
        self.register_buffer("derived", torch.zeros(3), persistent=False)

    def forward(self, x):
        return x - self.centre


class Deep(Alone):
    """Followers in a list (one held twice), a follower and a plug-in in a dict, a frozen teacher with buffers."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__(student)
        self.teacher = noisy().requires_grad_(False)
        self.averages = nn.ModuleList([Ema(student, 0.9), Ema(student, 0.5)])
        self.parts = nn.ModuleDict({"past": Snapshot(student), "centred": Centred()})
        self.tied = self.averages[0]

    def loss(self, turn, batch, now):
        y, parts = self.student(batch["image"]), self.parts
        targets = [*(average(batch["image"]) for average in self.averages), parts["past"](batch["image"])]
        value = sum((parts["centred"](y) - 0.5 * target).square().mean() for target in targets)
        return Loss({"l": value}, average={"mean": y.detach().mean(0)})

    def after(self, turn, stats, now):
        for average in self.averages:
            average.update(self.student)
        if now.step % 2:
            self.parts["past"].take(self.student)
        self.parts["centred"].centre.lerp_(stats["mean"], 0.3)


def test_state_comes_back_to_the_same_bits_however_deep_it_lies(tmp_path):
    whole = fit(Deep(noisy()), data(), Plan(**PLAN)).method
    fit(Deep(noisy()), data(), Plan(**PLAN), folder=tmp_path, until=3)
    halves = fit(Deep(noisy()), data(), Plan(**PLAN), folder=tmp_path, resume=True).method
    assert same_weights(whole, halves)


def test_every_changing_tensor_is_in_the_state_once():
    method = Deep(noisy())
    state = Roles(method).state()
    frozen = {id(p) for p in method.teacher.parameters()}
    derived = {id(method.parts["centred"].derived)}
    wanted = {id(t) for t in (*method.parameters(), *method.buffers())} - frozen - derived
    assert sorted(id(t) for t in state.values()) == sorted(wanted)
    assert {"net.student.0.weight", "net.averages.1.net.0.weight", "net.parts.centred.centre"} <= state.keys()


class Tied(Alone):
    """A frozen network, held before the student, shares its first layer."""

    def __init__(self, student: nn.Module) -> None:
        nn.Module.__init__(self)
        self.body = nn.Sequential(student[0], nn.Identity())
        self.student = student


def test_a_parameter_that_a_frozen_network_shares_is_in_the_state_under_the_name_that_trains():
    assert "net.student.0.weight" in Roles(Tied(net(0))).state()


class Bare(Alone):
    """A parameter on the method itself."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__(student)
        self.gain = nn.Parameter(torch.ones(1))


def test_a_parameter_on_the_method_itself_is_refused_with_a_remedy():
    with pytest.raises(UserError, match=r"holds the parameter 'gain' itself.* put it in a module and name that in"):
        fit(Bare(net(0)), data(), Plan(**PLAN))


class Turning(Alone):
    """Its turns are given."""

    def __init__(self, student: nn.Module, turns: Callable[[int], tuple[str, ...]]) -> None:
        super().__init__(student)
        self.given = turns

    def turns(self, now):
        return self.given(now.step)


def test_a_step_that_would_begin_with_the_batch_of_the_step_before_is_refused():
    grpo = Turning(net(0), lambda step: (Again("student"),) if step % 4 else ("student",))
    with pytest.raises(UserError, match=r"cannot be Again; repeat it within one step: \('student', Again\('student'\)"):
        fit(grpo, data(), Plan(**PLAN))


def test_one_batch_for_several_updates_of_a_step_is_resumed_to_the_same_bits(tmp_path):
    def four(step: int) -> tuple[str, ...]:
        return ("student", *[Again("student")] * 3)

    whole = fit(Turning(net(0), four), data(), Plan(**PLAN)).method
    fit(Turning(net(0), four), data(), Plan(**PLAN), folder=tmp_path, until=3)
    assert same_weights(whole, fit(Turning(net(0), four), data(), Plan(**PLAN), folder=tmp_path, resume=True).method)


@pytest.mark.parametrize("late", [0, 5])
def test_an_unknown_turn_is_named(late):
    wrong = Turning(net(0), lambda step: ("studnt" if step >= late else "student",))
    with pytest.raises(UserError, match=r"Turning\.turns: unknown turn 'studnt'; did you mean 'student'"):
        fit(wrong, data(), Plan(**PLAN))


ONE = torch.ones((), requires_grad=True)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (ONE, "got a Tensor; return Loss"),
        (None, "got a NoneType; return Loss"),
        (Loss({}), "got no terms; return Loss"),
        (Loss({"l": ONE}, watch={"step": 7}), "the name 'step' is taken"),
        (Loss({"l": ONE}, watch={"lr": 7}), "the name 'lr' is taken"),
        (Loss({"epoch": ONE}), "the name 'epoch' is taken"),
        (Loss({"l": ONE}, watch={"l": 7}), "the name 'l' is taken"),
        (Loss({"l": ONE.expand(3)}), "'l' is more than one number; reduce it"),
    ],
)
def test_what_is_no_loss_is_refused_in_one_line(given, said):
    class Wrong(Alone):
        def loss(self, turn, batch, now):
            return given

    with pytest.raises(UserError, match=f"loss of turn 'student': {said}") as refused:
        fit(Wrong(net(0)), data(), Plan(**PLAN))
    assert "\n" not in str(refused.value)


class Late(Method):
    """The student's turn trains a head as well, whose loss begins at step ``begin``; from step ``leak`` on the turn
    leaves a gradient in the critic."""

    trains = {"student": ["student", "head"], "critic": ["critic"]}

    def __init__(self, begin: int = 0, leak: int = 99) -> None:
        super().__init__()
        self.student, self.head, self.critic, self.begin, self.leak = net(0), net(1), net(2), begin, leak

    def loss(self, turn, batch, now):
        y = self.student(batch["image"])
        if turn == "critic":
            return Loss({"l": self.critic(y).square().mean()})
        if now.step >= self.leak:
            self.critic.requires_grad_(True)
        terms = {"l": self.critic(y).square().mean()}
        return Loss(terms | ({"h": self.head(y).square().mean()} if now.step >= self.begin else {}))


@pytest.mark.filterwarnings("ignore:turn 'student' trains 'head'")
@pytest.mark.parametrize("until", [2, 6])
def test_a_loss_may_begin_late_and_is_resumed_to_the_same_bits(until, tmp_path):
    whole = fit(Late(begin=5), data(), Plan(**PLAN)).method
    assert not same_weights(whole.head, net(1))
    fit(Late(begin=5), data(), Plan(**PLAN), folder=tmp_path, until=until)
    assert same_weights(whole, fit(Late(begin=5), data(), Plan(**PLAN), folder=tmp_path, resume=True).method)


@pytest.mark.filterwarnings("ignore:turn 'student' trains 'head'")
def test_a_network_that_no_gradient_reached_is_named_after_an_epoch_and_refused_at_the_end(tmp_path):
    said = "turn 'student' trains 'head', but no gradient reached it"
    fit(Late(begin=99), data(), Plan(**{**PLAN, "log_every": 1}), folder=tmp_path, until=1)  # half an epoch: too early
    for _ in range(2):  # a resumed run that has ended already says the same
        with pytest.raises(UserError, match=rf"Late\.head: the loss does not depend on it \({said}\)"):
            fit(Late(begin=99), data(), Plan(**PLAN), folder=tmp_path, resume=True)
    with pytest.warns(UserWarning, match=f"{said} so far"):
        fit(Late(begin=99), data(), Plan(**PLAN), until=6)


def test_what_met_its_gradient_before_a_pause_need_not_meet_another(tmp_path):
    class Early(Late):
        def loss(self, turn, batch, now):
            self.begin = 0 if now.step < 2 else 99
            return super().loss(turn, batch, now)

    fit(Early(), data(), Plan(**PLAN), folder=tmp_path, until=3)
    assert fit(Early(), data(), Plan(**PLAN), folder=tmp_path, resume=True).history


def test_a_leak_of_a_later_step_is_caught_in_that_step():
    method = Late(leak=4)
    steps = []
    with pytest.raises(AssertionError, match="turn 'student' left a gradient in 'critic', which it does not train"):
        fit(
            method,
            data(),
            Plan(**{**PLAN, "log_every": 1}),
            observers=[lambda now, row, method: steps.append(now.step)],
        )
    assert steps == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, torch.OutOfMemoryError, UserError, SystemExit])
def test_networks_come_back_trainable_whatever_ended_the_run(kind):
    def stop(now, row, method):
        raise kind("enough")

    method = Late()
    with pytest.raises(kind, match="enough"):
        fit(method, data(), Plan(**PLAN), observers=[stop])
    assert all(p.requires_grad and p.grad is None for p in method.parameters()) and not method.student.training
    assert fit(Late(), data(), Plan(**PLAN)).history and fit(Alone(method.student), data(), Plan(**PLAN)).history


def test_an_error_in_the_middle_of_a_loss_leaves_nothing_behind():
    class Full(Late):
        def loss(self, turn, batch, now):
            loss = super().loss(turn, batch, now)
            if now.step == 1 and turn == "critic":
                loss.total.backward()
                raise torch.OutOfMemoryError("full")
            return loss

    method = Full()
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        fit(method, data(), Plan(**PLAN))
    assert all(p.requires_grad and p.grad is None for p in method.parameters())
