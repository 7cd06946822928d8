"""The engine: one contract for systems that train, one loop, exact checkpoints. Knows no paper and no domain.

The public names are imported when they are first asked for, so that the command line can read ``redistill.core.errors``
without torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_HOME = {
    "Again": "method", "Batch": "method", "Diverged": "errors", "Ema": "followers", "Fitted": "fit",
    "Follower": "followers", "Loss": "loss", "Method": "method", "Optim": "plan", "Plan": "plan",
    "Progress": "progress", "Slot": "slot", "Snapshot": "followers", "UserError": "errors", "describe": "slot",
    "fit": "fit",
}  # fmt: skip
__all__ = sorted(_HOME)


class _Core(ModuleType):
    """Python binds a submodule to its name in the package; here ``fit`` stays the function, not the module fit.py."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value.fit if name == "fit" and isinstance(value, ModuleType) else value)


sys.modules[__name__].__class__ = _Core


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
