"""Labelled pictures in memory, and what every classification study does with them: splits and wrong labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from redistill.core.errors import UserError


@dataclass(frozen=True)
class Images:
    """``image`` [N, C, H, W] float32 in [0, 1], ``label`` [N] int64, number of ``classes``."""

    image: np.ndarray
    label: np.ndarray
    classes: int

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: np.ndarray) -> Images:
        """The given rows, in that order."""
        return Images(self.image[rows], self.label[rows], self.classes)

    def split(self, *sizes: int, seed: int) -> tuple[Images, ...]:
        """Disjoint random parts of the given sizes and, last, all that remain; the same for the same ``seed``."""
        if sum(sizes) > len(self):
            raise UserError(f"parts of {sizes} pictures ask for more than the {len(self)} there are")
        order = np.random.default_rng(seed).permutation(len(self))
        return tuple(self.take(rows) for rows in np.split(order, np.cumsum(sizes)))


def balanced(images: Images, each: int, seed: int) -> Images:
    """At most ``each`` random pictures of every class, class by class."""
    order = np.random.default_rng(seed).permutation(len(images))
    rows = [order[images.label[order] == c][:each] for c in range(images.classes)]
    return images.take(np.concatenate(rows))


def corrupt(label: np.ndarray, share: float, classes: int, seed: int) -> np.ndarray:
    """Labels of which exactly ``round(share * N)`` are replaced by another class, uniformly among the wrong ones."""
    if not 0 <= share <= 1:
        raise UserError(f"share={share} of wrong labels; give a number from 0 to 1")
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(label), size=round(share * len(label)), replace=False)
    wrong = label.copy()
    wrong[rows] = (label[rows] + rng.integers(1, classes, size=len(rows))) % classes
    return wrong


def confuse(label: np.ndarray, share: float, classes: int, seed: int) -> np.ndarray:
    """Labels of which exactly ``round(share * N)`` became the next class: wrong in the same way throughout a class."""
    rows = np.flatnonzero(corrupt(label, share, classes, seed) != label)
    wrong = label.copy()
    wrong[rows] = (label[rows] + 1) % classes
    return wrong
