"""``redistill reproduce``: measure a study's cells, print its table and verdicts, write its evidence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from redistill import files
from redistill.core.errors import UserError, unknown

Confirm = Annotated[bool, typer.Option(help="One seed anew; equal numbers renew the evidence of older code.")]
Shard = Annotated[str | None, typer.Option(help="i/n: measure this share of the cells, judge nothing.")]
Where = Annotated[str, typer.Option(help="local, or slurm: a job a cell (REDISTILL_CACHE on a shared disk).")]
Seeds = Annotated[str | None, typer.Option(help="Seeds, as 1,2,3; the study's own if left out.")]


def reproduce(
    slugs: Annotated[list[str] | None, typer.Argument(help="Systems, as redistill list names them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every system that is built.")] = False,
    seeds: Seeds = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes; each gets one thread.")] = 1,
    smoke: Annotated[bool, typer.Option(help="A budget of seconds, to see that it runs. Writes no evidence.")] = False,
    executor: Where = "local",
    shard: Shard = None,
    fresh: Annotated[bool, typer.Option(help="Measure anew what is cached.")] = False,
    confirm: Annotated[
        bool, typer.Option(help="One seed anew; equal numbers renew the evidence of older code.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a system on standard output.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the evidence instead of the shipped one.")] = None,
) -> None:
    """Run the paper's own comparison at laptop scale: arms x seeds, claims, verdicts."""
    chosen, numbers, part = _chosen(slugs or [], everything), _seeds(seeds), _part(shard)
    _check_executor(executor)
    if out is not None:
        files.check_out(out, "--out")
    from redistill.core import evidence, study

    studies = [study.load(slug) for slug in chosen]  # all mistakes before the first run
    target = out or (None if smoke else evidence.folder())
    console = Console(stderr=as_json)
    how: dict[str, Any] = {"jobs": jobs, "executor": executor, "fresh": fresh}
    if confirm:
        _confirm(studies, numbers, target, how, console)
        return
    if part:
        _measure_part(studies, numbers, smoke, part, how, _reporter(console))
        return
    for one in studies:
        record, _ = study.run(one, seeds=numbers, smoke=smoke, target=target, report=_reporter(console), **how)
        if as_json:
            typer.echo(json.dumps(evidence.plain(record), allow_nan=False))
        else:
            show_record(console, record)


def _chosen(slugs: list[str], everything: bool) -> list[str]:
    from redistill.catalog import STUDIES, entries, studied

    if everything == bool(slugs):
        raise UserError("name one system or more, or give --all", place="reproduce")
    if everything:
        return [*(e.slug for e in entries(status=["built"])), *STUDIES]
    return [studied(slug) for slug in slugs]


def _seeds(given: str | None) -> list[int] | None:
    if given is None:
        return None
    try:
        seeds = [int(part) for part in given.split(",")]
    except ValueError as error:
        raise UserError(f"{given!r} is no list of whole numbers; write 1,2,3", place="--seeds") from error
    if not all(0 <= seed < 2**31 for seed in seeds):
        raise UserError(f"{given!r}: a seed is a whole number from 0 to {2**31 - 1}", place="--seeds")
    if len(set(seeds)) != len(seeds):
        raise UserError(f"{given!r} names a seed twice", place="--seeds")
    return seeds


def _part(shard: str | None) -> tuple[int, int] | None:
    """``2/8`` as numbers, checked."""
    if shard is None:
        return None
    first, _, second = shard.partition("/")
    if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second) <= 10**6):
        raise UserError(f"{shard!r} is no share; write 1/4 for the first of four", place="--shard")
    return int(first), int(second)


def _check_executor(name: str) -> None:
    valid = ("local", "slurm", "debug")
    if name not in valid:
        raise unknown("executor", name, valid, place="--executor")


def _measure_part(
    studies: list[Any], seeds: list[int] | None, smoke: bool, part: tuple[int, int], how: dict[str, Any], report: Any
) -> None:
    """The cells of one share, kept in the cache; a call without --shard then finds them all and judges."""
    from redistill.core.cells import measure, share

    for one in studies:
        budget = {**one.budget, **(one.smoke if smoke else {})}
        work = [(arm, seed) for seed in seeds or one.seeds for arm in one.arms]
        for (arm, seed), outcome in measure(one, share(work, *part), budget, **how):
            report(arm, seed, outcome)


def _confirm(
    studies: list[Any], seeds: list[int] | None, target: Path | None, how: dict[str, Any], console: Any
) -> None:
    """Renew the evidence whose numbers today's code gives again on one seed."""
    from redistill.core import evidence
    from redistill.core.confirm import confirm

    if target is None or (seeds and len(seeds) > 1):
        raise UserError("it takes one seed, and no smoke run", place="--confirm")
    for one in studies:
        record = evidence.read(one.slug, target)
        if record is None or "frozen" not in record:
            raise UserError(f"{one.slug!r} has no evidence that could be confirmed", place="--confirm")
        seed = seeds[0] if seeds else record["seeds"][0]
        evidence.write(confirm(one, record, seed, **how), target)
        console.print(f"{one.slug}: seed {seed}, measured anew, gave the same numbers", highlight=False)


def _reporter(console: Console) -> Any:
    def say(arm: str, seed: int, outcome: Any) -> None:
        console.print(f"[dim]{arm} · seed {seed} · {outcome.seconds:.1f} s[/dim]", highlight=False)

    return say


def show_record(console: Console, record: dict[str, Any]) -> None:
    """The verdicts of one study as a table."""
    from redistill.core import evidence

    table = Table(title=f"{record['slug']}: {record['question']}", title_justify="left", box=None, pad_edge=False)
    for name in ("verdict", "kind", "claim", "arm", "against", "effect"):
        table.add_column(name, overflow="fold")
    colours = {"holds": "green", "not shown": "yellow", "contradicted": "red"}
    for claim in record["claims"]:
        verdict = f"[{colours[claim['verdict']]}]{claim['verdict']}[/]"
        ours, other = f"{claim['mean']:.4g}", f"{claim['against_mean']:.4g}" if claim["against"] else "-"
        table.add_row(verdict, claim["kind"], claim["name"], ours, other, evidence.effect(claim))
    console.print(table)
    console.print(f"headline {evidence.standing(record)}; beside it {evidence.counted(record)}", highlight=False)
    for line in evidence.warnings(record):
        console.print(f"[yellow]{line}[/yellow]", highlight=False)
    console.print(f"[dim]{len(record['seeds'])} seeds, {record['seconds']} s of computing[/dim]")
