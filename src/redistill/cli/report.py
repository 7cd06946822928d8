"""``redistill report`` and ``compare``: evidence as one static HTML folder, and systems side by side."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redistill import files
from redistill.core import evidence
from redistill.core.errors import UserError

if TYPE_CHECKING:
    from markupsafe import Markup

Slugs = Annotated[list[str] | None, typer.Argument(metavar="[SLUG...]", help="systems; all that have evidence if none")]
LEGEND = {
    "headline": "The sentence of the paper's abstract that the study stands for: better than a rival by at least an "
    "effect that was written down before. Judged on five seeds or more at 95 %.",
    "superiority": "Another comparison of two arms, on three seeds or more at 90 %.",
    "margin": "A cost or a control that stays within a margin. No gain, so it is not counted beside the headline.",
    "threshold": "A number held against a constant: chance, a floor, a ceiling.",
    "holds": "The mean effect reaches the least one that counts, and its one-sided bound is above zero.",
    "not shown": "Neither that nor its opposite; also what lies on its threshold.",
    "contradicted": "Worse beyond doubt where better was claimed.",
    "effect ± sd": "Mean and deviation over seeds of the difference between two arms with the same seed; in percent "
    "where it is relative to the rival.",
    "stale": "The code has changed since it was measured; the numbers are those of the code before.",
}
SUB, SUP = re.compile(r"_(?:\{([^{}]*)\}|(\w+))"), re.compile(r"\^(?:\{([^{}]*)\}|(\w+))")


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
    (out / "index.html").write_text(page(records), encoding="utf-8")
    typer.echo(f"wrote {out / 'index.html'}: {len(records)} systems")


def compare(
    slugs: Annotated[list[str], typer.Argument(metavar="SLUG... [KEY=VALUE...]", help="two systems or more")],
    recipe: Annotated[Path | None, typer.Option(help="Train them all by it: same networks, rows, updates.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds from 1 on, with a recipe.")] = 3,
) -> None:
    """Put several systems side by side. From their evidence: each was measured by a study of its own, with a bed, a
    teacher and a budget of its own. With --recipe: trained on one teacher, the same rows and updates."""
    from rich.console import Console
    from rich.table import Table

    overrides = [given for given in slugs if "=" in given]
    slugs = [given for given in slugs if "=" not in given]
    if len(set(slugs)) < 2:
        raise UserError("name two systems or more", place="compare")
    if recipe:
        from redistill.cli.versus import table_of, versus

        Console().print(table_of(versus(slugs, recipe, overrides, range(1, seeds + 1))))
        return
    if overrides:
        raise UserError(f"{overrides[0]} changes a recipe; give --recipe", place="compare")
    table = Table("system", "headline", "claim", "in the paper", "beside it", "seconds a seed", box=None)
    for record in map(_record, slugs):
        main = evidence.headline(record) or {"name": "", "paper": ""}
        cost = f"{record['seconds'] / len(record['seeds']):.0f}"
        row = (evidence.standing(record), main["name"], main["paper"], evidence.counted(record), cost)
        table.add_row(record["slug"], *row)
    Console().print(table)
    Console().print("each by a study of its own; on one teacher and budget: --recipe FILE", style="dim")


def everything() -> list[dict[str, Any]]:
    """All evidence there is, by slug."""
    return [record for file in sorted(evidence.folder().glob("*.json")) if (record := evidence.read(file.stem))]


def _record(slug: str) -> dict[str, Any]:
    from redistill.catalog import STUDIES, entry

    record = evidence.read(slug if slug in STUDIES else entry(slug).slug)
    if record is None:
        raise UserError(f"{slug!r} has no evidence yet; redistill reproduce {slug} makes some", place="evidence")
    return record


def page(records: Sequence[Mapping[str, Any]]) -> str:
    """Contents, legend and a section for every record, as one page that needs nothing but its pictures."""
    from jinja2 import Template

    text = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    return Template(text, autoescape=True, trim_blocks=True).render(records=list(map(_told, records)), legend=LEGEND)


def _told(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record in the words of the page."""
    from redistill.catalog import STUDIES, entry

    slug, paper = record["slug"], None if record["slug"] in STUDIES else entry(record["slug"])
    claims = sorted(record["claims"], key=lambda c: c["kind"] != "headline")
    metrics = list(dict.fromkeys(m for arm in record["table"].values() for m in arm))
    return {
        **record,
        "title": paper.title if paper else "",
        "arxiv": paper.arxiv if paper else "",
        "equation": [formula(line) for line in paper.equation.split(",  ")] if paper else [],
        "standing": evidence.standing(record),
        "headline": (evidence.headline(record) or {"name": ""})["name"],
        "counted": evidence.counted(record),
        "warnings": evidence.warnings(record),
        "claims": [{**claim, "effect": evidence.effect(claim)} for claim in claims],
        "pictures": [f"{slug}_{name}" for name in record.get("pictures", [])],
        "texts": record.get("texts", {}),
        "metrics": metrics,
        "table": [(arm, record["arms"][arm], _means(by, metrics)) for arm, by in record["table"].items()],
    }


def _means(values: Mapping[str, Sequence[float]], metrics: Sequence[str]) -> list[str]:
    return [f"{sum(values[m]) / len(values[m]):.4g}" if m in values else "" for m in metrics]


def formula(line: str) -> Markup:
    """An equation of the catalogue as HTML: ``_x``, ``_{...}`` lowered, ``^x``, ``^{...}`` raised."""
    from markupsafe import Markup, escape

    made = str(escape(line))
    for form, tag in ((SUB, "sub"), (SUP, "sup")):
        made = form.sub(lambda found, tag=tag: f"<{tag}>{found[1] or found[2]}</{tag}>", made)
    return Markup(made)
