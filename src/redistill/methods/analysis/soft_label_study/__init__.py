"""When does a student reach its teacher? Logit distillation taken through its factors, on one bench of networks.

Who teaches: frozen networks of several qualities. On what: the training rows, or some of them. Match: the textbook
loss and its variants.

    q_i(T) = exp(z_i / T) / sum_j exp(z_j / T)
    L = (1 - lambda) CE(y, q_S(1)) + lambda T^2 KL(q_T(T) || q_S(T)),   d/dz_S of T^2 KL = T (q_S(T) - q_T(T))
    recovery = (acc_S - acc_CE) / (acc_T - acc_CE)                (acc_CE: the same student on the same labels alone)

A :class:`Setting` is one choice of every factor; :func:`plane` and :func:`star` make the settings of a fractional
design, :meth:`Bench.table` trains them with the same initial weights, batches and steps, and
``effects.explained`` says which factor moves the score. "As good as the teacher" means that McNemar's
paired test on the held-out rows does not tell them apart. lambda is ``soft_weight``.

Language models: ``redistill.rivals.token_kd.TokenDistillation`` is the same loss token by token.

Differs from the paper: it is an overview without an algorithm box or numbers that could be verified; the factors are
its, the design and what is left of a soft label (``soft_labels``) are ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from redistill.core import Plan, fit
from redistill.core.errors import unknown
from redistill.core.progress import seed_of
from redistill.core.source import table
from redistill.core.types import Positive, PositiveShare, Share, check
from redistill.data.picked import Picked
from redistill.data.signals import WithSignals
from redistill.methods.analysis.soft_label_study.effects import mcnemar
from redistill.methods.analysis.soft_label_study.soft_labels import PARTS
from redistill.supervised.classifier import Distillation, check_classes
from redistill.supervised.matches import Kd, LogitMse, Match, SoftCrossEntropy, TeacherLabel
from redistill.supervised.predict import predict
from redistill.supervised.temperature import Constant, log_of

TAUS = (1.0, 2.0, 4.0, 8.0, 16.0)
WEIGHTS = (0.0, 0.3, 0.5, 0.7, 0.9, 1.0)
# soft_ce has the gradient of the KL without T^2
FORMS: dict[str, Match] = {"kd": Kd(), "soft_ce": SoftCrossEntropy(), "mse": LogitMse(), "hard": TeacherLabel()}
Measure = Callable[[Tensor, Tensor], Mapping[str, float]]


Form = Literal["kd", "soft_ce", "mse", "hard"]
Part = Literal["whole", "confidence", "shuffled", "average", "smoothed"]


@dataclass(frozen=True)
class Setting:
    """One choice of every factor; the default is the centre of the design."""

    tau: Positive = 4.0
    soft_weight: Share = 0.7
    form: Form = "kd"
    part: Part = "whole"  # what is left of the soft label
    teacher: str = "teacher"
    student: str = "student"
    share: PositiveShare = 1.0  # of the training rows

    def __post_init__(self) -> None:
        check(type(self).__init__, asdict(self), "setting")

    @property
    def labels(self) -> Setting:
        """The same student and rows without a teacher: no other factor is left."""
        return Setting(soft_weight=0.0, student=self.student, share=self.share)


def plane(centre: Setting, taus: Iterable[float] = TAUS, weights: Iterable[float] = WEIGHTS) -> list[Setting]:
    """Every temperature with every weight, all else as at the ``centre``."""
    return [replace(centre, tau=float(t), soft_weight=float(w)) for w, t in product(weights, taus)]


def star(centre: Setting, **factors: Sequence[Any]) -> list[Setting]:
    """One factor varied at a time around the ``centre``, which comes first and once."""
    arms = [replace(centre, **{name: level}) for name, levels in factors.items() for level in levels]
    return list(dict.fromkeys([centre, *arms]))


def distillation(setting: Setting, student: nn.Module) -> Distillation:
    """The loss of a setting on rows with ``teacher_logits``."""
    return Distillation(
        student, None, match=FORMS[setting.form], temperature=Constant(float(setting.tau)),
        hard_weight=1 - setting.soft_weight, soft_weight=setting.soft_weight,
    )  # fmt: skip


class Bench:
    """Teachers and makers of students by name, rows to learn from, rows to judge on, and one budget for all.

    ``data``, ``held_out``: what :func:`fit` takes, with labels; the rows are the same every time (no augmentation),
    for a teacher is asked once. ``measure(probabilities, labels)``: scores, ``accuracy`` among them. A share of the
    rows trains for as many steps as all of them. A maker must give the same initial weights whenever it is called.
    """

    def __init__(
        self, data: Any, held_out: Any, plan: Plan, *, teachers: Mapping[str, nn.Module],
        students: Mapping[str, Callable[[], nn.Module]], measure: Measure,
    ) -> None:  # fmt: skip
        self.data, self.held_out, self.measure = data, held_out, measure
        self.teachers, self.students = teachers, students
        rows = len(table(data))
        steps = plan.steps or (plan.epochs or 0) * -(-rows // plan.batch_size)
        self.plan = plan.model_copy(update={"steps": steps, "epochs": None})
        self.order = torch.from_numpy(np.random.default_rng(plan.seed).permutation(rows))
        self._said: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        self._ran: dict[Setting, tuple[Tensor, Tensor, float, int]] = {}

    def table(self, settings: Iterable[Setting]) -> list[dict[str, Any]]:
        """One row a setting: its factors, its scores, ``gained`` over labels alone, ``recovery``, ``p_equal`` (McNemar:
        right as often as the teacher), ``agreement`` with it, ``kl`` from it, ``size`` relative to it, ``seconds`` to
        answer the held-out rows. ``recovery`` is nan where the teacher is no better than labels alone."""
        return [asdict(setting) | self._scores(setting) for setting in settings]

    def _scores(self, setting: Setting) -> dict[str, float]:
        p_t = self._answers(setting.teacher)[2]
        p_s, label, seconds, size = self.run(setting)
        check_classes(p_s, p_t)
        scores, best = dict(self.measure(p_s, label)), self.measure(p_t, label)["accuracy"]
        alone = self.measure(self.run(setting.labels)[0], label)["accuracy"]
        gained, gap = scores["accuracy"] - alone, best - alone
        right_t, right_s = ((p.argmax(1) == label).numpy() for p in (p_t, p_s))
        return scores | {
            "teacher_accuracy": best, "gained": gained, "recovery": gained / gap if gap > 0 else float("nan"),
            "p_equal": mcnemar(right_s, right_t), "agreement": float((p_s.argmax(1) == p_t.argmax(1)).double().mean()),
            "kl": float((p_t * (log_of(p_t) - log_of(p_s))).sum(1).mean()),
            "size": size / _size(self.teachers[setting.teacher]), "seconds": seconds,
        }  # fmt: skip

    def run(self, setting: Setting) -> tuple[Tensor, Tensor, float, int]:
        """What the student of a setting says of the held-out rows [N, C], their labels, the processor seconds of it,
        and the student's number of parameters. Trained once, however often it is asked for."""
        setting = setting if setting.soft_weight else setting.labels
        if setting not in self._ran:
            net = fit(distillation(setting, self._student(setting.student)), self._rows(setting), self.plan).student
            begin = time.process_time()
            said, label = predict(net, self.held_out)
            self._ran[setting] = said, label, time.process_time() - begin, _size(net)
        return self._ran[setting]

    def soft_logits(self, setting: Setting) -> Tensor:
        """Logits [n, C] for the rows of a setting: their softmax at ``tau`` is what is left of the soft labels; their
        mean over the classes is 0."""
        chosen = self._chosen(setting)
        z, label = (part[chosen] for part in self._answers(setting.teacher)[:2])
        if setting.part != "whole":
            generator = torch.Generator().manual_seed(seed_of(self.plan.seed, "part"))
            z = setting.tau * log_of(PARTS[setting.part]((z / setting.tau).softmax(1), label, generator))
        return (z - z.mean(1, keepdim=True)).float()

    def _answers(self, teacher: str) -> tuple[Tensor, Tensor, Tensor]:
        """Of one teacher: log-probabilities of the training rows, their labels, probabilities of the held-out rows."""
        if teacher not in self.teachers:
            raise unknown("teacher", teacher, self.teachers, place="teacher")
        if teacher not in self._said:
            said, label = predict(self.teachers[teacher], self.data)
            self._said[teacher] = log_of(said), label, predict(self.teachers[teacher], self.held_out)[0]
        return self._said[teacher]

    def _student(self, name: str) -> nn.Module:
        if name not in self.students:
            raise unknown("student", name, self.students, place="student")
        return self.students[name]()

    def _chosen(self, setting: Setting) -> Tensor:
        return self.order[: max(1, round(setting.share * len(self.order)))]

    def _rows(self, setting: Setting) -> Any:
        chosen = self._chosen(setting)
        whole = isinstance(self.data, dict)
        data = {n: c[chosen] for n, c in self.data.items()} if whole else Picked(self.data, chosen.numpy())
        return WithSignals(data, self.soft_logits(setting).numpy()) if setting.soft_weight else data


def _size(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())
