"""The command line: ``redistill``. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from redistill.core.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 a mistake of the user's (one line on stderr), 130 interrupted."""
    from redistill.cli.app import run

    try:
        sys.exit(run(arguments))
    except UserError as mistake:
        print(f"redistill: {mistake}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("redistill: interrupted", file=sys.stderr)
        sys.exit(130)
