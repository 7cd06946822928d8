"""Soft targets: the label and what a teacher said about the row, put together. Rivals differ by one line each."""

from __future__ import annotations

from torch import Tensor, nn

from redistill.core import Progress, Slot, UserError
from redistill.core.types import Finite, Positive, Share
from redistill.supervised.temperature import half_cosine, soften


def check_labels(label: Tensor, classes: int | None = None) -> None:
    """Refuse labels that are not a vector of whole numbers (a column [B, 1] would broadcast to [B, B]), and those that
    none of ``classes`` has."""
    if label.ndim != 1 or label.is_floating_point():
        raise UserError(f"labels {list(label.shape)} of {label.dtype}; give one whole number a row", place="label")
    low, high = int(label.min()), int(label.max())
    if classes is not None and not 0 <= low <= high < classes:
        raise UserError(f"labels {low} to {high} where the network has {classes} classes, 0 to {classes - 1}",
                        place="label")  # fmt: skip


def check_fits(number: Tensor, size: int, option: str) -> None:
    """Refuse row numbers or labels [B] outside 0..``size`` - 1, for which a method has no place: its ``option`` says
    how many there are."""
    low, high = int(number.min()), int(number.max())
    if not 0 <= low <= high < size:
        raise UserError(f"{low} to {high} in the data, not 0 to {size - 1}; set {option} to fit them", place=option)


def one_hot(label: Tensor, like: Tensor) -> Tensor:
    """Labels [B] as probabilities [B, C] of the shape and type of ``like``. Raises :class:`UserError` for labels that
    are none of the C classes."""
    check_labels(label, like.shape[1])
    return nn.functional.one_hot(label, like.shape[1]).to(like)


def cross_entropy(z: Tensor, label: Tensor) -> Tensor:
    """Mean cross-entropy of scores z [B, C] with labels [B]. Raises :class:`UserError` as :func:`one_hot`."""
    check_labels(label, z.shape[1])
    return nn.functional.cross_entropy(z, label)


def mix(label: Tensor, teacher: Tensor, weight: Tensor | float) -> Tensor:
    """(1 - weight) onehot(label) + weight teacher: [B], [B, C] -> [B, C]; the rows sum to 1 for any weight."""
    return (1 - weight) * one_hot(label, teacher) + weight * teacher


class TargetRectifier(Slot):
    """Makes the target [B, C] of a classifier from labels [B] and a teacher's probabilities [B, C]. No gradient."""

    def __call__(self, label: Tensor, teacher: Tensor, now: Progress) -> Tensor:
        raise NotImplementedError


class OneHot(TargetRectifier):
    """The label alone: plain cross-entropy."""

    def __call__(self, label: Tensor, teacher: Tensor, now: Progress) -> Tensor:
        return mix(label, teacher, 0.0)


class LabelSmoothing(TargetRectifier):
    """The label and the uniform distribution: the teacher knows nothing (Szegedy et al. 2016)."""

    def __init__(
        self,
        smoothing: Share = 0.1,  # share of the uniform distribution
    ) -> None:
        self.smoothing = smoothing

    def __call__(self, label: Tensor, teacher: Tensor, now: Progress) -> Tensor:
        uniform = teacher.new_full(teacher.shape, 1 / teacher.shape[-1])
        return mix(label, uniform, self.smoothing)


class Fixed(TargetRectifier):
    """The label and the teacher with a constant weight."""

    def __init__(
        self,
        alpha: Share = 0.8,  # the teacher's share
    ) -> None:
        self.alpha = alpha

    def __call__(self, label: Tensor, teacher: Tensor, now: Progress) -> Tensor:
        return mix(label, teacher, self.alpha)


class Imitation(TargetRectifier):
    """The label and the teacher with any real weight ``xi`` (Das and Sanghavi 2023). Targets may be negative;
    :func:`soft_cross_entropy` stays convex. Keep a weight decay above 0."""

    def __init__(
        self,
        xi: Finite = 1.0,  # the teacher's weight; above 1 the label counts against the student
    ) -> None:
        self.xi = xi

    def __call__(self, label: Tensor, teacher: Tensor, now: Progress) -> Tensor:
        return mix(label, teacher, self.xi)


class Progressive(TargetRectifier):
    """The teacher's weight grows linearly with the epochs (Kim et al. 2021)."""

    def __init__(
        self,
        alpha: Share = 0.8,  # the teacher's share in the last epoch
    ) -> None:
        self.alpha = alpha

    def __call__(self, label: Tensor, teacher: Tensor, now: Progress) -> Tensor:
        return mix(label, teacher, self.alpha * (now.epoch + 1) / now.epochs)


class Annealed(TargetRectifier):
    """The label and a cooling teacher that each row trusts as far as the teacher does not prefer another class to the
    label (Wu, Wang and Chen 2024), at step s of S:

        P_i = lambda_i q_i + (1 - lambda_i) onehot(y_i),  lambda_i = clip(lambda_s - (max_c q_ic - q_i,y_i), 0, 1)

    q is softened by a temperature that falls from ``hot`` to ``cool``; lambda_s rises from ``low`` to ``high``; both
    along half a cosine. The label stays the most probable class. A learned temperature before it gets no gradient
    through lambda_i.
    """

    def __init__(
        self,
        hot: Positive = 2.5,  # temperature before the first step
        cool: Positive = 2.0,  # and after the last
        low: Share = 0.7,  # lambda_s before the first step
        high: Share = 0.95,  # and after the last
    ) -> None:
        self.hot, self.cool, self.low, self.high = hot, cool, low, high

    def __call__(self, label: Tensor, teacher: Tensor, now: Progress) -> Tensor:
        q = soften(teacher, half_cosine(self.hot, self.cool, now.fraction))  # [B, C]
        return mix(label, q, self.trust(label, q.detach(), now))

    def trust(self, label: Tensor, q: Tensor, now: Progress) -> Tensor:
        """lambda_i [B, 1] from softened probabilities."""
        gap = q.amax(1, keepdim=True) - q.gather(1, label[:, None])  # [B, 1], 0 where the teacher agrees
        return (half_cosine(self.low, self.high, now.fraction) - gap).clamp(0, 1)
