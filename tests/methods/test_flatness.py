"""Sharpness and curvature against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from redistill.methods.supervised.sd_darts.flatness import sharpness, top_eigenvalue

GENERATOR = torch.Generator().manual_seed(0)


def quadratic(eigenvalues):
    """1/2 w^T A w in six parameters, in two tensors."""
    basis, _ = torch.linalg.qr(torch.randn(6, 6, generator=GENERATOR, dtype=torch.float64))
    A = basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T
    parameters = [nn.Parameter(torch.randn(k, generator=GENERATOR, dtype=torch.float64)) for k in (4, 2)]
    return lambda: 0.5 * torch.cat(parameters) @ A @ torch.cat(parameters), parameters, A


@pytest.mark.parametrize("eigenvalues", [(5.0, 3.0, 1.0, 0.5, 0.0, -1.0), (2.0, 1.0, 0.5, 0.1, 0.0, -7.0)])
def test_the_greatest_eigenvalue_of_a_quadratic(eigenvalues):
    loss, parameters, _ = quadratic(eigenvalues)
    assert top_eigenvalue(loss, parameters, iterations=200) == pytest.approx(max(eigenvalues), abs=1e-6)


def test_power_iteration_matches_the_dense_hessian():
    x = torch.randn(20, 2, generator=GENERATOR, dtype=torch.float64)
    y = torch.arange(20) % 3
    w = nn.Parameter(torch.randn(2, 3, generator=GENERATOR, dtype=torch.float64))
    dense = torch.autograd.functional.hessian(
        lambda flat: nn.functional.cross_entropy(x @ flat.view(2, 3), y), w.detach().reshape(-1)
    )
    found = top_eigenvalue(lambda: nn.functional.cross_entropy(x @ w, y), [w], iterations=200)
    assert found == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-6)


def test_sharpness_of_a_quadratic_and_weights_given_back():
    loss, parameters, A = quadratic((5.0, 3.0, 1.0, 0.5, 0.2, 0.1))
    before = [p.detach().clone() for p in parameters]
    w = torch.cat(before)
    g = A @ w
    moved = w + 0.3 * g / g.norm()
    assert sharpness(loss, parameters, 0.3) == pytest.approx(float(0.5 * moved @ A @ moved - 0.5 * w @ A @ w))
    assert all(torch.equal(p, b) for p, b in zip(parameters, before))
