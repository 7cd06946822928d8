"""Checkpoints of the trials of a search, as safetensors in one folder that several processes share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from redistill.core import UserError

Weights = dict[str, Tensor]


class Pool:
    """At most ``limit`` checkpoints by name; the one that was used longest ago goes first.

    All must hold tensors of the same names and shapes, because one is loaded in place of another.
    """

    def __init__(self, folder: Path, *, limit: int) -> None:
        self.folder, self.limit = folder, limit
        folder.mkdir(parents=True, exist_ok=True)

    def __contains__(self, name: str) -> bool:
        return self._file(name).exists()

    def __len__(self) -> int:
        return len(self._files())

    def read(self, name: str) -> Weights:
        """The checkpoint ``name``, which counts as use. Raises FileNotFoundError when it is not (or no longer) here."""
        os.utime(self._file(name))
        return load_file(self._file(name))

    def put(self, name: str, weights: Mapping[str, Tensor]) -> None:
        """Write a checkpoint; it appears whole or not at all. Raises :class:`UserError` for other tensors than those
        of the checkpoints that are here."""
        self._check(name, weights)
        with tempfile.TemporaryDirectory(dir=self.folder) as beside:
            whole = Path(beside) / self._file(name).name
            save_file({key: value.detach().contiguous().clone() for key, value in weights.items()}, whole)
            os.replace(whole, self._file(name))

    def trim(self, spare: Collection[str]) -> None:
        """Remove what is above the limit, least recently used first, but nothing named in ``spare``."""
        loose = [file for file in self._files() if file.stem not in spare]
        for file in loose[: max(0, len(self) - self.limit)]:
            file.unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _files(self) -> list[Path]:
        """Least recently used first."""
        return sorted(self.folder.glob("*.safetensors"), key=lambda file: (_used(file), file.name))

    def _check(self, name: str, weights: Mapping[str, Tensor]) -> None:
        for file in self._files()[-1:]:
            with safe_open(file, "pt") as stored:
                there = {key: tuple(stored.get_slice(key).get_shape()) for key in stored.keys()}  # noqa: SIM118
            given = {key: tuple(value.shape) for key, value in weights.items()}
            for key in sorted(there.keys() | given.keys()):
                if there.get(key) != given.get(key):
                    raise UserError(
                        f"{key!r} has shape {given.get(key)} in {name} and {there.get(key)} in {file.stem}; search no "
                        "hyper-parameter that changes the network's shape",
                        place="pool",
                    )


def _used(file: Path) -> int:
    """When a file was last written or read; 0 when another process has just removed it."""
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
