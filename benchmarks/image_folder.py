"""What decoded images in memory save: epochs over a folder of photographs with them and without.

    python benchmarks/image_folder.py [--images 256] [--rounds 5] [--json FILE]

One thread; the two alternate, and the ratio within a round is what counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from redistill.data import ImageFolder

FILE_SIDES = (64, 256, 512)
SIDE, KEPT = 32, 2**31


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = {}
    for side in FILE_SIDES:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), options.images, side)
            kept, again = (ImageFolder(folder, size=SIDE, cache_bytes=b) for b in (KEPT, 0))
            assert all(torch.equal(kept[i]["image"], again[i]["image"]) for i in range(len(kept)))
            pairs = [(epoch(again), epoch(kept)) for _ in range(options.rounds)]
        result[f"{side}: ms an image, decoded"] = statistics.median(a for a, _ in pairs) * 1000
        result[f"{side}: decoded over kept"] = statistics.median(a / k for a, k in pairs)
    for name, value in result.items():
        print(f"{name}: {value:.3g}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def write(folder: Path, count: int, side: int) -> None:
    """JPEG files of smooth random pictures."""
    draw = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(draw.integers(256, size=(8, 8, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")


def epoch(rows: ImageFolder) -> float:
    """CPU seconds an image."""
    begin = time.process_time()
    for row in range(len(rows)):
        rows[row]
    return (time.process_time() - begin) / len(rows)


if __name__ == "__main__":
    main()
