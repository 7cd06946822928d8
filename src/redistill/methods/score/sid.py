"""SiD: a frozen teacher and a critic, both differentiated through, move a one-step student on its own samples alone.

    critic:   min  E lambda(sigma) | f_psi(x_t) - x_g |^2
    student:  min  E < r - f, (r - x_g) - alpha (r - f) > / sg[ mean |x_g - r| ],   r = f_phi(x_t),  f = f_psi(x_t)

with x_g = G(sigma_init z) and x_t = x_g + sigma eps (arXiv 2404.04057, equations 23 to 25). With a perfect critic,
alpha = 1/2 is the gradient of the Fisher divergence E |grad log p_t - grad log q_t|^2 over the student's q; alpha = 1
leaves out how q itself moves; more, the paper's 1.2, also takes a part of |r - f|^2 away: a bet that the student is
too narrow, which slows down one that is too wide.

Roles: student (trained; its average is exported), critic (trained; a copy of the teacher unless given: with a critic
that starts from nothing alpha above 1 explodes), teacher (frozen). In the student's turn the gradient flows through
critic and teacher into x_t; only the divisor is a constant.

Differs from the paper: means instead of sums times 100, which is the same step under Adam; no augmentation in the
critic's turn; a NaN ends the run instead of being replaced.
"""

from __future__ import annotations

import torch
from torch import Tensor

from redistill.core import Batch, Loss, Progress
from redistill.core.types import Count, Positive, ShareBelow1
from redistill.diffusion.denoiser import Condition, Denoiser
from redistill.diffusion.generator import OneStep, critic_lesson, distiller, noised
from redistill.diffusion.score import Matching, Normaliser, ScoreIdentity, TimeLaw


class Sid(OneStep):
    """``matching``: the paper's loss with its alpha, or another divergence in the same loop (``reverse_kl`` is
    Diff-Instruct, 2305.18455). ``sigma_init``: sigma / alpha of the student's input, None for pure noise at t = 1.
    ``decay`` of the average per update; early on it forgets faster. ``renoise``: times of the student's turn, by
    default the whole of the path but for its noisiest fifth. ``shape`` of a sample is needed where neither the student
    nor the data (``image``) tells it; ``condition`` names the column that conditions all networks.
    """

    def __init__(
        self,
        student: Denoiser,
        teacher: Denoiser,
        critic: Denoiser | None = None,
        *,
        matching: Matching | None = None,  # the loss; the paper's with its alpha if left out
        sigma_init: Positive | None = 2.5,  # noise at the student's input; null: pure noise
        critic_turns: Count = 1,  # of the critic for one of the student
        decay: ShareBelow1 = 0.999,  # of the average of the student that is exported
        condition: str | None = None,  # the column that conditions all networks
        shape: tuple[Count, ...] | None = None,  # of a sample, where neither the student nor the data tells it
        normaliser: Normaliser | None = None,  # what a row's loss is divided by
        renoise: TimeLaw | None = None,  # noise of the student's turn
        critic_times: TimeLaw | None = None,  # noise of the critic's turn
    ) -> None:
        super().__init__()
        self.begin(student, teacher, critic, sigma_init, decay)
        self.score = distiller(matching or ScoreIdentity(), normaliser, renoise)
        self.critic_times = critic_times or self.critic_times
        self.critic_turns, self.condition, self.shape = critic_turns, condition, shape or student.shape
        columns = {"image": self.shape is None, condition or "": condition is not None}
        self.needs = tuple(name for name, needed in columns.items() if needed)

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``denoise``: the critic's regression; ``match``: the student's loss."""
        x, condition = self.samples(turn, self.shape, batch, now)
        if turn == "critic":
            return Loss({"denoise": critic_lesson(self.critic, x, self.critic_times, condition, now)})
        return self._student(x, condition, now)

    def _student(self, x: Tensor, condition: Condition, now: Progress) -> Loss:
        path, through = self.student.path, self.score.matching.through
        x_t, t = noised(x, path, self.score.law, now)
        with torch.set_grad_enabled(through):
            real, fake = self.teacher(x_t, t, condition), self.critic(x_t, t, condition)
        gap = (real - fake).detach().square().mean()
        return Loss({"match": self.score.loss(x, real, fake, path, t)}, watch={"gap": gap})
