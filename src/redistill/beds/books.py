"""The books bed: which of nine public-domain novels is a sentence from? (provenance, licence: ``data/books.json``)

Each book gives 100 passages of 4 consecutive sentences; three books are by Jane Austen and three by G. K. Chesterton.
Passages are never divided between training and test rows.
"""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import dataclass
from importlib.resources import files
from io import StringIO

import numpy as np

from redistill.core.errors import UserError

PASSAGE = 4


@dataclass(frozen=True)
class Sentences:
    """``text`` [N]; ``label`` [N] the number of the book, ``place`` [N] the number of the sentence in it, both int64;
    ``names`` of the books."""

    text: tuple[str, ...]
    label: np.ndarray
    place: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.text)

    @property
    def classes(self) -> int:
        """The number of books."""
        return len(self.names)

    def take(self, rows: np.ndarray) -> Sentences:
        """The given rows, in that order."""
        return Sentences(tuple(self.text[i] for i in rows), self.label[rows], self.place[rows], self.names)

    def among(self, *books: int) -> Sentences:
        """The sentences of the books with these numbers, which become the classes 0, 1, ..."""
        found = self.take(np.concatenate([np.flatnonzero(self.label == book) for book in books]))
        label = np.repeat(np.arange(len(books)), [int((self.label == book).sum()) for book in books])
        return Sentences(found.text, label, found.place, tuple(self.names[book] for book in books))

    def split(self, *sizes: int, seed: int) -> tuple[Sentences, ...]:
        """Disjoint random parts with so many sentences of each book, in whole passages, in random order."""
        if any(size < 1 or size % PASSAGE for size in sizes):
            raise UserError(f"parts of {sizes} sentences a book; give multiples of the {PASSAGE} in a passage")
        ends = np.cumsum(sizes) // PASSAGE
        most = int(np.bincount(self.label).min()) // PASSAGE
        if ends[-1] > most:
            raise UserError(f"parts of {sizes} sentences a book ask for more than the {most * PASSAGE} there are")
        rng = np.random.default_rng(seed)
        passages = [np.flatnonzero(self.label == k).reshape(-1, PASSAGE) for k in range(self.classes)]
        order = np.stack([rng.permutation(rows) for rows in passages])  # [K, P, 4] rows
        starts = [0, *ends[:-1]]
        return tuple(self.take(rng.permutation(order[:, a:b].ravel())) for a, b in zip(starts, ends))


def load() -> Sentences:
    """All 3,600 sentences, book by book in reading order."""
    data = files("redistill.beds").joinpath("data")
    with data.joinpath("books.tsv.gz").open("rb") as file:
        text = gzip.decompress(file.read()).decode()
    rows = list(csv.reader(StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))
    names = tuple(book["title"] for book in json.loads(data.joinpath("books.json").read_text())["books"])
    label, place = (np.array([int(row[column]) for row in rows]) for column in (0, 1))
    return Sentences(tuple(row[2] for row in rows), label, place, names)
