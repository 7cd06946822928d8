"""``redistill demo``: the main job on shipped weights and pictures, with a table and a static report."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from redistill import files
from redistill.core.errors import UserError, need

PAGE = """<!doctype html><meta charset="utf-8"><title>redistill demo</title>
<style>body{{font:16px sans-serif;max-width:60em;margin:2em auto}}td,th{{padding:.2em 1em;text-align:right}}
img{{image-rendering:pixelated}}</style>
<h1>One step instead of {steps}: faces distilled by regression on pairs and DMD2</h1>
<p>{seconds:.0f} s, in which the teacher drew {pairs} pairs of noise and image; seed {seed}.</p>
<table>{rows}</table><p>Speed-up per image: {speed_up:.1f} times.</p>
<h2>Teacher, {steps} steps</h2><img src="teacher.png"><h2>Student, 1 step, the same noise</h2><img src="student.png">
<h2>The exported student, sampled once by plain diffusers</h2><img src="plain_diffusers.png">
"""
COLUMNS = ("steps", "frechet", "precision", "recall", "obeyed", "seconds_per_image")


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report; must not hold another one.")] = Path("runs/demo"),
    minutes: Annotated[float, typer.Option(help="Wall time of the training; the first steps tell how many fit.")] = 4.0,
    updates: Annotated[
        int | None, typer.Option(min=1, help="Student updates instead of minutes: the same on every machine.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 1,
) -> None:
    """Distil the shipped multi-step faces teacher into a one-step student (regression on the teacher's pairs, then
    DMD2), and compare them."""
    if not (0 < minutes < math.inf):
        raise UserError(f"{minutes} is no time to train in; give a positive number", place="--minutes")
    files.check_empty(out, "--out")
    try:
        import diffusers  # noqa: F401
    except ImportError as error:
        raise need("diffusion", "diffusers") from error
    from redistill.studies.faces_demo import distil_faces

    found = distil_faces(updates=updates, minutes=minutes, seed=seed, tell=Lines(typer.echo), show=sys.stdout.isatty())
    _print(found)
    _write(found, out, seed)
    typer.echo(f"report: {out / 'index.html'}")


class Lines:
    """Says how far a run is: a line at the first step of a part, at its last and every few ``seconds`` between them."""

    def __init__(
        self, say: Callable[[str], None], seconds: float = 5.0, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.say, self.seconds, self.clock, self.said = say, seconds, clock, -math.inf

    def __call__(self, what: str, done: int, total: int, seconds: float) -> None:
        """``done`` of ``total`` in so many seconds."""
        at = self.clock()
        if at - self.said < self.seconds and 1 < done < total:
            return
        self.said, left = at, seconds / done * (total - done)
        self.say(f"{what}: {done}/{total}, {seconds:.0f} s, {left:.0f} s left")


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", *COLUMNS, box=None)
    for name in ("teacher", "student"):
        table.add_row(name, *[f"{found[name][column]:.3g}" for column in COLUMNS])
    Console().print(table)
    Console().print(f"{found['speed_up']:.1f} times faster per image, after {found['seconds']:.0f} s in all")


def _write(found: dict[str, Any], out: Path, seed: int) -> None:
    from redistill.studies.faces_demo import export, picture

    out.mkdir(parents=True, exist_ok=True)
    for name in ("teacher", "student"):
        picture(found[f"{name}_grid"]).save(out / f"{name}.png")
    _sample_plainly(export(found["net"], out / "student"), out / "plain_diffusers.png")
    numbers = {k: found[k] for k in ("teacher", "student", "seconds", "updates", "pairs", "speed_up", "history")}
    (out / "numbers.json").write_text(json.dumps(numbers, indent=1) + "\n")
    head = "<tr><th></th>" + "".join(f"<th>{c}</th>" for c in COLUMNS) + "</tr>"
    rows = [
        f"<tr><th>{name}</th>" + "".join(f"<td>{found[name][c]:.3g}</td>" for c in COLUMNS) + "</tr>"
        for name in ("teacher", "student")
    ]
    page = PAGE.format(rows=head + "".join(rows), seed=seed, **found["teacher"], **_top(found))
    (out / "index.html").write_text(page)


def _sample_plainly(folder: Path, picture: Path) -> None:
    """Load the exported student as any user of diffusers would, and draw one face of each artist in one step."""
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(batch_size=3, class_labels=[0, 1, 2], num_inference_steps=1).images
    page = images[0].resize((3 * images[0].width, images[0].height))
    for k, image in enumerate(images):
        page.paste(image, (k * image.width, 0))
    page.save(picture)


def _top(found: dict[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in ("seconds", "pairs", "speed_up")}
