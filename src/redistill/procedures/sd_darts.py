"""SD-DARTS from supernet to trained network: search on two halves of the rows, cut one network out, train it anew."""

from __future__ import annotations

import torch
from torch import nn

from redistill.core import Plan, UserError, fit
from redistill.core.types import Count, CountOrZero, NonNegative, Positive, ShareBelow1, checked
from redistill.methods.supervised.sd_darts import SdDarts, Vote
from redistill.procedures.job import Job
from redistill.rivals.darts import halves
from redistill.supervised.classifier import Classification

NEEDS = ("rows", "plan", "resume")


@checked
def run(
    job: Job,
    student: nn.Module,
    *,
    retrain_epochs: CountOrZero = 200,  # of the network that was found; 0: search only
    snapshots: Count = 3,  # K, of the supernet, which vote
    every: Count = 1,  # epochs between snapshots
    soft_weight: NonNegative = 1.0,  # lambda_SD; 0 is plain DARTS
    temperature: Positive = 1.0,  # T
    vote: Vote | None = None,  # soft_vote if left out
    distil_alpha: bool = False,  # the architecture's turn gets the same term
    warmup: ShareBelow1 = 0.1,  # share of the run without the architecture's turn
    unroll: NonNegative = 0.0,  # rate of the look ahead (second order); 0: first order
    keep: Count | None = None,  # edges into a node that stay; edge by edge if left out
) -> str:
    """Search in the supernet ``student``, then train what was found on all rows with the optimiser of the turn
    ``weights``.

    Writes ``architecture.json`` and, for ``retrain_epochs`` above 0, the trained network's ``model.safetensors``; the
    supernet then needs ``fresh(genotype)``, a network with new weights. A job that resumes goes on from the last
    checkpoint of either training, to the same bits.
    """
    if retrain_epochs and not hasattr(student, "fresh"):
        raise UserError("it has no 'fresh' to be trained anew with; add it, or write retrain_epochs: 0",
                        place="models.student")  # fmt: skip
    method = SdDarts(
        student, snapshots=snapshots, every=every, soft_weight=soft_weight, temperature=temperature, vote=vote,
        distil_alpha=distil_alpha, warmup=warmup, unroll=unroll, keep=keep,
    )  # fmt: skip
    data = halves(job.rows, job.plan.seed)
    fit(method, data, job.plan, folder=job.folder / "search", resume=job.resume, show=True)

    genotype, mixture = method.genotype(), method.architecture().tolist()
    file = job.numbers("architecture.json", {"genotype": genotype, "edges": student.edges, "mixture": mixture})
    told = f"{file}: {' '.join(genotype)}"
    if not retrain_epochs:
        return told
    network = _trained_anew(job, student, genotype, retrain_epochs)
    return f"{told}; trained anew: fresh(genotype).load_state_dict of {job.weights(network)}"


def _trained_anew(job: Job, supernet: nn.Module, genotype: list[str], epochs: int) -> nn.Module:
    """The network that was found, from new weights, which do not depend on where the search was interrupted."""
    weights = job.plan.optim("weights").model_dump()
    plan = Plan(**{**job.plan.model_dump(), **weights, "turns": {}, "steps": None, "epochs": epochs})
    torch.manual_seed(plan.seed)
    method = Classification(supernet.fresh(genotype))  # type: ignore[operator]
    return fit(method, job.rows, plan, folder=job.folder / "retrain", resume=job.resume, show=True).student
