"""``redistill report`` and ``compare``: evidence as one static HTML folder, and systems side by side."""

from __future__ import annotations

import html
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from redistill import files
from redistill.core import evidence
from redistill.core.errors import UserError

Slugs = Annotated[list[str] | None, typer.Argument(metavar="[SLUG...]", help="systems; all that have evidence if none")]
STYLE = """<!doctype html><meta charset="utf-8"><title>redistill: evidence</title><style>
body{font:16px/1.5 sans-serif;max-width:70em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}
td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #ddd}img{max-width:100%}
.holds{color:#070}.not{color:#a60}.contradicted{color:#b00}small{color:#666}</style>"""


def report(
    slugs: Slugs = None,
    out: Annotated[Path, typer.Option(help="Folder to write; must be empty or not exist.")] = Path("runs/report"),
) -> None:
    """Write tables, verdicts, pictures and texts of the evidence as one static HTML folder."""
    records = [_record(slug) for slug in slugs] if slugs else everything()
    if not records:
        raise UserError("there is no evidence yet; redistill reproduce SLUG makes some", place="report")
    files.check_empty(out, "--out")
    out.mkdir(parents=True, exist_ok=True)
    for record in records:
        for name in record.get("pictures", []):
            shutil.copyfile(evidence.folder() / record["slug"] / name, out / f"{record['slug']}_{name}")
    page = STYLE + _contents(records) + "".join(map(_section, records))
    (out / "index.html").write_text(page, encoding="utf-8")
    typer.echo(f"wrote {out / 'index.html'}: {len(records)} systems")


def compare(slugs: Annotated[list[str], typer.Argument(metavar="SLUG...", help="two systems or more")]) -> None:
    """Put the headlines, what holds beside them and the cost of several systems side by side, from their evidence."""
    from rich.console import Console
    from rich.table import Table

    if len(set(slugs)) < 2:
        raise UserError("name two systems or more", place="compare")
    table = Table("system", "headline", "claim", "in the paper", "beside it", "seconds a seed", box=None)
    for record in map(_record, slugs):
        main = evidence.headline(record) or {"name": "", "paper": ""}
        cost = f"{record['seconds'] / len(record['seeds']):.0f}"
        row = (evidence.standing(record), main["name"], main["paper"], evidence.counted(record), cost)
        table.add_row(record["slug"], *row)
    Console().print(table)


def everything() -> list[dict[str, Any]]:
    """All evidence there is, by slug."""
    return [record for file in sorted(evidence.folder().glob("*.json")) if (record := evidence.read(file.stem))]


def _record(slug: str) -> dict[str, Any]:
    from redistill.catalog import STUDIES, entry

    record = evidence.read(slug if slug in STUDIES else entry(slug).slug)
    if record is None:
        raise UserError(f"{slug!r} has no evidence yet; redistill reproduce {slug} makes some", place="evidence")
    return record


def _contents(records: list[dict[str, Any]]) -> str:
    """Every system with its headline, as links into the page."""
    rows = [
        f'<tr><td><a href="#{r["slug"]}">{r["slug"]}</a></td><td>{html.escape(evidence.standing(r))}</td>'
        f"<td>{html.escape((evidence.headline(r) or {'name': ''})['name'])}</td><td>{evidence.counted(r)}</td></tr>"
        for r in records
    ]
    head = "<tr><th>system</th><th>headline</th><th>claim</th><th>beside it</th></tr>"
    return f"<h1>Evidence</h1><table>{head}{''.join(rows)}</table>"


def _section(record: dict[str, Any]) -> str:
    told = [f"headline {evidence.standing(record)}; beside it {evidence.counted(record)}", *evidence.warnings(record)]
    parts = [f'<h1 id="{record["slug"]}">{record["slug"]}</h1><p>{html.escape(record["question"])}</p>']
    parts += [f"<p>{html.escape(line)}</p>" for line in told] + [_claims(record["claims"])]
    parts += [f'<p><img src="{record["slug"]}_{name}" alt="{name}"></p>' for name in record.get("pictures", [])]
    parts += [f"<h3>Measured</h3>{_table(record)}", _texts(record)]
    parts += [f"<p><small>{html.escape(note)}</small></p>" for note in record["notes"]]
    seeds = ", ".join(map(str, record["seeds"]))
    return "".join([*parts, f"<p><small>seeds {seeds}; {record['seconds']} s; {record['command']}</small></p>"])


def _claims(claims: list[dict[str, Any]]) -> str:
    names = ("verdict", "kind", "claim", "effect", "the paper")
    head = "".join(f"<th>{name}</th>" for name in names)
    return f"<table><tr>{head}</tr>{''.join(map(_claim, claims))}</table>"


def _claim(c: dict[str, Any]) -> str:
    cells = (c["kind"], html.escape(c["name"]), evidence.effect(c), f"<small>{html.escape(c['paper'])}</small>")
    first = f'<td class="{c["verdict"].split()[0]}">{c["verdict"]}</td>'
    return "<tr>" + first + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _table(record: dict[str, Any]) -> str:
    """Mean over seeds of up to ten metrics of each arm."""
    metrics = list(dict.fromkeys(m for arm in record["table"].values() for m in arm))[:10]
    head = "<tr><th>arm</th>" + "".join(f"<th>{m}</th>" for m in metrics) + "</tr>"
    rows = []
    for arm, values in record["table"].items():
        cells = [f"{sum(values[m]) / len(values[m]):.4g}" if m in values else "" for m in metrics]
        rows.append(
            f"<tr><td>{html.escape(record['arms'][arm])}</td>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>"
        )
    return f"<table>{head}{''.join(rows)}</table>"


def _texts(record: dict[str, Any]) -> str:
    """Answers before and after, where a study kept some."""
    texts = record.get("texts", {})
    return "".join(f"<h3>{html.escape(name)}</h3><pre>{html.escape(text)}</pre>" for name, text in texts.items())
