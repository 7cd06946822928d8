"""A student learns features of a frozen teacher beside the labels, from layers of both that are named.

    L = hard_weight CE + soft_weight match(z_S, z_T; tau) + sum over pairs of layers of feature(r(F_S), F_T)

What is compared is a plug-in (``feature``: see ``redistill.rivals`` for those of papers); r is
an adapter that a plug-in may ask for. It is built at once from ``input_shape``, trained with the student and not
exported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from redistill.core import Loss, Progress, Slot, UserError
from redistill.core.method import Batch
from redistill.core.types import Count, Finite
from redistill.models.features import tapped
from redistill.supervised.classifier import Distillation
from redistill.supervised.layers import feature_shapes
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
    """A ``feature`` of the student is matched to the teacher's, layer by layer."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        feature: FeatureMatch,
        layers: list[str],  # of the student, as in named_modules()
        input_shape: list[Count],  # of one row, as [3, 32, 32]
        teacher_layers: list[str] | None = None,  # where the teacher's names differ
        match: Match | None = None,
        temperature: Temperature | None = None,
        rectifier: TargetRectifier | None = None,
        hard_weight: Finite = 1.0,
        soft_weight: Finite = 0.0,
    ) -> None:
        super().__init__(
            student, teacher, layers, teacher_layers or layers, input_shape, match=match, temperature=temperature,
            rectifier=rectifier, hard_weight=hard_weight, soft_weight=soft_weight,
        )  # fmt: skip
        self.feature = feature
        self.train_beside("adapters", nn.ModuleList(self.feature.adapter(*pair) for pair in self.shapes))

    def compare(self, student: list[Tensor], teacher: list[Tensor], batch: Batch, now: Progress) -> Loss:
        """``feature``: sum over the pairs of layers."""
        parts = [self.feature(adapter(s), t).mean() for adapter, s, t in zip(self.adapters, student, teacher)]
        return Loss({"feature": sum(parts[1:], parts[0])})
