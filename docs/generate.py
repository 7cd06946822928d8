"""Write what the catalogue and the evidence say as Markdown: a page per system, the taxonomy, the README's table.

python docs/generate.py            # docs/index.md, docs/systems/*.md, and the table between the README's markers
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from redistill.catalog import FACETS, QUESTIONS, STUDIES, Entry, bibtex, entries, vocabulary
from redistill.cli.options import options_of
from redistill.core import evidence

ROOT = Path(__file__).parents[1]
INDEX = """# redistill

[Your own models](own_models.md), [a method and its hooks](method.md), every [class and function](api/redistill.html);
the systems, and the [words](systems/taxonomy.md) they are filed by."""
BUILT = re.compile(r"\d+ of \d+ systems are built")
OPEN, CLOSE = "<!-- systems: written by docs/generate.py -->", "<!-- /systems -->"


def systems_table(*, link: bool = False) -> str:
    """All systems by group, each with its kind and its standing; ``link`` leads to their pages."""
    parts = [f"{built()}."]
    for group, meaning in vocabulary("group").items():
        rows = [f"| {_name(e.slug, link)} | {e.title} | {e.kind} | {standing(e)} |" for e in entries(group=[group])]
        head = [f"**{group}**: {meaning}", "", "| system | paper | kind | headline |", "|---|---|---|---|"]
        parts.append("\n".join([*head, *rows]))
    more = [f"| {_name(s, link)} | {what} | {_standing(s)} |" for s, what in STUDIES.items()]
    head = ["**studies of no one system**", "", "| study | what it does | headline |", "|---|---|---|"]
    parts.append("\n".join([*head, *more]))
    return "\n\n".join(parts) + "\n"


def built() -> str:
    """How many of the catalogue's systems work, for the README's first lines and its table."""
    return f"{sum(e.status == 'built' for e in entries())} of {len(entries())} systems are built"


def _name(slug: str, link: bool) -> str:
    return f"[`{slug}`](systems/{slug}.md)" if link else f"`{slug}`"


def standing(e: Entry) -> str:
    """``planned``, ``built``, or the headline's verdict and what holds beside it; nothing that failed is left out."""
    return e.status if e.status == "planned" else _standing(e.slug) or e.status


def _standing(slug: str) -> str:
    """Headline and tally of a study; empty without evidence."""
    record = evidence.read(slug)
    return f"{evidence.standing(record)}; beside it {evidence.counted(record)}" if record else ""


def page(e: Entry) -> str:
    """The page of one system: idea, answers, equation, advice, evidence, citation."""
    answers = [f"| {asked} | {', '.join(words)} | {text} |" for asked, (words, text) in _answers(e)]
    parts = [
        f"# {e.slug}\n\n**{e.title}**",
        f"{e.group} · {e.kind} · {e.scheme} scheme · {', '.join(e.modality)} · {e.status}",
        " ".join(e.idea),
        "```text\n" + "\n".join(e.equation.split(",  ")) + "\n```",
        "\n".join(["| question | words | answer |", "|---|---|---|", *answers]),
        f"**Use it when.** {e.use_when}",
        f"**Not when.** {e.avoid_when}",
        f"**Cost.** {e.cost}",
        f"**The paper says.** {e.claim}",
        *_code(e),
        *_options(e),
        *_proof(e.slug),
        f"## Cite\n\n```bibtex\n{bibtex(e)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _answers(e: Entry) -> list[tuple[str, Any]]:
    return [(asked, getattr(e, question)) for question, asked in QUESTIONS.items()]


def _code(e: Entry) -> list[str]:
    if e.status == "planned":
        return []
    needs = f" Needs `pip install 'redistill[{e.extra}]'`." if e.extra else ""
    return [f"**Code.** `{e.class_}`; measured with `redistill reproduce {e.slug}`.{needs}"]


def _options(e: Entry) -> list[str]:
    """A table of what ``options`` of a recipe takes."""
    rows = [f"| `{o.name}` | {o.takes} | {'must be given' if o.default is None else f'`{o.default}`'} | {o.remark} |"
            for o in options_of(e)]  # fmt: skip
    return ["\n".join(["| option | takes | left out | |", "|---|---|---|---|", *rows])] if rows else []


def _proof(slug: str) -> list[str]:
    """Verdicts with effects, notes and pictures of the study."""
    measured = evidence.read(slug)
    if measured is None:
        return []
    seeds = ", ".join(map(str, measured["seeds"]))
    rows = [
        f"| {c['verdict']} | {c['kind']} | {c['name']} | {evidence.effect(c)} | {c['paper']} |"
        for c in sorted(measured["claims"], key=lambda c: c["kind"] != "headline")
    ]
    table = ["| verdict | kind | claim | effect ± sd | in the paper |", "|---|---|---|---|---|", *rows]
    told = [f"Headline {_standing(slug)}.", *evidence.warnings(measured)]
    pictures = [f"![{slug}]({slug}/{name})" for name in measured.get("pictures", ())]
    notes = [f"- {note}" for note in measured.get("notes", ())]
    head = f"## Evidence\n\n{measured['question']} Seeds {seeds}, {measured['seconds']:.0f} s of computing."
    return [head, *told, "\n".join(table), *pictures, *(["\n".join(notes)] if notes else [])]


TAXONOMY = """# The words of the catalogue

Every system answers five questions in words of one vocabulary. `redistill list` filters by them: words of one option
are alternatives, several options must all fit.

```text
redistill list --knowledge logits --scheme self --samples rollouts
redistill list --teacher ema,past --status built
redistill list --match contrast --json
```

[survey](survey.md) runs the classic baselines side by side; the two maps below say where all systems stand."""
MAPS = (("scheme", "knowledge"), ("teacher", "knowledge"))


def crossed(down: str, across: str) -> str:
    """How many systems carry each pair of words of two facets; a system with several words counts in each."""
    words = list(vocabulary(across))
    lines = [f"| {down} | " + " | ".join(words) + " |", "|---|" + "---:|" * len(words)]
    for word in vocabulary(down):
        counts = [len(entries(**{down: [word], across: [other]})) for other in words]
        lines.append(f"| `{word}` | " + " | ".join(str(n) if n else "" for n in counts) + " |")
    return "\n".join(lines)


def taxonomy() -> str:
    """The maps of the catalogue, and its words, each with its meaning and the systems that carry it."""
    parts = [TAXONOMY]
    parts += [f"## {down.capitalize()} and {across}\n\n{crossed(down, across)}" for down, across in MAPS]
    for facet in FACETS:
        rows = []
        for word, meaning in vocabulary(facet).items():
            members = entries(**{facet: [word]})
            links = ", ".join(f"[{e.slug}]({e.slug}.md)" for e in members)
            rows.append(f"| `{word}` | {meaning} | {len(members)}: {links} |")
        title = QUESTIONS.get(facet, facet.capitalize())
        parts.append(
            "\n".join([f"## {title} (`--{facet}`)", "", "| word | meaning | systems |", "|---|---|---|", *rows])
        )
    return "\n\n".join(parts) + "\n"


def between_markers(text: str, table: str) -> str:
    """``text`` with the part between the two markers replaced by ``table``."""
    before, rest = text.split(OPEN)
    return f"{before}{OPEN}\n\n{table}\n{CLOSE}{rest.split(CLOSE)[1]}"


def main() -> None:
    """Write all pages below ``docs/`` and the table of the README where it has the markers."""
    docs, folder = ROOT / "docs", ROOT / "docs" / "systems"
    folder.mkdir(exist_ok=True)
    for e in entries():
        (folder / f"{e.slug}.md").write_text(page(e))
    for slug, what in STUDIES.items():
        (folder / f"{slug}.md").write_text("\n\n".join([f"# {slug}", what, *_proof(slug)]) + "\n")
    for pictures in filter(Path.is_dir, evidence.folder().iterdir()):
        shutil.copytree(pictures, folder / pictures.name, dirs_exist_ok=True)
    (folder / "taxonomy.md").write_text(taxonomy())
    (docs / "index.md").write_text(f"{INDEX}\n\n{systems_table(link=True)}")
    readme = ROOT / "README.md"
    if OPEN in readme.read_text():
        readme.write_text(BUILT.sub(built(), between_markers(readme.read_text(), systems_table())))


if __name__ == "__main__":
    main()
