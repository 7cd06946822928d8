"""A teacher's answers on disk: the same student as with the teacher itself, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from redistill.core import Plan, UserError, fit
from redistill.data.signals import read_signals, with_teacher, write_signals
from redistill.models.nets import mlp
from redistill.supervised.classifier import Distillation, logits

IMAGE, LABEL = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 3
ROWS = {"image": IMAGE, "label": LABEL}


def net(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return mlp(6, 3, [8])


@pytest.mark.parametrize(("dtype", "bytes_per_class"), [("float16", 2), ("float32", 4)])
def test_answers_are_those_of_the_teacher_and_take_what_is_promised(tmp_path, dtype, bytes_per_class):
    file = write_signals(net(1), ROWS, tmp_path / "t.npy", ask=logits, batch_size=7, dtype=dtype)
    found = read_signals(file, 50, net(1))
    np.testing.assert_allclose(found, net(1)(IMAGE).detach(), rtol=2e-3, atol=1e-3)
    assert isinstance(found, np.memmap)
    assert file.stat().st_size == 128 + 50 * 3 * bytes_per_class
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.json", "t.npy"]


@pytest.mark.parametrize("rows", [ROWS, [{"image": i, "label": k} for i, k in zip(IMAGE, LABEL)]], ids=["dict", "list"])
def test_a_student_learns_the_same_from_the_file(tmp_path, rows):
    plan = Plan(steps=6, batch_size=8, lr=0.01, device="cpu")
    online, stored = net(0), net(0)
    fit(Distillation(online, net(1)), rows, plan)
    fit(Distillation(stored, None), with_teacher(net(1), rows, tmp_path / "t.npy", ask=logits, dtype="float32"), plan)
    torch.testing.assert_close(stored(IMAGE), online(IMAGE), rtol=0, atol=1e-6)


def test_the_teacher_is_asked_once(tmp_path):
    asked = []

    def ask(teacher, batch):
        asked.append(len(batch["image"]))
        return logits(teacher, batch)

    for _ in range(2):
        with_teacher(net(1), ROWS, tmp_path / "t.npy", ask=ask, batch_size=20)
    assert asked == [20, 20, 10]


def test_foreign_files_are_refused(tmp_path):
    file = write_signals(net(1), ROWS, tmp_path / "t.npy", ask=logits)
    with pytest.raises(UserError, match="another teacher"):
        read_signals(file, 50, net(2))
    with pytest.raises(UserError, match="answers 50 rows, the data has 40"):
        read_signals(file, 40)
    with pytest.raises(UserError, match="no teacher's answers"):
        read_signals(tmp_path / "gone.npy", 50)
    with pytest.raises(UserError, match=r"end in \.npy"):
        read_signals(tmp_path / "t.bin", 50)
    with pytest.raises(UserError, match="no such folder"):
        write_signals(net(1), ROWS, tmp_path / "gone" / "t.npy", ask=logits)


def test_nothing_is_left_when_the_teacher_fails(tmp_path):
    def ask(teacher, batch):
        if len(asked):
            raise RuntimeError("broken")
        asked.append(1)
        return logits(teacher, batch)

    asked: list[int] = []
    with pytest.raises(RuntimeError, match="broken"):
        write_signals(net(1), ROWS, tmp_path / "t.npy", ask=ask, batch_size=20)
    assert list(tmp_path.iterdir()) == []
