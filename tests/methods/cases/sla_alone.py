from __future__ import annotations

from typing import Any

from redistill.core import Method
from tests.methods.cases import sla


def case() -> tuple[Method, Any]:
    return sla.case(single_weight=0.0, distill_weight=0.0)
