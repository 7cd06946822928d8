"""What `redistill.fit` costs over a bare loop: CPU time of a step of knowledge distillation, in turns with its peer.

    python benchmarks/fit_overhead.py [--steps 60] [--rounds 5] [--json FILE]

Same networks, batch size, optimiser and loss (0.1 cross-entropy + 0.9 KD at temperature 4) on one thread; the loops
alternate so that a busy machine slows all, and the ratio within a round is what counts. `fit` also draws the batches,
freezes the teacher, checks for NaN and logs every 10 steps. torchdistill 1.1.5 is measured where it is installed (it
needs torchvision: an environment of its own).
Bar for `fit`: at most 5 % on a step of 50 ms or more.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from redistill.core import Plan, fit
from redistill.losses.divergences import kd_loss
from redistill.supervised.classifier import Distillation

ROWS, BATCH, FEATURES, CLASSES = 4096, 256, 784, 10
BAR = 0.05


def network(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)
    )


Loop = Callable[[nn.Module, nn.Module, Tensor, Tensor, int], None]


def with_fit(student: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    plan = Plan(steps=steps, batch_size=BATCH, optimizer="sgd", lr=0.01, device="cpu")
    fit(Distillation(student, teacher), {"image": x, "label": y}, plan)


def bare(student: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9)
    teacher.requires_grad_(False)
    for step in range(steps):
        if step % (ROWS // BATCH) == 0:
            order = torch.randperm(ROWS)
        rows = order[step % (ROWS // BATCH) * BATCH :][:BATCH]
        batch, label = x[rows], y[rows]
        with torch.no_grad():
            target = teacher(batch)
        z = student(batch)
        loss = 0.1 * cross_entropy(z, label) + 0.9 * kd_loss(z, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def with_torchdistill(student: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    from torchdistill.core.distillation import get_distillation_box

    loader = {"dataset_id": "train", "kwargs": {"batch_size": BATCH, "drop_last": True},
              "sampler": {"class_or_func": torch.utils.data.RandomSampler, "kwargs": {}}}  # fmt: skip
    ends = {f"{role}_module_{what}": "." if what == "path" else "output"
            for role in ("student", "teacher") for what in ("path", "io")}  # fmt: skip
    criterion = {"key": "KDLoss", "kwargs": {**ends, "temperature": 4.0, "alpha": 0.1, "beta": 0.9}}
    config = {
        "num_epochs": 1, "train_data_loader": loader, "teacher": {"forward_proc": "forward_batch_only",
        "requires_grad": False}, "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {"key": "SGD", "kwargs": {"lr": 0.01, "momentum": 0.9}},
        "criterion": {
            "key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": {"criterion": criterion, "weight": 1.0}}}
        },
    }  # fmt: skip
    data = {"train": torch.utils.data.TensorDataset(x, y)}
    box = get_distillation_box(teacher, student, data, config, torch.device("cpu"), None, False, 1)
    done = 0
    while done < steps:
        box.pre_epoch_process(epoch=0)
        for image, label, supp in box.train_data_loader:
            if done == steps:
                break
            box.pre_forward_process()
            loss = box.forward_process(image, label, supp)
            box.post_forward_process(loss)
            done += 1
    box.clean_modules()


def loops() -> dict[str, Loop]:
    found: dict[str, Loop] = {"bare": bare, "fit": with_fit}
    if importlib.util.find_spec("torchdistill"):
        found["torchdistill"] = with_torchdistill
    else:
        print("torchdistill is not installed: skipped")
    return found


def check_same_loss(x: Tensor, y: Tensor, teacher: nn.Module) -> None:
    """One step of every loop from the same weights on the same rows must give the same weights."""
    start, after = network(64), {}
    for name, run in loops().items():
        after[name] = copy.deepcopy(start)
        run(after[name], teacher, x[:1].repeat(ROWS, 1), y[:1].repeat(ROWS), 1)
    first = torch.cat([p.flatten() for p in after["bare"].parameters()])
    for name, net in after.items():
        gap = float((torch.cat([p.flatten() for p in net.parameters()]) - first).abs().max().detach())
        assert gap < 1e-5, f"{name} takes another step than the bare loop: {gap:.2g}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y, teacher = torch.randn(ROWS, FEATURES), torch.randint(CLASSES, (ROWS,)), network(1536)
    check_same_loss(x, y, teacher)
    seconds: dict[str, list[float]] = {name: [] for name in loops()}
    for turn in range(options.rounds + 1):
        for name, run in loops().items():
            student = network(1280)
            start = time.process_time()
            run(student, teacher, x, y, options.steps)
            if turn:  # round 0 warms up
                seconds[name].append((time.process_time() - start) / options.steps)
    step = statistics.median(seconds["bare"])
    over = {n: statistics.median(b / a - 1 for a, b in zip(seconds["bare"], s)) for n, s in seconds.items()}
    print(f"bare {step:.4f} s a step; overhead: " + ", ".join(f"{n} {v:+.1%}" for n, v in over.items() if n != "bare"))
    print(f"bar for fit: {BAR:.0%}" + ("" if step >= 0.05 else "; the step is shorter than 50 ms: it does not apply"))
    if options.json:
        options.json.write_text(json.dumps({"overhead": over, "seconds": seconds}, indent=1) + "\n")
    return int(over["fit"] > BAR and step >= 0.05)


if __name__ == "__main__":
    raise SystemExit(main())
