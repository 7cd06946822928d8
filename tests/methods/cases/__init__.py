"""One small case of every method that trains: how to build it and its rows, in float64.

A new method adds ``<slug>.py`` with ``case()``. A file that is called like no system is a setting that trains in
another way than a slug's defaults. Each is imported when it is first asked for: a rank imports one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from redistill.catalog import entries
from redistill.core import Method

Case = Callable[[], tuple[Method, Any]]


def made(name: str) -> tuple[Method, Any]:
    """The method and the rows of a case."""
    return import_module(f"tests.methods.cases.{name}").case()


def random_rows(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


_NAMES = sorted(file.stem for file in Path(__file__).parent.glob("*.py") if file.stem != "__init__")
_SYSTEMS = {e.slug for e in entries()}
CASES: dict[str, Case] = {name: partial(made, name) for name in _NAMES if name in _SYSTEMS}
VARIANTS: dict[str, Case] = {name: partial(made, name) for name in _NAMES if name not in _SYSTEMS}
