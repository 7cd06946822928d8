"""The tables of doors: every loader and reader is there, takes a path, and a kind that is none is named."""

from __future__ import annotations

import inspect

import pytest

from redistill import catalog
from redistill.core.build import validated
from redistill.core.errors import UserError
from redistill.data.doors import KINDS, DataSpec
from redistill.models.doors import LIBRARIES, MAKERS, ModelSpec, load_models, make_anew


@pytest.mark.parametrize("path", [*LIBRARIES.values(), *KINDS.values()])
def test_every_kind_has_a_loader_that_takes_a_path_and_options(path):
    first, *options = inspect.signature(catalog.load(path)).parameters.values()
    assert first.default is first.empty
    assert all(p.default is not p.empty for p in options)


def test_a_kind_belongs_to_one_table():
    assert not set(LIBRARIES) & set(MAKERS)


@pytest.mark.parametrize(("spec", "kind", "word"), [(ModelSpec, "tourch", "torch"), (DataSpec, "tabel", "table")])
def test_an_unknown_kind_is_named_with_the_nearest(spec, kind, word):
    with pytest.raises(UserError, match=f"x.kind: '{kind}' is not valid; did you mean '{word}'"):
        validated(spec, {"kind": kind}, place="x")


def test_a_network_is_made_anew_without_the_weights_that_a_copy_or_a_file_gave_it(tmp_path):
    options = {"inputs": 3, "outputs": 2, "hidden": [4]}
    teacher = ModelSpec(kind="torch", path="redistill.models.nets:mlp", options=options, weights=tmp_path / "gone")
    specs = {"student": ModelSpec(kind="copy", path="teacher"), "teacher": teacher}
    assert make_anew(specs, "student")[-1].out_features == 2
    with pytest.raises(UserError, match=r"models\.teacher\.weights"):
        load_models(specs)
