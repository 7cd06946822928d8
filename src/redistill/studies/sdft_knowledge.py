"""The second part of the SDFT study: SmolLM2-135M takes in a document that is not in its weights.

The demonstration of a question is the sentence of the document that answers it. Questions in other words, and indirect
ones, are held out; general questions say what is lost.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

from torch import Tensor

from redistill.beds import smollm as bed
from redistill.core import Method, Plan, fit
from redistill.core.study import Outcome
from redistill.language import contexts
from redistill.language.baselines import SupervisedFineTuning
from redistill.methods.language.sdft import Sdft
from redistill.methods.language.sdft.answers import mentions
from redistill.methods.language.sdft.retention import kl_to_base
from redistill.methods.language.sdft.rollouts import answer_texts
from redistill.models.transformers import AdapterOff, CausalLm

LONGEST = 16  # tokens of an answer
FLOOR = 0.7  # share of the questions that the model must answer with the sentence before it
ASKED = [(q, fact) for fact in bed.FACTS for q in fact.questions]
QUESTIONS: dict[str, list[tuple[str, str]]] = {
    "learned": [(q, fact.answer) for q, fact in ASKED],
    "held_out": [(fact.held_out, fact.answer) for fact in bed.FACTS],
    "indirect": [(fact.indirect, fact.answer) for fact in bed.FACTS],
    "general": list(bed.GENERAL.items()),
}


def knowledge(arm: str, seed: int, budget: Mapping[str, Any]) -> Outcome:
    """One arm (``facts_sdft``, ``facts_sft``, or ``facts_before`` and ``facts_in_context`` without training)."""
    few = budget["facts_questions"]
    if arm in ("facts_before", "facts_in_context"):
        return copy.copy(untrained(few, context=arm == "facts_in_context"))  # its seconds are each cell's own
    contexts.require_teacher(teacher_score(), FLOOR, task="the questions about the document")
    lm = copy.deepcopy(loaded(seed))
    plan = Plan(
        steps=budget["facts_steps"], batch_size=9, lr=budget["facts_lr"][arm], schedule="cosine", warmup=2,
        clip=1.0, seed=seed, device="cpu", log_every=1000,
    )  # fmt: skip
    fit(build(arm, lm), lesson(lm), plan)
    return outcome(lm, few)


@lru_cache(maxsize=1)
def loaded(seed: int) -> CausalLm:
    """The model with the fresh adapter of ``seed``, to copy: reading its file takes many times as long."""
    return bed.load(seed=seed)


@cache
def untrained(few: int | None, *, context: bool) -> Outcome:
    """The model as it came, with or without the document; a fresh adapter adds nothing, so all seeds share it."""
    return outcome(loaded(0), few, context=context)


def build(arm: str, lm: CausalLm) -> Method:
    """SDFT, or fine-tuning on the sentences; the adapter trains."""
    return SupervisedFineTuning(lm) if arm == "facts_sft" else Sdft(lm, skip_tokens=0, max_new_tokens=LONGEST)


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


def outcome(lm: CausalLm, few: int | None = None, *, context: bool = False) -> Outcome:
    """Over ``few`` questions of each kind (all by default): shares of right answers, divergence from the base on
    general questions, and all the answers as JSON.
    """
    metrics, texts = {}, {}
    for kind, listed in QUESTIONS.items():
        pairs = listed[:few]
        talks = [contexts.informed(q, bed.DOCUMENT) if context else contexts.asked(q) for q, _ in pairs]
        given = answer_texts(lm, talks, LONGEST)
        metrics[f"facts_{kind}"] = share_right(given, [a for _, a in pairs])
        texts[kind] = json.dumps([[q, a, text] for (q, a), text in zip(pairs, given)])
    general = [contexts.asked(q) for q in list(bed.GENERAL)[:few]]
    metrics["facts_kl"] = kl_to_base(lm, AdapterOff(lm), general, LONGEST)
    return Outcome(metrics, text=texts)
