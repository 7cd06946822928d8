"""A folder of images, one subfolder a class (or none), as tensors."""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from redistill.core.errors import UserError

_TRIED = 2000
_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}
_MEAN, _STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

Scale = Literal["signed", "unit", "imagenet"]


class ImageFolder:
    """Rows ``image`` [3, size, size] and ``label`` (the subfolder's number in alphabetical order; 0 without
    subfolders).

    ``scale``: "signed" [-1, 1] for diffusion, "unit" [0, 1], "imagenet" standardised for classifiers. Images are
    cropped to a square at the centre and resized. Raises :class:`UserError` for a missing or empty folder, for a class
    without images, and for a file that is no image.
    """

    def __init__(self, path: str | Path, *, size: int = 32, scale: Scale = "signed") -> None:
        if size < 1:
            raise UserError(f"size={size}; give the side of the images in pixels", place="data.options.size")
        self.path, self.size, self.scale = Path(path), size, scale
        if not self.path.is_dir():
            raise UserError(f"no such folder: {self.path}", place="data.path")
        self.files = sorted(f for f in self.path.rglob("*") if f.suffix.lower() in _ENDINGS)
        if not self.files:
            raise UserError(f"no images in {self.path} (looked for {', '.join(sorted(_ENDINGS))})", place="data.path")
        self.classes = sorted({self._folder(f) for f in self.files})
        folders = {f.name for f in self.path.iterdir() if f.is_dir() and not f.name.startswith(".")}
        empty = sorted(folders - set(self.classes))
        if empty and self.classes != [""]:
            raise UserError(f"no images in {self.path / empty[0]}; labels number the folders, so fill or remove it",
                            place="data.path")  # fmt: skip
        # a file that is no image is better found now than in the middle of a training; of very many a part is tried
        for file in self.files[:: -(-len(self.files) // _TRIED)]:
            with _opened(file):
                pass

    def _folder(self, file: Path) -> str:
        parts = file.relative_to(self.path).parts
        return parts[0] if len(parts) > 1 else ""

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> dict[str, Any]:
        file = self.files[row]
        return {"image": self._read(file), "label": self.classes.index(self._folder(file))}

    def _read(self, file: Path) -> Tensor:
        with _opened(file) as image:
            rgb = _on_white(image)
        side = min(rgb.size)
        left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
        square = rgb.crop((left, top, left + side, top + side)).resize((self.size, self.size), Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.asarray(square, dtype=np.float32).copy()).permute(2, 0, 1) / 255  # [3, S, S]
        if self.scale == "signed":
            return pixels * 2 - 1
        return pixels if self.scale == "unit" else (pixels - _MEAN[:, None, None]) / _STD[:, None, None]


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """The image in ``file``; only its head is read until its pixels are asked for."""
    broken = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
    try:
        with Image.open(file) as image:
            yield image
    except broken as error:  # what Pillow's readers raise
        large = isinstance(error, Image.DecompressionBombError)
        said = getattr(error, "strerror", None) or (str(error) if large else "it is broken, or has another format")
        raise UserError(f"cannot read {file} as an image ({said})", place="data.path") from error


def _on_white(image: Image.Image) -> Image.Image:
    """RGB; what is transparent becomes white."""
    if image.mode in ("RGBA", "LA", "P"):
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
