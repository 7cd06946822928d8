"""Trials of a hyper-parameter search in a database: asked for and told by any number of processes, each of which may
be killed.

Optuna proposes and stores (SQLite). What is added: every proposal is a function of (seed, study, place in the study)
and of the trials told before, so a search that was killed and started again proposes what it would have proposed; and
a trial whose process is gone is buried and its place given away anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from redistill.core import UserError
from redistill.core.errors import need
from redistill.core.progress import seed_of


@dataclass(frozen=True)
class Finished:
    """A trial that has a score: its study, its number there, what was tried, and what was noted about it."""

    study: str
    number: int
    score: float
    config: dict[str, Any]
    notes: dict[str, Any]

    @property
    def name(self) -> str:
        """One word for it, unique in the database."""
        return name_of(self.study, self.number)


def name_of(study: str, number: int) -> str:
    """The name of a trial, told or not."""
    return f"{study}-{number:05d}"


def load_optuna() -> Any:
    """The package. Raises :class:`UserError` that says what to install."""
    try:
        import optuna
    except ImportError as error:
        raise need("search", "optuna") from error
    return optuna


def tree_parzen(seed: int) -> Any:
    """Optuna's tree-structured Parzen estimator; trials under way count as bad, so that workers spread out."""
    return load_optuna().samplers.TPESampler(seed=seed, constant_liar=True)


def describe_space(space: Callable[[Any], Any]) -> dict[str, str]:
    """What ``space`` asks a trial for, by name: told by a trial of no database, so that it does not meet an older
    answer there."""
    optuna = load_optuna()
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    space(trial)
    return {name: optuna.distributions.distribution_to_json(kind) for name, kind in trial.distributions.items()}


def _database(optuna: Any, file: Path) -> Any:
    """Optuna's storage in one SQLite file that writes ahead: a trial then costs milliseconds instead of tenths of a
    second, and a killed process loses nothing that was told."""
    from sqlalchemy import event

    patience = {"connect_args": {"timeout": 60}}  # seconds to wait for another process that writes
    storage = optuna.storages.RDBStorage(f"sqlite:///{file}", engine_kwargs=patience)
    event.listen(storage.engine, "connect", _write_ahead)
    storage.engine.dispose()  # connections from before the listener
    return storage


def _write_ahead(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


class Trials:
    """Studies called ``names`` in ``folder``/trials.db; scores are maximised.

    ``sampler(seed)`` makes the optimiser of one proposal. ``identity`` must agree with what the folder was begun with.
    Raises :class:`UserError` when it does not, or when Optuna is missing.
    """

    def __init__(
        self, folder: Path, names: Collection[str], *, seed: int, identity: Mapping[str, Any] | None = None,
        sampler: Callable[[int], Any] | None = None,
    ) -> None:  # fmt: skip
        self.optuna, self.folder, self.seed = load_optuna(), folder, seed
        self.sampler = sampler or tree_parzen
        folder.mkdir(parents=True, exist_ok=True)
        self._lock, self._held = FileLock(folder / "ask.lock"), {}
        with self._lock:
            storage = _database(self.optuna, folder / "trials.db")
            self.studies = {
                name: self.optuna.create_study(
                    storage=storage, study_name=name, direction="maximize", load_if_exists=True
                )
                for name in names
            }
            for study in self.studies.values():
                self._claim(study, {"seed": seed, "sampler": type(self.sampler(0)).__name__, **(identity or {})})

    def _claim(self, study: Any, identity: dict[str, Any]) -> None:
        there = study.user_attrs.get("identity", identity)
        for key, value in identity.items():
            if there.get(key) != value:
                raise UserError(
                    f"{self.folder} holds another search ({key} is {there.get(key)!r}, here {value!r}); choose another "
                    "folder",
                    place="folder",
                )
        study.set_user_attr("identity", there)

    def ask(self, name: str, limit: int) -> tuple[Any, int] | None:
        """The next Optuna trial of a study and its place in it, or None when ``limit`` are told or under way."""
        study = self.studies[name]
        with self._lock:
            self._bury_the_dead(name)
            failed = self.optuna.trial.TrialState.FAIL
            taken = {t.user_attrs.get("place") for t in study.get_trials(deepcopy=False) if t.state is not failed}
            if len(taken) >= limit:
                return None
            place = next(k for k in range(limit) if k not in taken)
            study.sampler = self.sampler(seed_of(self.seed, name, place) % 2**32)
            trial = study.ask()
            self._held[name, trial.number] = self._alive(name, trial.number)
            self._held[name, trial.number].acquire()
            trial.set_user_attr("place", place)
        return trial, place

    def tell(self, name: str, trial: Any, score: float | None) -> None:
        """Store the score. None: the trial could not be brought to its end, which counts as worse than any score."""
        self._end(name, trial.number, score, "COMPLETE" if score is not None else "PRUNED")

    def give_up(self, name: str, trial: Any) -> None:
        """The trial was broken off by something that is not its own fault; its place is free again."""
        self._end(name, trial.number, None, "FAIL")

    def ranked(self) -> list[Finished]:
        """Every trial with a score, of all studies, best first."""
        complete = (self.optuna.trial.TrialState.COMPLETE,)
        found = [
            Finished(name, t.number, t.value, dict(t.params), dict(t.user_attrs))
            for name, study in self.studies.items()
            for t in study.get_trials(deepcopy=False, states=complete)
        ]
        return sorted(found, key=lambda trial: -trial.score)  # stable: studies in order, then by number

    def _end(self, name: str, number: int, score: float | None, state: str) -> None:
        self.studies[name].tell(number, score, state=self.optuna.trial.TrialState[state])
        held = self._held.pop((name, number), None)
        if held:
            held.release()
            Path(held.lock_file).unlink(missing_ok=True)

    def _alive(self, name: str, number: int) -> FileLock:
        """Held by the process that works on a trial; the operating system lets go of it when that process dies."""
        return FileLock(self.folder / f"{name_of(name, number)}.lock")

    def _bury_the_dead(self, name: str) -> None:
        running = (self.optuna.trial.TrialState.RUNNING,)
        for trial in self.studies[name].get_trials(deepcopy=False, states=running):
            if (name, trial.number) in self._held:
                continue
            lock = self._alive(name, trial.number)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            self._held[name, trial.number] = lock
            self._end(name, trial.number, None, "FAIL")
