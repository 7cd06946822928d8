"""Progressive distillation of a diffusers folder: a round for every halving of its sampling steps."""

from __future__ import annotations

from redistill.core.errors import UserError
from redistill.core.types import Count, CountOrZero, Finite, PositiveShare, checked
from redistill.diffusion.denoiser import Denoiser
from redistill.diffusion.doors import save_student
from redistill.methods.trajectory.progressive import SnrWeight, distil
from redistill.models.diffusers import scheduler_for
from redistill.procedures.job import Job

NEEDS = ("rows", "plan", "resume")


@checked
def run(
    job: Job,
    student: Denoiser,
    teacher: Denoiser,
    *,
    teacher_steps: Count = 1024,  # DDIM steps that the halving begins with
    steps: Count = 4,  # that it ends with
    start: PositiveShare = 1.0,  # time at which sampling begins
    weight: SnrWeight | None = None,  # of the loss by signal-to-noise ratio; truncated if left out
    condition: str | None = None,  # the column that conditions the network
    guidance: Finite = 1.0,  # of the first teacher; 1 is none, others need condition and null
    null: CountOrZero | None = None,  # the class that says nothing
) -> str:
    """Halve DDIM's steps from ``teacher_steps`` to ``steps``; ``plan`` is one round's. ``start``, ``weight``,
    ``condition``, ``guidance`` and ``null`` as in :class:`Progressive`. Writes the last student for plain diffusers.

    A job that resumes goes on from the last checkpoint of the round that it was in.
    """
    source = job.sources["student"]
    if source is None:
        raise UserError("only a denoiser has steps to halve; give kind: copy, path: teacher", place="models.student")
    scheduler_for(source.reading, steps, "ode")  # refused before anything is trained

    made = distil(
        student, teacher, job.rows, job.plan, first=teacher_steps, last=steps, start=start, weight=weight,
        condition=condition, guidance=guidance, null=null, folder=job.folder, resume=job.resume, show=True,
    )  # fmt: skip
    *_, (_, network) = made
    folder = save_student(network, source, job.folder / "student", steps=steps, sampling="ode")
    return f"a diffusers folder of {steps} steps; {folder / 'README.md'} says how to sample"
