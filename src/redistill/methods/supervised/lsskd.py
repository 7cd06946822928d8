"""LSSKD: a small network is taught by what each of its heads said one epoch ago, and in depth: its deepest branch
teaches the shallower ones and, averaged over rotations, the classifier.

    y_S     = (1 - alpha_e) onehot(y) + alpha_e p^{e-1}(x),                    p = softmax(f)
    k_lm    = (1 - alpha_e) onehot(y, m) + alpha_e q_l^{e-1}(t_m x),           q_l = softmax(A_l)
    L_cls   = CE(f(x), y_S),    L_joint = (1/L) sum_l mean_{b,m} CE(A_l(t_m x_b), k_lm)
    L_lay   = sum_{l<L} T^2 KL(softmax(sg[A_L] / T) || softmax(A_l / T)),      over all transformed rows
    L_main  = T^2 KL(softmax(sg[a] / T) || softmax(f(x) / T)),                 a_i = (1/M) sum_m A_L(t_m x)_{(i, m)}
    L = L_cls + L_joint + lambda_1 L_lay + lambda_2 L_main + beta sum_{l<L} |phi_l - sg[phi_L]|^2

Roles: student (trained): the backbone with its classifier f, which sees the images as they are; branches (trained,
dropped at the end): A_l after every stage, with a score for every pair of class and rotation. Nothing is asked of f on
turned images: that would be invariance. What mixes label and past is a plug-in (``rectifier``), as in PS-KD.

From the paper (Dahri et al. 2025; its text could not be had, summaries with its equations could): y_S and k_lm, both
at temperature 1, and that their cross-entropies are trained together with KL from deep to shallow and an L2 distance
from the last stage's features. Derived: L_main; which branches KL and L2 pair, T, all weights, the mean in L_joint;
that alpha grows as in PS-KD; the ramp, over which both lambdas grow from 0 because A_L knows nothing at first. beta is
that of be your own teacher; its features are the pooled ones and need no adapter: every branch ends as wide as the
last stage. :class:`Hsakd` is the rival that needs a trained teacher.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from redistill.core import Loss, Method, Progress, UserError
from redistill.core.method import Batch
from redistill.core.types import Count, CountOrZero, NonNegative, Positive, Share
from redistill.losses.precision import raised
from redistill.supervised.branches import Branches, stage_shapes
from redistill.supervised.layers import logits_and_features
from redistill.supervised.matches import Kd
from redistill.supervised.targets import Progressive, TargetRectifier, check_fits, one_hot
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

    What the heads said of the rows takes rows x (N + L M N M) numbers, which are 1.3 GB for 50,000 images, 100 classes,
    four stages and rotations. With ``rows=0`` nothing is remembered: hard labels.
    """

    trains = {"student": ["student", "branches"]}
    needs = ("image", "label")

    def __init__(
        self,
        student: nn.Module,
        *,
        layers: list[str],  # the stages, shallow to deep, as in named_modules(); each gets a branch
        input_shape: list[Count],  # of one image
        rows: CountOrZero,  # size of the training set; 0 remembers nothing
        classes: Count,
        rectifier: TargetRectifier | None = None,  # mixes label and past; progressive if left out
        transformations: Transformations | None = None,  # rotations if left out
        tau: Positive = 3.0,  # T
        layered_weight: NonNegative = 1.0,  # lambda_1: the deepest branch teaches the others
        main_weight: NonNegative = 1.0,  # lambda_2: it teaches the classifier
        feature_weight: NonNegative = 1.3e-4,  # beta
        ramp: Share = 0.1,  # share of the run over which both lambdas grow
        chain: bool = False,  # each branch is taught by the next deeper one, not by the deepest
    ) -> None:
        super().__init__()
        if len(layers) < 2:
            raise UserError(f"{len(layers)} stages; give two or more, the last one teaches", place="layers")
        self.student, self.layers, self.classes = student, list(layers), classes
        self.transformations, self.tau, self.ramp, self.chain = transformations or Rotations(), tau, ramp, chain
        self.layered_weight, self.main_weight, self.feature_weight = layered_weight, main_weight, feature_weight
        self.rows, self.rectifier, M = rows, rectifier or Progressive(), self.transformations.count
        joint = Branches(stage_shapes(student, layers, input_shape), classes * M)
        self.branches = joint.to(next(student.parameters()))
        self.table: Tensor  # rows of zeros: not seen yet
        self.joint_table: Tensor
        self.register_buffer("table", torch.zeros(rows, classes))
        self.register_buffer("joint_table", torch.zeros(rows, len(layers), M, classes * M))

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """``class``: labels and past of the images; ``joint``: the same, joint, at the branches; ``layered``: the
        deepest branch teaches the others; ``main``: its aggregate teaches the classifier; ``features``: embeddings of
        the branches."""
        M = self.transformations.count
        f, scores, embeddings = self.heads(self.transformations(batch["image"]))
        f = f[::M]  # [B, N]: images as they are
        y, k = self.targets(batch, now)
        teachers = [s.detach() for s in (scores[1:] if self.chain else scores[-1:] * (len(scores) - 1))]
        a, end = aggregated_scores(scores[-1].detach(), M), embeddings[-1].detach()  # sg
        growth = min(1.0, now.fraction / self.ramp) if self.ramp else 1.0
        layered = sum(kd(s, t, None, self.tau).mean() for s, t in zip(scores, teachers))
        terms = {
            "class": cross_entropy(f, y),
            "joint": sum(cross_entropy(s, target) for s, target in zip(scores, k)) / len(scores),
            "layered": growth * self.layered_weight * layered,
            "main": growth * self.main_weight * kd(f, a, None, self.tau).mean(),
        }
        if self.feature_weight:
            gaps = [(e - end).square().sum(1).mean() for e in embeddings[:-1]]
            terms["features"] = self.feature_weight * sum(gaps)
        said = torch.stack([s.detach().softmax(1).unflatten(0, (-1, M)) for s in scores], 1)  # [B, L, M, NM]
        gather = {"index": batch["index"], "class": f.detach().softmax(1), "joint": said} if self.rows else {}
        return Loss(terms, gather=gather)

    def targets(self, batch: Batch, now: Progress) -> tuple[Tensor, list[Tensor]]:
        """y_S [B, N] of the classifier and k_l [BM, NM] of every branch; without memory the labels [B] and [BM]."""
        label, k = batch["label"], joint_labels(batch["label"], self.transformations.count)
        if not self.rows:
            return label, [k] * len(self.layers)
        past = self.joint_table[batch["index"]].transpose(0, 1).flatten(1, 2)  # [L, BM, NM]
        return self._mixed(label, self.table[batch["index"]], now), [self._mixed(k, said, now) for said in past]

    def _mixed(self, label: Tensor, past: Tensor, now: Progress) -> Tensor:
        """A row that was not seen yet counts as its label."""
        past = torch.where(past.any(1, keepdim=True), past, one_hot(label, past))
        return self.rectifier(label, past, now)

    def after(self, turn: str, stats: dict[str, Tensor], now: Progress) -> None:
        """Remember what the heads said in this epoch, from all micro-batches and ranks."""
        if self.rows:
            self.table[stats["index"]] = stats["class"].to(self.table)
            self.joint_table[stats["index"]] = stats["joint"].to(self.joint_table)

    def branch_scores(self, image: Tensor) -> list[Tensor]:
        """Class log-probabilities [B, N] of every branch for images as they are, from shallow to deep."""
        return [class_log_probabilities(s, self.transformations.count) for s in self.heads(image)[1]]

    def check(self, batch: Batch) -> None:
        """Also refuse labels that no class has (y M + m of a wrong y would name another class) and rows that the tables
        have no place for."""
        super().check(batch)
        check_fits(batch["label"], self.classes, "classes")
        if self.rows:
            check_fits(batch["index"], self.rows, "rows")

    def heads(self, image: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Scores of the classifier and of the branches, and the embeddings that these read."""
        f, features = logits_and_features(self.student, {"image": image}, self.layers)
        if f.shape[1] != self.classes:
            raise UserError(f"the student knows {f.shape[1]} classes, not {self.classes}; set classes", place="lsskd")
        scores, embeddings = self.branches(features)
        return f, [raised(s) for s in scores], embeddings


class Hsakd(Method):
    """The rival with a teacher that was trained with branches of its own (Yang et al. 2021).

        L = CE(f(x), y) + sum_l T^2 KL(A^T_l || A_l) + T^2 KL(f^T || f),      the last two over all transformed rows

    ``teacher``: an :class:`Lsskd` without lambdas (labels alone), trained, with as many stages; its network and its
    branches are kept as they are.
    """

    trains = {"student": ["student", "branches"]}
    needs = ("image", "label")

    def __init__(
        self, student: nn.Module, teacher: Lsskd, *, layers: list[str], input_shape: list[Count], tau: Positive = 3.0
    ) -> None:
        super().__init__()
        if len(layers) != len(teacher.layers):
            raise UserError(f"{len(layers)} stages, the teacher has {len(teacher.layers)}", place="layers")
        self.student, self.teacher, self.layers, self.tau = student, teacher, list(layers), tau
        outputs = teacher.classes * teacher.transformations.count
        self.branches = Branches(stage_shapes(student, layers, input_shape), outputs).to(next(student.parameters()))

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
