"""OPSD, on-policy self-distillation: the model, shown the verified solution of the question, re-scores the attempt that
it wrote without it.

    y ~ pi_theta(. | x)        minimise   1/N sum_t D( pi_0(. | y_<t, x, y*) , pi_theta(. | y_<t, x) )

Zhao et al.: "Self-Distilled Reasoner" (arXiv:2601.18734), section 3. x: problem, y*: reference solution, theta:
student, 0: the initial weights, which never generate: one forward pass scores all of y. D is the forward KL over the
whole vocabulary, the best of the paper's ablation; ``clip`` caps each of its summands, so that tokens of style do not
dominate. N: all tokens of the batch up to the first end (``sequence_mean``: 1/|y|, then the mean over attempts).

Roles: student (trained; full or with an adapter), teacher: the initial weights, which under an adapter are the student
with the adapter off, so that one copy of the weights is in memory; without one, and for ``teacher_rate`` above 0, an
average of the student.

Differs from the paper: the released scripts use the Jensen-Shannon divergence (``JSD(temperature=1.1)``) and no clip;
the text finds the forward KL best. A share ``own`` below 1 learns from given completions in the other batches (GKD,
arXiv:2306.13649); ``estimator="sampled"`` looks at the written token alone (the ablation, and on-policy distillation as
policy gradient: the reverse KL's gradient, with the noise of one sample).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from redistill.core import Ema, Loss, Method, Progress, UserError
from redistill.core.types import Count, CountOrZero, Positive, PositiveShare, Share
from redistill.language.contexts import check_contexts, context_divergence, context_scores
from redistill.language.rollouts import sample
from redistill.language.tokens import laid_out, log_prob_of, skip_first
from redistill.losses.divergences import Divergence, ForwardKL, k2, reduce
from redistill.models.transformers import AdapterOff, CausalLm


class Opsd(Method):
    """On-policy distillation from the initial model with the solution in its context. ``student``: the model; with an
    adapter only the adapter trains."""

    needs = ("prompt", "prompt_mask", "context", "context_mask")

    def __init__(
        self,
        student: CausalLm,
        *,
        divergence: Divergence | None = None,  # between both at a token; forward_kl at temperature 1.1 if left out
        teacher_rate: Share = 0.0,  # share of the student in the teacher a step; 0 freezes it, 1: the live student
        own: Share = 1.0,  # share of batches with own attempts; the others take the column completion
        estimator: Literal["full", "sampled"] = "full",  # the whole vocabulary, or the written token (reverse KL)
        reduction: Literal["token_mean", "sequence_mean"] = "token_mean",  # what counts the same
        max_new_tokens: Count = 1024,  # longest attempt
        temperature: Positive = 1.1,  # of the attempts
        top_p: PositiveShare = 0.95,  # smallest set of tokens with this mass
        top_k: CountOrZero = 20,  # likeliest tokens; 0 keeps all
        skip_tokens: CountOrZero = 0,  # first tokens of an attempt left out
        drop_truncated: bool = False,  # leave out attempts that did not end
    ) -> None:
        super().__init__()
        self.student = student
        shared = student.has_adapter and teacher_rate == 0
        self.teacher = AdapterOff(student) if shared else Ema(student, decay=1.0 - teacher_rate)
        self.divergence = divergence or ForwardKL(temperature=1.1)
        self.own, self.estimator, self.reduction = own, estimator, reduction
        self.max_new_tokens, self.temperature, self.top_p, self.top_k = max_new_tokens, temperature, top_p, top_k
        self.skip_tokens, self.drop_truncated = skip_tokens, drop_truncated

    def prepare(self, batch: dict[str, Any], now: Progress) -> dict[str, Any]:
        if now.shared_rand() >= self.own:
            return batch
        uniform = now.rand(len(batch["prompt"]), self.max_new_tokens)
        law = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        rollout = sample(self.student, batch["prompt"], batch["prompt_mask"], uniform, **law)
        return {**batch, "completion": rollout.ids, "completion_mask": rollout.mask}

    def loss(self, turn: str, batch: dict[str, Any], now: Progress) -> Loss:
        active = self.counted(batch)  # [B, T]
        if self.estimator == "full":
            value = context_divergence(self.student, self.teacher, batch, active, self.divergence, self.reduction)
        else:
            value = self.sampled(batch, active)

        items = active if self.reduction == "token_mean" else active.any(1)  # what the mean is over
        length = batch["completion_mask"].sum(1).float().mean()
        return Loss({"divergence": value}, weight=items.sum(), watch={"length": length})

    def counted(self, batch: dict[str, Any]) -> Tensor:
        """The tokens [B, T] that are learned from."""
        active = skip_first(batch["completion_mask"], self.skip_tokens)
        if self.drop_truncated:
            ends = torch.tensor(self.student.eos, device=active.device)
            ended = (torch.isin(batch["completion"], ends) & batch["completion_mask"].bool()).any(1)
            active = active * ended[:, None]
        return active

    def sampled(self, batch: dict[str, Any], active: Tensor) -> Tensor:
        """The mean of (log q - log p)^2 / 2 at the written tokens: its gradient is that of -sg(log p - log q) log q."""
        written = batch["completion"][active.bool()]  # [N]
        scores = context_scores(self.student, self.teacher, batch, active)
        hot = self.divergence.temperatures
        log_q, log_p = (log_prob_of(z / t, written) for z, t in zip(scores, hot))
        return reduce(laid_out(k2(log_q, log_p), active), active, how=self.reduction)

    def after(self, turn: str, stats: dict[str, Tensor], now: Progress) -> None:
        if isinstance(self.teacher, Ema):
            self.teacher.update(self.student)

    def check(self, batch: dict[str, Any]) -> None:
        """Also refuse an empty prompt or context, rows that leave no room for an attempt, and given completions that
        are missing where ``own`` is below 1."""
        super().check(batch)
        if self.own < 1 and "completion" not in batch:
            raise UserError(f"own={self.own} takes completions of the rows as well, and they have none", place="data")
        check_contexts(self.student, batch, self.max_new_tokens)
