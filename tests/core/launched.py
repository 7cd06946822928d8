"""A script under torchrun: the device is left open, and each of two processes sees its half of every batch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from redistill.core import Plan, Progress, fit
from tests.core.processes import save_and_leave
from tests.core.test_exactness import PLAN, Alone
from tests.core.toys import data, net

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    plan, shares = Plan(**{**PLAN, "device": "auto"}), set[tuple[int, int]]()

    def watch(batch: dict[str, Any], now: Progress) -> dict[str, Any]:
        assert now.rows is not None
        shares.add((now.rows.stop - now.rows.start, now.rows.total))
        return batch

    method = fit(Alone(net(0)), data(), plan, folder=folder / "run", augment=watch).method
    fit(Alone(net(0)), data(), plan)  # says nothing more
    assert shares <= {(5, 10), (3, 7), (4, 7)}, shares
    save_and_leave(method, folder)
