"""The divergences of :mod:`redistill.losses.divergences` from hidden states and heads, without the logits [B, T, V].

Masked positions are dropped first, the rest goes in chunks of tokens, and the gradient, which has a closed form, is
taken while a chunk's logits are there; the backward pass only hands it out. What remains is the floor: one matrix
product for the teacher's logits, three for the student (logits, gradient of its hidden states, gradient of its head),
and one chunk of memory.

With log q = log_softmax(z), any divergence D = sum_v f(log q_v, log p_v) has the slope dD/dz = f' - q sum_v f':

    forward KL         q - p
    reverse KL         q (log q - log p - KL(q || p))
    JSD_beta           (1 - beta) q (log q - log m - KL(q || m))
    total variation    q (s - <q, s>),  s = sign(q - p) / 2
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.linalg import vecdot

from redistill.core.errors import UserError, unknown
from redistill.losses.divergences import JSD, Divergence, ForwardKL, ReverseKL, TotalVariation

_CHUNK = {"cpu": 2**24, "other": 2**27}  # logits of one network at a time: 64 MB of float32 on a CPU, 512 MB elsewhere
_BLOCK = 2**18  # logits per pass on a CPU: 1 MB stays in its cache between one pass and the next
_TOKENS = 128  # tokens a chunk at most on a CPU: more rows make the products no faster and the chunk leave its cache


class Head(NamedTuple):
    """The last layer of a language model: logits z = h W^T + b, or with a ``softcap`` c (Gemma 2) c tanh(z / c)."""

    weight: Tensor  # [V, H]
    bias: Tensor | None = None  # [V]
    softcap: float | None = None

    @classmethod
    def of(cls, linear: nn.Linear, softcap: float | None = None) -> Head:
        """The head in a ``Linear``."""
        return cls(linear.weight, linear.bias, softcap)

    def map(self, change: Callable[[Tensor], Tensor]) -> Head:
        """The head with its tensors changed."""
        return Head(change(self.weight), None if self.bias is None else change(self.bias), self.softcap)


def fused_divergence(
    student_hidden: Tensor,
    student_head: Head,
    teacher_hidden: Tensor,
    teacher_head: Head,
    *,
    divergence: Divergence | None = None,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    how: Literal["token_mean", "sum"] = "token_mean",
    chunk: int | None = None,
) -> Tensor:
    """``reduce(divergence(student logits, teacher logits), mask, weight, how)`` from hidden states [..., H], a scalar.

    - ``divergence`` (default :class:`ForwardKL`) takes the whole vocabulary: no ``top_k``, no ``clip``.
    - ``mask`` and ``weight`` are [...]; ``chunk`` is the number of tokens at a time (default: by memory).
    - The hidden sizes may differ; vocabularies of unequal size share their prefix.
    - A gradient reaches the student's hidden states and, where they require one, its weight and bias (also when tied to
      the embedding), never the teacher.
    - Under autocast the products run in its dtype, the softmax always in float32 or better.
    - Logits must be finite: for a bias of -inf use the plain form.
    """
    divergence = divergence or ForwardKL()
    slope = _slope_of(divergence)
    hidden, teacher = student_hidden.flatten(0, -2), teacher_hidden.flatten(0, -2).detach()  # [N, Hs], [N, Ht]
    share = _shares(hidden, teacher, mask, weight, how)
    kept = share.nonzero().squeeze(1)  # [n]
    _check(hidden, student_head, "student")
    _check(teacher, teacher_head, "teacher")
    student_head, teacher_head = _shared_prefix(student_head, teacher_head.map(Tensor.detach))
    kernel = _Kernel(slope, divergence, student_head.softcap, teacher_head, teacher[kept], share[kept])
    rows = chunk or _chunk(student_head.weight)
    return kernel.loss(hidden.index_select(0, kept), student_head, rows)


# ------------------------------------------------------------------------------------------------------------- slopes
# Each takes log q and log p [r, V] (which it may overwrite), writes dD/dz into ``out`` [r, V] and returns D [r].


def _forward_kl(log_q: Tensor, log_p: Tensor, out: Tensor) -> Tensor:
    p = log_p.exp()
    value = vecdot(p, log_p.sub_(log_q))
    torch.sub(log_q.exp_(), p, out=out)
    return value


def _reverse_kl(log_q: Tensor, log_p: Tensor, out: Tensor) -> Tensor:
    q = log_q.exp()
    gap = log_q.sub_(log_p)
    value = vecdot(q, gap)
    torch.mul(gap.sub_(value[:, None]), q, out=out)
    return value


def _jsd(log_q: Tensor, log_p: Tensor, out: Tensor, beta: float) -> Tensor:
    q, p = log_q.exp(), log_p.exp()
    m = torch.lerp(q, p, beta)
    log_m = m.clamp_(min=torch.finfo(m.dtype).tiny).log_()  # where both underflow, the factors p and q below are 0
    value = vecdot(p, log_p.sub_(log_m))  # KL(p || m)
    gap = log_q.sub_(log_m)
    to_student = vecdot(q, gap)  # KL(q || m)
    torch.mul(gap.sub_(to_student[:, None]), q.mul_(1 - beta), out=out)
    return value.mul_(beta).add_(to_student, alpha=1 - beta)


def _total_variation(log_q: Tensor, log_p: Tensor, out: Tensor) -> Tensor:
    q = log_q.exp_()
    gap = torch.sub(q, log_p.exp_(), out=log_p)
    value = gap.abs().sum(-1) / 2
    side = gap.sign_().div_(2)
    torch.mul(side.sub_(vecdot(q, side)[:, None]), q, out=out)
    return value


Slope = Callable[[Tensor, Tensor, Tensor], Tensor]


def _slope_of(divergence: Divergence) -> Slope:
    for option in ("top_k", "clip"):
        if getattr(divergence, option) is not None:
            raise UserError(
                "the fused form takes the whole vocabulary as it is; use the plain divergence", place=option
            )
    if isinstance(divergence, JSD):
        ends: dict[float, Slope] = {0: _forward_kl, 1: _reverse_kl}
        return ends.get(divergence.beta) or partial(_jsd, beta=divergence.beta)
    slopes: dict[type, Slope] = {ForwardKL: _forward_kl, ReverseKL: _reverse_kl, TotalVariation: _total_variation}
    if type(divergence) not in slopes:
        raise unknown("fused divergence", type(divergence).__name__, [*(c.__name__ for c in slopes), "JSD"])
    return slopes[type(divergence)]


# ------------------------------------------------------------------------------------------------------------- kernel


@dataclass(frozen=True)
class _Kernel:
    """All but the student's tensors: they alone are seen by autograd."""

    slope: Slope
    divergence: Divergence
    softcap: float | None  # the student's
    teacher_head: Head
    teacher: Tensor  # [n, Ht]
    share: Tensor  # [n]

    def loss(self, hidden: Tensor, head: Head, rows: int) -> Tensor:
        """Casts all to the dtype of the products and starts the autograd function."""
        dtype = _product_dtype(hidden, head.weight)
        head, teacher_head = (h.map(lambda x: x.to(dtype)) for h in (head, self.teacher_head))
        # float16 cannot hold the share of one among many tokens: shares up to 1 there, the rest behind the products
        unit = self.share.abs().max() if dtype == torch.float16 and len(hidden) else 1.0
        share = self.share / unit
        kernel = replace(self, teacher=self.teacher.to(dtype), teacher_head=teacher_head, share=share)
        record = torch.is_grad_enabled()
        with torch.autocast(hidden.device.type, enabled=False):
            args = hidden.to(dtype), head.weight, head.bias, kernel, rows, record
            return unit * cast(Tensor, _GradientInForward.apply(*args))

    def chunks(self, hidden: Tensor, head: Head, rows: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """For each chunk of tokens: where it is, its values [c], and its slopes dD/d(logits * temperature) [c, V]."""
        size = min(rows, len(hidden)), len(head.weight)
        space = torch.promote_types(hidden.dtype, torch.float32)
        student, teacher = (hidden.new_empty(size, dtype=space) for _ in range(2))
        for first in range(0, len(hidden), rows):
            part = slice(first, min(first + rows, len(hidden)))
            n, (hot, hot_teacher) = part.stop - first, self.divergence.temperatures
            z = _logits(hidden[part], head, hot, student[:n])
            z_teacher = _logits(self.teacher[part], self.teacher_head, hot_teacher, teacher[:n])
            yield part, self._slopes(z, z_teacher), z

    def _slopes(self, z: Tensor, z_teacher: Tensor) -> Tensor:
        """The values [c]; ``z`` [c, V] becomes its slopes, a few rows at a time so that all passes hit the cache."""
        step = max(1, _BLOCK // z.shape[-1]) if z.device.type == "cpu" else len(z)
        caps = self.softcap, self.teacher_head.softcap
        values = []
        for block, block_teacher in zip(z.split(step), z_teacher.split(step)):
            both = zip((block, block_teacher), caps, self.divergence.temperatures)
            log_q, log_p = ((x if cap is None else x * (cap / hot)).log_softmax(-1) for x, cap, hot in both)
            bend = None if self.softcap is None else 1 - block.square()  # d tanh
            values.append(self.slope(log_q, log_p, block))
            if bend is not None:
                block.mul_(bend)
        return torch.cat(values)


def _logits(hidden: Tensor, head: Head, temperature: float, out: Tensor) -> Tensor:
    """``out`` [c, V]: the logits / temperature, or with a soft-cap the tanh that softcap / temperature multiplies."""
    scale = 1 / (temperature if head.softcap is None else head.softcap)
    start, beta = (out, 0.0) if head.bias is None else (head.bias, scale)
    if hidden.dtype == out.dtype:
        torch.addmm(start, hidden, head.weight.t(), beta=beta, alpha=scale, out=out)
    else:
        out.copy_(hidden @ head.weight.t()).mul_(scale)
        if head.bias is not None:
            out.add_(head.bias, alpha=scale)
    return out if head.softcap is None else out.tanh_()


class _GradientInForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, kernel: _Kernel, rows: int, record: bool
    ) -> Tensor:
        start = torch.empty_like if len(hidden) else torch.zeros_like  # the first chunk writes, the others add
        into = [
            start(x, dtype=torch.promote_types(x.dtype, torch.float32)) if record and needed else None
            for x, needed in zip((hidden, weight, bias), ctx.needs_input_grad)
            if x is not None
        ]
        hot, factor = kernel.divergence.temperature, _factor(kernel.divergence)
        values = torch.empty_like(kernel.share)
        for part, value, slope in kernel.chunks(hidden, Head(weight, bias, kernel.softcap), rows):
            values[part] = value
            _accumulate(into, part, slope, hidden[part], weight, kernel.share[part] * (factor / hot))
        # float16 has no range for gradients before a loss scale: autograd casts them once they are scaled
        kept = torch.float32 if hidden.dtype == torch.float16 else hidden.dtype
        ctx.save_for_backward(*(None if g is None else g.to(kept) for g in into))
        return kernel.share @ values * factor

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        # handed out as they are where nothing was done to the loss: no second copy of the head's gradient
        whole = upstream.item() == 1
        grads = [g if g is None or whole else g * upstream.to(g.dtype) for g in ctx.saved_tensors]
        return (*grads, *[None] * (6 - len(grads)))


def _accumulate(
    into: list[Tensor | None], part: slice, slope: Tensor, hidden: Tensor, weight: Tensor, share: Tensor
) -> None:
    """Adds a chunk to the gradients of hidden states [n, H], weight [V, H] and bias [V] that are wanted."""
    of_hidden, of_weight, of_bias = [*into, None][:3]
    product, kept = slope.to(hidden.dtype), float(part.start > 0)
    if of_hidden is not None:
        of_hidden[part] = (product @ weight).to(of_hidden.dtype).mul_(share[:, None])
    if of_bias is not None:
        of_bias.addmv_(slope.t(), share, beta=kept)
    if of_weight is not None:
        shared = (hidden * share[:, None]).to(hidden.dtype)
        if product.dtype == of_weight.dtype:
            of_weight.addmm_(product.t(), shared, beta=kept)
        else:  # half precision: sums over chunks in float32
            (of_weight.add_ if kept else of_weight.copy_)(product.t() @ shared)


# ------------------------------------------------------------------------------------------------------------ details


def _factor(divergence: Divergence) -> float:
    return divergence.temperature**2 if divergence.t_squared else 1.0


def _shares(hidden: Tensor, teacher: Tensor, mask: Tensor | None, weight: Tensor | None, how: str) -> Tensor:
    """How much each token [N] counts; masked ones 0."""
    if len(hidden) != len(teacher):
        raise UserError(f"student has {len(hidden)} positions, teacher {len(teacher)}", place="hidden states")
    if how not in ("token_mean", "sum"):
        raise unknown("reduction", how, ("token_mean", "sum"), place="how")
    if weight is not None and weight.requires_grad:
        raise UserError("gets no gradient here; detach it, or use the plain divergence", place="weight")
    share = torch.ones(len(hidden), device=hidden.device, dtype=torch.promote_types(hidden.dtype, torch.float32))
    for name, given in (("mask", mask), ("weight", weight)):
        if given is None:
            continue
        if given.numel() != len(hidden):
            raise UserError(f"{tuple(given.shape)} does not fit {len(hidden)} positions", place=name)
        share = share * given.reshape(-1)
    total = share.sum()
    return share if how == "sum" else share / torch.where(total > 0, total, 1)


def _check(hidden: Tensor, head: Head, role: str) -> None:
    if not isinstance(head, Head):
        raise UserError(f"expected a Head, got a {type(head).__name__}; give Head.of(layer)", place=f"{role}_head")
    if head.weight.shape[-1] != hidden.shape[-1]:
        sizes = f"weight is {tuple(head.weight.shape)}, its hidden states have {hidden.shape[-1]} features"
        raise UserError(sizes, place=f"{role}_head")


def _shared_prefix(student: Head, teacher: Head) -> tuple[Head, Head]:
    sizes = len(student.weight), len(teacher.weight)
    if sizes[0] == sizes[1]:
        return student, teacher
    shared = min(sizes)
    warnings.warn(
        f"student and teacher score {sizes[0]} and {sizes[1]} tokens; the first {shared} are used", stacklevel=3
    )
    return student.map(lambda x: x[:shared]), teacher.map(lambda x: x[:shared])


def _chunk(weight: Tensor) -> int:
    if weight.device.type == "cpu":
        return max(1, min(_TOKENS, _CHUNK["cpu"] // len(weight)))
    return max(1, _CHUNK["other"] // len(weight))


def _product_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """Autocast's dtype where it is on, else the wider one; float32 on a CPU without bfloat16 units (6 times faster)."""
    kind = hidden.device.type
    dtype = torch.promote_types(hidden.dtype, weight.dtype)
    if torch.is_autocast_enabled(kind) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
    if kind == "cpu" and dtype.itemsize < 4 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.float32
    return dtype
