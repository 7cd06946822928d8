"""``redistill list`` and ``cite``: what the catalogue says about the systems. No rich here: it doubles the price."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from redistill.catalog import CLASSICS, FACETS, Entry, bibtex, entries, entry, vocabulary
from redistill.core import evidence

Words = list[str] | None
ANY: dict[str, Any] = {f: typer.Option(None, metavar="WORD", help=", ".join(vocabulary(f))) for f in FACETS}
COLOURS = dict(zip(evidence.VERDICTS, ("green", "yellow", "red")))
STANDING, WIDE_ANSWERS, WIDE = 26, 38, 120  # columns: of the standing, of three answers, of a terminal that has room


def list_(
    group: Words = ANY["group"],
    modality: Words = ANY["modality"],
    kind: Words = ANY["kind"],
    status: Words = ANY["status"],
    scheme: Words = ANY["scheme"],
    teacher: Words = ANY["teacher"],
    knowledge: Words = ANY["knowledge"],
    samples: Words = ANY["samples"],
    match: Words = ANY["match"],
    changes: Words = ANY["changes"],
    as_json: Annotated[bool, typer.Option("--json", help="an array of entries on standard output")] = False,
) -> None:
    """Every system of the catalogue, filtered by the five questions.

    Words of one option are alternatives (--teacher ema,past or the option twice); several options must all fit.
    """
    wanted = {facet: _split(words) for facet, words in locals().items() if facet != "as_json"}
    found = entries(**wanted)
    if as_json:
        print(json.dumps([e.as_dict() for e in found], ensure_ascii=False, indent=2))
    else:
        color = False if "NO_COLOR" in os.environ else None  # None: where there is a terminal
        width = shutil.get_terminal_size().columns
        lines = [*_lines(found, width), *([] if any(wanted.values()) else _classics(width))]
        typer.echo("\n".join(lines), color=color)


def _split(words: list[str] | None) -> list[str]:
    return [part.strip() for word in words or () for part in word.split(",")]


def _lines(found: list[Entry], width: int) -> Iterator[str]:
    """One line per system under the heading of its group, cut to ``width``; wide terminals also see three answers."""
    if not found:
        yield "no system answers all of that"
        return
    longest = max(len(e.slug) for e in found)
    for name, meaning in vocabulary("group").items():
        members = [e for e in found if e.group == name]
        if members:
            yield f"{typer.style(name, bold=True)}  {typer.style(_cut(meaning, width - len(name) - 2), dim=True)}"
            yield from (_line(e, longest, width) for e in members)
            yield ""
    built = sum(e.status == "built" for e in found)
    yield typer.style(f"{len(found)} systems, {built} built. redistill show SLUG tells more.", dim=True)


def _classics(width: int) -> Iterator[str]:
    """What systems are compared with and a recipe may name; not counted."""
    what = _cut("what systems are compared with; redistill run takes them, they are not counted", width - 10)
    yield f"\n{typer.style('classics', bold=True)}  {typer.style(what, dim=True)}"
    longest = max(map(len, CLASSICS))
    yield from (f"  {slug:<{longest}} {_cut(told['title'], width - 3 - longest)}" for slug, told in CLASSICS.items())


def _line(e: Entry, longest: int, width: int) -> str:
    answers = " · ".join(", ".join(e.words(q)) for q in ("teacher", "knowledge", "samples"))
    shown = f" {_cut(answers, WIDE_ANSWERS):<{WIDE_ANSWERS}}" if width >= WIDE else ""
    room = width - 2 - longest - 1 - len(shown) - 1 - STANDING
    built = e.status == "built"
    slug = typer.style(f"{e.slug:<{longest}}", bold=built, fg="cyan" if built else None)
    words, colour = _standing(e)
    return f"  {slug} {_cut(e.title, room):<{room}}{typer.style(shown, dim=True)} {_tinted(words, colour)}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def _tinted(words: str, colour: str) -> str:
    padded = f"{_cut(words, STANDING):>{STANDING}}"
    return typer.style(padded, fg=colour) if colour else typer.style(padded, dim=True)


def _standing(e: Entry) -> tuple[str, str]:
    """The headline's verdict, effect and seeds, and its colour; or that there is no evidence, or no headline yet."""
    measured = evidence.read(e.slug) if e.status == "built" else None
    if measured is None:
        return e.status, ""
    main = evidence.headline(measured)
    return evidence.standing(measured), COLOURS[main["verdict"]] if main else ""


def cite(slugs: Annotated[list[str], typer.Argument(metavar="SLUG...", help="names of systems")]) -> None:
    """The BibTeX of the papers behind these systems, with what the catalogue knows and nothing else."""
    print("\n\n".join(bibtex(entry(slug)) for slug in slugs))
