"""Whatever happened to a checkpoint's files, it is named and passed over for the one before, or used as it was."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from redistill.core import Plan, UserError, checkpoint, fit
from redistill.core.checkpoint import Broken
from redistill.core.followers import same_weights
from tests.core.toys import data, reseal, toy

PLAN = Plan(steps=8, batch_size=10, lr=1e-2, device="cpu", log_every=2, save_every=2, keep=9)
FILES = ["state.json", "state.safetensors"]
Damage = Callable[[bytes], Iterator[bytes]]


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """A run that stopped at step 6, with checkpoints at 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("run")
    fit(toy(), data(), PLAN, folder=folder, until=6)
    return folder


@pytest.fixture(scope="module")
def whole() -> torch.nn.Module:
    return fit(toy(), data(), PLAN).method


@pytest.fixture
def folder(kept, tmp_path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "run"))


def at(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step-{step:09d}"


def goes_on_from_the_one_before(folder: Path, whole: torch.nn.Module, said: str) -> None:
    """The damaged step 6 is named with the reason, and the run ends in the bits of an uninterrupted one."""
    seen: list[int] = []
    with pytest.warns(UserWarning, match=f"passed over a checkpoint: .*step-000000006.*{said}") as warned:
        resumed = fit(
            toy(), data(), PLAN, folder=folder, resume=True, augment=lambda batch, now: seen.append(now.step) or batch
        )
    assert len(warned) == 1 and "\n" not in str(warned[0].message)
    assert seen[0] == 4 and same_weights(resumed.method, whole)


# --- damage that only a checksum sees -------------------------------------------------------------------------------


def flipped(raw: bytes) -> Iterator[bytes]:
    """One bit flipped, in every one of the first and last 400 bytes and in 400 between."""
    draw = random.Random(0)
    for place in {*range(400), *range(len(raw) - 400, len(raw)), *draw.sample(range(len(raw)), 400)}:
        damaged = bytearray(raw)
        damaged[place] ^= 1 << draw.randrange(8)
        yield bytes(damaged)


def shortened(raw: bytes) -> Iterator[bytes]:
    """Cut anywhere, or with something behind."""
    yield from (raw[: len(raw) * k // 97] for k in range(97))
    yield from (raw[:-1], raw + b"\n", raw + b"\0", raw * 2)


def overwritten(raw: bytes) -> Iterator[bytes]:
    """A block of zeros, as after a crash of the machine."""
    yield from (raw[:k] + bytes(64) + raw[k + 64 :] for k in range(0, len(raw) - 64, 97))
    yield bytes(len(raw))


@pytest.mark.parametrize("damage", [flipped, shortened, overwritten])
@pytest.mark.parametrize("file", FILES)
def test_every_damage_to_a_file_is_seen(file, damage: Damage, folder):
    path = at(folder, 6)
    raw = (path / file).read_bytes()
    checkpoint.read(path)
    for damaged in damage(raw):
        (path / file).write_bytes(damaged)
        with pytest.raises(Broken, match=rf"step-000000006: {file} is damaged \(checksum differs\)$"):
            checkpoint.read(path)


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_missing_unreadable_or_of_another_step_is_passed_over(file, folder, whole):
    path = at(folder, 6) / file
    path.write_bytes((at(folder, 4) / file).read_bytes())
    goes_on_from_the_one_before(Path(shutil.copytree(folder, folder.parent / "swapped")), whole, "checksum differs")
    path.unlink()
    goes_on_from_the_one_before(
        Path(shutil.copytree(folder, folder.parent / "missing")), whole, "not a whole checkpoint"
    )
    path.mkdir()
    goes_on_from_the_one_before(folder, whole, "not a whole checkpoint")


def test_a_checkpoint_under_the_name_of_another_step_is_passed_over(folder, whole):
    shutil.rmtree(at(folder, 6))
    shutil.copytree(at(folder, 2), at(folder, 6))
    goes_on_from_the_one_before(folder, whole, "holds step 2")


# --- whole files with something else in them ------------------------------------------------------------------------

WRONG: list[Any] = [None, True, -1, 1.5, 10**30, "x", [1], [[1]], {"a": 1}, {"a": [None]}, float("nan")]
FIELDS = ["tensors", "run", "step", "drawn", "history", "silent", "sums", "seen"]


@pytest.mark.parametrize("field", FIELDS)
def test_no_other_type_passes_for_a_number_of_the_run(field, folder):
    path = at(folder, 6)
    for wrong in WRONG:
        reseal(path, **{field: wrong})
        try:
            found, passed = checkpoint.latest(path.parent, expected(folder))
        except UserError:  # none is left that may be used
            continue
        assert found is not None and found.numbers.step == 4 and passed, f"{field} = {wrong!r} was used all the same"


def expected(folder: Path) -> checkpoint.Expected:
    from redistill.core.engine import Engine

    return Engine(toy(), data(), PLAN, folder)._expected()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"step": "6"}, "state.json.step: input should be a valid integer, got '6'"),
        ({"drawn": -1}, "state.json.drawn: input should be greater than or equal to 0"),
        ({"step": 7}, "holds step 7"),
        ({"history": [{"loss": 1.0}]}, "history does not lead to step 6"),
        ({"history": [{"step": 4}, {"step": 2}]}, "history does not lead to step 6"),
        ({"history": [{"step": 8}]}, "history does not lead to step 6"),
        ({"silent": {"judge": []}}, r"turn 'judge' does not train \[\]"),
        ({"silent": {"critic": ["teacher"]}}, r"turn 'critic' does not train \['teacher'\]"),
        ({"sums": {"student/lr": ["0.1"]}}, "state.json.sums.student/lr.0: input should be a valid number"),
        ({"colour": "red"}, "state.json.colour: unknown key 'colour'"),
        ({"run": {}}, "from another run"),
    ],
    ids=lambda v: str(v) if isinstance(v, dict) else "",
)
def test_numbers_that_do_not_fit_are_named_and_passed_over(changes, said, folder, whole):
    reseal(at(folder, 6), **changes)
    goes_on_from_the_one_before(folder, whole, said)


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, '"\\ud800"', "[1"], ids=lambda text: text[:3])
def test_json_that_no_parser_takes_is_passed_over(text, folder, whole):
    (at(folder, 6) / "state.json").write_bytes(checkpoint.sealed(f'"step": {text}}}'.encode()))
    goes_on_from_the_one_before(folder, whole, "")


SLOT = "optim.student.0.exp_avg"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(SLOT), SLOT),
        (lambda t: t.update({"optim.student.0.momentum_buffer": t[SLOT]}), "optim.student.0.momentum_buffer"),
        (lambda t: t.update({SLOT: t[SLOT][:1]}), SLOT),
        (lambda t: t.update({SLOT: t[SLOT].float()}), SLOT),
        (lambda t: t.update({SLOT: t[SLOT].long()}), SLOT),
        (lambda t: t.update({"optim.student.99.exp_avg": t[SLOT]}), "optim.student.99.exp_avg"),
        (lambda t: t.update({"optim.judge.0.exp_avg": t[SLOT]}), "optim.judge.0.exp_avg"),
        (lambda t: t.update({"optim.": t[SLOT]}), "has other tensors"),
        (lambda t: t.update({"optim.student.0.step": torch.tensor(0.0)}), "optim.student.0.step is 0"),
        (lambda t: t.update({"optim.student.0.step": torch.tensor(float("nan"))}), "optim.student.0.step is nan"),
        (lambda t: t.update({"optim.student.0.step": torch.ones(2)}), "optim.student.0.step"),
        (lambda t: t.pop("net.centre"), "net.centre"),
        (lambda t: t.update({"net.centre": t["net.centre"].float()}), "net.centre"),
        (lambda t: t.update({"net.more": torch.ones(1)}), "net.more"),
    ],
    ids=range(14),
)
def test_tensors_that_do_not_fit_are_named_and_passed_over(change, said, folder, whole):
    path = at(folder, 6)
    tensors, numbers = load_file(path / "state.safetensors"), json.loads((path / "state.json").read_text())
    change(tensors)
    for mine in ("sha256", "format", "tensors", "step"):
        del numbers[mine]
    checkpoint.write(path.parent, 6, tensors, numbers, keep=9)
    goes_on_from_the_one_before(folder, whole, said)


def test_a_file_that_is_no_safetensors_is_passed_over(folder, whole):
    path = at(folder, 6)
    (path / "state.safetensors").write_bytes(b"\xff" * 100)
    reseal(path, tensors=checkpoint._digest(path / "state.safetensors"))
    goes_on_from_the_one_before(folder, whole, "not a whole checkpoint")


def test_sgd_without_momentum_keeps_nothing_and_goes_on(tmp_path):
    plain = PLAN.model_copy(update={"optimizer": "sgd", "momentum": 0.0})
    fit(toy(), data(), plain, folder=tmp_path, until=3)
    assert not [name for name in load_file(at(tmp_path, 3) / "state.safetensors") if name.startswith("optim.")]
    resumed = fit(toy(), data(), plain, folder=tmp_path, resume=True)
    assert same_weights(resumed.method, fit(toy(), data(), plain).method)


# --- what else lies in the folder -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_what_is_not_called_like_a_checkpoint_is_none_and_stays(folder, whole):
    others = [at(folder, 6).with_name(name) for name in ("step-best", "step-6", "step-000000006.bak", "step-٠٠٠٠٠٠٠٠٩")]
    for other in others:
        shutil.copytree(at(folder, 6), other)
    at(folder, 7).write_text("a file")
    resumed = fit(toy(), data(), PLAN.model_copy(update={"keep": 1}), folder=folder, resume=True)
    assert same_weights(resumed.method, whole)
    assert {*at(folder, 6).parent.iterdir()} == {*others, at(folder, 7), at(folder, 8)}


def test_checkpoints_are_in_the_order_of_their_steps_beyond_nine_digits(tmp_path):
    for step in (10**9, 999_999_999, 2):
        (tmp_path / f"step-{step:09d}").mkdir()
    assert [path.name for path in checkpoint.steps(tmp_path)] == ["step-000000002", "step-999999999", "step-1000000000"]
