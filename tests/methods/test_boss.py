"""The card's exact properties of BOSS, and a search that is killed, shared and refused."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys

import numpy as np
import optuna
import pytest
import torch

from redistill.core import Diverged, Plan, UserError, fit
from redistill.core.followers import same_weights
from redistill.core.progress import Progress
from redistill.core.slot import options
from redistill.methods.supervised.boss import Boss, Job, Search, trainer
from redistill.methods.supervised.boss.pool import Pool
from redistill.models.nets import mlp

GENERATOR = torch.Generator().manual_seed(0)
DATA = {"image": torch.randn(24, 6, generator=GENERATOR), "label": torch.arange(24) % 3}
BATCH = {**DATA, "index": torch.arange(24)}


def make():
    return mlp(6, 3, (5,))


def normalised():
    return torch.nn.Sequential(
        torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5), torch.nn.Dropout(), torch.nn.Linear(5, 3)
    )


def plan(job):
    return Plan(steps=4, batch_size=8, lr=job.config.get("lr", 0.1), optimizer="sgd", seed=job.seed, device="cpu")


@torch.no_grad()
def score(net):
    return float((net(DATA["image"]).argmax(1) == DATA["label"]).float().mean())


def space(trial):
    return {"lr": trial.suggest_float("lr", 1e-3, 1, log=True)}


def search(folder, **changes):
    return Search(folder, **{"space": space, "warm_up": 4, "trials": 9, "top": 3, "seed": 5, **changes})


class Spy:
    """Remembers the jobs; may stop as if killed."""

    def __init__(self, stop_at=None):
        self.jobs, self.stop_at, self.train = [], stop_at, trainer(make, DATA, plan, score)

    def __call__(self, job):
        if len(self.jobs) == self.stop_at:
            raise KeyboardInterrupt
        self.jobs.append(job)
        return self.train(job)


def weights(seed):
    torch.manual_seed(seed)
    return make().state_dict()


def test_alpha_one_from_nothing_is_a_plain_trial_to_the_bit():
    train = trainer(make, DATA, plan, score)
    plain = train(Job({"lr": 0.3}, seed=1))[1]
    assert same_weights(train(Job({"lr": 0.3}, seed=1, alpha=1.0, teacher=weights(7)))[1], plain)
    assert not same_weights(train(Job({"lr": 0.3}, seed=1, alpha=0.9, teacher=weights(7)))[1], plain)
    assert not same_weights(train(Job({"lr": 0.3}, seed=1, alpha=1.0, start=weights(7)))[1], plain)


def test_teacher_and_its_batch_norm_do_not_change():
    torch.manual_seed(0)
    teacher = normalised()
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    assert teacher.training  # as a user may give it
    fit(Boss(normalised(), teacher, alpha=0.2), DATA, plan(Job({}, 0)))
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def test_student_equal_to_its_teacher_has_no_loss_without_labels():
    torch.manual_seed(0)
    student, teacher = make(), make()
    teacher.load_state_dict(student.state_dict())
    method = Boss(student, teacher, alpha=0.0)
    assert method.loss("student", method.prepare(BATCH, Progress()), Progress()).total == 0


def test_loss_is_the_card_s_on_raw_logits():
    torch.manual_seed(0)
    method = Boss(make(), make(), alpha=0.3)
    z_s, z_t = method.student(DATA["image"]), method.teacher(DATA["image"])
    expected = 0.3 * torch.nn.functional.cross_entropy(z_s, DATA["label"]) + 0.7 * ((z_s - z_t) ** 2).mean()
    torch.testing.assert_close(method.loss("student", method.prepare(BATCH, Progress()), Progress()).total, expected)


def test_pairs_are_two_of_the_best_that_were_there(tmp_path):
    begun, scores = search(tmp_path), {}

    def train(job):
        place = len(scores)
        scores[place] = [0.1, 0.9, 0.5, 0.7, 0.2, 0.95, 0.3, 0.4, 0.6][place]
        return scores[place], make()

    begun.run(train)
    finished = {t.name: t for t in begun.ranked()}
    assert len(finished) == 9 and begun.ranked()[0].score == 0.95
    for number in range(5):
        there = sorted(list(scores.values())[: 4 + number], reverse=True)[:3]
        notes = finished[f"boss-{number:05d}"].notes
        assert notes["start"] != notes["teacher"]
        assert {finished[notes["start"]].score, finished[notes["teacher"]].score} <= set(there)


def test_both_of_a_pair_are_drawn_at_random(tmp_path):
    begun = search(tmp_path)
    begun.run(Spy())
    seen = set()

    class Noted(dict):
        set_user_attr = dict.__setitem__

    for seed in range(60):
        noted = Noted()
        begun._inherit(noted, np.random.default_rng(seed))
        seen.add((noted["start"], noted["teacher"]))
    assert len(seen) == 6  # every ordered pair of the three best


def test_defaults_are_the_papers():
    given = {name: p.default for name, p in options(Search).items()}
    shown = {"warm_up": 32, "trials": 128, "top": 8, "warm_start": True, "distil": True}
    assert {name: given[name] for name in shown} == shown


def test_warm_up_scores_stay_out_of_the_second_study(tmp_path):
    begun = search(tmp_path)
    begun.run(Spy())
    sizes = {name: len(study.get_trials()) for name, study in begun.trials.studies.items()}
    assert sizes == {"warm-up": 4, "boss": 5}
    assert all(("alpha" in t.config) == (t.study == "boss") for t in begun.ranked())


@pytest.mark.parametrize(("part", "missing"), [("warm_start", "start"), ("distil", "teacher")])
def test_each_part_can_be_left_out(tmp_path, part, missing):
    spy = Spy()
    search(tmp_path, **{part: False}).run(spy)
    kept = {"start": "teacher", "teacher": "start"}[missing]
    assert all(getattr(job, missing) is None and getattr(job, kept) is not None for job in spy.jobs[4:])
    assert all((job.alpha == 1) == (missing == "teacher") for job in spy.jobs[4:])


def test_interrupted_search_proposes_what_the_whole_one_does(tmp_path):
    whole, first, second = Spy(), Spy(stop_at=6), Spy()
    search(tmp_path / "a").run(whole)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "b").run(first)
    search(tmp_path / "b").run(second)
    jobs = first.jobs + second.jobs
    assert [(j.config, j.seed, j.alpha) for j in jobs] == [(j.config, j.seed, j.alpha) for j in whole.jobs]
    for a, b in zip(jobs, whole.jobs):
        assert (a.start is None) == (b.start is None)
        assert all(torch.equal(a.start[key], b.start[key]) for key in a.start or ())


def die(folder):
    def train(job):
        os.kill(os.getpid(), signal.SIGKILL)

    search(folder).run(train)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_trial_of_a_killed_process_is_given_away_anew(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=die, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(search(tmp_path).run(Spy())) == 9
    assert search(tmp_path).trials.studies["warm-up"].get_trials()[0].state.name == "FAIL"


def test_trial_under_way_elsewhere_is_left_alone(tmp_path):
    one, other = search(tmp_path), search(tmp_path)
    trial, place = one.trials.ask("warm-up", 4)
    assert [other.trials.ask("warm-up", 4)[1] for _ in range(3)] == [1, 2, 3] and place == 0
    assert other.trials.ask("warm-up", 4) is None
    one.trials.give_up("warm-up", trial)
    assert other.trials.ask("warm-up", 4)[1] == 0


def test_diverged_trial_counts_and_leaves_no_checkpoint(tmp_path):
    calls = []

    def train(job):
        calls.append(job)
        if len(calls) == 2:
            raise Diverged("nan")
        return 0.5, make()

    begun = search(tmp_path)
    assert len(begun.run(train)) == 8 and len(calls) == 9
    assert "warm-up-00001" not in begun.pool


def test_pool_forgets_the_least_recently_used_and_spares_the_best(tmp_path):
    pool = Pool(tmp_path, limit=2)
    for name in "abc":
        pool.put(name, {"w": torch.zeros(2)})
        os.utime(pool._file(name), ns=(ord(name), ord(name)))
    pool.read("a")
    pool.trim(spare=["b"])
    assert [name in pool for name in "abc"] == [True, True, False]


def test_search_keeps_no_more_than_it_says(tmp_path):
    begun = search(tmp_path, keep=4)
    begun.run(Spy())
    assert len(begun.pool) == 4
    assert begun.weights(begun.ranked()[0]).keys() == make().state_dict().keys()


def test_other_search_in_the_folder_is_refused(tmp_path):
    search(tmp_path)
    for changes, part in (({"seed": 6}, "seed is 5, here 6"), ({"distil": False}, "distil"), ({"top": 4}, "top")):
        with pytest.raises(UserError, match=part):
            search(tmp_path, **changes)
    for other in ((1e-3, 1, False), (1e-3, 2, True)):  # once Optuna would refuse it later, once it would not
        with pytest.raises(UserError, match=r"space is .*here"):
            search(tmp_path, space=lambda trial, o=other: {"lr": trial.suggest_float("lr", *o[:2], log=o[2])})
    with pytest.raises(UserError, match="sampler is 'TPESampler', here 'RandomSampler'"):
        search(tmp_path, sampler=lambda seed: optuna.samplers.RandomSampler(seed=seed))
    search(tmp_path, trials=20)  # more trials are welcome


def test_a_trial_without_a_score_is_reported(tmp_path):
    with pytest.raises(UserError, match="score: train gave None"):
        search(tmp_path).run(lambda job: (None, make()))


def test_network_of_another_shape_is_refused(tmp_path):
    widths = iter((5, 6))
    with pytest.raises(UserError, match="changes the network's shape"):
        search(tmp_path).run(lambda job: (0.5, mlp(6, 3, (next(widths),))))


WRONG = [({"warm_up": 10}, "warm_up=10 of trials="), ({"top": 1}, "search: top=1")]


@pytest.mark.parametrize(("changes", "part"), WRONG)
def test_wrong_numbers_are_refused(tmp_path, changes, part):
    with pytest.raises(UserError, match=part):
        search(tmp_path, **changes)
    with pytest.raises(UserError, match="alpha=2"):
        Boss(make(), make(), alpha=2)


def test_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install 'redistill\[search\]'"):
        search(tmp_path)
