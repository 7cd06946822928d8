"""CTKD: a frozen teacher's logits are matched at a temperature that is learned against the student.

    min_theta_S max_tau  L = r CE(z_S, y) + a tau^2 KL( softmax(z_T / tau) || softmax(z_S / tau) )
    tau      = tau_init + tau_range sigmoid( GRL_lambda(theta) )
    lambda_e = lambda_min + (lambda_max - lambda_min) (1 - cos(pi min(e, E_loop) / E_loop)) / 2      (Li et al. 2023)

GRL passes theta on and multiplies its gradient by -lambda: one backward pass and one optimiser serve both players, and
the game goes from easy to hard. Roles: student and temperature (trained), teacher (frozen); the temperature is thrown
away afterwards. What is learned is a plug-in (``redistill.supervised.temperature``): it works in every method that
has a temperature, here with any ``match`` (DKD: ``match=Dkd(beta=2)``, both weights 1).

Differs from the paper: the two layers of :class:`InstanceCurriculum` have 32 hidden units and see detached logits (the
paper leaves both open), and start at the global temperature; its KL is exact where the released one adds 1e-7 to
probabilities.
"""

from __future__ import annotations

from torch import nn

from redistill.core.types import NonNegative
from redistill.supervised.classifier import Distillation
from redistill.supervised.matches import Match
from redistill.supervised.targets import TargetRectifier
from redistill.supervised.temperature import GlobalCurriculum, InstanceCurriculum, Temperature

__all__ = ["Ctkd", "GlobalCurriculum", "InstanceCurriculum"]


class Ctkd(Distillation):
    """Distillation whose temperature makes it as hard as it can.

    The logged ``temperature`` should leave its first value after the first epochs; Adam drives it to a bound at once,
    SGD with momentum and weight decay does not.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        *,
        match: Match | None = None,  # kd if left out
        temperature: Temperature | None = None,  # global_curriculum if left out
        rectifier: TargetRectifier | None = None,  # one_hot if left out
        hard_weight: NonNegative = 0.1,  # r, weight of the labels
        soft_weight: NonNegative = 0.9,  # a, weight of the teacher
    ) -> None:
        super().__init__(
            student, teacher, match=match, temperature=temperature or GlobalCurriculum(), rectifier=rectifier,
            hard_weight=hard_weight, soft_weight=soft_weight,
        )  # fmt: skip
