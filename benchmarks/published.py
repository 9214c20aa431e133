"""Print the tables of docs/published.md: the shipped models beside published networks.

    python benchmarks/published.py ../shared/data/test

The folder holds Set5, Set14 and BSD100, each with HR/ and LR_bicubic/X2, X3 and X4. The first table
is the protocol of Qualcomm AI Hub's super-resolution models, the others are the usual one. Figures
of others are quoted from their source; only ours are measured here.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

import anchorsr
from anchorsr.metrics import luma, psnr
from anchorsr.models.registry import list_models, model_path, read_model

SETS = ("Set5", "Set14", "BSD100")
# AI Hub's models take 128x128 pixels; its test set is the 100 test images of BSDS300, which are
# those of BSD100.
SQUARE, AI_HUB_FACTOR = 128, 3


@dataclass(frozen=True)
class Published:
    """A published figure.

    Attributes:
        name: The network.
        macs: Multiply-accumulates per LR pixel, in thousands; None if it is not stated.
        arithmetic: INT8 or float.
        psnr: Luma PSNR in dB, one for each test set, with the digits of its source.
    """

    name: str
    macs: float | None
    arithmetic: str
    psnr: tuple[str, ...]


# As shown by Qualcomm AI Hub for w8a8.
AI_HUB = (
    Published("QuickSRNet-Small", None, "INT8", ("28.6",)),
    Published("QuickSRNet-Medium", None, "INT8", ("29.4",)),
    Published("QuickSRNet-Large", None, "INT8", ("29.6",)),
    Published("XLSR", None, "INT8", ("29.3",)),
    Published("SESR-M5", None, "INT8", ("29.3",)),
)
# Float: ETDS (CVPR 2023, tables 2 to 4), which retrained all of them alike. INT8: measured here
# from the files that the authors published.
USUAL = {
    2: (
        Published("ABPN", 33.5, "float", ("37.36", "32.96", "31.75")),
        Published("ETDS-M", 60, "float", ("37.54", "33.09", "31.86")),
    ),
    3: (
        Published("ECBSR-M4C16", 13.6, "float", ("33.07", "29.53", "28.57")),
        Published("ETDS-T", 16.8, "float", ("33.14", "29.53", "28.54")),
        Published("ABPN", 42.4, "float", ("33.53", "29.78", "28.72")),
        Published("ABPN, its authors' file", 42.4, "INT8", ("33.473", "29.745", "28.681")),
        Published("ECBSR-M4C32", 45.6, "float", ("33.56", "29.78", "28.73")),
        Published("ETDS-S", 46.4, "float", ("33.49", "29.76", "28.71")),
        Published("NCNet, its authors' file", 52, "INT8", ("33.559", "29.777", "28.718")),
        Published("ETDS-M", 65.1, "float", ("33.65", "29.86", "28.78")),
        Published("AIO_MAI, its authors' file", 82, "INT8", ("33.391", "29.717", "28.655")),
        Published("ABPN-M6C40", 103.7, "float", ("33.71", "29.92", "28.85")),
        Published("ETDS-L", 159.3, "float", ("33.88", "30.00", "28.90")),
    ),
    4: (Published("ABPN", 62.1, "float", ("31.32", "28.10", "27.23")),),
}


def plain_models(factor: int) -> list[str]:
    """Return the shipped models for clean images at a factor."""
    every = [model for model in list_models() if model.factor == factor]
    return [model.name for model in every if model.name != "photo"]


def macs(model: str, factor: int) -> float:
    return read_model(model_path(model, factor))[1].macs_per_pixel / 1000


def score_ai_hub(model: str, folder: Path) -> float:
    """Return the mean luma PSNR by AI Hub's protocol.

    Each HR image is resized to a square, whatever its shape, and that to LR, both by Pillow's
    default. No border is cut off.
    """
    upscaler = anchorsr.Upscaler(model, factor=AI_HUB_FACTOR)
    side = SQUARE * AI_HUB_FACTOR
    values = []
    for path in sorted(folder.iterdir()):
        with Image.open(path) as image:
            hr = image.convert("RGB").resize((side, side))
        made = upscaler(np.asarray(hr.resize((SQUARE, SQUARE))))
        values.append(psnr(luma(made), luma(np.asarray(hr)), border=0))
    return float(np.mean(values))


def print_table(sets: Sequence[str], rows: Sequence[Published]) -> None:
    """Print rows by multiplications; ours are in bold."""
    print(f"| network | multiplications (K) | arithmetic | {' | '.join(sets)} |")
    print("|---|---|---|" + "---|" * len(sets))
    for row in sorted(rows, key=lambda row: row.macs or 0):
        work = "not stated" if row.macs is None else f"{row.macs:.1f}"
        print(f"| {row.name} | {work} | {row.arithmetic} | {' | '.join(row.psnr)} |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder of the test sets")
    folder = parser.parse_args().folder
    print("## AI Hub's protocol, x3\n")
    hub = folder / SETS[-1] / "HR"
    rows = [
        Published(
            f"**{name}**", macs(name, AI_HUB_FACTOR), "INT8", (f"{score_ai_hub(name, hub):.2f}",)
        )
        for name in plain_models(AI_HUB_FACTOR)
    ]
    print_table(["BSD300 test"], [*AI_HUB, *rows])
    for factor, published in USUAL.items():
        print(f"## x{factor}\n")
        rows = []
        for name in plain_models(factor):
            scores = [anchorsr.evaluate(name, folder / each, factor=factor) for each in SETS]
            figures = tuple(f"{score.psnr_y:.3f}" for score in scores)
            rows.append(Published(f"**{name}**", macs(name, factor), "INT8", figures))
        print_table(SETS, [*published, *rows])


if __name__ == "__main__":
    main()
