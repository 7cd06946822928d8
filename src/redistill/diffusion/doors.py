"""From a diffusers folder to a denoiser and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path as Folder
from typing import Any

from redistill.diffusion.denoiser import Denoiser
from redistill.diffusion.paths import Path
from redistill.models import diffusers as door


def denoiser_of(network: door.Network) -> Denoiser:
    """The denoiser of a network that came through the door."""
    reading = network.reading
    path = Path.choices()[reading.path](**reading.options)
    shape = None if None in network.shape else network.shape  # a network for any size
    return Denoiser(
        network.net, path=path, kind=reading.kind, scale_input=reading.scale_input, bottleneck=network.bottleneck,
        shape=shape,
    )  # fmt: skip


def load_denoiser(
    folder: str | Folder, scheduler: str | Folder | Mapping[str, Any] | None = None
) -> tuple[Denoiser, door.Network]:
    """The denoiser in a diffusers ``folder``, and the network it came from (its sample shape, its pipeline)."""
    network = door.load(folder, scheduler)
    return denoiser_of(network), network


def save_student(
    student: Denoiser, source: door.Network, folder: str | Folder, *, steps: int, sampling: door.Sampling = "renoise"
) -> Folder:
    """Write a student that was distilled from ``source`` for plain diffusers, as the door's ``save`` describes.

    Its kind and path must be those of ``source``, as they are for a student that began as a copy.
    """
    assert student.kind == source.reading.kind, f"a student of kind {student.kind}, its source is {source.reading.kind}"
    return door.save(replace(source, net=student.net), folder, steps=steps, sampling=sampling)
