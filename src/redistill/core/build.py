"""Recipe -> constructor: plain values become the options of a part, checked against its signature and nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from redistill.core.errors import UserError, nearest, unknown
from redistill.core.slot import Slot, options


def build(
    cls: Callable[..., Any], given: Mapping[str, Any] | None = None, *roles: Any, place: str = "options", **filled: Any
) -> Any:
    """An instance of ``cls`` (or what a function returns) from positional ``roles``, the plain values ``given`` for its
    options, and options that the caller has ``filled`` with objects.

    Raises :class:`UserError` with the place, the value and the nearest valid word for an unknown or mistyped option.
    """
    given, known = dict(given or {}), {name: p for name, p in options(cls).items() if name not in filled}
    for name in given:
        if name not in known:
            raise unknown("option", name, known, place=f"{place}.{name}")
    hints = get_type_hints(getattr(cls, "__init__") if isinstance(cls, type) else cls, include_extras=True)  # noqa: B009
    values = {n: convert(v, hints.get(n, Any), place=f"{place}.{n}") for n, v in given.items()}
    required = [n for n, p in known.items() if p.default is inspect.Parameter.empty and n not in values]
    if required:
        raise UserError(f"{cls.__name__} needs a value for {required[0]!r}", place=place)
    try:
        return cls(*roles, **values, **filled)
    except UserError as mistake:
        raise UserError(str(mistake), place=place) from mistake


def convert(value: Any, hint: Any, *, place: str) -> Any:
    """``value`` as ``hint`` asks: a plug-in from its word or table, anything else by pydantic's rules."""
    slot = slot_of(hint)
    if slot is not None and isinstance(value, (str, Mapping)):
        return plug(slot, value, place=place)
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except PydanticUserError:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as wrong:
        raise one_line(wrong, place) from wrong


def slot_of(hint: Any) -> type[Slot] | None:
    """The plug-in class that a type hint (perhaps ``X | None``) asks for."""
    candidates = [hint, *get_args(hint)]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, Slot)), None)


def plug(slot: type[Slot], value: str | Mapping[str, Any], *, place: str) -> Slot:
    """A plug-in for ``slot`` from its word, or from a table with ``name`` and options."""
    table = {"name": value} if isinstance(value, str) else dict(value)
    choices = slot.choices() or {}
    word = table.pop("name", None)
    if not isinstance(word, str) or word not in choices:
        raise unknown(slot.__name__.lower(), str(word), choices, place=place)
    return build(choices[word], table, place=place)


def validated(model: type[BaseModel], given: Any, *, place: str) -> Any:
    """An instance of a pydantic ``model``; the first mistake becomes one line, with the nearest valid key."""
    if not isinstance(given, Mapping):
        raise UserError(f"expected a table of keys, got {given!r}", place=place)
    try:
        return model(**{str(key): value for key, value in given.items()})
    except ValidationError as wrong:
        raise one_line(wrong, place, model.model_fields) from wrong


def one_line(wrong: ValidationError, place: str, fields: Iterable[str] = ()) -> UserError:
    """The first mistake of a pydantic error in one line; first of all a key that is none of the ``fields``."""
    for error in wrong.errors():
        if fields and error["type"] == "extra_forbidden" and len(error["loc"]) == 1:
            return unknown("key", str(error["loc"][0]), fields, place=f"{place}.{error['loc'][0]}")
    first = wrong.errors()[0]
    where = ".".join([place, *[str(part) for part in first["loc"] if not str(part).startswith("function-")]])
    expected = first.get("ctx", {}).get("expected")
    if expected and isinstance(first["input"], str):
        words = [w.strip(" '") for w in str(expected).replace(" or ", ",").split(",")]
        return UserError(f"{first['input']!r} is not valid; {nearest(first['input'], words)}", place=where)
    message = first["msg"].removeprefix("Value error, ")
    shown = "" if first["type"] in ("missing", "value_error") else f", got {repr(first['input'])[:60]}"
    return UserError(f"{message[0].lower()}{message[1:]}{shown}", place=where)
