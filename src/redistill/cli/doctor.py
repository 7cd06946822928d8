"""``redistill doctor``: what this machine has, and which extras are missing or broken."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import platform
import warnings

import typer

from redistill.core.errors import UserError, reading

EXTRAS = {
    "tables": ("statsmodels", "mlxtend"), "language": ("transformers", "peft", "datasets", "gguf"),
    "diffusion": ("diffusers", "transformers"), "timm": ("timm",), "search": ("optuna",), "trackers": ("tensorboard",),
    "trackio": ("trackio",), "wandb": ("wandb",),
}  # fmt: skip


def doctor() -> None:
    """Print versions, devices, folders and, for each extra, what to install or to mend."""
    import torch

    from redistill.core import cache, evidence

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["cpu"]
    typer.echo(f"python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores")
    typer.echo(f"devices: {', '.join(devices)}; threads: {torch.get_num_threads()}")
    typer.echo(f"cache: {cache.home()}; evidence: {evidence.folder()}")
    for extra, packages in EXTRAS.items():
        typer.echo(f"{extra:10} {_told(extra, packages)}")


def _told(extra: str, packages: tuple[str, ...]) -> str:
    """What an extra lacks, what of it is broken, or ``ok``."""
    found = {package: _trouble(package) for package in packages}
    missing = [package for package, trouble in found.items() if trouble == "missing"]
    broken = [f"broken {trouble}" for trouble in found.values() if trouble not in ("", "missing")]
    if missing:
        broken.append(f"missing {', '.join(missing)}: pip install 'redistill[{extra}]'")
    return "; ".join(broken) or "ok"


def _trouble(package: str) -> str:
    """Why ``package`` cannot be used, found by importing it: one that is installed may still be broken."""
    quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    try:
        with quiet[0], quiet[1], warnings.catch_warnings(), reading("import failed", place=package):
            warnings.simplefilter("ignore")
            importlib.import_module(package)
    except UserError as error:
        cause = error.__cause__
        absent = isinstance(cause, ModuleNotFoundError) and cause.name == package
        return "missing" if absent else str(error)
    return ""
