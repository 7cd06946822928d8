"""The command line: ``redistill``. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence

from redistill.core.errors import Diverged, UserError, first_line


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a loss became NaN or infinite, no memory or a bug of ours, 2 a mistake
    of the user's, 130 interrupted. Each is one line on stderr; ``--traceback`` shows where it rose, too."""
    from redistill.cli.app import run

    given = list(sys.argv[1:] if arguments is None else arguments)
    show = "--traceback" in given
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may hold what no terminal can show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code, line = run([a for a in given if a != "--traceback"]), ""
    except BrokenPipeError:  # whoever reads has enough, as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code, line = 1, ""
    except KeyboardInterrupt:
        code, line = 130, "interrupted"
    except Exception as error:
        if show:
            traceback.print_exception(error)
        code, line = _last_line(error, shown=show)
    if line:
        print(f"redistill: {line}", file=sys.stderr)
    sys.exit(code)


def _last_line(error: Exception, *, shown: bool) -> tuple[int, str]:
    """Exit code and line for what a command ended with."""
    if isinstance(error, UserError):
        return 2, str(error)
    if isinstance(error, Diverged):
        return 1, f"{error}; a smaller plan.lr or plan.clip may help"
    said = f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, MemoryError) or "alloc" in said.lower():
        return 1, f"no memory for this ({said}); a smaller plan.batch_size, or plan.accumulate, may help"
    if isinstance(error, OSError):  # a full disk, a file that was taken away
        return 1, f"the system refused ({said})"
    return 1, f"a bug in redistill, please report it ({said}); the traceback is {'above' if shown else _kept(error)}"


def _kept(error: Exception) -> str:
    """Write the traceback to a new file; returns where it is."""
    import tempfile

    try:
        with tempfile.NamedTemporaryFile("w", prefix="redistill-", suffix=".txt", delete=False) as file:
            traceback.print_exception(error, file=file)
        return f"in {file.name}"
    except OSError:
        return "shown with --traceback"
