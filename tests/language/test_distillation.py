"""Token by token: the textbook loss, its weights, what is masked, and stored answers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from redistill.core import Plan, UserError, fit
from redistill.core.followers import same_weights
from redistill.core.method import bare_progress
from redistill.language.distillation import TokenDistillation

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
        (lambda: TokenDistillation(Bigram(0), Bigram(1), temperature=0.0), DATA, "above 0"),
        (lambda: TokenDistillation(Bigram(0)), DATA, "teacher_logits"),
        (lambda: TokenDistillation(Bigram(0), Bigram(1)), {**DATA, "mask": MASK * 0 + torch.eye(5).long()[0]}, "two"),
    ],
)
def test_wrong_input_is_refused(make, data, part):
    with pytest.raises(UserError, match=part):
        fit(make(), data, Plan(steps=1, batch_size=3, device="cpu"))
