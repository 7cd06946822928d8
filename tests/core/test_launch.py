"""How many processes a run has: what a launcher started, or one line that says what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from redistill.core import Plan, UserError, fit
from redistill.core import world as worlds
from redistill.core.world import World
from tests.core.test_exactness import PLAN, Alone
from tests.core.toys import data, net

ROOT = Path(__file__).parents[2]


def under_torchrun(folder: Path) -> str:
    """What two processes of ``tests.core.launched`` said; this machine's accelerators are hidden from them."""
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv_backend", "c10d"]
    script = ["--rdzv_endpoint", "localhost:0", "-m", "tests.core.launched", str(folder)]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launch, *script], env=env, cwd=ROOT, text=True, capture_output=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def test_torchrun_on_processors_spreads_a_run_whose_device_is_auto(tmp_path):
    said = under_torchrun(tmp_path)
    one = fit(Alone(net(0)), data(), Plan(**PLAN)).method.state_dict()
    for rank in (0, 1):
        got = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert all(torch.allclose(got[k], v, rtol=0, atol=1e-9) for k, v in one.items())
    assert said.count("redistill: 2 processes on cpu") == 1


@pytest.mark.parametrize("device", ["cpu", "auto"])
@pytest.mark.parametrize("given", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "two", "RANK": "0", "LOCAL_RANK": "0"}], ids=str)
def test_an_environment_that_names_no_process_is_refused_in_one_line(given, device, monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"^environment: WORLD_SIZE={given['WORLD_SIZE']}.* names no process") as said:
        World(device)
    assert "\n" not in str(said.value)


def test_fewer_processes_than_were_launched_are_refused(monkeypatch):
    alone = worlds.PartialState(cpu=True)  # as where an accelerator cannot be shared by processes
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(worlds, "PartialState", lambda **_: alone)
    with pytest.raises(UserError, match=r"^plan\.device: 2 processes were launched, but this one joined a group of 1"):
        World("auto")
