"""redistill: published distillation systems under one contract, with evidence. Importing this imports no torch."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_CORE = ("Again", "Ema", "Loss", "Method", "Plan", "Progress", "Slot", "Snapshot", "UserError", "fit")
__all__ = [*_CORE, "__version__"]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name in _CORE:
        return getattr(import_module("redistill.core"), name)
    raise AttributeError(f"module 'redistill' has no attribute {name!r}")
