"""Prints what every case of the catalogue trains to: its slug, what it logged, and a hash of all weights and buffers.

A refactor prints the same before and after: ``python scripts/case_bits.py > before.txt`` at the repository's root, the
change, then once more, and ``diff``. Slugs as arguments choose among the cases.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from redistill.core import Method, Plan, fit
from tests.methods.cases import CASES, VARIANTS, Case

PLAN = Plan(steps=6, batch_size=8, lr=0.01, device="cpu", seed=2, log_every=1)
NOT_LOSSES = {"step", "epoch", "rows_per_second", "seconds"}


def main(slugs: Sequence[str]) -> None:
    """One line for each case."""
    torch.set_num_threads(1)  # sums of floats depend on the number of threads
    cases = {**CASES, **VARIANTS}
    for slug in slugs or sorted(cases):
        losses, bits = trained(cases[slug])
        print(slug, bits, *losses, flush=True)


def trained(case: Case) -> tuple[list[str], str]:
    """The losses that were logged, every digit of them, and the hash of what a case trained to."""
    fitted = fit(*case(), PLAN)
    named = [pair for row in fitted.history for pair in row.items() if pair[0] not in NOT_LOSSES]
    return [f"{name}={value!r}" for name, value in named], state_hash(fitted.method)


def state_hash(method: Method) -> str:
    """A hash of the names and bits of all weights and buffers."""
    state = hashlib.sha256()
    for name, tensor in sorted(method.state_dict().items()):
        state.update(name.encode() + tensor.cpu().numpy().tobytes())
    return state.hexdigest()[:16]


if __name__ == "__main__":
    main(sys.argv[1:])
