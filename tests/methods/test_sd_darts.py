"""The card's exact properties of SD-DARTS and of the search it regularises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from redistill.core import Loss, Method, Plan, Progress, UserError, describe, fit
from redistill.core.followers import same_weights
from redistill.core.method import Again, bare_progress
from redistill.methods.supervised.sd_darts import MajorityVote, SdDarts, SoftVote
from redistill.models.cells import CellNet
from redistill.procedures import sd_darts
from redistill.procedures.job import Job
from redistill.rivals.darts import Architecture, Darts, Halves, discretise, halves, one_hot_mixture

GENERATOR = torch.Generator().manual_seed(0)
ROWS = {"image": torch.randn(40, 1, 6, 6, generator=GENERATOR), "label": torch.arange(40) % 3}
PAIRS = halves(ROWS)
EDGES = ((0, 1), (0, 2), (1, 2))
SMALL = {"widths": (4, 4), "nodes": 3}
NOWHERE = Path("nothing-is-written-here")
TURNS = {"architecture": {"optimizer": "adam", "lr": 0.05, "betas": (0.5, 0.999), "weight_decay": 1e-3}}


def net(norm="statistics"):
    torch.manual_seed(1)
    return CellNet(1, 3, norm=norm, **SMALL)


def made(cls=SdDarts, norm="statistics", **options):
    return cls(net(norm), **{"warmup": 0.0, **options})


def search(student, *, rows, plan, folder, resume=False, **options):
    return sd_darts.run(Job(folder, rows=rows, plan=plan, resume=resume), student, **options)


def plan(epochs=4, **changes):
    given = {"epochs": epochs, "batch_size": 8, "lr": 0.1, "optimizer": "sgd", "device": "cpu", "turns": TURNS}
    return Plan(**{**given, **changes})


def batch(rows=8):
    return {name: column[:rows] for name, column in PAIRS.items()} | {"index": torch.arange(rows)}


class Plain(Method):
    """First-order DARTS written down by itself: two cross-entropies on two halves."""

    trains = {"architecture": ["architecture"], "weights": ["student"]}

    def __init__(self, student):
        super().__init__()
        self.student, self.architecture = student, Architecture(3, 5)

    def turns(self, now):
        return ("architecture", Again("weights"))

    def loss(self, turn, batch, now):
        half = "val_" if turn == "architecture" else ""
        z = self.student(batch[f"{half}image"], self.architecture.alpha.softmax(-1))
        return Loss({"ce": cross_entropy(z, batch[f"{half}label"])})

    def export(self):
        return self.student


def test_without_weight_it_is_darts_to_the_bit():
    plain, zero, taught = Plain(net()), made(soft_weight=0.0), made()
    for method in (plain, zero, taught):
        fit(method, PAIRS, plan())
    assert same_weights(plain.student, zero.student) and same_weights(plain.architecture, zero.architecture)
    assert not same_weights(plain.student, taught.student)


def test_the_first_epoch_has_no_teacher():
    plain, taught = Plain(net()), made()
    fit(plain, PAIRS, plan(epochs=1))
    fit(taught, PAIRS, plan(epochs=1))
    assert same_weights(plain.student, taught.student)
    assert taught.teachers() == []


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_teacher_with_the_same_weights_and_alpha_has_nothing_to_teach(temperature):
    method = made(snapshots=1, temperature=temperature).double()
    doubled = {k: v.double() if v.is_floating_point() else v for k, v in batch().items()}
    given = method.prepare(doubled, Progress(epoch=1, epochs=4))
    past = method.loss("weights", given, bare_progress()).terms["past"]
    assert abs(past.item()) < 1e-12
    gradient = torch.autograd.grad(past, list(method.student.parameters()))
    assert max(float(g.abs().max()) for g in gradient) < 1e-12
    with torch.no_grad():
        method.architecture.alpha += torch.randn(3, 5, generator=GENERATOR)
    assert method.loss("weights", given, bare_progress()).terms["past"].item() > 1e-6  # its alpha is its own


def test_the_term_is_t_squared_kl_from_the_mean_of_the_snapshots():
    method = made(snapshots=2, temperature=3.0, soft_weight=0.7)
    for epoch in (1, 2):
        method.prepare(batch(), Progress(epoch=epoch, epochs=4))
        with torch.no_grad():
            [p.add_(0.1 * torch.randn(p.shape, generator=GENERATOR)) for p in method.student.parameters()]
    given = method.prepare(batch(), Progress(epoch=2, epochs=4))
    said = [(t(given["image"]) / 3).softmax(1) for t in method.teachers()]
    mean, z = (said[0] + said[1]) / 2, method.searched(given["image"])
    expected = 0.7 * 9 * (mean * (mean.log() - (z / 3).log_softmax(1))).sum(1).mean()
    terms = method.loss("weights", given, bare_progress()).terms
    torch.testing.assert_close(terms["past"], expected)
    torch.testing.assert_close(terms["ce"], cross_entropy(z, given["label"]))
    assert set(method.loss("architecture", given, bare_progress()).terms) == {"ce"}


def test_votes():
    p = torch.rand(3, 5, 4, generator=GENERATOR).softmax(-1)
    torch.testing.assert_close(SoftVote()(p[:1].expand(3, -1, -1)), p[0])
    one = torch.tensor([[[0.6, 0.4]], [[0.9, 0.1]], [[0.2, 0.8]]])
    torch.testing.assert_close(MajorityVote()(one), torch.tensor([[2 / 3, 1 / 3]]))
    torch.testing.assert_close(SoftVote()(one), torch.tensor([[1.7 / 3, 1.3 / 3]]))


def test_the_queue_holds_the_ends_of_the_last_k_epochs():
    method, ends = made(snapshots=2), []

    def watch(now, row, method):
        ends.append({k: v.clone() for k, v in method.searched.state_dict().items()})

    fit(method, PAIRS, plan(epochs=4, log_every=3), observers=(watch,))  # 20 pairs in batches of 8: 3 steps an epoch
    held = [teacher.net.state_dict() for teacher in method.teachers()]
    for mine, end in zip(held, (ends[2], ends[1])):  # the third snapshot took the place of the first
        assert mine.keys() == end.keys() and all(torch.equal(mine[k], end[k]) for k in end)
    assert not torch.equal(ends[2]["architecture.alpha"], ends[1]["architecture.alpha"])


def test_every_second_epoch():
    method = made(snapshots=3, every=2)
    fit(method, PAIRS, plan(epochs=4))
    assert len(method.teachers()) == 1


def test_the_architecture_learns_from_the_past_only_when_asked():
    method = made(distil_alpha=True)
    given = method.prepare(batch(), Progress(epoch=1, epochs=4))
    assert set(method.loss("architecture", given, bare_progress()).terms) == {"ce", "past"}


def test_warm_up_leaves_the_architecture_alone():
    method = made(warmup=0.5)
    begin = method.architecture.alpha.detach().clone()
    fit(method, PAIRS, plan(epochs=None, steps=8), until=4)
    assert torch.equal(method.architecture.alpha, begin)
    fit(method, PAIRS, plan(epochs=None, steps=2))
    assert not torch.equal(method.architecture.alpha, begin)


@pytest.mark.parametrize("norm", ["statistics", "group"])
def test_one_hot_supernet_is_the_network_cut_out(norm):
    supernet, words = net(norm), ["skip", "conv3x3", "avg_pool3x3"]
    mixture = one_hot_mixture(words, supernet.operations)
    derived = supernet.derive(words)
    torch.testing.assert_close(supernet(ROWS["image"], mixture), derived(ROWS["image"]))
    other = supernet(ROWS["image"], one_hot_mixture(["conv1x1", *words[1:]], supernet.operations))
    assert not torch.allclose(other, derived(ROWS["image"]))
    assert sum(p.numel() for p in derived.parameters()) < sum(p.numel() for p in supernet.parameters())


def test_a_cell_is_the_sum_of_its_edges():
    cell = CellNet(1, 3, genotype=["skip", "none", "skip"], **SMALL).body["stage0_0"]
    x = torch.randn(2, 4, 5, 5, generator=GENERATOR)
    torch.testing.assert_close(cell(x), x)
    both = CellNet(1, 3, genotype=["skip", "skip", "skip"], **SMALL).body["stage0_0"]
    torch.testing.assert_close(both(x), 2 * x)


def test_discretise_by_either_rule():
    operations = ("none", "skip", "conv3x3")
    mixture = torch.tensor([[0.6, 0.1, 0.3], [0.1, 0.5, 0.4], [0.5, 0.3, 0.2]])
    assert discretise(mixture, operations, EDGES) == ["none", "skip", "none"]
    assert discretise(mixture, operations, EDGES, keep=2) == ["conv3x3", "skip", "skip"]
    assert discretise(mixture, operations, EDGES, keep=1) == ["conv3x3", "skip", "none"]


def test_second_order_is_the_gradient_through_one_step():
    xi = 0.3
    method = made(cls=Darts, norm="group", unroll=xi).double()
    given = {k: v.double() if v.is_floating_point() else v for k, v in batch().items()}
    (slope,) = torch.autograd.grad(method.loss("architecture", given, bare_progress()).total, method.architecture.alpha)

    def ahead(alpha):
        there = CellNet(1, 3, norm="group", **SMALL).double()
        there.load_state_dict(method.student.state_dict())
        parameters = list(there.parameters())
        loss = cross_entropy(there(given["image"], alpha.softmax(-1)), given["label"])
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters)):
            p.data -= xi * g
        return cross_entropy(there(given["val_image"], alpha.softmax(-1)), given["val_label"]).detach()

    step, alpha = 1e-5, method.architecture.alpha.detach()
    for edge, operation in ((0, 2), (1, 1), (2, 4)):
        move = torch.zeros_like(alpha)
        move[edge, operation] = step
        measured = (ahead(alpha + move) - ahead(alpha - move)) / (2 * step)
        torch.testing.assert_close(slope[edge, operation], measured, rtol=1e-5, atol=1e-8)


def test_halves_are_disjoint_and_cover_all_rows():
    columns = {"row": torch.arange(11)}
    pairs = halves(columns, seed=3)
    together = torch.cat([pairs["row"], pairs["val_row"]])
    assert len(pairs["row"]) == len(pairs["val_row"]) == 5 and len(set(together.tolist())) == 10
    items = halves([{"row": i} for i in range(11)], seed=3)
    assert isinstance(items, Halves)
    assert [items[i] for i in range(5)] == [
        {"row": int(a), "val_row": int(b)} for a, b in zip(pairs["row"], pairs["val_row"])
    ]


def test_search_writes_an_architecture_and_a_trained_network(tmp_path):
    from safetensors.torch import load_model

    supernet = net()
    said = search(supernet, rows=ROWS, plan=plan(epochs=2), folder=tmp_path, retrain_epochs=1, keep=2)
    found = json.loads((tmp_path / "architecture.json").read_text())
    assert len(found["genotype"]) == 3 and " ".join(found["genotype"]) in said
    assert all(abs(sum(row) - 1) < 1e-5 for row in found["mixture"])
    again = supernet.fresh(found["genotype"])
    load_model(again, str(tmp_path / "model.safetensors"))
    assert again.eval()(ROWS["image"]).shape == (40, 3)


def test_search_hands_every_option_to_its_method(tmp_path, monkeypatch):
    given = {"snapshots": 2, "every": 3, "soft_weight": 0.4, "temperature": 2.5, "vote": MajorityVote(),
             "distil_alpha": True, "warmup": 0.2, "unroll": 0.01, "keep": 1}  # fmt: skip
    made = []

    def spy(student, **options):
        made.append(options)
        return SdDarts(student, **options)

    monkeypatch.setattr("redistill.procedures.sd_darts.SdDarts", spy)
    search(net(), rows=ROWS, plan=plan(epochs=1), folder=tmp_path, retrain_epochs=0, **given)
    assert made == [given]


@pytest.mark.parametrize("epochs", [2, 4])  # killed half-way, killed before the network is trained anew
def test_a_search_that_was_killed_goes_on_to_the_same_bits(tmp_path, epochs):
    from safetensors.torch import load_file

    def run(folder, resume=False):
        search(net(), rows=ROWS, plan=plan(epochs=4), folder=folder, retrain_epochs=1, resume=resume)
        return load_file(folder / "model.safetensors")

    whole, killed = run(tmp_path / "whole"), tmp_path / "killed"
    fit(made(warmup=0.1), halves(ROWS, 0), plan(epochs=4), folder=killed / "search", until=3 * epochs)
    with pytest.raises(UserError, match="holds another run"):
        run(killed)
    for again in (run(killed, resume=True), run(killed, resume=True)):  # the second time nothing is left to do
        assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


def test_the_network_is_trained_anew_with_the_optimiser_of_the_weights(tmp_path):
    turns = {**TURNS, "weights": {"optimizer": "adam", "lr": 0.02}}
    search(net(), rows=ROWS, plan=plan(epochs=1, turns=turns), folder=tmp_path, retrain_epochs=1)
    first = json.loads((tmp_path / "retrain" / "log.jsonl").read_text().splitlines()[0])
    assert first["lr"] == 0.02


def test_alpha_starts_near_an_even_mixture():
    torch.manual_seed(0)
    assert Architecture(100, 100).alpha.std().item() == pytest.approx(1e-3, rel=0.05)


def test_defaults_are_the_cards():
    shown = {"snapshots": 3, "every": 1, "soft_weight": 1.0, "temperature": 1.0, "vote": None, "warmup": 0.1}
    assert {name: describe(SdDarts(net()))[name] for name in shown} == shown


class Cut(torch.nn.Module):
    """A supernet that knows the contract of a search and nothing else."""

    def __init__(self):
        super().__init__()
        self.net = net()
        self.operations, self.edges, self.derive = self.net.operations, self.net.edges, self.net.derive

    def forward(self, image, mixture):
        return self.net(image, mixture)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: made(snapshots=0), "snapshots=0"),
        (lambda: made(soft_weight=float("nan")), "soft_weight=nan"),
        (lambda: made(soft_weight=-1.0), "soft_weight=-1"),
        (lambda: made(unroll=-0.1), "unroll=-0.1"),
        (lambda: made(keep=0), "keep=0"),
        (lambda: made(norm="batch"), r"stem\.1 keeps running statistics"),
        (lambda: search(net(), rows=ROWS, plan=plan(), folder=NOWHERE, retrain_epochs=-1), "retrain_epochs=-1"),
        (lambda: search(Cut(), rows=ROWS, plan=plan(), folder=NOWHERE), "no 'fresh'"),
        (lambda: made(temperature=0.0), "temperature=0.0"),
        (lambda: made(warmup=1.0), "warmup=1.0"),
        (lambda: SdDarts(torch.nn.Linear(2, 2)), "no supernet"),
        (lambda: CellNet(1, 3, operations=("skip", "conv3")), "conv3"),
        (lambda: CellNet(1, 3, nodes=3, genotype=["skip"]), "1 operations for 3 edges"),
        (lambda: halves({"image": ROWS["image"][:1]}), "two or more"),
        (lambda: fit(made(), ROWS, plan()), "'val_image'"),
    ],
)
def test_wrong_input_is_refused(make, part):
    with pytest.raises(UserError, match=part):
        make()
