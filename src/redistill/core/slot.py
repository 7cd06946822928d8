"""Parts that remember how they were built, so that a constructor is the only schema of a recipe."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, Self

from redistill.core.types import check

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def snake(name: str) -> str:
    """The recipe's word for a class: ``ForwardKL`` -> ``forward_kl``."""
    return _CAMEL.sub("_", name).lower()


class Configured:
    """Checks the numbers given to its constructor against their :mod:`types <redistill.core.types>` and remembers
    them, with all that was given, under their names (``arguments``); mixes with ``nn.Module``."""

    arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        signature = inspect.signature(cls.__init__)
        bound = signature.bind_partial(self, *args, **kwargs)  # partial: copies come without arguments
        object.__setattr__(self, "arguments", dict(list(bound.arguments.items())[1:]))
        check(cls.__init__, self.arguments, snake(cls.__name__))
        return self


class Slot(Configured):
    """Base of the plug-ins (a path, a divergence, a temperature): rivals are subclasses, side by side in one file.

    In a recipe a plug-in is its word (``divergence: reverse_kl``) or a table (``{name: jsd, beta: 0.3}``).
    """

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in describe(self).items())})"

    @classmethod
    def choices(cls, near: str = "") -> dict[str, type[Slot]]:
        """Word -> class, for every concrete subclass in the file of the slot, or in the module ``near`` (of the method
        that asks): the same words whatever else has been imported."""
        base = next(c for c in reversed(cls.__mro__) if issubclass(c, Slot) and c is not Slot)
        homes, found = {base.__module__, near}, {}
        for child in _descendants(cls):
            if child.__module__ in homes and not inspect.isabstract(child) and not child.__name__.startswith("_"):
                found[snake(child.__name__)] = child
        return dict(sorted(found.items()))


def _descendants(cls: type[Slot]) -> Iterator[type[Slot]]:
    for child in cls.__subclasses__():
        yield child
        yield from _descendants(child)


def options(cls: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keyword-only parameters of a constructor or a function: what a recipe may set."""
    parameters = inspect.signature(cls).parameters.values()
    keyword = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
    if keyword or not (isinstance(cls, type) and issubclass(cls, Slot)):
        return keyword
    named = (p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))  # those are of the base class
    return {p.name: p for p in named}  # a plug-in has nothing but options


def describe(part: Configured) -> dict[str, Any]:
    """The options that ``part`` was built with, defaults included, as plain values: constructor -> recipe."""
    values = {name: part.arguments.get(name, p.default) for name, p in options(type(part)).items()}
    return {name: _plain(value) for name, value in values.items() if value is not inspect.Parameter.empty}


def _plain(value: Any) -> Any:
    if isinstance(value, Slot):
        inner = describe(value)
        return {"name": snake(type(value).__name__), **inner} if inner else snake(type(value).__name__)
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
