"""The tiny language model bed: symbol manipulation, a model that can read a demonstration, three operators it never
met.

A question is an operator's name and a string, ``JNbdfa``; the model answers in its own layout, the bare symbols.
An operator moves the symbols to other places and changes each one: six rules of place times four of change, of which
twenty pairs are known from pre-training, under names of two letters that say nothing. Each is known plainly and in the
form "a solved instance, then your turn": ``JNbdfa!(a,f,d,b)``, where the solution stands in somebody else's layout.
Three pairs are new (:data:`NEW`): their names occur nowhere in pre-training, the letters of the names and both rules
do.

The weights that ship were made by ``scripts/train_lm.py``. With a demonstration before it the model solves all new
operators, without one none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from redistill.models.transformers import CausalLm

SYMBOLS = "abcdefghijkl"
NAMES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
OPENERS, CLOSERS, SEPARATORS = "([{<", ")]}>", "-,.:/|"
SHOWN = "!"
LENGTHS = (4, 5)
FOLDER = Path(__file__).parent / "weights" / "lm"
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"

Rule = Callable[[np.ndarray], np.ndarray]


def stay(x: np.ndarray) -> np.ndarray:
    """Nothing changes; like all rules here on symbol numbers [..., n]."""
    return x


def reverse(x: np.ndarray) -> np.ndarray:
    """``abcd -> dcba``."""
    return x[..., ::-1]


def order(x: np.ndarray) -> np.ndarray:
    """``badc -> abcd``."""
    return np.sort(x, axis=-1)


def left(x: np.ndarray) -> np.ndarray:
    """``abcd -> bcda``."""
    return np.roll(x, -1, axis=-1)


def right(x: np.ndarray) -> np.ndarray:
    """``abcd -> dabc``."""
    return np.roll(x, 1, axis=-1)


def up(x: np.ndarray) -> np.ndarray:
    """The next symbol each, cyclic: ``abcl -> bcda``."""
    return (x + 1) % len(SYMBOLS)


def down(x: np.ndarray) -> np.ndarray:
    """The symbol before each, cyclic: ``abcd -> labc``."""
    return (x - 1) % len(SYMBOLS)


def mirror(x: np.ndarray) -> np.ndarray:
    """``a <-> l``, ``b <-> k``, ..."""
    return len(SYMBOLS) - 1 - x


def ends(x: np.ndarray) -> np.ndarray:
    """First and last symbol change places: ``abcd -> dbca``."""
    return np.concatenate([x[..., -1:], x[..., 1:-1], x[..., :1]], axis=-1)


def chain(*rules: Rule) -> Rule:
    """Apply ``rules`` from left to right."""

    def composed(x: np.ndarray) -> np.ndarray:
        for rule in rules:
            x = rule(x)
        return x

    return composed


PLACES: dict[str, Rule] = {"stay": stay, "reverse": reverse, "left": left, "right": right, "ends": ends, "order": order}
CHANGES: dict[str, Rule] = {"stay": stay, "up": up, "down": down, "mirror": mirror}
_NAMES = "OJ JN MB PG BE HL JD IM DK LB KM AH KD PE LF CD AF ME DO EH"
UNSEEN = (("reverse", "up"), ("left", "mirror"), ("ends", "down"))


def _known() -> dict[str, Rule]:
    pairs = [(p, c) for p in PLACES for c in CHANGES if (p, c) not in (("stay", "stay"), *UNSEEN)]
    return {name: chain(PLACES[p], CHANGES[c]) for name, (p, c) in zip(_NAMES.split(), pairs)}


KNOWN: dict[str, Rule] = _known()
NEW: dict[str, Rule] = {n: chain(PLACES[p], CHANGES[c]) for n, (p, c) in zip(("GC", "IN", "PO"), UNSEEN)}


@dataclass(frozen=True)
class Instances:
    """Questions of one operator: ``question``, right ``answer`` (bare symbols), ``demonstration`` (the answer in a
    foreign layout).
    """

    question: list[str]
    answer: list[str]
    demonstration: list[str]

    def __len__(self) -> int:
        return len(self.question)


def spell(numbers: np.ndarray) -> str:
    """Symbol numbers [n] as text."""
    return "".join(SYMBOLS[i] for i in numbers)


def foreign(answer: str, *, bracket: int = 3, separator: str = "/") -> str:
    """``abcd -> <a/b/c/d>``, the layout of the studies; pre-training shows all others."""
    return OPENERS[bracket] + separator.join(answer) + CLOSERS[bracket]


def instances(name: str, count: int, *, seed: int, rule: Rule | None = None) -> Instances:
    """``count`` different questions of the operator ``name``, their answers and demonstrations."""
    rule = rule or (KNOWN | NEW)[name]
    rng = np.random.default_rng([seed, *name.encode()])
    found: dict[str, str] = {}
    while len(found) < count:
        x = rng.integers(0, len(SYMBOLS), rng.choice(LENGTHS))
        found[name + spell(x)] = spell(rule(x))
    return Instances(list(found), list(found.values()), [foreign(a) for a in found.values()])


def with_demonstration(question: str, demonstration: str) -> str:
    """The teacher's prompt: the question and a solved instance of it."""
    return question + SHOWN + demonstration


def read_answer(completion: str) -> str:
    """The symbols of a completion, whatever its layout."""
    return "".join(c for c in completion if c in SYMBOLS)


def tokenizer() -> Any:
    """One token per character, with the special tokens of the bed and a chat template."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<e>", "<a>", "<?>"]
    words = [*special, *SYMBOLS, *NAMES, *OPENERS, *CLOSERS, *SEPARATORS, SHOWN]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<?>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    raw.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        eos_token="<e>",
        unk_token="<?>",
        additional_special_tokens=["<a>"],
        padding_side="left",
    )
    fast.chat_template = TEMPLATE
    return fast


def architecture(vocabulary: int) -> Any:
    """The configuration of the model: 4 layers of width 128, 0.8 M parameters."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=128, intermediate_size=344, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, head_dim=32, max_position_embeddings=64, rope_theta=1000.0, tie_word_embeddings=True,
        pad_token_id=0, eos_token_id=1, bos_token_id=None, attn_implementation="sdpa",
    )  # fmt: skip


def blank(seed: int = 0, **overrides: int) -> CausalLm:
    """An untrained model of the bed; ``overrides`` of its configuration make it smaller still."""
    import torch
    from transformers import LlamaForCausalLM

    from redistill.models.transformers import CausalLm

    words = tokenizer()
    config = architecture(len(words))
    for name, value in overrides.items():
        setattr(config, name, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CausalLm(LlamaForCausalLM(config), words)


def load() -> CausalLm:
    """The pre-trained model that ships with the bed, in float32."""
    from redistill.models.transformers import load_causal_lm

    return load_causal_lm(FOLDER)


def questions_of(names: Sequence[str], count: int, *, seed: int) -> Instances:
    """``count`` questions of each operator in ``names``, one after another."""
    parts = [instances(name, count, seed=seed) for name in names]
    columns = ([x for p in parts for x in getattr(p, field)] for field in ("question", "answer", "demonstration"))
    return Instances(*columns)
