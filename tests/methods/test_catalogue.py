"""What every method that trains must pass: resume to the same bits, cut batches, two processes, constructor -> YAML ->
constructor.

That a gradient reaches the turn's networks and no other is checked by the engine itself in every one of these runs.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml

from redistill.catalog import Entry, entries, entry, load
from redistill.core import Method, Plan, describe, fit
from redistill.core.build import build
from redistill.core.followers import same_weights
from tests.core.processes import in_two_processes
from tests.methods.cases import CASES, VARIANTS


def plan(**changes: Any) -> Plan:
    given = {"steps": 4, "batch_size": 8, "lr": 0.05, "optimizer": "sgd", "device": "cpu", "seed": 2}
    return Plan(**{**given, **changes})


def gap(state: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert state.keys() == other.keys()
    return max(float((state[k].double() - other[k].double()).abs().max()) for k in state)


def trained(slug: str, **changes: Any) -> dict[str, torch.Tensor]:
    method, data = {**CASES, **VARIANTS}[slug]()
    return fit(method, data, plan(**changes)).method.state_dict()


def trained_class(e: Entry) -> type[Method] | None:
    """The class of an entry that :func:`fit` trains, if it has one."""
    found = [load(path) for path in (e.class_, e.run) if path]
    return next((cls for cls in found if isinstance(cls, type) and issubclass(cls, Method)), None)


def test_every_built_method_that_trains_has_a_case():
    assert set(CASES) == {e.slug for e in entries() if e.status == "built" and trained_class(e)}


@pytest.mark.parametrize("slug", CASES)
def test_n_steps_and_n_more_are_2n_steps_bit_for_bit(slug, tmp_path):
    whole, halves = CASES[slug](), [CASES[slug]() for _ in range(2)]
    adam = plan(optimizer="adamw", lr=1e-3, schedule="cosine")
    straight = fit(*whole, adam).method
    fit(*halves[0], adam, folder=tmp_path, until=2)
    resumed = fit(*halves[1], adam, folder=tmp_path, resume=True).method
    assert same_weights(straight, resumed)


@pytest.mark.parametrize("slug", CASES)
def test_accumulation_equals_one_big_batch(slug):
    assert gap(trained(slug), trained(slug, accumulate=3)) < 1e-9


@pytest.mark.parametrize("parallel", ["replicate", "shard"])
@pytest.mark.parametrize("slug", [*CASES, *VARIANTS])
def test_two_processes_equal_one(slug, parallel, tmp_path):
    one = trained(slug)
    for state in in_two_processes("tests.methods.rank", tmp_path, slug, parallel):
        assert gap(one, state) < 1e-9


@pytest.mark.parametrize("slug", CASES)
def test_constructor_to_yaml_to_constructor(slug):
    method, _ = CASES[slug]()
    options = describe(method)
    cls = trained_class(entry(slug))
    networks = [value for name, value in method.arguments.items() if name not in options]
    given = {k: v for k, v in yaml.safe_load(yaml.safe_dump(options)).items() if v is not None}
    again = build(cls, given, *networks)
    assert describe(again) == options
