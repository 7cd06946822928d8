"""The command line: ``redistill``. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from redistill.core.errors import Diverged, UserError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a loss became NaN or infinite, 2 a mistake of the user's (both one
    line on stderr), 130 interrupted."""
    from redistill.cli.app import run

    try:
        sys.exit(run(arguments))
    except UserError as mistake:
        print(f"redistill: {mistake}", file=sys.stderr)
        sys.exit(2)
    except Diverged as end:
        print(f"redistill: {end}; a smaller plan.lr or plan.clip may help", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("redistill: interrupted", file=sys.stderr)
        sys.exit(130)
