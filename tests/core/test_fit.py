"""The engine on a toy that has everything: exact resume, cut batches, two processes, isolation, divergence,
interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from redistill.core import Diverged, Ema, Loss, Method, Plan, UserError, checkpoint, fit
from redistill.core.followers import same_weights
from tests.core.processes import in_two_processes
from tests.core.toys import ROWS, WIDTH, Scale, data, net, reseal, toy

PLAN = Plan(steps=8, batch_size=10, lr=1e-2, schedule="cosine", warmup=2, clip=1.0, device="cpu", log_every=2)


def plan(**changes) -> Plan:
    return Plan(**{**PLAN.model_dump(exclude_unset=True), **changes})


def distance(a: nn.Module, b: nn.Module) -> float:
    left, right = a.state_dict(), b.state_dict()
    return max(float((left[k] - right[k]).abs().max()) for k in left)


def numbers(rows) -> list[dict]:
    """Logged rows without what a clock says."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "rows_per_second")} for row in rows]


def test_a_resumed_run_has_the_same_bits_and_the_same_history(tmp_path):
    whole = fit(toy(), data(), PLAN)
    fit(toy(), data(), PLAN, folder=tmp_path, until=3)
    halves = fit(toy(), data(), PLAN, folder=tmp_path, resume=True)
    assert same_weights(whole.method, halves.method)
    assert numbers(whole.history) == numbers(halves.history)
    assert numbers(whole.history) == numbers(json.loads(line) for line in (tmp_path / "log.jsonl").open())


@pytest.mark.parametrize("parts", [2, 3])
def test_accumulation_equals_one_big_batch(parts):
    big, cut = fit(toy(), data(), PLAN), fit(toy(), data(), plan(accumulate=parts))
    assert distance(big.method, cut.method) < 1e-9


def test_rows_are_changed_by_numbers_that_neither_the_cut_nor_a_pause_moves(tmp_path):
    def augment(batch, now):
        return {**batch, "image": batch["image"] + now.randn(len(batch["image"]), WIDTH).to(batch["image"])}

    whole, cut = fit(toy(), data(), PLAN, augment=augment), fit(toy(), data(), plan(accumulate=3), augment=augment)
    assert distance(whole.method, cut.method) < 1e-9 < distance(whole.method, fit(toy(), data(), PLAN).method)
    fit(toy(), data(), PLAN, folder=tmp_path, until=3, augment=augment)
    assert same_weights(whole.method, fit(toy(), data(), PLAN, folder=tmp_path, resume=True, augment=augment).method)


@pytest.mark.parametrize("parallel", ["replicate", "shard"])
def test_two_processes_equal_one(parallel, tmp_path):
    one = fit(toy(), data(), PLAN).method
    for got in in_two_processes("tests.core.rank", tmp_path, parallel, "8"):
        assert max(float((got[k] - v).abs().max()) for k, v in one.state_dict().items()) < 1e-9


def test_a_sharded_run_continues_in_one_process(tmp_path):
    in_two_processes("tests.core.rank", tmp_path, "shard", "3")
    resumed = fit(toy(), data(), plan(accumulate=4), folder=tmp_path / "run", resume=True)
    assert distance(resumed.method, fit(toy(), data(), PLAN).method) < 1e-9


class Leak(Method):
    """Its student's turn thaws the critic and leaves a gradient there."""

    trains = {"critic": ["critic"], "student": ["student"]}

    def __init__(self, student: nn.Module, critic: nn.Module) -> None:
        super().__init__()
        self.student, self.critic = student, critic

    def loss(self, turn, batch, now):
        if turn == "student":
            self.critic.requires_grad_(True)
        return Loss({"l": self.critic(self.student(batch["image"])).square().mean()})


def test_a_planted_leak_is_caught():
    with pytest.raises(AssertionError, match="left a gradient in 'critic'"):
        fit(Leak(net(0), net(1)), data(), PLAN)


class Deaf(Leak):
    """Its student's turn never touches the student."""

    def loss(self, turn, batch, now):
        used = self.critic if turn == "critic" else None
        x = batch["image"]
        return Loss({"l": (used(x) if used else x.requires_grad_()).square().mean()})


@pytest.mark.parametrize("parts", [1, 2])
def test_a_turn_that_reaches_nothing_is_caught(parts):
    said = "turn 'student' trains 'student', but no gradient reached it"
    with pytest.warns(UserWarning, match=said), pytest.raises(UserError, match=f"Deaf.student: .*{said}"):
        fit(Deaf(net(0), net(1)), data(), plan(accumulate=parts))


class Learned(nn.Module, Scale):
    """A plug-in that learns what it multiplies by."""

    def __init__(self, start: float = 2.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((1,), start))

    def forward(self, x):
        return self.factor * x


class Scaled(Leak):
    """Both turns use the plug-in."""

    def __init__(self, student, critic, *, scale=None):
        super().__init__(student, critic)
        self.scale, self.learns = scale or Learned(), {}

    def loss(self, turn, batch, now):
        self.learns[turn] = self.scale.factor.requires_grad
        return Loss({"l": self.scale(self.critic(self.student(batch["image"]))).square().mean()})


def test_a_plug_in_with_parameters_learns_in_the_turns_of_the_student_only():
    method = Scaled(net(0), net(1))
    fit(method, data(), PLAN)
    assert method.learns == {"critic": False, "student": True} and method.scale.factor.item() != 2.0


def test_an_average_copies_the_buffers_or_averages_them():
    source = nn.BatchNorm1d(3)
    copied, averaged = Ema(source, 0.9), Ema(source, 0.9, average_buffers=True)
    source(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    for follower in (copied, averaged):
        follower.update(source)
    torch.testing.assert_close(copied.net.running_mean, source.running_mean, rtol=0, atol=0)
    torch.testing.assert_close(averaged.net.running_mean, 0.1 * source.running_mean)
    assert copied.net.num_batches_tracked == averaged.net.num_batches_tracked == 1


class Explodes(Leak):
    """Infinite from step 5 on."""

    trains = {"student": ["student"]}

    def loss(self, turn, batch, now):
        value = self.student(batch["image"]).square().mean()
        return Loss({"fine": value, "bad": value / (0.0 if now.step == 5 else 1.0)})


def test_a_loss_that_is_not_finite_names_step_and_term_and_leaves_the_last_good_checkpoint(tmp_path):
    with pytest.raises(Diverged, match=r"step 5, turn 'student': 'bad' is inf"):
        fit(Explodes(net(0), net(1)), data(), plan(save_every=2), folder=tmp_path)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-000000002", "step-000000004"]


def test_only_the_last_checkpoints_are_kept(tmp_path):
    fit(toy(), data(), plan(save_every=2, keep=2), folder=tmp_path)
    assert [p.name for p in sorted((tmp_path / "checkpoints").iterdir())] == ["step-000000006", "step-000000008"]


@pytest.mark.parametrize("damage", ["truncate", "foreign", "garbage"])
def test_a_damaged_or_foreign_checkpoint_is_named_and_the_one_before_it_is_used(damage, tmp_path):
    fit(toy(), data(), plan(save_every=2, keep=5), folder=tmp_path, until=6)
    last = tmp_path / "checkpoints" / "step-000000006"
    if damage == "truncate":
        file = last / "state.safetensors"
        file.write_bytes(file.read_bytes()[:-9])
    elif damage == "garbage":
        (last / "state.json").write_text("{")
    else:
        numbers = json.loads((last / "state.json").read_text())
        reseal(last, run={**numbers["run"], "rows": 99})
    with pytest.warns(UserWarning, match="step-000000006"):
        resumed = fit(toy(), data(), plan(save_every=2, keep=5), folder=tmp_path, resume=True)
    assert same_weights(resumed.method, fit(toy(), data(), PLAN).method)


def test_a_folder_that_holds_another_run_is_refused(tmp_path):
    fit(toy(), data(), PLAN, folder=tmp_path, until=1)
    with pytest.raises(UserError, match="holds another run"):
        fit(toy(), data(), PLAN, folder=tmp_path)
    with pytest.raises(UserError, match=r"belongs to this run: .*\(options.critic_steps was 2, is 3 here\)"):
        fit(toy(critic_steps=3), data(), PLAN, folder=tmp_path, resume=True)


def test_missing_columns_and_unknown_turns_are_named_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="needs 'image' in every row; did you mean 'images'"):
        fit(toy(), {"images": torch.zeros(4, WIDTH)}, PLAN, folder=tmp_path / "run")
    with pytest.raises(UserError, match="unknown turns"):
        fit(toy(), data(), plan(turns={"studnt": {"lr": 1.0}}), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


CHILD = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
sys.path.insert(0, {root!r})
from tests.core.toys import data, toy
from redistill.core import Plan, fit
plan = Plan(steps=100000, batch_size=10, lr=1e-3, device="cpu", save_every=7, log_every=1, workers={workers})
watch = lambda now, row, method: print(now.step, flush=True)
fit(toy(), data(), plan, folder={folder!r}, resume=True, observers=[watch])
"""


@pytest.mark.parametrize(
    ("how", "workers"), [(signal.SIGKILL, 0), (signal.SIGTERM, 0), (signal.SIGTERM, 2), (signal.SIGINT, 2)]
)
def test_a_killed_run_loses_nothing_that_was_checkpointed_and_a_stopped_one_nothing(how, workers, tmp_path):
    folder = tmp_path / "run"
    code = CHILD.format(root=str(Path(__file__).parents[2]), folder=str(folder), workers=workers)
    child = subprocess.Popen([sys.executable, "-c", code], text=True, start_new_session=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert child.stdout is not None and child.stderr is not None
    for line in child.stdout:
        if int(line) >= 20:
            break
    os.killpg(child.pid, how)  # the loader processes as well, as a terminal and torchrun do
    reached = max([20, *(int(line) for line in child.stdout if line.strip().isdigit())])
    said, code = child.stderr.read(), child.wait(timeout=30)
    steps = sorted(int(p.name[5:]) for p in (folder / "checkpoints").glob("step-*"))
    if how == signal.SIGKILL:
        assert steps[-1] >= 14
    else:
        assert steps[-1] == reached + 1 and code == 1
        assert f"stopped at step {reached + 1}; saved in {folder}; go on with resume=True" in said
    target = steps[-1] + 2
    long = Plan(steps=100000, batch_size=10, lr=1e-3, device="cpu", save_every=7, log_every=1)
    resumed = fit(toy(), data(), long, folder=folder, resume=True, until=target)
    assert same_weights(resumed.method, fit(toy(), data(), long, until=target).method)


@pytest.fixture
def _interruptible():
    """Ctrl-C as Python takes it, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_a_second_ctrl_c_ends_at_once_and_the_handlers_are_given_back(capfd):
    def interrupted_twice(batch, now):
        os.kill(os.getpid(), signal.SIGINT)
        assert "Ctrl-C again ends at once" in capfd.readouterr().err
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("went on")

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        fit(toy(), data(), PLAN, augment=interrupted_twice)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.usefixtures("_interruptible")
def test_ctrl_c_without_a_folder_says_that_nothing_is_saved():
    with pytest.raises(SystemExit, match=r"^stopped at step 1; nothing is saved, for the run has no folder$"):
        fit(toy(critic_steps=1), data(), PLAN, augment=lambda batch, now: os.kill(os.getpid(), signal.SIGINT) or batch)


@pytest.mark.usefixtures("_interruptible")
def test_a_run_that_ignores_ctrl_c_still_does():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # nohup, or a job in the background
    fit(toy(), data(), PLAN, augment=lambda batch, now: os.kill(os.getpid(), signal.SIGINT) or batch)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


class Clock:
    """A clock that somebody moves."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_without_save_every_the_clock_says_when_and_changes_no_weight(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(checkpoint, "time", clock)

    def passes(now, row, method):
        clock.now += 200  # seconds a step

    plan = Plan(steps=10, batch_size=10, lr=1e-2, device="cpu", log_every=1, keep=9)
    saved = fit(toy(), data(), plan, folder=tmp_path, observers=[passes])
    assert [path.name for path in checkpoint.steps(tmp_path / "checkpoints")] == [
        "step-000000004", "step-000000008", "step-000000010"
    ]  # fmt: skip
    assert same_weights(saved.method, fit(toy(), data(), plan).method)
    resumed = fit(toy(), data(), plan, folder=tmp_path, resume=True)
    assert same_weights(resumed.method, saved.method)


def test_saving_takes_a_fiftieth_of_the_time_at_most(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(checkpoint, "time", clock)
    pace = checkpoint.Pace()
    clock.now = 599
    assert not pace.due()
    clock.now = 600
    assert pace.due()
    with pace.saving():
        clock.now += 60
    clock.now += 2999
    assert not pace.due()
    clock.now += 1
    assert pace.due()


def test_every_row_comes_once_an_epoch_and_a_turn_may_reuse_the_batch():
    seen = []

    class Watch(type(toy())):  # type: ignore[misc]
        def loss(self, turn, batch, now):
            seen.append((now.step, turn, now.epoch, batch["index"].tolist()))
            return super().loss(turn, batch, now)

    method = Watch(net(0), net(1), net(2), critic_steps=1).double()
    fit(method, data(), Plan(epochs=2, batch_size=10, device="cpu"))
    critic = [rows for _, turn, epoch, rows in seen if turn == "critic" and epoch == 0]
    assert sorted(i for rows in critic for i in rows) == list(range(ROWS))
    assert [len(rows) for rows in critic] == [10, 10, 10, 7]
    student = [rows for _, turn, epoch, rows in seen if turn == "student" and epoch == 0]
    assert student == critic


def test_loader_processes_give_the_same_batches():
    alone = fit(toy(), data(), PLAN)
    helped = fit(toy(), data(), plan(workers=2))
    assert same_weights(alone.method, helped.method)


def test_bfloat16_autocast_computes_in_16_bits_and_updates_weights_of_32():
    low, full = toy().float(), toy().float()
    image = {"image": data()["image"].float()}
    outputs, gradients = set(), set()
    low.student.register_forward_hook(lambda module, given, output: outputs.add(output.dtype))
    for p in low.student.parameters():
        p.register_hook(lambda gradient: gradients.add(gradient.dtype))
    fit(low, image, plan(precision="bf16"))
    fit(full, image, PLAN)
    assert outputs == {torch.bfloat16} and gradients == {torch.float32}
    assert 0 < distance(low.student, full.student) < 1e-2 < distance(low.student, net(0).float())


def test_time_of_a_run_is_reported():
    begin = time.perf_counter()
    fitted = fit(toy(), data(), PLAN)
    assert 0 < fitted.seconds <= time.perf_counter() - begin
