"""Lay out the files of a new system, with a blank (TODO) wherever something has to be written.

python scripts/new_system.py SLUG                    # a system that catalog/<group>.toml describes already
python scripts/new_system.py SLUG --group score      # one that it does not: its entry is added
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from pathlib import Path
from string import Template

METHOD = '''"""TODO one sentence: who teaches whom, on whose samples, measured how.

    L = TODO the equation, in the letters of the paper

Roles: student (trained); teacher (frozen). TODO where gradients stop.

Differs from the paper: TODO.
"""

from __future__ import annotations

from torch import nn

from redistill.core import Loss, Method, Progress
from redistill.core.method import Batch


class $cls(Method):
    """TODO what each option means, with the range that the paper tries."""

    needs = ("image", "label")

    def __init__(self, student: nn.Module, teacher: nn.Module, *, weight: float = 1.0) -> None:
        super().__init__()
        self.student, self.teacher, self.weight = student, teacher, weight

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``ce``: the labels; ``match``: TODO."""
        raise NotImplementedError("TODO")
'''

CASE = """from __future__ import annotations

from typing import Any

import torch

from redistill.core import Method
from redistill.methods.$group.$slug import $cls
from redistill.models.nets import mlp
from tests.methods.cases import random_rows


def case() -> tuple[Method, Any]:
    torch.manual_seed(0)
    data = {"image": random_rows(22, 6), "label": torch.arange(22) % 3}
    return $cls(mlp(6, 3, [8]), mlp(6, 3, [12])).double(), data
"""

TEST = '''"""The card's exact properties of $cls."""

from __future__ import annotations

import pytest

from redistill.core import UserError, fit
from redistill.methods.$group.$slug import $cls
from redistill.models.nets import mlp
from tests.methods.cases.$slug import case
from tests.methods.test_catalogue import plan


def test_a_term_without_weight_leaves_what_is_known():
    """TODO a limit of the card: with this option the method is another one, to the last bit."""
    method, data = case()
    assert fit(method, data, plan()).history


def test_wrong_options_are_refused():
    with pytest.raises(UserError, match="weight=-1"):
        $cls(mlp(6, 3, [8]), mlp(6, 3, [8]), weight=-1.0)
'''

STUDY = '''"""TODO the question, in the words of the abstract?

TODO the bed, and why it has room for an answer.
"""

from __future__ import annotations

from functools import partial

from redistill.beds import mnist
from redistill.beds.bench import Arm, Bench, Parts, Regime, cell
from redistill.beds.figures import Figure, bars
from redistill.core import Method
from redistill.core.claims import headline, higher
from redistill.core.study import Budget, Study
from redistill.methods.$group.$slug import $cls
from redistill.models.nets import mlp
from redistill.supervised.classifier import Classification


def digits(seed: int, budget: Budget) -> Parts:
    """TODO rows to learn from and rows that judge."""
    return Parts(*mnist.digits(seed, budget["rows"], 2500))


def taught(bench: Bench) -> Method:
    """The paper's method, with the strength that tuning seeds (from 100 up) chose: TODO."""
    return $cls(bench.student(), bench.teacher)


REGIMES = {"digits": Regime(digits, partial(mlp, 784, 10), teacher=partial(mlp, 784, 10), plan={"epochs": 20})}
ARMS = {
    "labels": Arm("labels alone", lambda bench: Classification(bench.student())),
    # TODO the rival of the headline, given the same search as the method
    "$slug": Arm("TODO the method", taught),
}

STUDY = Study(
    slug="$slug",
    question="TODO the question for people?",
    arms=ARMS,
    cell=cell(REGIMES, ARMS, {"batch_size": 128}),
    claims=(
        # the abstract's sentence, its rival and the least effect that counts: written before anything is tuned
        headline(higher("digits_accuracy", "$slug", "labels", 0.01, "TODO the figures of the paper")),
    ),
    figures=(Figure("arms", (bars("digits_accuracy", ours={"$slug"}),)),),
    budget={"rows": 1000},
    smoke={"rows": 200, "plan": {"epochs": 1}},
)
'''

NOTES = """TODO what was looked at on tuning seeds, and what did not help.

Differs from the paper: TODO data, networks, length.

Not asked of the abstract: TODO.
"""

RECIPE = """# TODO the idea in one line, for who runs it on models and data of their own.
method: $slug
models:
  student: {kind: timm, path: resnet18, options: {num_classes: 10}}     # or kind: torch, path: mymodule:make_net
  teacher: {kind: timm, path: resnet34, options: {num_classes: 10}, weights: ./teacher.safetensors}
options:
  weight: 1.0                             # TODO what it does, and the range to try
data: {kind: images, path: ./images, augment: crop_flip_jitter, options: {size: 32, scale: imagenet}}
plan: {epochs: 240, batch_size: 128, optimizer: sgd, lr: 0.1, weight_decay: 5.0e-4, schedule: cosine}
out: runs/$slug
"""

ENTRY = """
[$slug]
title = "TODO"
arxiv = "TODO"
authors = ["TODO"]
modality = ["image"]
kind = "training"
scheme = "offline"
teacher = "frozen: TODO"
knowledge = "logits: TODO"
samples = "dataset: TODO"
match = "divergence: TODO"
changes = "never: TODO"
idea = [
  "TODO.",
  "TODO.",
  "TODO.",
]
equation = "TODO"
use_when = "TODO."
avoid_when = "TODO."
cost = "TODO."
claim = "TODO."
"""


def files(slug: str, group: str) -> dict[str, str]:
    """Path from the repository's root -> text, for every file of a system."""
    house = "src/redistill"
    templates = {
        f"{house}/methods/{group}/{slug}.py": METHOD,
        f"tests/methods/cases/{slug}.py": CASE,
        f"tests/methods/test_{slug}.py": TEST,
        f"{house}/studies/{slug}.py": STUDY,
        f"{house}/studies/{slug}.md": NOTES,
        f"{house}/recipes/{slug}.yaml": RECIPE,
    }
    return {path: _filled(text, slug, group) for path, text in templates.items()}


def _filled(text: str, slug: str, group: str) -> str:
    cls = "".join(part.capitalize() for part in slug.split("_"))
    return Template(text).substitute(slug=slug, group=group, cls=cls)


def groups(root: Path) -> dict[str, list[str]]:
    """Group -> the slugs that it describes."""
    tables = sorted((root / "src/redistill/catalog").glob("*.toml"))
    return {t.stem: list(tomllib.loads(t.read_text())) for t in tables if t.stem != "vocabulary"}


def lay_out(root: Path, slug: str, group: str | None) -> list[str]:
    """Write the files below ``root`` and return their paths; nothing that exists is written over."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", slug):
        raise SystemExit(f"{slug!r} is no slug; write small letters, digits and single underscores, as in ps_kd")
    known = groups(root)
    described = next((name for name, slugs in known.items() if slug in slugs), None)
    if group not in (None, *known) or (described and group not in (None, described)):
        raise SystemExit(f"{slug} is of the group {described or ', '.join(known)}, not {group}")
    if not (group := described or group):
        raise SystemExit(f"no group describes {slug!r}; add --group, one of {', '.join(known)}")
    texts = files(slug, group)
    there = [path for path in texts if (root / path).exists()]
    if there or (root / "src/redistill/methods" / group / slug).exists():
        raise SystemExit(f"{slug} is there already: {', '.join(there) or 'its method is a package'}")

    for path, text in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / "src/redistill/methods" / group / "__init__.py").touch()
    if described:
        return list(texts)
    entries = root / "src/redistill/catalog" / f"{group}.toml"
    with entries.open("a") as board:
        board.write(_filled(ENTRY, slug, group))
    return [*texts, str(entries.relative_to(root))]


def main(arguments: list[str]) -> None:
    """Lay out what the command line asks for, and say what to do next."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slug")
    parser.add_argument("--group", help="where the system belongs, if the catalogue does not say")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="the repository")
    given = parser.parse_args(arguments)
    for path in lay_out(given.root, given.slug, given.group):
        print(path)
    print("Fill in every TODO; CONTRIBUTING.md says in which order.")


if __name__ == "__main__":
    main(sys.argv[1:])
