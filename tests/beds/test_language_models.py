"""The tiny language model that ships, the operators it knows and does not know, and the document for SmolLM2."""

from __future__ import annotations

import numpy as np
import pytest

from redistill.beds import lm as bed
from redistill.beds import smollm
from redistill.core import UserError
from redistill.language import contexts
from redistill.methods.language.sdft import retention
from redistill.methods.language.sdft.answers import mentions


def share(model, names, *, shown, read=str.strip):
    task = bed.questions_of(names, 16, seed=9)
    asked = (
        [bed.with_demonstration(q, d) for q, d in zip(task.question, task.demonstration)] if shown else task.question
    )
    return retention.exact_match(model, [contexts.asked(q) for q in asked], task.answer, 8, read=read)


def test_the_model_reads_demonstrations_of_operators_it_does_not_know():
    model = bed.load()
    assert share(model, list(bed.NEW), shown=True) >= 0.8  # and answers in its own layout: read=str.strip
    assert share(model, list(bed.NEW), shown=False, read=bed.read_answer) <= 0.1
    assert share(model, list(bed.KNOWN), shown=False) >= 0.95


def test_new_operators_are_new_pairs_of_known_rules():
    assert not set(bed.KNOWN) & set(bed.NEW)
    assert {c for name in bed.NEW for c in name} <= {c for name in bed.KNOWN for c in name}
    x = np.array([0, 4, 7, 2, 9])
    answers = {name: tuple(rule(x)) for name, rule in (bed.KNOWN | bed.NEW).items()}
    assert len(set(answers.values())) == len(answers) and tuple(x) not in answers.values()


@pytest.mark.parametrize(
    ("rule", "answer"),
    [(bed.reverse, "lbda"), (bed.left, "dbla"), (bed.right, "ladb"), (bed.ends, "ldba"), (bed.order, "abdl"),
     (bed.up, "beca"), (bed.down, "lcak"), (bed.mirror, "lika"), (bed.chain(bed.reverse, bed.up), "aceb")],
)  # fmt: skip
def test_rules(rule, answer):
    assert bed.spell(rule(np.array([bed.SYMBOLS.index(c) for c in "adbl"]))) == answer


def test_instances_are_different_seeded_and_told_in_a_foreign_layout():
    task = bed.instances("GC", 50, seed=1)
    assert len(set(task.question)) == 50 and task == bed.instances("GC", 50, seed=1) != bed.instances("GC", 50, seed=2)
    assert task.demonstration[0] == "<" + "/".join(task.answer[0]) + ">"
    assert bed.read_answer(task.demonstration[0]) == task.answer[0]


def test_every_fact_of_the_document_holds_its_answer_and_no_question_does():
    for fact in smollm.FACTS:
        assert mentions(fact.sentence, fact.answer) and fact.sentence in smollm.DOCUMENT
        assert not any(mentions(q, fact.answer) for q in (*fact.questions, *fact.held_out, *fact.indirect))


def test_weights_that_are_not_installed_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(smollm, "package_folder", lambda *_: tmp_path)
    with pytest.raises(UserError, match=r"no .gguf file"):
        smollm.weights()
