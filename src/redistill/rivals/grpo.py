"""GRPO: policy gradient with rewards that are compared within the answers to the same question.

    A_i = (r_i - mean(r)) / std(r),   L = 1/N sum_i sum_t -min( rho_t A_i, clip(rho_t, 1 - c, 1 + c) A_i )

Shao et al., "DeepSeekMath" (arXiv:2402.03300), section 4.1, without the KL to the start model, as most use it today. N:
all tokens of the batch. With ``advantage="reward"`` and rewards of 0 and 1 it is fine-tuning on the own right answers.

Roles: student (trained). The rewards come from a function of the texts and the numbers of their rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from redistill.core import Loss, Method, Progress, UserError
from redistill.core.types import Count, CountOrZero, Positive, PositiveShare
from redistill.language.contexts import completion_scores
from redistill.language.policy_gradient import Advantage, Reward, clipped_surrogate, group_advantages
from redistill.language.rollouts import Rollout, decode, sample
from redistill.language.tokens import laid_out, log_prob_of
from redistill.losses.divergences import reduce
from redistill.models.transformers import CausalLm


class Grpo(Method):
    """Group-relative policy gradient of ``student``; ``reward``: texts of answers and the numbers [N] of their
    rows -> N rewards."""

    needs = ("prompt", "prompt_mask")

    def __init__(
        self,
        student: CausalLm,
        reward: Reward,
        *,
        group: Count = 8,  # answers a question
        advantage: Advantage = "grpo",  # what a group says about each of its answers
        clip: Positive = 0.2,  # half the width of the ratio's range; on fresh samples it changes nothing
        max_new_tokens: Count = 1024,
        temperature: Positive = 1.0,
        top_p: PositiveShare = 1.0,
        top_k: CountOrZero = 0,
    ) -> None:
        super().__init__()
        if group < 2 and advantage != "reward":
            raise UserError("a group of one has nothing to be compared with; give 2 or more", place="group")
        self.student, self.reward = student, reward
        self.group, self.advantage, self.clip = group, advantage, clip
        self.max_new_tokens, self.temperature, self.top_p, self.top_k = max_new_tokens, temperature, top_p, top_k

    def prepare(self, batch: dict[str, Any], now: Progress) -> dict[str, Any]:
        """Add G attempts of every row, one after another, and the advantage of each [B * G]."""
        many = {name: batch[name].repeat_interleave(self.group, 0) for name in ("prompt", "prompt_mask", "index")}
        uniform = now.rand(len(batch["prompt"]), self.group, self.max_new_tokens).flatten(0, 1)
        law = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        rollout = sample(self.student, many["prompt"], many["prompt_mask"], uniform, **law)

        reward = self.rewards(rollout, many["index"])
        advantage = group_advantages(reward.view(-1, self.group), self.advantage).flatten()
        return {**batch, **many, **rollout._asdict(), "reward": reward, "advantage": advantage}

    def rewards(self, rollout: Rollout, rows: Tensor) -> Tensor:
        """The rewards [B * G] of the attempts."""
        given = torch.tensor(self.reward(decode(self.student, rollout), rows), dtype=torch.float32)
        if given.shape != rows.shape or not given.isfinite().all():
            raise UserError(f"gave {list(given.shape)} rewards for {len(rows)} answers, or one that is no number",
                            place="reward")  # fmt: skip
        return given.to(rollout.logp)

    def loss(self, turn: str, batch: dict[str, Any], now: Progress) -> Loss:
        active = batch["mask"]
        scores = completion_scores(self.student, batch["prompt"], batch["prompt_mask"], batch["ids"], active)
        keep = active.bool()
        logp = log_prob_of(scores / self.temperature, batch["ids"][keep])
        sampled = logp.detach() if self.restricted else batch["logp"][keep]
        advantage = batch["advantage"][:, None].expand(active.shape)[keep]
        values = laid_out(clipped_surrogate(logp, sampled, advantage, self.clip), active)
        watch = {"length": active.sum(1).float().mean(), "reward": batch["reward"].mean()}
        return Loss({"policy": reduce(values, active)}, weight=active.sum(), watch=watch)

    @property
    def restricted(self) -> bool:
        """Whether the sampling law leaves tokens out, so that its probabilities are not the model's."""
        return self.top_p < 1 or self.top_k > 0
