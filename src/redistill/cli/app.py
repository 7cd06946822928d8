"""The commands of ``redistill`` and the application that imports each of them only when it runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from redistill.catalog import load
from redistill.core.errors import UserError

# Help is plain text: rich's version of it loads a Markdown parser and a highlighter, half of what --help cost.
# A new command is one line: name -> (module:function, the line that --help shows).
COMMANDS: dict[str, tuple[str, str]] = {
    "list": ("redistill.cli.listing:list_", "Every system of the catalogue, filtered by the five questions."),
    "show": ("redistill.cli.show:show", "One system: idea, answers, equation, when to use it, evidence."),
    "reproduce": ("redistill.cli.reproduce:reproduce", "The paper's own comparison at laptop scale, with verdicts."),
    "compare": (
        "redistill.cli.report:compare",
        "Several systems side by side: by evidence, or by one recipe.",
    ),
    "report": ("redistill.cli.report:report", "The evidence as one static HTML folder."),
    "plan": ("redistill.cli.plan:plan", "Split compute between teacher and student by distillation scaling laws."),
    "doctor": ("redistill.cli.doctor:doctor", "What this machine has and which extras are missing."),
    "demo": ("redistill.cli.demo:demo", "Distil the shipped faces teacher into a one-step student."),
    "init": ("redistill.cli.run:init", "Write a starter recipe for a system."),
    "run": ("redistill.cli.run:run", "Distil your own model as a recipe says."),
    "cite": ("redistill.cli.listing:cite", "The BibTeX of the papers behind these systems."),
}
# newer typer carries its own copy of click, so click.UsageError may be another class
UsageError = typer.BadParameter.__base__


class Lazy(TyperGroup):
    """A group whose commands are only names and help lines until one of them is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put the real command in the place of the name that was called, then go on as usual."""
        if args[0] in COMMANDS:
            single = typer.Typer(add_completion=False, rich_markup_mode=None)
            single.command(args[0])(load(COMMANDS[args[0]][0]))
            self.commands[args[0]] = get_command(single)
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=Lazy, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
for _name, (_, _line) in COMMANDS.items():
    app.command(_name, help=_line)(lambda: None)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"redistill {version('redistill')}")
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="The version."),
    traceback: bool = typer.Option(False, "--traceback", help="Show where an error rose, too; may stand anywhere."),
) -> None:
    """Published distillation and self-distillation systems under one contract, with evidence."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; what click calls a usage error becomes a :class:`UserError`."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        return app(given, prog_name="redistill", standalone_mode=False) or 0
    except UsageError as wrong:
        where = wrong.ctx.command_path if wrong.ctx else "redistill"
        raise UserError(f"{wrong.format_message().rstrip('.')}; see {where} --help") from wrong
