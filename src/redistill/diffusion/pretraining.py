"""Training a denoiser on data: where the beds' teachers come from, and the plain baseline beside distilled students."""

from __future__ import annotations

from torch import Tensor, nn

from redistill.core import Batch, Ema, Loss, Method, Progress
from redistill.diffusion.denoiser import Denoiser


class DenoiserTraining(Method):
    """Regress the network's own prediction kind on noised data; exports the moving average.

        L = E_{t ~ U(0,1), eps} | net(x_t, t, c) - target(x_0, eps, t) |^2

    ``drop``: share of rows whose class is replaced by ``null``, the class of guided sampling (Ho & Salimans 2022).
    """

    needs = ("image",)

    def __init__(self, student: Denoiser, *, decay: float = 0.999, drop: float = 0.1, null: int | None = None) -> None:
        super().__init__()
        self.student, self.average = student, Ema(student, decay)
        self.decay, self.drop, self.null = decay, drop, null

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """Mean over rows and pixels."""
        x0 = batch["image"]  # [B, C, H, W]
        eps, t = now.randn(len(x0), *x0.shape[1:]), now.rand(len(x0))
        x_t, path = self.student.path.add_noise(x0, eps, t), self.student.path
        output = self.student.predict(x_t, t, self._condition(batch, now))
        target = path.target(x0, eps, t, self.student.kind)  # not from x_t: t may be so near 0 that sigma(t) is 0
        return Loss({self.student.kind: (output - target).square().mean()})

    def _condition(self, batch: Batch, now: Progress) -> Tensor | None:
        label = batch.get("label")
        if label is None or self.null is None:
            return label
        return label.masked_fill(now.rand(len(label)) < self.drop, self.null)

    def after(self, turn: str, stats: dict[str, Tensor], now: Progress) -> None:
        """The moving average warms up: early on it forgets faster (Karras et al. 2022)."""
        self.average.update(self.student, min(self.decay, (1 + now.step) / (10 + now.step)))

    def export(self) -> nn.Module:
        """The averaged denoiser."""
        return self.average.net
