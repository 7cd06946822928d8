"""How sharp a minimum is: what one step uphill costs, and the greatest curvature."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Scalar = Callable[[], Tensor]


def sharpness(loss: Scalar, parameters: Sequence[nn.Parameter], rho: float) -> float:
    """L(w + rho g / |g|) - L(w), g the gradient of ``loss`` in ``parameters``, which are given back as they were.

    To first order the worst rise within ``rho`` (Foret, Kleiner, Mobahi and Neyshabur 2021).
    """
    here = loss()
    slopes = _gradient(here, parameters)
    length = torch.stack([slope.norm() for slope in slopes]).norm().clamp_min(1e-30)
    before = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p, slope in zip(parameters, slopes):
            p += rho / length * slope
        there = loss()
        for p, old in zip(parameters, before):
            p.copy_(old)
    return float(there - here.detach())


def top_eigenvalue(loss: Scalar, parameters: Sequence[nn.Parameter], *, iterations: int = 50, seed: int = 0) -> float:
    """The greatest eigenvalue of the Hessian of ``loss`` in ``parameters``, by power iteration on its products.

    Power iteration finds the eigenvalue of the greatest magnitude; if that is negative, a second one on the Hessian
    shifted by it finds the greatest.
    """
    slopes = _gradient(loss(), parameters, graph=True)
    flat = torch.cat([slope.reshape(-1) for slope in slopes])

    def product(v: Tensor) -> Tensor:
        made = torch.autograd.grad(flat, parameters, v, retain_graph=True, allow_unused=True)
        return torch.cat([torch.zeros_like(p).reshape(-1) if m is None else m.reshape(-1)
                          for p, m in zip(parameters, made)])  # fmt: skip

    start = torch.randn(len(flat), generator=torch.Generator().manual_seed(seed)).to(flat)
    greatest = _power(product, start, iterations)
    if greatest >= 0:
        return greatest
    return greatest + _power(lambda v: product(v) - greatest * v, start, iterations)


def _power(product: Callable[[Tensor], Tensor], v: Tensor, iterations: int) -> float:
    value = 0.0
    for _ in range(iterations):
        v = v / v.norm().clamp_min(1e-30)
        w = product(v)
        value, v = float(v @ w), w
    return value


def _gradient(value: Tensor, parameters: Sequence[nn.Parameter], *, graph: bool = False) -> list[Tensor]:
    found = torch.autograd.grad(value, parameters, create_graph=graph, allow_unused=True)
    return [torch.zeros_like(p) if slope is None else slope for p, slope in zip(parameters, found)]
