"""Makes docs/comparison.png: crops of pictures reduced by three and enlarged again.

    python docs/make_comparison.py ../shared/data/train/gb82

Rows are pictures, columns bicubic (Pillow), anchorsr and the original.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import anchorsr
from anchorsr.images import read_rgb
from anchorsr.metrics import psnr
from anchorsr.resize import crop_to_multiple, downscale

FACTOR = 3
SIDE, ZOOM, GAP, HEADER = 96, 3, 6, 22
# Picture, and the upper left corner (row, column) of the crop in it.
CROPS = [("flowers-lossless.jpg", 200, 210), ("night-lossless.jpg", 325, 345)]


def main(folder: Path) -> None:
    cell = SIDE * ZOOM
    width = 3 * cell + 2 * GAP
    sheet = Image.new("RGB", (width, len(CROPS) * (cell + HEADER + GAP) - GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, top, left) in enumerate(CROPS):
        original = crop_to_multiple(read_rgb(folder / name), FACTOR)
        reduced = downscale(original, FACTOR)
        size = (original.shape[1], original.shape[0])
        bicubic = np.asarray(Image.fromarray(reduced).resize(size, Image.Resampling.BICUBIC))
        ours = anchorsr.upscale(reduced, factor=FACTOR)
        columns = [("bicubic", bicubic), ("anchorsr", ours), ("original", original)]
        for column, (title, picture) in enumerate(columns):
            x, y = column * (cell + GAP), row * (cell + HEADER + GAP)
            if picture is not original:
                title += f", {psnr(picture, original, border=FACTOR):.2f} dB"
            draw.text((x + 4, y + 4), title, fill="black", font_size=13)
            crop = Image.fromarray(np.ascontiguousarray(picture[top:, left:][:SIDE, :SIDE]))
            sheet.paste(crop.resize((cell, cell), Image.Resampling.NEAREST), (x, y + HEADER))
    sheet.save(Path(__file__).with_name("comparison.png"), optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
