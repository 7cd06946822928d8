"""The shipped faces teacher: a class-conditional flow-matching UNet on the 390 faces of the emoji bed at 32 pixels.

    python scripts/train_faces_teacher.py runs/faces_teacher --steps 4500

A killed run continues when it is started again. Writes the averaged network as a diffusers ``UNet2DModel`` with its
provenance to RUN/teacher at every checkpoint. Class = artist, class 3 = none (dropped for one row in ten, for guided
sampling).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel

from redistill.beds import emoji
from redistill.core import Method, Plan, Progress, fit
from redistill.diffusion.denoiser import Denoiser
from redistill.diffusion.pretraining import DenoiserTraining

ARTISTS = len(emoji.FACE_ARTISTS)
ARCHITECTURE = {
    "sample_size": 32, "in_channels": 3, "out_channels": 3, "layers_per_block": 1, "block_out_channels": (32, 48, 64),
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    "norm_num_groups": 8, "attention_head_dim": 16, "num_class_embeds": ARTISTS + 1,
}  # fmt: skip


def main() -> None:
    """Train, and keep the newest averaged network on disk."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=4500)
    given = parser.parse_args()
    torch.manual_seed(0)
    method = DenoiserTraining(Denoiser(UNet2DModel(**ARCHITECTURE)), null=ARTISTS)
    plan = Plan(
        steps=given.steps, batch_size=32, lr=1e-3, optimizer="adam", schedule="cosine", warmup=100, clip=1.0,
        log_every=25, save_every=250, device="cpu",
    )  # fmt: skip

    def keep(now: Progress, row: dict[str, Any], method: Method) -> None:
        if (now.step + 1) % 250 == 0:
            export(method, given.folder / "teacher", {"step": now.step + 1, **row, "plan": plan.model_dump()})

    faces = emoji.load("faces", 32)
    resume = (given.folder / "checkpoints").exists()
    fit(method, faces.tensors(), plan, folder=given.folder, resume=resume, observers=[keep])


def export(method: Method, folder: Path, provenance: dict[str, Any]) -> None:
    """The averaged network as diffusers stores it."""
    method.export().net.save_pretrained(folder)
    record = {
        "recipe": "scripts/train_faces_teacher.py",
        "data": "beds/data/emoji, part faces",
        "seed": 0,
        **provenance,
    }
    (folder / "provenance.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
