"""``redistill doctor``: what this machine has, and which extras are missing."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import typer

EXTRAS = {
    "tables": ("statsmodels", "mlxtend"), "language": ("transformers", "peft", "datasets", "gguf"),
    "diffusion": ("diffusers", "transformers"), "timm": ("timm",), "search": ("optuna",), "trackers": ("tensorboard",),
    "trackio": ("trackio",), "wandb": ("wandb",),
}  # fmt: skip


def doctor() -> None:
    """Print versions, devices, folders and, for each extra, what to install."""
    import torch

    from redistill.core import cache, evidence

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["cpu"]
    typer.echo(f"python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores")
    typer.echo(f"devices: {', '.join(devices)}; threads: {torch.get_num_threads()}")
    typer.echo(f"cache: {cache.home()}; evidence: {evidence.folder()}")
    for extra, packages in EXTRAS.items():
        missing = [p for p in packages if not _installed(p)]
        told = f"missing {', '.join(missing)}: pip install 'redistill[{extra}]'" if missing else "ok"
        typer.echo(f"{extra:10} {told}")


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
