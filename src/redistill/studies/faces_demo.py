"""The main job: the shipped many-step faces teacher becomes a one-step student, and both are shown side by side.

Three parts, all within the budget: the teacher draws pairs of noise and image (8 steps of DPM-Solver++ stand for its
25); the student regresses the images on the noise, which in one step blurs little and covers everything; distribution
matching and a discriminator, with the pairs as their anchor (DMD2 with DMD's regression), sharpen what it averaged.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redistill.beds import emoji, faces
from redistill.core import Batch, Fitted, Loss, Method, Plan, Progress, fit
from redistill.core.progress import seed_of
from redistill.diffusion.denoiser import Denoiser
from redistill.diffusion.discriminator import ConvHead
from redistill.diffusion.doors import save_student
from redistill.diffusion.score import few_step, student_times
from redistill.diffusion.solvers import ddim, dpm_solver_2m
from redistill.methods.score.dmd2 import Dmd2
from redistill.models.diffusers import Network, Reading

TEACHER_STEPS, PAIR_STEPS = 25, 8
ROWS, COUNT = 12, 384  # per artist in the picture; samples for the distances
BATCH = 32  # rows of a batch, and of a chunk of pairs
CHUNKS, REGRESSIONS = 2, 10  # chunks of pairs and steps of regression for every update of distribution matching
WARM, TIMED = 1, 4  # steps before the clock is read, and steps that are timed

Clock = Callable[[], float]
Tell = Callable[[str, int, int, float], None]
"""Hears of progress: what is done, how much of it, of how much, in how many seconds."""


# --- the recipe -------------------------------------------------------------------------------------------------------


class Regression(Method):
    """The student's one step against where the teacher's many end: ``mean |x(z) - pair|``; squares would blur more."""

    needs = ("pair_noise", "pair_image", "label")

    def __init__(self, student: Denoiser) -> None:
        super().__init__()
        self.student = student

    def loss(self, turn: str, batch: Batch, now: Progress) -> Loss:
        """Mean over rows and pixels."""
        path = self.student.path
        made = few_step(self.student, path, student_times(path, 1), [batch["pair_noise"]], batch["label"])
        return Loss({"pairs": (made - batch["pair_image"]).abs().mean()})


def matching(student: Denoiser) -> Dmd2:
    """DMD2 on top, anchored by the pairs: with them one turn of the critic is enough (DMD's way), if it learns faster
    than the student."""
    teacher = faces.teacher()
    head = ConvHead(teacher.net.config.block_out_channels[-1])
    method = Dmd2(
        student, teacher, None, head, critic_turns=1, condition="label", gan_student=0.01, gan_critic=0.01,
        regression=1.0,
    )  # fmt: skip
    return method.to(memory_format=torch.channels_last)


@torch.no_grad()
def pairs(chunks: int, seed: int, tell: Tell | None = None) -> dict[str, Tensor]:
    """``BATCH`` rows a chunk: faces and their artists drawn from the data, noise, and what the teacher makes of it for
    the same artist."""
    data, teacher = emoji.load("faces", 32), faces.teacher().to(memory_format=torch.channels_last)
    generator, begin = torch.Generator().manual_seed(seed_of("faces pairs", seed)), time.perf_counter()
    noise = torch.randn(chunks * BATCH, 3, 32, 32, generator=generator)
    index = torch.randint(len(data.label), (len(noise),), generator=generator)
    label, times, made = data.label[index], teacher.path.grid(PAIR_STEPS), []
    for z, c in zip(noise.split(BATCH), label.split(BATCH)):
        made.append(dpm_solver_2m(teacher, z, times, condition=c).float())
        if tell:
            tell("pairs of the teacher", len(made), chunks, time.perf_counter() - begin)
    return {"image": data.image[index], "label": label, "pair_noise": noise, "pair_image": torch.cat(made)}


def distil(
    *, updates: int | None = None, minutes: float = 4.0, seed: int = 1, tell: Tell | None = None, show: bool = False
) -> Fitted:
    """The one-step student, conditioned on the artist, after ``updates`` of distribution matching and the chunks of
    pairs and steps of regression that belong to them; where they are None, as many as ``minutes`` have room for.

    ``show``: bars for the two trainings; else ``tell`` hears of them too.
    """
    begin = time.perf_counter()
    student = faces.teacher().requires_grad_(True).to(memory_format=torch.channels_last)
    count = updates or updates_within(60 * minutes, student, seed)
    observers = [_telling(tell)] if tell and not show else []
    data, history = pairs(CHUNKS * count, seed, tell), []
    for method, plan in stages(student, count, seed):
        history += fit(method, data, plan, observers=observers, show=show).history
    student.eval().to(memory_format=torch.contiguous_format)  # safetensors wants it plain
    return Fitted(student, method, history, time.perf_counter() - begin)


def stages(student: Denoiser, updates: int, seed: int) -> list[tuple[Method, Plan]]:
    """Both trainings with their plans; the critic, which follows the student, keeps its rate."""
    common: dict[str, Any] = {"batch_size": BATCH, "optimizer": "adam", "schedule": "cosine", "seed": seed}
    common |= {"device": "cpu", "log_every": 1}
    critic = {"critic": {"lr": 3e-4, "schedule": "constant"}}
    torch.manual_seed(seed)  # of the discriminator
    return [
        (Regression(student), Plan(steps=REGRESSIONS * updates, lr=1e-3, **common)),
        (matching(student), Plan(steps=updates, lr=1e-4, turns=critic, **common)),
    ]


def _telling(tell: Tell) -> Callable[..., None]:
    def observer(now: Progress, row: dict[str, Any], method: Method) -> None:
        tell(type(method).__name__, now.step + 1, now.steps, row["seconds"])

    return observer


# --- the budget -------------------------------------------------------------------------------------------------------


def updates_within(seconds: float, student: Denoiser, seed: int, clock: Clock = time.perf_counter) -> int:
    """How many updates, with what belongs to them, fit into ``seconds``, at least one; finding out is part of them."""
    begin = clock()
    data = pairs(1, seed)
    chunk = statistics.median(_elapsed(lambda: pairs(1, seed), clock) for _ in range(3))
    (regression, first), (method, second) = stages(student, 1, seed)
    one = CHUNKS * chunk + REGRESSIONS * seconds_a_step(regression, data, first, clock)
    one += seconds_a_step(method, data, second, clock)
    return max(1, int((seconds - (clock() - begin)) / one))


def seconds_a_step(method: Method, data: Any, plan: Plan, clock: Clock = time.perf_counter) -> float:
    """What a step of ``plan`` takes: the first few are taken by a copy that is thrown away, since schedules need the
    number of steps before the run begins."""
    marks: list[float] = []
    short = plan.model_copy(update={"steps": WARM + TIMED, "log_every": 1})
    fit(copy.deepcopy(method), data, short, observers=(lambda now, row, method: marks.append(clock()),))
    return statistics.median(b - a for a, b in zip(marks[WARM - 1 :], marks[WARM:]))


def _elapsed(work: Callable[[], Any], clock: Clock) -> float:
    begin = clock()
    work()
    return clock() - begin


# --- what it measures and writes --------------------------------------------------------------------------------------


def distil_faces(
    *, updates: int | None = None, minutes: float = 4.0, seed: int = 1, tell: Tell | None = None, show: bool = False
) -> dict[str, Any]:
    """Distil and measure: numbers of ``teacher`` and ``student``, ``*_grid`` [36, 3, 32, 32] on the same noise, and the
    student; the other arguments are those of :func:`distil`."""
    done = distil(updates=updates, minutes=minutes, seed=seed, tell=tell, show=show)
    teacher, one, real = faces.teacher(), done.student, emoji.load("faces", 32).image
    generators: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "teacher": lambda z, c: ddim(teacher, z, teacher.path.grid(TEACHER_STEPS), condition=c),
        "student": lambda z, c: one(z, torch.ones(len(z)), c),
    }
    updates = len(done.history) // (REGRESSIONS + 1)
    found: dict[str, Any] = {"seconds": done.seconds, "updates": updates, "pairs": CHUNKS * BATCH * updates}
    found |= {"history": done.history, "net": one}
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
