"""The runs behind a scaling law: one small language model trained from scratch per size, tokens and teacher.

    L = (1 - lambda) L_NTP + lambda tau^2 KL(softmax(z_T / tau) || softmax(z_S / tau)) + lambda_Z (logsumexp z_S)^2

Per token, mean over positions: token distillation with ``soft_weight`` lambda and ``z_loss`` lambda_Z. The KL differs
from the cross-entropy with the teacher's distribution by a constant.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from redistill.core import Plan, UserError, fit
from redistill.language.tokens import log_prob_of
from redistill.rivals.token_kd import TokenDistillation

if TYPE_CHECKING:
    from redistill.models.transformers import CausalLm

TOKENS_PER_CALL = 2**12  # of a validation set: with 50,000 words 0.8 GB of scores


@torch.no_grad()
def cross_entropy(net: nn.Module, ids: Tensor) -> float:
    """Nats a token on rows of text ``ids`` [B, T]; L_T and L_S compare on the same rows."""
    parts = ids.to(_device(net)).split(max(1, TOKENS_PER_CALL // ids.shape[1]))
    return float(
        -sum(log_prob_of(net(part)[:, :-1], part[:, 1:]).double().sum() for part in parts) / ids[:, 1:].numel()
    )


def _device(net: nn.Module) -> torch.device:
    return next(chain(net.parameters(), net.buffers())).device


def untrained(lm: CausalLm, seed: int) -> CausalLm:
    """A model of the configuration of ``lm`` with new weights, drawn from ``seed``."""
    if lm.has_adapter:
        raise UserError("an adapter is no model of its own size; leave lora_rank out", place="student")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return type(lm)(type(lm.net)(copy.deepcopy(lm.net.config)), lm.tokenizer)


def parameters_without_embeddings(net: Any) -> int:
    """N of a transformers causal model (or of its :class:`CausalLm`): all but token embeddings and output layer."""
    inner = getattr(net, "net", net)
    ends = [inner.get_input_embeddings(), inner.get_output_embeddings()]
    left_out = {id(p) for end in ends if end is not None for p in end.parameters()}
    return sum(p.numel() for p in inner.parameters() if id(p) not in left_out)


def run(
    student: nn.Module, teacher: nn.Module | None, text: Tensor, validation: Tensor, plan: Plan, **options: Any
) -> dict[str, float]:
    """One row of the table: train ``student`` in place on the rows ``text`` [B, T], each seen once, and measure it.

    ``plan`` gives the optimiser; its steps follow from the rows, a last smaller batch included. ``options`` are those
    of :class:`TokenDistillation`; without a teacher ``soft_weight`` is 0.
    Returns N, D, loss and teacher_loss (nan without a teacher), as ``fit_laws`` and ``redistill plan`` read them.
    """
    if len(text) < plan.batch_size:
        raise UserError(f"{len(text)} rows of text do not fill one batch of {plan.batch_size}", place="text")
    taught = {} if teacher is not None else {"soft_weight": 0.0}
    method = TokenDistillation(student, teacher, **{**options, **taught})
    once = plan.model_copy(update={"epochs": 1, "steps": None, "drop_last": False})
    fit(method, {"ids": text}, once)
    return {
        "N": parameters_without_embeddings(student), "D": text.numel(), "loss": cross_entropy(student, validation),
        "teacher_loss": float("nan") if teacher is None else cross_entropy(teacher, validation),
    }  # fmt: skip


def table(rows: Iterable[dict[str, float]]) -> dict[str, list[float]]:
    """Rows as columns."""
    listed = list(rows)
    return {name: [row[name] for row in listed] for name in ("N", "D", "loss", "teacher_loss")}


def grid(
    make: Callable[[Any], nn.Module],
    sizes: Iterable[Any],
    tokens: Iterable[int],
    text: Tensor,
    validation: Tensor,
    plan: Callable[[Any], Plan],
    teacher: nn.Module | None = None,
    **options: Any,
) -> dict[str, list[float]]:
    """The table of all ``sizes`` x ``tokens`` for one teacher (None: the labels).

    ``make(size)`` builds a student, ``plan(size)`` says how it is trained (µP's point: the best rate depends on the
    size); a run of D tokens sees the first D tokens of ``text`` [B, T]. ``options`` as for :func:`run`.
    """
    wanted = [(size, text[: D // text.shape[1]]) for size in sizes for D in tokens]
    return table(run(make(size), teacher, rows, validation, plan(size), **options) for size, rows in wanted)
