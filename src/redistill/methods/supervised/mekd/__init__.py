"""MEKD: a student learns from a box that only answers, on generated images, by the images that both answers make.

    z ~ N(0, I_C),  x' = G(z),  t = T(x'),  s = S(x')
    first:  L_D = -E log D(x) - E log(1 - D(x')),   L_G = -E log D(x') - w_IM E max_c softmax(t)_c log D(x')
    then:   L   = w_F mean|G(s / kappa) - G(t / kappa)| + w_KL tau KL(softmax(t / tau) || softmax(s / tau))

(arXiv 2205.10490.) The latent has one entry per class, so the generator, rewarded for images that the teacher is sure
of, stands for the inverse of the teacher. Held fixed it turns logits into images, and the gradient J_G(s / kappa)^T
sign(.) is a second direction beside that of KL.

Roles: student (trained); teacher (asked, on generated images alone, never differentiated); generator and discriminator
(a logit, no sigmoid; both trained in the first ``gan_steps`` steps on unlabelled local images, then frozen, in
evaluation mode). Without a discriminator the generator comes trained. ``kappa`` should make t / kappa about as wide as
the prior: the logged ``spread`` is then near 1.

Differs from the paper: L_IM weighs by the top probability (the released code multiplies by the number of the top class
and mixes the rows); a network that waits for its turn is in evaluation mode; the generator of the last step is kept.
``pool`` > 0 (ours) asks about so many images in the second stage at most, and draws from them when they are all asked.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss, softplus

from redistill.core import Loss, Method, Progress, UserError
from redistill.core.method import Again, Batch
from redistill.core.types import Count, CountOrZero, NonNegative, Positive
from redistill.losses.adversarial import NonSaturating
from redistill.methods.supervised.mekd.black_box import Logits, Reply
from redistill.supervised.classifier import logits
from redistill.supervised.matches import Kd, Match, Tau
from redistill.supervised.temperature import Constant, Temperature

DISTANCES = {"l1": l1_loss, "l2": mse_loss}  # means over rows and pixels


class OnceSoftened(Kd):
    """tau KL(softmax(t / tau) || softmax(s / tau)): the released loss, one factor of tau less than usual."""

    def __call__(self, student: Tensor, teacher: Tensor, label: Tensor | None, tau: Tau) -> Tensor:
        return super().__call__(student, teacher, label, tau) / torch.as_tensor(tau).squeeze(-1)


class Mekd(Method):
    """Mapping-emulation distillation. With both weights of the student 0 the GAN alone is trained, as long as the plan.
    ``asked`` [2, classes] counts the teacher's answers in both stages; an empty class is a collapsed generator."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        generator: nn.Module,
        discriminator: nn.Module | None = None,
        *,
        classes: Count,  # width of the latent and of the answers
        gan_steps: CountOrZero = 0,  # of the first stage; 0 without a discriminator
        reply: Reply | None = None,  # what the teacher answers; logits if left out
        distance: Literal["l1", "l2"] = "l1",  # between images
        kappa: Positive = 5.0,
        temperature: Temperature | None = None,  # tau; constant, 5, if left out
        match: Match | None = None,  # once_softened if left out
        image_weight: NonNegative = 1.0,  # w_F
        match_weight: NonNegative = 1.0,  # w_KL
        confidence_weight: NonNegative = 0.5,  # w_IM
        pool: CountOrZero = 0,  # images to ask about in the second stage; 0: no limit
    ) -> None:
        super().__init__()
        if (discriminator is None) != (gan_steps == 0):
            message = f"gan_steps={gan_steps}; a discriminator needs some steps, without one it is 0"
            raise UserError(message, place="gan_steps")
        if match is not None and match.needs_label:
            raise UserError(f"{type(match).__name__} reads labels, which generated images have none of", place="match")
        self.student, self.teacher, self.generator, self.discriminator = student, teacher, generator, discriminator
        self.classes, self.gan_steps, self.reply, self.game = classes, gan_steps, reply or Logits(), NonSaturating()
        self.distance, self.kappa, self.temperature = DISTANCES[distance], kappa, temperature or Constant(5.0)
        self.match, self.image_weight, self.match_weight = match or OnceSoftened(), image_weight, match_weight
        self.confidence_weight, self.pool = confidence_weight, pool
        both = {name: [name] for name in ("discriminator", "generator")} if discriminator is not None else {}
        self.trains = {**both, "student": ["student"]}
        self.needs = ("image",) if discriminator is not None else ()  # type: ignore[misc]
        self.register_buffer("asked", torch.zeros(2, classes, dtype=torch.int64))
        self.register_buffer("latents", torch.zeros(pool, classes))
        self.register_buffer("answers", torch.zeros(pool, classes))

    def turns(self, now: Progress) -> tuple[str, ...]:
        """The two players of the GAN on one batch of local images, then the student alone."""
        return ("discriminator", Again("generator")) if now.step < self.gan_steps else ("student",)

    def prepare(self, batch: Batch, now: Progress) -> Batch:
        """Refuse a plan that ends before the student's turn, or goes on when there is nothing for it to match."""
        if (now.steps > self.gan_steps) != (self.image_weight + self.match_weight > 0):
            message = f"{now.steps} for gan_steps={self.gan_steps}; a student needs more and a weight, the GAN neither"
            raise UserError(message, place="plan.steps")
        return batch

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``discriminator``; ``generator`` and ``confidence`` (L_IM); ``image`` (L_F) and ``match`` (L_KL)."""
        if now.step == 0 and turn != "generator":
            self._rehearse(turn)
        if turn == "student":
            return self._student(len(batch["index"]), now)
        z = now.randn(len(batch["index"]), self.classes).to(batch["image"].dtype)
        if turn == "discriminator":
            return self._discriminator(batch["image"], z)
        return self._generator(z)

    @torch.no_grad()
    def _rehearse(self, turn: str) -> None:
        """Refuse networks that do not fit each other before a long first stage, not after it."""
        try:
            image = self.generator(torch.zeros(1, self.classes).to(next(self.generator.parameters())))
        except RuntimeError as error:
            raise UserError(f"it takes no latents of {self.classes} numbers ({error})",
                            place="models.generator") from error  # fmt: skip
        if turn == "discriminator":
            self._said(image)

    def _said(self, image: Tensor) -> Tensor:
        """The student's logits [B, C]."""
        s = logits(self.student, {"image": image})
        if s.shape[1:] != (self.classes,):
            raise UserError(f"it gives {tuple(s.shape[1:])} numbers a row, not {self.classes}", place="models.student")
        return s

    @torch.no_grad()
    def _ask(self, image: Tensor) -> Tensor:
        """The teacher's answers to generated images, as logits [B, C]."""
        return self.reply.read(self.teacher(image.detach()), self.classes)

    def _discriminator(self, image: Tensor, z: Tensor) -> Loss:
        assert self.discriminator is not None
        with torch.no_grad():
            fake = self.generator(z)
        if fake.shape != image.shape:
            raise UserError(f"it makes {tuple(fake.shape[1:])}, the data has {tuple(image.shape[1:])}",
                            place="models.generator")  # fmt: skip
        real, made = self.discriminator(image), self.discriminator(fake)
        return Loss({"discriminator": self.game.discriminator(real, made)}, watch={"gap": (real - made).mean()})

    def _generator(self, z: Tensor) -> Loss:
        assert self.discriminator is not None
        fake = self.generator(z)
        unreal = softplus(-self.discriminator(fake)).reshape(len(z), -1).mean(1)  # -log D(x'), [B]
        if not self.confidence_weight:
            return Loss({"generator": unreal.mean()})
        t = self._ask(fake)
        sure = self.reply.confidence(t).to(unreal)  # [B]
        terms = {"generator": unreal.mean(), "confidence": self.confidence_weight * (sure * unreal).mean()}
        return Loss(terms, gather={"class": t.argmax(1)}, watch={"sure": sure.mean()})

    def _student(self, rows: int, now: Progress) -> Loss:
        z, t, fresh = self._question(rows, now)
        z = z.to(next(self.generator.parameters()).dtype)
        with torch.no_grad():
            image = self.generator(z)
        t = self._ask(image) if t is None else t
        s = self._said(image)
        terms = self._terms(s, t.to(s), z, now)
        told = {"class": t.argmax(1), "latent": z, "answer": t} if fresh else {}
        agreement = (s.argmax(1) == t.argmax(1)).float().mean()
        return Loss(terms, gather=told, watch={"spread": (t / self.kappa).std(), "agreement": agreement})

    def _question(self, rows: int, now: Progress) -> tuple[Tensor, Tensor | None, bool]:
        """Latents [B, C]; the answers to them, if they were asked before; whether they were not."""
        filled, batch = int(self.asked[1].sum()), now.rows.total if now.rows else rows
        if not self.pool or filled + batch <= self.pool:
            return now.randn(rows, self.classes), None, True
        drawn = now.randint(0, filled, rows)
        return self.latents[drawn], self.answers[drawn], False

    def _terms(self, s: Tensor, t: Tensor, z: Tensor, now: Progress) -> dict[str, Tensor]:
        terms = {}
        if self.image_weight:
            with torch.no_grad():
                wanted = self.generator((t / self.kappa).to(z))
            terms["image"] = self.image_weight * self.distance(self.generator((s / self.kappa).to(z)), wanted)
        if self.match_weight:
            tau = self.temperature(s, t, now)
            terms["match"] = self.match_weight * self.match(s, t, None, tau).mean()
        return terms

    def after(self, turn: str, stats: dict[str, Tensor], now: Progress) -> None:
        """Count the answers; keep them where there is a pool."""
        if "class" not in stats:
            return
        if turn == "student" and self.pool:
            at = int(self.asked[1].sum())
            for table, rows in ((self.latents, stats["latent"]), (self.answers, stats["answer"])):
                table[at : at + len(rows)] = rows.to(table)
        self.asked[int(turn == "student")] += torch.bincount(stats["class"], minlength=self.classes)

    def check(self, batch: Batch) -> None:
        """Also refuse a pool that no batch fits into."""
        super().check(batch)
        if 0 < self.pool < len(batch["index"]):
            raise UserError(f"a pool of {self.pool} is smaller than a batch of {len(batch['index'])}", place="pool")
