"""One model under two contexts: prompts built from messages, and its scores of the same completion after each of them.

The teacher of self-distillation is often the student itself that sees more: a demonstration, a document, feedback.
Both score the same completion tokens; :func:`completion_scores` lines them up, row by row and position by position.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from torch import Tensor, cat, float32, float64, no_grad, promote_types

from redistill.core.errors import UserError
from redistill.core.world import is_sharded
from redistill.language.tokens import laid_out, pad_left, pad_right, predicting
from redistill.losses.divergences import Divergence, reduce
from redistill.losses.fused import Head, fused_divergence

Message = Mapping[str, str]
Builder = Callable[[str, str], list[Message]]


class Scorer(Protocol):
    """A :class:`~redistill.models.transformers.CausalLm` or a follower of one."""

    def __call__(self, ids: Tensor, mask: Tensor, *, keep: Tensor | None = None, output: str = "logits") -> Tensor:
        """Scores or hidden states of the kept positions."""


def asked(question: str) -> list[Message]:
    """The student's conversation: the question alone."""
    return [{"role": "user", "content": question}]


def shown(question: str, demonstration: str) -> list[Message]:
    """The teacher's conversation of SDFT (arXiv:2601.19897): the question, a demonstration, a request for an own
    answer.
    """
    content = (
        f"{question}\n\nThis is how an expert responded to it:\n\n{demonstration}\n\n"
        "Now respond to it yourself, in your own words and with your own reasoning."
    )
    return [{"role": "user", "content": content}]


def informed(question: str, document: str) -> list[Message]:
    """The conversation of a teacher that may read: a document, then the question."""
    return [{"role": "user", "content": f"{document}\n\nAnswer with what the text above says.\n{question}"}]


def encode_conversations(
    tokenizer: Any, conversations: Sequence[Sequence[Message]], *, max_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """Left-padded ids and mask [B, P] of conversations that wait for the assistant's turn.

    ``max_length``: only the last so many tokens of each are kept, as the trainers of TRL do (``max_prompt_length``);
    what a conversation begins with goes first. A warning says how many are cut.

    Raises:
        UserError: the tokenizer has no chat template, or ``max_length`` is no number of tokens.
    """
    if not tokenizer.chat_template:
        raise UserError(
            "the tokenizer has no chat template; use an instruction-tuned model, or set tokenizer.chat_template and"
            " save it beside the model"
        )
    texts = [tokenizer.apply_chat_template(list(c), tokenize=False, add_generation_prompt=True) for c in conversations]
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return pad_left(rows if max_length is None else _cut(rows, max_length), tokenizer.pad_token_id)


def _cut(rows: Sequence[Sequence[int]], max_length: int) -> list[Sequence[int]]:
    if type(max_length) is not int or max_length < 1:
        raise UserError(f"max_length={max_length!r}; give a number of tokens")
    if count := sum(len(row) > max_length for row in rows):
        said = (
            f"{count} of {len(rows)} prompts are longer than {max_length} tokens; only the last {max_length} are used"
        )
        warnings.warn(said, stacklevel=3)
    return [row[-max_length:] for row in rows]


def encode_completions(tokenizer: Any, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Right-padded ids and mask [B, T] of the assistant's answers, each ended by the end token."""
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return pad_right([[*r, tokenizer.eos_token_id] for r in rows], tokenizer.pad_token_id)


def two_contexts(
    tokenizer: Any,
    student: Sequence[Sequence[Message]],
    teacher: Sequence[Sequence[Message]],
    *,
    max_length: int | None = None,
) -> dict[str, Tensor]:
    """The columns ``prompt``, ``prompt_mask``, ``context``, ``context_mask`` of a data set for
    :func:`completion_scores`; ``max_length`` cuts both as in :func:`encode_conversations`.
    """
    prompt, prompt_mask = encode_conversations(tokenizer, student, max_length=max_length)
    context, context_mask = encode_conversations(tokenizer, teacher, max_length=max_length)
    return {"prompt": prompt, "prompt_mask": prompt_mask, "context": context, "context_mask": context_mask}


def positions(lm: Any) -> int | None:
    """How many tokens ``lm`` can read and write at once, as its configuration says; None: it names no limit."""
    config = lm.config
    limit = getattr(config, "max_position_embeddings", None)
    stretched = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if limit and stretched.get("factor") and stretched.get("original_max_position_embeddings"):  # YaRN, as in Qwen
        limit = max(limit, int(stretched["factor"] * stretched["original_max_position_embeddings"]))
    return limit


def check_contexts(lm: Any, batch: Mapping[str, Tensor], new_tokens: int) -> None:
    """Refuse a batch with an empty ``prompt`` or ``context``, or one that leaves less than ``new_tokens`` of the
    positions of ``lm``. By its width, so that the first row of a table speaks for all.

    Raises:
        UserError: which row is empty, or the numbers of tokens.
    """
    for name in ("prompt", "context"):
        empty = (batch[f"{name}_mask"].sum(1) == 0).nonzero()[:, 0].tolist()
        if empty:
            row = int(batch["index"][empty[0]]) if "index" in batch else empty[0]
            raise UserError(f"row {row} has an empty {name}; leave it out", place="data")
    width, limit = max(batch[name].shape[1] for name in ("prompt", "context")), positions(lm)
    if limit and width + new_tokens > limit:
        said = (
            f"the longest row has {width} tokens and a rollout up to {new_tokens}, the model {limit} positions; lower"
            " max_new_tokens, or cut the rows (max_length)"
        )
        raise UserError(said, place="data")


def require_fitting(lm: Any, data: Mapping[str, Tensor]) -> None:
    """Refuse rows of :func:`two_contexts` that leave no position of ``lm`` to write at.

    Raises:
        UserError: names the first such row.
    """
    limit = positions(lm)
    for name, said in (("prompt", "its prompt"), ("context", "its prompt with the demonstration")):
        lengths = data[f"{name}_mask"].sum(1).tolist()
        row = next((i for i, length in enumerate(lengths) if limit and length >= limit), None)
        if row is not None:
            message = (
                f"{said} has {lengths[row]} tokens, the model {limit} positions; shorten it, or cut it (max_length)"
            )
            raise UserError(message, place=f"row {row}")


def completion_scores(
    lm: Scorer, prompt: Tensor, prompt_mask: Tensor, completion: Tensor, active: Tensor, *, output: str = "logits"
) -> Tensor:
    """Scores [N, V] (or hidden states [N, D]) of the N ``active`` completion tokens, in row-major order.

    ``prompt``, ``prompt_mask`` [B, P] are padded on the left, ``completion`` [B, T] on the right, ``active`` [B, T]
    says which tokens count. What comes after a row's end is never attended to by what counts, so the completion needs
    no mask of its own.
    """
    ids = cat([prompt, completion], 1)  # [B, P + T]
    mask = cat([prompt_mask, prompt_mask.new_ones(completion.shape)], 1)
    return lm(ids, mask, keep=predicting(prompt, active), output=output)


def context_scores(
    student: Scorer, teacher: Scorer, batch: Mapping[str, Tensor], active: Tensor, *, output: str = "logits"
) -> tuple[Tensor, Tensor]:
    """Scores [N, V] (or hidden states [N, D]) of the ``active`` completion tokens: the student's after ``prompt``, the
    teacher's after ``context`` (no gradient).

    ``batch`` holds the columns of :func:`two_contexts` and ``completion`` [B, T].
    """
    with no_grad():
        target = completion_scores(
            teacher, batch["context"], batch["context_mask"], batch["completion"], active, output=output
        )
    ours = completion_scores(student, batch["prompt"], batch["prompt_mask"], batch["completion"], active, output=output)
    return ours, target


def context_divergence(
    student: Any,
    teacher: Any,
    batch: Mapping[str, Tensor],
    active: Tensor,
    divergence: Divergence,
    how: Literal["token_mean", "sequence_mean"] = "token_mean",
) -> Tensor:
    """How far the student after ``prompt`` is from the teacher after ``context`` on the ``active`` tokens [B, T]: one
    number, the mean over tokens, or over answers of the means over their tokens.

    Taken from hidden states and heads, so that no scores [N, V] are ever built; in the plain form where a model is
    sharded, and for what the fused form lacks (``top_k``, ``clip``).
    """
    if not _fusable(divergence, student, teacher):
        values = divergence(*context_scores(student, teacher, batch, active))
        return reduce(laid_out(values, active), active, how=how)

    h, h_teacher = context_scores(student, teacher, batch, active, output="hidden")  # [N, D] each
    weight = _shares(active, how).to(promote_types(h.dtype, float32))
    heads = _head(student), _head(teacher)
    return fused_divergence(h, heads[0], h_teacher, heads[1], divergence=divergence, weight=weight, how="sum")


def _fusable(divergence: Divergence, *models: Any) -> bool:
    whole = divergence.top_k is None and divergence.clip is None
    return whole and not any(is_sharded([_head(model).weight]) for model in models)


def _head(model: Any) -> Head:
    """The output layer of a model, or of the one that a follower holds."""
    return model.head if hasattr(model, "head") else model.net.head


def _shares(active: Tensor, how: str) -> Tensor:
    """What each active token counts [N], so that the sum over all is the mean."""
    if how == "token_mean":
        return active.new_ones(int(active.sum()), dtype=float64) / active.sum().clamp(min=1)
    length = active.sum(1, keepdim=True)  # [B, 1]
    share = 1 / (length.double().clamp(min=1) * (length > 0).sum().clamp(min=1))
    return share.expand(active.shape)[active.bool()]


def require_teacher(score: float, floor: float, *, task: str = "the task") -> None:
    """Refuse to train when the teacher, with its context, solves less than ``floor`` of ``task``: it has nothing to
    teach.

    Raises:
        UserError: with both numbers.
    """
    if score < floor:
        message = (
            f"with the demonstration in its context the model solves {score:.0%} of {task}, less than the floor of "
            f"{floor:.0%}; use a larger model, clearer demonstrations, or lower the floor"
        )
        raise UserError(message, place="teacher")
