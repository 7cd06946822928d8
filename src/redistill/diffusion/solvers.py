"""Solvers of the probability-flow ODE as pure functions of one signature.

    solver(denoiser, x, times, condition=None, callback=None, dtype=None) -> x at times[-1]

``denoiser(x_t, t, condition) -> x0`` carries its ``path``; ``times`` descend ([N + 1], see :meth:`Path.grid`).
``dtype`` is the precision of states (float64 for bookkeeping that must be exact). ``callback(k, x, x0)`` sees
evaluation k of the denoiser, its x0 and the state x that the solver made of it; a tensor that it returns takes the
place of x.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from redistill.core.errors import unknown

Callback = Callable[[int, Tensor, Tensor], Tensor | None]
Solver = Callable[..., Tensor]


def ddim(
    denoiser: Any,
    x: Tensor,
    times: Tensor,
    *,
    condition: Any = None,
    callback: Callback | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """DDIM (arXiv 2010.02502), first order, N evaluations; the Euler step of flow and EDM paths."""
    x = x.to(dtype or x.dtype)
    for i, t, s in intervals(times, x):
        x0 = denoiser(x, t, condition)
        x = _told(callback, i, denoiser.path.jump(x, x0, t, s), x0)
    return x


def heun(
    denoiser: Any,
    x: Tensor,
    times: Tensor,
    *,
    condition: Any = None,
    callback: Callback | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Heun's trapezoid in the path's frame (arXiv 2206.00364, algorithm 1), second order, 2N - 1 evaluations if the
    last time is 0.
    """
    x = x.to(dtype or x.dtype)
    for i, t, s in intervals(times, x):
        x0 = denoiser(x, t, condition)
        ahead = _told(callback, 2 * i, denoiser.path.jump(x, x0, t, s), x0)
        if s > 0:
            x0_ahead = denoiser(ahead, s, condition)
            ahead = _told(callback, 2 * i + 1, trapezoid(denoiser.path, x, x0, t, ahead, x0_ahead, s), x0_ahead)
        x = ahead
    return x


def trapezoid(path: Any, x: Tensor, x0: Tensor, t: Tensor, ahead: Tensor, x0_ahead: Tensor, s: Tensor) -> Tensor:
    """The state at ``s`` by the mean of the slopes at ``x`` (time t) and at the predicted state ``ahead`` (time s)."""
    (scale_t, clock_t), (scale_s, clock_s) = path.frame(t), path.frame(s)
    slope = 0.5 * (path.from_x0(x, x0, t, path.slope) + path.from_x0(ahead, x0_ahead, s, path.slope))
    return scale_s * (x / scale_t + (clock_s - clock_t) * slope)


def dpm_solver_2m(
    denoiser: Any,
    x: Tensor,
    times: Tensor,
    *,
    condition: Any = None,
    callback: Callback | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2), second order, N evaluations; first order into t = 0."""
    x, before = x.to(dtype or x.dtype), None
    for i, t, s in intervals(times, x):
        x0 = denoiser(x, t, condition)
        ahead = denoiser.path.jump(x, extrapolate(denoiser.path, times, i, x0, before), t, s)
        x, before = _told(callback, i, ahead, x0), x0
    return x


def extrapolate(path: Any, times: Tensor, i: int, x0: Tensor, before: Tensor | None) -> Tensor:
    """2M's x0 for step ``i``: linear in half log-SNR through this x0 and the one ``before``; this one alone at either
    end.
    """
    if before is None or times[i + 1] == 0:
        return x0
    half_log_snr = path.log_snr(times[i - 1 : i + 2].double()) / 2
    last, now = half_log_snr.diff()  # infinite when the first time has no signal: no extrapolation
    return x0 + (x0 - before) * float(now / (2 * last))


def ipndm(
    denoiser: Any,
    x: Tensor,
    times: Tensor,
    *,
    condition: Any = None,
    callback: Callback | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """iPNDM (arXiv 2202.09778; PNDM's multistep without its warm-up by Runge-Kutta): Adams and Bashforth's fourth-order
    weights for equal steps, whatever the steps are, on the path's slopes; N evaluations.
    """
    return _multistep(denoiser, x, times, condition, callback, dtype, lambda clocks: EQUAL[len(clocks) - 2])


def deis(
    denoiser: Any,
    x: Tensor,
    times: Tensor,
    *,
    condition: Any = None,
    callback: Callback | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """DEIS (arXiv 2204.13902, tAB) of order 3: the path's slope as a polynomial in its clock, integrated exactly over
    each step; N evaluations.
    """
    return _multistep(denoiser, x, times, condition, callback, dtype, lambda clocks: polynomial(clocks[-4:]))


# Adams and Bashforth's weights for equal steps, newest first, by how many slopes there are
EQUAL = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def polynomial(clocks: list[float]) -> tuple[float, ...]:
    """Weights, newest first, of slopes at all of ``clocks`` but the last, which is where the step ends: the integral
    of the polynomial through them, over the step from the last but one, divided by its length."""
    *at, now, end = clocks
    nodes = torch.tensor([now, *reversed(at)], dtype=torch.float64).sub(now) / (end - now)  # the step is [0, 1]
    powers = torch.arange(len(nodes))
    return tuple(torch.linalg.solve(nodes[None] ** powers[:, None], 1 / (powers + 1.0).double()).tolist())


def _multistep(
    denoiser: Any, x: Tensor, times: Tensor, condition: Any, callback: Callback | None, dtype: torch.dtype | None,
    weigh: Callable[[list[float]], tuple[float, ...]],
) -> Tensor:  # fmt: skip
    """Steps along a mean of the last slopes. ``weigh``: clocks of the evaluations so far (four at most) and of the
    step's end -> weights, newest first."""
    x, path, slopes = x.to(dtype or x.dtype), denoiser.path, list[Tensor]()
    clocks = [float(path.frame(t)[1]) for t in times.double()]
    for i, t, s in intervals(times, x):
        x0 = denoiser(x, t, condition)
        slopes = [path.from_x0(x, x0, t, path.slope), *slopes[:3]]  # newest first
        weights = weigh(clocks[max(0, i - 3) : i + 2])
        slope = sum(w * known for w, known in zip(weights, slopes))
        (scale_t, clock_t), (scale_s, clock_s) = path.frame(t), path.frame(s)
        x = _told(callback, i, scale_s * (x / scale_t + (clock_s - clock_t) * slope), x0)
    return x


def consistency(
    denoiser: Any,
    x: Tensor,
    times: Tensor,
    *,
    noise: Callable[[Tensor], Tensor],
    condition: Any = None,
    callback: Callback | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Multistep consistency sampling (arXiv 2303.01469, algorithm 1; LCM): x0, then fresh noise to the next time.

    ``noise(x0)`` returns standard normal numbers like ``x0``, so that randomness comes from the caller.
    """
    x = x.to(dtype or x.dtype)
    for i, t, s in intervals(times, x):
        x0 = denoiser(x, t, condition)
        x = _told(callback, i, denoiser.path.renoise(x0, noise(x0), s) if s > 0 else x0, x0)
    return x


def trajectory(
    denoiser: Any, x: Tensor, times: Tensor, *, every: int = 1, condition: Any = None, run: Solver = ddim
) -> list[Tensor]:
    """States of a one-evaluation solver after each ``every`` steps, on the CPU, so that a long run fits."""
    kept: list[Tensor] = []

    def keep(k: int, x: Tensor, x0: Tensor) -> None:
        if (k + 1) % every == 0:
            kept.append(x.cpu())

    run(denoiser, x, times, condition=condition, callback=keep)
    return kept


def intervals(times: Tensor, x: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(i, t, s) of every step, scalars on the device of ``x``."""
    times = times.to(x.device)
    yield from ((i, times[i], times[i + 1]) for i in range(len(times) - 1))


def _told(callback: Callback | None, k: int, x: Tensor, x0: Tensor) -> Tensor:
    """``x``, or what the callback puts in its place."""
    answer = callback(k, x, x0) if callback else None
    return x if answer is None else answer


def subdivide(times: Tensor, parts: int) -> Tensor:
    """Every interval of ``times`` cut into ``parts`` equal ones; entry ``parts * i`` is ``times[i]`` exactly."""
    share = torch.arange(parts, dtype=times.dtype, device=times.device) / parts  # [parts]
    inner = times[:-1, None] + share * times.diff()[:, None]  # [N, parts]
    return torch.cat([inner.flatten(), times[-1:]])


SOLVERS: dict[str, Solver] = {
    "ddim": ddim,
    "heun": heun,
    "dpm_solver_2m": dpm_solver_2m,
    "ipndm": ipndm,
    "deis": deis,
}


def solver(name: str) -> Solver:
    """The deterministic solver called ``name``."""
    if name not in SOLVERS:
        raise unknown("solver", name, SOLVERS)
    return SOLVERS[name]
