"""A recipe on two processes: one student is written, whole, and the same as that of one process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]


def launched(folder: Path, processes: int, parallel: str) -> tuple[str, dict]:
    """What ``python -m redistill run`` prints under torchrun, and the weights it wrote."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    out = folder / f"{parallel}{processes}"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", port]
    call = ["-m", "redistill", "run", str(folder / "recipe.yaml"), f"plan.parallel={parallel}", f"out={out}"]
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *call], env=env, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, load_file(out / "student" / "model.safetensors")


@pytest.mark.parametrize("parallel", ["replicate", "shard"])
def test_two_processes_write_the_student_of_one(parallel, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "rows.npz", image=rng.random((24, 1, 4, 4), dtype=np.float32), label=np.arange(24) % 3)
    net = {"inputs": 16, "outputs": 3, "hidden": [8]}  # drawn by chance: the seed of the plan decides
    given = {
        "method": "ps_kd", "options": {"classes": 3}, "out": "unused",
        "models": {"student": {"kind": "torch", "path": "redistill.models.nets:mlp", "options": net}},
        "data": {"kind": "table", "path": str(tmp_path / "rows.npz"), "held_out": 0.25}, "keep": "best",
        "plan": {"steps": 4, "batch_size": 8, "device": "cpu", "seed": 5, "log_every": 1},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(given))
    _, one = launched(tmp_path, 1, "replicate")
    said, two = launched(tmp_path, 2, parallel)
    assert said.count("student after 4 steps") == 1
    assert one.keys() == two.keys()
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-6
