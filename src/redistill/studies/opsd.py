"""How many tokens must a model write until it solves what it solves when it sees the solution?

A tiny transformer solves an operator that it never met if a solution stands beside the question, and 5 % of such
questions without. OPSD pulls it towards itself with the solution, GRPO rewards right answers; all start alike.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redistill.beds import lm as bed
from redistill.beds.figures import Figure, bars, curves
from redistill.core import Method, Plan, fit
from redistill.core.cache import kept
from redistill.core.claims import headline, higher, lower
from redistill.core.study import Outcome, Study
from redistill.language import contexts
from redistill.language.rollouts import sample
from redistill.losses.divergences import JSD, ForwardKL, ReverseKL
from redistill.methods.language.opsd import Opsd
from redistill.methods.language.sdft.retention import exact_match
from redistill.models.transformers import CausalLm
from redistill.rivals.context_distillation import ContextDistillation
from redistill.rivals.grpo import Grpo
from redistill.rivals.sft import SupervisedFineTuning

OPERATOR, OWN, FOREIGN = "GC", 7, 13  # tokens of the longest answer in the model's layout and in the references'
FLOOR, SOLVED = 0.8, 0.9
TEST = 50_000  # seeds of test questions begin here
EVERY = 5  # steps between two looks
Budget = Mapping[str, Any]
Make = Callable[[CausalLm, Any], Method]
Written = tuple[Tensor, Tensor]  # completions and their mask


def referenced(lm: CausalLm, task: bed.Instances, data: Mapping[str, Tensor], seed: int) -> Written:
    """The references, in their own layout."""
    return contexts.encode_completions(lm.tokenizer, task.demonstration)


def answered(lm: CausalLm, task: bed.Instances, data: Mapping[str, Tensor], seed: int) -> Written:
    """Samples of the model that sees the reference."""
    numbers = torch.rand(len(task), OWN, generator=torch.Generator().manual_seed(seed))
    written = sample(lm, data["context"], data["context_mask"], numbers)
    return written.ids, written.mask


@dataclass(frozen=True)
class Arm:
    """``make(lm, reward)`` is what trains, at its ``rate``; ``group``: answers a question; ``written``: the completions
    of an arm that writes none."""

    title: str
    make: Make
    rate: float
    batch: int = 32
    group: int = 1
    questions: int = 512
    written: Callable[..., Written] | None = None


def opsd(**options: Any) -> Make:
    """OPSD on whole answers, sampled from all of the vocabulary as GRPO's are."""
    law = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": OWN}
    return lambda lm, reward: Opsd(lm, **{"divergence": ForwardKL(), **law, **options})


def rewarded(**options: Any) -> Make:
    """Policy gradient with a reward of 1 for a right answer."""
    return lambda lm, reward: Grpo(lm, reward, max_new_tokens=OWN, **options)


@dataclass
class Watch:
    """The share of solved questions against the tokens that were written, looked at every few steps."""

    test: bed.Instances
    rows: int
    budget: Budget
    step: int = 0
    tokens: list[float] = field(default_factory=list)
    solved: list[float] = field(default_factory=list)

    def __call__(self, now: Any, row: Mapping[str, Any], method: Any) -> None:
        written = self.rows * (row["step"] - self.step) * row["length"] + (self.tokens[-1] if self.tokens else 0)
        self.step = row["step"]
        self.tokens.append(written)
        self.solved.append(accuracy(method.student, self.test))
        enough = written >= self.budget["early"] and max(self.solved) >= SOLVED
        if enough or written >= self.budget["tokens"]:
            raise Enough

    def metrics(self) -> dict[str, float]:
        """Tokens until the questions are solved (the budget where they never are), and what is solved early."""
        reached = [t for t, s in zip(self.tokens, self.solved) if s >= SOLVED]
        early = [s for t, s in zip(self.tokens, self.solved) if t <= self.budget["early"]]
        tokens = min([*reached, float(self.budget["tokens"])])
        return {"tokens": tokens, "early": early[-1]}


class Enough(Exception):
    """The run has shown what it was asked for."""


def cell(name: str, seed: int, budget: Budget) -> Outcome:
    """One arm from the common start."""
    arm, lm, test = ARMS[name], start(seed, budget), bed.instances(OPERATOR, budget["test"], seed=seed + TEST)
    contexts.require_teacher(accuracy(lm, test, sees=True), FLOOR, task="the new operator")
    task = bed.instances(OPERATOR, min(arm.questions, budget["questions"]), seed=seed)

    def reward(texts: Any, rows: Tensor) -> list[float]:
        return [float(bed.read_answer(text) == task.answer[i]) for text, i in zip(texts, rows.tolist())]

    data = rows_of(lm, task)
    knew = accuracy(lm, known(seed))
    if arm.written:
        data["completion"], data["completion_mask"] = arm.written(lm, task, data, seed)
    watch = () if arm.written else (Watch(test, arm.batch * arm.group, budget),)
    plan = Plan(steps=budget["offline"] if arm.written else 10_000, batch_size=arm.batch, optimizer="adam", lr=arm.rate,
                schedule="constant", clip=1.0, seed=seed, device="cpu", log_every=EVERY)  # fmt: skip
    with contextlib.suppress(Enough):
        fit(arm.make(lm, reward), data, plan, observers=watch)
    ends = {"solved": accuracy(lm, test), "known_lost": knew - accuracy(lm, known(seed))}
    if not watch:
        return Outcome(ends)
    written = np.linspace(0, budget["tokens"], 121)
    share = np.interp(written, watch[0].tokens, watch[0].solved)
    return Outcome({**ends, **watch[0].metrics()}, {"written": written, "share": share})


def start(seed: int, budget: Budget) -> CausalLm:
    """The shipped model after a few steps on its own answers with the reference in sight, for a policy gradient needs a
    success now and then."""

    def warmed(lm: Any) -> Any:
        task = bed.instances(OPERATOR, 512, seed=seed)
        data = rows_of(lm, task)
        data["completion"], data["completion_mask"] = answered(lm, task, data, seed)
        plan = Plan(steps=budget["warm"], batch_size=32, optimizer="adam", lr=1e-3, schedule="constant", seed=seed,
                    device="cpu", log_every=1000)  # fmt: skip
        return fit(SupervisedFineTuning(lm), data, plan).student

    lm = kept("opsd_start", bed.load(), {"seed": seed, "steps": budget["warm"]}, warmed)
    assert isinstance(lm, CausalLm)
    return lm.requires_grad_(True)


def rows_of(lm: CausalLm, task: bed.Instances) -> dict[str, Tensor]:
    """Questions without and with their reference."""
    return contexts.two_contexts(lm.tokenizer, plain(task), shown(task))


def plain(task: bed.Instances) -> list[list[contexts.Message]]:
    """The student's prompts."""
    return [contexts.asked(q) for q in task.question]


def shown(task: bed.Instances) -> list[list[contexts.Message]]:
    """The teacher's prompts, in the form that pre-training taught."""
    return [contexts.asked(bed.with_demonstration(q, d)) for q, d in zip(task.question, task.demonstration)]


def known(seed: int) -> bed.Instances:
    """Questions of the operators that the model knows."""
    return bed.questions_of(list(bed.KNOWN), 10, seed=seed + TEST)


def accuracy(lm: CausalLm, task: bed.Instances, *, sees: bool = False) -> float:
    """Share of right greedy answers, in whatever layout; ``sees``: with the reference."""
    return exact_match(lm, shown(task) if sees else plain(task), task.answer, FOREIGN, read=bed.read_answer)


ARMS: dict[str, Arm] = {
    "opsd": Arm("OPSD, forward KL", opsd(), 1e-3),
    "grpo": Arm("GRPO, 8 answers a question", rewarded(group=8), 3e-4, batch=4, group=8),
    "rejection": Arm("fine-tuning on the own right answers", rewarded(group=1, advantage="reward"), 3e-4, batch=128),
    "sampled": Arm("the written token alone", opsd(estimator="sampled"), 3e-4),
    "reverse": Arm("reverse KL", opsd(divergence=ReverseKL()), 1e-3),
    "jsd": Arm("Jensen-Shannon", opsd(divergence=JSD()), 1e-3),
    "references": Arm("fine-tuning on the references", lambda lm, _: SupervisedFineTuning(lm), 3e-4,
                      written=referenced),
    "few": Arm("OPSD with 48 questions", opsd(), 1e-3, questions=48),
    "few_offline": Arm("offline forward KL with 48 questions", lambda lm, _: ContextDistillation(lm), 3e-4,
                       questions=48, written=answered),
}  # fmt: skip
WRITING = ("opsd", "grpo", "rejection", "sampled", "reverse")
PAPER = "8 to 12 times fewer tokens than GRPO (README), 4 to 8 times (abstract)"
STUDY = Study(
    slug="opsd",
    question="Does a model that sees the solution teach itself with fewer written tokens than rewards do?",
    arms=ARMS,
    claims=(
        headline(lower("tokens", "opsd", "grpo", 0.667, PAPER, relative=True,
                       said="OPSD needs at most a third of GRPO's written tokens until 90 % are solved")),
        lower("tokens", "opsd", "rejection", 0.5, relative=True),
        lower("tokens", "opsd", "sampled", 0.3, "pass@8 on AIME25: whole vocabulary 84.1, written token 82.1",
              relative=True, said="the whole vocabulary needs fewer tokens than the written one"),
        higher("early", "opsd", "reverse", 0.1, said="the forward KL solves more after equal tokens than the reverse"),
        higher("early", "opsd", "jsd", 0.0, "the forward KL is the best divergence"),
        lower("known_lost", "opsd", "references", 0.1, said="loses less of the known than tuning on the references"),
        higher("solved", "few", "few_offline", 0.02, "on-policy beats off-policy",
               said="on-policy beats offline with 48 questions"),
    ),
    cell=cell,
    budget={"warm": 8, "questions": 512, "test": 500, "tokens": 60_000, "early": 4_000, "offline": 150},
    smoke={"test": 20, "tokens": 2_000, "early": 1_000, "offline": 2},
    seeds=(1, 2, 3, 4, 5),
    figures=(
        Figure("tokens", (bars("tokens", "tokens written until 90 % are solved", ours={"opsd"}, scale=1.0),
                          curves("share", "solved", x="written", arms=WRITING,
                                 xlabel="tokens written", ylabel="share solved"))),
    ),
)  # fmt: skip
