"""Attacks on a classifier: the worst picture near a clean one, the worst weights near the trained ones.

Pictures have pixels in [0, 1], so whatever normalises them belongs into the network; a ball is all pictures whose
pixels differ by at most ``eps``. The network is in evaluation mode while it is attacked, and its buffers and gradients
stay as they were.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from redistill.core import Progress, Slot, UserError
from redistill.core.modes import evaluating
from redistill.core.types import CountOrZero, NonNegative
from redistill.core.world import is_sharded
from redistill.losses.divergences import forward_kl, log_probs
from redistill.supervised.classifier import soft_cross_entropy

Network = Callable[[Tensor], Tensor]


class Attack(Slot):
    """Makes a hard copy of every picture, and says what the student learns from both."""

    def __init__(
        self,
        eps: NonNegative = 8 / 255,  # how far a pixel may move
        step: NonNegative = 2 / 255,  # and how far in a step
        steps: CountOrZero = 10,
    ) -> None:
        self.eps, self.step, self.steps = eps, step, steps

    def __call__(self, student: nn.Module, image: Tensor, target: Tensor, now: Progress) -> Tensor:
        """Pictures [B, ...] in the balls around ``image`` on which the student does badly; ``target`` [B, C] soft
        labels."""
        raise NotImplementedError

    def terms(self, student: Network, image: Tensor, hard: Tensor, target: Tensor) -> dict[str, Tensor]:
        """What the student minimises, given the ``hard`` copies."""
        raise NotImplementedError


class Pgd(Attack):
    """Projected gradient ascent on the cross-entropy with the target, which the student then minimises on the hard
    copy alone (Madry et al. 2018)."""

    def __call__(self, student: nn.Module, image: Tensor, target: Tensor, now: Progress) -> Tensor:
        start = image + self.eps * (2 * now.rand(*image.shape).to(image) - 1)
        with evaluating(student):
            return ascend(lambda x: soft_cross_entropy(log_probs(student(x)), target), start, image, self)

    def terms(self, student: Network, image: Tensor, hard: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"adversarial": soft_cross_entropy(log_probs(student(hard)), target).mean()}


class Trades(Attack):
    """The hard copy is where the student contradicts itself most, KL(p(x) || p(x')); the target is for the clean
    picture, and ``beta`` times the contradiction is minimised beside it (Zhang et al. 2019). No label in the attack."""

    def __init__(
        self,
        eps: NonNegative = 8 / 255,  # how far a pixel may move
        step: NonNegative = 2 / 255,  # and how far in a step
        steps: CountOrZero = 10,
        beta: NonNegative = 6.0,  # weight of the contradiction
        noise: NonNegative = 1e-3,  # of the start
    ) -> None:
        super().__init__(eps, step, steps)
        self.beta, self.noise = beta, noise

    def __call__(self, student: nn.Module, image: Tensor, target: Tensor, now: Progress) -> Tensor:
        start = image + self.noise * now.randn(*image.shape).to(image)
        with evaluating(student):
            with torch.no_grad():
                log_p = log_probs(student(image))
            return ascend(lambda x: forward_kl(log_probs(student(x)), log_p).sum(-1), start, image, self)

    def terms(self, student: Network, image: Tensor, hard: Tensor, target: Tensor) -> dict[str, Tensor]:
        clean, moved = log_probs(student(torch.cat([image, hard]))).chunk(2)  # one forward pass; both carry gradient
        return {
            "clean": soft_cross_entropy(clean, target).mean(),
            "robust": self.beta * forward_kl(moved, clean).sum(-1).mean(),
        }


def ascend(loss: Callable[[Tensor], Tensor], start: Tensor, image: Tensor, attack: Attack) -> Tensor:
    """``attack.steps`` steps of the gradient's sign uphill on ``loss`` [B] from ``start``, within the ball around
    ``image`` and within [0, 1]."""
    low, high = (image - attack.eps).clamp(0, 1), (image + attack.eps).clamp(0, 1)
    x = start.detach().clamp(low, high)
    for _ in range(attack.steps):
        with torch.enable_grad():
            x.requires_grad_(True)
            (slope,) = torch.autograd.grad(loss(x).sum(), x)
        x = (x.detach() + attack.step * slope.sign()).clamp(low, high)
    return x.detach()


def sharpened(student: nn.Module, loss: Tensor, rho: float) -> Network:
    """The student with each of its weights (matrices, biases, scales) moved uphill on ``loss`` by ``rho`` times its own
    length (after Wu, Xia and Wang 2020, who move matrices alone). Gradients reach the weights as they are, taken where
    they were moved to; buffers are not written.

    Raises :class:`UserError` for sharded weights, whose lengths no single rank knows.
    """
    named = {name: p for name, p in student.named_parameters() if p.requires_grad}
    if is_sharded(list(named.values())):
        raise UserError("the weight perturbation needs whole weights; write parallel: replicate", place="options.rho")
    slopes = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    moved = {
        name: p + rho * p.detach().norm() / slope.norm().clamp_min(1e-12) * slope
        for (name, p), slope in zip(named.items(), slopes)
        if slope is not None
    }
    buffers = {name: b.clone() for name, b in student.named_buffers()}
    return lambda x: functional_call(student, {**moved, **buffers}, (x,))


def survivors(
    network: nn.Module, image: Tensor, label: Tensor, attack: Attack, *, restarts: int = 1, seed: int = 0
) -> Tensor:
    """Rows [N] that are classified rightly as they are and after each of ``restarts`` attacks on the label."""
    target = nn.functional.one_hot(label, int(network(image[:1]).shape[-1])).float()
    with evaluating(network):
        alive = right(network, image, label)
        for restart in range(restarts):
            now = Progress(seed=seed, step=restart, device=image.device)
            alive &= right(network, attack(network, image, target, now), label)
    return alive


@torch.no_grad()
def right(network: nn.Module, image: Tensor, label: Tensor) -> Tensor:
    """Rows [N] whose most probable class is the label."""
    return network(image).argmax(1) == label


@torch.no_grad()
def square_search(
    network: nn.Module, image: Tensor, label: Tensor, eps: float, *, queries: int = 200, seed: int = 0
) -> Tensor:
    """Pictures after a random search that sees no gradient: squares of pixels go to an end of the ball, and stay there
    where the label's margin falls (after Andriushchenko et al. 2020). The squares shrink from a third of the side."""
    generator = torch.Generator().manual_seed(seed)
    low, high = (image - eps).clamp(0, 1), (image + eps).clamp(0, 1)
    stripes = torch.rand(len(image), image.shape[1], 1, image.shape[3], generator=generator) < 0.5
    x = torch.where(stripes, low, high)
    best = _margin(network(x), label)
    for query in range(queries):
        side = max(1, round(image.shape[-1] / 3 * (1 - query / queries)))
        top, left = (int(torch.randint(n - side + 1, (), generator=generator)) for n in image.shape[-2:])
        up = torch.rand(len(image), image.shape[1], 1, 1, generator=generator) < 0.5
        tried, here = x.clone(), (..., slice(top, top + side), slice(left, left + side))
        tried[here] = torch.where(up, high[here], low[here])
        margin = _margin(network(tried), label)
        better = margin < best
        x[better], best = tried[better], torch.minimum(margin, best)
    return x


def _margin(logits: Tensor, label: Tensor) -> Tensor:
    """Score of the label minus the best other score [N]."""
    own = logits.gather(1, label[:, None])
    return (own - logits.scatter(1, label[:, None], -torch.inf).amax(1, keepdim=True))[:, 0]
