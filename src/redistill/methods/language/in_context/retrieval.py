"""An index over the steps of trajectories: a query of goal, plan and observation finds the most similar windows.

Vectors are unit vectors and the search is a plain matrix product, exact and fast up to millions of steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from redistill.core.errors import UserError
from redistill.core.slot import Configured
from redistill.core.types import Count, Finite
from redistill.methods.language.in_context.agents import Step, Trajectory, Window

Encode = Callable[[Sequence[str]], Tensor]  # texts -> unit vectors [N, D]


class Memo:
    """An encoder that remembers: rooms and goals come back at every step."""

    def __init__(self, encode: Encode) -> None:
        self.encode = encode
        self.known: dict[str, Tensor] = {}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors [N, D]."""
        new = [t for t in dict.fromkeys(texts) if t not in self.known]
        if new:
            self.known.update(zip(new, self.encode(new)))
        return torch.stack([self.known[t] for t in texts])


class StepIndex(Configured):
    """Windows of ``window`` steps around every stored step, found by

        sim = w_g cos(g, g') + w_p cos(p, p') + w_o cos(o, o')

    with ``weights`` (w_g, w_p, w_o). At most one window of a trajectory is returned; the most similar comes last, next
    to the question in a prompt.
    """

    def __init__(
        self, encode: Encode, *, window: Count = 3, weights: tuple[Finite, Finite, Finite] = (1 / 3, 1 / 3, 1 / 3)
    ) -> None:
        self.encode, self.window, self.weights = encode, window, weights
        self.trajectories: list[Trajectory] = []
        self.where: list[tuple[int, int]] = []  # row -> (trajectory, step)
        self.vectors: dict[str, Tensor] = {}  # goal, plan, observation: [rows, D]

    def __len__(self) -> int:
        return len(self.where)

    def add(self, trajectory: Trajectory, steps: Iterable[int] | None = None) -> None:
        """Store the steps of a trajectory (or only those listed)."""
        chosen = list(range(len(trajectory.steps)) if steps is None else steps)
        if not chosen:
            return
        observations = self.encode([trajectory.steps[s].observation for s in chosen])  # [S, D]
        goal, plan = self.encode([trajectory.goal, trajectory.plan])[:, None].expand(-1, len(chosen), -1)
        for name, rows in (("goal", goal), ("plan", plan), ("observation", observations)):
            self.vectors[name] = torch.cat([self.vectors[name], rows]) if self.where else rows.clone()
        self.where += [(len(self.trajectories), s) for s in chosen]
        self.trajectories.append(trajectory)

    def similarity(self, goal: str, plan: str, observation: str) -> Tensor:
        """The similarity of a query to every stored step [rows]."""
        queries = self.encode([goal, plan, observation])
        names = ("goal", "plan", "observation")
        return sum(w * (self.vectors[n] @ q) for w, n, q in zip(self.weights, names, queries))

    def search(self, goal: str, plan: str, observation: str, k: int) -> list[Window]:
        """The ``k`` most similar windows, one a trajectory, most similar last."""
        return [
            self._around(*self.where[row]) for row in self._best(k, lambda: self.similarity(goal, plan, observation))
        ]

    def episodes(self, goal: str, plan: str, k: int) -> list[Window]:
        """The ``k`` trajectories with the most similar goals and plans, whole, most similar last."""

        def score() -> Tensor:
            g, p = self.encode([goal, plan])
            return self.weights[0] * (self.vectors["goal"] @ g) + self.weights[1] * (self.vectors["plan"] @ p)

        return [self._whole(self.where[row][0]) for row in self._best(k, score)]

    def plans(self, goal: str, k: int) -> list[Window]:
        """The ``k`` trajectories with the most similar goals, most similar last: examples for the planning call."""
        return [
            self._whole(self.where[r][0]) for r in self._best(k, lambda: self.vectors["goal"] @ self.encode([goal])[0])
        ]

    def _best(self, k: int, score: Callable[[], Tensor]) -> list[int]:
        if k < 1 or not self.where:
            return []
        best: dict[int, int] = {}  # trajectory -> its best row; a dict keeps the order of similarity
        for row in torch.argsort(score(), descending=True, stable=True).tolist():
            best.setdefault(self.where[row][0], row)
            if len(best) == k:
                break
        return list(best.values())[::-1]

    def _around(self, trajectory: int, step: int) -> Window:
        whole = self.trajectories[trajectory]
        start = max(0, min(step - self.window // 2, len(whole.steps) - self.window))
        steps = whole.steps[start : start + self.window]
        return Window(whole.goal, whole.plan, steps, trajectory, step - start)

    def _whole(self, trajectory: int) -> Window:
        t = self.trajectories[trajectory]
        return Window(t.goal, t.plan, t.steps, trajectory)

    def save(self, folder: str | Path) -> Path:
        """Write ``vectors.safetensors`` and ``trajectories.jsonl``; both are plain to read."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: rows.contiguous() for name, rows in self.vectors.items()}
        where = torch.tensor(self.where, dtype=torch.int64).reshape(-1, 2)
        save_file({**tensors, "where": where}, folder / "vectors.safetensors")
        lines = [json.dumps(asdict(t), ensure_ascii=False) + "\n" for t in self.trajectories]
        (folder / "trajectories.jsonl").write_text("".join(lines), encoding="utf-8")
        return folder

    @classmethod
    def load(
        cls, folder: str | Path, encode: Encode, *, window: int = 3,
        weights: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3),
    ) -> StepIndex:  # fmt: skip
        """An index that :meth:`save` wrote; ``encode`` must be the encoder that it was built with."""
        folder, index = Path(folder), cls(encode, window=window, weights=weights)
        for name in ("vectors.safetensors", "trajectories.jsonl"):
            if not (folder / name).is_file():
                raise UserError(f"no index here: {name} is missing; build one with collect()", place=str(folder))
        tensors = load_file(folder / "vectors.safetensors")
        index.where = [(t, s) for t, s in tensors.pop("where").tolist()]
        index.vectors = tensors
        wide, mine = next(iter(tensors.values())).shape[-1], encode(["width"]).shape[-1]
        if wide != mine:
            raise UserError(f"its vectors have {wide} numbers, those of this encoder {mine}", place=str(folder))
        for line in (folder / "trajectories.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            index.trajectories.append(Trajectory(**{**row, "steps": tuple(Step(*s) for s in row["steps"])}))
        return index
