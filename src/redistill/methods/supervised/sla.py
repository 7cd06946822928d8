"""SLA+SD: a classifier is taught, on its own training images, by what its joint head says of all their transformed
copies.

    L_joint = (1/BM) sum_{b,m} CE(W f(t_m x_b), (y_b, m))
    s_i(x)  = (1/M) sum_m [W f(t_m x)]_{(i, m)}
    L = L_joint + CE(U f(x), y) + T^2 KL(softmax(sg[s] / T) || softmax(U f(x) / T))         (Lee, Hwang and Shin 2020)

Roles: student (trained): the backbone f with its own classifier U; joint (trained, dropped at the end): W, a second
linear layer on what U reads, with a score for every pair of class and transformation. The stop-gradient on s keeps the
teacher from being pulled to the student. With both weights of U at 0 this is SLA: use :meth:`Sla.aggregate` (SLA+AG)
or :meth:`Sla.single` (SLA+SI, which is then what leaves as the student). ``joint_weight=M`` sums over the
transformations, for sets as large as ImageNet.

Differs from the paper: U sees the untransformed rows of one pass over all copies, so that batch norm counts all of them
(the released code does the same). :class:`Invariant` and :class:`TwoTasks` are the paper's rivals; the losses of the
latter are those of the first released code (``joint=False``, beta 1).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from redistill.core import Loss, Method, Progress, UserError
from redistill.core.method import Batch
from redistill.core.types import NonNegative, Positive
from redistill.core.world import placed_like, whole
from redistill.losses.precision import raised
from redistill.models.features import classifier_layer, scores_and_embedding
from redistill.supervised.matches import Kd
from redistill.supervised.targets import check_labels
from redistill.vision.transformations import Rotations, Transformations, aggregated_scores, joint_labels

cross_entropy = nn.functional.cross_entropy


def _classifier(student: nn.Module, head: str) -> nn.Linear:
    """The student's classifier."""
    layer = dict(student.named_modules()).get(head)
    if not isinstance(layer, nn.Linear):
        raise UserError(f"{head!r} is no linear layer of the student; name its classifier", place="head")
    return layer


def _beside(layer: nn.Linear, outputs: int) -> nn.Linear:
    """A blank head on what ``layer`` reads, of its type and on its device."""
    return nn.Linear(layer.in_features, outputs, layer.bias is not None).to(layer.weight)


class Sla(Method):
    """Self-supervised label augmentation with self-distillation. Images must be square for rotations."""

    trains = {"student": ["student", "joint"]}
    needs = ("image", "label")

    def __init__(
        self,
        student: nn.Module,
        *,
        transformations: Transformations | None = None,  # rotations if left out
        head: str | None = None,  # name of the student's classifier; its last linear layer if left out
        temperature: Positive = 1.0,  # T
        joint_weight: Positive = 1.0,  # of the joint labels
        single_weight: NonNegative = 1.0,  # of the labels at the own classifier
        distill_weight: NonNegative = 1.0,  # of the aggregated scores as its teacher
    ) -> None:
        super().__init__()
        self.student, self.head = student, head or classifier_layer(student)
        self.transformations, self.temperature = transformations or Rotations(), temperature
        self.joint_weight, self.single_weight, self.distill_weight = joint_weight, single_weight, distill_weight
        own = _classifier(student, self.head)
        self.classes = own.out_features
        self.joint = _beside(own, self.classes * self.transformations.count)

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``joint``: joint labels of all copies; ``single``: labels of the images; ``distill``: distance of the own
        classifier from the aggregated scores. ``aggregated`` (watched): share of labels that the aggregate hits."""
        label, M = batch["label"], self.transformations.count
        u, joint = self._scores(batch["image"])  # [BM, N], [BM, NM]
        u, s = u[::M], aggregated_scores(joint, M).detach()  # [B, N]: images as they are; the teacher, sg
        terms = {"joint": self.joint_weight * cross_entropy(joint, joint_labels(label, M))}
        if self.single_weight:
            terms["single"] = self.single_weight * cross_entropy(u, label)
        if self.distill_weight:
            terms["distill"] = self.distill_weight * Kd()(u, s, label, self.temperature).mean()
        return Loss(terms, watch={"aggregated": (s.argmax(1) == label).float().mean()})

    def aggregate(self, image: Tensor) -> Tensor:
        """s: class scores [B, N] from all copies of images [B, C, H, W] (SLA+AG, M forward passes)."""
        return aggregated_scores(self._scores(image)[1], self.transformations.count)

    def single(self, image: Tensor) -> Tensor:
        """Class scores [B, N] of the joint head for the images as they are (SLA+SI, one forward pass)."""
        _, h = scores_and_embedding(self.student, self.head, image)
        return self.joint(h)[:, :: self.transformations.count]

    @torch.no_grad()
    def export(self) -> nn.Module:
        """The student. Where nothing teaches U (SLA), U becomes the rows (i, 0) of W: SLA+SI in the plain network."""
        if not (self.single_weight or self.distill_weight):
            for name, own in _classifier(self.student, self.head).named_parameters():
                own.copy_(placed_like(whole(self.joint.get_parameter(name))[:: self.transformations.count], own))
        return self.student

    def _scores(self, image: Tensor) -> tuple[Tensor, Tensor]:
        u, h = scores_and_embedding(self.student, self.head, self.transformations(image))
        if u.shape[1] != self.classes:
            raise UserError(
                f"{self.head!r} gives {self.classes} of {u.shape[1]} scores; name the classifier", place="head"
            )
        return u, raised(self.joint(h))

    def check(self, batch: Batch) -> None:
        """Also refuse labels that no class has: y M + m of a wrong y would name another class."""
        super().check(batch)
        check_labels(batch["label"], self.classes)


class Invariant(Method):
    """Plain augmentation, the rival: all copies have their image's class."""

    needs = ("image", "label")

    def __init__(self, student: nn.Module, *, transformations: Transformations | None = None) -> None:
        super().__init__()
        self.student, self.transformations = student, transformations or Rotations()

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``ce``: labels of all copies."""
        z = self.student(self.transformations(batch["image"]))  # [BM, N]
        return Loss({"ce": cross_entropy(z, batch["label"].repeat_interleave(self.transformations.count))})

    def aggregate(self, image: Tensor) -> Tensor:
        """Mean scores [B, N] over all copies: an ensemble of views without joint labels."""
        return self.student(self.transformations(image)).unflatten(0, (len(image), -1)).mean(1)


class TwoTasks(Method):
    """Multi-task training, the rival: one head learns the class of every copy, another its transformation."""

    trains = {"student": ["student", "task"]}
    needs = ("image", "label")

    def __init__(
        self, student: nn.Module, *, transformations: Transformations | None = None, head: str | None = None
    ) -> None:
        super().__init__()
        self.student, self.head = student, head or classifier_layer(student)
        self.transformations = transformations or Rotations()
        self.task = _beside(_classifier(student, self.head), self.transformations.count)

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``ce``: labels of all copies; ``task``: which transformation it was."""
        M = self.transformations.count
        z, h = scores_and_embedding(self.student, self.head, self.transformations(batch["image"]))
        which = torch.arange(M, device=h.device).repeat(len(z) // M)  # [BM]
        terms = {
            "ce": cross_entropy(z, batch["label"].repeat_interleave(M)),
            "task": cross_entropy(self.task(h), which),
        }
        return Loss(terms)
