"""SDFT, self-distillation fine-tuning: the model, shown a demonstration of this very prompt, re-scores what it wrote
without it.

    y ~ pi_theta(. | x)        minimise   1/|y| sum_t w_t D( pi_phi(. | y_<t, x, c) , pi_theta(. | y_<t, x) )
    phi <- (1 - r) phi + r theta         w_t = min( pi_theta(y_t) / pi_sampled(y_t), cap )

Shenfeld, Damani, Huebotter, Agrawal: "Self-Distillation Enables Continual Learning" (arXiv:2601.19897), section 3. x:
prompt, c: demonstration, theta: student, phi: teacher, an average of the student that sees c. D is per token, over the
whole vocabulary. Each answer counts the same, whatever its length: the mean over its tokens, then over the answers.

Roles: student (trained; full or with an adapter), teacher (:class:`Ema` of it). The teacher's scores carry no
gradient, nor do samples.

Differs from the paper: its text states the reverse KL, its results and its code use the forward KL (the authors'
correction of April 2026); the forward KL is the default here too, the reverse one a value of ``divergence``. The mean
over answers is the code's too, which lets an answer without a counted token (shorter than ``skip_tokens``) count as 0;
here it does not count. The code averages w_t over an answer before it weighs its tokens; here each token has its own.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

from torch import Tensor

from redistill.core import Ema, Loss, Method, Progress
from redistill.core.errors import UserError
from redistill.core.types import Count, CountOrZero, Positive, Share
from redistill.language.contexts import check_contexts, context_scores
from redistill.language.rollouts import sample
from redistill.language.tokens import laid_out, log_prob_of, skip_first
from redistill.losses.divergences import Divergence, ForwardKL, reduce
from redistill.models.transformers import CausalLm


class Sdft(Method):
    """On-policy distillation from the same model with a demonstration in its context.

    Of a ``student`` with an adapter only the adapter trains, and the teacher is a second copy of it. The authors' code
    counts each answer the same (``sequence_mean``).
    """

    needs = ("prompt", "prompt_mask", "context", "context_mask")

    def __init__(
        self,
        student: CausalLm,
        *,
        divergence: Divergence | None = None,  # of the student from the teacher at a token; forward_kl if left out
        teacher_rate: Share = 0.01,  # r, share of the student in the teacher a step; 0 freezes it, 1: the live student
        skip_tokens: CountOrZero = 3,  # first tokens left out, where a teacher that saw an example says so
        max_new_tokens: Count = 2048,  # longest rollout
        temperature: Positive = 1.0,  # of the rollouts, and of both models' scores in the divergence
        importance_cap: Positive = 2.0,  # limit of w_t, the correction when sampling and training disagree
        reduction: Literal["sequence_mean", "token_mean"] = "sequence_mean",  # what counts the same: answers or tokens
    ) -> None:
        super().__init__()
        self.student = student
        self.teacher = Ema(student, decay=1.0 - teacher_rate)
        self.divergence = divergence or ForwardKL()
        self.skip_tokens = skip_tokens
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.importance_cap = importance_cap
        self.reduction = reduction

    def prepare(self, batch: dict[str, Any], now: Progress) -> dict[str, Any]:
        uniform = now.rand(len(batch["prompt"]), self.max_new_tokens)
        rollout = sample(self.student, batch["prompt"], batch["prompt_mask"], uniform, temperature=self.temperature)
        return {**batch, "completion": rollout.ids, "completion_mask": rollout.mask, "sampled_logp": rollout.logp}

    def loss(self, turn: str, batch: dict[str, Any], now: Progress) -> Loss:
        active = skip_first(batch["completion_mask"], self.skip_tokens)  # [B, T]
        if not active.any():
            warnings.warn(f"no answer is longer than skip_tokens={self.skip_tokens}; lower it", stacklevel=2)
        scores = context_scores(self.student, self.teacher, batch, active)
        student, teacher = (z / self.temperature for z in scores)  # [N, V] each
        weight = self.importance(student, batch, active)
        values = self.mean(weight * self.divergence(student, teacher), active)
        counted = active if self.reduction == "token_mean" else active.any(1)  # what the mean is over
        watch = {"length": batch["completion_mask"].sum(1).float().mean(), "importance": self.mean(weight, active)}
        return Loss({"divergence": values}, weight=counted.sum(), watch=watch)

    def mean(self, values: Tensor, active: Tensor) -> Tensor:
        """One number from ``values`` [N] of the ``active`` [B, T] tokens, as ``reduction`` says."""
        return reduce(laid_out(values, active), active, how=self.reduction)

    def importance(self, student: Tensor, batch: dict[str, Any], active: Tensor) -> Tensor:
        """w_t [N]: probability of each token now over the one it was sampled with, capped; no gradient. ``student``:
        tempered scores."""
        keep = active.bool()
        logp = log_prob_of(student.detach(), batch["completion"][keep])
        return (logp - batch["sampled_logp"][keep]).exp().clamp(max=self.importance_cap)

    def after(self, turn: str, stats: dict[str, Tensor], now: Progress) -> None:
        self.teacher.update(self.student)

    def check(self, batch: dict[str, Any]) -> None:
        """Also refuse an empty prompt or context, answers that are skipped whole, rows that leave no room for a
        rollout, and a student whose vocabulary was changed after its teacher was made."""
        super().check(batch)
        if self.skip_tokens >= self.max_new_tokens:
            said = f"{self.skip_tokens} leaves nothing of answers of {self.max_new_tokens} tokens"
            raise UserError(f"{said}; lower it, or raise max_new_tokens", place="options.skip_tokens")
        check_contexts(self.student, batch, self.max_new_tokens)
        sizes = [lm.head.weight.shape[0] for lm in (self.student, self.teacher.net)]
        if sizes[0] != sizes[1]:
            said = f"scores {sizes[1]} tokens, its student {sizes[0]}; resize the vocabulary before Sdft is built"
            raise UserError(said, place="teacher")
