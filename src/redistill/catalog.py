"""The directory board: one entry per published system, read from ``catalog/<group>.toml`` without torch.

Every system answers the same five questions (:data:`QUESTIONS`) with words of a controlled vocabulary, by which the
catalogue is filtered, and one free phrase.
"""

from __future__ import annotations

import importlib
import os
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from redistill.core.errors import UserError, unknown

QUESTIONS: dict[str, str] = {
    "teacher": "Who teaches?",
    "knowledge": "What is taught?",
    "samples": "On whose samples?",
    "match": "How is the match measured?",
    "changes": "When does the teacher change?",
}
STUDIES = {"compositions": "Plug-ins of several systems, put together in ways that no paper tried."}  # of no one system
CLASSICS = {  # what systems are compared with: usable by name, none of the catalogue; "text": for language models
    "kd": {
        "title": "Distilling the Knowledge in a Neural Network (Hinton, Vinyals and Dean 2015)",
        "run": "redistill.supervised.classifier:Distillation",
        "text": "redistill.rivals.token_kd:TokenDistillation",
    },
    "byot": {
        "title": "Be Your Own Teacher (Zhang et al. 2019)",
        "run": "redistill.rivals.byot:BeYourOwnTeacher",
    },
    "crd": {
        "title": "Contrastive Representation Distillation (Tian, Krishnan and Isola 2020)",
        "run": "redistill.rivals.crd:ContrastiveDistillation",
    },
    "cs_kd": {
        "title": "Regularizing Class-wise Predictions via Self-knowledge Distillation (Yun et al. 2020)",
        "run": "redistill.rivals.cs_kd:ClassWise",
    },
    "tf_kd": {
        "title": "Revisiting Knowledge Distillation via Label Smoothing Regularization (Yuan et al. 2020)",
        "run": "redistill.rivals.tf_kd:VirtualTeacher",
    },
}
SMALL = {"a", "an", "the", "from", "in", "of", "on", "to"}  # words of a title that a citation key leaves out
DERIVED = ("slug", "group", "status", "class_", "run", "study")  # from files, never written down
HOUSE = Path(__file__).parent
FACETS = ("group", "modality", "kind", "status", "scheme", *QUESTIONS)


class Answer(NamedTuple):
    """The answer to one of the five questions: words of the vocabulary, and a phrase for people."""

    words: tuple[str, ...]
    text: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One published system. ``class_``, ``run`` and ``study`` are empty while it is only planned."""

    slug: str
    title: str
    group: str
    modality: tuple[str, ...]
    kind: str
    status: str
    scheme: str
    teacher: Answer
    knowledge: Answer
    samples: Answer
    match: Answer
    changes: Answer
    idea: tuple[str, str, str]
    equation: str
    use_when: str
    avoid_when: str
    cost: str
    claim: str
    arxiv: str = ""
    authors: tuple[str, ...] = ()
    class_: str = ""
    run: str = ""
    study: str = ""
    extra: str = ""

    @property
    def year(self) -> str:
        """The year of the arXiv number (``YYMM.nnnnn``); empty without one."""
        return f"20{self.arxiv[:2]}" if self.arxiv else ""

    def words(self, facet: str) -> tuple[str, ...]:
        """The words under which ``facet`` (one of :data:`FACETS`) files this entry."""
        value = getattr(self, facet)
        if isinstance(value, Answer):
            return value.words
        return (value,) if isinstance(value, str) else value

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; each answer becomes its words and, under ``<question>_text``, its phrase."""
        plain = asdict(self)
        plain["class"] = plain.pop("class_")
        for question in QUESTIONS:
            answer = getattr(self, question)
            plain |= {question: answer.words, f"{question}_text": answer.text}
        return plain


@cache
def _board() -> tuple[dict[str, Entry], dict[str, dict[str, str]]]:
    words = _read("vocabulary")
    return {slug: entry for group in words["group"] for slug, entry in _group(group).items()}, words


def _read(name: str) -> dict[str, Any]:
    with (HOUSE / "catalog" / f"{name}.toml").open("rb") as file:
        return tomllib.load(file)


def _group(group: str) -> dict[str, Entry]:
    return {slug: _entry(slug, group, table) for slug, table in _read(group).items()}


def _entry(slug: str, group: str, table: Mapping[str, Any]) -> Entry:
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}
    wrong = set(given) - {f.name for f in fields(Entry)} - {"class"} | set(given) & set(DERIVED)
    assert not wrong, f"catalog/{group}.toml, {slug}: {sorted(wrong)} are no fields of an entry"
    answers = {question: _answer(given[question]) for question in QUESTIONS}
    derived = _derived(slug, group, given.pop("class", _camel(slug)))
    return Entry(slug=slug, group=group, **given | answers | derived)


def _derived(slug: str, group: str, name: str) -> dict[str, str]:
    """What follows from files: a system with a method, a study and a recipe is built; what runs it is its procedure,
    else the method that ``fit`` trains. ``name``: of the class or function that is shown."""
    method = f"methods/{group}"
    if not (slug in _modules(method) and slug in _modules("studies") and f"{slug}.yaml" in _names("recipes")):
        return {"status": "planned"}
    module = f"redistill.methods.{group}.{slug}"
    procedure = f"redistill.procedures.{slug}:run" if slug in _modules("procedures") else ""
    return {
        "status": "built",
        "class_": f"{module}:{name}",
        "run": procedure or f"{module}:{_camel(slug)}",
        "study": f"redistill.studies.{slug}",
    }


@cache
def _names(folder: str) -> frozenset[str]:
    return frozenset(os.listdir(HOUSE / folder)) if (HOUSE / folder).is_dir() else frozenset()


@cache
def _modules(folder: str) -> frozenset[str]:
    """The modules and packages of a folder of the house."""
    return frozenset(name.removesuffix(".py") for name in _names(folder))


def _camel(slug: str) -> str:
    return "".join(part.capitalize() for part in slug.split("_"))


def _answer(line: str) -> Answer:
    words, _, text = line.partition(": ")
    return Answer(tuple(word.strip() for word in words.split(",")), text)


def vocabulary(facet: str) -> dict[str, str]:
    """The words that ``facet`` may use, each with its meaning."""
    return _board()[1][facet]


def entries(**wanted: Iterable[str]) -> list[Entry]:
    """The entries that carry, for every facet named, at least one of its words: ``entries(teacher=["ema"])``.

    A facet without words does not filter. Raises :class:`UserError` with the nearest valid word.
    """
    for facet, words in wanted.items():
        for word in words:
            if word not in vocabulary(facet):
                raise unknown(facet, word, vocabulary(facet), place=f"--{facet}")
    return [e for e in _board()[0].values() if all(not w or set(w) & set(e.words(f)) for f, w in wanted.items())]


def entry(slug: str) -> Entry:
    """The entry of ``slug``. Raises :class:`UserError` with the nearest slugs."""
    board = _board()[0]
    if slug in CLASSICS:
        said = f"{slug!r} is a classic that systems are compared with, not one of them; redistill run takes it"
        raise UserError(said)
    if slug not in board:
        raise unknown("system", slug, {**board, **CLASSICS})
    return board[slug]


def studied(slug: str) -> str:
    """``slug`` if it names a system that is built or one of :data:`STUDIES`. Raises :class:`UserError`."""
    known = {**_board()[0], **STUDIES}
    if slug not in known and slug not in CLASSICS:
        raise unknown("system", slug, known)
    if slug not in STUDIES and entry(slug).status != "built":
        raise UserError(f"{slug!r} is planned, not built yet; redistill list --status built", place="reproduce")
    return slug


def load(path: str) -> Any:
    """The object behind ``"package.module:name"``, or the module behind ``"package.module"``."""
    module, _, name = path.partition(":")
    found = importlib.import_module(module)
    return getattr(found, name) if name else found


def byline(entry: Entry) -> str:
    """The authors, of more than three the first one alone, and the year: as far as they are known."""
    named = entry.authors if len(entry.authors) <= 3 else (f"{entry.authors[0]} et al.",)
    return " ".join(filter(None, (", ".join(named), entry.year)))


def bibtex(entry: Entry) -> str:
    """A BibTeX record of the paper, with nothing in it that the catalogue does not know."""
    known = {"title": f"{{{_escaped(entry.title)}}}", "author": " and ".join(map(_escaped, entry.authors))}
    known |= {"year": entry.year}
    if entry.arxiv:
        known |= {"eprint": entry.arxiv, "archivePrefix": "arXiv", "url": f"https://arxiv.org/abs/{entry.arxiv}"}
    body = ",\n".join(f"  {name} = {{{value}}}" for name, value in known.items() if value)
    return f"@misc{{{_key(entry)},\n{body}\n}}"


def _escaped(text: str) -> str:
    return re.sub(r"[{}&%$#_]", r"\\\g<0>", text)


def _key(entry: Entry) -> str:
    """Surname, year and first weighty word of the title: ``kim2020self``. The slug where there are no authors."""
    if not entry.authors:
        return entry.slug
    words = [word for word in re.findall(r"\w+", entry.title.lower()) if word not in SMALL]
    surname = unicodedata.normalize("NFKD", entry.authors[0].split()[-1].lower())
    return re.sub(r"[^a-z]", "", surname) + entry.year + words[0]
