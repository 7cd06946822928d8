"""What a model still knows after it learned something new: exact match on old tasks, divergence from what it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from redistill.core.modes import evaluating
from redistill.language.contexts import Message, completion_scores, encode_conversations
from redistill.language.rollouts import answer_texts, sample
from redistill.losses.divergences import ForwardKL
from redistill.models.transformers import AdapterOff, CausalLm


def exact_match(
    lm: CausalLm,
    conversations: Sequence[Sequence[Message]],
    answers: Sequence[str],
    max_new_tokens: int,
    *,
    read: Callable[[str], str] = str.strip,
) -> float:
    """Share of the greedy completions that ``read`` turns into exactly the right answer."""
    given = answer_texts(lm, conversations, max_new_tokens)
    return sum(read(text) == answer for text, answer in zip(given, answers)) / len(answers)


@torch.no_grad()
def kl_to_base(
    lm: CausalLm,
    base: CausalLm | AdapterOff,
    conversations: Sequence[Sequence[Message]],
    max_new_tokens: int,
    *,
    seed: int = 0,
) -> float:
    """KL(model || base) in nats per token, on the model's own completions of ``conversations`` (sampled at temperature
    1).
    """
    prompt, prompt_mask = encode_conversations(lm.tokenizer, conversations)
    uniform = torch.rand(len(prompt), max_new_tokens, generator=torch.Generator().manual_seed(seed))
    completion, mask, _ = sample(lm, prompt, prompt_mask, uniform)
    with evaluating(lm), evaluating(base):
        scores: list[Tensor] = [completion_scores(m, prompt, prompt_mask, completion, mask) for m in (base, lm)]
    return float(ForwardKL()(*scores).mean())  # the model is the "teacher" of this direction: KL(model || base)
