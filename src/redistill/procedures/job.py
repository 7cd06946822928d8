"""What a procedure gets of a recipe, and what procedures share: rows apart, networks that start anew, files."""

from __future__ import annotations

import copy
import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redistill.core.errors import UserError

if TYPE_CHECKING:
    from redistill.core import Plan


def _none_known(role: str) -> Any:
    raise AssertionError(f"nothing says how to make a {role} anew")


@dataclass(frozen=True)
class Job:
    """``folder`` to write into; the recipe's ``rows`` and, for who trains, its ``plan`` and whether to ``resume``.

    ``make``: role -> a network as the recipe's loader makes it, without stored weights. ``sources``: role -> what a
    network of this kind is written back with, or None.
    """

    folder: Path
    rows: Any = None
    plan: Plan = None  # type: ignore[assignment]  # there wherever NEEDS has it
    resume: bool = False
    make: Callable[[str], Any] = _none_known
    sources: Mapping[str, Any] = field(default_factory=dict)

    def split(self, share: float, seed: int) -> tuple[Any, Any]:
        """Rows to train on and, a random ``share`` of all, rows to judge on."""
        from redistill.data.picked import split

        if not 0 < share < 1:
            raise UserError(f"validation={share}; give a share between 0 and 1", place="options.validation")
        if seed < 0:
            raise UserError(f"seed={seed}; give a whole number from 0", place="options.seed")
        return split(self.rows, share, seed)

    def starts(self, role: str, network: Any, *, fresh: bool) -> Callable[[int], Any]:
        """A function from a seed to a network to train: what the recipe's loader makes under that seed, or (not
        ``fresh``) a copy of ``network``."""
        import torch

        def start(seed: int) -> Any:
            if not fresh:
                return copy.deepcopy(network)
            torch.manual_seed(seed)
            return self.make(role)

        if fresh:
            _check_new(start(0), start(1), f"models.{role}")
        return start

    def file(self, name: str) -> Path:
        """A file of the folder, which is made where it is not there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / name

    def text(self, name: str, text: str) -> Path:
        """Write ``text``."""
        file = self.file(name)
        file.write_text(text)
        return file

    def numbers(self, name: str, values: Any) -> Path:
        """Write plain values as JSON."""
        return self.text(name, json.dumps(values, indent=1) + "\n")

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Write rows as CSV, under the names of the first."""
        file = self.file(name)
        with file.open("w", newline="") as out:
            writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        return file

    def weights(self, network: Any, name: str = "model.safetensors") -> Path:
        """Write the weights of ``network``, tied ones once."""
        from safetensors.torch import save_model

        file = self.file(name)
        save_model(network, str(file))
        return file


def _check_new(one: Any, other: Any, place: str) -> None:
    """Refuse networks with weights that no seed changes: they come from a file, or were drawn before."""
    import torch

    pairs = zip(one.named_parameters(), other.parameters())
    kept = [n for (n, p), q in pairs if p.requires_grad and torch.equal(p, q) and p.unique().numel() > 1]
    if kept:
        said = ", ".join(kept[:3]) + (f" and {len(kept) - 3} more" if len(kept) > 3 else "")
        raise UserError(f"comes with weights, so no start is new: {said}; set options.fresh to false", place=place)
