"""The fused divergence against the plain one on full logits: values, gradients, dtypes, what it never builds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from redistill.core.errors import UserError
from redistill.losses.divergences import JSD, Divergence, ForwardKL, ReverseKL, TotalVariation, reduce
from redistill.losses.fused import Head, fused_divergence

Caps = tuple[float | None, float | None]
KINDS = [ForwardKL(), ReverseKL(), JSD(beta=0.5), JSD(beta=0.1), JSD(beta=0), JSD(beta=1), TotalVariation()]
SMOOTH = [kind for kind in KINDS if not isinstance(kind, TotalVariation)]


def name(value: Any) -> str | None:
    return f"{type(value).__name__}{value.arguments}" if isinstance(value, Divergence) else None


def problem(
    n: int = 7, v: int = 13, hs: int = 5, ht: int = 3, *, bias: bool = True, caps: Caps = (None, None),
    dtype: torch.dtype = torch.float64, seed: int = 0, scale: float = 1.5, v_teacher: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return (scale * torch.randn(*shape, generator=random, dtype=torch.float64)).to(dtype)

    def head(v: int, h: int, cap: float | None) -> Head:
        return Head(draw(v, h), draw(v) if bias else None, cap)

    student, teacher = head(v, hs, caps[0]), head(v_teacher or v, ht, caps[1])
    return {
        "student_hidden": draw(n, hs),
        "student_head": student,
        "teacher_hidden": draw(n, ht),
        "teacher_head": teacher,
    }


def cast_all(p: dict[str, Any], to: Any) -> dict[str, Any]:
    return {key: value.map(to) if isinstance(value, Head) else to(value) for key, value in p.items()}


def logits(hidden: Tensor, head: Head) -> Tensor:
    z = hidden @ head.weight.T + (0 if head.bias is None else head.bias)
    return z if head.softcap is None else head.softcap * (z / head.softcap).tanh()


def plain(
    p: dict[str, Any],
    divergence: Divergence,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    how: Any = "token_mean",
):
    student = logits(p["student_hidden"], p["student_head"])
    teacher = logits(p["teacher_hidden"], p["teacher_head"]).detach()
    return reduce(divergence(student, teacher, mask), mask, weight, how)


def learners(p: dict[str, Any]) -> list[Tensor]:
    """The student's tensors, now requiring a gradient."""
    tensors = [p["student_hidden"], p["student_head"].weight, p["student_head"].bias]
    return [x.requires_grad_() for x in tensors if x is not None]


def agree(
    p: dict[str, Any], divergence: Divergence, tolerance: float = 1e-10, *, chunk: int | None = 3, **options: Any
) -> None:
    """Same value and same gradients, also behind a factor on the loss."""
    of = learners(p)
    slow, fast = plain(p, divergence, **options), fused_divergence(**p, divergence=divergence, chunk=chunk, **options)
    torch.testing.assert_close(fast, slow, rtol=tolerance, atol=tolerance)
    for a, b in zip(torch.autograd.grad(-3 * fast, of), torch.autograd.grad(-3 * slow, of)):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("divergence", KINDS, ids=name)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("caps", [(None, None), (2.0, None), (None, 3.0), (2.0, 3.0)])
def test_equals_the_plain_form(divergence: Divergence, bias: bool, caps: Caps) -> None:
    mask = torch.tensor([1, 0, 1, 1, 0, 1, 1]).bool()
    agree(problem(bias=bias, caps=caps), divergence, mask=mask)
    hot = type(divergence)(**divergence.arguments, temperature=1.7, teacher_temperature=0.8)
    agree(problem(bias=bias, caps=caps), hot, mask=mask)


@pytest.mark.parametrize("divergence", SMOOTH, ids=name)
def test_gradcheck(divergence: Divergence) -> None:
    p = problem(5, 7, 3, 2, caps=(4.0, None))

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        head = Head(weight, bias, p["student_head"].softcap)
        return fused_divergence(hidden, head, p["teacher_hidden"], p["teacher_head"], divergence=divergence, chunk=2)

    assert torch.autograd.gradcheck(loss, tuple(learners(p)))


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 9), v=st.integers(1, 12), v_teacher=st.integers(1, 12), hs=st.integers(1, 4), ht=st.integers(1, 4),
    chunk=st.integers(1, 10), kind=st.sampled_from(KINDS), hot=st.floats(0.3, 4), hot_teacher=st.floats(0.3, 4),
    t_squared=st.booleans(), how=st.sampled_from(["token_mean", "sum"]), weighted=st.booleans(), seed=st.integers(),
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:student and teacher score")
def test_equals_the_plain_form_for_any_shape_mask_weight_and_temperature(
    n, v, v_teacher, hs, ht, chunk, kind, hot, hot_teacher, t_squared, how, weighted, seed
) -> None:
    options = kind.arguments | {"temperature": hot, "teacher_temperature": hot_teacher, "t_squared": t_squared}
    random = torch.Generator().manual_seed(seed := abs(seed) % 1000)
    mask = torch.rand(n, generator=random) < 0.6
    weight = torch.rand(n, generator=random) if weighted else None
    p = problem(n, v, hs, ht, seed=seed, v_teacher=v_teacher)
    agree(p, type(kind)(**options), 1e-8, chunk=chunk, mask=mask, weight=weight, how=how)


@pytest.mark.parametrize("divergence", KINDS, ids=name)
def test_float32_stays_within_1e5_at_a_real_vocabulary(divergence: Divergence) -> None:
    exact = problem(12, 5000, 32, 24, scale=0.5)
    single = cast_all(exact, Tensor.float)
    assert abs(fused_divergence(**single, divergence=divergence) - plain(exact, divergence)) < 1e-5
    of, of_exact = learners(single), learners(exact)
    fast = torch.autograd.grad(fused_divergence(**single, divergence=divergence), of)
    for a, b in zip(fast, torch.autograd.grad(plain(exact, divergence), of_exact)):
        assert (a - b).norm() < 1e-5 * b.norm()


@pytest.mark.parametrize("divergence", [ForwardKL(), JSD()], ids=name)
def test_bfloat16_is_as_close_as_its_inputs_allow(divergence: Divergence) -> None:
    half = problem(12, 500, 32, 24, dtype=torch.bfloat16, scale=0.5)
    exact = cast_all(half, Tensor.double)
    of, of_exact = learners(half), learners(exact)
    fast, slow = fused_divergence(**half, divergence=divergence), plain(exact, divergence)
    assert fast.dtype == torch.float32 and abs(fast - slow) < 0.02 * slow
    for a, b in zip(torch.autograd.grad(fast, of), torch.autograd.grad(slow, of_exact)):
        assert a.dtype == torch.bfloat16
        assert (a - b).norm() < 0.02 * b.norm()


def test_half_precision_products_sum_their_chunks_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    # the path of machines with bfloat16 units, taken here by force
    monkeypatch.setattr("redistill.losses.fused._product_dtype", lambda hidden, weight: torch.bfloat16)
    half = problem(64, 50, 8, 8, dtype=torch.bfloat16, scale=0.5, bias=True)
    of = learners(half)
    one, many = (torch.autograd.grad(fused_divergence(**half, chunk=c), of) for c in (64, 1))
    for a, b in zip(one, many):
        assert (a.float() - b.float()).norm() < 0.02 * a.float().norm()


@pytest.mark.parametrize("scale", [1.0, 2.0**16], ids=["plain", "behind a loss scale"])
def test_float16_neither_loses_small_gradients_nor_overflows(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redistill.losses.fused._product_dtype", lambda hidden, weight: torch.float16)
    p = problem(5000, 50, 16, 8, dtype=torch.float32, scale=0.5)
    of, of_exact = learners(p), learners(exact := cast_all(p, lambda x: x.detach().double()))
    slow = torch.autograd.grad(plain(exact, ForwardKL()), of_exact)
    for a, b in zip(torch.autograd.grad(scale * fused_divergence(**p), of), slow):
        assert a.isfinite().all() and (a.double() / scale - b).norm() < (0.01 if scale > 1 else 0.05) * b.norm()


def test_autocast_gives_float32_loss_and_gradients_of_the_parameters_dtype() -> None:
    p = problem(dtype=torch.float32)
    of = learners(p)
    exact = fused_divergence(**p)
    with torch.autocast("cpu", torch.bfloat16):
        loss = fused_divergence(**p)
    assert loss.dtype == torch.float32 and abs(loss - exact) < 0.05 * exact
    assert all(g.dtype == torch.float32 for g in torch.autograd.grad(loss, of))


def test_a_frozen_head_passes_the_gradient_on_and_a_frozen_trunk_stops_it() -> None:
    p = problem()
    hidden, weight, bias = learners(p)
    whole = torch.autograd.grad(fused_divergence(**p), [hidden, weight, bias])
    for tensor, expected in zip((hidden, weight, bias), whole):
        for other in (hidden, weight, bias):
            other.requires_grad_(other is tensor)
        torch.testing.assert_close(torch.autograd.grad(fused_divergence(**p), tensor)[0], expected)


def test_a_tied_head_adds_both_gradients() -> None:
    embedding = nn.Embedding(13, 5).double()
    trunk = nn.Linear(5, 5).double()
    p, token = problem(bias=False), torch.arange(7)
    grads = []
    for loss in (fused_divergence, lambda **q: plain(q, ForwardKL())):
        embedding.zero_grad()
        loss(
            **p | {"student_hidden": trunk(embedding(token)).tanh(), "student_head": Head(embedding.weight)}
        ).backward()
        grads.append(embedding.weight.grad.clone())
    torch.testing.assert_close(*grads)


def test_the_teacher_gets_no_gradient() -> None:
    p = problem()
    learners(p)
    teachers = [p["teacher_hidden"].requires_grad_(), p["teacher_head"].weight.requires_grad_()]
    fused_divergence(**p).backward()
    assert all(x.grad is None for x in teachers) and p["student_hidden"].grad is not None


def test_leading_axes_are_flattened_and_masked_positions_may_hold_anything() -> None:
    p = problem(12)
    mask = (torch.arange(12) % 3 == 0).view(3, 4)
    clean = fused_divergence(**p, mask=mask)
    broken = p | {
        "student_hidden": p["student_hidden"].view(3, 4, 5).masked_fill(~mask[..., None], torch.nan).requires_grad_()
    }
    broken["teacher_hidden"] = p["teacher_hidden"].view(3, 4, 3).masked_fill(~mask[..., None], torch.inf)
    loss = fused_divergence(**broken, mask=mask)
    torch.testing.assert_close(loss, clean)
    (slope,) = torch.autograd.grad(loss, broken["student_hidden"])
    assert slope.isfinite().all() and (slope[~mask] == 0).all() and (slope[mask] != 0).any()


def test_without_a_valid_token_the_loss_is_zero_and_differentiable() -> None:
    p = problem()
    of = learners(p)
    loss = fused_divergence(**p, mask=torch.zeros(7, dtype=torch.bool))
    assert loss == 0 and all((g == 0).all() for g in torch.autograd.grad(loss, of))


def test_extreme_logits_stay_finite() -> None:
    p = problem(scale=30)  # log-probabilities far below what exp can hold in float32
    single = cast_all(p, Tensor.float)
    of = learners(single)
    for divergence in KINDS:
        loss, exact = fused_divergence(**single, divergence=divergence), plain(p, divergence)
        assert abs(loss - exact) <= 1e-5 * max(1.0, float(exact))
        assert all(g.isfinite().all() for g in torch.autograd.grad(loss, of))


def test_the_graph_can_be_walked_twice_when_it_is_kept() -> None:
    p = problem()
    of = learners(p)
    loss = fused_divergence(**p)
    once = torch.autograd.grad(loss, of, retain_graph=True)
    twice = torch.autograd.grad(2 * loss, of, retain_graph=True)
    again = torch.autograd.grad(loss, of)
    for a, b, c in zip(once, twice, again):
        torch.testing.assert_close(2 * a, b)
        torch.testing.assert_close(a, c)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation has made."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = out if isinstance(out, (tuple, list)) else [out]
        self.size = max([self.size, *(x.numel() for x in made if isinstance(x, Tensor))])
        return out


def test_nothing_of_the_size_of_the_logits_is_ever_made() -> None:
    p = problem(64, 1000, 8, 8)
    mask = torch.arange(64) % 4 == 0
    learners(p)
    with Largest() as seen:
        fused_divergence(**p, mask=mask, divergence=JSD(), chunk=4).backward()
    assert seen.size == 1000 * 8  # the gradient of the head: a chunk of logits is 4,000 numbers, all of them 64,000
    with Largest() as seen, torch.no_grad():
        fused_divergence(**p, mask=mask, divergence=JSD(), chunk=4)
    assert seen.size == 1000 * 8  # a view of a head, nothing new


def test_no_gradient_is_taken_when_none_is_wanted() -> None:
    p = problem()
    learners(p)
    with torch.no_grad():
        loss = fused_divergence(**p)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, plain(p, ForwardKL()).detach())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"divergence": ForwardKL(top_k=5)}, "top_k: the fused form takes the whole vocabulary"),
        ({"divergence": JSD(clip=0.1)}, "clip: the fused form"),
        ({"mask": torch.ones(6)}, r"mask: \(6,\) does not fit 7 positions"),
        ({"weight": torch.ones(8)}, r"weight: \(8,\) does not fit 7 positions"),
        ({"weight": torch.ones(7, requires_grad=True)}, "weight: gets no gradient here"),
        ({"how": "mean"}, "how: unknown reduction 'mean'; valid: sum, token_mean"),
        ({"teacher_hidden": torch.ones(6, 3).double()}, "student has 7 positions, teacher 6"),
        (
            {"student_head": Head(torch.ones(13, 4).double())},
            r"student_head: weight is \(13, 4\), its hidden states have 5",
        ),
    ],
)
def test_wrong_input_is_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        fused_divergence(**problem() | options)


def test_a_divergence_without_a_closed_form_here_is_refused() -> None:
    class Mine(ForwardKL):
        pass

    with pytest.raises(UserError, match="'Mine'"):
        fused_divergence(**problem(), divergence=Mine())


def test_vocabularies_share_their_prefix_and_say_so() -> None:
    with pytest.warns(UserWarning, match="score 13 and 9 tokens; the first 9"):
        fused_divergence(**problem(v_teacher=9))


def test_head_of_a_linear_layer() -> None:
    linear = nn.Linear(4, 6)
    head = Head.of(linear, softcap=30.0)
    assert head.weight is linear.weight and head.bias is linear.bias and head.softcap == 30.0
