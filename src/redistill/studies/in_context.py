"""Does a cheap agent with a costly agent's steps in its prompt, and a cascade by agreement, do the work for less?

Bed: the text household; teacher: its planner with 3 % slips at 20 times the student's price; student: the copying
stand-in, and SmolLM2-135M-Instruct in the arms that name it (fewer games: it reads at the speed of one core).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from redistill.beds import household
from redistill.beds.figures import Figure, bars
from redistill.core.claims import headline, higher, lower, reaches, within
from redistill.core.study import Outcome, Results, Study
from redistill.methods.language.in_context import Episode, InContext
from redistill.methods.language.in_context.agents import Policy
from redistill.methods.language.in_context.cascade import Gate, RandomMix, SelfConsistency
from redistill.methods.language.in_context.cost import Price, break_even
from redistill.methods.language.in_context.retrieval import Encode, Memo
from redistill.methods.language.in_context.scoring import CopyPolicy, ScoringPolicy

PRICES = {"student": Price(1, 1, cached=0.1), "teacher": Price(20, 20, cached=2)}  # a cached token costs a tenth
ALONE = SelfConsistency(1)
Count = Callable[[str], int]


@dataclass(frozen=True)
class Arm:
    """One way to play: the gate, how many examples, and how they are found."""

    title: str
    gate: Gate = ALONE
    k: int = 3
    whole: bool = False  # whole episodes, fetched once
    at_random: bool = False  # examples without regard to the question
    smollm: bool = False
    teacher: bool = False  # it plays alone
    share_of: str = ""  # the teacher takes as many steps as in this arm, but at random


ARMS = {
    "teacher": Arm("the teacher alone", teacher=True),
    "zero_shot": Arm("student alone", k=0),
    "in_context": Arm("student with examples"),
    "cascade": Arm("student alone, with cascade", SelfConsistency(3), k=0),
    "mix": Arm("with examples, teacher at random (same share)", share_of="both"),
    "both": Arm("with examples and cascade (N = 3)", SelfConsistency(3)),
    "random_examples": Arm("with random examples and cascade", SelfConsistency(3), at_random=True),
    "whole_episodes": Arm("with whole episodes, fetched once, and cascade", SelfConsistency(3), whole=True),
    "both_2": Arm("examples, cascade with N = 2", SelfConsistency(2)),
    "both_5": Arm("examples, cascade with N = 5", SelfConsistency(5)),
    "both_majority": Arm("examples, majority of 3", SelfConsistency(3, "majority")),
    "lm_cascade": Arm("SmolLM2 alone, with cascade", SelfConsistency(3), k=0, smollm=True),
    "lm_both": Arm("SmolLM2 with examples and cascade", SelfConsistency(3), smollm=True),
}


@functools.cache
def minilm() -> Memo:
    """The sentence encoder, with a memory."""
    from redistill.models.transformers import load_encoder

    return Memo(load_encoder().eval().encode)


@functools.cache
def smollm(temperature: float) -> tuple[ScoringPolicy, Count]:
    """SmolLM2-135M-Instruct as a policy, and its count of tokens."""
    from redistill.beds.smollm import load

    lm = load(lora_rank=0).eval()
    return ScoringPolicy(lm, temperature=temperature), lambda text: len(lm.tokenizer(text)["input_ids"])


def at_random(seed: int) -> Encode:
    """The control of retrieval: fresh random vectors for every text and query."""
    generator = torch.Generator().manual_seed(seed)

    def encode(texts: Sequence[str]) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(len(texts), 64, generator=generator), dim=-1)

    return encode


def words(text: str) -> int:
    """What the stand-in counts as tokens."""
    return len(text.split())


def system(arm: Arm, gate: Gate, seed: int, budget: Mapping[str, Any]) -> InContext:
    """The method in one setting."""
    student: Policy = CopyPolicy(temperature=budget["copy_temperature"])
    count: Count = words
    if arm.smollm:
        student, count = smollm(budget["lm_temperature"])
    return InContext(
        student, household.Planner(count=count), at_random(seed) if arm.at_random else minilm(), cascade=gate,
        k=arm.k, window=budget["window"], retrieval="episode" if arm.whole else "step",
        instructions=household.INSTRUCTIONS, max_steps=household.MAX_STEPS, seed=seed,
    )  # fmt: skip


def cell(name: str, seed: int, budget: Mapping[str, Any]) -> Outcome:
    """One arm on the test games of one seed; the teacher plays the same games, for its cost."""
    arm = ARMS[name]
    train, test = household.games(seed, budget["demonstrations"], budget["games"])
    test = test[: budget["lm_games"]] if arm.smollm else test
    gate = RandomMix(cell(arm.share_of, seed, budget).metrics["teacher_share"]) if arm.share_of else arm.gate
    method = system(arm, gate, seed, budget)
    collected = method.collect(train)
    judged: list[tuple[bool, bool]] = []  # (answer taken, first sample right)

    def watch(world: household.Household, actions: Sequence[str], taken: bool) -> None:
        judged.append((taken, actions[0] in world.advice()[0]))

    alone = [method.teach(world, len(train) + i) for i, world in enumerate(test)]
    play = functools.partial(method.run, watch=watch)
    episodes = alone if arm.teacher else [play(world, len(train) + i) for i, world in enumerate(test)]
    metrics = {**measures(episodes, judged), **costs(episodes, alone, collected)}
    return Outcome(metrics, text={"episode": told(episodes[0])})


def measures(episodes: Sequence[Episode], judged: Sequence[tuple[bool, bool]]) -> dict[str, float]:
    """Success, steps, share of the teacher's steps, and how often the student is right when it agrees with itself."""
    steps = sum(e.steps for e in episodes)
    found = {
        "success": float(np.mean([e.success for e in episodes])),
        "steps": steps / len(episodes),
        "teacher_share": sum(len(e.teacher_steps) for e in episodes) / steps,
    }
    taken, left = ([right for t, right in judged if t is kind] for kind in (True, False))
    if judged:
        found["right"] = float(np.mean([right for _, right in judged]))
    if taken and left:
        found |= {"right_agree": float(np.mean(taken)), "right_disagree": float(np.mean(left))}
        found["agreement_gap"] = found["right_agree"] - found["right_disagree"]
    return found


def costs(episodes: Sequence[Episode], alone: Sequence[Episode], collected: Sequence[Episode]) -> dict[str, float]:
    """In units of the teacher's mean episode: an episode; one until the game is won, for which the teacher plays again
    what was lost; and the episodes until the demonstrations have paid."""
    ours, theirs = (np.array([e.meter.cost(PRICES) for e in es]) for es in (episodes, alone))
    again = np.array([0.0 if e.success else cost for e, cost in zip(episodes, theirs)])
    until_won = float((ours + again).mean())
    paid = break_even(sum(e.meter.cost(PRICES) for e in collected), float(theirs.mean()), until_won)
    found = {"cost": float(ours.mean() / theirs.mean()), "cost_won": until_won / float(theirs.mean())}
    return found | ({"break_even": paid} if np.isfinite(paid) else {})


def told(episode: Episode) -> str:
    """An episode to read; * marks the teacher's steps."""
    lines = [f"Task: {episode.trajectory.goal}"]
    for t, step in enumerate(episode.trajectory.steps):
        lines += [step.observation, f">{'*' if t in episode.teacher_steps else ''} {step.action}"]
    return "\n".join([*lines, "done" if episode.success else "not done"])


def success_by_cost(axis: Any, results: Results, arms: Sequence[str]) -> None:
    """A panel: success against the cost of an episode, an arm a dot."""
    for arm in arms:
        x, y = results.values(arm, "cost").mean(), results.values(arm, "success").mean()
        axis.plot(x, y, "s" if ARMS[arm].smollm else "o")
        axis.annotate(arm.replace("_", " "), (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7)
    axis.axvline(1, color="grey", lw=0.8, ls=":")
    axis.set(xlabel="cost of an episode / the teacher's", ylabel="success", ylim=(-0.05, 1.1))
    axis.set_title("squares: SmolLM2-135M; circles: the stand-in", fontsize=9)


STUDY = Study(
    slug="in_context",
    question="Do a teacher's steps in the prompt and a cascade by agreement do an agent's work for less?",
    arms=ARMS,
    claims=(
        headline(lower("cost_won", "both", "teacher", 0.1, "ALFWorld: 0.96 against 0.89, at 0.42 of the cost",
                       relative=True, said="stand-in: teacher-level success costs less than the teacher")),
        within(0.05, "success", "both", "teacher", "0.96 against 0.89", said="stand-in: wins as often as the teacher"),
        lower("cost_won", "both", "cascade", 0.0, relative=True,
              said="stand-in: that is cheaper than the cascade without examples"),
        higher("success", "in_context", "zero_shot", 0.1, "0.18 -> 0.87", said="stand-in: examples help"),
        higher("success", "both", "in_context", 0.05, "0.87 -> 0.96", said="stand-in: the cascade adds to examples"),
        higher("success", "both", "mix", 0.05, "12 to 28 points at equal cost",
               said="stand-in: the cascade beats a random mix with the same share of the teacher"),
        lower("teacher_share", "both", "random_examples", 0.05,
              said="stand-in: retrieved examples spare the teacher more steps than random ones"),
        lower("cost_won", "both", "whole_episodes", 0.05, "26 % cheaper", relative=True,
              said="stand-in: steps fetched anew are cheaper than whole episodes"),
        reaches("agreement_gap", "both", 0.2, "0: agreement says nothing",
                said="stand-in: agreement predicts a right step"),
        lower("teacher_share", "lm_both", "lm_cascade", 0.05,
              said="SmolLM2: examples lower the cascade's need of the teacher"),
        lower("cost_won", "lm_both", "teacher", 0.0, relative=True,
              said="SmolLM2: teacher-level success costs less than the teacher"),
    ),
    cell=cell,
    budget={"demonstrations": 100, "games": 60, "lm_games": 8, "window": 1, "copy_temperature": 0.15,
            "lm_temperature": 0.5},
    smoke={"demonstrations": 10, "games": 3, "lm_games": 1},
    seeds=(11, 12, 13, 14, 15),
    figures=(
        Figure("cascade", (
            success_by_cost,
            bars("right_agree", "right if samples agree, % (dot: if not)", dots="right_disagree"),
        )),
    ),
)  # fmt: skip
