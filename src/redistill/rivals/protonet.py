"""Prototypical networks: an embedding learns to name queries by the nearest class mean of their episode (Snell, Swersky
and Zemel 2017).

    L = mean over queries of CE(-|f(x) - c_n|^2, y),   c_n = mean of f over the K support images of class n

(arXiv 1703.05175.) Roles: student (trained, the way it is tested). An episode names N ways (classes), K shots (support
rows a class, to learn from) and queries (rows to be named).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from redistill.core import Loss, Method, Progress, UserError
from redistill.core.method import Batch, bare_progress
from redistill.core.progress import seed_of
from redistill.core.types import Count

Array = np.ndarray


@dataclass(frozen=True)
class Episode:
    """Rows of the data set, class by class: ``support`` [N K], ``query`` [N Q]; their labels count from 0."""

    support: Array
    support_label: Array
    query: Array
    query_label: Array


def draw_episode(
    label: Array, index: int, *, ways: int = 5, shots: int = 5, queries: int = 15, seed: int = 0,
    groups: Array | None = None,
) -> Episode:  # fmt: skip
    """Episode number ``index`` of the rows with classes ``label`` [N]: the same for the same (``seed``, ``index``).

    ``groups`` [N]: rows of one group show the same thing (one emoji by several artists): the support rows of a class
    are of different groups, and no query is of a support row's group. Raises :class:`UserError` where there are too few
    classes, or a class has too few rows.
    """
    rng = np.random.default_rng(seed_of(seed, "episode", index))
    groups = np.arange(len(label)) if groups is None else groups
    classes = rng.permutation(np.unique(label))[:ways]
    if len(classes) < ways:
        raise UserError(f"{ways} ways; the rows have {len(classes)} classes", place="episodes")
    drawn = [_rows_of_class(np.flatnonzero(label == c), groups, shots, queries, rng) for c in classes]
    support, query = (np.concatenate(part) for part in zip(*drawn))
    return Episode(support, np.repeat(np.arange(ways), shots), query, np.repeat(np.arange(ways), queries))


def _rows_of_class(rows: Array, groups: Array, shots: int, queries: int, rng: np.random.Generator) -> tuple:
    rows = rng.permutation(rows)
    _, first = np.unique(groups[rows], return_index=True)
    support = rows[np.sort(first)[:shots]]
    query = rows[~np.isin(groups[rows], groups[support])][:queries]
    if len(support) < shots or len(query) < queries:
        raise UserError(
            f"a class of {len(rows)} rows gives {len(support)} shots and {len(query)} queries, not {shots} and "
            f"{queries}; ask for fewer or leave the class out", place="episodes",
        )  # fmt: skip
    return support, query


class Episodes:
    """A data set for :class:`PrototypicalNetwork`: row ``i`` is episode ``i``, its ``image`` [N, K + Q, ...] class by
    class, support first. ``augment`` changes them, alike whenever the episode is read."""

    def __init__(
        self, image: Tensor, label: Array, *, count: int, ways: int = 5, shots: int = 5, queries: int = 10,
        seed: int = 0, augment: Callable[[Tensor, Progress], Tensor] | None = None,
    ) -> None:  # fmt: skip
        self.image, self.label, self.count, self.augment = image, label, count, augment
        self.sizes = {"ways": ways, "shots": shots, "queries": queries, "seed": seed}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        found = draw_episode(self.label, index, **self.sizes)
        ways = self.sizes["ways"]
        rows = np.concatenate([part.reshape(ways, -1) for part in (found.support, found.query)], 1)  # [N, K + Q]
        image = self.image[torch.from_numpy(rows).flatten()]
        if self.augment is not None:
            image = self.augment(image, bare_progress(index, seed=self.sizes["seed"]))
        return {"image": image.unflatten(0, rows.shape)}


class PrototypicalNetwork(Method):
    """Rows are :class:`Episodes` of ``shots`` support images a class."""

    needs = ("image",)

    def __init__(self, student: nn.Module, *, shots: Count = 5) -> None:
        super().__init__()
        self.student, self.shots = student, shots

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``ce``: labels of the queries."""
        image = batch["image"]  # [B, N, K + Q, C, H, W]
        episodes, ways, rows = image.shape[:3]
        f = self.student(image.flatten(0, 2)).unflatten(0, (episodes, ways, rows))
        means = f[:, :, : self.shots].mean(2)  # [B, N, d]
        query = f[:, :, self.shots :].flatten(1, 2)  # [B, N Q, d], class by class
        label = torch.arange(ways, device=f.device).repeat_interleave(rows - self.shots).expand(episodes, -1)
        scores = -(query[:, :, None] - means[:, None]).square().sum(-1)  # [B, N Q, N]
        return Loss({"ce": nn.functional.cross_entropy(scores.flatten(0, 1), label.flatten())})
