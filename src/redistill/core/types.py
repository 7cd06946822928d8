"""Numbers with a range, as types of options: ``tau: Positive = 4.0``.

They are checked once: in a recipe when its values are read (:mod:`redistill.core.build`), in Python when a part is
built (:class:`~redistill.core.slot.Configured`) or a function called (:func:`checked`). NaN, infinity and ``True`` are
in no range.
"""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, wraps
from types import UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from redistill.core.errors import UserError, nearest


@dataclass(frozen=True)
class Range:
    """What an option of a number takes: ``words`` says it as the end of "give ..."."""

    words: str
    low: float = -math.inf
    high: float = math.inf
    above: bool = False  # low itself is too low
    below: bool = False  # high itself is too high

    def __contains__(self, value: Any) -> bool:
        if isinstance(value, bool) or not _is_real(value):
            return False
        low = self.low < value if self.above else self.low <= value
        high = value < self.high if self.below else value <= self.high
        return low and high and abs(value) < math.inf

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Pydantic's rules for the number, but no ``true``; then this range."""
        from pydantic_core import ValidationError, core_schema

        def ours(value: Any, convert: Callable[[Any], Any]) -> Any:
            with suppress(ValidationError):
                found = value if isinstance(value, bool) else convert(value)
                if found in self:
                    return found
            raise ValueError(f"give {self.words}, got {str(value)[:40]}")

        return core_schema.no_info_wrap_validator_function(ours, handler(source))


def _is_real(value: Any) -> bool:
    return isinstance(value, numbers.Real)  # numpy's too


Finite = Annotated[float, Range("a finite number")]
Positive = Annotated[float, Range("a number above 0", 0, above=True)]
NonNegative = Annotated[float, Range("a number from 0 up", 0)]
From1 = Annotated[float, Range("a number from 1 up", 1)]
Share = Annotated[float, Range("a number from 0 to 1", 0, 1)]
PositiveShare = Annotated[float, Range("a number above 0, at most 1", 0, 1, above=True)]
ShareBelow1 = Annotated[float, Range("a number from 0, below 1", 0, 1, below=True)]
ShareInside = Annotated[float, Range("a number above 0, below 1", 0, 1, above=True, below=True)]
Count = Annotated[int, Range("a whole number from 1", 1, 2**63, below=True)]
TwoOrMore = Annotated[int, Range("a whole number from 2", 2, 2**63, below=True)]
CountOrZero = Annotated[int, Range("a whole number from 0", 0, 2**63, below=True)]
Workers = Annotated[int, Range("a whole number from 0 to 64", 0, 64)]
Seed = Annotated[int, Range("a whole number from 0, below 2^63", 0, 2**63, below=True)]


P = ParamSpec("P")
R = TypeVar("R")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """``function``, whose arguments are checked as those of a part are: :func:`check`."""
    place = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        check(function, inspect.signature(function).bind_partial(*args, **kwargs).arguments, place)
        return function(*args, **kwargs)

    return call


def check(function: Callable[..., Any], given: Mapping[str, Any], place: str) -> None:
    """Refuse, at ``place``, what the annotations of ``function`` say no to: a number outside of its :class:`Range`, a
    word that is none of a ``Literal``, another type than a bool, a text or a plug-in. Other types are not looked at."""
    for name, hint in _hints(function):
        if name in given and (wrong := _wrong(given[name], hint)):
            raise UserError(f"{name}={str(given[name])[:40]}; {wrong}", place=place)


@cache
def _hints(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError:  # of a class that only a function knows
        return []
    return [(name, hint) for name, hint in hints.items() if name != "return"]


def words_of(hint: Any) -> str:
    """What a hint says of a value beyond its type; empty where it says nothing."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Literal:
        return " or ".join(map(str, inner))
    if kind in (Union, UnionType):
        return " or ".join(dict.fromkeys(filter(None, map(words_of, inner))))
    if kind in (tuple, list, dict):
        part = inner[kind is dict]
        each = words_of(part) or _NAMES.get(part, getattr(part, "__name__", "anything"))
        return f"a {'table' if kind is dict else 'list'}, each {each}"
    return next((m.words for m in getattr(hint, "__metadata__", ()) if isinstance(m, Range)), "")


def _wrong(value: Any, hint: Any) -> str:
    """What to give in the place of ``value``; empty where it will do."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Literal:
        return "" if value in inner and not isinstance(value, bool) else nearest(value, inner)
    if kind is Annotated:
        fits = inner[0] is not int or isinstance(value, numbers.Integral)
        ranges = (m for m in inner[1:] if isinstance(m, Range))
        return next((f"give {r.words}" for r in ranges if value not in r or not fits), "")
    if kind in (Union, UnionType):
        wrong = [_wrong(value, h) for h in inner if not _other_type(value, h)]
        if "" in wrong or (wrong and isinstance(value, (tuple, list, dict))):  # what is wrong inside says more
            return min(wrong)
        return f"give {words_of(hint)}" if words_of(hint) else _other_type(value, inner[0])
    if kind in (tuple, list, dict):
        return _wrong_parts(value, hint, kind, inner)
    named = hint in (bool, str) or hasattr(hint, "choices")  # a plug-in has choices
    return _other_type(value, hint) if named else ""


def _wrong_parts(value: Any, hint: Any, kind: type, inner: tuple[Any, ...]) -> str:
    """The same of a list, a tuple (a list will do for one, as in recipes) or the values of a table."""
    if not isinstance(value, dict if kind is dict else (tuple, list)):
        return f"give {words_of(hint)}"
    parts = list(value.values() if isinstance(value, dict) else value)
    fixed = kind is tuple and inner[-1] is not Ellipsis
    if fixed and len(parts) != len(inner):
        return f"give {len(inner)} of them"
    each = inner if fixed else (inner[kind is dict],) * len(parts)
    return next(filter(None, map(_wrong, parts, each)), "")


def _other_type(value: Any, hint: Any) -> str:
    """What type to give where ``value`` is of another one."""
    kind = get_origin(hint) or hint
    ours = kind in (Annotated, Any) or not isinstance(kind, type) or isinstance(value, kind)
    ours = ours or (kind is float and isinstance(value, numbers.Real)) or (kind is tuple and isinstance(value, list))
    return "" if ours else f"give {_NAMES.get(kind, kind.__name__)}"


_NAMES = {bool: "true or false", str: "text", type(None): "null"}
