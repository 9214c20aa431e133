"""Make docs/fast.webp, abpn.webp, quality.webp and damaged.webp: crops of photographs upscaled ×3.

    python docs/make_figures.py FOLDER

Photographs are reduced by three, for damaged.webp also damaged, and upscaled again. Rows are crops;
columns are bicubic (Pillow), the model and the original, or bicubic, `quality` and `auto`, with the
PSNR within the crop. Each pixel is shown as 2×2 pixels. FOLDER holds the photographs named below,
from CLIC 2025 (Unsplash licence); no model was trained on them.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import anchorsr
from anchorsr.data.damage import damage_pair, parse_damage
from anchorsr.data.imresize import crop_to_multiple, downscale
from anchorsr.data.pairs import Pair
from anchorsr.images.io import read_rgb
from anchorsr.metrics import psnr

FACTOR = 3
HEIGHT, WIDTH, ZOOM, GAP = 126, 216, 2, 8
FONT = ImageFont.load_default(17)
PLAQUE = "test_2684452db505.webp"
STREET = "test_a2a946cc516f.webp"
STALL = "test_c9510efb03d1.webp"
APRON = "test_ff32adfa29d4.webp"
# The photograph, and the upper left corner (row, column) of the crop.
CROPS = {
    "fast": [(STALL, 0, 24), (PLAQUE, 411, 1059)],
    "abpn": [(PLAQUE, 1104, 348), (APRON, 537, 762)],
    "quality": [(PLAQUE, 753, 294), (STREET, 1017, 225)],
}
# The same with the damage, of those of `anchorsr evaluate --damage`.
DAMAGED = [("jpeg40", PLAQUE, 753, 294), ("scan", STREET, 1017, 225)]


def main(folder: Path) -> None:
    for model, crops in CROPS.items():
        rows = [columns([model], folder / name, top, left) for name, top, left in crops]
        save(rows, model)
    save(
        [
            columns(["quality", "auto"], folder / name, top, left, damage)
            for damage, name, top, left in DAMAGED
        ],
        "damaged",
    )


def columns(
    models: list[str], path: Path, top: int, left: int, damage: str = "clean"
) -> list[tuple[str, Image.Image]]:
    """Return the titles and crops of one row: bicubic, the models, the original after one."""
    original = crop_to_multiple(read_rgb(path), FACTOR)
    pair = Pair(path.stem, downscale(original, FACTOR), original)
    reduced = damage_pair(pair, parse_damage(damage)).lr
    size = (original.shape[1], original.shape[0])
    images = {
        "bicubic": np.asarray(Image.fromarray(reduced).resize(size, Image.Resampling.BICUBIC))
    }
    for model in models:
        images[model] = anchorsr.upscale(reduced, factor=FACTOR, model=model, engine="litert")
    if len(models) == 1:
        images["original"] = original
    place = np.s_[top : top + HEIGHT, left : left + WIDTH]
    row = []
    for title, image in images.items():
        if image is not original:
            title += f"  {psnr(image[place], original[place], border=0):.1f} dB"
        row.append((title, Image.fromarray(np.ascontiguousarray(image[place]))))
    return row


def save(rows: list[list[tuple[str, Image.Image]]], name: str) -> None:
    """Write a sheet beside this file."""
    sheet(rows).save(Path(__file__).with_name(f"{name}.webp"), lossless=True, method=6)


def sheet(rows: list[list[tuple[str, Image.Image]]]) -> Image.Image:
    """Lay out the crops with their titles on a transparent background."""
    height, width = HEIGHT * ZOOM, WIDTH * ZOOM
    size = (3 * (width + GAP) - GAP, len(rows) * (height + GAP) - GAP)
    result = Image.new("RGBA", size)
    for down, row in enumerate(rows):
        for across, (title, crop) in enumerate(row):
            cell = crop.resize((width, height), Image.Resampling.NEAREST)
            draw = ImageDraw.Draw(cell, "RGBA")
            length = draw.textlength(title, FONT)
            box = (width - length - 24, height - 32, width - 8, height - 8)
            draw.rounded_rectangle(box, 5, (0, 0, 0, 150))
            draw.text((width - 16, height - 14), title, "white", FONT, anchor="rs")
            result.paste(cell, (across * (width + GAP), down * (height + GAP)))
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="the folder of the photographs")
    try:
        main(parser.parse_args().folder)
    except anchorsr.AnchorSRError as error:
        sys.exit(f"make_figures.py: {error}")
