"""Make docs/fast.webp, docs/abpn.webp and docs/quality.webp: crops of photographs upscaled ×3.

    python docs/make_figures.py FOLDER

Photographs are reduced by three and upscaled again. Rows are crops; columns are bicubic (Pillow),
the model and the original, with the PSNR within the crop. Each pixel is shown as 2×2 pixels. FOLDER
holds the photographs named below, from CLIC 2025 (Unsplash licence); no model was trained on them.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import anchorsr
from anchorsr.data.imresize import crop_to_multiple, downscale
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


def main(folder: Path) -> None:
    for model, crops in CROPS.items():
        rows = [columns(model, folder / name, top, left) for name, top, left in crops]
        sheet(rows).save(Path(__file__).with_name(f"{model}.webp"), lossless=True, method=6)


def columns(model: str, path: Path, top: int, left: int) -> list[tuple[str, Image.Image]]:
    """Return the titles and crops of one row."""
    original = crop_to_multiple(read_rgb(path), FACTOR)
    reduced = downscale(original, FACTOR)
    size = (original.shape[1], original.shape[0])
    bicubic = np.asarray(Image.fromarray(reduced).resize(size, Image.Resampling.BICUBIC))
    larger = anchorsr.upscale(reduced, factor=FACTOR, model=model, engine="litert")
    place = np.s_[top : top + HEIGHT, left : left + WIDTH]
    row = []
    for title, image in (("bicubic", bicubic), (model, larger), ("original", original)):
        if image is not original:
            title += f"  {psnr(image[place], original[place], border=0):.1f} dB"
        row.append((title, Image.fromarray(np.ascontiguousarray(image[place]))))
    return row


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
