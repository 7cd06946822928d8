"""The emoji bed: up to 3,491 emoji by four artists at 32 or 64 pixels, with captions, groups and skin tones.

Shipped as lossless sheets in ``data/emoji`` (built by ``scripts/build_emoji.py``; licences:
``data/emoji/LICENSES.md``). The part "faces", 130 face emoji by each of three artists who all draw flat colours, is
small and alike enough to train a diffusion model in an hour.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from redistill.core.errors import UserError, unknown

ARTISTS = ("google", "twitter", "openmoji", "fluent")
FACE_ARTISTS = ARTISTS[:3]
SIDES = (32, 64)
FOLDER = files("redistill.beds").joinpath("data/emoji")


@dataclass(frozen=True)
class Emoji:
    """``pixels`` uint8 [N, S, S, 3], ``artist`` int64 [N] (index in ``artists``), one index record per row.

    A record has ``code`` (codepoints, "1F44B-1F3FF"), ``name`` ("waving hand"), ``group``, ``subgroup`` and ``tone``
    ("" if neutral).
    """

    pixels: np.ndarray
    artist: np.ndarray
    artists: tuple[str, ...]
    records: tuple[dict[str, str], ...]

    def __len__(self) -> int:
        return len(self.artist)

    @cached_property
    def image(self) -> Tensor:
        """Float32 [N, 3, S, S] in [-1, 1]."""
        return torch.from_numpy(self.pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()

    @cached_property
    def label(self) -> Tensor:
        """The artist as condition, int64 [N]. The null condition of guided networks is ``len(artists)``."""
        return torch.from_numpy(self.artist)

    def tensors(self) -> dict[str, Tensor]:
        """What ``fit`` takes as data: image and label."""
        return {"image": self.image, "label": self.label}

    def column(self, name: str) -> list[str]:
        """One entry of every record: code, name, group, subgroup or tone."""
        return [record[name] for record in self.records]

    def take(self, rows: Sequence[int] | np.ndarray) -> Emoji:
        """The given rows, in that order."""
        rows = np.asarray(rows)
        records = tuple(self.records[row] for row in rows)
        return replace(self, pixels=self.pixels[rows], artist=self.artist[rows], records=records)


def load(part: str = "all", size: int = 32, artists: Sequence[str] | None = None, tones: bool = False) -> Emoji:
    """The emoji of ``part``: "all" or "faces" (130 faces by each of three artists, unless ``artists`` says otherwise).

    ``tones``: with the variants in five skin tones (google and openmoji). Rows: artist by artist, in Unicode's order.
    """
    if part not in ("all", "faces"):
        raise unknown("part of the emoji bed", part, ("all", "faces"))
    if size not in SIDES:
        raise UserError(f"emoji size={size}; there are {SIDES}")
    chosen = tuple(artists or (FACE_ARTISTS if part == "faces" else ARTISTS))
    index = json.loads(FOLDER.joinpath("index.json").read_text("utf8"))
    parts = [_drawn(index, artist, part, size, tones) for artist in chosen]
    return Emoji(
        pixels=np.concatenate([pixels for pixels, _ in parts]),
        artist=np.repeat(np.arange(len(chosen)), [len(records) for _, records in parts]),
        artists=chosen,
        records=tuple(record for _, records in parts for record in records),
    )


def _drawn(index: dict[str, Any], artist: str, part: str, size: int, tones: bool) -> tuple[np.ndarray, list[dict]]:
    """One artist's tiles [N, S, S, 3] with their records."""
    if artist not in ARTISTS:
        raise unknown("emoji artist", artist, ARTISTS)
    records = [index["emoji"][row] for row in index["drawn"][artist]]
    rows = [row for row, record in enumerate(records) if _wanted(record, part, tones)]
    tiles = _tiles(artist, index["side"], index["columns"])[rows]
    return _halve(tiles) if size == SIDES[0] else tiles, [records[row] for row in rows]


def _wanted(record: dict[str, str], part: str, tones: bool) -> bool:
    face = record["subgroup"].startswith("face-") or record["subgroup"] in ("cat-face", "monkey-face")
    return (part == "all" or face) and (tones or not record["tone"])


def _tiles(artist: str, side: int, columns: int) -> np.ndarray:
    """Cut an artist's sheet into tiles, uint8 [rows * columns, side, side, 3]."""
    with FOLDER.joinpath(f"{artist}.webp").open("rb") as file:
        page = np.asarray(Image.open(file).convert("RGB"))
    return page.reshape(-1, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)


def _halve(tiles: np.ndarray) -> np.ndarray:
    """Half the side: the rounded mean of 2x2 pixels."""
    n, side = tiles.shape[:2]
    blocks = tiles.reshape(n, side // 2, 2, side // 2, 2, 3).astype(np.uint16).sum((2, 4))
    return ((blocks + 2) // 4).astype(np.uint8)


@dataclass(frozen=True)
class Vocabulary:
    """Caption words as numbers from 1; 0 is padding, ``unknown`` the last id."""

    words: tuple[str, ...]

    @property
    def unknown(self) -> int:
        return len(self.words) + 1

    @property
    def size(self) -> int:
        """How many ids there are, padding and unknown included."""
        return len(self.words) + 2

    def ids(self, captions: Sequence[str], length: int = 8) -> Tensor:
        """Word ids int64 [N, length]; longer captions lose their last words."""
        number = {word: k for k, word in enumerate(self.words, start=1)}
        table = torch.zeros(len(captions), length, dtype=torch.int64)
        for row, caption in enumerate(captions):
            ids = [number.get(word, self.unknown) for word in split(caption)[:length]]
            table[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return table


def split(caption: str) -> list[str]:
    """A caption's words: runs of letters and digits in lower case."""
    return re.findall(r"[^\W_]+", caption.lower())


def vocabulary(captions: Sequence[str], least: int = 2) -> Vocabulary:
    """The words that stand in at least ``least`` different captions, most frequent first."""
    counts = Counter(word for caption in set(captions) for word in set(split(caption)))
    kept = sorted((word for word, n in counts.items() if n >= least), key=lambda word: (-counts[word], word))
    return Vocabulary(tuple(kept))
