"""How a classifier's logits are matched to a teacher's. Rivals differ by a line or two; each gives one number a row.

Throughout: z_S, z_T [B, C] logits of student and teacher, y [B] labels, tau a temperature (a number, or [B, 1]).
"""

from __future__ import annotations

import torch
from torch import Tensor

from redistill.core import Slot, UserError
from redistill.core.types import NonNegative
from redistill.losses.divergences import forward_kl, jsd, log_probs, reverse_kl

Tau = Tensor | float


class Match(Slot):
    """Distance [B] of the student's logits [B, C] from the teacher's. The teacher's carry no gradient; ``tau`` may."""

    needs_label = False

    def __call__(self, student: Tensor, teacher: Tensor, label: Tensor | None, tau: Tau) -> Tensor:
        raise NotImplementedError


class Kd(Match):
    """tau^2 KL(softmax(z_T / tau) || softmax(z_S / tau)) (Hinton, Vinyals and Dean 2015)."""

    def __call__(self, student: Tensor, teacher: Tensor, label: Tensor | None, tau: Tau) -> Tensor:
        return _squared(tau) * forward_kl(log_probs(student, tau), log_probs(teacher, tau)).sum(-1)


class Dkd(Match):
    """tau^2 (alpha KL of target against the rest + beta KL within the rest) (Zhao et al. 2022).

    With alpha = 1 and beta = 1 - softmax(z_T / tau)_y for each row this is :class:`Kd`.
    """

    needs_label = True

    def __init__(
        self,
        alpha: NonNegative = 1.0,  # weight of the target against the rest
        beta: NonNegative = 8.0,  # weight within the rest
    ) -> None:
        self.alpha, self.beta = alpha, beta

    def __call__(self, student: Tensor, teacher: Tensor, label: Tensor | None, tau: Tau) -> Tensor:
        target, rest = decoupled(student, teacher, label, tau)
        return _squared(tau) * (self.alpha * target + self.beta * rest)


def decoupled(student: Tensor, teacher: Tensor, label: Tensor | None, tau: Tau) -> tuple[Tensor, Tensor]:
    """KL [B] between (p_y, 1 - p_y) of both, and KL [B] between what both say once the target is left out."""
    assert label is not None, "the decoupled loss needs labels"
    log_q, log_p = log_probs(student, tau), log_probs(teacher, tau)  # [B, C]
    binary = forward_kl(_target_or_rest(log_q, label), _target_or_rest(log_p, label)).sum(-1)
    within = forward_kl(_without(log_q, label).log_softmax(-1), _without(log_p, label).log_softmax(-1)).sum(-1)
    return binary, within


def _target_or_rest(log_prob: Tensor, label: Tensor) -> Tensor:
    target = log_prob.gather(-1, label[:, None])  # [B, 1]
    return torch.cat([target, _without(log_prob, label).logsumexp(-1, keepdim=True)], -1)  # [B, 2]


def _without(log_prob: Tensor, label: Tensor) -> Tensor:
    """All classes but the target, [B, C - 1]; no masking with large numbers."""
    keep = torch.ones_like(log_prob, dtype=torch.bool).scatter(-1, label[:, None], False)
    return log_prob[keep].unflatten(0, (len(label), -1))


class Dist(Match):
    """tau^2 (beta (1 - correlation along classes) + gamma (1 - correlation along rows)) (Huang et al. 2022).

    The second part relates the rows of a micro-batch to each other, so it depends on how a batch is cut.
    """

    def __init__(
        self,
        beta: NonNegative = 1.0,  # weight along classes
        gamma: NonNegative = 1.0,  # weight along rows
    ) -> None:
        self.beta, self.gamma = beta, gamma

    def __call__(self, student: Tensor, teacher: Tensor, label: Tensor | None, tau: Tau) -> Tensor:
        q, p = log_probs(student, tau).exp(), log_probs(teacher, tau).exp()  # [B, C]
        inter, intra = 1 - pearson(q, p), (1 - pearson(q.T, p.T)).mean()  # [B], a scalar
        return _squared(tau) * (self.beta * inter + self.gamma * intra)


def pearson(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    """Correlation of a and b [..., N] along the last axis; 0, also its gradient, where one of them is constant up to
    ``eps`` of its length."""
    centred = [x - x.mean(-1, keepdim=True) for x in (a, b)]
    (s, t), (least_s, least_t) = ([x.norm(dim=-1) for x in both] for both in (centred, (eps * a, eps * b)))
    varies = (s > least_s) & (t > least_t)
    return torch.where(varies, (centred[0] * centred[1]).sum(-1) / torch.where(varies, s * t, 1), 0)


class LogitMse(Match):
    """Mean over the classes of (z_S - z_T)^2 (Ba and Caruana 2014); no temperature."""

    def __call__(self, student: Tensor, teacher: Tensor, label: Tensor | None, tau: Tau) -> Tensor:
        return (student - teacher).square().mean(-1)


class ProbabilityMse(Match):
    """Mean over the classes of the squared difference of the probabilities."""

    def __call__(self, student: Tensor, teacher: Tensor, label: Tensor | None, tau: Tau) -> Tensor:
        return (log_probs(student, tau).exp() - log_probs(teacher, tau).exp()).square().mean(-1)


class JensenShannon(Match):
    """KL(p || m) / 2 + KL(q || m) / 2 with m = (p + q) / 2: symmetric, at most log 2."""

    def __call__(self, student: Tensor, teacher: Tensor, label: Tensor | None, tau: Tau) -> Tensor:
        return jsd(log_probs(student, tau), log_probs(teacher, tau)).sum(-1)


class Jeffreys(Match):
    """(KL(p || q) + KL(q || p)) / 2: symmetric, unbounded."""

    def __call__(self, student: Tensor, teacher: Tensor, label: Tensor | None, tau: Tau) -> Tensor:
        log_q, log_p = log_probs(student, tau), log_probs(teacher, tau)
        return 0.5 * (forward_kl(log_q, log_p) + reverse_kl(log_q, log_p)).sum(-1)


class SoftCrossEntropy(Match):
    """-sum_c softmax(z_T / tau)_c log softmax(z_S / tau)_c: KL plus the teacher's entropy; no tau^2."""

    def __call__(self, student: Tensor, teacher: Tensor, label: Tensor | None, tau: Tau) -> Tensor:
        return -(log_probs(teacher, tau).exp() * log_probs(student, tau)).sum(-1)


class TeacherLabel(Match):
    """Cross-entropy with the teacher's most probable class."""

    def __call__(self, student: Tensor, teacher: Tensor, label: Tensor | None, tau: Tau) -> Tensor:
        return torch.nn.functional.cross_entropy(student, teacher.argmax(-1), reduction="none")


def _squared(tau: Tau) -> Tau:
    if not isinstance(tau, Tensor):
        return tau**2
    if tau.ndim == 2 and tau.shape[-1] != 1:
        raise UserError(
            f"a temperature of shape {tuple(tau.shape)}; give one number a row, [B, 1]", place="temperature"
        )
    return tau.square().squeeze(-1) if tau.ndim == 2 else tau.square()
