"""The survey of a recipe: which teachers it takes, and what is left of it when it stops half-way."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from redistill.core import Plan, UserError
from redistill.methods.analysis.survey import baselines
from redistill.models.nets import mlp
from redistill.procedures import survey
from redistill.procedures.job import Job


class Right(torch.nn.Module):
    """A teacher that is right in a given share of the rows: their first number is the share of rows before them."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = torch.nn.Parameter(torch.tensor(share))
        self.inner = mlp(4, 2, (4, 4))

    def forward(self, image):
        said = torch.where(image[:, 0] < self.share, image[:, 1], 1 - image[:, 1])
        return 0 * self.inner(image) + torch.stack([1 - said, said], 1)


def run(folder, share: float) -> str:
    label = torch.arange(200) % 2
    image = torch.stack([torch.rand(200, generator=torch.Generator().manual_seed(0)), label, label, label], 1)
    job = Job(folder, rows={"image": image, "label": label}, plan=Plan(steps=2, batch_size=30, device="cpu"))
    return survey.run(
        job, mlp(4, 2, (4, 4)), Right(share), classes=2, input_shape=[4], stages=["1", "3"], embedding="3",
        teacher_stages=["inner.1", "inner.3"], teacher_embedding="inner.3", baselines=["kd"], fresh=False,
    )  # fmt: skip


def test_a_teacher_of_two_classes_may_be_wrong_in_a_third_of_the_rows(tmp_path):
    assert "is the most accurate" in run(tmp_path / "good", 0.67)
    with pytest.raises(UserError, match="hardly better than chance"):
        run(tmp_path / "bad", 0.52)
    assert not (tmp_path / "bad").exists()


def test_rows_that_are_done_stay_when_a_later_baseline_fails(tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("half-way")

    monkeypatch.setitem(baselines.BASELINES, "kd", replace(baselines.BASELINES["kd"], how=fails))
    with pytest.raises(RuntimeError, match="half-way"):
        run(tmp_path / "out", 0.9)
    assert [line.split(",")[0] for line in (tmp_path / "out" / "survey.csv").read_text().splitlines()[1:]] == ["labels"]
