"""The directory board: complete, in its vocabulary, and true about what is built."""

from __future__ import annotations

import importlib
import importlib.util
import re
import tomllib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from redistill import catalog
from redistill.catalog import (
    FACETS,
    QUESTIONS,
    STUDIES,
    Entry,
    bibtex,
    byline,
    entries,
    entry,
    load,
    studied,
    vocabulary,
)
from redistill.core import study
from redistill.core.errors import UserError
from redistill.core.evidence import write

ROOT = Path(__file__).parents[1]
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


@pytest.mark.parametrize("slug", STUDIES)
def test_a_study_of_no_one_system_has_arms_claims_and_no_entry(slug):
    assert slug not in {e.slug for e in EVERY}
    assert studied(slug) == study.load(slug).slug == slug
    assert study.load(slug).claims


@pytest.mark.parametrize("e", BUILT, ids=lambda e: e.slug)
def test_every_built_system_runs_from_a_recipe_and_leads_to_its_paper(e):
    assert callable(load(e.run))
    assert e.arxiv, "what is built can be read"
    assert (ROOT / "src/redistill/recipes" / f"{e.slug}.yaml").is_file()


def test_only_what_is_built_can_be_studied():
    assert studied("ps_kd") == "ps_kd"
    with pytest.raises(UserError, match="planned"):
        studied(next(e.slug for e in EVERY if e.status == "planned"))
    with pytest.raises(UserError, match="compositions"):
        studied("composition")


def test_every_group_has_at_least_five_systems():
    sizes = Counter(e.group for e in EVERY)
    assert set(sizes) == set(vocabulary("group"))
    assert min(sizes.values()) >= 5


@pytest.fixture(scope="module")
def docs():
    """The module docs/generate.py."""
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    project = tomllib.loads(ROOT.joinpath("pyproject.toml").read_text())["project"]
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
        "@misc{shenfeld2026self,",
        "  title = {{Self-Distillation Enables Continual Learning}},",
        "  author = {Idan Shenfeld and Mehul Damani and Jonas Hübotter and Pulkit Agrawal},",
        "  year = {2026},",
        "  eprint = {2601.19897},",
        "  archivePrefix = {arXiv},",
        "  url = {https://arxiv.org/abs/2601.19897}",
        "}",
    ]
    bare = replace(entry("sdft"), authors=(), arxiv="")
    assert bibtex(bare) == "@misc{sdft,\n  title = {{Self-Distillation Enables Continual Learning}}\n}"


def test_bibtex_escapes_what_tex_reads_as_a_command():
    record = bibtex(replace(entry("sdft"), title="The {50%} R&D_#1", authors=("Ann {Öz}-Ek",), arxiv=""))
    assert record.splitlines() == [
        "@misc{ozek50,",
        r"  title = {{The \{50\%\} R\&D\_\#1}},",
        r"  author = {Ann \{Öz\}-Ek}",
        "}",
    ]


def test_every_built_system_has_authors_and_every_key_is_its_own():
    assert all(e.authors for e in BUILT)
    assert all(re.fullmatch(r"[^\W\d_].*\S", name) and " and " not in name for e in EVERY for name in e.authors)
    assert all(len(set(e.authors)) == len(e.authors) for e in EVERY)
    keys = Counter(bibtex(e).partition(",")[0] for e in EVERY)
    assert set(keys.values()) == {1}


@pytest.mark.parametrize("e", BUILT, ids=lambda e: e.slug)
def test_the_names_in_a_docstring_are_the_authors(e: Entry):
    told = load(e.class_.partition(":")[0]).__doc__
    surnames = [re.sub(r"[^\w-]", "", name.split()[-1]) for name in e.authors]
    for names, rest in re.findall(r"\(([A-Z][\w-]+(?:(?:, | and )[A-Z][\w-]+)*)( et al\.)? 20\d\d\b", told):
        named = re.split(r", | and ", names)
        assert named == (surnames[: len(named)] if rest else surnames)


def test_a_byline_names_three_authors_at_most():
    assert byline(entry("repeated_sd")) == "Divyansh Pareek, Simon S. Du, Sewoong Oh 2024"
    assert byline(entry("sdft")) == "Idan Shenfeld et al. 2026"
    assert byline(replace(entry("sdft"), authors=())) == "2026"
    assert byline(replace(entry("sdft"), authors=(), arxiv="")) == ""


def test_a_stray_field_in_the_file_is_refused():
    with pytest.raises(AssertionError, match="no fields of an entry"):
        catalog._entry("x", "score", {"titel": "X"})


@pytest.mark.parametrize("name", catalog.DERIVED)
def test_what_follows_from_files_is_not_written_down(name):
    with pytest.raises(AssertionError, match=name):
        catalog._entry("x", "score", {name: "x"})


def clear():
    catalog._names.cache_clear()
    catalog._modules.cache_clear()


@pytest.mark.parametrize("missing", ["methods/score/new.py", "studies/new.py", "recipes/new.yaml"])
def test_a_system_is_built_once_method_study_and_recipe_are_there(missing, tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "HOUSE", tmp_path)
    clear()
    for file in {"methods/score/new.py", "studies/new.py", "recipes/new.yaml"} - {missing}:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    try:
        assert catalog._derived("new", "score", "New") == {"status": "planned"}
        clear()
        (tmp_path / missing).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / missing).touch()
        assert catalog._derived("new", "score", "New")["run"] == "redistill.methods.score.new:New"
    finally:
        clear()


def test_the_table_of_systems_has_a_row_for_each(docs):
    table, linked = docs.systems_table(), docs.systems_table(link=True)
    assert all(f"| `{e.slug}` | {e.title} | {e.kind} |" in table for e in EVERY)
    assert all(f"[`{e.slug}`](systems/{e.slug}.md)" in linked for e in EVERY)


def test_the_taxonomy_counts_and_lists_every_system(docs):
    page, lines = docs.taxonomy(), docs.crossed("scheme", "knowledge").splitlines()
    assert all(f"[{e.slug}]({e.slug}.md)" in page for e in EVERY) and all(f"(`--{facet}`)" in page for facet in FACETS)
    counted = {line.split("|")[1].strip(" `"): line.split("|")[2:-1] for line in lines[2:]}
    assert list(counted) == list(vocabulary("scheme"))
    for scheme, cells in counted.items():
        members = Counter(word for e in EVERY if e.scheme == scheme for word in e.knowledge.words)
        assert [int(cell.strip() or 0) for cell in cells] == [members[word] for word in vocabulary("knowledge")]


def test_a_page_tells_the_entry_and_every_verdict(docs, tmp_path, monkeypatch):
    monkeypatch.setenv("REDISTILL_EVIDENCE", str(tmp_path))
    assert "## Evidence" not in docs.page(entry("ps_kd"))
    claim = {"name": "calibration", "effect": 0.06, "effect_sd": 0.01, "relative": False, "paper": "11.84 -> 1.77"}
    claim |= {"n": 3}
    kinds = ("superiority", "headline", "threshold", "margin")
    claims = [
        {**claim, "verdict": v, "kind": k} for v, k in zip(("holds", "not shown", "contradicted", "holds"), kinds)
    ]
    record = {"slug": "ps_kd", "question": "Does it?", "seeds": [1, 2, 3], "seconds": 9.0, "claims": claims}
    write(record | {"notes": ["tried in vain"], "pictures": ["arms.png"]}, tmp_path)
    page = docs.page(entry("ps_kd"))
    rows = [
        line.split(" | ")[:2] for line in page.splitlines() if "| calibration | 0.06 ± 0.01 | 11.84 -> 1.77 |" in line
    ]
    assert rows == [["| not shown", "headline"], ["| holds", "superiority"], ["| contradicted", "threshold"],
                    ["| holds", "margin"]]  # fmt: skip
    assert "the code has changed" in page and "- tried in vain" in page and "(ps_kd/arms.png)" in page
    beside = "beside it 1 hold, 1 contradicted, 1 within a margin"
    assert docs.standing(entry("ps_kd")) == f"not shown: 0.06 ± 0.01 (n = 3); {beside}"
    assert all(part in page for part in (*entry("ps_kd").idea, "Who teaches?", "@misc{kim2020self,"))


def test_only_what_stands_between_the_markers_is_rewritten(docs):
    text = f"above {docs.OPEN} old {docs.CLOSE} below"
    assert docs.between_markers(text, "new") == f"above {docs.OPEN}\n\nnew\n{docs.CLOSE} below"
    assert docs.between_markers(docs.between_markers(text, "new"), "new") == docs.between_markers(text, "new")


def test_the_readme_says_how_many_systems_are_built(docs):
    told = docs.BUILT.findall((ROOT / "README.md").read_text())
    assert told == [f"{len(BUILT)} of 119 systems are built"] * 2 == [docs.built()] * 2


def test_the_taxonomy_names_every_word(docs):
    told = docs.taxonomy()
    assert all(f"| `{word}` |" in told for facet in FACETS for word in vocabulary(facet))
