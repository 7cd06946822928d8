"""The harness of baselines, and what the survey's card says of all of them together."""

from __future__ import annotations

import csv
import io
import math
from operator import attrgetter

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from redistill.core import Plan, UserError, fit
from redistill.core.followers import same_weights
from redistill.core.method import bare_progress
from redistill.methods.analysis.survey import as_csv, as_markdown, compare, on_folds, ranked, recovery, train
from redistill.methods.analysis.survey.baselines import BASELINES, LABELS, Pair, carried
from redistill.models.nets import mlp, staged_convnet
from redistill.supervised.classifier import Classification

GENERATOR = torch.Generator().manual_seed(0)
DATA = {"image": torch.randn(24, 1, 8, 8, generator=GENERATOR), "label": torch.arange(24) % 3}
PLAN = Plan(epochs=2, batch_size=8, lr=0.01, optimizer="sgd", device="cpu")
STAGES = ("stage1", "stage2")
TAUGHT = [name for name, baseline in BASELINES.items() if baseline.kind in ("response", "feature", "relation")]


def cnn(*widths, seed=0):
    torch.manual_seed(seed)
    return staged_convnet(1, 3, widths)


def pair(student=(3, 4), teacher=(5, 6)):
    def make(k):
        return cnn(*student, seed=k)

    return Pair(cnn(*teacher, seed=9).eval(), make, (1, 8, 8), 3, STAGES, STAGES, "pool", "pool")


def measure(net):
    probability = net(DATA["image"]).detach().softmax(1)
    return {"accuracy": float((probability.argmax(1) == DATA["label"]).float().mean())}


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_trains_a_plain_student_and_leaves_the_teacher_alone(name):
    chosen = pair()
    before = {k: v.clone() for k, v in chosen.teacher.state_dict().items()}
    student, seconds, beside = train(name, chosen, DATA, PLAN)
    assert student.state_dict().keys() == cnn(3, 4).state_dict().keys() and not student.training
    assert all(torch.equal(v, before[k]) for k, v in chosen.teacher.state_dict().items())
    assert seconds > 0 and (beside > 0) == (name in ("fitnets", "crd", "dml", "byot"))
    alone = fit(Classification(chosen.student(0)), DATA, PLAN).student
    assert same_weights(student, alone) == (name == LABELS)


@pytest.mark.parametrize("name", [n for n in BASELINES if n not in ("labels", "born_again", "byot")])
def test_without_strength_a_baseline_is_labels_alone(name):
    alone = fit(Classification(pair().student(0)), DATA, PLAN).student
    student, _, _ = train(name, pair(), DATA, PLAN, 0.0)
    for a, b in zip(student.parameters(), alone.parameters()):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", [n for n in TAUGHT if n not in ("crd", "fitnets")])
def test_a_student_that_equals_its_teacher_has_nothing_to_learn_but_labels(name):
    teacher = cnn(5, 6, seed=9).eval()
    same = Pair(teacher, lambda k: cnn(5, 6, seed=9), (1, 8, 8), 3, STAGES, STAGES, "pool", "pool")
    method, now = BASELINES[name].make(same, DATA, PLAN).eval(), bare_progress()
    batch = method.prepare({**DATA, "index": torch.arange(24)}, now)
    taught = [v for k, v in method.loss("student", batch, now).terms.items() if k != "hard"]
    assert len(taught) == 1 and float(taught[0].detach().abs()) < 1e-6
    slopes = torch.autograd.grad(taught[0], list(method.student.parameters()), allow_unused=True)
    assert max(float(s.abs().max()) for s in slopes if s is not None) < 1e-4


def test_the_table_has_labels_gains_and_recoveries_best_first():
    rows = compare(pair(), DATA, PLAN, measure, ["kd", "attention"])
    assert {row.name for row in rows} == {LABELS, "kd", "attention"}
    scores = {row.name: row.scores["accuracy"] for row in rows}
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    best = measure(pair().teacher)["accuracy"]
    for row in rows:
        assert row.gain == pytest.approx(scores[row.name] - scores[LABELS])
        np.testing.assert_allclose(row.recovery, recovery(scores[row.name], scores[LABELS], best))
    lines = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert [line["baseline"] for line in lines] == [row.name for row in rows]
    assert as_markdown(rows).splitlines()[2].startswith(f"| {rows[0].name} | {rows[0].kind} |")


def test_strengths_reach_the_methods():
    weak = compare(pair(), DATA, PLAN, measure, {"attention": 0.0})
    assert {row.name: row.scores for row in weak}["attention"] == {row.name: row.scores for row in weak}[LABELS]


def test_folds_judge_every_row_once_and_never_by_a_student_that_saw_it(monkeypatch):
    trained, judged, pairs = [], [], []

    def made(rest):
        pairs.append((pair(), rest["label"].tolist()))
        return pairs[-1][0]

    def spy(name, given, data, plan, strength):
        seen = [rows for made, rows in pairs if made is given]
        assert seen == [data["label"].tolist()]  # the pair is made from what the student sees
        trained.append((strength, data["label"].tolist()))
        return nn.Identity(), 0.0, 0

    def score(net, held):
        assert held["image"].shape == (8, 1, 8, 8) and torch.equal(held["image"], data["image"][held["label"]])
        judged.append(held["label"].tolist())
        return float(len(judged))

    monkeypatch.setattr("redistill.methods.analysis.survey.train", spy)
    data = {"image": DATA["image"], "label": torch.arange(24)}
    assert on_folds("kd", made, data, PLAN, score, (1.0, 0.1), folds=3) == {1.0: 2.0, 0.1: 5.0}
    assert [strength for strength, _ in trained] == [1.0] * 3 + [0.1] * 3
    assert all(sorted(seen + held) == list(range(24)) for (_, seen), held in zip(trained, judged))
    assert sorted(row for held in judged[:3] for row in held) == list(range(24)) and judged[:3] == judged[3:]
    with pytest.raises(UserError, match="1 folds of 24 rows; give from 2"):
        on_folds("kd", made, data, PLAN, score, (1.0,), folds=1)


def test_folds_score_the_students_that_the_strengths_make():
    def total(net, held):
        return float(net(held["image"]).sum().detach())

    scores = on_folds("attention", lambda rest: pair(), DATA, PLAN, total, (0.0, 1.0))
    alone = on_folds(LABELS, lambda rest: pair(), DATA, PLAN, total, (1.0,))
    assert scores[0.0] == pytest.approx(alone[1.0]) and scores[1.0] != pytest.approx(alone[1.0])


def test_recovery_is_the_share_of_the_gap():
    assert recovery(0.8, 0.7, 0.9) == pytest.approx(0.5)
    assert np.isnan(recovery(0.8, 0.7, 0.7))


def test_ranking_is_by_mean_with_students_interval_of_paired_gains():
    values = {LABELS: [0.70, 0.80, 0.75], "kd": [0.72, 0.83, 0.76], "attention": [0.60, 0.79, 0.75]}
    places = ranked(values)
    assert [place.name for place in places] == ["kd", LABELS, "attention"]
    gains = np.subtract(values["kd"], values[LABELS])
    low, high = stats.t.interval(0.9, 2, gains.mean(), stats.sem(gains))
    assert (places[0].low, places[0].high) == pytest.approx((low, high))
    assert (places[1].gain, places[1].low, places[1].high) == (0, 0, 0)


def test_all_students_that_are_judged_start_alike():
    seen = []

    def make(k):
        seen.append(cnn(3, 4, seed=k))
        return seen[-1]

    for baseline in BASELINES.values():
        given = Pair(cnn(5, 6, seed=9).eval(), make, (1, 8, 8), 3, STAGES, STAGES, "pool", "pool")
        assert same_weights(baseline.make(given, DATA, PLAN).student, cnn(3, 4, seed=0))


PUBLISHED = {  # attributes of the method that each baseline fits
    "smoothing": {"rectifier.smoothing": 0.1},
    "tf_kd": {"hard_weight": 0.9, "soft_weight": 0.1, "correct": 0.99, "tau": 20, "temperature.tau": 1},
    "kd": {"hard_weight": 0.1, "soft_weight": 0.9, "temperature.tau": 4},
    "dkd": {"hard_weight": 1, "soft_weight": 1, "match.alpha": 1, "match.beta": 8, "temperature.tau": 4},
    "dist": {"hard_weight": 1, "soft_weight": 1, "match.beta": 1, "match.gamma": 1, "temperature.tau": 1},
    "fitnets": {"hard_weight": 1, "soft_weight": 0, "feature.weight": 100},
    "attention": {"hard_weight": 1, "soft_weight": 0, "feature.weight": 1000, "feature.power": 2},
    "rkd": {"hard_weight": 1, "soft_weight": 0, "feature.distance": 25, "feature.angle": 50},
    "crd": {"hard_weight": 1, "soft_weight": 0, "contrast_weight": 0.8, "tau": 0.07, "momentum": 0.5},
    "dml": {"weight": 1},
    "born_again": {"hard_weight": 1, "soft_weight": 1, "temperature.tau": 1},
    "byot": {"a": 0.1, "tau": 3, "beta": 1.3e-4},
    "cs_kd": {"weight": 1, "tau": 4},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_are_the_published_ones(name):
    method = BASELINES[name].make(pair(), DATA, PLAN)
    assert {path: attrgetter(path)(method) for path in PUBLISHED[name]} == pytest.approx(PUBLISHED[name])


def test_a_share_leaves_the_labels_the_rest():
    twice = BASELINES["kd"].make(pair(), DATA, PLAN, 0.5)
    assert (twice.hard_weight, twice.soft_weight) == pytest.approx((0.55, 0.45))
    for name, strength in (("kd", 1.2), ("tf_kd", 11), ("byot", 12), ("smoothing", 11), ("dkd", -1), ("rkd", math.nan),
                           ("cs_kd", math.inf)):  # fmt: skip
        with pytest.raises(UserError, match="give a finite number from 0 up"):
            train(name, pair(), DATA, PLAN, strength)


@pytest.mark.parametrize(
    ("rows", "changes", "part"),
    [(9, {}, "1 of 9 rows are left for the last batch, too few to be related; set drop_last: true"),
     (16, {"accumulate": 4}, "8 rows in 4 micro-batches; give each 3 or more")],
)  # fmt: skip
def test_batches_too_small_to_relate_are_refused_before_any_training(rows, changes, part):
    few, kept = {name: column[:rows] for name, column in DATA.items()}, []
    with pytest.raises(UserError, match=part):
        compare(pair(), few, PLAN.model_copy(update=changes), measure, ["rkd"], keep=kept.append)
    assert not kept
    compare(pair(), few, PLAN.model_copy(update={"drop_last": True}), measure, ["rkd"], keep=kept.append)
    assert [len(rows) for rows in kept] == [1, 2]


class Tokens(nn.Module):
    """Patches of ``size`` pixels a side as tokens."""

    def __init__(self, size, width):
        super().__init__()
        self.patches, self.head = nn.Conv2d(1, width, size, size), nn.Linear(width, 3)
        self.block, self.pool = nn.Identity(), nn.Identity()

    def forward(self, image):
        return self.head(self.pool(self.block(self.patches(image).flatten(2).transpose(1, 2)).mean(1)))


@pytest.mark.parametrize(("size", "carries"), [(4, True), (2, False), (8, False)])
def test_tokens_are_matched_where_both_have_equally_many(size, carries):
    given = Pair(Tokens(4, 6).eval(), lambda k: Tokens(size, 5), (1, 8, 8), 3, ("block",), ("block",), "pool", "pool")
    left_out = set(BASELINES) - set(carried(given))
    assert left_out == (set() if carries else {"attention", "fitnets"})
    for name in left_out:
        with pytest.raises(UserError, match="4 of the teacher; name other layers"):
            train(name, given, DATA, PLAN)


def test_a_perceptron_learns_from_the_same_teacher():
    def make(k):
        torch.manual_seed(k)
        return mlp(64, 3, (6, 5))

    cross = Pair(cnn(5, 6).eval(), make, (1, 8, 8), 3, ("2", "4"), ("stage2", "pool"), "4", "pool")
    assert len(compare(cross, DATA, PLAN, measure, [n for n in BASELINES if n != "attention"])) == len(BASELINES) - 1
    with pytest.raises(UserError, match="attention needs"):
        train("attention", cross, DATA, PLAN)


def test_wrong_names_and_runs_are_refused():
    with pytest.raises(UserError, match="did you mean 'fitnets'"):
        train("fitnet", pair(), DATA, PLAN)
    with pytest.raises(UserError, match="two or more"):
        ranked({LABELS: [0.7], "kd": [0.8]})
    with pytest.raises(UserError, match="the same runs"):
        ranked({LABELS: [0.7, 0.8], "kd": [0.8]})
