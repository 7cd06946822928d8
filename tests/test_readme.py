"""The README's Python runs as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import redistill

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.S)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0])
def test_what_the_readme_prints_runs(block):
    exec(block, {})


def test_the_package_shows_what_it_has():
    assert {"fit", "Plan", "Method", "Ema"} <= set(dir(redistill))
    assert all(getattr(redistill, name) is not None for name in dir(redistill))
