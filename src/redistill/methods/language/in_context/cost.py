"""What agents cost: tokens, prices, and when demonstrations have paid for themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from redistill.core.errors import unknown
from redistill.core.slot import Configured
from redistill.core.types import NonNegative


class Usage(NamedTuple):
    """Tokens of calls. ``cached`` is the part of ``input`` that the server had seen before."""

    input: int = 0
    output: int = 0
    cached: int = 0
    calls: int = 0

    def plus(self, other: Usage) -> Usage:
        """Both together."""
        return Usage(*(a + b for a, b in zip(self, other)))


@dataclass(frozen=True)
class Price(Configured):
    """Price of a token."""

    input: NonNegative
    output: NonNegative
    cached: NonNegative | None = None  # of a cached input token; no discount if left out

    def of(self, usage: Usage) -> float:
        """Cost of ``usage``: (input - cached) * price_in + cached * price_cached + output * price_out."""
        cached = self.input if self.cached is None else self.cached
        return (usage.input - usage.cached) * self.input + usage.cached * cached + usage.output * self.output


@dataclass
class Meter:
    """Adds up the usage of every role."""

    used: dict[str, Usage] = field(default_factory=dict)

    def add(self, role: str, usage: Usage) -> None:
        """Count one more reply."""
        self.used[role] = self.used.get(role, Usage()).plus(usage)

    def cost(self, prices: Mapping[str, Price]) -> float:
        """Sum over the roles. Raises :class:`UserError` for a role that has no price."""
        for role in self.used:
            if role not in prices:
                raise unknown("role", role, prices, place="prices")
        return sum(prices[role].of(usage) for role, usage in self.used.items())


def step_cost(n: int, student: float, teacher: float, p_disagree: float) -> float:
    """Expected cost of a cascade's step: N c_S + P(disagree) c_T."""
    return n * student + p_disagree * teacher


def pays(n: int, student: float, teacher: float, p_disagree: float) -> bool:
    """Whether the cascade is cheaper than the teacher: N c_S / c_T < 1 - P(disagree)."""
    return n * student < (1 - p_disagree) * teacher


def break_even(demonstrations: float, teacher_episode: float, new_episode: float) -> float:
    """Episodes until the demonstrations are paid for, n* = C_demo / (c_T - c_new); infinite if they never are."""
    saved = teacher_episode - new_episode
    return demonstrations / saved if saved > 0 else math.inf
