"""One of two gloo processes that train a case together."""

from __future__ import annotations

import sys
from pathlib import Path

from redistill.core import fit
from tests.core.processes import save_and_leave
from tests.methods.cases import CASES, VARIANTS
from tests.methods.test_catalogue import plan


def main(slug: str, parallel: str, folder: Path) -> None:
    method, data = {**CASES, **VARIANTS}[slug]()
    fitted = fit(method, data, plan(parallel=parallel))
    assert not fitted.student.training
    save_and_leave(fitted.method, folder)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
