"""What the user gave and cannot work: one line with the place, the value and the remedy.

The command line prints a :class:`UserError` without a traceback and exits with 2. What *we* broke is an ``assert``.
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(ValueError):
    """A mistake in what the user gave: ``place`` says where, the message what is wrong and what to write instead."""

    def __init__(self, message: str, *, place: str = "") -> None:
        super().__init__(f"{place}: {message}" if place else message)


class Diverged(RuntimeError):
    """A loss or a gradient became NaN or infinite; names the step, the turn and the term. No parameter was updated
    with it (a batch norm may have counted the batch)."""


@contextmanager
def reading(what: str, *, place: str, remedy: str = "") -> Iterator[None]:
    """Around what is the user's and is read, imported, built or first called: whatever rises there becomes a
    :class:`UserError` at ``place`` that says ``what`` failed, why, and the ``remedy``.

    An end of the program is none here: a module that calls ``sys.exit`` on import is the user's mistake too."""
    try:
        yield
    except (UserError, Diverged):
        raise
    except (Exception, SystemExit) as error:
        said = f"{what} ({first_line(error)}{raised_in(error)})"
        raise UserError(f"{said}; {remedy}" if remedy else said, place=place) from error


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its name where it says nothing that stands alone."""
    if error.__cause__ is not None and "alidation error" in str(error):  # a check that names itself first
        error = error.__cause__
    said = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(": ")[:300]
    return f"{type(error).__name__}: {said}" if isinstance(error, (LookupError, SystemExit)) else said


def raised_in(error: BaseException) -> str:
    """The user's own file and line that an error rose in, to mend a network of one's own by."""
    others = (str(Path(__file__).parents[1]), str(Path(traceback.__file__).parent), "<")  # ours, Python's and packages'
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(others) and "site-packages" not in f.filename]
    return f"; {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""


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
