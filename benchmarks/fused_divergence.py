"""The fused divergence beside TRL's and Liger's: CPU time and memory of loss and gradient, both heads included.

    python benchmarks/fused_divergence.py                              # all of it, about an hour on one core
    python benchmarks/fused_divergence.py --vocab 49152 --valid 0.25   # one cell
    python benchmarks/fused_divergence.py --python .venv-bench/bin/python --json results.json

Hidden states [4, 256, 256] of student and teacher, float32, generalised JSD with beta 0.5, gradients of the student's
hidden states and head. Every implementation runs in a process of its own on one thread, and must give the same loss to
1e-5 and the same norms of the gradients to 1e-4 before it is timed. Time is the median CPU time of 5 steps after 2 (of
3 after 1 where a step takes over 10 s), memory the peak of the first step above what the inputs hold. A peer that is
not installed is skipped.

Bars: from 32k tokens on, at least 2x less time and 3x less memory than the best peer with 25 % of the positions valid,
no slower with all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

VOCABULARIES = (512, 32_768, 49_152, 151_936)
VALID = (0.25, 0.5, 1.0)
SHAPE = (4, 256, 256)  # [B, T, H]
BETA = 0.5
BAR_FROM = 32_768  # tokens in the vocabulary
OURS = "redistill"
BENCH_PYTHON = Path(".venv-bench/bin/python")

# ----------------------------------------------------------------- implementations: problem -> function giving the loss
# Called in a process that can import the package; hidden states hs, ht [B, T, H], heads ws, wt [V, H], mask [B, T].


def redistill(p: Any) -> Callable[[], Any]:
    from redistill.losses.divergences import JSD
    from redistill.losses.fused import Head, fused_divergence

    student, teacher, divergence = Head(p.ws), Head(p.wt), JSD(beta=BETA)
    return lambda: fused_divergence(p.hs, student, p.ht, teacher, divergence=divergence, mask=p.mask)


def redistill_plain(p: Any) -> Callable[[], Any]:
    from redistill.losses.divergences import JSD, reduce

    divergence = JSD(beta=BETA)
    return lambda: reduce(divergence(p.hs[p.mask] @ p.ws.T, p.ht[p.mask] @ p.wt.T))


def trl_gkd(p: Any) -> Callable[[], Any]:
    from trl.experimental.gkd import GKDTrainer

    labels = p.mask.long().masked_fill(~p.mask, -100)
    return lambda: GKDTrainer.generalized_jsd_loss(p.hs @ p.ws.T, p.ht @ p.wt.T, labels=labels, beta=BETA)


def trl_chunked(p: Any) -> Callable[[], Any]:
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    return lambda: _chunked_divergence_loss(p.hs, p.ht, p.ws, p.wt, p.mask.long(), BETA)[0]


def liger(p: Any) -> Callable[[], Any]:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=BETA, compiled=False)
    labels = p.mask.long().masked_fill(~p.mask, -100).flatten()
    return lambda: loss(p.hs.flatten(0, 1), p.ws, p.ht.flatten(0, 1), p.wt, labels)


IMPLEMENTATIONS: dict[str, tuple[Callable[[Any], Callable[[], Any]], str]] = {
    OURS: (redistill, "redistill"),
    "redistill, plain after mask": (redistill_plain, "redistill"),
    "TRL GKD (full logits)": (trl_gkd, "trl"),
    "TRL chunked": (trl_chunked, "trl"),
    "Liger chunked JSD": (liger, "liger-kernel"),
}
PEERS = [name for name, (_, package) in IMPLEMENTATIONS.items() if package != "redistill"]

# ------------------------------------------------------------------------------------ in the process of one of them


def problem(vocabulary: int, valid: float) -> Any:
    """The same numbers in every process: student and teacher that differ by a nat or less per token."""
    import torch

    random = torch.Generator().manual_seed(0)
    b, t, h = SHAPE
    hs, ht = (torch.randn(b, t, h, generator=random) for _ in range(2))
    ws, wt = (0.05 * torch.randn(vocabulary, h, generator=random) for _ in range(2))
    mask = torch.zeros(b * t, dtype=torch.bool)
    mask[torch.randperm(b * t, generator=random)[: round(valid * b * t)]] = True
    return argparse.Namespace(hs=hs.requires_grad_(), ht=ht, ws=ws.requires_grad_(), wt=wt, mask=mask.view(b, t))


def memory(key: str) -> float:
    """VmRSS (now) or VmHWM (highest) of this process in MB; where there is no /proc, the highest for both."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def forget_peak() -> float:
    """Starts the highest-memory mark again, so that imports do not hide a step; returns the memory held now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        print("cannot reset the memory mark: peaks may be understated", file=sys.stderr)
    return memory("VmRSS")


def measure(name: str, vocabulary: int, valid: float, expect: dict[str, float] | None) -> dict[str, Any]:
    from importlib.metadata import version

    import torch

    torch.set_num_threads(1)
    make, package = IMPLEMENTATIONS[name]
    p = problem(vocabulary, valid)
    loss_of = make(p)

    def step() -> tuple[float, float]:
        p.hs.grad = p.ws.grad = None
        start = time.process_time()
        loss = loss_of()
        loss.backward()
        return time.process_time() - start, float(loss)

    before = forget_peak()
    first, loss = step()
    peak = memory("VmHWM") - before
    seen = {"loss": loss, "hidden_grad": float(p.hs.grad.norm()), "head_grad": float(p.ws.grad.norm())}
    for key, value in (expect or {}).items():
        allowed = 1e-5 if key == "loss" else 1e-4 * abs(value)
        assert abs(seen[key] - value) <= allowed, f"{name}: {key} is {seen[key]}, expected {value}"
    warm, count = (1, 5) if first < 10 else (0, 3)  # the first step has warmed up already
    seconds = [step()[0] for _ in range(warm + count)][warm:]
    return seen | {"seconds": statistics.median(seconds), "peak_mb": peak, "version": version(package)}


# ------------------------------------------------------------------------------------------------ around all of them


def spawn(python: Path, name: str, vocabulary: int, valid: float, expect: dict[str, float] | None) -> dict[str, Any]:
    task = json.dumps([name, vocabulary, valid, expect])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    done = subprocess.run([str(python), __file__, "--task", task], env=environment, capture_output=True, text=True)
    lines = done.stderr.strip().splitlines() or ["no output"]
    if done.returncode and "ModuleNotFoundError" in lines[-1]:
        return {"skipped": f"{lines[-1]} (for {python})"}
    if done.returncode:
        raise SystemExit(f"{name}, V={vocabulary}, {valid:.0%} valid, failed:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def cell(python: Path, vocabulary: int, valid: float) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for name, (_, package) in IMPLEMENTATIONS.items():
        ours = rows.get(OURS)
        expect = {key: ours[key] for key in ("loss", "hidden_grad", "head_grad")} if ours else None
        rows[name] = spawn(Path(sys.executable) if package == "redistill" else python, name, vocabulary, valid, expect)
        show(vocabulary, valid, name, rows[name], rows[OURS])
    return rows


def show(vocabulary: int, valid: float, name: str, row: dict[str, Any], ours: dict[str, Any]) -> None:
    place = f"{vocabulary:>7,} {valid:>5.0%}  {name:<28}"
    if "skipped" in row:
        print(f"{place} skipped: {row['skipped']}", flush=True)
        return
    ratios = f"{row['seconds'] / ours['seconds']:>6.1f}x {row['peak_mb'] / ours['peak_mb']:>6.1f}x"
    print(f"{place} {row['loss']:.6f} {row['seconds']:>8.3f} s {row['peak_mb']:>8.0f} MB {ratios}", flush=True)


def bars(vocabulary: int, valid: float, rows: dict[str, dict[str, Any]]) -> list[str]:
    """The bars that this cell misses."""
    peers = [rows[name] for name in PEERS if "skipped" not in rows[name]]
    if vocabulary < BAR_FROM or not peers:
        return []
    gain = {key: min(peer[key] for peer in peers) / rows[OURS][key] for key in ("seconds", "peak_mb")}
    least = {0.25: {"seconds": 2.0, "peak_mb": 3.0}, 1.0: {"seconds": 1.0}}.get(valid, {})
    return [
        f"V={vocabulary}, {valid:.0%} valid: {key} {gain[key]:.2f}x, bar {bar}x"
        for key, bar in least.items()
        if gain[key] < bar
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, nargs="+", default=VOCABULARIES)
    parser.add_argument("--valid", type=float, nargs="+", default=VALID)
    parser.add_argument("--python", type=Path, default=BENCH_PYTHON if BENCH_PYTHON.exists() else Path(sys.executable),
                        help="interpreter that has the peers (default: .venv-bench, else this one)")  # fmt: skip
    parser.add_argument("--json", type=Path, help="file for the numbers; other cells in it are kept")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(measure(*json.loads(options.task))))
        return 0
    known: dict[str, Any] = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    print(f"{'V':>7} valid  {'implementation':<28} {'loss':>8}   CPU time  extra peak    time  memory")
    missed, tested = [], 0
    for vocabulary in options.vocab:
        for valid in options.valid:
            known[f"{vocabulary} {valid}"] = rows = cell(options.python, vocabulary, valid)
            missed += bars(vocabulary, valid, rows)
            tested += vocabulary >= BAR_FROM and any("skipped" not in rows[name] for name in PEERS)
            if options.json:
                options.json.write_text(json.dumps(known, indent=1) + "\n")
    print(
        "\n" + ("\n".join(missed) or (f"bars met in {tested} cells" if tested else "no cell that has a bar and a peer"))
    )
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
