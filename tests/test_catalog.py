"""The directory board: complete, in its vocabulary, and true about what is built."""

from __future__ import annotations

import importlib
import importlib.util
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from redistill import catalog
from redistill.catalog import FACETS, QUESTIONS, Entry, bibtex, entries, entry, load, vocabulary
from redistill.core.errors import UserError

EVERY = entries()
BUILT = entries(status=["built"])
NAMES = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def exists(module: str) -> bool:
    """Whether ``module`` can be found, its parents included."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def test_all_systems_are_there_once():
    assert len(EVERY) == 119
    assert len({e.slug for e in EVERY}) == len({e.title for e in EVERY}) == 119
    assert all(NAMES.fullmatch(e.slug) for e in EVERY)


def test_the_foundation_is_marked_built():
    assert {"ps_kd", "sdft", "dmd2", "repeated_sd", "d_ode", "in_context"} <= {e.slug for e in BUILT}


def test_every_group_has_at_least_five_systems():
    sizes = Counter(e.group for e in EVERY)
    assert set(sizes) == set(vocabulary("group"))
    assert min(sizes.values()) >= 5


@pytest.mark.parametrize("facet", FACETS)
def test_words_come_from_the_vocabulary_and_each_is_used(facet):
    used = {word for e in EVERY for word in e.words(facet)}
    assert used == set(vocabulary(facet))
    assert all(e.words(facet) for e in EVERY)


@pytest.mark.parametrize("e", EVERY, ids=lambda e: e.slug)
def test_an_entry_says_everything_in_short(e: Entry):
    assert len(e.idea) == 3
    sentences = (*e.idea, e.use_when, e.avoid_when, e.cost, e.claim)
    assert all(s[0].isupper() or s[0].isdigit() for s in sentences if s[0].isalnum())
    assert all(s.endswith((".", "?")) and len(s) <= 280 for s in sentences)
    assert all(getattr(e, q).text and len(getattr(e, q).text) <= 140 for q in QUESTIONS)
    assert e.equation and "\n" not in e.equation
    assert not e.arxiv or re.fullmatch(r"\d{4}\.\d{4,5}", e.arxiv)


@pytest.mark.parametrize("e", BUILT, ids=lambda e: e.slug)
def test_a_built_entry_names_its_code_by_the_rule(e: Entry):
    module, _, name = e.class_.partition(":")
    assert name and module == f"redistill.methods.{e.group}.{e.slug}"
    if e.kind == "training":
        assert name == "".join(part.capitalize() for part in e.slug.split("_"))
    assert e.study == f"redistill.studies.{e.slug}"


@pytest.mark.parametrize("e", BUILT, ids=lambda e: e.slug)
def test_the_code_of_a_built_entry_imports(e: Entry):
    if exists(e.class_.partition(":")[0]):
        assert callable(load(e.class_))
    if exists(e.study):
        assert load(f"{e.study}:STUDY").slug == e.slug


def test_what_is_planned_names_no_code():
    assert not any(e.class_ or e.study or e.extra for e in entries(status=["planned"]))


def test_extras_are_those_of_the_package():
    project = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())["project"]
    assert {e.extra for e in EVERY} - {""} <= set(project["optional-dependencies"])


def test_filters_are_alternatives_within_and_demands_between_facets():
    found = entries(knowledge=["logits"], scheme=["self"], samples=["rollouts"])
    assert {"sdft", "opsd", "sdpo"} <= {e.slug for e in found} < {e.slug for e in EVERY}
    assert all("logits" in e.knowledge.words and e.scheme == "self" and "rollouts" in e.samples.words for e in found)
    either = entries(teacher=["ema", "past"])
    assert len(either) > max(len(entries(teacher=["ema"])), len(entries(teacher=["past"])))
    assert entries(teacher=[]) == EVERY


def test_a_mistyped_word_and_slug_name_the_nearest():
    with pytest.raises(UserError, match=r"--teacher: unknown teacher 'emma'; did you mean 'ema'\?"):
        entries(teacher=["emma"])
    with pytest.raises(UserError, match=r"unknown system 'pskd'; did you mean 'ps_kd'"):
        entry("pskd")


def test_an_entry_becomes_plain_json_values():
    plain = entry("sdft").as_dict()
    assert plain["teacher"] == ("context", "ema") and plain["teacher_text"].startswith("a moving average")
    assert plain["class"] == "redistill.methods.language.sdft:Sdft" and "class_" not in plain


def test_bibtex_holds_what_is_known_and_nothing_else():
    assert bibtex(entry("sdft")).splitlines() == [
        "@misc{sdft,",
        "  title = {{Self-Distillation Enables Continual Learning}},",
        "  year = {2026},",
        "  eprint = {2601.19897},",
        "  archivePrefix = {arXiv},",
        "  url = {https://arxiv.org/abs/2601.19897}",
        "}",
    ]
    assert "year" not in bibtex(entry("dmd2")) and "author" not in bibtex(entry("dmd2"))
    assert "  author = {Gholami and Omar}" in bibtex(entry("soft_label_study"))


def test_a_stray_field_in_the_file_is_refused():
    with pytest.raises(AssertionError, match="no fields of an entry"):
        catalog._entry("x", {"titel": "X"})
