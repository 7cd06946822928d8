"""What `redistill.fit` costs over a bare loop: CPU time of a step of knowledge distillation, both ways in turn.

    python benchmarks/fit_overhead.py [--steps 30] [--rounds 7] [--json FILE]

The same networks, batch size, optimiser and loss on one thread; the loops alternate so that a busy machine slows both,
and the round's ratio is what counts. `fit` also draws the batches, freezes the teacher, checks for NaN and logs every
10 steps.
Bar: at most 5 % on a step of 50 ms or more.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from redistill.core import Batch, Loss, Method, Plan, Progress, fit
from redistill.losses.divergences import kd_loss

ROWS, BATCH, FEATURES, CLASSES = 4096, 256, 784, 10
BAR = 0.05


def network(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)
    )


class Distil(Method):
    """Plain knowledge distillation."""

    trains = {"student": ["student"]}
    needs = ("x",)

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        with torch.no_grad():
            target = self.teacher(batch["x"])
        return Loss({"kd": kd_loss(self.student(batch["x"]), target)})


def with_fit(student: nn.Module, teacher: nn.Module, x: Tensor, steps: int) -> None:
    fit(Distil(student, teacher), {"x": x}, Plan(steps=steps, batch_size=BATCH, device="cpu"))


def bare(student: nn.Module, teacher: nn.Module, x: Tensor, steps: int) -> None:
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    teacher.requires_grad_(False)
    for step in range(steps):
        if step % (ROWS // BATCH) == 0:
            order = torch.randperm(ROWS)
        rows = order[step % (ROWS // BATCH) * BATCH :][:BATCH]
        batch = x[rows]
        with torch.no_grad():
            target = teacher(batch)
        loss = kd_loss(student(batch), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, teacher = torch.randn(ROWS, FEATURES), network(1536)
    seconds: dict[str, list[float]] = {"bare": [], "fit": []}
    for turn in range(options.rounds + 1):
        for name, run in (("bare", bare), ("fit", with_fit)):
            student = network(1024)
            start = time.process_time()
            run(student, teacher, x, options.steps)
            if turn:  # round 0 warms up
                seconds[name].append((time.process_time() - start) / options.steps)
    ratios = [b / a - 1 for a, b in zip(seconds["bare"], seconds["fit"])]
    result = {name: statistics.median(values) for name, values in seconds.items()} | {
        "overhead": statistics.median(ratios)
    }
    print("bare {bare:.4f} s, fit {fit:.4f} s a step: overhead {overhead:+.1%}".format(**result), f"(bar {BAR:.0%})")
    if result["bare"] < 0.05:
        print("the step is shorter than 50 ms here: the bar does not apply")
    if options.json:
        options.json.write_text(json.dumps(result | {"seconds": seconds}, indent=1) + "\n")
    return int(result["overhead"] > BAR and result["bare"] >= 0.05)


if __name__ == "__main__":
    raise SystemExit(main())
