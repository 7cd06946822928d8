"""How far a student's distribution is from its teacher's: pure functions on logits and log-probabilities, and
plug-ins made of them.

Letters: p is the teacher, q the student, V the size of the vocabulary (or the number of classes). The pipeline is
``align_vocabulary -> log_probs -> top-k (optional) -> terms [..., V] -> clip (optional) -> sum over V -> reduce``;
:class:`Divergence` runs it, its subclasses say which terms. Logits in half precision are raised to float32 first.

- KL and total variation: Cover & Thomas, Elements of Information Theory.
- generalised Jensen-Shannon and its beta: Agarwal et al., GKD (arXiv:2306.13649), equation 1.
- sampled estimators k1, k2, k3: Schulman, "Approximating KL divergence" (2020).
- temperature and its T^2 factor: Hinton et al. (arXiv:1503.02531), section 2.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from redistill.core.errors import UserError, unknown
from redistill.core.slot import Slot
from redistill.core.types import Count, Positive, Share
from redistill.losses.precision import raised

Role = Literal["teacher", "student"]
Reduction = Literal["token_mean", "sequence_mean", "sum", "none"]


# ---------------------------------------------------------------------------------------------------- distributions


def align_vocabulary(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Cuts both logits [..., V] to the ids they share, the first min(V); says so once.

    Families of models pad one tokenizer to unequal sizes; the softmax is taken after the cut, so the rest has no mass.
    """
    sizes = student_logits.shape[-1], teacher_logits.shape[-1]
    if sizes[0] == sizes[1]:
        return student_logits, teacher_logits
    shared = min(sizes)
    said = f"student and teacher score {sizes[0]} and {sizes[1]} tokens; the first {shared} are used"
    warnings.warn(said, stacklevel=2)
    return student_logits[..., :shared], teacher_logits[..., :shared]


def log_probs(logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Log-softmax of ``logits / temperature`` over the last axis, at least in float32.

    A tensor ``temperature`` broadcasts against the logits: one per token is [..., 1].
    """
    return (raised(logits) / temperature).log_softmax(-1)


def top_k_renormalised(log_q: Tensor, log_p: Tensor, k: int, of: Role) -> tuple[Tensor, Tensor]:
    """Both distributions [..., k] on the k likeliest tokens ``of`` the teacher or the student, each renormalised
    there."""
    if k == log_p.shape[-1]:
        return log_q, log_p
    chosen = _top_k(log_q, log_p, k, of)
    return log_q.gather(-1, chosen).log_softmax(-1), log_p.gather(-1, chosen).log_softmax(-1)


def top_k_with_tail(log_q: Tensor, log_p: Tensor, k: int, of: Role) -> tuple[Tensor, Tensor]:
    """Both distributions [..., k + 1] on the k likeliest tokens ``of`` the teacher or the student and one bucket for
    the rest.

    Merging tokens can only lower an f-divergence, so this is a lower bound of the full one; exact for k >= V - 1.
    """
    if k == log_p.shape[-1]:
        return log_q, log_p
    chosen = _top_k(log_q, log_p, k, of)
    return _with_tail(log_q, chosen), _with_tail(log_p, chosen)


def _top_k(log_q: Tensor, log_p: Tensor, k: int, of: Role) -> Tensor:
    if not 1 <= k <= log_p.shape[-1]:
        raise UserError(f"{k} is not between 1 and the vocabulary of {log_p.shape[-1]}", place="top_k")
    if of not in ("teacher", "student"):
        raise unknown("owner", of, ("teacher", "student"), place="top_k_of")
    return (log_p if of == "teacher" else log_q).detach().topk(k, -1).indices  # [..., k]


def _with_tail(log_prob: Tensor, chosen: Tensor) -> Tensor:
    # the sum over the rest, not log(1 - sum over the chosen): no digits are left in that once the k hold all mass
    rest = log_prob.scatter(-1, chosen, -torch.inf)
    empty = (rest == -torch.inf).all(-1, keepdim=True)  # where logsumexp has no gradient
    tail = rest.masked_fill(empty, 0).logsumexp(-1, keepdim=True).masked_fill(empty, -torch.inf)
    return torch.cat([log_prob.gather(-1, chosen), tail], -1)


# --------------------------------------------------------------- terms whose sum over the last axis is the divergence


def forward_kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(p || q): p (log p - log q). Covers the teacher's modes; its gradient needs no sample of the student."""
    return _expect(log_p, log_q)


def reverse_kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(q || p): q (log q - log p). Seeks modes: punishes mass where the teacher has none."""
    return _expect(log_q, log_p)


def jsd(log_q: Tensor, log_p: Tensor, beta: float = 0.5) -> Tensor:
    """Generalised Jensen-Shannon: beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q.

    JSD_beta / beta tends to KL(p || q), the forward KL, as beta -> 0, and JSD_beta / (1 - beta) to KL(q || p), the
    reverse KL, as beta -> 1. At exactly 0 and 1, where the formula vanishes, it *is* that KL (the convention of GKD
    and TRL).
    """
    if beta in (0, 1):
        return forward_kl(log_q, log_p) if beta == 0 else reverse_kl(log_q, log_p)
    m = beta * log_p.exp() + (1 - beta) * log_q.exp()
    log_m = torch.where(m > 0, m, 1).log()  # where m = 0, p and q are 0 and their terms drop out
    return beta * _expect(log_p, log_m) + (1 - beta) * _expect(log_q, log_m)


def total_variation(log_q: Tensor, log_p: Tensor) -> Tensor:
    """Half the L1 distance, |p - q| / 2: the share of mass that would have to move."""
    return (log_p.exp() - log_q.exp()).abs() / 2


def _expect(log_a: Tensor, log_b: Tensor) -> Tensor:
    a = log_a.exp()
    return a * torch.where(a > 0, log_a - log_b, 0)  # 0 log 0 = 0, also for its gradient


# --------------------------------------------------------------------------------------------- one token per position


def k1(log_q: Tensor, log_p: Tensor) -> Tensor:
    """log q(y) - log p(y) at a token y drawn from q: an unbiased estimate of KL(q || p), to *look at*.

    Never differentiate it: its expected gradient is E_q[grad log q] = 0, whatever the teacher says.
    """
    return log_q - log_p


def k2(log_q: Tensor, log_p: Tensor) -> Tensor:
    """(log q(y) - log p(y))^2 / 2: biased as a value, its expected gradient is that of the reverse KL(q || p).

    The same gradient, sample for sample, as the policy-gradient loss ``-(log p - log q).detach() * log q``.
    """
    return (log_q - log_p).square() / 2


def k3(log_q: Tensor, log_p: Tensor) -> Tensor:
    """r - 1 - log r with r = p(y) / q(y): an unbiased, never negative estimate of KL(q || p).

    Differentiated, its expected gradient is that of the *forward* KL(p || q).
    """
    log_r = log_p - log_q
    return log_r.expm1() - log_r


# -------------------------------------------------------------------------------------------------------- reductions


def reduce(
    values: Tensor, mask: Tensor | None = None, weight: Tensor | None = None, how: Reduction = "token_mean"
) -> Tensor:
    """Per-token ``values`` [..., T] to one number: only where ``mask`` [..., T] holds, each token with its ``weight``
    [..., T].

    ``token_mean``: all tokens alike, whatever the length of their sequence. ``sequence_mean``: the mean of each
    sequence (last axis), then over the sequences that have a token. ``sum``; ``none``: the weighted values. Without
    any token: 0.
    """
    share = torch.ones_like(values) if weight is None else weight.to(values.dtype).expand_as(values)
    if mask is not None:
        share, values = share * mask, values.masked_fill(~mask.bool(), 0)  # masked: anything, also NaN
    if how == "none":
        return values * share
    if how == "sum":
        return (values * share).sum()
    if how == "token_mean":
        return _ratio((values * share).sum(), share.sum())
    if how == "sequence_mean":
        length = share.sum(-1)  # [...]
        return _ratio(_ratio((values * share).sum(-1), length).sum(), (length > 0).sum())
    raise unknown("reduction", how, ("token_mean", "sequence_mean", "sum", "none"), place="how")


def _ratio(total: Tensor, count: Tensor) -> Tensor:
    return total / torch.where(count > 0, count, 1)


# ------------------------------------------------------------------------------------------------ classification losses


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """logsumexp(z) - <t, z>, mean over the rows: the cross-entropy with the soft ``target`` t [..., V] that sums to 1.

    Entries of t may be negative or above 1, as for ``xi p + (1 - xi) onehot`` with any real xi: the loss stays convex
    in the logits z [..., V] and its gradient is softmax(z) - t. Not divided by V.
    """
    return (logits.logsumexp(-1) - (target * logits).sum(-1)).mean()


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0) -> Tensor:
    """Hinton's T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over the rows; logits [..., V]."""
    log_q, log_p = log_probs(student_logits, temperature), log_probs(teacher_logits, temperature)
    return temperature**2 * forward_kl(log_q, log_p).sum(-1).mean()


# ------------------------------------------------------------------------------------------------------------ plug-ins


@dataclass(kw_only=True, eq=False)
class Divergence(Slot, ABC):
    """Per-token divergence of student logits [..., V] from teacher logits [..., V']; returns [...] values, 0 where
    masked.

    ``t_squared``: so that the gradient's size does not depend on the temperature. ``clip``: so that a few style tokens
    do not dominate (OPSD).
    """

    temperature: Positive = 1.0  # divides the student's logits
    teacher_temperature: Positive | None = None  # and the teacher's; the same one if left out
    t_squared: bool = False  # multiply by temperature^2
    top_k: Count | None = None  # keep so many of the likeliest tokens
    top_k_of: Role = "teacher"  # whose likeliest
    tail: bool = False  # put the others into one bucket instead of renormalising
    clip: Positive | None = None  # cap every summand over V from above

    @property
    def temperatures(self) -> tuple[float, float]:
        """Of the student and of the teacher."""
        return self.temperature, self.teacher_temperature or self.temperature

    @abstractmethod
    def terms(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        """The summands [..., V] from the student's and the teacher's log-probabilities [..., V]."""

    def __call__(self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """The divergence at each position [...]; positions where ``mask`` [...] is false are left out before the
        softmax."""
        if student_logits.shape[:-1] != teacher_logits.shape[:-1]:
            shapes = f"student {tuple(student_logits.shape)}, teacher {tuple(teacher_logits.shape)}"
            raise UserError(f"logits must agree in all axes but the last; {shapes}", place="divergence")
        if mask is None:
            return self._values(student_logits, teacher_logits)
        keep = mask.bool()
        kept = self._values(student_logits[keep], teacher_logits[keep])
        return kept.new_zeros(keep.shape).masked_scatter(keep, kept)

    def _values(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        student_logits, teacher_logits = align_vocabulary(student_logits, teacher_logits)
        log_q, log_p = (log_probs(z, t) for z, t in zip((student_logits, teacher_logits), self.temperatures))
        if self.top_k is not None:
            log_q, log_p = self._support()(log_q, log_p, self.top_k, self.top_k_of)
        terms = self.terms(log_q, log_p)
        if self.clip is not None:
            terms = terms.clamp(max=self.clip)
        return terms.sum(-1) * (self.temperature**2 if self.t_squared else 1)

    def _support(self) -> Callable[[Tensor, Tensor, int, Role], tuple[Tensor, Tensor]]:
        return top_k_with_tail if self.tail else top_k_renormalised


class ForwardKL(Divergence):
    """KL(teacher || student): covers all that the teacher does."""

    def terms(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        return forward_kl(log_q, log_p)


class ReverseKL(Divergence):
    """KL(student || teacher): seeks the teacher's modes."""

    def terms(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        return reverse_kl(log_q, log_p)


@dataclass(kw_only=True, eq=False)
class JSD(Divergence):
    """Generalised Jensen-Shannon; ``beta`` 0 is the forward KL, 1 the reverse KL (see :func:`jsd` for the limits)."""

    beta: Share = 0.5  # share of the teacher in the mixture

    def terms(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        return jsd(log_q, log_p, self.beta)


class TotalVariation(Divergence):
    """Half the L1 distance, between 0 and 1: bounded, so outliers cannot dominate."""

    def terms(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        return total_variation(log_q, log_p)
