"""A student learns features of a frozen teacher beside the labels, from layers of both that are named.

    L = hard_weight CE + soft_weight match(z_S, z_T; tau) + sum over pairs of layers of feature(r(F_S), F_T)

Rivals are plug-ins (``feature``) with the weights of the usual CIFAR benchmarks; r is an adapter that a plug-in may ask
for. It is built at once from ``input_shape``, trained with the student and not exported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from redistill.core import Loss, Progress, Slot, UserError
from redistill.core.method import Batch
from redistill.losses.features import attention_transfer, check_tokens, hint
from redistill.losses.relations import angle_relation, distance_relation, similarity_relation
from redistill.models.features import tapped
from redistill.supervised.classifier import Distillation
from redistill.supervised.layers import feature_shapes, pooled, width
from redistill.supervised.matches import Match
from redistill.supervised.targets import TargetRectifier
from redistill.supervised.temperature import Temperature

Shape = Sequence[int]


class FeatureMatch(Slot):
    """Weighted distance, [B] or a scalar, of a student's feature from a teacher's, which carries no gradient."""

    def adapter(self, student: Shape, teacher: Shape) -> nn.Module:
        """What the student's feature passes before it is compared; shapes without the batch axis."""
        return nn.Identity()

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        raise NotImplementedError


class Hint(FeatureMatch):
    """weight times the mean square of r(F_S) - F_T, r a 1x1 convolution with batch norm and ReLU (Romero et al. 2015).

    A map against a vector is averaged first; vectors and tokens, equally many, have a linear r. ``relu=False`` for a
    teacher's maps that can be negative.
    """

    def __init__(self, weight: float = 100.0, relu: bool = True) -> None:
        self.weight, self.relu = weight, relu

    def adapter(self, student: Shape, teacher: Shape) -> nn.Module:
        if len(student) == len(teacher) == 3:
            r = [nn.Conv2d(student[0], teacher[0], 1, bias=False), nn.BatchNorm2d(teacher[0])]
            return nn.Sequential(*r, nn.ReLU()) if self.relu else nn.Sequential(*r)
        check_tokens(student, teacher)
        linear = nn.Linear(width(student), width(teacher))
        return linear if len(student) == len(teacher) else nn.Sequential(_Pooled(), linear)

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        return self.weight * hint(student, teacher if student.ndim == teacher.ndim else pooled(teacher))


class Attention(FeatureMatch):
    """weight times the mean square of the difference of both attention maps (Zagoruyko and Komodakis 2017)."""

    def __init__(self, weight: float = 1000.0, power: float = 2.0) -> None:
        self.weight, self.power = weight, power

    def adapter(self, student: Shape, teacher: Shape) -> nn.Module:
        """None; refuses vectors, maps against tokens, and tokens of unequal number."""
        if len(student) != len(teacher) or len(student) == 1:
            raise UserError(
                f"attention needs two maps or two sequences, not features of shape {tuple(student)} and "
                f"{tuple(teacher)}; name other layers", place="layers",
            )  # fmt: skip
        check_tokens(student, teacher)
        return nn.Identity()

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        return self.weight * attention_transfer(student, teacher, self.power)


class Relational(FeatureMatch):
    """distance RKD-D + angle RKD-A among the rows' pooled features (Park et al. 2019)."""

    def __init__(self, distance: float = 25.0, angle: float = 50.0) -> None:
        self.distance, self.angle = distance, angle

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        s, t = pooled(student), pooled(teacher)
        return self.distance * distance_relation(s, t) + self.angle * angle_relation(s, t)


class SimilarityPreserving(FeatureMatch):
    """weight times the mean square of the difference of both tables of similarities of rows (Tung and Mori 2019)."""

    def __init__(self, weight: float = 3000.0) -> None:
        self.weight = weight

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        return self.weight * similarity_relation(student.flatten(1), teacher.flatten(1))


class _Pooled(nn.Module):
    def forward(self, feature: Tensor) -> Tensor:
        return pooled(feature)


class BesideFeatures(Distillation):
    """Distillation that also sees features of paired layers of both networks; what it does with them is
    :meth:`compare`. Hooks are in place only while a forward pass runs."""

    def __init__(
        self, student: nn.Module, teacher: nn.Module, layers: Sequence[str], teacher_layers: Sequence[str],
        input_shape: Shape, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(student, teacher, **options)
        self.layers, self.teacher_layers = list(layers), list(teacher_layers)
        if not layers or len(self.layers) != len(self.teacher_layers):
            raise UserError(f"{len(self.layers)} layers of the student, {len(self.teacher_layers)} of the teacher; "
                            "give pairs", place="layers")  # fmt: skip
        ends = ((student, self.layers), (teacher, self.teacher_layers))
        shapes = [feature_shapes(network, names, input_shape) for network, names in ends]
        self.shapes = list(zip(*shapes))  # of each pair, without the batch axis

    def train_beside(self, name: str, network: nn.Module) -> None:
        """Hold ``network`` and train it in the student's turn, if there is anything to train."""
        self.add_module(name, network.to(next(self.student.parameters())))
        if any(True for _ in network.parameters()):
            self.trains = {"student": ["student", name]}  # type: ignore[misc]

    def prepare(self, batch: Batch, now: Progress) -> Batch:
        """Add the teacher's logits and ``teacher_features``, from evaluation mode."""
        with tapped(self.teacher, self.teacher_layers) as found:
            batch = super().prepare(batch, now)
        return {**batch, "teacher_features": [found[name] for name in self.teacher_layers]}

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``hard``, ``soft``: as in :class:`Distillation`; then what :meth:`compare` gives."""
        with tapped(self.student, self.layers) as found:
            loss = super().loss(turn, batch, now)
        student = [found[name] for name in self.layers]
        teacher = [t.to(s) for s, t in zip(student, batch["teacher_features"])]
        more = self.compare(student, teacher, batch, now)
        return Loss({**loss.terms, **more.terms}, gather={**loss.gather, **more.gather})

    def compare(self, student: list[Tensor], teacher: list[Tensor], batch: Batch, now: Progress) -> Loss:
        """The terms that features add, and statistics to gather."""
        raise NotImplementedError


class FeatureDistillation(BesideFeatures):
    """FitNets, attention transfer, RKD or another ``feature`` between ``layers`` of the student and ``teacher_layers``
    (the same names unless given). ``input_shape``: of one row, as [3, 32, 32].

    Differs from the FitNets paper: the hint is a term beside the labels, not a stage of training before them
    (``hard_weight=0`` alone is that stage).
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, *, layers: list[str], input_shape: list[int],
        teacher_layers: list[str] | None = None, feature: FeatureMatch | None = None, match: Match | None = None,
        temperature: Temperature | None = None, rectifier: TargetRectifier | None = None, hard_weight: float = 1.0,
        soft_weight: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(
            student, teacher, layers, teacher_layers or layers, input_shape, match=match, temperature=temperature,
            rectifier=rectifier, hard_weight=hard_weight, soft_weight=soft_weight,
        )  # fmt: skip
        self.feature = feature or Hint()
        self.train_beside("adapters", nn.ModuleList(self.feature.adapter(*pair) for pair in self.shapes))

    def compare(self, student: list[Tensor], teacher: list[Tensor], batch: Batch, now: Progress) -> Loss:
        """``feature``: sum over the pairs of layers."""
        parts = [self.feature(adapter(s), t).mean() for adapter, s, t in zip(self.adapters, student, teacher)]
        return Loss({"feature": sum(parts[1:], parts[0])})
