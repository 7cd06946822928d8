"""Shapes and scales of the small generators and discriminators."""

from __future__ import annotations

import pytest
import torch

from redistill.core import UserError
from redistill.models.gan import dcgan_discriminator, dcgan_generator, mlp_discriminator, mlp_generator

Z = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("generator", "discriminator", "shape"),
    [
        (mlp_generator(5, (1, 7, 7), (16,)), mlp_discriminator(49, (16,)), (1, 7, 7)),
        (dcgan_generator(5, 3, 16, 8), dcgan_discriminator(3, 16, (4, 8)), (3, 16, 16)),
        (dcgan_generator(5, 1, 28, 8), dcgan_discriminator(1, 28), (1, 28, 28)),
    ],
)
def test_a_latent_becomes_an_image_and_an_image_one_logit(generator, discriminator, shape):
    image = generator(Z)
    assert image.shape == (8, *shape) and image.abs().max() <= 1
    assert discriminator(image).shape == (8, 1)


@pytest.mark.parametrize(
    "generator",
    [mlp_generator(5, (1, 4, 4), (16,)), mlp_generator(5, (1, 4, 4), (16,), norm=False), dcgan_generator(5, 1, 8, 8)],
)
def test_the_length_of_a_latent_matters(generator):
    with torch.no_grad():
        generator(Z)
        near, far = generator.eval()(Z), generator(3 * Z)
    assert (near - far).abs().mean() > 0.01


def test_sizes_that_cannot_be_doubled_twice_are_refused():
    with pytest.raises(UserError, match="multiple of 4"):
        dcgan_generator(5, 1, 14)
