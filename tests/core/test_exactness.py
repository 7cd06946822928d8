"""What must not change a run: masks of dropout, 16 bits, a batch without rows, a torn log, a gradient that is no
number."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from redistill.core import Diverged, Ema, Loss, Method, Plan, UserError, fit
from redistill.core.followers import same_weights
from redistill.core.method import bare_progress
from redistill.core.observers import JsonLines
from redistill.core.progress import Progress, Rows, seed_of
from tests.core.toys import ROWS, WIDTH, data, net, toy

PLAN = {"steps": 8, "batch_size": 10, "lr": 1e-2, "device": "cpu", "log_every": 2}


class Alone(Method):
    """One student with the square of its output as the loss."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def loss(self, turn, batch, now):
        return Loss({"l": self.student(batch["image"]).square().mean()})


class Masked(Alone):
    """Only the rows below ``rows`` count; ``after`` wants their mean."""

    def __init__(self, student: nn.Module, rows: int = ROWS) -> None:
        super().__init__(student)
        self.rows = rows
        self.register_buffer("means", torch.zeros(()))

    def loss(self, turn, batch, now):
        keep = batch["index"] < self.rows
        value = (self.student(batch["image"]).square().mean(1) * keep).sum() / keep.sum().clamp(min=1)
        return Loss({"l": value}, weight=keep.sum(), average={"m": value.detach()})

    def after(self, turn, stats, now):
        self.means += stats["m"]


class Nothing(Masked):
    """The mean over no row is no number, and so are its slopes."""

    def loss(self, turn, batch, now):
        keep = batch["index"] < self.rows
        value = (self.student(batch["image"]).square().mean(1) * keep).sum() / keep.sum()
        return Loss({"l": value}, weight=keep.sum(), average={"m": value.detach()}, watch={"w": value.detach()})


def test_a_micro_batch_in_which_no_row_counts_adds_nothing():
    whole, cut = (fit(Nothing(net(0), rows=20), data(), Plan(**PLAN, accumulate=parts)) for parts in (1, 10))
    for left, right in zip(whole.method.state_dict().values(), cut.method.state_dict().values()):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-9)
    assert [row["l"] for row in whole.history] == pytest.approx([row["l"] for row in cut.history], abs=1e-6)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_batch_in_which_no_row_counts_is_skipped(parts):
    method = Masked(net(0), rows=2)  # two rows of 37: at least two of the four batches of an epoch are empty
    with pytest.warns(UserWarning, match="no row or token of the batch counts") as seen:
        fitted = fit(method, data(), Plan(**PLAN, accumulate=parts))
    assert len(seen) == 1 and fitted.history[-1]["step"] == 8
    assert method.means.isfinite() and not same_weights(method.student, net(0))
    assert all(p.isfinite().all() for p in method.parameters())


def test_a_data_set_in_which_no_row_counts_is_refused():
    with (
        pytest.warns(UserWarning, match="no row or token"),
        pytest.raises(UserError, match="no row or token of the first 4 batches counts"),
    ):
        fit(Masked(net(0), rows=0), data(), Plan(**PLAN))


class Steep(Alone):
    """A finite loss whose slope is none at step 5."""

    def loss(self, turn, batch, now):
        y = self.student(batch["image"])
        return Loss({"l": y.square().mean() + ((0 * y).abs().sqrt().sum() if now.step == 5 else 0)})


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_gradient_that_is_not_finite_is_named_before_the_step(clip, tmp_path):
    plan = Plan(**PLAN, clip=clip, save_every=2)
    method, before = Steep(net(0)), Steep(net(0))
    with pytest.raises(Diverged, match=r"step 5, turn 'student': 'gradient' is nan; the last good checkpoint"):
        fit(method, data(), plan, folder=tmp_path)
    fit(before, data(), plan, until=5)
    assert same_weights(method, before)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-000000002", "step-000000004"]


def test_no_checkpoint_is_promised_where_none_was_saved(tmp_path):
    with pytest.raises(Diverged, match=r"'gradient' is nan$"):
        fit(Steep(net(0)), data(), Plan(**PLAN, save_every=100), folder=tmp_path)


def test_after_a_divergence_the_networks_can_be_trained_again():
    method = Steep(net(0))
    with pytest.raises(Diverged):
        fit(method, data(), Plan(**PLAN))
    assert all(p.grad is None and p.requires_grad for p in method.parameters()) and not method.student.training
    assert fit(Alone(method.student), data(), Plan(**PLAN)).history


def test_a_blank_batch_ends_no_resumed_run_that_it_would_not_end_at_once(tmp_path):
    class Late(Masked):
        def loss(self, turn, batch, now):
            self.rows = 0 if now.step == 4 else ROWS
            return super().loss(turn, batch, now)

    plan = Plan(**{**PLAN, "batch_size": ROWS})  # an epoch is one batch
    with pytest.warns(UserWarning, match="no row or token"):
        whole = fit(Late(net(0)), data(), plan).method
    fit(Late(net(0)), data(), plan, folder=tmp_path, until=4)
    with pytest.warns(UserWarning, match="no row or token"):
        again = fit(Late(net(0)), data(), plan, folder=tmp_path, resume=True).method
    assert same_weights(whole, again)


def test_turns_know_their_epoch_after_a_pause(tmp_path):
    seen = []

    class Curious(Alone):
        def turns(self, now):
            seen.append((now.step, now.epoch, now.ends_epoch))
            return ("student",)

    fit(Curious(net(0)), data(), Plan(**PLAN))
    whole = list(seen)
    seen.clear()
    fit(Curious(net(0)), data(), Plan(**PLAN), folder=tmp_path, until=4)
    seen.clear()
    fit(Curious(net(0)), data(), Plan(**PLAN), folder=tmp_path, resume=True)
    assert [place for place in seen if place[0]] == [place for place in whole if place[0] >= 4]


def test_damaged_checkpoints_do_not_push_out_whole_ones(tmp_path):
    plan = Plan(**PLAN, save_every=2, keep=1)
    fit(Alone(net(0)), data(), plan, folder=tmp_path, until=4)
    later = tmp_path / "checkpoints" / "step-000000100"
    later.mkdir()
    (later / "state.json").write_text("{")
    with pytest.warns(UserWarning, match="passed over a checkpoint"):
        fit(Alone(net(0)), data(), plan, folder=tmp_path, resume=True)
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"step-000000008", "step-000000100"}


class Followed(Alone):
    """A student and its slow average."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__(student)
        self.average = Ema(student, 0.999)

    def after(self, turn, stats, now):
        self.average.update(self.student)


class Listed(Alone):
    """A student and two averages of it in a list."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__(student)
        self.averages = nn.ModuleList([Ema(student, 0.9), Ema(student, 0.5)])

    def after(self, turn, stats, now):
        for average in self.averages:
            average.update(self.student)


def moved(dtype: torch.dtype, cast_later: bool = False) -> tuple[Ema, nn.Module]:
    """An average that starts at 0 after 500 steps towards 1."""
    student = nn.Linear(2, 2).requires_grad_(True)
    nn.init.zeros_(student.weight), nn.init.zeros_(student.bias)
    student = student if cast_later else student.to(dtype)
    average = Ema(student, 0.999).to(dtype)
    with torch.no_grad():
        [p.fill_(1) for p in student.to(dtype).parameters()]
    for _ in range(500):
        average.update(student)
    return average, student


@pytest.mark.parametrize("cast_later", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_average_of_16_bits_keeps_moving(dtype, cast_later):
    average, _ = moved(dtype, cast_later)
    assert average.net.weight.dtype == dtype
    torch.testing.assert_close(average.net.weight.float(), torch.full((2, 2), 1 - 0.999**500), rtol=5e-3, atol=0)


def test_averaged_statistics_of_16_bits_keep_moving():
    student = nn.BatchNorm1d(2).bfloat16()
    average = Ema(student, 0.999, average_buffers=True)
    student.running_var.fill_(0.5)
    student.num_batches_tracked.fill_(7)
    for _ in range(500):
        average.update(student)
    wanted = torch.full((2,), 0.5 + 0.5 * 0.999**500)
    torch.testing.assert_close(average.net.running_var.float(), wanted, rtol=5e-3, atol=0)
    assert average.net.num_batches_tracked == 7


def test_an_average_of_32_bits_has_no_twins_and_one_that_became_it_loses_them():
    assert not dict(Ema(nn.Linear(2, 2)).named_buffers())
    average, _ = moved(torch.bfloat16)
    assert all(b.dtype == torch.float32 for b in average.buffers()) and len(dict(average.named_buffers())) == 2
    assert not dict(average.float().named_buffers())


def test_the_twins_of_16_bits_are_in_the_checkpoint(tmp_path):
    image = {"image": data()["image"].bfloat16()}
    whole, halves = Followed(net(0).bfloat16()), [Followed(net(0).bfloat16()) for _ in range(2)]
    fit(whole, image, Plan(**PLAN))
    fit(halves[0], image, Plan(**PLAN), folder=tmp_path, until=3)
    fit(halves[1], image, Plan(**PLAN), folder=tmp_path, resume=True)
    assert "average.twin_0/weight" in whole.state_dict() and same_weights(whole, halves[1])


def test_a_log_with_a_torn_last_line_goes_on(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text('{"step": 2, "l": 1.0}\n{"step": 4, "l": 0.5}\n{"step": 6, "l"')
    log = JsonLines(file, 4)
    log(Progress(), {"step": 6, "l": 0.2}, Alone(net(0)))
    log.close()
    assert [json.loads(line)["step"] for line in file.open()] == [2, 4, 6]


def test_micro_batches_drop_different_units_and_draw_the_same_rows():
    def drawn(rows: Rows | None) -> tuple[int, torch.Tensor]:
        now = Progress(seed=3, step=7, rows=rows)
        now.reseed(0, "loss")
        return torch.default_generator.initial_seed(), now.randn(4, 2)

    first, second, alone = drawn(Rows(0, 4, 8)), drawn(Rows(4, 8, 8)), drawn(None)
    assert first[0] == alone[0] == seed_of(3, 7, 0, "loss") != second[0]
    assert torch.equal(first[1], alone[1])
    now = Progress(seed=3, step=7)
    now.reseed(0, "loss")
    torch.testing.assert_close(torch.cat([first[1], second[1]]), now.randn(8, 2), rtol=0, atol=0)


def test_numbers_that_all_rows_share_seed_themselves_in_ones_own_loop():
    torch.manual_seed(0)
    first = bare_progress(3, seed=1).shared_rand(), bare_progress(3, seed=1).shared_randint(0, 10**6)
    torch.manual_seed(1)
    assert first == (bare_progress(3, seed=1).shared_rand(), bare_progress(3, seed=1).shared_randint(0, 10**6))


def test_a_resumed_log_has_the_numbers_of_the_steps_before_the_pause(tmp_path):
    plan = Plan(**{**PLAN, "log_every": 4})
    whole = fit(toy(), data(), plan).history
    fit(toy(), data(), plan, folder=tmp_path, until=6)
    halves = fit(toy(), data(), plan, folder=tmp_path, resume=True).history
    clock = {"seconds", "rows_per_second"}
    assert [{k: r[k] for k in r.keys() - clock} for r in whole] == [{k: r[k] for k in r.keys() - clock} for r in halves]


def test_a_checkpoint_with_other_tensors_is_refused_in_one_line(tmp_path):
    fit(Alone(net(0)), data(), Plan(**PLAN), folder=tmp_path, until=1)
    other = nn.Sequential(nn.Linear(WIDTH, 9), nn.Tanh(), nn.Linear(9, WIDTH)).double()
    with pytest.raises(UserError, match=r"has other tensors than this run \(net.student.0.bias, .*\)") as refused:
        fit(Alone(other), data(), Plan(**PLAN), folder=tmp_path, resume=True)
    assert "\n" not in str(refused.value)
