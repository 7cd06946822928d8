"""What a batch's noise costs: every rank draws the whole global batch (before) against its own rows alone (now).

    python benchmarks/noise.py [--rounds 7] [--json FILE]

Before: numbers of a Mersenne twister for all rows, of which a rank keeps its own. Now: numbers by counting
(`redistill.core.noise`). Both on one thread of the processor, medians. Memory: by how much a fresh
process grows.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redistill.core import noise

CPU = torch.device("cpu")
CASES = {  # name -> (rows of the global batch, ranks, shape of a row)
    "ring, 1 rank": (1024, 1, (2,)),
    "image, 1 rank": (64, 1, (3, 32, 32)),
    "image, 8 ranks": (512, 8, (3, 32, 32)),
    "latent, 8 ranks": (256, 8, (4, 64, 64)),
    "video, 8 ranks": (64, 8, (16, 21, 60, 104)),
}


def before(rows: int, ranks: int, shape: tuple[int, ...]) -> Tensor:
    """Everybody's numbers, cut to those of the last rank."""
    drawn = torch.randn(rows, *shape, generator=torch.Generator().manual_seed(1))
    return drawn[rows - rows // ranks :]


def now(rows: int, ranks: int, shape: tuple[int, ...]) -> Tensor:
    """The numbers of the last rank's rows."""
    mine = range(rows - rows // ranks, rows)
    return noise.normal(1, mine, math.prod(shape), CPU).view(len(mine), *shape)


def seconds(draw: Callable[[], Tensor]) -> float:
    """One call; several where it is short."""
    begin, calls = time.perf_counter(), 0
    while (spent := time.perf_counter() - begin) < 0.02:
        draw()
        calls += 1
    return spent / calls


def peak(draw: partial[Tensor]) -> float:
    """MiB by which a process of its own grows at most."""
    with get_context("fork").Pool(1) as pool:
        return pool.apply_async(_grown, (draw.func, draw.args)).get()


def _grown(draw: Callable[..., Tensor], case: tuple[Any, ...]) -> float:
    here = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    draw(*case)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - here) / 2**10


def main() -> None:
    """Measure every case and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)

    table = []
    for name, case in CASES.items():
        draws = partial(before, *case), partial(now, *case)
        old, new = (statistics.median(seconds(draw) for _ in range(chosen.rounds)) for draw in draws)
        memory = [peak(draw) for draw in draws]
        table.append({"case": name, "before_s": old, "now_s": new, "before_MiB": memory[0], "now_MiB": memory[1]})
        print(f"{name:16} {1e3 * old:9.3f} -> {1e3 * new:9.3f} ms ({new / old:5.2f} x)   "
              f"{memory[0]:7.1f} -> {memory[1]:7.1f} MiB")  # fmt: skip
    if chosen.json:
        chosen.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
