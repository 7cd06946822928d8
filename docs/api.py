"""Write what docstrings say of every class and function as pages below docs/api: python docs/api.py"""

from __future__ import annotations

from pathlib import Path

import pdoc

import redistill

LEFT_OUT = ("!redistill.studies", "!redistill.cli", "!redistill.__main__")  # experiments and commands


def main() -> None:
    """One page a module."""
    for name in redistill.__all__:  # named there, imported when asked for: pdoc does not ask
        setattr(redistill, name, getattr(redistill, name))
    pdoc.render.configure(docformat="restructuredtext")
    pdoc.pdoc("redistill", *LEFT_OUT, output_directory=Path(__file__).with_name("api"))


if __name__ == "__main__":
    main()
