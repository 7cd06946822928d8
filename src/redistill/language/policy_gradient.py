"""Learning from rewards: what a group of answers to one question says about each of them, and the clipped surrogate.

A : advantage, r : reward, G : answers a question, rho_t = pi(y_t) / pi_sampled(y_t)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from redistill.core.errors import unknown

Reward = Callable[[Sequence[str], Tensor], Sequence[float]]
"""Texts of the answers and the numbers of the rows that they answer -> a reward each."""

Advantage = Literal["grpo", "centred", "leave_one_out", "reward"]


def group_advantages(reward: Tensor, how: Advantage = "grpo", *, floor: float = 1e-4) -> Tensor:
    """Advantages [B, G] of the answers of each question, from their rewards [B, G].

    - ``grpo``: (r - mean) / (deviation + ``floor``) (Shao et al., arXiv:2402.03300, section 4.1.2; the deviation with
      G - 1, as in TRL); a group of equal rewards says nothing.
    - ``centred``: r - mean, without the division that favours questions nearly solved or nearly lost (Liu et al., Dr.
      GRPO, arXiv:2503.20783).
    - ``leave_one_out``: r - mean of the *other* answers, unbiased (Ahmadian et al., RLOO, arXiv:2402.14740).
    - ``reward``: r itself. With rewards of 0 and 1 that is fine-tuning on the own right answers (rejection sampling).
    """
    centred = reward - reward.mean(1, keepdim=True)
    if how == "grpo":
        return centred / (reward.std(1, keepdim=True) + floor)
    if how == "centred":
        return centred
    if how == "leave_one_out":
        return centred * reward.shape[1] / (reward.shape[1] - 1)
    if how == "reward":
        return reward
    raise unknown("advantage", how, ("grpo", "centred", "leave_one_out", "reward"), place="advantage")


def clipped_surrogate(logp: Tensor, sampled: Tensor, advantage: Tensor, clip: float = 0.2) -> Tensor:
    """-min(rho A, clip(rho, 1 - c, 1 + c) A) of each token [N] (PPO, Schulman et al., arXiv:1707.06347, equation 7).

    ``logp``: log-probabilities now, ``sampled``: when the tokens were written, ``advantage`` that of their answer. On
    fresh samples the gradient is -A grad log pi, whatever the clip.
    """
    rho = (logp - sampled).exp()
    return -torch.minimum(rho * advantage, rho.clamp(1 - clip, 1 + clip) * advantage)
