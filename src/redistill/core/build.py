"""Recipe -> constructor: plain values become the options of a part, checked against its signature and nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from redistill.core.errors import UserError, nearest, unknown
from redistill.core.slot import Slot, options
from redistill.core.types import words_of
from redistill.named import plug_in


def build(
    cls: Callable[..., Any], given: Mapping[str, Any] | None = None, *roles: Any, place: str = "options", name: str = ""
) -> Any:
    """An instance of ``cls`` (or what a function returns) from positional ``roles`` and the plain values ``given`` for
    its options. ``name``: what errors call it, if not by its own name.

    Raises :class:`UserError` with the place, the value and the nearest valid word for an unknown or mistyped option.
    """
    values = read_options(cls, given or {}, place=place)
    required = [n for n, p in options(cls).items() if p.default is inspect.Parameter.empty and n not in values]
    if required:
        raise UserError(f"{name or cls.__name__} needs a value for {required[0]!r}", place=place)
    try:
        return cls(*roles, **values)
    except UserError as mistake:
        raise UserError(str(mistake), place=place) from mistake


def read_options(cls: Callable[..., Any], given: Mapping[str, Any], *, place: str = "options") -> dict[str, Any]:
    """The plain values ``given`` as the options of ``cls`` want them. Raises :class:`UserError` as :func:`build`."""
    known = options(cls)
    for option in given:
        if option not in known:
            raise unknown("option", option, known, place=f"{place}.{option}")
    hints, near = hints_of(cls), cls.__module__
    return {n: convert(v, hints.get(n, Any), place=f"{place}.{n}", near=near) for n, v in given.items()}


def hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function, or of the constructor of a class."""
    made = getattr(target, "__init__") if isinstance(target, type) else target  # noqa: B009, mypy's view
    return get_type_hints(made, include_extras=True)


def convert(value: Any, hint: Any, *, place: str, near: str = "") -> Any:
    """``value`` as ``hint`` asks: a plug-in from its word (see :meth:`Slot.choices`) or table, anything else by
    pydantic's rules."""
    slot = slot_of(hint)
    if slot is not None and not isinstance(value, (slot, NoneType)):
        return plug(slot, value, place=place, near=near)
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except PydanticUserError:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as wrong:
        if get_origin(hint) in (Union, UnionType) and sum(map(bool, map(words_of, get_args(hint)))) > 1:
            raise UserError(f"give {words_of(hint)}, got {str(value)[:40]}", place=place) from wrong
        raise one_line(wrong, place) from wrong


def slot_of(hint: Any) -> type[Slot] | None:
    """The plug-in class that a type hint (perhaps ``X | None``) asks for."""
    candidates = [hint, *get_args(hint)]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, Slot)), None)


def plug(slot: type[Slot], value: Any, *, place: str, near: str = "") -> Slot:
    """A plug-in for ``slot`` from its word or ``module:Class``, or from a table with that as ``name`` and options."""
    table = dict(value) if isinstance(value, Mapping) else {"name": value}
    word, choices = str(table.pop("name", None)), slot.choices(near)
    found = plug_in(word, slot, place) if ":" in word else choices.get(word)
    if found is None:
        raise unknown(slot.__name__.lower(), word[:40], choices, place=place)
    return build(found, table, place=place)


def checked_options(
    reader: Callable[..., Any], given: Mapping[str, Any], place: str, elsewhere: Sequence[str] = ()
) -> dict[str, Any]:
    """``given`` as the options of a reader: all parameters but the first, of the types that they are declared with.
    ``elsewhere``: options that were taken out already."""
    known = list(inspect.signature(reader).parameters)[1:]
    for name in given:
        if name not in known:
            raise unknown("option", name, [*known, *elsewhere], place=f"{place}.{name}")
    hints = hints_of(reader)
    return {name: convert(value, hints[name], place=f"{place}.{name}") for name, value in given.items()}


def one_of(words: Callable[[], Iterable[str]]) -> Callable[[str], str]:
    """A check for pydantic that a value is one of ``words()``."""

    def check(value: str) -> str:
        if value not in set(words()):
            raise ValueError(f"{value!r} is not valid; {nearest(value, words())}")
        return value

    return check


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
