"""BOSS: in a hyper-parameter search every trial starts from one good checkpoint of an earlier trial and is taught by
another, on the task's own rows, with squared error on logits.

    L = alpha CE(z_S, y) + (1 - alpha) MSE(z_S, z_T),    (config, alpha) ~ BO,    S_0, T = two of the K best so far
                                                                        (Lee et al. 2023)

Roles: student (trained), teacher (frozen, evaluation mode). Two studies: ``warm_up`` trials from scratch without alpha,
then trials that inherit; the scores of the first never reach the second's optimiser, its checkpoints do. RNG: the two
checkpoints are drawn from (seed, place of the trial).

Differs from the paper: the score is what the caller's ``train`` says, by rule that of the last epoch on validation rows
(the paper keeps the best epoch). A trial's rows come as ``data`` gives them: the paper's crops and mirror images, the
same for both networks, are the caller's to make. A trial that diverges counts as worse than any other, and has no
checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from redistill.core import Diverged, Method, Plan, UserError, fit
from redistill.core.progress import seed_of
from redistill.core.slot import Configured
from redistill.core.types import Count, CountOrZero, Seed, Share, TwoOrMore
from redistill.methods.supervised.boss.pool import Pool, Weights
from redistill.methods.supervised.boss.trials import Finished, Trials, describe_space, name_of
from redistill.supervised.classifier import Classification, Distillation
from redistill.supervised.matches import LogitMse


class Boss(Distillation):
    """The training of one trial that inherits."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        alpha: Share = 0.5,  # weight of the labels; the rest goes to the teacher's logits
    ) -> None:
        super().__init__(student, teacher, match=LogitMse(), hard_weight=alpha, soft_weight=1 - alpha)


@dataclass(frozen=True)
class Job:
    """What a trial is to do: hyper-parameters, a seed, the weights to start from and to be taught by (or None)."""

    config: dict[str, Any]
    seed: int
    alpha: float = 1.0
    start: Weights | None = None
    teacher: Weights | None = None


Train = Callable[[Job], tuple[float, nn.Module]]  # -> score on validation rows, to be maximised, and the network


def trainer(
    make: Callable[[], nn.Module], data: Any, plan: Callable[[Job], Plan], score: Callable[[nn.Module], float]
) -> Train:
    """A :data:`Train` for classifiers: ``make()`` gives a new network, ``plan(job)`` turns hyper-parameters into a
    budget, ``score`` measures the network after the last step."""

    def train(job: Job) -> tuple[float, nn.Module]:
        with torch.random.fork_rng():
            torch.manual_seed(job.seed)
            student, teacher = make(), make() if job.teacher else None
        if job.start:
            student.load_state_dict(job.start)
        method: Method = Classification(student)
        if teacher is not None and job.teacher:
            teacher.load_state_dict(job.teacher)
            method = Boss(student, teacher.requires_grad_(False), alpha=job.alpha)
        fit(method, data, plan(job))
        return score(student), student

    return train


class Search(Configured):
    """A search in ``folder``: trials in a database, checkpoints beside it. A killed one goes on where it was, and
    several processes may work on one folder.

    ``space(trial)``: hyper-parameters from ``trial.suggest_float`` and the like (Optuna's words); they may not change
    the shape of the network. Raises :class:`UserError` when the folder holds another search.
    """

    def __init__(
        self,
        folder: str | Path,
        space: Callable[[Any], dict[str, Any]],
        *,
        warm_up: CountOrZero = 32,  # trials that start from nothing
        trials: Count = 128,  # all of them
        top: TwoOrMore = 8,  # how many of the best may be inherited from
        keep: Count | None = None,  # checkpoints on disk; twice the top if left out
        warm_start: bool = True,  # without it every student begins anew
        distil: bool = True,  # without it there is no teacher and no alpha
        seed: Seed = 0,
        sampler: Callable[[int], Any] | None = None,
    ) -> None:
        if warm_up > trials:
            raise UserError(f"warm_up={warm_up} of trials={trials}; give 0 to {trials}", place="boss")
        self.space, self.seed, self.top = space, seed, top
        self.warm_start, self.distil = warm_start, distil
        self.limits = {"warm-up": warm_up, "boss": trials - warm_up}
        identity = {"warm_up": warm_up, "top": top, "warm_start": warm_start, "distil": distil,
                    "space": describe_space(space)}  # fmt: skip
        self.trials = Trials(Path(folder), self.limits, seed=seed, identity=identity, sampler=sampler)
        self.pool = Pool(Path(folder) / "pool", limit=max(keep or 2 * top, top + 1))

    def run(self, train: Train) -> list[Finished]:
        """Work until all trials are told; the finished ones, best first."""
        for study, limit in self.limits.items():
            while (asked := self.trials.ask(study, limit)) is not None:
                self._trial(study, *asked, train)
        return self.ranked()

    def ranked(self) -> list[Finished]:
        """The finished trials, best first."""
        return self.trials.ranked()

    def weights(self, trial: Finished) -> Weights:
        """The checkpoint of one of the ``top`` best trials."""
        return self.pool.read(trial.name)

    def _trial(self, study: str, trial: Any, place: int, train: Train) -> None:
        try:
            score, network = train(self._job(study, trial, place))
            if score is None:
                raise UserError("train gave None; return a number", place="score")
            self.pool.put(name_of(study, trial.number), network.state_dict())
        except Diverged:
            score = math.nan
        except BaseException:
            self.trials.give_up(study, trial)
            raise
        self.trials.tell(study, trial, score if math.isfinite(score) else None)
        self.pool.trim(spare={best.name for best in self.ranked()[: self.top]})

    def _job(self, study: str, trial: Any, place: int) -> Job:
        seed = seed_of(self.seed, study, place, "training") % 2**32
        config = self.space(trial)
        if study == "warm-up":
            return Job(config, seed)
        alpha = trial.suggest_float("alpha", 0, 1) if self.distil else 1.0
        start, teacher = self._inherit(trial, np.random.default_rng(seed_of(self.seed, study, place, "pair")))
        return Job(config, seed, alpha, start if self.warm_start else None, teacher if self.distil else None)

    def _inherit(self, trial: Any, rng: np.random.Generator) -> tuple[Weights, Weights] | tuple[None, None]:
        """Two different checkpoints among the best; none while there are fewer than two."""
        best = [t.name for t in self.ranked() if t.name in self.pool][: self.top]
        if len(best) < 2:
            return None, None
        names = [best[k] for k in rng.choice(len(best), 2, replace=False)]
        try:
            pair = self.pool.read(names[0]), self.pool.read(names[1])
        except FileNotFoundError:  # another process has found better ones meanwhile
            return self._inherit(trial, rng)
        trial.set_user_attr("start", names[0] if self.warm_start else "")
        trial.set_user_attr("teacher", names[1] if self.distil else "")
        return pair
