"""CPU seconds of ``redistill list`` and ``redistill --help``, beside those of a bare interpreter. The bar: 0.3 s."""

from __future__ import annotations

import resource
import subprocess
import sys

COMMANDS = {"python -c pass": ["-c", "pass"], "redistill list": ["-m", "redistill", "list"],
            "redistill --help": ["-m", "redistill", "--help"]}  # fmt: skip


def seconds(arguments: list[str], times: int = 5) -> float:
    """The least CPU time, user and system, of several runs."""
    found = []
    for _ in range(times):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


if __name__ == "__main__":
    bare = seconds(COMMANDS["python -c pass"])
    for name, arguments in COMMANDS.items():
        spent = seconds(arguments)
        print(f"{name:<18} {spent:.3f} s CPU   {spent / bare:5.1f} x the bare interpreter")
