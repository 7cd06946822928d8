"""Expensive tensors, made once and kept on this machine under a hash of what they were made from."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor


def home() -> Path:
    """The cache folder: ``REDISTILL_CACHE`` or ``~/.cache/redistill``."""
    return Path(os.environ.get("REDISTILL_CACHE", Path.home() / ".cache" / "redistill"))


def key(inputs: Mapping[str, Any]) -> str:
    """A short hash of JSON-like ``inputs``."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:20]


def remember(name: str, inputs: Mapping[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors that ``make()`` gives, from the disk when they were made before from the same ``inputs``.

    ``inputs`` must hold everything that the result depends on: seeds, sizes, steps, a version of the recipe.
    """
    file = home() / name / f"{key(inputs)}.safetensors"
    if not file.exists():
        made = {k: t.detach().contiguous().clone() for k, t in make().items()}
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as beside:
            save_file(made, Path(beside) / file.name)
            os.replace(Path(beside) / file.name, file)
    return load_file(file)
