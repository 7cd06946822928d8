"""What is the user's own in a recipe: a method ``module:Class``, and errors that rise in their files."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redistill.core.errors import Diverged, UserError, first_line, raised_in, reading

PLAIN = (bool, int, float, str)


def own_method(path: str) -> Any:
    """The class behind ``module:Class``. Raises :class:`UserError` for what is no method, and for
    options that a recipe could not tell from networks."""
    from redistill.core import Method
    from redistill.core.build import hints_of
    from redistill.named import factory

    found = factory(path, "method")
    if not (isinstance(found, type) and issubclass(found, Method)):
        remedy = "a recipe runs a subclass of redistill.Method"
        raise UserError(f"{path} is a {type(found).__name__}; {remedy}", place="method")
    with reading(f"cannot read the annotations of {path}", place="method"):
        hints = hints_of(found)
    for name, parameter in inspect.signature(found).parameters.items():
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and hints.get(name) in PLAIN:
            said = f"{name!r} is no network; write it after a * in {found.__name__}.__init__"
            raise UserError(f"{said}, as options are", place="method")
    return found


@contextmanager
def theirs() -> Iterator[None]:
    """Around what runs the user's code: an error that rose in a file of theirs is one line with the
    file; any other goes on as it is."""
    try:
        yield
    except (UserError, Diverged):
        raise
    except Exception as error:
        where = raised_in(error).removeprefix("; ")
        if not where:
            raise
        said = f"{type(error).__name__}: {first_line(error)}; --traceback shows the way there"
        raise UserError(said, place=where) from error
