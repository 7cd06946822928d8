"""The main job: the shipped many-step faces teacher becomes a one-step student by DMD2, and both are shown side by
side."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redistill.beds import emoji, faces
from redistill.core import Fitted, Method, Plan, fit
from redistill.diffusion.denoiser import Denoiser
from redistill.diffusion.discriminator import ConvHead
from redistill.diffusion.doors import save_student
from redistill.diffusion.solvers import ddim
from redistill.methods.score.dmd2 import Dmd2
from redistill.models.diffusers import Network, Reading

TEACHER_STEPS = 25
ROWS, COUNT = 12, 192  # per artist in the picture; samples for the distances


def distil(
    steps: int = 1,
    *,
    gan: bool = True,
    updates: int | None = None,
    minutes: float = 4.0,
    batch: int = 32,
    seed: int = 1,
    folder: Path | None = None,
    observers: Sequence[Callable[..., None]] = (),
    show: bool = False,
) -> Fitted:
    """The student of ``steps`` steps, conditioned on the artist, after ``updates`` of its own (three times as many of
    the critic); where they are None, after as many as ``minutes`` have room for."""
    teacher, data = faces.teacher(), emoji.load("faces", 32)
    student = copy.deepcopy(teacher).requires_grad_(True)
    torch.manual_seed(seed)
    head = ConvHead(teacher.net.config.block_out_channels[-1]) if gan else None
    method = Dmd2(student, teacher, None, head, steps=steps, critic_turns=3, condition="label", **GAN)
    method.to(memory_format=torch.channels_last)  # a sixth faster on CPU
    plan = Plan(
        steps=updates or 1, batch_size=batch, optimizer="adam", lr=3e-4, turns={"critic": {"lr": 6e-4}}, seed=seed,
        device="cpu", log_every=1,
    )  # fmt: skip
    if updates is None:
        plan = plan.model_copy(update={"steps": steps_within(60 * minutes, method, data.tensors(), plan)})
    done = fit(method, data.tensors(), plan, folder=folder, observers=observers, show=show)
    done.student.eval().to(memory_format=torch.contiguous_format)  # safetensors wants it plain
    return done


GAN = {"gan_student": 0.01, "gan_critic": 0.01}
WARM, TIMED = 1, 4  # steps before the clock is read, and steps that are timed


def steps_within(
    seconds: float, method: Method, data: Any, plan: Plan, clock: Callable[[], float] = time.perf_counter
) -> int:
    """How many steps of ``plan`` fit into ``seconds``, at least one; finding out is part of them.

    The first few are taken by a copy that is thrown away, since schedules need the number before the run begins.
    """
    begin, marks = clock(), []
    short = plan.model_copy(update={"steps": WARM + TIMED, "log_every": 1})
    fit(copy.deepcopy(method), data, short, observers=(lambda now, row, method: marks.append(clock()),))
    one = statistics.median(b - a for a, b in zip(marks[WARM - 1 :], marks[WARM:]))
    return max(1, int((seconds - (clock() - begin)) / one))


def distil_faces(
    *,
    updates: int | None = None,
    minutes: float = 4.0,
    seed: int = 1,
    folder: Path | None = None,
    show: bool = False,
    observers: Sequence[Callable[..., None]] = (),
) -> dict[str, Any]:
    """Distil and measure: numbers of ``teacher`` and ``student``, ``*_grid`` [36, 3, 32, 32] on the same noise, and the
    student.

    ``updates`` of the student, or as many as ``minutes`` have room for. Raises :class:`UserError` when ``folder`` holds
    another run.
    """
    done = distil(updates=updates, minutes=minutes, seed=seed, folder=folder, observers=observers, show=show)
    teacher, one, real = faces.teacher(), done.student, emoji.load("faces", 32).image
    generators: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "teacher": lambda z, c: ddim(teacher, z, teacher.path.grid(TEACHER_STEPS), condition=c),
        "student": lambda z, c: one(z, torch.ones(len(z)), c),
    }
    found: dict[str, Any] = {"seconds": done.seconds, "history": done.history, "net": one}
    for name, sample in generators.items():
        found[name], found[f"{name}_grid"] = _measure(sample, real)
    found["teacher"]["steps"], found["student"]["steps"] = TEACHER_STEPS, 1
    found["speed_up"] = found["teacher"]["seconds_per_image"] / found["student"]["seconds_per_image"]
    return found


def export(student: Denoiser, folder: Path) -> Path:
    """The one-step student as a pipeline that plain diffusers loads:
    ``DiffusionPipeline.from_pretrained(folder)(batch_size=3, class_labels=[0, 1, 2], num_inference_steps=1)``."""
    source = Network(student.net, Reading("flow", "flow"), (3, 32, 32), "unet", "mid_block")
    return save_student(student, source, folder, steps=1)


@torch.no_grad()
def _measure(sample: Callable[[Tensor, Tensor], Tensor], real: Tensor) -> tuple[dict[str, Any], Tensor]:
    """Distances to the faces and time per image, on fixed noise; and the samples for the picture."""
    noise = torch.randn(COUNT, 3, 32, 32, generator=torch.Generator().manual_seed(12))
    label = torch.arange(3).repeat(COUNT // 3)
    sample(noise[:48], label[:48])  # the first call is slower
    begin = time.perf_counter()
    images = torch.cat([sample(z, c) for z, c in zip(noise.split(48), label.split(48))]).float()
    seconds = (time.perf_counter() - begin) / COUNT
    rows = torch.cat([(label == artist).nonzero()[:ROWS, 0] for artist in range(3)])
    return {**faces.compare(real, images, label), "seconds_per_image": seconds}, images[rows]


def picture(grid: Tensor) -> Any:
    """Images [36, 3, 32, 32] in [-1, 1] as one picture, an artist a row, doubled."""
    from PIL import Image

    pixels = grid.clamp(-1, 1).add(1).mul(127.5).round().byte().unflatten(0, (3, ROWS))  # [3, 12, 3, 32, 32]
    page = pixels.permute(0, 3, 1, 4, 2).reshape(3 * 32, ROWS * 32, 3).numpy()
    return Image.fromarray(page).resize((2 * page.shape[1], 2 * page.shape[0]), Image.Resampling.NEAREST)
