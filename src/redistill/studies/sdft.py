"""Does a model that teaches itself from demonstrations learn new operators without losing the old ones?

A tiny transformer knows twenty operators on strings of symbols. Three unknown ones are taught one after another, from
demonstrations in a layout that is not its own; all arms see the same questions and take the same number of steps. The
second part (:mod:`redistill.studies.sdft_knowledge`) puts a document into SmolLM2-135M.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redistill.beds import lm as bed
from redistill.beds.figures import Figure, points
from redistill.core import Method, Plan, fit
from redistill.core.claims import headline, higher, lower, reaches, within
from redistill.core.study import Outcome, Results, Study
from redistill.language import contexts
from redistill.language.rollouts import sample
from redistill.losses.divergences import ReverseKL
from redistill.methods.language.sdft import Sdft
from redistill.methods.language.sdft.retention import exact_match, kl_to_base
from redistill.models.transformers import CausalLm
from redistill.rivals.context_distillation import ContextDistillation
from redistill.rivals.sft import SupervisedFineTuning
from redistill.studies import sdft_knowledge
from redistill.studies.sdft_knowledge import Knowledge

OWN, FOREIGN = 7, 13  # tokens of the longest answer in the model's layout and in the demonstrations'
FLOOR = 0.8
TEST = 50_000  # seeds of test questions begin here
Budget = Mapping[str, Any]
Conversations = list[list[contexts.Message]]
Written = tuple[Tensor, Tensor]  # completions and their mask


def as_demonstrated(lm: CausalLm, task: bed.Instances, data: Mapping[str, Tensor], seed: int) -> Written:
    """The demonstrations themselves."""
    return contexts.encode_completions(lm.tokenizer, task.demonstration)


def as_answered(lm: CausalLm, task: bed.Instances, data: Mapping[str, Tensor], seed: int) -> Written:
    """Samples of the model that is shown the demonstration."""
    numbers = torch.rand(len(task.question), OWN, generator=torch.Generator().manual_seed(seed))
    written = sample(lm, data["context"], data["context_mask"], numbers)
    return written.ids, written.mask


def on_policy(**options: Any) -> Callable[[CausalLm], Method]:
    """SDFT on whole answers of four or five symbols: they have no opener to skip."""
    return lambda lm: Sdft(lm, skip_tokens=0, max_new_tokens=OWN, **options)


@dataclass(frozen=True)
class Lessons:
    """The three operators one after another. ``written``: the completions that an offline arm learns."""

    title: str
    make: Callable[[CausalLm], Method]
    rate: float = 0.003
    written: Callable[..., Written] | None = None

    def outcome(self, seed: int, budget: Budget) -> Outcome:
        """Accuracies after every lesson."""
        student, base = bed.load(), bed.load()
        contexts.require_teacher(accuracy(base, list(bed.NEW), seed, shown=True), FLOOR, task="the new operators")
        knew = accuracy(base, list(bed.KNOWN), seed)
        matrix, lost, drift = [], [], []
        for number, name in enumerate(bed.NEW):
            plan = Plan(
                steps=budget["steps"], batch_size=32, optimizer="sgd", lr=self.rate, schedule="cosine",
                warmup=budget["steps"] // 10, clip=1.0, seed=10 * seed + number, device="cpu", log_every=1000,
            )  # fmt: skip
            fit(self.make(student), self.lesson(student, name, seed, budget["rows"]), plan)
            matrix.append([accuracy(student, [n], seed) for n in bed.NEW])
            lost.append(knew - accuracy(student, list(bed.KNOWN), seed))
            drift.append(drift_of(student, base, seed))
        return Outcome(metrics_of(np.array(matrix), lost, drift), {"matrix": np.array(matrix), "lost": np.array(lost)})

    def lesson(self, lm: CausalLm, name: str, seed: int, rows: int) -> dict[str, Tensor]:
        """Questions of one operator with and without demonstration, and the completions of an offline arm."""
        task = bed.instances(name, rows, seed=seed)
        data = contexts.two_contexts(lm.tokenizer, plain(task), demonstrated(task))
        if self.written:
            data["completion"], data["completion_mask"] = self.written(lm, task, data, seed)
        return data


def metrics_of(matrix: np.ndarray, lost: list[float], drift: list[float]) -> dict[str, float]:
    """After the first operator and at the end; ``matrix[i, j]``: accuracy of operator j after lesson i; ``balance``:
    what is known of the new less what is lost of the old."""
    new, end = float(matrix[0, 0]), float(matrix[2].mean())
    return {
        "new": new, "old_lost": lost[0], "balance": new - lost[0], "kl": drift[0],
        "new_end": end, "old_lost_end": lost[2], "balance_end": end - lost[2], "kl_end": drift[2],
        "learned": float(np.diag(matrix).mean()), "first_kept": float(matrix[2, 0] / max(new, 0.01)),
    }  # fmt: skip


def cell(name: str, seed: int, budget: Budget) -> Outcome:
    """One arm: the three operators one after another, or the document."""
    return ARMS[name].outcome(seed, budget)


def plain(task: bed.Instances) -> Conversations:
    """The student's prompts."""
    return [contexts.asked(q) for q in task.question]


def demonstrated(task: bed.Instances) -> Conversations:
    """The teacher's prompts, in the form that pre-training taught."""
    return [contexts.asked(bed.with_demonstration(q, d)) for q, d in zip(task.question, task.demonstration)]


def accuracy(lm: CausalLm, names: list[str], seed: int, *, shown: bool = False) -> float:
    """Share of right answers, in whatever layout, to test questions of the operators."""
    task = bed.questions_of(names, max(64 // len(names), 10), seed=seed + TEST)
    talks = demonstrated(task) if shown else plain(task)
    return exact_match(lm, talks, task.answer, FOREIGN, read=bed.read_answer)


def drift_of(lm: CausalLm, base: CausalLm, seed: int) -> float:
    """KL(model || start) in nats per token on questions of the old operators."""
    task = bed.questions_of(list(bed.KNOWN), 10, seed=seed + TEST)
    return kl_to_base(lm, base, plain(task), FOREIGN, seed=seed)


def matrices(arm: str) -> Any:
    """A panel: accuracy on each new operator (columns; the last one: what is lost of the old) after each lesson."""

    def draw(axis: Any, results: Results, arms: Any) -> None:
        runs = [
            np.column_stack([results.array(arm, s, "matrix"), results.array(arm, s, "lost")]) for s in results.seeds
        ]
        mean = 100 * np.mean(runs, axis=0)
        axis.imshow(mean, vmin=0, vmax=100, cmap="viridis", aspect="auto")
        for (i, j), value in np.ndenumerate(mean):
            axis.text(j, i, f"{value:.0f}", ha="center", va="center", color="w" if value < 60 else "k")
        axis.set_title(arm, fontsize=10)
        axis.set_xticks(range(4), [*bed.NEW, "old lost"])
        axis.set_yticks(range(3), [f"after {n}" for n in bed.NEW])

    return draw


def write_answers(results: Results, folder: Path) -> None:
    """A page with the answers of SmolLM2 to each question: as it came, with the document to read, and taught."""
    lines = [f"# SmolLM2-135M-Instruct and the Skerrow lighthouse (seed {results.seeds[0]})", ""]
    shown = [name for name, arm in ARMS.items() if isinstance(arm, Knowledge)]
    for kind in sdft_knowledge.QUESTIONS:
        lines += [f"## {kind.replace('_', ' ')}", "", "| question | " + " | ".join(ARMS[n].title for n in shown) + " |"]
        lines += ["|---" * (len(shown) + 1) + "|"]
        for rows in zip(*(json.loads(results.text(name, results.seeds[0], kind)) for name in shown)):
            given = [" ".join(row[2].split()).replace("|", "/") for row in rows]
            lines.append(f"| {rows[0][0]} | " + " | ".join(given) + " |")
        lines.append("")
    (folder / "answers.md").write_text("\n".join(lines))


ARMS: dict[str, Lessons | Knowledge] = {
    "sft": Lessons("fine-tuning on the demonstrations, at its best rate", SupervisedFineTuning, 0.02, as_demonstrated),
    "sft_teacher": Lessons("fine-tuning on samples of the shown model", SupervisedFineTuning, written=as_answered),
    "offline": Lessons("offline forward KL on the same samples", ContextDistillation, written=as_answered),
    "sdft": Lessons("SDFT, forward KL, teacher rate 0.01", on_policy()),
    "reverse": Lessons("SDFT, reverse KL", on_policy(divergence=ReverseKL())),
    "facts_before": Knowledge("SmolLM2 as it came"),
    "facts_in_context": Knowledge("with the document", context=True),
    "facts_sft": Knowledge("adapter fine-tuned on the sentences", SupervisedFineTuning, 1e-3),
    "facts_sdft": Knowledge("adapter, SDFT", lambda lm: Sdft(lm, skip_tokens=3, max_new_tokens=sdft_knowledge.LONGEST),
                            4e-3),
}  # fmt: skip
TRAINED = tuple(name for name, arm in ARMS.items() if isinstance(arm, Lessons))
PAPER = "tool use and science on Qwen2.5-7B: higher accuracy on the new task, far less forgetting"
STUDY = Study(
    slug="sdft",
    question="Does on-policy self-distillation from demonstrations learn what fine-tuning learns, and forget less?",
    arms=ARMS,
    claims=(
        headline(higher("balance_end", "sdft", "sft", 0.5, PAPER,
                        said="after three operators, SDFT knows more of the new less what it lost of the old than "
                             "fine-tuning on the demonstrations")),
        higher("balance_end", "sdft", "sft_teacher", 0.02,
               said="on-policy beats fine-tuning on the shown model's own samples"),
        higher("balance_end", "sdft", "offline", 0.02, said="on-policy beats offline distillation on these samples"),
        within(0.02, "new", "sdft", "sft", "knowledge, strict accuracy: SFT 80, SDFT 89",
               said="learns a new operator as well as fine-tuning on demonstrations"),
        lower("old_lost", "sdft", "sft", 0.667, relative=True,
              said="loses at most a third of the old skill that fine-tuning loses"),
        lower("kl", "sdft", "sft", 0.46, "0.68 nats for the shown model, 1.26 for SFT", relative=True,
              said="stays closer to the start model (KL on old prompts)"),
        reaches("first_kept", "sdft", 0.8, "1: nothing of the first operator is lost",
                said="after three operators, keeps 80 % of the first"),
        higher("facts_held_out", "facts_sdft", "facts_before", 0.3, "strict accuracy: base 0, SDFT 89",
               said="SmolLM2 takes in the document (held-out wording)"),
        higher("facts_indirect", "facts_sdft", "facts_before", 0.15, "indirect: base 0, SDFT 98",
               said="SmolLM2 answers indirect questions about it"),
        within(0.1, "facts_held_out", "facts_sdft", "facts_sft", "SFT 80, SDFT 89",
               said="SmolLM2 learns no less than by fine-tuning (held-out wording)"),
        lower("facts_kl", "facts_sdft", "facts_sft", 0.3, relative=True,
              said="SmolLM2 stays closer to itself than by fine-tuning (KL on general questions)"),
    ),
    cell=cell,
    budget={"steps": 150, "rows": 512, "facts_steps": 24, "facts_questions": None},
    smoke={"steps": 4, "rows": 64, "facts_steps": 1, "facts_questions": 1},
    seeds=(7, 8, 9, 10, 11),
    draw=write_answers,
    figures=(
        Figure("trade", (points("new", "old_lost", "after the first operator", arms=TRAINED),
                         points("new_end", "old_lost_end", "after all three", arms=TRAINED))),
        Figure("matrices", tuple(matrices(arm) for arm in TRAINED), columns=3),
    ),
)  # fmt: skip
