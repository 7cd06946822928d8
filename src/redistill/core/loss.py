"""What a turn returns: named terms to minimise, named statistics for the engine to combine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Loss:
    """The objective of one turn on one micro-batch.

    ``terms``: scalars, each already weighted; what is logged is what enters the gradient. Every term is a *mean* over
    ``weight`` items (rows of the micro-batch unless said otherwise; the number of valid tokens for a token mean), so
    that the engine can put micro-batches and ranks together into exactly the mean over the whole batch.
    ``average``: tensors averaged with the same weights; ``gather``: tensors concatenated along rows; both reach
    :meth:`Method.after`. ``watch``: numbers that are only logged.
    """

    terms: Mapping[str, Tensor]
    weight: Tensor | float | None = None
    average: Mapping[str, Tensor] = field(default_factory=dict)
    gather: Mapping[str, Tensor] = field(default_factory=dict)
    watch: Mapping[str, Tensor | float] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        """The sum of the terms, a scalar."""
        return sum(list(self.terms.values())[1:], next(iter(self.terms.values())))
