"""Pre-train the model of the ``lm`` bed (about a quarter of an hour on one thread) and write it as a transformers
folder.

    python scripts/train_lm.py [--steps 3000] [--out src/redistill/beds/weights/lm]

Three kinds of sequence: a known operator plainly; a known operator with its solution shown in a foreign layout; an
operator with a nonsense name and a *random* solution shown, which can only be read off. A tenth of the symbols that
the model conditions on while it answers are wrong, targets stay right: the model learns to carry on after a mistake,
as large models do.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from redistill.beds import lm
from redistill.models.transformers import CausalLm

CORRUPT = 0.1


def names(rng: np.random.Generator, count: int) -> list[str]:
    """Operator names without a meaning; those of the known and the new operators are left out."""
    taken = {*lm.KNOWN, *lm.NEW}
    found = ["".join(rng.choice(list(lm.NAMES), 2)) for _ in range(2 * count + 64)]
    return [n for n in found if n not in taken][:count]


def layout(rng: np.random.Generator, answer: str) -> str:
    """A foreign layout other than the one that the studies use."""
    while True:
        bracket, separator = int(rng.integers(4)), str(rng.choice([*lm.SEPARATORS, ""]))
        if (bracket, separator) != (3, "/"):
            return lm.foreign(answer, bracket=bracket, separator=separator)


def texts(rng: np.random.Generator, count: int, shown: bool) -> list[tuple[str, str]]:
    """Pairs (prompt, answer); with ``shown``, six operators in ten are nonsense."""
    known = list(lm.KNOWN)
    nonsense = iter(names(rng, count))
    pairs = []
    for _ in range(count):
        x = rng.integers(0, len(lm.SYMBOLS), rng.choice(lm.LENGTHS))
        random = shown and rng.random() < 0.6
        name = next(nonsense) if random else known[rng.integers(len(known))]
        y = rng.integers(0, len(lm.SYMBOLS), len(x)) if random else lm.KNOWN[name](x)
        question, answer = name + lm.spell(x), lm.spell(y)
        pairs.append((lm.with_demonstration(question, layout(rng, answer)) if shown else question, answer))
    return pairs


def encode(index: dict[str, int], pairs: list[tuple[str, str]]) -> tuple[torch.Tensor, ...]:
    """Left-padded ids and mask, both [B, L], and the targets [B, L] (-100 outside the answer)."""
    rows = [[*map(index.get, p), index["<a>"], *map(index.get, a), index["<e>"]] for p, a in pairs]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(r)) + r for r in rows])
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
    target = torch.full_like(ids, -100)
    for i, (_, a) in enumerate(pairs):
        target[i, -len(a) - 1 :] = ids[i, -len(a) - 1 :]
    return ids, mask, target


def corrupt(rng: np.random.Generator, ids: torch.Tensor, target: torch.Tensor, first: int) -> torch.Tensor:
    """Wrong symbols at a tenth of the answer positions, in the input only."""
    hit = torch.from_numpy(rng.random(ids.shape) < CORRUPT) & (target > 1)
    noise = torch.from_numpy(rng.integers(first, first + len(lm.SYMBOLS), ids.shape))
    return torch.where(hit, noise, ids)


def optimiser(net: torch.nn.Module, lr: float, steps: int) -> tuple[torch.optim.Optimizer, Any]:
    """AdamW with decay on matrices only, warm-up and cosine."""
    groups = [
        {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in net.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def loss_of(model: CausalLm, rng: np.random.Generator, count: int, shown: bool) -> torch.Tensor:
    """Cross-entropy on the answers of ``count`` fresh rows of one form."""
    index = model.tokenizer.get_vocab()
    ids, mask, target = encode(index, texts(rng, count, shown))
    keep = torch.zeros_like(mask, dtype=torch.bool)
    keep[:, :-1] = target[:, 1:] >= 0
    logits = model(corrupt(rng, ids, target, index["a"]), mask, keep=keep)
    return F.cross_entropy(logits, target[target >= 0])


def train(model: CausalLm, steps: int, count: int, lr: float) -> None:
    """``steps`` of AdamW on rows of both forms."""
    rng, start = np.random.default_rng(0), time.perf_counter()
    optimizer, schedule = optimiser(model, lr, steps)
    for step in range(steps):
        plain, shown = (loss_of(model, rng, count, form) for form in (False, True))
        (plain + shown).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            seconds = time.perf_counter() - start
            print(f"step {step:5d}  plain {plain.item():.4f}  shown {shown.item():.4f}  {seconds:6.0f} s", flush=True)


def main() -> None:
    """Train and save in half precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=64, help="rows of each of the two forms")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--out", type=Path, default=lm.FOLDER)
    args = parser.parse_args()
    model = lm.blank().train()
    train(model, args.steps, args.batch, args.lr)
    model.net.half()
    model.save(args.out)


if __name__ == "__main__":
    main()
