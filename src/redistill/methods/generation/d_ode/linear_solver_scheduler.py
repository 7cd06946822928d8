"""A diffusers scheduler for corrected linear solvers; this one file is all that plain diffusers needs.

    O_k = p_k x + q_k f        f: the network's answer
    x  <- a_k x + b_k f + w_k (O_k - O_{k-1})

Every solver that is linear in the state and in the last two outputs (DDIM, DPM-Solver++(2M), fitted or not, on any
path and prediction kind) is five lists of numbers. They live in the scheduler's configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from torch import Tensor


@dataclass
class LinearSolverOutput(BaseOutput):
    """``prev_sample``: the state at the next, lower noise level."""

    prev_sample: Tensor


class LinearSolverScheduler(SchedulerMixin, ConfigMixin):
    """Steps of ``x <- a x + b f + w (O - O_before)`` with ``O = p x + q f``, one entry of each list per step.

    ``timesteps``: what the network is told. ``scale_input``: factor of x before the network. ``first``: O before the
    first step is ``first`` x.
    ``init_noise_sigma``: standard deviation of the initial state.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        timesteps: list[float] = (999.0,),
        a: list[float] = (0.0,),
        b: list[float] = (1.0,),
        p: list[float] = (0.0,),
        q: list[float] = (1.0,),
        w: list[float] = (0.0,),
        scale_input: list[float] = (1.0,),
        first: float = 0.0,
        init_noise_sigma: float = 1.0,
        num_train_timesteps: int = 1000,
    ) -> None:
        self.init_noise_sigma = init_noise_sigma
        self.set_timesteps(len(timesteps))

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: Any = None, timesteps: list[float] | None = None
    ) -> None:
        """Begin a run. The grid is part of what was fitted: another number of steps is refused."""
        fitted = self.config.timesteps
        if num_inference_steps not in (None, len(fitted)) or (
            timesteps is not None and list(timesteps) != list(fitted)
        ):
            raise ValueError(
                f"this scheduler was fitted for {len(fitted)} steps at {fitted}; set num_inference_steps={len(fitted)}"
            )
        self.num_inference_steps = len(fitted)
        self.timesteps = torch.tensor(fitted, dtype=torch.float32, device=device)
        self.step_index, self._before = 0, None

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The state as the network wants it."""
        return sample * self.config.scale_input[self.step_index]

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True, **unused: Any
    ) -> LinearSolverOutput | tuple[Tensor]:
        """One step from ``sample`` with the network's answer, in float32 or finer."""
        k, c = self.step_index, self.config
        x, f = sample.to(torch.promote_types(sample.dtype, torch.float32)), model_output
        output = c.p[k] * x + c.q[k] * f
        before = c.first * x if self._before is None else self._before
        state = c.a[k] * x + c.b[k] * f + c.w[k] * (output - before)
        self.step_index, self._before = k + 1, output
        state = state.to(sample.dtype)
        return LinearSolverOutput(prev_sample=state) if return_dict else (state,)

    def __len__(self) -> int:
        return self.config.num_train_timesteps
