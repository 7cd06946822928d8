"""One of two gloo processes that train a case together."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from redistill.core import fit
from tests.methods.cases import CASES
from tests.methods.test_catalogue import plan


def main(slug: str, parallel: str, folder: Path) -> None:
    method, data = CASES[slug]()
    method = fit(method, data, plan(parallel=parallel)).method
    state = {k: v.full_tensor() if isinstance(v, DTensor) else v for k, v in method.state_dict().items()}
    torch.save({k: v.clone() for k, v in state.items()}, folder / f"rank{torch.distributed.get_rank()}.pt")
    torch.distributed.barrier()  # neither rank leaves while the other still needs it
    torch.distributed.destroy_process_group()
    os._exit(0)  # what matters is on the disk; threads of gloo that outlive the group may abort an ordinary exit


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
