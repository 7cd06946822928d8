"""What a teacher's stored answers cost and save: bytes a row, seconds to write and read, and a training step with the
file against a step with the teacher.

    python benchmarks/stored_answers.py [--rows 4096] [--rounds 5] [--json FILE]

One thread; the two ways of training alternate, and the ratio within a round is what counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from redistill.core import Plan, fit
from redistill.data.signals import WithSignals, read_signals, write_signals
from redistill.models.nets import convnet
from redistill.supervised.classifier import Distillation, logits

CLASSES, BATCH, STEPS = 1000, 64, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    teacher = convnet(3, CLASSES, (64, 128, 256))
    rows = {"image": torch.randn(options.rows, 3, 32, 32), "label": torch.randint(CLASSES, (options.rows,))}
    with tempfile.TemporaryDirectory() as folder:
        result = _files(teacher, rows, Path(folder))
        stored = WithSignals(rows, read_signals(Path(folder) / "float16.npy", options.rows))
        ratios = [_step(teacher, rows) / _step(None, stored) for _ in range(options.rounds + 1)][1:]
    result["step_with_teacher_over_step_with_file"] = statistics.median(ratios)
    for name, value in result.items():
        print(f"{name}: {value:.4g}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def _files(teacher: torch.nn.Module, rows: dict[str, torch.Tensor], folder: Path) -> dict[str, float]:
    """Size, writing and reading of both formats, and how far float16 is from the truth."""
    found, count = {}, len(rows["label"])
    for kind in ("float16", "float32"):
        begin = time.process_time()
        file = write_signals(teacher, rows, folder / f"{kind}.npy", ask=logits, dtype=kind)
        found[f"{kind}: rows written a second, teacher included"] = count / (time.process_time() - begin)
        found[f"{kind}: bytes a row"] = file.stat().st_size / count
        source, order = WithSignals(rows, read_signals(file, count)), np.random.default_rng(0).permutation(count)
        begin = time.process_time()
        for batch in np.array_split(order, count // BATCH):
            source.__getitems__(batch.tolist())
        found[f"{kind}: rows read a second, at random, image included"] = count / (time.process_time() - begin)
    half, full = (np.load(folder / f"{kind}.npy").astype(np.float64) for kind in ("float16", "float32"))
    found["float16: greatest error of a logit"] = float(np.abs(half - full).max())
    return found


def _step(teacher: torch.nn.Module | None, rows: object) -> float:
    student = convnet(3, CLASSES, (16, 32, 64))
    begin = time.process_time()
    fit(Distillation(student, teacher), rows, Plan(steps=STEPS, batch_size=BATCH, device="cpu"))
    return (time.process_time() - begin) / STEPS


if __name__ == "__main__":
    main()
