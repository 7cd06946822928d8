"""What a recipe names by ``module:name``: found in the folder that the user works in, or installed."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from typing import Any, get_type_hints

from redistill.core.errors import UserError, reading


def factory(path: str, place: str) -> Any:
    """The function behind ``module:function``. Raises :class:`UserError` at ``place``."""
    module, _, name = path.partition(":")
    if not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise UserError(f"{path[:60]!r} is no factory; write module:function", place=place)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # the installed command does not look where the user works
    with reading(f"cannot import {path!r}", place=place):
        return getattr(importlib.import_module(module), name)


def plug_in(path: str, base: type, place: str) -> Any:
    """The subclass of ``base`` behind ``module:Class``. Raises :class:`UserError` at ``place`` for anything else."""
    found = factory(path, place)
    if not (isinstance(found, type) and issubclass(found, base)) or inspect.isabstract(found):
        what = "an abstract class" if inspect.isabstract(found) else f"no {base.__name__}"
        raise UserError(f"{path} is {what}; name a subclass of {base.__module__}.{base.__name__}", place=place)
    with reading(f"cannot read the annotations of {path}", place=place):
        get_type_hints(getattr(found, "__init__"))  # noqa: B009, mypy's view
    return found
