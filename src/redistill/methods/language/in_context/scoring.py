"""Acting by scoring: a language model rates every admissible command, nothing is generated freely.

    score(a) = 1/|a| sum_i log p(a_i | prompt, a_<i),     pi(a) = softmax(score / temperature)

The prompt's keys and values are computed once for all commands, and kept: the next prompt only pays for what is new.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from redistill.core.errors import UserError
from redistill.core.slot import Configured
from redistill.core.types import Count, NonNegative
from redistill.methods.language.in_context.agents import Context, Reply, Window
from redistill.methods.language.in_context.cost import Usage
from redistill.models.transformers import CausalLm


def choose(scores: Sequence[float], temperature: float, uniforms: Sequence[float]) -> list[int]:
    """One index a uniform number, from softmax(scores / temperature) by the inverse of the cumulative distribution;
    temperature 0 takes the best."""
    scores = np.asarray(scores, dtype=np.float64)
    if temperature == 0:
        return [int(scores.argmax())] * len(uniforms)
    p = np.exp((scores - scores.max()) / temperature)
    cumulative = np.cumsum(p) / p.sum()
    return [int(i) for i in np.searchsorted(cumulative[:-1], np.asarray(uniforms), side="right")]


class CommandScorer:
    """Length-normalised log-likelihoods of commands after a prompt, with the prompt's cache shared."""

    def __init__(self, lm: CausalLm, *, max_tokens: int = 2048) -> None:
        self.lm, self.max_tokens = lm, max_tokens
        self.ids: list[int] = []  # the tokens whose keys and values are in the cache
        self.cache = lm.new_cache()

    @torch.no_grad()
    def score(self, prompt: str, commands: Sequence[str]) -> tuple[Tensor, Usage]:
        """Mean log-probability of each command's tokens (its end of line included) [C], and the tokens read."""
        ids = self.lm.tokenizer(prompt)["input_ids"]
        if len(ids) > self.max_tokens:
            raise UserError(f"the prompt has {len(ids)} tokens, more than {self.max_tokens}; lower k", place="prompt")
        reused = self._read(ids[:-1])
        rows = [self.lm.tokenizer(f" {c}\n", add_special_tokens=False)["input_ids"] for c in commands]
        lengths = torch.tensor([len(r) for r in rows])
        logp = self._continue(ids[-1], rows, lengths)  # [C, T]
        return logp.sum(1) / lengths, Usage(len(ids), 0, reused, 1)

    def _read(self, ids: list[int]) -> int:
        """Bring the cache to exactly ``ids``; how many of them it had already."""
        limit = min(len(ids), len(self.ids))
        shared = next((i for i in range(limit) if ids[i] != self.ids[i]), limit)
        if shared < len(self.ids):
            self.cache.crop(shared - len(self.ids))
        if new := ids[shared:]:
            device = self.lm.head.weight.device
            tokens = torch.tensor([new], device=device)
            mask = torch.ones(1, len(ids), dtype=torch.long, device=device)
            self.lm(tokens, mask, keep=torch.zeros_like(tokens, dtype=torch.bool), cache=self.cache)
        self.ids = ids
        return shared

    def _continue(self, last: int, rows: list[list[int]], lengths: Tensor) -> Tensor:
        """Log-probabilities [C, T] of the rows' tokens after the cached prompt and its ``last`` token, 0 in padding."""
        device = self.lm.head.weight.device
        targets = pad_sequence([torch.tensor(r) for r in rows], batch_first=True).to(device)  # [C, T]
        real = (torch.arange(targets.shape[1]) < lengths[:, None]).to(device)
        inputs = torch.cat([targets.new_full((len(rows), 1), last), targets[:, :-1]], 1)
        cache = copy.deepcopy(self.cache) if self.ids else self.lm.new_cache()
        if self.ids:
            cache.batch_repeat_interleave(len(rows))
        before = torch.ones(len(rows), len(self.ids), dtype=torch.long, device=device)
        logits = self.lm(inputs, torch.cat([before, real.long()], 1), keep=real, cache=cache)  # [N, V]
        logp = logits.float().log_softmax(-1).gather(1, targets[real][:, None])[:, 0]
        return torch.zeros(targets.shape, device=device).masked_scatter(real, logp).cpu()


class ScoringPolicy(Configured):
    """A local causal language model that picks admissible commands; plans are picked from those of similar goals."""

    def __init__(self, lm: CausalLm, *, temperature: NonNegative = 0.5, max_tokens: Count = 2048) -> None:
        self.scorer, self.temperature = CommandScorer(lm, max_tokens=max_tokens), temperature
        self.known: dict[tuple[str, tuple[str, ...]], tuple[Tensor, Usage, int]] = {}

    def act(self, context: Context, admissible: Sequence[str], n: int, uniforms: Sequence[float]) -> Reply:
        """``n`` samples from softmax(score / temperature). Each is a call with its own output; all but the first find
        the prompt in the server's cache."""
        if not admissible:
            if context.asks == "plan":
                return Reply(("",), Usage())
            raise UserError("a scoring policy needs a world that lists admissible commands", place="student")
        scores, usage = self._scores(context.prompt(), tuple(dict.fromkeys(admissible)))
        commands = list(dict.fromkeys(admissible))
        actions = tuple(commands[i] for i in choose(scores.tolist(), self.temperature, uniforms[:n]))
        written = sum(len(self.scorer.lm.tokenizer(f" {a}\n", add_special_tokens=False)["input_ids"]) for a in actions)
        return Reply(actions, Usage(n * usage.input, written, (n - 1) * usage.input, n))

    def _scores(self, prompt: str, commands: tuple[str, ...]) -> tuple[Tensor, Usage]:
        if (prompt, commands) not in self.known:
            self.known[prompt, commands] = self.scorer.score(prompt, commands)
        return self.known[prompt, commands]


class CopyPolicy(Configured):
    """A stand-in for a small language model that costs nothing: it copies what the nearest example did, with the words
    of its own goal in place of the example's, and is as noisy as ``temperature`` says. A command must name as many
    words of its goal as the example's did: who takes the apple for the apple's sake takes no soap. Without examples it
    guesses.
    """

    def __init__(self, *, temperature: NonNegative = 0.1) -> None:
        self.temperature = temperature

    def act(self, context: Context, admissible: Sequence[str], n: int, uniforms: Sequence[float]) -> Reply:
        """``n`` samples; tokens are counted as words, and all samples but the first find the prompt cached."""
        if not admissible:
            return Reply(("",), Usage())
        scores = [max((self._match(context, e, c) for e in context.examples), default=0.0) for c in admissible]
        actions = tuple(admissible[i] for i in choose(scores, self.temperature, uniforms[:n]))
        words = len(context.prompt().split())
        return Reply(actions, Usage(n * words, sum(len(a.split()) for a in actions), (n - 1) * words, n))

    @staticmethod
    def _match(context: Context, example: Window, command: str) -> float:
        if context.asks == "plan":
            theirs = by_analogy(example.plan, example.goal, context.goal)
            return overlap(context.goal, example.goal) if command == theirs else 0.0
        step = example.steps[example.centre]
        theirs, did = (by_analogy(text, example.goal, context.goal) for text in (step.observation, step.action))
        goal = set(_words(context.goal))
        if len(goal & set(_words(command))) != len(goal & set(_words(did))):
            return 0.0
        return overlap(context.observation, theirs) * overlap(command, did)


def overlap(a: str, b: str) -> float:
    """Words that both texts have, as a share of all their words (Jaccard)."""
    x, y = set(_words(a)), set(_words(b))
    return len(x & y) / max(1, len(x | y))


def by_analogy(text: str, theirs: str, ours: str) -> str:
    """``text`` of an agent with the goal ``theirs``, with the words that differ replaced by those of ``ours``."""
    a, b = _words(theirs), _words(ours)
    words = {}
    for kind, i, j, k, l in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if kind == "replace" and j - i == l - k:
            words.update(zip(a[i:j], b[k:l]))
    return " ".join(words.get(w, w) for w in _words(text))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)
