"""The second part of the SDFT study: SmolLM2-135M takes in a document that is not in its weights.

The demonstration of a question is the sentence of the document that answers it. Questions in other words, and indirect
ones, are held out; general questions say what is lost.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from torch import Tensor

from redistill.beds import smollm as bed
from redistill.core import Method, Plan, fit
from redistill.core.study import Outcome
from redistill.language import contexts
from redistill.language.rollouts import answer_texts
from redistill.methods.language.sdft.answers import mentions
from redistill.methods.language.sdft.retention import kl_to_base
from redistill.models.transformers import AdapterOff, CausalLm

LONGEST = 32  # tokens of an answer
FLOOR = 0.7  # share of the questions that the model must answer with the sentence before it
ASKED = [(q, fact) for fact in bed.FACTS for q in fact.questions]
QUESTIONS: dict[str, list[tuple[str, str]]] = {
    "held_out": [(q, fact.answer) for fact in bed.FACTS for q in fact.held_out],
    "indirect": [(q, fact.answer) for fact in bed.FACTS for q in fact.indirect],
    "general": list(bed.GENERAL.items()),
}


@dataclass(frozen=True)
class Knowledge:
    """SmolLM2 with an adapter that ``make`` trains at ``rate``; None: as it came, with the document to read in its
    ``context`` or not."""

    title: str
    make: Callable[[CausalLm], Method] | None = None
    rate: float = 0.0
    context: bool = False

    def outcome(self, seed: int, budget: Mapping[str, Any]) -> Outcome:
        """Trained if it is to be, and asked."""
        few = budget["facts_questions"]
        if self.make is None:
            return copy.copy(untrained(few, context=self.context))  # its seconds are each cell's own
        contexts.require_teacher(teacher_score(), FLOOR, task="the questions about the document")
        lm = copy.deepcopy(loaded(seed))
        plan = Plan(
            steps=budget["facts_steps"], batch_size=6, lr=self.rate, schedule="cosine", warmup=2, clip=1.0, seed=seed,
            device="cpu", log_every=1000,
        )  # fmt: skip
        fit(self.make(lm), lesson(lm), plan)
        return answered(lm, few)


@lru_cache(maxsize=1)
def loaded(seed: int) -> CausalLm:
    """The model with the fresh adapter of ``seed``, to copy: reading its file takes many times as long."""
    return bed.load(seed=seed)


@cache
def untrained(few: int | None, *, context: bool) -> Outcome:
    """The model as it came, with or without the document; a fresh adapter adds nothing, so all seeds share it."""
    return answered(loaded(0), few, context=context)


def lesson(lm: CausalLm) -> dict[str, Tensor]:
    """Questions, the same with their sentence, and the sentence as an answer."""
    student = [contexts.asked(q) for q, _ in ASKED]
    data = contexts.two_contexts(lm.tokenizer, student, [contexts.informed(q, f.sentence) for q, f in ASKED])
    data["completion"], data["completion_mask"] = contexts.encode_completions(
        lm.tokenizer, [f.sentence for _, f in ASKED]
    )
    return data


@cache
def teacher_score() -> float:
    """Share of the questions that the model, as it came, answers when it sees the sentence."""
    given = answer_texts(loaded(0), [contexts.informed(q, f.sentence) for q, f in ASKED], LONGEST)
    return share_right(given, [f.answer for _, f in ASKED])


def share_right(given: Sequence[str], answers: Sequence[str]) -> float:
    """Share of the texts that mention their answer."""
    return sum(map(mentions, given, answers)) / len(answers)


def answered(lm: CausalLm, few: int | None = None, *, context: bool = False) -> Outcome:
    """Over ``few`` questions of each kind (all by default): shares of right answers, of answers that speak of a text
    that nobody gave, divergence from the base on general questions, and all the answers as JSON."""
    metrics, texts, every = {}, {}, []
    for kind, listed in QUESTIONS.items():
        pairs = listed[:few]
        talks = [contexts.informed(q, bed.DOCUMENT) if context else contexts.asked(q) for q, _ in pairs]
        given = answer_texts(lm, talks, LONGEST)
        every += given
        metrics[f"facts_{kind}"] = share_right(given, [a for _, a in pairs])
        texts[kind] = json.dumps([[q, a, text] for (q, a), text in zip(pairs, given)])
    metrics["facts_phantom"] = sum("the text" in text.lower() for text in every) / len(every)
    general = [contexts.asked(q) for q in list(bed.GENERAL)[:few]]
    metrics["facts_kl"] = kl_to_base(lm, AdapterOff(lm), general, LONGEST)
    return Outcome(metrics, text=texts)
