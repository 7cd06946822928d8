"""Losses are taken in float32 or better, whatever the networks compute in."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, cast

import torch
from torch import Tensor

P = ParamSpec("P")


def raised(x: Tensor) -> Tensor:
    """``x`` in float32, or as it is where it is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def in_float32(loss: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """``loss`` of :func:`raised` tensors, outside of autocast: squares and sums of half-precision features overflow."""

    @wraps(loss)
    def taken(*args: P.args, **options: P.kwargs) -> Tensor:
        first = cast(Tensor, args[0])
        with torch.autocast(first.device.type, enabled=False):
            return loss(*(raised(x) if isinstance(x, Tensor) else x for x in args), **options)  # type: ignore[arg-type]

    return taken
