"""Arm x seed cells: measured once, kept on disk under a hash of all that they depend on, here or on a cluster."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from redistill import sources
from redistill.core import cache
from redistill.core.errors import Diverged, UserError, need
from redistill.core.record import versions
from redistill.core.study import Budget, Outcome, Place, Study, load

EXECUTORS = ("local", "slurm", "debug")


def measure(
    study: Study, work: Sequence[Place], budget: Budget, *, jobs: int = 1, executor: str = "local", fresh: bool = False
) -> Iterator[tuple[Place, Outcome]]:
    """The outcomes of ``work`` in its order. ``jobs`` processes of one thread each; with the executor ``slurm`` one
    job of the cluster for a cell, over a shared ``REDISTILL_CACHE``."""
    code = f"{sources.digest(study.code())} {versions().get('torch')}"
    arguments = [(study.slug, arm, seed, dict(budget), code, fresh) for arm, seed in work]
    if executor != "local":
        _submit(arguments, executor, jobs)
        arguments = [(*given[:-1], False) for given in arguments]  # what the jobs kept is read
    elif jobs > 1:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
            yield from zip(work, pool.map(cell, *zip(*arguments)))
        return
    yield from ((place, cell(*given)) for place, given in zip(work, arguments))


def share(work: Sequence[Place], part: int, parts: int) -> list[Place]:
    """Every ``parts``-th cell from ``part`` (counted from 1) on: what one of several batch jobs measures."""
    return list(work[part - 1 :: parts])


def _submit(arguments: Sequence[tuple[Any, ...]], executor: str, jobs: int) -> None:
    """One job a cell that is not kept yet, at most ``jobs`` at a time; waits for them all."""
    try:
        import submitit
    except ImportError as error:
        raise need("cluster", "submitit") from error
    missing = [given for given in arguments if given[-1] or not _kept(_place(*given[:-1]))]
    if not missing:
        return
    there = submitit.AutoExecutor(cache.home() / "jobs", cluster=executor)
    there.update_parameters(slurm_array_parallelism=max(jobs, 1), cpus_per_task=1, timeout_min=12 * 60)
    for job in there.map_array(cell, *zip(*missing)):
        try:
            job.result()
        except Exception as error:  # whatever happened on another machine: its own log tells
            raise UserError(f"job {job.job_id} failed; see {job.paths.stderr}", place="--executor") from error


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def cell(slug: str, arm: str, seed: int, budget: dict[str, Any], code: str, fresh: bool) -> Outcome:
    """One cell, from the disk where the same code measured it before. A run that diverges is an outcome as well."""
    place = _place(slug, arm, seed, budget, code)
    if not fresh and (found := _kept(place)):
        return found
    begin = time.process_time()  # of this process alone: a machine with other work counts no more
    with cache.of_code(code):
        try:
            outcome = load(slug).cell(arm, seed, budget)
        except Diverged as end:
            outcome = Outcome({}, diverged=str(end))
    outcome.seconds = time.process_time() - begin
    _unless_unwritable(lambda: _keep(outcome, place))
    return outcome


def _place(slug: str, arm: str, seed: int, budget: dict[str, Any], code: str) -> Path:
    named = {"arm": arm, "seed": seed, "budget": budget, "code": code}
    return cache.home() / "cells" / slug / cache.key(named)


def _keep(outcome: Outcome, place: Path) -> None:
    """Written beside and then renamed: on a shared disk somebody else may measure the same cell at this moment."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as beside:
        made = Path(beside, place.name)
        made.mkdir()
        np.savez_compressed(made / "arrays.npz", **outcome.arrays)  # type: ignore[arg-type]
        numbers = {name: value for name, value in vars(outcome).items() if name != "arrays"}
        (made / "outcome.json").write_text(json.dumps(numbers))
        shutil.rmtree(place, ignore_errors=True)
        os.replace(made, place)


def _kept(place: Path) -> Outcome | None:
    """What was kept at ``place``; None where nothing was, or where a file is torn: it is measured again."""
    try:
        with np.load(place / "arrays.npz", allow_pickle=False) as arrays:
            return Outcome(**json.loads((place / "outcome.json").read_text()), arrays=dict(arrays))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # a zip, JSON or a field, whatever was cut
        warnings.warn(f"{place} is damaged ({error}); measured again", stacklevel=2)
        return None


def _unless_unwritable(write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        warnings.warn(f"cannot keep what was measured ({error})", stacklevel=2)
