"""What a run that goes on must have alike, what it may change, and what a checkpoint cannot hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from redistill.core import Loss, Plan, UserError, fit
from redistill.core.engine import Engine
from redistill.core.followers import same_weights
from tests.core.test_exactness import Alone
from tests.core.toys import data, net, reseal, toy

PLAN: dict[str, Any] = {"steps": 8, "batch_size": 10, "lr": 1e-2, "device": "cpu", "log_every": 2}
TURNS = {"critic": {"lr": 0.02}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer": "sgd"}, "plan.turns.student.optimizer was 'adamw', is 'sgd' here"),
        ({"lr": 0.5}, "plan.turns.student.lr was 0.01, is 0.5 here"),
        ({"schedule": "cosine"}, "plan.turns.student.schedule was 'constant', is 'cosine' here"),
        ({"weight_decay": 0.1}, "plan.turns.student.weight_decay was 0.0, is 0.1 here"),
        ({"betas": (0.5, 0.9)}, "plan.turns.student.betas was [0.9, 0.999], is [0.5, 0.9] here"),
        ({"turns": {"critic": {"lr": 0.03}}}, "plan.turns.critic.lr was 0.02, is 0.03 here"),
        ({"batch_size": 9}, "plan.batch_size was 10, is 9 here"),
        ({"accumulate": 2}, "plan.accumulate was 1, is 2 here"),
        ({"precision": "bf16"}, "plan.precision was 'fp32', is 'bf16' here"),
        ({"drop_last": True}, "plan.drop_last was False, is True here"),
        ({"seed": 1}, "plan.seed was 0, is 1 here"),
    ],
    ids=lambda v: str(v) if isinstance(v, dict) else "",
)
def test_a_plan_that_would_change_the_weights_is_refused_with_the_old_value_and_the_new(changes, said, tmp_path):
    given = {**PLAN, "turns": TURNS}
    fit(toy(critic_steps=1), data(), Plan(**given), folder=tmp_path, until=3)
    with pytest.raises(UserError, match="no checkpoint in it belongs to this run") as refused:
        fit(toy(critic_steps=1), data(), Plan(**{**given, **changes}), folder=tmp_path, resume=True)
    assert said in str(refused.value) and "\n" not in str(refused.value)


class Asking(Alone):
    """Its loss grows over the run."""

    def loss(self, turn, batch, now):
        return Loss({"l": (1 + now.fraction) * self.student(batch["image"]).square().mean()})


@pytest.mark.parametrize("longer", [{"steps": 16}, {"steps": None, "epochs": 12}], ids=str)
@pytest.mark.parametrize("until", [3, 8])
def test_a_run_at_a_constant_rate_becomes_longer_to_the_same_bits(longer, until, tmp_path):
    plan = {**PLAN, "warmup": 5, **longer}
    whole = fit(toy(), data(), Plan(**plan))
    fit(toy(), data(), Plan(**{**PLAN, "warmup": 5}), folder=tmp_path, until=until)
    longer = fit(toy(), data(), Plan(**plan), folder=tmp_path, resume=True)
    assert whole.history[-1]["step"] == longer.history[-1]["step"] > 8
    assert same_weights(whole.method, longer.method)


@pytest.mark.parametrize(
    ("method", "plan", "why"),
    [
        (Alone, {"schedule": "cosine"}, r"its rate \(cosine\)"),
        (Alone, {"turns": {"student": {"schedule": "multistep"}}}, r"its rate \(multistep\)"),
        (Asking, {}, "its method"),
        (Asking, {"schedule": "linear"}, r"its rate \(linear\) and its method"),
    ],
)
def test_what_was_planned_for_a_length_keeps_it_and_the_line_says_what_to_do(method, plan, why, tmp_path):
    given = {**PLAN, **plan}
    fit(method(net(0)), data(), Plan(**given), folder=tmp_path)
    said = f"planned for 8 steps, which {why} depends on; plan the longest run and stop it with until"
    with pytest.raises(UserError, match=said) as refused:
        fit(method(net(0)), data(), Plan(**{**given, "steps": 16}), folder=tmp_path, resume=True)
    assert "\n" not in str(refused.value)


def test_a_run_that_was_resumed_still_knows_that_its_method_asked(tmp_path):
    fit(Asking(net(0)), data(), Plan(**PLAN), folder=tmp_path, until=3)
    now = Engine(Asking(net(0)), data(), Plan(**PLAN), tmp_path).now
    assert not now.asked and now.length == 8 and not now.asked and now.steps == 8 and now.asked
    fit(Asking(net(0)), data(), Plan(**PLAN), folder=tmp_path, resume=True, until=3)
    with pytest.raises(UserError, match="its method depends on"):
        fit(Asking(net(0)), data(), Plan(**{**PLAN, "steps": 9}), folder=tmp_path, resume=True)


def test_what_no_weight_depends_on_may_change(tmp_path):
    whole = fit(toy(), data(), Plan(**PLAN))
    fit(toy(), data(), Plan(**PLAN), folder=tmp_path, until=3)
    free = {"log_every": 1, "save_every": 2, "keep": 5, "workers": 1, "device": "auto" if no_gpu() else "cpu"}
    halves = fit(toy(), data(), Plan(**{**PLAN, **free}), folder=tmp_path, resume=True)
    assert same_weights(whole.method, halves.method)


def no_gpu() -> bool:
    return not torch.cuda.is_available()


def test_the_same_plan_in_other_words_goes_on(tmp_path):
    fit(toy(), data(), Plan(**PLAN, turns={"critic": {"lr": 0.01}}), folder=tmp_path, until=3)
    resumed = fit(toy(), data(), Plan(**PLAN), folder=tmp_path, resume=True)
    assert same_weights(resumed.method, fit(toy(), data(), Plan(**PLAN)).method)


def test_every_field_of_a_plan_either_must_agree_or_is_known_to_be_free():
    free = {"workers", "parallel", "device", "log_every", "save_every", "keep", "trackers"}
    compared = Engine(toy(), data(), Plan(**PLAN), None).identity()
    named = {*compared["plan"], *compared["plan"]["turns"]["student"]}
    assert named | free == set(Plan.model_fields) and not named & free


def test_to_resume_without_a_folder_is_refused():
    with pytest.raises(UserError, match="folder: resume needs the folder of the run that goes on"):
        fit(toy(), data(), Plan(**PLAN), resume=True)


@pytest.mark.parametrize("number", [1, None])
def test_a_checkpoint_of_another_format_is_named(number, tmp_path):
    fit(toy(), data(), Plan(**PLAN), folder=tmp_path, until=1)
    reseal(next((tmp_path / "checkpoints").iterdir()), format=number)
    with pytest.raises(UserError, match=rf"has another format \({number}, not 2\)$"):
        fit(toy(), data(), Plan(**PLAN), folder=tmp_path, resume=True)


class Optional(Alone):
    """Takes anything as an option."""

    def __init__(self, student: torch.nn.Module, *, anything: Any = None) -> None:
        super().__init__(student)


@pytest.mark.parametrize("value", [abs, {1, 2}, torch.zeros(2), {"deep": [abs]}, {(1, 2): 3}], ids=str)
def test_an_option_that_a_checkpoint_cannot_hold_is_refused_before_the_training(value, tmp_path):
    seen: list[int] = []
    with pytest.raises(UserError, match=r"^options\.anything: a checkpoint cannot hold it \(.*\); give plain") as said:
        fit(Optional(net(0), anything=value), data(), Plan(**PLAN), folder=tmp_path / "run",
            observers=[lambda now, row, method: seen.append(now.step)])  # fmt: skip
    assert not seen and not (tmp_path / "run").exists() and "\n" not in str(said.value)
    fit(Optional(net(0), anything=value), data(), Plan(**PLAN))  # without a folder it is nobody's business


@pytest.mark.parametrize("value", [{1: "a", 2: "b"}, (1, (2, 3)), {"a": (1,)}], ids=str)
def test_options_that_json_changes_go_on_all_the_same(value, tmp_path):
    fit(Optional(net(0), anything=value), data(), Plan(**PLAN), folder=tmp_path, until=3)
    resumed = fit(Optional(net(0), anything=value), data(), Plan(**PLAN), folder=tmp_path, resume=True)
    assert same_weights(resumed.method, fit(Alone(net(0)), data(), Plan(**PLAN)).method)
