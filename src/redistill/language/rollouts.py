"""Sampling completions in a batch, with a key-value cache, from uniform numbers that the caller gives.

One number decides one token by the inverse of the cumulative distribution, so a row's completion depends on its prompt
and its numbers alone, however the batch is cut over micro-batches and ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from redistill.core.modes import evaluating
from redistill.core.world import is_sharded
from redistill.language.contexts import Message, encode_conversations
from redistill.language.tokens import until_end
from redistill.models.transformers import CausalLm


class Rollout(NamedTuple):
    """Completions: ``ids`` [B, T], ``mask`` [B, T] (1 up to and including the end token), ``logp`` [B, T] under the
    sampling law.
    """

    ids: Tensor
    mask: Tensor
    logp: Tensor


def sample(
    lm: CausalLm,
    prompt: Tensor,
    prompt_mask: Tensor,
    uniform: Tensor,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
) -> Rollout:
    """Completions of at most T tokens for left-padded prompts [B, P], decided by ``uniform`` numbers [B, T] in [0, 1).

    ``temperature=0`` is greedy, ``top_k=0`` keeps every token. T shrinks to the longest completion (of all ranks, where
    ``lm`` is sharded over them).
    """
    ids, logp, mask, uniform = [], [], prompt_mask, uniform.to(prompt.device)
    new, cache = prompt, lm.new_cache()
    ended = torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)
    ends = torch.tensor(lm.eos, device=prompt.device)
    with torch.no_grad(), evaluating(lm):
        for step in range(uniform.shape[1]):
            log_q = sampling_law(_last_scores(lm, new, mask, cache), temperature, top_p, top_k)  # [B, V]
            token = pick(log_q, uniform[:, step]).masked_fill(ended, lm.pad)
            ids.append(token)
            logp.append(log_q.gather(1, token[:, None])[:, 0].masked_fill(ended, 0.0))
            ended = ended | torch.isin(token, ends)
            if _all_ranks(lm, bool(ended.all())):
                break
            new, mask = token[:, None], torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
    completion = torch.stack(ids, 1)
    return Rollout(completion, until_end(completion, lm.eos), torch.stack(logp, 1))


def sampling_law(logits: Tensor, temperature: float, top_p: float, top_k: int = 0) -> Tensor:
    """Log-probabilities [B, V] that are sampled from: tempered, cut to the ``top_k`` likeliest tokens (0: to none),
    then to the smallest set of mass ``top_p``, renormalised.
    """
    logits = logits.float()
    if temperature == 0:
        best = logits.argmax(-1, keepdim=True)
        return torch.full_like(logits, -torch.inf).scatter(-1, best, 0.0)
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k, -1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    log_q = (logits / temperature).log_softmax(-1)
    return log_q if top_p >= 1 else nucleus(log_q, top_p)


def nucleus(log_q: Tensor, top_p: float) -> Tensor:
    """Keep the likeliest tokens until their mass reaches ``top_p`` (Holtzman et al. 2020); the first always stays."""
    ranked, order = log_q.sort(-1, descending=True)
    mass_before = ranked.exp().cumsum(-1) - ranked.exp()
    cut = ranked.masked_fill(mass_before >= top_p, -torch.inf)
    return torch.empty_like(cut).scatter(-1, order, cut).log_softmax(-1)


def pick(log_q: Tensor, uniform: Tensor) -> Tensor:
    """The tokens [B] at which the cumulative distribution of ``log_q`` [B, V] passes ``uniform`` [B]; never one of
    mass zero.
    """
    cumulative = log_q.double().exp().cumsum(-1)
    target = (uniform.double() * cumulative[:, -1])[:, None]
    return torch.searchsorted(cumulative, target, right=True)[:, 0]


def answer_texts(
    lm: CausalLm, conversations: Sequence[Sequence[Message]], max_new_tokens: int, *, batch_size: int = 64
) -> list[str]:
    """Greedy answers to ``conversations``."""
    texts: list[str] = []
    device = next(lm.parameters()).device
    for start in range(0, len(conversations), batch_size):
        ids, mask = encode_conversations(lm.tokenizer, conversations[start : start + batch_size])
        out = sample(lm, ids.to(device), mask.to(device), torch.zeros(len(ids), max_new_tokens), temperature=0.0)
        texts += decode(lm, out)
    return texts


def decode(lm: CausalLm, rollout: Rollout) -> list[str]:
    """The texts of completions, without special tokens."""
    rows = [ids[mask.bool()].tolist() for ids, mask in zip(rollout.ids, rollout.mask)]
    return lm.tokenizer.batch_decode(rows, skip_special_tokens=True)


def _all_ranks(lm: nn.Module, here: bool) -> bool:
    """Whether ``here`` is so on all ranks that share a sharded ``lm``: each forward pass needs every one of them."""
    if not is_sharded(list(lm.parameters())):
        return here
    waiting = torch.tensor(float(not here), device=next(lm.parameters()).device)
    torch.distributed.all_reduce(waiting)
    return not waiting


def _last_scores(lm: CausalLm, new: Tensor, mask: Tensor, cache: object) -> Tensor:
    keep = torch.zeros_like(new, dtype=torch.bool)
    keep[:, -1] = True
    return lm(new, mask, keep=keep, cache=cache)  # [B, V]
