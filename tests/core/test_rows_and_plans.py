"""What ``fit`` takes: batches with columns inside columns, no data at all, and plans with mistakes in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from redistill.core import Loss, Plan, UserError, fit
from redistill.core.build import validated
from redistill.core.progress import Rows
from redistill.core.source import cut
from tests.core.test_exactness import Alone
from tests.core.toys import ROWS, data, net

PLAN: dict[str, Any] = {"steps": 4, "batch_size": 10, "lr": 1e-2, "device": "cpu"}


class Nested:
    """Rows with the image in a table, and again in a list of views."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> dict[str, Any]:
        image = data()["image"][row]
        return {"in": {"deep": {"image": image}, "name": f"row {row}"}, "views": [image, 2 * image]}


class Deep(Alone):
    """Learns from the image in the table and from both views."""

    def loss(self, turn, batch, now):
        first, second = batch["views"]
        image = batch["in"]["deep"]["image"]
        assert len(image) == len(first) == len(second) == len(batch["in"]["name"]) == len(batch["index"])
        assert batch["in"]["name"] == [f"row {row}" for row in batch["index"].tolist()]
        return Loss({"l": self.student(image + first + second).square().mean()})


@pytest.mark.parametrize("parts", [2, 3])
def test_a_batch_with_columns_in_columns_may_be_cut(parts):
    whole, in_parts = Deep(net(0)), Deep(net(0))
    fit(whole, Nested(), Plan(**PLAN))
    fit(in_parts, Nested(), Plan(**PLAN, accumulate=parts))
    for a, b in zip(whole.parameters(), in_parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_a_cut_goes_through_tables_and_lists_and_keeps_lists_of_rows():
    batch = {
        "x": torch.arange(6),
        "table": {"y": torch.arange(6) + 10, "deep": {"z": np.arange(6)}},
        "views": [torch.arange(6), torch.arange(12).view(6, 2)],
        "names": list("abcdef"),  # one item a row
        "ragged": [torch.arange(k) for k in range(6)],
    }
    first, second = cut(Rows(2, 8, 10), batch, 2)
    assert (first[0], second[0]) == (Rows(2, 5, 10), Rows(5, 8, 10))
    part = second[1]
    assert part["x"].tolist() == [3, 4, 5] and part["table"]["y"].tolist() == [13, 14, 15]
    assert part["table"]["deep"]["z"].tolist() == [3, 4, 5] and part["names"] == ["d", "e", "f"]
    assert [len(view) for view in part["views"]] == [3, 3] and part["views"][1].tolist()[0] == [6, 7]
    assert [len(row) for row in part["ragged"]] == [3, 4, 5]


class Placed(Alone):
    """Notes where its tensors lie."""

    seen: set[str]

    def loss(self, turn, batch, now):
        tensors = batch["in"]["deep"]["image"], *batch["views"]
        self.seen = {t.device.type for t in tensors}
        return Loss({"l": self.student(tensors[0]).square().mean()})


def test_tensors_in_tables_and_lists_are_moved_to_the_device(monkeypatch):
    moved: list[int] = []
    to = torch.Tensor.to

    def counted(self, *args, **kwargs):
        moved.append(id(self))
        return to(self, *args, **kwargs)

    held = Nested()[0]["views"], Nested()[0]["in"]["deep"]["image"]
    given = {"in": {"deep": {"image": held[1][None]}}, "views": [v[None] for v in held[0]]}

    class One(Nested):
        collate = staticmethod(lambda rows: given)

        def __len__(self) -> int:
            return 1

    monkeypatch.setattr(torch.Tensor, "to", counted)
    fit(Placed(net(0)), One(), Plan(**{**PLAN, "steps": 1}))
    assert {id(given["in"]["deep"]["image"]), *map(id, given["views"])} <= set(moved)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_in_tables_and_lists_reach_the_gpu():
    method = Placed(net(0))
    fit(method, Nested(), Plan(**{**PLAN, "device": "cuda"}))
    assert method.seen == {"cuda"}


def test_epochs_of_no_data_are_refused():
    with pytest.raises(UserError, match=r"^plan\.epochs: without a data set there are no epochs; give steps$"):
        fit(Alone(net(0)), None, Plan(epochs=1, device="cpu"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"batchsize": 3}, "plan.batchsize: unknown key 'batchsize'; did you mean 'batch_size'?"),
        ({"lr": "fast", "step": 3}, "plan.step: unknown key 'step'; did you mean 'steps'?"),
        ({"lr": "fast"}, "plan.lr: give a number from 0 up, got fast"),
        ({"optimizer": "adamx"}, "plan.optimizer: 'adamx' is not valid; did you mean 'adam' or 'adamw'?"),
        ({"epochs": 3}, "plan: give either steps or epochs"),
        ({"device": "cpuu"}, "plan.device: unknown device 'cpuu'; did you mean 'cpu'?"),
        ({"device": "meta"}, "plan.device: unknown device 'meta'; valid: auto, cpu, cuda, cuda:0, mps"),
        ({"turns": {"critic": {"lrr": 1}}}, "plan.turns.critic.lrr: unknown key 'lrr'; did you mean 'lr'?"),
        ({"turns": {"critic": {"lr": -1}}},
         "plan.turns.critic.lr: give a number from 0 up, got -1"),
    ],
    ids=str,
)  # fmt: skip
def test_a_mistake_in_a_plan_is_one_line_with_the_nearest_word(given, said):
    everything = {"steps": 3, **given}
    for make in (lambda: Plan(**everything), lambda: validated(Plan, everything, place="plan")):
        with pytest.raises(UserError) as refused:
            make()
        assert str(refused.value) == said


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1", "mps"])
def test_a_plan_may_name_a_device_that_is_not_here(device):
    assert Plan(steps=1, device=device).device == device


@pytest.mark.parametrize("label", [np.arange(8).astype(">i8"), np.array(list("abcdefgh")), [[1], [1, 2]] * 4])
def test_a_column_that_torch_has_no_type_for_is_one_line(label):
    given = {"image": torch.randn(8, 6), "label": label}
    with pytest.raises(UserError, match=r"data: column 'label' is no tensor .*; give numbers") as caught:
        fit(Alone(net(0)), given, Plan(steps=1, device="cpu"))
    assert "\n" not in str(caught.value)
