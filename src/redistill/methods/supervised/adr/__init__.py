"""ADR: adversarial training towards what the network's own moving average says about the clean picture.

    q        = softmax( f_mean(x) / tau_s ),   tau_s falls, lambda_s rises along half a cosine over the run
    lambda_i = clip( lambda_s - (max_c q_c - q_y), 0, 1 )
    P        = lambda_i q + (1 - lambda_i) onehot(y)                                         (Wu, Wang and Chen 2024)
    PGD:     x' climbs CE(f(x'), P) in the ball around x,        L = CE(f(x'), P)
    TRADES:  x' climbs KL(f(x) || f(x')),                        L = CE(f(x), P) + beta KL(f(x) || f(x'))
    mean     <- m mean + (1 - m) theta after every step, buffers included

Roles: student (trained, sees x'), its average (sees x, evaluation mode). Only the label differs from plain adversarial
training, so both are plug-ins: ``rectifier`` (OneHot gives plain training, LabelSmoothing the smoothed one) and
``attack`` (Pgd, Trades). ``rho`` adds the weight perturbation AWP: the loss is taken at weights that were moved uphill.

Differs from the paper: the attacked student is in evaluation mode, so no attack touches its batch statistics; AWP moves
the weights by the gradient of each micro-batch; lambda 0.7 -> 0.95 is meant for long runs, short ones need less. TRADES
starts at x + 0.001 normal noise, as in its own paper, within the ball and [0, 1]; the released code of ADR adds uniform
noise from 0 to 0.001, which moves every pixel upwards, and clips after the first step only.
"""

from __future__ import annotations

from torch import Tensor, nn

from redistill.core import Ema, Loss, Method, Progress, UserError
from redistill.core.method import Batch
from redistill.core.types import NonNegative, Share
from redistill.methods.supervised.adr.attacks import Attack, Pgd, sharpened
from redistill.supervised.classifier import logits
from redistill.supervised.targets import Annealed, TargetRectifier


class Adr(Method):
    """Adversarial training with rectified labels."""

    needs = ("image", "label")

    def __init__(
        self,
        student: nn.Module,
        *,
        attack: Attack | None = None,  # pgd if left out
        rectifier: TargetRectifier | None = None,  # annealed if left out
        decay: Share = 0.995,  # of the moving average; 0 is the student itself, 1 frozen
        rho: NonNegative = 0.0,  # of the weights that are attacked too, such as 0.005
        averaged: bool = False,  # export the moving average, not the student
    ) -> None:
        super().__init__()
        self.student, self.teacher = student, Ema(student, decay, average_buffers=True)
        self.attack, self.rectifier = attack or Pgd(), rectifier or Annealed()
        self.rho, self.averaged = rho, averaged

    def prepare(self, batch: Batch, now: Progress) -> Batch:
        """Add the average's probabilities [B, C] for the clean pictures."""
        return {**batch, "clean_view": logits(self.teacher, batch).softmax(1)}

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``adversarial``, or ``clean`` and ``robust``: what the attack asks for. ``trust`` (watched): how much of
        the target is not the label."""
        image, label = batch["image"], batch["label"]
        target = self.rectifier(label, batch["clean_view"], now).detach()  # [B, C]
        hard = self.attack(self.student, image, target, now)
        terms = self.attack.terms(self.student, image, hard, target)
        if self.rho:
            moved = sharpened(self.student, Loss(terms).total, self.rho)
            terms = self.attack.terms(moved, image, hard, target)
        return Loss(terms, watch={"trust": 1 - target.gather(1, label[:, None]).mean()})

    def after(self, turn: str, stats: dict[str, Tensor], now: Progress) -> None:
        """The average follows."""
        self.teacher.update(self.student)

    def export(self) -> nn.Module:
        """The student, or its average."""
        return self.teacher.net if self.averaged else self.student

    def check(self, batch: Batch) -> None:
        """Also refuse pictures that are not in [0, 1]."""
        super().check(batch)
        low, high = float(batch["image"].min()), float(batch["image"].max())
        if low < 0 or high > 1:
            raise UserError(f"pixels from {low:.3g} to {high:.3g}; an attack needs [0, 1]: normalise in the network",
                            place="data")  # fmt: skip
