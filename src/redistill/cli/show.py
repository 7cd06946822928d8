"""``redistill show``: one system, with its answers and its evidence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from redistill.catalog import QUESTIONS, Entry, byline, entry
from redistill.cli.options import options_of
from redistill.core import evidence

VERDICTS = dict(zip(evidence.VERDICTS, ("green", "yellow", "red")))


def show(slug: Annotated[str, typer.Argument(metavar="SLUG", help="name of a system, as list prints it")]) -> None:
    """One system: the idea, the five answers, the equation, when to use it and when not, cost, claim and evidence."""
    e = entry(slug)
    width = min(Console().width, 110)
    Console(width=width, highlight=False).print(Padding(Group(*_page(e)), (1, 1)))


def _page(e: Entry) -> list[RenderableType]:
    tags = " · ".join((e.group, e.kind, f"{e.scheme} scheme", ", ".join(e.modality), e.status))
    advice = _pairs(
        (("use it when", e.use_when), ("not when", e.avoid_when), ("cost", e.cost), ("the paper", e.claim), *_where(e))
    )
    head = [Text.assemble((e.slug, "bold cyan"), "  ", (e.title, "bold")), Text(tags, style="dim")]
    equation = Text("\n".join(e.equation.split(",  ")), style="magenta")
    return [
        *head,
        Text(),
        Text(" ".join(e.idea)),
        Padding(equation, (1, 2)),
        *_answers(e),
        Text(),
        advice,
        *_options(e),
        *_proof(e),
    ]


def _answers(e: Entry) -> Iterable[RenderableType]:
    """Each question with the words that ``list`` filters by, the phrase below."""
    for question, asked in QUESTIONS.items():
        words, text = getattr(e, question)
        yield Text.assemble((f"{asked}  ", "bold"), (", ".join(words), "cyan"))
        yield Padding(Text(text), (0, 0, 0, 2))


def _pairs(rows: Iterable[tuple[str, str | Text]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(ratio=1)
    for name, value in rows:
        table.add_row(name, Text(value) if isinstance(value, str) else value)
    return table


def _where(e: Entry) -> list[tuple[str, str]]:
    """Where the paper and the code are, as far as they are known."""
    install = f"pip install 'redistill[{e.extra}]'" if e.extra else ""
    read = e.arxiv and f"https://arxiv.org/abs/{e.arxiv}"
    known = {"by": byline(e), "read": read, "code": e.class_, "needs": install}
    return [(name, value) for name, value in known.items() if value]


def _options(e: Entry) -> list[RenderableType]:
    """What ``options`` of a recipe takes, a line each."""
    found = options_of(e)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("option", no_wrap=True)
    table.add_column("left out", no_wrap=True, max_width=20)
    for name in ("takes", ""):
        table.add_column(name, ratio=1)
    for option in found:
        table.add_row(
            option.name,
            Text("must be given" if option.default is None else option.default),
            Text(option.takes),
            Text(option.remark),
        )
    return [Text("\noptions of a recipe", style="bold"), table] if found else []


def _proof(e: Entry) -> list[RenderableType]:
    """The headline, what holds beside it, and every claim with its effect and spread over seeds."""
    measured = evidence.read(e.slug)
    if measured is None:
        return [] if e.status == "planned" else [Text(f"\nno evidence yet: redistill reproduce {e.slug}", style="dim")]
    seeds = ", ".join(map(str, measured["seeds"]))
    parts: list[RenderableType] = [Text(f"\nevidence, seeds {seeds}, {measured['seconds']:.0f} s", style="bold")]
    parts += [Text(line, style="yellow") for line in evidence.warnings(measured)]
    return [*parts, _headline(measured), Text(), _verdicts(measured["claims"])]


def _headline(measured: dict[str, Any]) -> RenderableType:
    main, others = evidence.headline(measured), evidence.counted(measured)
    if main is None:
        return Text(f"no headline yet; {others}", style="dim")
    said = Text.assemble(("headline ", "bold"), (main["verdict"], VERDICTS[main["verdict"]]), f"  {main['name']}: ",
                         f"{evidence.effect(main)}, n = {main['n']}")  # fmt: skip
    paper = Text(f"in the paper: {main['paper']}" if main["paper"] else "", style="dim")
    return Group(said, *([paper] if main["paper"] else []), Text(f"beside it {others}", style="dim"))


def _verdicts(claims: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("verdict", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    for name in ("claim", "measured"):
        table.add_column(name, ratio=1)
    table.add_column("effect ± sd", justify="right", no_wrap=True)
    for c in claims:
        sides = f"{c['metric']}: {c['arm']}" + (f" against {c['against']}" if c["against"] else f"; {c['reason']}")
        verdict = Text(c["verdict"], style=VERDICTS[c["verdict"]])
        table.add_row(verdict, c["kind"], c["name"], sides.removesuffix("; "), evidence.effect(c))
    return table
