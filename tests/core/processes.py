"""Two gloo processes on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from redistill.core.world import leave


def in_two_processes(module: str, folder: Path, *arguments: str) -> list[dict[str, torch.Tensor]]:
    """Run ``python -m module *arguments folder`` as ranks 0 and 1; returns what each saved as ``rank<r>.pt``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", module, *arguments, str(folder)]
    processes = []
    for rank in ("0", "1"):
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        env = {**os.environ, **ranks, **place}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        processes.append(subprocess.Popen(command, env=env, cwd=root, text=True, **pipes))
    for process in processes:
        output, _ = process.communicate(timeout=180)
        assert process.returncode == 0, output[-3000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


def save_and_leave(module: torch.nn.Module, folder: Path) -> None:
    """Save a rank's whole state as ``rank<r>.pt`` and end the process together with the other rank."""
    state = {k: v.full_tensor() if isinstance(v, DTensor) else v for k, v in module.state_dict().items()}
    torch.save({k: v.clone() for k, v in state.items()}, folder / f"rank{torch.distributed.get_rank()}.pt")
    leave()
