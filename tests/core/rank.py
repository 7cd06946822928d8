"""One of two gloo processes of the engine's tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from torch.distributed.tensor import DTensor

from redistill.core import Plan, fit
from tests.core.processes import save_and_leave
from tests.core.toys import data, toy


def main(parallel: str, until: int, folder: Path) -> None:
    plan = Plan(
        steps=8, batch_size=10, lr=1e-2, schedule="cosine", warmup=2, clip=1.0, device="cpu", log_every=2,
        parallel=parallel, accumulate=4,  # the last batch has 7 rows: 3 and 4
    )  # fmt: skip
    method = toy()
    if os.environ["RANK"] == "1":  # what a rank starts from does not count, but for rank 0
        for values in (*method.parameters(), *method.buffers()):
            values.data.zero_()
    method = fit(method, data(), plan, folder=folder / "run", until=until).method
    assert any(isinstance(v, DTensor) for v in method.state_dict().values()) == (parallel == "shard")
    save_and_leave(method, folder)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
