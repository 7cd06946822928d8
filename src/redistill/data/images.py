"""A folder of images, one subfolder a class (or none), as tensors."""

from __future__ import annotations

import contextlib
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import get_worker_info

from redistill import files
from redistill.core.errors import UserError, reading
from redistill.core.types import CountOrZero, Range, check

_TRIED = 2000
_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}
_MEAN, _STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

Side = Annotated[int, Range("the side of the images in pixels, from 1 to 8192", 1, 8192)]
Scale = Literal["signed", "unit", "imagenet"]


class ImageFolder:
    """Rows ``image`` [3, size, size] and ``label`` (the subfolder's number in alphabetical order; 0 without
    subfolders).

    ``scale``: "signed" [-1, 1] for diffusion, "unit" [0, 1], "imagenet" standardised for classifiers. Images are
    cropped to a square at the centre and resized. ``cache_bytes``: memory in which decoded images stay, 3 size^2 bytes
    each; what does not fit is decoded again in every epoch. It holds for each rank, whose loading processes share it
    out. Raises :class:`UserError` for a missing or empty folder, for a class without images, and for a file that is no
    image.
    """

    def __init__(
        self, path: str | Path, *, size: Side = 32, scale: Scale = "signed", cache_bytes: CountOrZero = 2 * 2**30
    ) -> None:
        check(ImageFolder.__init__, {"size": size, "scale": scale, "cache_bytes": cache_bytes}, "data.options")
        self.path, self.size, self.scale = files.folder(path, "data.path"), size, scale
        self.cache_bytes = cache_bytes
        self._decoded: dict[int, Tensor] = {}  # row -> uint8 [S, S, 3]
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
        image = self._scaled(self._square(row).permute(2, 0, 1).float() / 255)
        return {"image": image, "label": self.classes.index(self._folder(self.files[row]))}

    def _square(self, row: int) -> Tensor:
        """The picture in file ``row``, uint8 [S, S, 3]. The first that fit are kept: rows come in a new order in every
        epoch, so none of them is likelier to be asked for next."""
        if row in self._decoded:
            return self._decoded[row]
        pixels = self._read(self.files[row])
        loader = get_worker_info()
        if (len(self._decoded) + 1) * pixels.numel() * (loader.num_workers if loader else 1) <= self.cache_bytes:
            self._decoded[row] = pixels
        return pixels

    def _read(self, file: Path) -> Tensor:
        with _opened(file) as image:
            rgb = _on_white(image)
        side = min(rgb.size)
        left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
        square = rgb.crop((left, top, left + side, top + side)).resize((self.size, self.size), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(square))

    def _scaled(self, pixels: Tensor) -> Tensor:
        if self.scale == "signed":
            return pixels * 2 - 1
        return pixels if self.scale == "unit" else (pixels - _MEAN[:, None, None]) / _STD[:, None, None]


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """The image in ``file``; only its head is read until its pixels are asked for."""
    what, remedy = f"cannot read {file} as an image", "mend it or leave it out"
    with reading(what, place="data.path", remedy=remedy), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # more pixels than Pillow thinks sane
        if not stat.S_ISREG(file.stat().st_mode):  # a pipe would be waited for
            raise OSError(f"{file.name} is no file")
        with Image.open(file) as image:
            yield image


def _on_white(image: Image.Image) -> Image.Image:
    """RGB; what is transparent becomes white."""
    if image.mode in ("RGBA", "LA", "P"):
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
