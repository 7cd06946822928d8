"""LSSKD: a small network's deepest branch teaches its shallower branches and, averaged over rotations, its own
classifier.

    L_cls   = CE(f(x), y)
    L_joint = (1/L) sum_l mean_{b,m} CE(A_l(t_m x_b), (y_b, m))
    L_lay   = sum_{l<L} T^2 KL(softmax(sg[A_L] / T) || softmax(A_l / T)),      over all transformed rows
    L_main  = T^2 KL(softmax(sg[a] / T) || softmax(f(x) / T)),                 a_i = (1/M) sum_m A_L(t_m x)_{(i, m)}
    L = L_cls + L_joint + lambda_1 L_lay + lambda_2 L_main + beta sum_{l<L} |phi_l - sg[phi_L]|^2

Roles: student (trained): the backbone with its classifier f, which sees the images as they are; branches (trained,
dropped at the end): A_l after every stage, with a score for every pair of class and rotation. Nothing is asked of f on
turned images: that would be invariance. Both lambdas grow from 0 over the first ``ramp`` of the run, for A_L knows
nothing at first.

Differs from the paper: its equations were not to be had, so all but L_cls and L_joint (which are HSAKD's, Yang et al.
2021) is derived from the description; the mean in L_joint and the ramp are ours. The feature term needs no adapter:
every branch ends as wide as the last stage. :class:`Hsakd` is the rival that needs a trained teacher.
"""

from __future__ import annotations

from torch import Tensor, nn

from redistill.core import Loss, Method, Progress, UserError
from redistill.core.method import Batch
from redistill.supervised.branches import Branches
from redistill.supervised.layers import feature_shapes, logits_and_features
from redistill.supervised.matches import Kd
from redistill.vision.transformations import (
    Rotations,
    Transformations,
    aggregated_scores,
    class_log_probabilities,
    joint_labels,
)

cross_entropy = nn.functional.cross_entropy
kd = Kd()


class Lsskd(Method):
    """Layered self-supervised distillation.

    ``layers``: the stages from shallow to deep, as in ``student.named_modules()``; each gets a branch. ``input_shape``:
    of one image. ``chain``: each branch is taught by the next deeper one instead of the deepest.
    """

    trains = {"student": ["student", "branches"]}
    needs = ("image", "label")

    def __init__(
        self, student: nn.Module, *, layers: list[str], input_shape: list[int], classes: int,
        transformations: Transformations | None = None, tau: float = 3.0, layered_weight: float = 1.0,
        main_weight: float = 1.0, feature_weight: float = 0.0, ramp: float = 0.1, chain: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if len(layers) < 2:
            raise UserError(f"{len(layers)} stages; give two or more, the last one teaches", place="layers")
        if not (tau > 0 and 0 <= ramp <= 1):
            raise UserError(f"tau={tau}, ramp={ramp}; give tau above 0 and ramp from 0 to 1", place="lsskd")
        self.student, self.layers, self.classes = student, list(layers), classes
        self.transformations, self.tau, self.ramp, self.chain = transformations or Rotations(), tau, ramp, chain
        self.layered_weight, self.main_weight, self.feature_weight = layered_weight, main_weight, feature_weight
        shapes = feature_shapes(student, layers, input_shape)
        joint = Branches(shapes, classes * self.transformations.count)
        self.branches = joint.to(next(student.parameters()))

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``class``: labels of the images; ``joint``: joint labels at the branches; ``layered``: the deepest branch
        teaches the others; ``main``: its aggregate teaches the classifier; ``features``: embeddings of the branches."""
        M, label = self.transformations.count, batch["label"]
        f, scores, embeddings = self.heads(self.transformations(batch["image"]))
        k, f = joint_labels(label, M), f[::M]  # [BM], [B, N]: images as they are
        teachers = [s.detach() for s in (scores[1:] if self.chain else scores[-1:] * (len(scores) - 1))]
        a, end = aggregated_scores(scores[-1].detach(), M), embeddings[-1].detach()  # sg
        growth = min(1.0, now.fraction / self.ramp) if self.ramp else 1.0
        layered = sum(kd(s, t, None, self.tau).mean() for s, t in zip(scores, teachers))
        terms = {
            "class": cross_entropy(f, label),
            "joint": sum(cross_entropy(s, k) for s in scores) / len(scores),
            "layered": growth * self.layered_weight * layered,
            "main": growth * self.main_weight * kd(f, a, None, self.tau).mean(),
        }
        if self.feature_weight:
            gaps = [(e - end).square().sum(1).mean() for e in embeddings[:-1]]
            terms["features"] = self.feature_weight * sum(gaps)
        return Loss(terms)

    def branch_scores(self, image: Tensor) -> list[Tensor]:
        """Class log-probabilities [B, N] of every branch for images as they are, from shallow to deep."""
        return [class_log_probabilities(s, self.transformations.count) for s in self.heads(image)[1]]

    def check(self, batch: Batch) -> None:
        """Also refuse labels that no class has: y M + m of a wrong y would name another class."""
        super().check(batch)
        low, high = int(batch["label"].min()), int(batch["label"].max())
        if not 0 <= low <= high < self.classes:
            raise UserError(f"labels {low} to {high}, not 0 to {self.classes - 1}; set classes", place="lsskd")

    def heads(self, image: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Scores of the classifier and of the branches, and the embeddings that these read."""
        f, features = logits_and_features(self.student, {"image": image}, self.layers)
        if f.shape[1] != self.classes:
            raise UserError(f"the student knows {f.shape[1]} classes, not {self.classes}; set classes", place="lsskd")
        return f, *self.branches(features)


class Hsakd(Method):
    """The rival with a teacher that was trained with branches of its own (Yang et al. 2021).

        L = CE(f(x), y) + sum_l T^2 KL(A^T_l || A_l) + T^2 KL(f^T || f),      the last two over all transformed rows

    ``teacher``: an :class:`Lsskd` without lambdas (labels alone), trained, with as many stages; its network and its
    branches are kept as they are.
    """

    trains = {"student": ["student", "branches"]}
    needs = ("image", "label")

    def __init__(
        self, student: nn.Module, teacher: Lsskd, *, layers: list[str], input_shape: list[int], tau: float = 3.0
    ) -> None:
        super().__init__()
        if len(layers) != len(teacher.layers):
            raise UserError(f"{len(layers)} stages, the teacher has {len(teacher.layers)}", place="layers")
        self.student, self.teacher, self.layers, self.tau = student, teacher, list(layers), tau
        outputs = teacher.classes * teacher.transformations.count
        self.branches = Branches(feature_shapes(student, layers, input_shape), outputs).to(next(student.parameters()))

    def prepare(self, batch: Batch, now: Progress) -> Batch:
        """Add all copies of the images and what the teacher's heads say of them."""
        rows = self.teacher.transformations(batch["image"])
        f, scores, _ = self.teacher.heads(rows)
        return {**batch, "rows": rows, "teacher": [f, *scores]}

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``class``: labels of the images; ``distill``: distance from the teacher, summed over the heads."""
        f, features = logits_and_features(self.student, {"image": batch["rows"]}, self.layers)
        mine = [f, *self.branches(features)[0]]
        distill = sum(kd(s, t, None, self.tau).mean() for s, t in zip(mine, batch["teacher"]))
        ce = cross_entropy(f[:: self.teacher.transformations.count], batch["label"])
        return Loss({"class": ce, "distill": distill})
