"""A source of text whose entropy is known: a Markov chain of second order with a small random network inside.

    P(c | a, b) = softmax( sharpness W tanh(u_a + v_b) / sqrt(hidden) - decay log rank(c) )

All conditional probabilities stand in one table, so the chain has an exact entropy rate, and its own table is the best
teacher that exists: :class:`ExactModel`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from redistill.models.transformers import CausalLm


@dataclass(frozen=True)
class Source:
    """``table`` [V, V, V]: probability of a symbol (last axis) after the two before it."""

    table: np.ndarray

    @property
    def symbols(self) -> int:
        """V."""
        return len(self.table)

    @cached_property
    def pairs(self) -> np.ndarray:
        """Stationary probability [V, V] of two neighbours, by iteration."""
        law = np.full(self.table.shape[:2], self.symbols**-2.0)
        for _ in range(1000):
            law = np.einsum("ab,abc->bc", law, self.table)
        return law

    @property
    def entropy(self) -> float:
        """Nats a symbol that no model can go below."""
        return float(-(self.pairs[:, :, None] * self.table * np.log(self.table)).sum())

    def text(self, rows: int, length: int, seed: int) -> Tensor:
        """``rows`` independent stretches of the stationary chain, int64 [rows, length]."""
        rng = np.random.default_rng(seed)
        first = rng.choice(self.symbols**2, rows, p=self.pairs.ravel() / self.pairs.sum())
        x = np.empty((rows, length), np.int64)
        x[:, 0], x[:, 1] = np.divmod(first, self.symbols)
        sums = self.table.cumsum(-1)
        for t in range(2, length):
            above = sums[x[:, t - 2], x[:, t - 1]] < rng.random((rows, 1))  # [rows, V]
            x[:, t] = np.minimum(above.sum(1), self.symbols - 1)
        return torch.from_numpy(x)


def random_source(
    seed: int, *, symbols: int = 32, hidden: int = 32, sharpness: float = 4.5, decay: float = 0.8
) -> Source:
    """A chain from a random network; fewer ``hidden`` units make it easier to learn, more ``sharpness`` less noisy."""
    rng = np.random.default_rng(seed)
    u, v = rng.standard_normal((2, symbols, hidden))
    W = rng.standard_normal((hidden, symbols))
    z = sharpness * np.tanh(u[:, None] + v) @ W / np.sqrt(hidden) - decay * np.log(np.arange(1, symbols + 1))
    weight = np.exp(z - z.max(-1, keepdims=True))
    return Source(weight / weight.sum(-1, keepdims=True))


class ExactModel(nn.Module):
    """The source as a model: ids [B, T] to log-probabilities [B, T, V] of what follows."""

    log_table: Tensor

    def __init__(self, source: Source) -> None:
        super().__init__()
        first = (source.pairs[:, :, None] * source.table).sum(0) / source.pairs.sum(0)[:, None]  # nothing before: mean
        both = np.log(np.concatenate([source.table, first[None]]))  # [V + 1, V, V]
        self.register_buffer("log_table", torch.tensor(both, dtype=torch.float32))

    def forward(self, ids: Tensor) -> Tensor:
        """Scores of the next symbol; the first position averages over what may have come before."""
        before = torch.cat([torch.full_like(ids[:, :1], len(self.log_table) - 1), ids[:, :-1]], 1)
        return self.log_table[before, ids]


def tokenizer(symbols: int) -> Any:
    """A tokenizer whose words are the numbers of the symbols, so that a student can be saved."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({str(i): i for i in range(symbols)}, unk_token="0"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="0", eos_token="0", unk_token="0")


def student(symbols: int, width: int, seed: int) -> CausalLm:
    """An untrained one-layer Llama decoder of the given ``width``, two heads."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from redistill.models.transformers import CausalLm

    config = LlamaConfig(
        vocab_size=symbols, hidden_size=width, intermediate_size=8 * width // 3, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, head_dim=width // 2, max_position_embeddings=128,
        rope_theta=10.0, tie_word_embeddings=False, pad_token_id=0, eos_token_id=0, bos_token_id=None,
        attn_implementation="sdpa",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CausalLm(LlamaForCausalLM(config), tokenizer(symbols))
