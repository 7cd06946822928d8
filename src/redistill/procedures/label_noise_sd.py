"""Self-distillation under label noise: the weight of the teacher, above 1 as well, is chosen on held-out rows."""

from __future__ import annotations

from typing import Any

from redistill.core.errors import UserError
from redistill.core.types import Finite, Seed, ShareInside, checked
from redistill.methods.analysis.label_noise_sd import distil_through_noise
from redistill.procedures.job import Job

NEEDS = ("rows", "plan")


@checked
def run(
    job: Job,
    student: Any,
    *,
    weights: tuple[Finite, ...] = (0.5, 1.0, 1.25, 1.5, 2.0),  # of the teacher, a student each
    fresh: bool = True,  # start from new weights of the network's kind, not from those it came with
    validation: ShareInside = 0.25,  # of the rows, which choose
    seed: Seed = 0,  # of the split and of new weights
) -> str:
    """A teacher on the (noisy) labels and one student for each of ``weights``; held-out rows choose. Writes the
    accuracies as JSON and the best network's weights."""
    if not weights:
        raise UserError("no weight to try; give some, as [1, 1.5]", place="options.weights")
    used, held = job.split(validation, seed)
    start = job.starts("student", student, fresh=fresh)
    best = distil_through_noise(lambda k: start(seed + k), used, held, job.plan, weights=weights)

    job.numbers("weights.json", [{"weight": xi, "accuracy": hit} for xi, hit in sorted(best.accuracy.items())])
    return (
        f"{job.weights(best.student)}: weight {best.xi:g} is best with {100 * best.accuracy[best.xi]:.1f} %, the "
        f"teacher has {100 * best.accuracy[0.0]:.1f} %"
    )
