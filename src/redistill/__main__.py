"""``python -m redistill``: the command line, as launchers of several processes start it."""

from redistill.cli import main

if __name__ == "__main__":
    main()
