"""The engine: one contract for systems that train, one loop, exact checkpoints. Knows no paper and no domain.

Names are imported when they are first used, so that the command line can read errors and evidence without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redistill.core.engine import Fitted, fit
    from redistill.core.errors import Diverged, UserError
    from redistill.core.followers import Ema, Follower, Snapshot
    from redistill.core.loss import Loss
    from redistill.core.method import Again, Batch, Method
    from redistill.core.plan import Optim, Plan
    from redistill.core.progress import Progress
    from redistill.core.slot import Slot, describe

_WHERE = {
    "errors": ("Diverged", "UserError"),
    "engine": ("Fitted", "fit"),
    "followers": ("Ema", "Follower", "Snapshot"),
    "loss": ("Loss",),
    "method": ("Again", "Batch", "Method"),
    "plan": ("Optim", "Plan"),
    "progress": ("Progress",),
    "slot": ("Slot", "describe"),
}
_MODULE = {name: module for module, names in _WHERE.items() for name in names}

__all__ = ["Again", "Batch", "Diverged", "Ema", "Fitted", "Follower", "Loss", "Method", "Optim", "Plan", "Progress",
           "Slot", "Snapshot", "UserError", "describe", "fit"]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MODULE:
        value = getattr(import_module(f"redistill.core.{_MODULE[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'redistill.core' has no attribute {name!r}")
