"""What a comparison of classifiers is made of.

An :class:`Arm` is a line for people and a way to make a method; a :class:`Regime` is pictures and blank networks; a
:class:`Bench` is a regime at one seed: rows, students, and a teacher that is trained once and kept. :func:`cell` fits
every arm in every regime and judges its student.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from redistill.beds import metrics
from redistill.beds.images import Images
from redistill.core import Diverged, Method, Plan, Progress, fit
from redistill.core.cache import kept
from redistill.core.method import Batch
from redistill.core.study import Budget, Outcome
from redistill.supervised.classifier import Classification

PLAN = {"optimizer": "sgd", "lr": 0.05, "schedule": "cosine", "batch_size": 64, "device": "cpu"}
MEASURES = (metrics.accuracy, metrics.nll, metrics.ece, metrics.aurc, metrics.e_aurc)
Augment = Callable[[Batch, Progress], Batch]
Observer = Callable[[Progress, dict[str, Any], Method], None]


class Parts(NamedTuple):
    """The pictures of a regime. ``held``: training rows that choose between arms, if anything is chosen. ``seen``: what
    the teacher learns from, if that is other pictures."""

    train: Images
    test: Images
    held: Images | None = None
    seen: Images | None = None


@dataclass(frozen=True)
class Regime:
    """``images(seed, budget)``: rows. ``student``, ``teacher``: blank networks. ``plan``: of the arms; ``taught``: what
    differs for the teacher. ``augment``: of all training rows."""

    images: Callable[[int, Budget], Parts]
    student: Callable[[], nn.Module]
    teacher: Callable[[], nn.Module] | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)
    taught: Mapping[str, Any] = field(default_factory=dict)
    augment: Augment | None = None


@dataclass(frozen=True)
class Arm:
    """``title``: for people. ``make(bench)``: a method to fit, or a network as it is. ``plan``: what differs from the
    study's. ``on``: the regimes it runs in, all by default."""

    title: str
    make: Callable[[Bench], Method | nn.Module]
    plan: Mapping[str, Any] = field(default_factory=dict)
    on: tuple[str, ...] = ()


@dataclass
class Bench:
    """A regime at one seed. Everything random follows from ``seed``: equal arms see equal students and equal rows.

    ``history``: the logged rows of the last run, one an epoch. ``noted``: what an arm measured while it was made.
    """

    name: str
    regime: Regime
    seed: int
    budget: Budget
    shared: Mapping[str, Any]  # the study's plan
    parts: Parts
    history: list[dict[str, Any]] = field(default_factory=list)
    noted: dict[str, float] = field(default_factory=dict)

    @classmethod
    def at(cls, name: str, regime: Regime, seed: int, budget: Budget, shared: Mapping[str, Any] = {}) -> Bench:
        """The bench with the pictures that the regime draws for this seed."""
        return cls(name, regime, seed, budget, shared, regime.images(seed, budget))

    @cached_property
    def train(self) -> Images:
        """All training rows, those that choose included."""
        held = self.parts.held
        return self.parts.train if held is None else joined(self.parts.train, held)

    @property
    def test(self) -> Images:
        """The rows that judge."""
        return self.parts.test

    @property
    def classes(self) -> int:
        """Their number."""
        return self.parts.train.classes

    @property
    def size(self) -> int:
        """The number of training rows."""
        return len(self.train)

    @property
    def plan(self) -> dict[str, Any]:
        """What a run takes unless its arm says otherwise; the budget's own ``plan`` (of a smoke test) has the last
        word."""
        return self._merged({})

    def trial(self) -> Bench:
        """The same without the held rows, judged on these: where arms are chosen. Its teacher does not see them."""
        train, _, held, seen = self.parts
        assert held is not None, f"{self.name}: no rows are held to choose on"
        parts = Parts(train, held, seen=seen)
        return Bench(f"{self.name}, trial", self.regime, self.seed, self.budget, self.shared, parts)

    def student(self, k: int = 0) -> nn.Module:
        """The ``k``-th blank student."""
        torch.manual_seed(self.seed + 1000 * k)
        return self.regime.student()

    @cached_property
    def teacher(self) -> nn.Module:
        """The trained teacher, frozen; from the disk where the same code has trained it before."""
        assert self.regime.teacher is not None, f"{self.name} has no teacher"
        torch.manual_seed(self.seed + 999)
        seen = self.parts.seen or self.train
        named = {"regime": self.name, "seed": self.seed, "budget": dict(self.budget), "rows": len(seen)}
        return kept("teachers", self.regime.teacher(), named,
                    lambda net: self.fit(Classification(net), seen, **self.regime.taught))  # fmt: skip

    @cached_property
    def said(self) -> Tensor:
        """The teacher's logits on the training rows [N, C]."""
        teacher = self.teacher  # trained here if it has to be, so outside of no_grad
        with torch.no_grad():
            return torch.cat([teacher(part) for part in torch.from_numpy(self.train.image).split(512)])

    def rows(self, images: Images | None = None) -> dict[str, Tensor]:
        """Columns for :func:`fit`: by default the training rows, with the teacher's answers where there is one."""
        if images is None and self.regime.teacher:
            return {**columns(self.train), "teacher_logits": self.said}
        return columns(images or self.train)

    def fit(
        self,
        method: Method,
        data: Images | dict[str, Tensor] | None = None,
        *,
        observers: Sequence[Observer] = (),
        **plan: Any,
    ) -> nn.Module:
        """The student after its run, in evaluation mode. ``data``: by default :meth:`rows`; ``observers``: called after
        every epoch. Raises :class:`Diverged`."""
        rows, merged = data if isinstance(data, dict) else self.rows(data), self._merged(plan)
        merged.setdefault("log_every", -(-len(rows["label"]) // merged["batch_size"]))
        wanted = Plan(**{"seed": self.seed, **merged})
        done = fit(method, rows, wanted, augment=self.regime.augment, observers=observers)
        self.history = done.history
        return done.student.eval()

    def fitted(self, arm: Arm) -> nn.Module:
        """What is judged of ``arm``."""
        made = arm.make(self)
        return self.fit(made, **arm.plan) if isinstance(made, Method) else made

    def judge(self, net: nn.Module) -> dict[str, float]:
        """``accuracy``, ``nll``, ``ece``, ``aurc``, ``e_aurc`` on the test rows, and ``agreement`` with the teacher."""
        p = probabilities(net, self.test)
        found = {measure.__name__: measure(p, self.test.label) for measure in MEASURES}
        if self.regime.teacher:
            said = probabilities(self.teacher, self.test)
            found["agreement"] = float((p.argmax(1) == said.argmax(1)).mean())
        return found

    def _merged(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """Plans one over the other; the last of ``epochs`` and ``steps`` counts."""
        merged: dict[str, Any] = {}
        for part in (PLAN, self.shared, self.regime.plan, plan, self.budget.get("plan", {})):
            for one, other in (("epochs", "steps"), ("steps", "epochs")):
                if one in part:
                    merged.pop(other, None)
            merged |= part
        return merged


def chosen(*arms: Arm, note: str = "chosen") -> Callable[[Bench], nn.Module]:
    """The most accurate of ``arms`` on the held rows (of equals the one that finds their labels more likely), fitted
    again on all training rows: a search that sees no test row. Its number is noted; one that diverges is not taken."""

    def make(bench: Bench) -> nn.Module:
        trial = bench.trial()
        scores = [_score(trial, arm) for arm in arms]
        best = max(range(len(arms)), key=scores.__getitem__)
        bench.noted[note] = float(best)
        return bench.fitted(arms[best])

    return make


def _score(bench: Bench, arm: Arm) -> tuple[float, float]:
    """Accuracy and log-likelihood; nothing is worse than to diverge."""
    try:
        found = bench.judge(bench.fitted(arm))
    except Diverged:
        return -1.0, 0.0
    return found["accuracy"], -found["nll"]


def variants(make: Callable[[Bench], Method], *plans: Mapping[str, Any]) -> tuple[Arm, ...]:
    """One method under several plans, for :func:`chosen`."""
    return tuple(Arm(str(dict(plan)), make, plan) for plan in plans)


def cell(
    regimes: Mapping[str, Regime],
    arms: Mapping[str, Arm],
    plan: Mapping[str, Any] = {},
    more: Callable[[Bench, str, nn.Module], Outcome] = lambda *_: Outcome({}),
) -> Callable[[str, int, Budget], Outcome]:
    """The cell of a study whose arms are all fitted alike, with metrics ``{regime}_{metric}``. ``more(bench, arm,
    student)``: what it measures beside :meth:`Bench.judge`. A budget named like a regime is that regime's alone."""
    for name, arm in arms.items():
        assert set(arm.on) <= set(regimes), f"arm {name!r} runs in unknown regimes"

    def measure(name: str, seed: int, budget: Budget) -> Outcome:
        found = Outcome({})
        for place in arms[name].on or regimes:
            bench = Bench.at(place, regimes[place], seed, {**budget, **budget.get(place, {})}, plan)
            student = bench.fitted(arms[name])
            beside = more(bench, name, student)
            metrics_here = {**bench.judge(student), **bench.noted, **beside.metrics}
            found.metrics |= {f"{place}_{k}".lstrip("_"): v for k, v in metrics_here.items()}
            found.arrays |= {f"{place}_{k}".lstrip("_"): v for k, v in beside.arrays.items()}
        return found

    return measure


def columns(images: Images, **more: Tensor) -> dict[str, Tensor]:
    """Columns for :func:`fit`."""
    return {"image": torch.from_numpy(images.image), "label": torch.from_numpy(images.label), **more}


def labelled(net: nn.Module, images: Images, seed: int, **plan: Any) -> nn.Module:
    """The network after plain training by the common plan: a teacher where there is no bench."""
    return fit(Classification(net), columns(images), Plan(**{**PLAN, "seed": seed, **plan})).student.eval()


def joined(*parts: Images) -> Images:
    """The rows of all parts, one part after the other."""
    label = np.concatenate([part.label for part in parts])
    return replace(parts[0], image=np.concatenate([part.image for part in parts]), label=label)


@torch.no_grad()
def probabilities(net: nn.Module, images: Images | np.ndarray) -> np.ndarray:
    """Probabilities [N, C] in evaluation mode, float64."""
    image = images.image if isinstance(images, Images) else images
    return torch.cat([net(part).double().softmax(1) for part in torch.from_numpy(image).split(512)]).numpy()
