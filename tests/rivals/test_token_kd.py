"""Token by token: the textbook loss, its weights, what is masked, and stored answers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from redistill.core import Plan, UserError, fit
from redistill.core.followers import same_weights
from redistill.core.method import bare_progress
from redistill.rivals.token_kd import TokenDistillation

WORDS = 7
GENERATOR = torch.Generator().manual_seed(0)
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
DATA = {"ids": torch.randint(1, WORDS, (3, 5), generator=GENERATOR) * MASK, "mask": MASK}


class Bigram(nn.Module):
    def __init__(self, seed):
        super().__init__()
        self.table = nn.Embedding(WORDS, WORDS)
        torch.manual_seed(seed)
        nn.init.normal_(self.table.weight)

    def forward(self, ids, mask=None):
        return self.table(ids)


def loss(method):
    now = bare_progress()
    return method.loss("student", method.prepare(dict(DATA), now), now).total


def by_hand(student, teacher, weight, tau):
    texts = []
    for ids, length in zip(DATA["ids"], MASK.sum(1)):
        z, z_t, y = student(ids)[: length - 1], teacher(ids)[: length - 1], ids[1:length]
        p, log_q = (z_t / tau).softmax(-1), (z / tau).log_softmax(-1)
        kl = (p * (p.log() - log_q)).sum(-1).mean()
        texts.append((1 - weight) * cross_entropy(z, y) + weight * tau**2 * kl)
    return torch.stack(texts).mean()


@pytest.mark.parametrize(("weight", "tau"), [(0.0, 1.0), (0.7, 2.0), (1.0, 4.0)])
def test_the_loss_is_the_mean_over_texts_of_the_mean_over_their_tokens(weight, tau):
    student, teacher = Bigram(0), Bigram(1)
    method = TokenDistillation(student, teacher, soft_weight=weight, temperature=tau)
    torch.testing.assert_close(loss(method), by_hand(student, teacher, weight, tau))


def test_what_is_masked_is_not_read():
    method = TokenDistillation(Bigram(0), Bigram(1), soft_weight=0.5)
    before = loss(method)
    changed = {**DATA, "ids": torch.where(MASK.bool(), DATA["ids"], 3)}
    after = method.loss("student", method.prepare(changed, bare_progress()), bare_progress()).total
    torch.testing.assert_close(before, after)


def test_stored_answers_train_the_same_student_and_the_teacher_stays():
    plan = Plan(steps=4, batch_size=3, optimizer="sgd", lr=0.5, device="cpu")
    teacher = Bigram(1)
    asked = fit(TokenDistillation(Bigram(0), teacher, soft_weight=0.7), DATA, plan).student
    assert same_weights(teacher, Bigram(1)) and not same_weights(asked, Bigram(0))
    stored = {**DATA, "teacher_logits": teacher(DATA["ids"])[:, :-1].detach()}
    assert same_weights(asked, fit(TokenDistillation(Bigram(0), None, soft_weight=0.7), stored, plan).student)


@pytest.mark.parametrize(
    ("make", "data", "part"),
    [
        (lambda: TokenDistillation(Bigram(0), Bigram(1), soft_weight=2.0), DATA, "from 0 to 1"),
        (lambda: TokenDistillation(Bigram(0), Bigram(1), soft_weight=-1.0), DATA, "from 0 to 1"),
        (lambda: TokenDistillation(Bigram(0), Bigram(1), soft_weight=float("nan")), DATA, "from 0 to 1"),
        (lambda: TokenDistillation(Bigram(0), Bigram(1)), {"ids": DATA["ids"][:, :1]}, "two"),
        (lambda: TokenDistillation(Bigram(0), Bigram(1), temperature=0.0), DATA, "above 0"),
        (lambda: TokenDistillation(Bigram(0)), DATA, "teacher_logits"),
        (lambda: TokenDistillation(Bigram(0), Bigram(1)), {**DATA, "mask": MASK * 0 + torch.eye(5).long()[0]}, "two"),
    ],
)
def test_wrong_input_is_refused(make, data, part):
    with pytest.raises(UserError, match=part):
        fit(make(), data, Plan(steps=1, batch_size=3, device="cpu"))


def test_without_a_mask_all_tokens_count_alike_and_large_scores_may_cost():
    full = {"ids": DATA["ids"]}
    student, teacher = Bigram(0).double(), Bigram(1).double()
    method = TokenDistillation(student, teacher, soft_weight=0.7, temperature=2.0, z_loss=0.01)
    found = method.loss("student", method.prepare(full, bare_progress()), bare_progress()).terms
    z, z_t = (net(full["ids"])[:, :-1] for net in (student, teacher))
    p = (z_t / 2).softmax(-1)
    kl = (p * (p.log() - (z / 2).log_softmax(-1))).sum(-1).mean()
    torch.testing.assert_close(found["hard"], 0.3 * cross_entropy(z.flatten(0, 1), full["ids"][:, 1:].flatten()))
    torch.testing.assert_close(found["soft"], 0.7 * 4 * kl)
    torch.testing.assert_close(found["z"], 0.01 * z.logsumexp(-1).square().mean())


def test_pure_distillation_sees_no_label_and_plain_training_no_teacher():
    now = bare_progress()
    pure, plain = TokenDistillation(Bigram(0), Bigram(1)), TokenDistillation(Bigram(0), soft_weight=0.0)
    assert set(pure.loss("student", pure.prepare(dict(DATA), now), now).terms) == {"soft"}
    assert set(plain.loss("student", plain.prepare(dict(DATA), now), now).terms) == {"hard"}


def test_a_student_that_is_its_teacher_has_no_gradient():
    student = Bigram(1).double()
    loss(TokenDistillation(student, Bigram(1).double())).backward()
    assert student.table.weight.grad.abs().max() < 1e-12
