"""The language part of ``soft_label_study``: nested brackets of four kinds, a teacher of two layers, a student of one.

A text such as ``(ab[c]d)`` comes from a stack: what is written next is a letter, an opening or the closing bracket,
each with probabilities that depend on the innermost open bracket. Letters are a matter of chance, closing brackets of
memory: so the first are judged by perplexity and the second by exact match.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redistill.beds import lm as bed
from redistill.core import Plan, fit
from redistill.core.cache import kept
from redistill.language.tokens import log_prob_of, pad_right
from redistill.models.transformers import CausalLm
from redistill.rivals.token_kd import TokenDistillation

DEEPEST, LONG = 4, 16  # open brackets at most; after so many symbols the text is closed
TEST = 50_000  # seeds of held-out texts begin here
RECIPE = 1
Budget = Mapping[str, Any]
GRAMMAR = np.random.default_rng(0)
INSIDE = GRAMMAR.dirichlet([0.5] * 4, 4)  # which bracket opens inside which
LETTERS = GRAMMAR.dirichlet([0.3] * len(bed.SYMBOLS), 4)  # which letters stand in which bracket
MOVES = np.array([0.5, 0.25, 0.25])  # a letter, an opening, the closing bracket


def text(rng: np.random.Generator) -> str:
    """One text of the grammar."""
    open_, written = [int(rng.integers(4))], []
    written.append(bed.OPENERS[open_[-1]])
    while open_:
        moves = MOVES * (1, len(open_) < DEEPEST, 1) * ((0, 0, 1) if len(written) >= LONG else (1, 1, 1))
        move = rng.choice(3, p=moves / moves.sum())
        if move == 0:
            written.append(bed.SYMBOLS[rng.choice(len(bed.SYMBOLS), p=LETTERS[open_[-1]])])
        elif move == 1:
            open_.append(int(rng.choice(4, p=INSIDE[open_[-1]])))
            written.append(bed.OPENERS[open_[-1]])
        else:
            written.append(bed.CLOSERS[open_.pop()])
    return "".join(written)


def texts(words: Any, count: int, seed: int) -> dict[str, Tensor]:
    """Ids and mask [count, T], each text with the end token."""
    rng = np.random.default_rng([seed, 7])
    ids, mask = pad_right([words(text(rng) + "<e>", add_special_tokens=False)["input_ids"] for _ in range(count)], 0)
    return {"ids": ids, "mask": mask}


def blank(seed: int, layers: int, width: int) -> CausalLm:
    """An untrained transformer with four heads."""
    return bed.blank(
        seed, num_hidden_layers=layers, hidden_size=width, intermediate_size=3 * width, num_attention_heads=4,
        num_key_value_heads=4, head_dim=width // 4,
    )  # fmt: skip


def plan(seed: int, steps: int) -> Plan:
    """The budget of teacher and students."""
    return Plan(steps=steps, batch_size=32, optimizer="adamw", lr=5e-3, warmup=20, schedule="cosine", clip=1.0,
                seed=seed, device="cpu", log_every=1000)  # fmt: skip


def teacher(seed: int, budget: Budget) -> CausalLm:
    """Two layers of 128, trained on many texts; kept on disk."""
    net = blank(seed + 1000, 2, 128)
    given = {"seed": seed, "rows": budget["lm_teacher_rows"], "steps": budget["lm_teacher_steps"], "recipe": RECIPE}

    def make(net: CausalLm) -> CausalLm:
        data = texts(net.tokenizer, budget["lm_teacher_rows"], seed + 1000)
        how = plan(seed, budget["lm_teacher_steps"]).model_copy(update={"lr": 2e-3})
        return fit(TokenDistillation(net, soft_weight=0.0), data, how).student

    return kept("soft_label_lm", net, given, make)


def scores(lm: CausalLm, rows: Mapping[str, Tensor]) -> dict[str, float]:
    """``perplexity`` of a token; ``exact``: share of texts in which the likeliest of the closing brackets is the right
    one wherever one stands."""
    ids, active = rows["ids"], rows["mask"][:, 1:].bool()
    with torch.no_grad():
        z, target = lm.eval()(ids, rows["mask"])[:, :-1], ids[:, 1:]
    closers = torch.tensor(lm.tokenizer.convert_tokens_to_ids(list(bed.CLOSERS)))
    closing = torch.isin(target, closers) & active
    right = closers[z[..., closers].argmax(-1)] == target
    nll = -log_prob_of(z, target)[active].mean()
    return {"perplexity": float(nll.exp()), "exact": float((right | ~closing).all(1).double().mean())}


def language(soft_weight: float, temperature: float, seed: int, budget: Budget) -> dict[str, float]:
    """The student's scores on held-out texts, and its teacher's."""
    guide, student = teacher(seed, budget), blank(seed, 1, 32)
    data = texts(student.tokenizer, budget["lm_rows"], seed)
    with torch.no_grad():
        data["teacher_logits"] = guide(data["ids"], data["mask"])[:, :-1]  # asked once: the texts do not change
    method = TokenDistillation(student, None, soft_weight=soft_weight, temperature=temperature)
    student = fit(method, data, plan(seed, budget["lm_steps"])).student
    held_out = texts(student.tokenizer, budget["lm_test"], seed + TEST)
    taught = {f"teacher_{name}": value for name, value in scores(guide, held_out).items()}
    return scores(student, held_out) | taught
