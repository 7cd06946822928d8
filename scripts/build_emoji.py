"""Build the emoji bed (src/redistill/beds/data/emoji) from the artists' npm packages. The recipe, run once; the result
ships.

    python scripts/build_emoji.py [--packages FOLDER/node_modules]

Without --packages it fetches the four packages below with `npm install` into a temporary folder. Needs npm, pillow and
resvg-py (which draws OpenMoji's SVG files). What comes out:

- `<artist>.webp`: a lossless sheet of 64x64 tiles on white, in reading order, COLUMNS a row;
- `index.json`: one record per emoji (codepoint, name, caption words, group, subgroup, skin tone) and, for each artist,
  the records it drew;
`LICENSES.md` beside them, written by hand, says where each artist's drawings come from and under which licence.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PACKAGES = {
    "emoji-datasource-google": "16.0.0",
    "emoji-datasource-twitter": "16.0.0",
    "openmoji": "17.0.0",
    "@lobehub/fluent-emoji-3d": "1.1.0",
}
ARTISTS = ("google", "twitter", "openmoji", "fluent")
TONED = ("google", "openmoji")  # whose skin tones ship: all four artists' would be 10 MB more
TONES = {"1F3FB": "light", "1F3FC": "medium-light", "1F3FD": "medium", "1F3FE": "medium-dark", "1F3FF": "dark"}
SIDE, COLUMNS = 64, 50
OUT = Path(__file__).parents[1] / "src/redistill/beds/data/emoji"


def fetch(folder: Path) -> Path:
    """Install the four packages under `folder`; return its node_modules."""
    wanted = [f"{name}@{version}" for name, version in PACKAGES.items()]
    subprocess.run(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *wanted], cwd=folder, check=True)
    return folder / "node_modules"


def records(packages: Path) -> list[dict[str, str]]:
    """All emoji in Unicode's order: the neutral ones, then those with one skin tone. Pairs of two tones are left
    out."""
    table = json.loads((packages / "emoji-datasource-google/emoji.json").read_text("utf8"))
    names = {row["hexcode"]: row for row in json.loads((packages / "openmoji/data/openmoji.json").read_text("utf8"))}
    table.sort(key=lambda row: row["sort_order"])
    neutral = [record(row, row["unified"], "", names) for row in table]
    toned = [
        record(row, variant["unified"], TONES[tone], names)
        for row in table
        for tone, variant in row.get("skin_variations", {}).items()
        if tone in TONES
    ]
    return neutral + toned


def record(row: dict[str, Any], code: str, tone: str, names: dict[str, dict[str, str]]) -> dict[str, str]:
    """One line of the index. The name is the short Unicode name (CLDR's), as OpenMoji's table gives it for the neutral
    emoji."""
    base = names.get(row["unified"]) or names[row["unified"].replace("-FE0F", "")]
    name = base["annotation"].lower()
    group = row["category"].lower().replace(" & ", "-").replace(" ", "-")
    subgroup = row["subcategory"].lower().replace(" & ", "-").replace(" ", "-")
    return {"code": code, "name": name, "group": group, "subgroup": subgroup, "tone": tone}


def source(packages: Path, artist: str, code: str) -> Path | None:
    """The artist's file for a codepoint sequence; some file names leave out the variation selector FE0F."""
    folder, ending, case = {
        "google": ("emoji-datasource-google/img/google/64", ".png", str.lower),
        "twitter": ("emoji-datasource-twitter/img/twitter/64", ".png", str.lower),
        "openmoji": ("openmoji/color/svg", ".svg", str.upper),
        "fluent": ("@lobehub/fluent-emoji-3d/assets", ".webp", str.lower),
    }[artist]
    tries = (packages / folder / (case(word) + ending) for word in (code, code.replace("-FE0F", "")))
    return next((path for path in tries if path.exists()), None)


def draw(path: Path) -> np.ndarray:
    """A file as uint8 [64, 64, 3] on white."""
    if path.suffix == ".svg":
        image = draw_svg(path)
    else:
        image = Image.open(path).convert("RGBA")
    side = max(image.size)  # a few drawings are not square: centred
    white = Image.new("RGBA", (side, side), "white")
    white.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(white.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))


def draw_svg(path: Path) -> Image.Image:
    """OpenMoji draws on a grid of 72 with a margin of 4 on each side; the margin goes, so that figures fill the
    tile."""
    import resvg_py

    grid = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=72 * 4)))).convert("RGBA")
    assert grid.size == (288, 288), path
    return grid.crop((16, 16, 272, 272))


def sheet(tiles: list[np.ndarray]) -> Image.Image:
    """Tiles in reading order on one image."""
    rows = -(-len(tiles) // COLUMNS)
    page = np.full((rows * COLUMNS, SIDE, SIDE, 3), 255, np.uint8)
    page[: len(tiles)] = tiles
    page = page.reshape(rows, COLUMNS, SIDE, SIDE, 3).swapaxes(1, 2)
    return Image.fromarray(page.reshape(rows * SIDE, COLUMNS * SIDE, 3))


def build(packages: Path, out: Path) -> None:
    """Draw everything and write sheets and index."""
    out.mkdir(parents=True, exist_ok=True)
    table = records(packages)
    drawn: dict[str, list[int]] = {}
    for artist in ARTISTS:
        wanted = {row: item for row, item in enumerate(table) if artist in TONED or not item["tone"]}
        files = {row: source(packages, artist, item["code"]) for row, item in wanted.items()}
        drawn[artist] = [row for row, path in files.items() if path]
        page = sheet([draw(files[row]) for row in drawn[artist]])  # type: ignore[arg-type]
        page.save(out / f"{artist}.webp", lossless=True, quality=50, method=2)
        print(artist, len(drawn[artist]), (out / f"{artist}.webp").stat().st_size)
    index = {"side": SIDE, "columns": COLUMNS, "packages": PACKAGES, "emoji": table, "drawn": drawn}
    (out / "index.json").write_text(json.dumps(index, separators=(",", ":")) + "\n", "utf8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=Path, help="a node_modules that already holds the packages")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        build(options.packages or fetch(Path(folder)), options.out)


if __name__ == "__main__":
    main()
