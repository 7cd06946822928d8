"""What the user gave and cannot work: one line with the place, the value and the remedy.

The command line prints a :class:`UserError` without a traceback and exits with 2. What *we* broke is an ``assert``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user gave: ``place`` says where, the message what is wrong and what to write instead."""

    def __init__(self, message: str, *, place: str = "") -> None:
        super().__init__(f"{place}: {message}" if place else message)


class Diverged(RuntimeError):
    """A loss or a gradient became NaN or infinite; names the step, the turn and the term. No parameter was updated
    with it (a batch norm may have counted the batch)."""


def nearest(word: str, valid: Iterable[object]) -> str:
    """A remedy for a mistyped ``word``: ``did you mean 'x'?`` or the list of what is valid."""
    words = sorted(str(v) for v in valid)
    close = difflib.get_close_matches(str(word), words, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    shown = ", ".join(words[:12]) + (", ..." if len(words) > 12 else "")
    return f"valid: {shown}" if words else "nothing is valid here"


def unknown(kind: str, word: str, valid: Iterable[object], *, place: str = "") -> UserError:
    """The error for a ``word`` that is not one of the ``valid`` values of ``kind``."""
    return UserError(f"unknown {kind} {word!r}; {nearest(word, valid)}", place=place)


def need(extra: str, module: str) -> UserError:
    """The error for a missing optional dependency; says which extra to install."""
    return UserError(f"the package {module!r} is not installed; run: pip install 'redistill[{extra}]'")
