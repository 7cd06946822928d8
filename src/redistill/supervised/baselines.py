"""The classic baselines by name, with their published weights: what any comparison on one pair of networks can run.

Weights come from the usual CIFAR benchmarks. They assume that benchmark's sizes: the share that suits another pair is
found by ``strength``. DKD is without its warm-up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from redistill.core import Method, Plan, fit
from redistill.core.source import table
from redistill.supervised import hints, matches
from redistill.supervised.classifier import Classification, Distillation
from redistill.supervised.contrastive import ContrastiveDistillation
from redistill.supervised.layers import feature_shapes
from redistill.supervised.self_teaching import (
    BeYourOwnTeacher,
    ClassWise,
    MutualLearning,
    VirtualTeacher,
    next_generation,
)
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
    """``make(pair, data, plan, strength)`` gives the method to fit (and may train its own teacher first).

    ``kind``: of what is taught (response, feature, relation), or who teaches if no stronger network does (peer, self,
    rule). ``strength``: by which the published weight of what is taught is multiplied; labels alone have none.
    """

    title: str
    kind: str
    make: Make


def _response(match: matches.Match, tau: float, hard: float, soft: float) -> Make:
    def make(pair: Pair, data: Any, plan: Plan, strength: float) -> Method:
        return Distillation(pair.student(0), pair.teacher, match=match, temperature=Constant(tau), hard_weight=hard,
                            soft_weight=soft * strength)  # fmt: skip

    return make


def _hinton(pair: Pair, data: Any, plan: Plan, strength: float) -> Method:
    share = 0.9 * strength  # labels have the rest
    return _response(matches.Kd(), 4.0, 1 - share, share)(pair, data, plan, 1.0)


def _feature(feature: Callable[[float], hints.FeatureMatch], where: str) -> Make:
    def make(pair: Pair, data: Any, plan: Plan, strength: float) -> Method:
        mine, theirs = _layers(pair, where)
        return hints.FeatureDistillation(pair.student(0), pair.teacher, layers=mine, teacher_layers=theirs,
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
    first = fit(Classification(pair.student(0)), data, plan).student
    return next_generation(pair.student(1), first, strength)


def _byot(pair: Pair, data: Any, plan: Plan, strength: float) -> Method:
    return BeYourOwnTeacher(
        pair.student(0), layers=list(pair.stages), input_shape=list(pair.input_shape), classes=pair.classes,
        a=0.1 * strength,
    )  # fmt: skip


def _virtual(pair: Pair, data: Any, plan: Plan, strength: float) -> Method:
    share = 0.5 * strength
    return VirtualTeacher(pair.student(0), classes=pair.classes, hard_weight=1 - share, soft_weight=share)


def _smoothing(pair: Pair, data: Any, plan: Plan, strength: float) -> Method:
    return Classification(pair.student(0), rectifier=LabelSmoothing(0.1 * strength))


BASELINES: dict[str, Baseline] = {
    LABELS: Baseline("labels alone", "rule", lambda pair, *_: Classification(pair.student(0))),
    "smoothing": Baseline("label smoothing 0.1", "rule", _smoothing),
    "tf_kd": Baseline("TF-KD, virtual teacher", "rule", _virtual),
    "kd": Baseline("Hinton KD, 0.1 and 0.9, T = 4", "response", _hinton),
    "dkd": Baseline("DKD, 1 and 8, T = 4", "response", _response(matches.Dkd(1.0, 8.0), 4.0, 1.0, 1.0)),
    "dist": Baseline("DIST, 1 and 1, T = 1", "response", _response(matches.Dist(1.0, 1.0), 1.0, 1.0, 1.0)),
    "fitnets": Baseline("FitNets hint, 100", "feature", _feature(lambda s: hints.Hint(100 * s), "middle")),
    "attention": Baseline("attention transfer, 1000", "feature", _feature(lambda s: hints.Attention(1000 * s), "all")),
    "rkd": Baseline("RKD, 25 and 50", "relation", _feature(lambda s: hints.Relational(25 * s, 50 * s), "embedding")),
    "crd": Baseline("CRD, 0.8", "relation", _crd),
    "dml": Baseline("mutual learning of two", "peer",
                    lambda pair, d, p, s: MutualLearning(pair.student(0), pair.student(1), weight=s)),
    "born_again": Baseline("born again, one generation", "self", _born_again),
    "byot": Baseline("be your own teacher", "self", _byot),
    "cs_kd": Baseline("CS-KD", "self", lambda pair, d, p, s: ClassWise(pair.student(0), weight=s)),
}  # fmt: skip


def carried(pair: Pair) -> list[str]:
    """The baselines that ``pair`` can carry: attention transfer needs maps or tokens at every stage of both."""
    ends = ((pair.student(0), pair.stages), (pair.teacher, pair.teacher_stages))
    kinds = [[len(shape) for shape in feature_shapes(network, names, pair.input_shape)] for network, names in ends]
    mapped = kinds[0] == kinds[1] and 1 not in kinds[0]
    return [name for name in BASELINES if mapped or name != "attention"]
