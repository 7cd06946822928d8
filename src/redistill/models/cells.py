"""Image networks of repeated cells whose edges hold one operation each, or a mixture of several: the supernets of
differentiable architecture search and the networks that are cut out of them.

A cell is a graph of nodes 0 (its input) to n - 1 (its output); node j is the sum over i < j of what edge (i, j) makes
of node i (the shape of NAS-Bench-201). All cells of a network are alike; stages halve the pixels between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from redistill.core.errors import UserError, unknown
from redistill.core.world import whole

Norm = Literal["statistics", "batch", "group"]
Edge = tuple[int, int]

NORMS: dict[str, Callable[[int], nn.Module]] = {
    # of this batch alone, in training and evaluation: running averages would mix architectures that came and went
    "statistics": lambda width: nn.BatchNorm2d(width, affine=False, track_running_stats=False),
    "batch": nn.BatchNorm2d,
    "group": lambda width: nn.GroupNorm(math.gcd(4, width), width, affine=False),
}


class Nothing(nn.Module):
    """No edge: zeros."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def _conv(width: int, norm: Norm, kernel: int, *, dilation: int = 1, groups: int = 1) -> nn.Sequential:
    pad = dilation * (kernel // 2)
    inner = nn.Conv2d(width, width, kernel, padding=pad, dilation=dilation, groups=groups, bias=False)
    mix = [nn.Conv2d(width, width, 1, bias=False)] if groups > 1 else []
    return nn.Sequential(nn.ReLU(), inner, *mix, NORMS[norm](width))


def _twice(width: int, norm: Norm, kernel: int) -> nn.Sequential:
    return nn.Sequential(*[_conv(width, norm, kernel, groups=width) for _ in range(2)])


OPERATIONS: dict[str, Callable[[int, Norm], nn.Module]] = {
    "none": lambda width, norm: Nothing(),
    "skip": lambda width, norm: nn.Identity(),
    "conv1x1": lambda width, norm: _conv(width, norm, 1),
    "conv3x3": lambda width, norm: _conv(width, norm, 3),
    "sep_conv3x3": lambda width, norm: _twice(width, norm, 3),
    "sep_conv5x5": lambda width, norm: _twice(width, norm, 5),
    "dil_conv3x3": lambda width, norm: _conv(width, norm, 3, dilation=2, groups=width),
    "dil_conv5x5": lambda width, norm: _conv(width, norm, 5, dilation=2, groups=width),
    "avg_pool3x3": lambda width, norm: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "max_pool3x3": lambda width, norm: nn.MaxPool2d(3, 1, 1),
}
NAS_BENCH_201 = ("none", "skip", "conv1x1", "conv3x3", "avg_pool3x3")


class Mixture(nn.Module):
    """One edge: sum_o w_o o(x); with a single operation and no weights, that operation."""

    def __init__(self, names: Sequence[str], width: int, norm: Norm) -> None:
        super().__init__()
        self.choices = nn.ModuleDict({name: OPERATIONS[name](width, norm) for name in names})

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        made = [choice(x) for choice in self.choices.values()]
        return made[0] if weights is None else sum(w * y for w, y in zip(weights, made))  # type: ignore[return-value]


class Cell(nn.Module):
    """Nodes in order, an edge from every earlier node to every later one."""

    def __init__(self, edges: Sequence[Edge], choices: Sequence[Sequence[str]], width: int, norm: Norm) -> None:
        super().__init__()
        self.edges = nn.ModuleDict({f"{i}_{j}": Mixture(c, width, norm) for (i, j), c in zip(edges, choices)})

    def forward(self, x: Tensor, mixture: Tensor | None = None) -> Tensor:
        """[B, C, H, W], weights [edges, operations] -> [B, C, H, W]."""
        into: dict[int, list[Tensor]] = {0: [x]}
        for row, (name, edge) in enumerate(self.edges.items()):
            i, j = map(int, name.split("_"))
            weights = None if mixture is None else mixture[row]
            into.setdefault(j, []).append(edge(sum(into[i]), weights))  # edges into i come before those out of it
        return sum(into[max(into)])  # type: ignore[return-value]


class CellNet(nn.Module):
    """A stem, stages of ``depth`` cells, mean over pixels, a linear head: image [B, channels, H, W] -> [B, outputs].

    ``genotype``: the operation of every edge, in the order of ``edges``, as one list of words; without it the network
    is a supernet, every edge holds all ``operations``, and ``forward`` needs their weights [edges, operations].
    """

    def __init__(
        self, channels: int, outputs: int, *, widths: Sequence[int] = (16, 32, 64), depth: int = 1, nodes: int = 4,
        operations: Sequence[str] = NAS_BENCH_201, genotype: Sequence[str] | None = None, norm: Norm = "statistics",
    ) -> None:  # fmt: skip
        super().__init__()
        self.options = {"widths": tuple(widths), "depth": depth, "nodes": nodes, "operations": tuple(operations)}
        self.channels, self.outputs, self.norm, self.operations = channels, outputs, norm, tuple(operations)
        self.edges: tuple[Edge, ...] = tuple(sorted(combinations(range(nodes), 2), key=lambda edge: edge[::-1]))
        choices = [self.operations] * len(self.edges) if genotype is None else [(name,) for name in genotype]
        self._check(choices)
        stem = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.stem = nn.Sequential(stem, NORMS[norm](widths[0]))
        stages: dict[str, nn.Module] = {}
        for number, (before, width) in enumerate(pairwise([widths[0], *widths])):
            if number:
                halve = nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False)
                stages[f"halve{number}"] = nn.Sequential(nn.ReLU(), halve, NORMS[norm](width))
            stages |= {f"stage{number}_{k}": Cell(self.edges, choices, width, norm) for k in range(depth)}
        self.body = nn.ModuleDict(stages)
        self.head = nn.Sequential(
            NORMS[norm](widths[-1]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], outputs)
        )

    def _check(self, choices: Sequence[Sequence[str]]) -> None:
        for name in {name for group in (*choices, self.operations) for name in group}:
            if name not in OPERATIONS:
                raise unknown("operation", name, OPERATIONS, place="operations")
        if not self.edges or len(choices) != len(self.edges):
            said = f"{len(choices)} operations for {len(self.edges)} edges; give one an edge, and two nodes or more"
            raise UserError(said, place="genotype")

    def forward(self, image: Tensor, mixture: Tensor | None = None) -> Tensor:
        x = self.stem(image)
        for part in self.body.values():
            x = part(x, mixture) if isinstance(part, Cell) else part(x)
        return self.head(x)

    def fresh(self, genotype: Sequence[str], *, norm: Norm = "batch") -> CellNet:
        """The network of ``genotype`` with new weights, to be trained from scratch."""
        made = CellNet(self.channels, self.outputs, genotype=genotype, norm=norm, **self.options)  # type: ignore[arg-type]
        return made.to(next(self.parameters()))

    def derive(self, genotype: Sequence[str]) -> CellNet:
        """The network of ``genotype`` with copies of this supernet's weights and its kind of norm."""
        made = self.fresh(genotype, norm=self.norm)
        mine = self.state_dict()
        made.load_state_dict({name: whole(mine[name]).clone() for name in made.state_dict()})
        return made
