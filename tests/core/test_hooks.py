"""The picture of hooks in docs/method.md is the order in which a run calls them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from redistill.core import Again, Method, Plan, fit
from tests.core.toys import Toy, data, toy

PAGE = (Path(__file__).parents[2] / "docs" / "method.md").read_text()
LINE = re.compile(r"^([│ ]*)[├└]─ (.+?)(?:  .*)?$")  # rails, what happens, a remark
STEPS, MICROS = 2, 3
TURNS = ("critic", Again("critic"), "student")


def tree(picture: str) -> list:
    """(line, lines below it) by indentation."""
    root: list = []
    levels = {-1: root}
    for found in filter(None, map(LINE.match, picture.splitlines())):
        depth = len(found[1])
        node = (found[2], [])
        levels[max(d for d in levels if d < depth)].append(node)
        levels = {d: below for d, below in levels.items() if d < depth} | {depth: node[1]}
    return root


def calls(nodes: list, turn: str = "") -> list[str]:
    """The hooks that a run calls if the picture tells the truth."""
    made = []
    for line, below in nodes:
        if line == "for every step":
            made += STEPS * calls(below)
        elif line == "for every turn":
            made += [call for turn in TURNS for call in calls(below, turn)]
        elif line == "for every micro-batch":
            made += MICROS * calls(below, turn)
        elif line == "unless it is Again":
            made += [] if isinstance(turn, Again) else calls(below, turn)
        else:
            made.append(line.split("(")[0] + (f" {turn}" if "(turn" in line else ""))
    return made


class Watched(Toy):
    """Notes who calls what."""

    def turns(self, now):
        self.calls.append("turns")
        return TURNS


def noting(name: str, turned: bool):
    def hook(self, *given):
        self.calls.append(f"{name} {given[0]}" if turned else name)
        return getattr(super(Watched, self), name)(*given)

    return hook


for _name in ("check", "meet", "prepare", "loss", "after", "export"):
    setattr(Watched, _name, noting(_name, _name in ("loss", "after")))


@pytest.fixture
def watched():
    method = toy()
    method.__class__, method.calls = Watched, []
    return method


def test_the_picture_is_the_order_of_a_run(watched):
    picture = re.search(r"```text\n(fit\(.*?)```", PAGE, re.S)[1]
    fit(watched, data(), Plan(steps=STEPS, batch_size=9, accumulate=MICROS, device="cpu"))
    assert watched.calls == calls(tree(picture))


def test_every_hook_of_a_method_is_in_the_picture():
    own = {n for n, v in vars(Method).items() if callable(v) and not n.startswith("_")} - {"networks"}
    assert own == {call.split()[0] for call in calls(tree(PAGE))}
