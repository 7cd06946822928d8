"""What every procedure gets: rows apart, networks that start anew, files; and that each is what a recipe can run."""

from __future__ import annotations

import csv
import importlib
import inspect
import json
import pkgutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import redistill.procedures
from redistill.catalog import entry
from redistill.core import UserError
from redistill.procedures.job import Job

SLUGS = [m.name for m in pkgutil.iter_modules(redistill.procedures.__path__) if m.name != "job"]


@pytest.mark.parametrize("slug", SLUGS)
def test_a_procedure_is_found_by_its_slug_and_says_what_it_needs(slug):
    module = importlib.import_module(f"redistill.procedures.{slug}")
    assert entry(slug).run == f"{module.__name__}:run"
    assert set(module.NEEDS) <= {"rows", "plan", "resume"}
    assert next(iter(inspect.signature(module.run).parameters)) == "job"
    assert module.run.__doc__


@pytest.mark.parametrize("columns", [True, False])
def test_rows_are_split_whole_at_random_and_equally_for_equal_seeds(tmp_path, columns):
    rows = {"row": np.arange(20)} if columns else [{"row": i} for i in range(20)]
    job = Job(tmp_path, rows=rows)

    def parts(seed):
        return [[int(r) for r in (p["row"] if columns else (p[i]["row"] for i in range(len(p))))]
                for p in job.split(0.25, seed)]  # fmt: skip

    used, held = parts(0)
    assert (len(used), len(held)) == (15, 5) and sorted(used + held) == list(range(20))
    assert parts(0) == [used, held] != parts(1)


@pytest.mark.parametrize(("share", "seed", "said"), [(0.0, 0, "validation=0"), (1.0, 0, "share"), (0.5, -1, "seed=-1")])
def test_a_split_that_cannot_be_is_refused(tmp_path, share, seed, said):
    with pytest.raises(UserError, match=said):
        Job(tmp_path, rows={"row": np.arange(4)}).split(share, seed)


def test_networks_start_anew_or_as_they_came(tmp_path):
    given = torch.nn.Linear(3, 2)
    job = Job(tmp_path, make=lambda role: torch.nn.Linear(3, 2))
    fresh, same = (job.starts("student", given, fresh=fresh) for fresh in (True, False))
    assert torch.equal(fresh(1).weight, fresh(1).weight) and not torch.equal(fresh(1).weight, fresh(2).weight)
    assert torch.equal(same(1).weight, given.weight) and same(1) is not given
    with pytest.raises(UserError, match=r"models.student: comes with weights, so no start is new: weight"):
        Job(tmp_path, make=lambda role: given).starts("student", given, fresh=True)


def test_files_are_written_below_the_folder_which_is_made_for_the_first(tmp_path):
    job = Job(tmp_path / "out" / "run")
    assert not job.folder.exists()
    rows = [{"a": 1, "b": 0.5}, {"a": 2, "b": 1.5}]
    assert list(csv.DictReader(job.table("t.csv", rows).open())) == [{"a": "1", "b": "0.5"}, {"a": "2", "b": "1.5"}]
    assert json.loads(job.numbers("n.json", {"a": [1.5]}).read_text()) == {"a": [1.5]}
    net = torch.nn.Linear(2, 1)
    assert torch.equal(load_file(job.weights(net))["weight"], net.weight)
