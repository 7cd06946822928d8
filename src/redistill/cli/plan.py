"""``redistill plan``: what to do with a compute budget, distil or train on the text, and how to split it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redistill.core.errors import UserError
from redistill.theory.scaling_files import number, read_laws, read_runs

if TYPE_CHECKING:
    from redistill.methods.analysis.scaling_laws import Split
    from redistill.theory.scaling import Laws

BUDGETS, SIZES, LOSSES = (1e6, 1e40), (1.0, 1e18), (1e-6, 1e3)  # FLOPs, parameters, nats a token
CASES = "what of the teacher is paid for: free (nothing), inference, training, both"


def plan(
    budget: Annotated[str, typer.Option(metavar="FLOPS", help="all the compute there is, as 1e21")],
    student: Annotated[str, typer.Option(metavar="N", help="parameters without embeddings, as 300M or 3e8")],
    case: Annotated[str, typer.Option(help=CASES)] = "both",
    teacher_size: Annotated[str | None, typer.Option(metavar="N", help="an existing teacher's parameters")] = None,
    teacher_loss: Annotated[str | None, typer.Option(help="its cross-entropy on the validation text")] = None,
    coefficients: Annotated[Path | None, typer.Option(help="JSON of laws; plan --json prints such")] = None,
    runs: Annotated[
        list[Path] | None, typer.Option(help="CSV or JSON of your own runs: N, D, loss, teacher_loss; may be repeated")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Split a compute budget between teacher and student of a language model by distillation scaling laws.

    Without --coefficients or --runs the published coefficients are used: they belong to one data set and tokenizer.
    """
    sizes = _within(budget, "--budget", BUDGETS), _within(student, "--student", SIZES)
    teacher = _teacher(teacher_size, teacher_loss)
    if coefficients and runs:
        raise UserError("give either --coefficients or --runs", place="plan")
    from redistill.methods.analysis import scaling_laws
    from redistill.theory.scaling import PUBLISHED

    table = read_runs(runs) if runs else None
    if table:
        laws = scaling_laws.fit_laws(table, source=f"fitted to {', '.join(map(str, runs or []))}")
    else:
        laws = read_laws(coefficients) if coefficients else PUBLISHED
    found = scaling_laws.plan(*sizes, case=case, laws=laws, teacher=teacher)
    record = _record(found, laws, *sizes, existing=teacher is not None)
    if laws is PUBLISHED:
        record["caution"] = "these coefficients were not checked against the paper's table; do so before you spend"
    if table:
        record |= _trust(table, laws, sizes[1], found)
    typer.echo(json.dumps(record, allow_nan=False) if as_json else "\n".join(_page(record)))


def _teacher(size: str | None, loss: str | None) -> tuple[float, float] | None:
    if (size is None) != (loss is None):
        raise UserError("an existing teacher needs --teacher-size and --teacher-loss", place="plan")
    if size is None or loss is None:
        return None
    return _within(size, "--teacher-size", SIZES), _within(loss, "--teacher-loss", LOSSES)


def _within(given: str, place: str, ends: tuple[float, float]) -> float:
    """A number that a language model may have; beyond, the laws overflow and say nothing."""
    value = number(given, place)
    if not ends[0] <= value <= ends[1]:
        raise UserError(f"{given[:40]!r} is beyond any language model; give {ends[0]:g} to {ends[1]:g}", place=place)
    return value


def _record(found: Split, laws: Laws, budget: float, N_S: float, *, existing: bool) -> dict[str, Any]:
    """The plan as plain JSON values."""
    told = asdict(found) | {"D_T": None if existing else found.D_T}
    seen = {"N_S": N_S, "D_S": found.D_S, "N_T": found.N_T, "L_T": found.L_T}
    notes = laws.outside(**seen, **({} if existing else {"D_T": found.D_T}))
    if found.supervised_D > laws.ranges["D_S"][1]:
        notes.append(
            f"trained alone the student would see {found.supervised_D:.4g} tokens, more than any run behind the fit"
        )
    return {
        "budget": budget, "student": N_S, **told, "advice": "distil" if found.distil else "train on the text",
        "gain": found.supervised_loss - found.L_S, "extrapolates": notes, "source": laws.source,
        "coefficients": {
            "supervised": asdict(laws.supervised), "distillation": asdict(laws.distillation),
            "ranges": {k: list(v) for k, v in laws.ranges.items()}, "source": laws.source,
        },
    }  # fmt: skip


def _trust(table: dict[str, list[float]], laws: Laws, N_S: float, found: Split) -> dict[str, Any]:
    """How far the fitted laws miss their own runs, and 90 % of the bootstrap's predictions of this very split."""
    import numpy as np

    from redistill.methods.analysis.scaling_laws import bootstrap

    N, D, loss, L_T = map(np.asarray, table.values())
    resampled = bootstrap(table, laws)
    L_S = [float(other.predict(N_S, found.D_S, found.L_T)) for other in resampled]
    alone = [float(other.supervised(N_S, found.supervised_D)) for other in resampled]
    columns = {"L_S": L_S, "supervised_loss": alone, "gain": np.subtract(alone, L_S)}
    return {
        "misfit": float(np.abs(laws.predict(N, D, L_T) / loss - 1).mean()),
        "interval": {k: [float(q) for q in np.percentile(v, [5, 95])] for k, v in columns.items()},
    }


def _page(record: dict[str, Any]) -> list[str]:
    """The plan for people."""
    between = {k: " (90 % of resamples: {:.3f} to {:.3f})".format(*v) for k, v in record.get("interval", {}).items()}
    shares = [f"{v / record['budget']:.0%} {k.replace('_', ' ')}" for k, v in record["flops"].items() if v]
    trained = "exists already" if record["D_T"] is None else f"{record['D_T']:.3g} tokens"
    lines = [
        f"budget {record['budget']:.3g} FLOPs, student of {record['student']:.3g} parameters, case {record['case']}",
        "",
        f"distilled    loss {record['L_S']:.3f}{between.get('L_S', '')}",
        f"  student    {record['D_S']:.3g} tokens",
        f"  teacher    loss {record['L_T']:.3f}: {record['N_T']:.3g} parameters, {trained}",
        f"  compute    {', '.join(shares)}",
        f"on the text  loss {record['supervised_loss']:.3f}{between.get('supervised_loss', '')}",
        f"  student    {record['supervised_D']:.3g} tokens",
        "",
        f"advice: {record['advice']}; distilling gains {record['gain']:+.3f} nats{between.get('gain', '')}",
        f"coefficients: {record['source']}",
    ]
    if "caution" in record:
        lines.append(f"caution: {record['caution']}")
    if record["case"] == "free" and record["D_T"] is not None:
        lines.append("the teacher counts through its loss alone: any teacher of that loss will do")
    if "misfit" in record:
        lines.append(f"the laws miss their own runs by {record['misfit']:.1%} on average")
    return lines + [f"extrapolates: {note}" for note in record["extrapolates"]]
