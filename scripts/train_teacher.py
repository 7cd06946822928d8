"""The shipped teachers: class-conditional flow-matching UNets on the faces of the emoji bed and on the MNIST digits.

    python scripts/train_teacher.py faces runs/faces_teacher --steps 4500
    python scripts/train_teacher.py mnist runs/mnist_teacher --steps 4000

A killed run continues when it is started again. Writes the averaged network as a diffusers ``UNet2DModel`` with its
provenance to RUN/teacher at every checkpoint. The last class is none (dropped for one row in ten, for guided sampling):
after the three artists of the faces, after the ten digits.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DModel
from torch import Tensor

from redistill.beds import emoji, mnist_samples
from redistill.core import Method, Plan, Progress, fit
from redistill.diffusion.denoiser import Denoiser
from redistill.diffusion.pretraining import DenoiserTraining


class Recipe(NamedTuple):
    """Pictures in [-1, 1] with their classes, how many of these there are, and the sizes of the network."""

    data: str
    rows: Callable[[], dict[str, Tensor]]
    classes: int
    side: int
    channels: int
    widths: tuple[int, ...]


RECIPES = {
    "faces": Recipe("beds/data/emoji, part faces", lambda: emoji.load("faces", 32).tensors(), len(emoji.FACE_ARTISTS),
                    32, 3, (32, 48, 64)),
    "mnist": Recipe("beds/data/mnist.npz", mnist_samples.digits, mnist_samples.CLASSES, 28, 1, (24, 32, 48)),
}  # fmt: skip


def network(recipe: Recipe) -> UNet2DModel:
    """A fresh network: three levels of one layer, attention at the lowest."""
    return UNet2DModel(
        sample_size=recipe.side, in_channels=recipe.channels, out_channels=recipe.channels, layers_per_block=1,
        block_out_channels=recipe.widths, down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"), norm_num_groups=8, attention_head_dim=16,
        num_class_embeds=recipe.classes + 1,
    )  # fmt: skip


def main() -> None:
    """Train, and keep the newest averaged network on disk."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bed", choices=RECIPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    recipe = RECIPES[given.bed]
    torch.manual_seed(0)
    method = DenoiserTraining(Denoiser(network(recipe)), null=recipe.classes)
    plan = Plan(
        steps=given.steps, batch_size=32, lr=1e-3, optimizer="adam", schedule="cosine", warmup=100, clip=1.0,
        log_every=25, save_every=250, device=given.device,
    )  # fmt: skip
    record = {"recipe": f"scripts/train_teacher.py {given.bed}", "data": recipe.data, "seed": 0}

    def keep(now: Progress, row: dict[str, Any], method: Method) -> None:
        if (now.step + 1) % 250 == 0:
            export(method, given.folder / "teacher", {**record, "step": now.step + 1, **row, "plan": plan.model_dump()})

    resume = (given.folder / "checkpoints").exists()
    fit(method, recipe.rows(), plan, folder=given.folder, resume=resume, observers=[keep])


def export(method: Method, folder: Path, provenance: dict[str, Any]) -> None:
    """The averaged network as diffusers stores it."""
    method.export().net.save_pretrained(folder)
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=1) + "\n")


if __name__ == "__main__":
    main()
