"""The classic baselines by name, with their published weights: what any comparison on one pair of networks can run.

Weights come from the usual CIFAR benchmarks. They assume that benchmark's sizes: the share that suits another pair is
found by ``strength``. DKD is without its warm-up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from redistill.core import Method, Plan, UserError, fit
from redistill.core.source import table
from redistill.rivals.attention import Attention
from redistill.rivals.born_again import next_generation
from redistill.rivals.byot import BeYourOwnTeacher
from redistill.rivals.crd import ContrastiveDistillation
from redistill.rivals.cs_kd import ClassWise
from redistill.rivals.fitnets import Hint
from redistill.rivals.mutual import MutualLearning
from redistill.rivals.relational import Relational
from redistill.rivals.tf_kd import VirtualTeacher
from redistill.supervised import matches
from redistill.supervised.classifier import Classification, Distillation
from redistill.supervised.features import FeatureDistillation, FeatureMatch
from redistill.supervised.layers import feature_shapes
from redistill.supervised.targets import LabelSmoothing
from redistill.supervised.temperature import Constant

LABELS = "labels"  # the baseline of the baselines


@dataclass(frozen=True)
class Pair:
    """A trained ``teacher``, ``student(k)`` that makes the k-th fresh student, and the layers in which they correspond.

    ``stages``: from shallow to deep, of student and teacher in the same number. ``embedding``: the last layer before
    the head. ``input_shape``: of one row. Names are those of ``named_modules()``.
    """

    teacher: nn.Module
    student: Callable[[int], nn.Module]
    input_shape: Sequence[int]
    classes: int
    stages: Sequence[str]
    teacher_stages: Sequence[str]
    embedding: str
    teacher_embedding: str


Make = Callable[[Pair, Any, Plan, float], Method]


@dataclass(frozen=True)
class Baseline:
    """:meth:`make` gives the method to fit (and may train its own teacher first).

    ``kind``: of what is taught (response, feature, relation), or who teaches if no stronger network does (peer, self,
    rule). ``strength``: by which the published weight of what is taught is multiplied; labels alone have none. Where
    that weight is a share of the whole, ``share`` is it: a strength leaves the labels 0 or more.
    """

    title: str
    kind: str
    how: Make
    share: float = 0.0

    def check(self, strength: float) -> None:
        """Raise :class:`UserError` for a strength that no weight can be multiplied by."""
        if not (0 <= strength < math.inf and self.share * strength <= 1):
            most = f" and at most {1 / self.share:.3g}" if self.share else ""
            raise UserError(f"{strength} for {self.title!r}; give a finite number from 0 up{most}", place="strength")

    def make(self, pair: Pair, data: Any, plan: Plan, strength: float = 1.0) -> Method:
        """The method to fit."""
        self.check(strength)
        return self.how(pair, data, plan, strength)


def _response(match: matches.Match, tau: float, hard: float, soft: float) -> Make:
    def make(pair: Pair, data: Any, plan: Plan, strength: float) -> Method:
        return Distillation(pair.student(0), pair.teacher, match=match, temperature=Constant(tau), hard_weight=hard,
                            soft_weight=soft * strength)  # fmt: skip

    return make


def _hinton(pair: Pair, data: Any, plan: Plan, strength: float) -> Method:
    share = 0.9 * strength  # labels have the rest
    return _response(matches.Kd(), 4.0, 1 - share, share)(pair, data, plan, 1.0)


def _feature(feature: Callable[[float], FeatureMatch], where: str) -> Make:
    def make(pair: Pair, data: Any, plan: Plan, strength: float) -> Method:
        mine, theirs = _layers(pair, where)
        return FeatureDistillation(pair.student(0), pair.teacher, layers=mine, teacher_layers=theirs,
                                   input_shape=list(pair.input_shape), feature=feature(strength))  # fmt: skip

    return make


def _layers(pair: Pair, where: str) -> tuple[list[str], list[str]]:
    """The layers of student and teacher: every stage, the middle one, or the embedding."""
    if where == "embedding":
        return [pair.embedding], [pair.teacher_embedding]
    chosen = slice(None) if where == "all" else slice(len(pair.stages) // 2, len(pair.stages) // 2 + 1)
    return list(pair.stages[chosen]), list(pair.teacher_stages[chosen])


def _crd(pair: Pair, data: Any, plan: Plan, strength: float) -> Method:
    return ContrastiveDistillation(
        pair.student(0), pair.teacher, layer=pair.embedding, teacher_layer=pair.teacher_embedding,
        input_shape=list(pair.input_shape), rows=len(table(data)), contrast_weight=0.8 * strength,
    )  # fmt: skip


def _born_again(pair: Pair, data: Any, plan: Plan, strength: float) -> Method:
    first = fit(Classification(pair.student(1)), data, plan).student
    return next_generation(pair.student(0), first, strength)  # judged from the same start as all others


def _byot(pair: Pair, data: Any, plan: Plan, strength: float) -> Method:
    return BeYourOwnTeacher(
        pair.student(0), layers=list(pair.stages), input_shape=list(pair.input_shape), classes=pair.classes,
        a=0.1 * strength,
    )  # fmt: skip


def _virtual(pair: Pair, data: Any, plan: Plan, strength: float) -> Method:
    return VirtualTeacher(pair.student(0), classes=pair.classes, share=0.1 * strength)


def _smoothing(pair: Pair, data: Any, plan: Plan, strength: float) -> Method:
    return Classification(pair.student(0), rectifier=LabelSmoothing(0.1 * strength))


BASELINES: dict[str, Baseline] = {
    LABELS: Baseline("labels alone", "rule", lambda pair, *_: Classification(pair.student(0))),
    "smoothing": Baseline("label smoothing 0.1", "rule", _smoothing, share=0.1),
    "tf_kd": Baseline("TF-KD, virtual teacher, 0.1", "rule", _virtual, share=0.1),
    "kd": Baseline("Hinton KD, 0.1 and 0.9, T = 4", "response", _hinton, share=0.9),
    "dkd": Baseline("DKD, 1 and 8, T = 4", "response", _response(matches.Dkd(1.0, 8.0), 4.0, 1.0, 1.0)),
    "dist": Baseline("DIST, 1 and 1, T = 1", "response", _response(matches.Dist(1.0, 1.0), 1.0, 1.0, 1.0)),
    "fitnets": Baseline("FitNets hint, 100", "feature", _feature(lambda s: Hint(100 * s), "middle")),
    "attention": Baseline("attention transfer, 1000", "feature", _feature(lambda s: Attention(1000 * s), "all")),
    "rkd": Baseline("RKD, 25 and 50", "relation", _feature(lambda s: Relational(25 * s, 50 * s), "embedding")),
    "crd": Baseline("CRD, 0.8", "relation", _crd),
    "dml": Baseline("mutual learning of two", "peer",
                    lambda pair, d, p, s: MutualLearning(pair.student(0), pair.student(1), weight=s)),
    "born_again": Baseline("born again, one generation", "self", _born_again),
    "byot": Baseline("be your own teacher", "self", _byot, share=0.1),
    "cs_kd": Baseline("CS-KD", "self", lambda pair, d, p, s: ClassWise(pair.student(0), weight=s)),
}  # fmt: skip


def carried(pair: Pair) -> list[str]:
    """The baselines that ``pair`` can carry: attention transfer needs maps or equally many tokens at every stage of
    both, a hint between tokens equally many."""
    matched: dict[str, tuple[FeatureMatch, str]] = {
        "fitnets": (Hint(), "middle"), "attention": (Attention(), "all")
    }  # fmt: skip
    return [name for name in BASELINES if name not in matched or _bridged(pair, *matched[name])]


def _bridged(pair: Pair, feature: FeatureMatch, where: str) -> bool:
    ends = zip((pair.student(0), pair.teacher), _layers(pair, where))
    shapes = [feature_shapes(network, names, pair.input_shape) for network, names in ends]
    try:
        return all(feature.adapter(*both) is not None for both in zip(*shapes))
    except UserError:
        return False
